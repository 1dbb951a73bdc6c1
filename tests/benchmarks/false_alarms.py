"""How often effvit declares a difference that is not there, or misses one that is: `false_alarms.py --help`.

Pairs of artifacts are measured as a sweep measures them. A pair is one artifact under two names, or two models of which
one is about a tenth faster; the machine is quiet, or a process beside the measurement burns a core on and off.
"""

from __future__ import annotations

import argparse
import random
import shlex
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from command import run_command
from results import read_report, show_table, write_report
from rich.box import SIMPLE_HEAD
from rich.table import Table
from untrained_runs import make_run

from effvit.cli.output import progress_bars, say
from effvit.environment import Environment, capture_environment, usable_cores
from effvit.export.base import Artifact, pick_backend
from effvit.profiling.bench import Bench
from effvit.profiling.measure import Measured, measure_group
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Group
from effvit.profiling.preparation import Preparation, Refusal
from effvit.profiling.stats import Estimate, proportion, speedup
from effvit.spec import BASELINE, Precision, Workload

SCHEMA = "effvit.false-alarm-benchmark/1"
BACKBONE = "vit_tiny_patch16_224"
WORKLOAD = Workload(1, 224, 224)
# Half the blocks: about a tenth of the time at this resolution.
FASTER = "0-5:linformer"
LONGEST_S = 4.0
HOG = "while True: pass"

