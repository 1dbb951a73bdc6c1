"""Whole models in ONNX Runtime on the CPU: `python tests/benchmarks/end_to_end.py --help`.

A sweep as `effvit profile` runs it (each artifact verified, each in a process of its own, interleaved rounds), over
models with random weights at sizes nobody would train for a benchmark. Time does not depend on what the weights are.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from command import kept, run_command
from results import markdown_of, read_report, write_report
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from untrained_runs import make_run

from effvit.cli.options import names_from_text, resolutions_from_text
from effvit.cli.output import progress_bars
from effvit.cli.sweeping import SweepDisplay
from effvit.environment import Environment, capture_environment, usable_cores
from effvit.errors import UsageError
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Plan
from effvit.profiling.records import Outcome
from effvit.profiling.report import display
from effvit.profiling.report.rows import Row, make_rows
from effvit.profiling.stats import Estimate
from effvit.profiling.sweep import run_sweep
from effvit.run import RECORD, Run, open_run
from effvit.spec import BASELINE, Precision
from effvit.surgery import attention_variants, pick_variant

SCHEMA = "effvit.end-to-end-benchmark/1"
BACKEND = "ort-cpu"
TRAINED_PX = 224
WIDTH_WITHOUT_TERMINAL = 160
# Every model gets the same rounds: what is compared are speed-ups, and the seconds that they take are chosen.
MAX_NOISE = 100.0
COLUMNS = ("attention", "px", "tokens", "latency p50", f"vs. {BASELINE}", "MACs ratio", "ceiling", "peak memory")


@dataclass(frozen=True, slots=True)
class Result:
    """One model with one attention at one resolution.

    `speedup` is the latency of softmax over this one, paired by rounds. `macs_ratio` is what the MACs promise for it,
    `ceiling` what it would be if mixing tokens cost nothing.
    """

    backbone: str
    attention: str
    px: int
    tokens: int | None
    status: str
    reason: str
    latency_s: Estimate | None
    speedup: Estimate | None
    macs_ratio: float | None
    ceiling: float | None
    peak_bytes: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """What the JSON file holds; `outcomes` are the raw samples."""

    command: str
    environment: Environment
    effort: Effort
    results: tuple[Result, ...]
    outcomes: tuple[Outcome, ...]
    schema: str = SCHEMA


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Time whole models in ONNX Runtime on the CPU, batch 1.")
    parser.add_argument("--models", default="vit_tiny_patch16_224,vit_small_patch16_224", help="timm models")
    parser.add_argument("--attn", default=",".join(attention_variants()), help="variants; softmax is the baseline")
    parser.add_argument("--res", default="224,384,512,1024", help="sides of square images in px")
    parser.add_argument("--rounds", type=int, default=10, help="interleaved rounds")
    parser.add_argument("--seconds-per-cell", type=float, default=5.0, help="timed seconds a cell, at least")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="CPU threads")
    parser.add_argument(
        "--folder", type=Path, help="keep models and samples here; started again, it goes on from there"
    )
    parser.add_argument("--out", type=Path, help="write everything to this JSON file")
    parser.add_argument("--show", type=Path, help="measure nothing: show this JSON file")
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown to stdout")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    if arguments.show is not None:
        _show(make_rows(read_report(arguments.show, Report).outcomes), markdown=arguments.markdown)
        return
    effort = _effort(arguments)
    resolutions = tuple(resolutions_from_text(arguments.res))
    attentions = names_from_text(arguments.attn)
    for name in attentions:
        pick_variant(name)
    if BASELINE not in attentions:
        raise UsageError(f"--attn {arguments.attn} lacks {BASELINE}", f"add {BASELINE}: all ratios are to it")
    with kept(arguments.folder) as folder:
        runs = [_run_of(folder, model, name) for model in names_from_text(arguments.models) for name in attentions]
        outcomes = _sweep(runs, resolutions, effort, folder / "results.jsonl")
    rows = make_rows(outcomes)
    _show(rows, markdown=arguments.markdown)
    if arguments.out is not None:
        report = Report(
            command=shlex.join(["python", *sys.argv]),
            environment=capture_environment(effort.threads),
            effort=effort,
            results=tuple(_result(row) for row in rows),
            outcomes=tuple(outcomes),
        )
        write_report(arguments.out, report)


def _effort(arguments: argparse.Namespace) -> Effort:
    """Return how long to measure.

    One image is verified and evaluated: accuracy of random weights says nothing, and a whole batch of the largest
    images would need more memory than the launch that is timed.
    """
    return Effort(
        threads=arguments.threads,
        rounds=arguments.rounds,
        samples=3 * arguments.rounds,
        least_s=arguments.seconds_per_cell,
        most_s=max(20 * arguments.seconds_per_cell, 1.0),
        timeout_s=3600.0,
        eval_images=1,
        verify_images=1,
        max_noise=MAX_NOISE,
    )


def _run_of(folder: Path, model: str, attention: str) -> Run:
    name = f"{model}-{attention}"
    if (folder / name / RECORD).is_file():
        return open_run(folder / name)
    return make_run(folder, attention, name=name, backbone=model, px=TRAINED_PX)


def _sweep(runs: Sequence[Run], resolutions: tuple[tuple[int, int], ...], effort: Effort, path: Path) -> list[Outcome]:
    """Measure the runs of each model beside each other."""
    outcomes = []
    with progress_bars() as progress, PixelStore() as pixels:
        shown = SweepDisplay(progress)
        for model in dict.fromkeys(run.record.spec.backbone for run in runs):
            alike = tuple(run for run in runs if run.record.spec.backbone == model)
            plan = Plan(alike, resolutions, (1,), (Precision.FP32,), (BACKEND,))
            outcomes += run_sweep(plan, effort, path, pixels, shown)
        shown.close()
    return outcomes


def _result(row: Row) -> Result:
    latency = row.reading("latency_s.p50")
    return Result(
        backbone=row.outcome.cell.model.backbone,
        attention=row.outcome.cell.model.attention,
        px=row.workload.height,
        tokens=row.tokens,
        status=row.outcome.status,
        reason=row.outcome.reason,
        latency_s=None if latency.value is None else Estimate(latency.value, latency.low, latency.high),
        speedup=row.speedup,
        macs_ratio=row.macs_ratio,
        ceiling=row.ceiling,
        peak_bytes=row.reading("memory.host_peak_bytes").value,
    )


def _show(rows: Sequence[Row], *, markdown: bool) -> None:
    """Print one table a model to stderr, or as Markdown to stdout."""
    models = dict.fromkeys(row.outcome.cell.model.backbone for row in rows)
    tables = [_table(model, [row for row in rows if row.outcome.cell.model.backbone == model]) for model in models]
    if markdown:
        print("\n".join(map(markdown_of, tables)))
        return
    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH_WITHOUT_TERMINAL
    for table in tables:
        console.print(table)
    for row in rows:
        if row.outcome.evidence is None:
            console.print(f"not measured: {row.label} {row.workload.resolution} px: {display.status(row)}")
    console.print("± half the width of the 95 % interval; MACs ratio: what the MACs promise")
    console.print(display.CEILING)


def _table(model: str, rows: Sequence[Row]) -> Table:
    machine = rows[0].outcome.environment
    title = f"{model}, fp32, {BACKEND}, batch 1, {machine.cpu}, {machine.threads} threads"
    table = Table(title=title, box=SIMPLE_HEAD)
    shown = display.columns(*COLUMNS)
    for column in shown:
        table.add_column(column.title, justify="right" if column.numeric else "left")
    for row in rows:
        table.add_row(*(column.text(row) for column in shown))
    return table


if __name__ == "__main__":
    run_command(_parser(), _run)
