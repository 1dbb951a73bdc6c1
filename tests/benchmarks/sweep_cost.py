"""What a sweep costs beside building and measuring: `python tests/benchmarks/sweep_cost.py --help`.

Five variants at three resolutions, as `effvit profile` measures them when it is told nothing else, but for accuracy:
these weights were never trained. And, where there is a Python that has it, a cell of optimum-benchmark for each
resolution, with its own defaults (`optimum_cell.py`).
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from command import run_command
from results import read_report, show_table, write_report
from rich.box import SIMPLE_HEAD
from rich.table import Table
from untrained_runs import make_run

from effvit.cli.options import names_from_text, resolutions_from_text
from effvit.cli.output import say
from effvit.environment import Environment, capture_environment, usable_cores
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Plan
from effvit.profiling.records import Outcome
from effvit.profiling.stats import half_width, median_interval
from effvit.profiling.sweep import run_sweep
from effvit.spec import Precision

SCHEMA = "effvit.sweep-cost-benchmark/1"
STUDIED = "softmax,atrous,linformer,nystromformer,performer"
# What a tool that knows no noise measures, however quiet the machine: optimum-benchmark's default.
FIXED_S = 10.0
OPTIMUM_CELL = Path(__file__).with_name("optimum_cell.py")
BUILDING = ("exporting", "verifying")
COUNTING = ("accuracy", "energy")


@dataclass(frozen=True, slots=True)
class Report:
    """What the JSON file holds.

    `stages` are the wall seconds from the announcement of each stage to the next, by the first word of it; `timed_s`
    those inside the clock and `warmup_s` those of warming up before, over all `turns`, as the workers tell.
    `half_widths` are those of the medians' intervals. `optimum_s` are the wall seconds of each cell of
    optimum-benchmark, without the start of its first process. `warmup_s` and `turns` are 0 in files that were written
    before they were counted.
    """

    command: str
    environment: Environment
    cells: int
    statuses: tuple[tuple[str, int], ...]
    wall_s: float
    stages: tuple[tuple[str, float], ...]
    timed_s: float
    half_widths: tuple[float, ...]
    optimum_s: tuple[float, ...] = ()
    warmup_s: float = 0.0
    turns: int = 0
    schema: str = SCHEMA

    def seconds(self, *stages: str) -> float:
        return math.fsum(seconds for stage, seconds in self.stages if stage in stages)

    @property
    def overhead_s(self) -> float:
        """Seconds a cell in which nothing was built, verified, launched, evaluated or metered: starts and loading."""
        return (self.wall_s - self.seconds(*BUILDING, *COUNTING) - self.timed_s - self.warmup_s) / self.cells


class StageClock:
    """Listens to a sweep and adds up what its stages take."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._stage, self._since = "starting", time.perf_counter()

    def planned(self, cells: int) -> None: ...

    def stage(self, text: str) -> None:
        now = time.perf_counter()
        self.seconds[self._stage] += now - self._since
        self._stage, self._since = text.split()[0], now

    def outcome(self, outcome: Outcome, measured_now: bool) -> None:
        self.stage("finishing")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Take the time of a sweep apart.")
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="timm model")
    parser.add_argument("--attn", default=STUDIED, help="variants")
    parser.add_argument("--res", default="224,384,512", help="sides of square images in px")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="CPU threads")
    parser.add_argument("--optimum", metavar="PYTHON", help="a Python with optimum-benchmark, to be held against")
    parser.add_argument("--out", type=Path, help="write everything to this JSON file")
    parser.add_argument("--show", type=Path, help="measure nothing: show this JSON file")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown to stdout")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    if arguments.show is not None:
        report = read_report(arguments.show, Report)
    else:
        report = _measured(arguments)
        if arguments.optimum is not None:
            report = replace(report, optimum_s=tuple(_optimum(arguments)))
        if arguments.out is not None:
            write_report(arguments.out, report)
    show_table(_table(report), markdown=arguments.markdown)