Verdict = Literal["same", "faster", "slower", "unstable", "not measured"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One pair measured once: the time of the first over that of the second, and what that says of the second."""

    ratio: Estimate | None
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """One kind of pair under one condition; `truth` is what should be declared."""

    pair: str
    loaded: bool
    truth: Verdict
    trials: tuple[Trial, ...]

    def count(self, *verdicts: Verdict) -> int:
        return sum(trial.verdict in verdicts for trial in self.trials)

    @property
    def wrong(self) -> int:
        """How many trials declare a difference that is not there, or the opposite of the one that is."""
        return self.count(*({"faster", "slower"} - {self.truth}))  # type: ignore[arg-type]  # mypy widens the difference


@dataclass(frozen=True, slots=True)
class Report:
    """What the JSON file holds."""

    command: str
    environment: Environment
    effort: Effort
    series: tuple[Series, ...]
    schema: str = SCHEMA


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Count false and missed differences between measured pairs.")
    parser.add_argument("--quiet-same", type=int, default=40, help="pairs of one artifact on the quiet machine")
    parser.add_argument("--quiet-different", type=int, default=10, help="pairs of two models on the quiet machine")
    parser.add_argument("--loaded-same", type=int, default=20, help="pairs of one artifact beside a burning process")
    parser.add_argument("--loaded-different", type=int, default=20, help="pairs of two models beside it")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="CPU threads")
    parser.add_argument("--seed", type=int, default=0, help="for when the process burns")
    parser.add_argument("--out", type=Path, help="write everything to this JSON file")
    parser.add_argument("--show", type=Path, help="measure nothing: show this JSON file")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown to stdout")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    if arguments.show is not None:
        report = read_report(arguments.show, Report)
    else:
        report = _measured(arguments)
        if arguments.out is not None:
            write_report(arguments.out, report)
    show_table(_table(report), markdown=arguments.markdown)


def _measured(arguments: argparse.Namespace) -> Report:
    # Nothing is evaluated and one image verified: these weights were never trained.
    effort = Effort(threads=arguments.threads, eval_images=1, verify_images=1)
    wanted: list[tuple[str, bool, Verdict, int]] = [
        ("same", False, "same", arguments.quiet_same),
        ("different", False, "faster", arguments.quiet_different),
        ("same", True, "same", arguments.loaded_same),
        ("different", True, "faster", arguments.loaded_different),
    ]
    with tempfile.TemporaryDirectory(prefix="effvit-") as folder, PixelStore() as pixels, progress_bars() as progress:
        bar = progress.add_task("measuring pairs", total=sum(count for *_, count in wanted), detail="")
        pairs = _Pairs(Path(folder), effort, pixels)
        series = []
        for pair, loaded, truth, count in wanted:
            trials = []
            with _burning(arguments.seed, loaded):
                for _ in range(count):
                    trials.append(pairs.measure(pair))
                    say(f"{pair}, {'loaded' if loaded else 'quiet'}: {trials[-1].verdict}")
                    progress.advance(bar)
            series.append(Series(pair, loaded, truth, tuple(trials)))
    command = shlex.join(["python", *sys.argv])
    return Report(command, capture_environment(effort.threads), effort, tuple(series))


class _Pairs:
    """The pairs; their artifacts are made and verified once."""

    def __init__(self, folder: Path, effort: Effort, pixels: PixelStore) -> None:
        self._group = Group(pick_backend("ort-cpu"), Precision.FP32, WORKLOAD)
        self._bench = Bench(effort, pixels, Preparation(effort, pixels, say), {}, stage=lambda _: None, fresh=True)
        slow, fast = (make_run(folder, name, backbone=BACKBONE, px=WORKLOAD.height) for name in (BASELINE, FASTER))
        self._pairs = {"same": (slow, slow), "different": (slow, fast)}

    def measure(self, pair: str) -> Trial:
        """Measure a pair once, as cells of one group."""
        artifacts = [(run, self._bench.preparation.artifact(self._group, run)) for run in self._pairs[pair]]
        ready = [(run, artifact) for run, artifact in artifacts if isinstance(artifact, Artifact)]
        first, second = measure_group(self._bench, self._group, ready)
        if isinstance(first, Refusal) or isinstance(second, Refusal):
            return Trial(None, "not measured", " ".join(x.reason for x in (first, second) if isinstance(x, Refusal)))
        ratio = speedup(first.evidence.samples, second.evidence.samples)
        return Trial(ratio, *_verdict(ratio, first, second))


def _verdict(ratio: Estimate | None, first: Measured, second: Measured) -> tuple[Verdict, str]:
    if first.unstable or second.unstable:
        return "unstable", first.unstable or second.unstable
    if ratio is None or ratio.low is None or ratio.high is None:
        return "not measured", "too few rounds in common"
    if ratio.low > 1:
        return "faster", ""
    return ("slower", "") if ratio.high < 1 else ("same", "")


@contextmanager
def _burning(seed: int, wanted: bool) -> Iterator[None]:
    """Start and stop a process that needs a core, at random moments, for as long as the block lasts."""
    if not wanted:
        yield
        return
    over = threading.Event()

    def burn() -> None:
        moments = random.Random(seed)
        while not over.is_set():
            over.wait(moments.uniform(0, LONGEST_S))
            hog = subprocess.Popen([sys.executable, "-c", HOG])
            over.wait(moments.uniform(0, LONGEST_S))
            hog.kill()
            hog.wait()

    burner = threading.Thread(target=burn)
    burner.start()
    try:
        yield
    finally:
        over.set()
        burner.join()


def _table(report: Report) -> Table:
    machine = report.environment
    title = f"{BACKBONE}, {WORKLOAD.resolution} px, ort-cpu, {machine.cpu}, {machine.threads} threads"
    table = Table(title=title, box=SIMPLE_HEAD)
    for head in ("pair", "machine", "pairs", "same", "faster", "slower", "unstable", "not measured", "wrong", "ratio"):
        table.add_column(head, justify="left" if head in ("pair", "machine") else "right")
    for series in report.series:
        counts = Counter(trial.verdict for trial in series.trials)
        verdicts: Sequence[Verdict] = ("same", "faster", "slower", "unstable", "not measured")
        table.add_row(
            "one artifact twice" if series.pair == "same" else f"softmax, {FASTER}",
            "a core burns on and off" if series.loaded else "quiet",
            str(len(series.trials)),
            *(str(counts[verdict]) for verdict in verdicts),
            _share(series.wrong, len(series.trials)),
            _ratios(series.trials),
        )
    return table


def _share(hits: int, trials: int) -> str:
    if not trials:
        return "-"
    estimate = proportion(hits, trials)
    assert estimate.low is not None
    assert estimate.high is not None
    return f"{hits} ({100 * estimate.low:.0f} to {100 * estimate.high:.0f} %)"


def _ratios(trials: Sequence[Trial]) -> str:
    """Return the smallest and the greatest ratio of the trials that can be relied on."""
    values = [one.ratio.value for one in trials if one.ratio is not None and one.verdict != "unstable"]
    return f"{min(values):.3f} to {max(values):.3f}" if values else "-"


if __name__ == "__main__":
    run_command(_parser(), _run)
