"""Whether the agent measures what a sweep does: `python tests/benchmarks/agent_agreement.py --help`.

The same cells in pairs of sittings, one by `run_sweep` in this Python and one by the agent's file, in random order.
"""

from __future__ import annotations

import argparse
import math
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from command import run_command
from results import read_report, show_table, write_report
from rich.box import SIMPLE_HEAD
from rich.table import Table
from untrained_runs import make_run

from effvit.cli.options import names_from_text
from effvit.cli.output import say
from effvit.environment import Environment, capture_environment
from effvit.errors import CheckFailedError, UsageError
from effvit.profiling.agent.archive import build
from effvit.profiling.agent.packing import Packing, write_kit
from effvit.profiling.devices import Device
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Plan
from effvit.profiling.records import Outcome
from effvit.profiling.results import read
from effvit.profiling.stats import Estimate, median_s, t_quantile
from effvit.profiling.sweep import run_sweep
from effvit.spec import Precision

SCHEMA = "effvit.agent-agreement-benchmark/1"
LIMIT = 0.03


@dataclass(frozen=True, slots=True)
class Agreement:
    """One cell: medians in seconds, sitting by sitting, and the agent's over the sweep's with its 95 % interval."""

    attention: str
    batch: int
    sweep_s: tuple[float, ...]
    agent_s: tuple[float, ...]
    ratio: Estimate


@dataclass(frozen=True, slots=True)
class Report:
    """All cells, on one machine."""

    environment: Environment
    backbone: str
    px: int
    threads: int
    cells: tuple[Agreement, ...]
    schema: str = SCHEMA


class _Silent:
    def planned(self, cells: int) -> None: ...
    def stage(self, text: str) -> None: ...
    def outcome(self, outcome: Outcome, measured_now: bool) -> None: ...


def benchmark(arguments: argparse.Namespace) -> Report:
    """Measure all pairs of sittings.

    Raises:
        CheckFailedError: The agent failed.
    """
    with tempfile.TemporaryDirectory(prefix="effvit-") as temporary, PixelStore() as pixels:
        folder = Path(temporary)
        runs = tuple(
            make_run(folder / "runs", attention, backbone=arguments.backbone, px=arguments.px)
            for attention in names_from_text(arguments.attn)
        )
        device = Device(threads=arguments.threads)
        size = (arguments.px, arguments.px)
        plan = Plan(runs, (size,), (1, 8), (Precision.FP32,), ("ort-cpu",), (device,))
        effort = Effort(threads=arguments.threads, eval_images=64, most_s=arguments.seconds)
        write_kit(Packing(plan, effort, pixels, say), folder / "kit")
        agent = build(folder / "agent.pyz")

        def by_sweep(results: Path) -> list[Outcome]:
            return run_sweep(plan, effort, results, pixels, _Silent())

        def by_agent(results: Path) -> list[Outcome]:
            ended = subprocess.run(
                [sys.executable, str(agent), "run", str(folder / "kit"), "--out", str(results)],
                capture_output=True,
                text=True,
                check=False,
                cwd="/",
            )
            if ended.returncode:
                raise CheckFailedError(ended.stderr.strip(), "see what the agent lacks")
            return read(results)

        sittings = _sittings(arguments.pairs, by_sweep, by_agent, folder)
    cells = _agreements(sittings)
    return Report(capture_environment(arguments.threads), arguments.backbone, arguments.px, arguments.threads, cells)


def _sittings(
    pairs: int,
    by_sweep: Callable[[Path], list[Outcome]],
    by_agent: Callable[[Path], list[Outcome]],
    folder: Path,
) -> list[tuple[list[Outcome], list[Outcome]]]:
    found = []
    for number in range(pairs):
        taken: dict[str, list[Outcome]] = {}
        ways = [("sweep", by_sweep), ("agent", by_agent)]
        for name, measure in random.sample(ways, 2):
            say(f"pair {number + 1} of {pairs}: {name}")
            taken[name] = measure(folder / f"{number}-{name}.jsonl")
        found.append((taken["sweep"], taken["agent"]))
    return found


def _agreements(sittings: Sequence[tuple[list[Outcome], list[Outcome]]]) -> tuple[Agreement, ...]:
    cells = []
    for place, first in enumerate(sittings[0][0]):
        ours, theirs = (tuple(_median_s(sitting[side][place]) for sitting in sittings) for side in range(2))
        logs = [math.log(other / one) for one, other in zip(ours, theirs, strict=True)]
        mean, ratio = float(np.mean(logs)), Estimate(math.exp(float(np.mean(logs))))
        if len(logs) > 1:
            half = t_quantile(len(logs) - 1) * float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
            ratio = Estimate(ratio.value, math.exp(mean - half), math.exp(mean + half))
        cells.append(Agreement(first.cell.model.attention, first.cell.workload.batch, ours, theirs, ratio))
    return tuple(cells)


def _median_s(outcome: Outcome) -> float:
    if outcome.evidence is None:
        raise CheckFailedError(f"a cell was not measured: {outcome.reason}", "see what the runtime lacks")
    return median_s(outcome.evidence.samples)


def table_of(report: Report) -> Table:
    """Return the report as a table."""
    table = Table(box=SIMPLE_HEAD, title=f"{report.backbone}, {report.px} px, {report.environment.cpu}")
    for name in ("attention", "batch", "sweep", "agent", "agent / sweep", "95 % interval"):
        table.add_column(name, justify="left" if name == "attention" else "right")
    for cell in report.cells:
        low, high = cell.ratio.low, cell.ratio.high
        interval = "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"
        medians = (float(np.median(times)) for times in (cell.sweep_s, cell.agent_s))
        shown = (f"{1e3 * one:.2f} ms" for one in medians)
        table.add_row(cell.attention, str(cell.batch), *shown, f"{cell.ratio.value:.3f}", interval)
    return table


def _run(arguments: argparse.Namespace) -> None:
    """Measure, or show an earlier result.

    Raises:
        CheckFailedError: A cell's ratio lies further from 1 than the limit.
    """
    if arguments.pairs < 1:
        raise UsageError("there is at least one pair", "choose --pairs 5")
    report = read_report(arguments.show, Report) if arguments.show else benchmark(arguments)
    if arguments.out:
        write_report(arguments.out, report)
    show_table(table_of(report), markdown=arguments.show is not None)
    apart = [cell for cell in report.cells if abs(cell.ratio.value - 1) > LIMIT]
    if apart:
        raise CheckFailedError(
            f"{len(apart)} of {len(report.cells)} cells differ by more than {LIMIT:.0%}", "measure on a quiet machine"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--attn", default="softmax,linformer", help="mechanisms that are measured beside one another")
    parser.add_argument("--px", type=int, default=224)
    parser.add_argument("--pairs", type=int, default=5, help="sittings of each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="of rounds a cell and sitting, at most")
    parser.add_argument("--out", type=Path, help="result file")
    parser.add_argument("--show", type=Path, help="show this result file as Markdown instead of measuring")
    return parser


if __name__ == "__main__":
    run_command(_parser(), _run)
