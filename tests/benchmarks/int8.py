"""int8 beside fp32 on the CPU: `python tests/benchmarks/int8.py --help`.

Sweeps as `effvit profile` runs them. Latency is that of models with random weights at sizes that are worth quantising;
accuracy, through the runtime, that of small models that are trained on the digits first, a minute or two a variant, or
of the runs that --runs names.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from command import kept, run_command
from results import markdown_of, read_report, write_report
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from untrained_runs import make_run

from effvit.accuracy import Accuracy, top1
from effvit.cli.options import names_from_text, resolutions_from_text
from effvit.cli.output import progress_bars, say
from effvit.cli.sweeping import SweepDisplay
from effvit.data.base import load_data
from effvit.environment import Environment, capture_environment, usable_cores
from effvit.finetune import Finetuning, finetune
from effvit.mix import parse_mix
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Plan
from effvit.profiling.records import Evidence, Outcome
from effvit.profiling.report import quantities
from effvit.profiling.report.rows import Row, make_rows
from effvit.profiling.stats import Estimate
from effvit.profiling.sweep import run_sweep
from effvit.run import RECORD, Run, find_runs, newest_run, open_run
from effvit.spec import Precision
from effvit.surgery import attention_variants, pick_variant

SCHEMA = "effvit.int8-benchmark/1"
PRECISIONS = (Precision.FP32, Precision.INT8)
TIMED_PX, TRAINED_PX = 224, 64
WIDTH_WITHOUT_TERMINAL = 160


@dataclass(frozen=True, slots=True)
class Result:
    """One model with one attention through one runtime at one resolution, in fp32 and in int8.

    `latency_s` are medians; `speedup` is fp32 over int8, not paired by rounds: its interval divides the ends of both.
    `top1` are shares of the same `images`, `agreement` the share of the verifying images that int8 puts into the class
    that PyTorch does. All of these are (fp32, int8), None where the weights are random or a cell was not measured.
    """

    backbone: str
    attention: str
    backend: str
    px: int
    statuses: tuple[str, str]
    reasons: tuple[str, str]
    latency_s: tuple[Estimate | None, Estimate | None]
    speedup: Estimate | None
    size_bytes: tuple[int | None, int | None]
    images: int
    top1: tuple[float | None, float | None]
    agreement: float | None


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
    parser = argparse.ArgumentParser(
        description="Time int8 beside fp32 on the CPU, and count what it classifies right."
    )
    parser.add_argument("--models", default="vit_tiny_patch16_224,vit_small_patch16_224", help="timm models to time")
    parser.add_argument("--attn", default=",".join(attention_variants()), help="variants")
    parser.add_argument("--backend", default="ort-cpu,openvino", help="runtimes")
    parser.add_argument("--res", default="224,384", help="sides of square images in px")
    parser.add_argument("--runs", type=Path, help="count on the newest run of each variant here [default: train some]")
    parser.add_argument("--epochs", type=int, default=15, help="epochs of the models that are trained here")
    parser.add_argument("--rounds", type=int, default=10, help="rounds a cell, at least")
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
        _show(read_report(arguments.show, Report).results, markdown=arguments.markdown)
        return
    attentions = names_from_text(arguments.attn)
    for name in attentions:
        pick_variant(name)
    effort = _effort(arguments)
    with kept(arguments.folder) as folder:
        outcomes = []
        for model in names_from_text(arguments.models):
            runs = [_untrained(folder / "random", model, name) for name in attentions]
            outcomes += _sweep(runs, arguments, _timing(effort), folder / "results.jsonl")
        trained = [_trained(arguments, folder / "trained", name) for name in attentions]
        counted = _sweep(trained, arguments, effort, folder / "results.jsonl")
    results = [*_results(outcomes, counted=False), *_results(counted, counted=True)]
    _show(results, markdown=arguments.markdown)
    if arguments.out is not None:
        report = Report(
            command=shlex.join(["python", *sys.argv]),
            environment=capture_environment(effort.threads),
            effort=effort,
            results=tuple(results),
            outcomes=(*outcomes, *counted),
        )
        write_report(arguments.out, report)


def _effort(arguments: argparse.Namespace) -> Effort:
    """Return how long to measure; accuracy is counted on all held-out images."""
    return Effort(
        threads=arguments.threads,
        rounds=arguments.rounds,
        samples=3 * arguments.rounds,
        least_s=arguments.seconds_per_cell,
        most_s=max(20 * arguments.seconds_per_cell, 1.0),
        timeout_s=3600.0,
        eval_images=0,
        verify_images=256,
    )


def _timing(effort: Effort) -> Effort:
    """Return the effort for random weights, whose accuracy says nothing."""
    return replace(effort, eval_images=1, verify_images=1)


def _untrained(folder: Path, model: str, attention: str) -> Run:
    name = f"{model}-{attention}"
    if (folder / name / RECORD).is_file():
        return open_run(folder / name)
    return make_run(folder, attention, name=name, backbone=model, px=TIMED_PX)


def _trained(arguments: argparse.Namespace, folder: Path, attention: str) -> Run:
    """Return the newest run of a variant, trained here where none is named."""
    if arguments.runs is not None:
        return newest_run(arguments.runs, attention)
    for run in find_runs(folder):
        if run.record.spec.attention == attention and run.record.status == "done":
            return run
    say(f"training {attention} on the digits")
    request = Finetuning(
        parse_mix(attention),
        model="test_vit",
        weights="none",
        resolution=(TRAINED_PX, TRAINED_PX),
        recipe={"epochs": arguments.epochs},
        threads=arguments.threads,
        workers=0,
    )
    return finetune(request, load_data("digits"), out=folder)


def _sweep(runs: Sequence[Run], arguments: argparse.Namespace, effort: Effort, path: Path) -> list[Outcome]:
    """Measure the runs beside each other, in one precision after the other."""
    plan = Plan(
        tuple(runs),
        tuple(resolutions_from_text(arguments.res)),
        (1,),
        PRECISIONS,
        tuple(names_from_text(arguments.backend)),
    )
    plan.check()
    with progress_bars() as progress, PixelStore() as pixels:
        shown = SweepDisplay(progress)
        outcomes = run_sweep(plan, effort, path, pixels, shown)
        shown.close()
    return outcomes


def _results(outcomes: Sequence[Outcome], *, counted: bool) -> Iterator[Result]:
    """Yield the cells in pairs; `counted` says whether their accuracy means something."""
    rows = {row.outcome.cell: row for row in make_rows(outcomes)}
    for cell, row in rows.items():
        if cell.precision is Precision.FP32:
            yield _result(row, rows[replace(cell, precision=Precision.INT8)], counted=counted)


def _result(exact: Row, small: Row, *, counted: bool) -> Result:
    cell, both = exact.outcome.cell, (exact, small)
    evidences = [row.outcome.evidence for row in both]
    accuracies = [None if one is None or not counted else one.accuracy for one in evidences]
    parity = evidences[1].parity if counted and evidences[1] is not None else None
    return Result(
        backbone=cell.model.backbone,
        attention=cell.model.attention,
        backend=cell.backend,
        px=cell.workload.height,
        statuses=(exact.outcome.status, small.outcome.status),
        reasons=(exact.outcome.reason, small.outcome.reason),
        latency_s=(_latency(exact), _latency(small)),
        speedup=_ratio(_latency(exact), _latency(small)),
        size_bytes=(_size(evidences[0]), _size(evidences[1])),
        images=next((one.images for one in accuracies if one is not None), 0),
        top1=(_share(accuracies[0]), _share(accuracies[1])),
        agreement=None if parity is None else parity.agreement,
    )


def _latency(row: Row) -> Estimate | None:
    reading = row.reading("latency_s.p50")
    return None if reading.value is None else Estimate(reading.value, reading.low, reading.high)


def _ratio(above: Estimate | None, below: Estimate | None) -> Estimate | None:
    if above is None or below is None:
        return None
    if above.low is None or above.high is None or below.low is None or below.high is None:
        return Estimate(above.value / below.value)
    return Estimate(above.value / below.value, above.low / below.high, above.high / below.low)


def _size(evidence: Evidence | None) -> int | None:
    return None if evidence is None else evidence.artifact.size_bytes


def _share(accuracy: Accuracy | None) -> float | None:
    return None if accuracy is None else top1(accuracy)


def _show(results: Sequence[Result], *, markdown: bool) -> None:
    """Print one table a model and runtime to stderr, or as Markdown to stdout."""
    groups = dict.fromkeys((result.backbone, result.backend, result.px) for result in results)
    tables = [
        _table(f"{model}, {backend}, {px} px, batch 1", [one for one in results if _group(one) == (model, backend, px)])
        for model, backend, px in groups
    ]
    if markdown:
        print("\n".join(map(markdown_of, tables)))
        return
    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH_WITHOUT_TERMINAL
    for table in tables:
        console.print(table)
    for result in results:
        for precision, status, reason in zip(PRECISIONS, result.statuses, result.reasons, strict=True):
            if reason:
                cell = f"{result.backbone}, {result.attention}, {result.backend}, {result.px} px, {precision}"
                console.print(f"{status}: {cell}: {reason}")
    console.print("fp32 and int8 are measured one after the other, so a ratio is of medians that share no rounds")


def _group(result: Result) -> tuple[str, str, int]:
    return result.backbone, result.backend, result.px


def _table(title: str, results: Sequence[Result]) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("attention")
    for head in ("fp32", "int8", "speed-up", "top-1 fp32", "top-1 int8", "images", "same top-1"):
        table.add_column(head, justify="right")
    for one in results:
        table.add_row(
            one.attention,
            *(_seconds(latency) for latency in one.latency_s),
            quantities.ABSENT if one.speedup is None else f"{one.speedup.value:.2f}x",
            *(_percent(share) for share in one.top1),
            str(one.images or quantities.ABSENT),
            _percent(one.agreement),
        )
    return table


def _seconds(latency: Estimate | None) -> str:
    return quantities.ABSENT if latency is None else quantities.si(latency.value, "s", latency.low, latency.high)


def _percent(share: float | None) -> str:
    return quantities.ABSENT if share is None else f"{share:.1%}"


if __name__ == "__main__":
    run_command(_parser(), _run)