def _measured(arguments: argparse.Namespace) -> Report:
    clock = StageClock()
    resolutions = tuple(resolutions_from_text(arguments.res))
    with tempfile.TemporaryDirectory(prefix="effvit-") as name, PixelStore() as pixels:
        folder = Path(name)
        names = names_from_text(arguments.attn)
        runs = tuple(make_run(folder, one, backbone=arguments.model, px=resolutions[0][0]) for one in names)
        plan = Plan(runs, resolutions, (1,), (Precision.FP32,), ("ort-cpu",))
        clock.stage("starting")
        started = time.perf_counter()
        outcomes = run_sweep(
            plan, Effort(threads=arguments.threads, eval_images=1), folder / "results.jsonl", pixels, clock
        )
        wall_s = time.perf_counter() - started
        clock.stage("over")
    return _report(outcomes, wall_s, clock, arguments.threads)


def _optimum(arguments: argparse.Namespace) -> Iterator[float]:
    """Yield the wall seconds of one cell for each resolution: it swaps no attention."""
    for px, _ in resolutions_from_text(arguments.res):
        say(f"optimum-benchmark at {px} px")
        command = [arguments.optimum, str(OPTIMUM_CELL), str(px), str(arguments.threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        yield float(json.loads(done.stdout.splitlines()[-1])["wall_s"])


def _report(outcomes: Sequence[Outcome], wall_s: float, clock: StageClock, threads: int) -> Report:
    evidence = [outcome.evidence for outcome in outcomes if outcome.evidence is not None]
    statuses = [outcome.status for outcome in outcomes]
    turns = [turn for one in evidence for turn in one.turns]
    widths = [half_width(median_interval(one.samples)) for one in evidence]
    return Report(
        command=shlex.join(["python", *sys.argv]),
        environment=capture_environment(threads),
        cells=len(outcomes),
        statuses=tuple((status, statuses.count(status)) for status in sorted(set(statuses))),
        wall_s=wall_s,
        stages=tuple(sorted(clock.seconds.items())),
        timed_s=math.fsum(turn.conditions.wall_s for turn in turns),
        warmup_s=math.fsum(turn.warmup_s or 0 for turn in turns),
        turns=len(turns),
        half_widths=tuple(width for width in widths if width is not None),
    )


def _table(report: Report) -> Table:
    machine = report.environment
    title = f"{report.cells} cells, ort-cpu, {machine.cpu}, {machine.threads} threads"
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("what")
    table.add_column("seconds", justify="right")
    table.add_column("seconds a cell", justify="right")
    rows = [
        ("exporting and verifying", report.seconds(*BUILDING)),
        ("rounds", report.seconds("round")),
        ("of these inside the clock", report.timed_s),
        *([(f"of these warming up, for {report.turns} turns", report.warmup_s)] if report.turns else []),
        ("accuracy", report.seconds("accuracy")),
        ("energy", report.seconds("energy")),
        ("opening", report.seconds("opening")),
        ("memory, in processes of its own", report.seconds("memory")),
        ("neither building, nor launching, nor accuracy", report.overhead_s * report.cells),
        ("everything", report.wall_s),
        ("everything but exporting and verifying", report.wall_s - report.seconds(*BUILDING)),
        (f"a fixed {FIXED_S:g} s a cell", FIXED_S * report.cells),
    ]
    if report.optimum_s:
        mean_s = math.fsum(report.optimum_s) / len(report.optimum_s)
        rows.append(("optimum-benchmark, as many cells", mean_s * report.cells))
    for name, seconds in rows:
        table.add_row(name, f"{seconds:.1f}", f"{seconds / report.cells:.2f}")
    widths = sorted(report.half_widths)
    if widths:
        middle = f"±{100 * widths[len(widths) // 2]:.1f} %, worst ±{100 * widths[-1]:.1f} %"
        table.add_row("interval of the median: middle", middle, "")
    table.add_row("outcomes", ", ".join(f"{count} {status}" for status, count in report.statuses), "")
    return table


if __name__ == "__main__":
    run_command(_parser(), _run)
