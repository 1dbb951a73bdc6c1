"""Whether effvit's clock tells what others' clocks tell: `python tests/benchmarks/agreement.py --help`.

The same ONNX file in turns: effvit's own workers for ONNX Runtime and OpenVINO, a plain loop around
`InferenceSession.run`, and OpenVINO's `benchmark_app`, with as many threads, one stream, fp32 and synchronous calls.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from command import run_command
from results import read_report, show_table, write_report
from rich.box import SIMPLE_HEAD
from rich.table import Table
from untrained_runs import make_run

from effvit.cli.options import names_from_text
from effvit.cli.output import say
from effvit.environment import Environment, capture_environment, package_version, usable_cores
from effvit.errors import BackendUnavailableError, UsageError
from effvit.export.base import Artifact, Source, pick_backend
from effvit.export.cache import make
from effvit.profiling.disturbance import TOLERANCE, Conditions, disturbances
from effvit.profiling.isolate import IsolatedWorker
from effvit.profiling.pixels import PixelStore
from effvit.profiling.records import Samples
from effvit.profiling.stats import Estimate, median_s, speedup
from effvit.profiling.timer import CLOCK
from effvit.spec import Precision

SCHEMA = "effvit.agreement-benchmark/1"
PX = 224
LIMIT = 0.03
WARMUP_S = 0.5
PLAIN_LOOP = Path(__file__).with_name("plain_loop.py")
# Each of ours beside the outsider that times the same runtime.
PAIRS = {"ort-cpu": "InferenceSession.run", "openvino": "benchmark_app"}


@dataclass(frozen=True, slots=True)
class Subject:
    """One graph and batch, and how it is timed."""

    artifact: Artifact
    batch: int
    threads: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """One runtime on one graph and batch: the medians of effvit and of the outsider, and the second over the first.

    `ratio` is paired by rounds; `disturbed` counts the rounds of effvit's in which other processes were seen at work.
    """

    model: str
    batch: int
    runtime: str
    outsider: str
    ours_s: float
    theirs_s: float
    ratio: Estimate
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    disturbed: int

    @property
    def agrees(self) -> bool:
        """Whether the two medians differ by less than the limit."""
        return abs(self.ratio.value - 1) <= LIMIT


@dataclass(frozen=True, slots=True)
class Report:
    """What the JSON file holds; `versions` are those of the runtimes."""

    command: str
    environment: Environment
    versions: tuple[tuple[str, str | None], ...]
    rounds: int
    seconds: float
    agreements: tuple[Agreement, ...]
    schema: str = SCHEMA


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Hold effvit's times against those of other tools, on the same files.")
    models = "vit_tiny_patch16_224:softmax,vit_tiny_patch16_224:linformer,vit_small_patch16_224:softmax"
    parser.add_argument("--models", default=models, help="timm models and their attention, MODEL:ATTENTION")
    parser.add_argument("--batch", default="1,8", help="images a call")
    parser.add_argument("--rounds", type=int, default=8, help="interleaved rounds")
    parser.add_argument("--seconds", type=float, default=2.0, help="timed seconds a round, of each")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="CPU threads")
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
    for name in PAIRS:
        pick_backend(name).require()
    if not _benchmark_app().is_file():
        raise BackendUnavailableError("there is no benchmark_app here", "pip install openvino")
    agreements: list[Agreement] = []
    with tempfile.TemporaryDirectory(prefix="effvit-") as folder, PixelStore() as pixels:
        for name in names_from_text(arguments.models):
            model, colon, attention = name.partition(":")
            if not colon:
                raise UsageError(f"{name!r} names no attention", "write MODEL:ATTENTION")
            run = make_run(Path(folder), attention, name=f"{model}-{attention}", backbone=model, px=PX)
            say(f"exporting {model}, {attention}")
            artifact = make(Source(run, PX, PX, Precision.FP32), pick_backend("ort-cpu"))
            images = pixels.get(run, PX, PX, 16).path
            for batch in map(int, names_from_text(arguments.batch)):
                subject = Subject(artifact, batch, arguments.threads, arguments.seconds)
                found = _agreements(f"{model}, {attention}", subject, images, arguments.rounds)
                for one in found:
                    say(f"{one.model}, batch {one.batch}, {one.runtime}: {one.outsider} / effvit {one.ratio.value:.3f}")
                agreements += found
    return Report(
        command=shlex.join(["python", *sys.argv]),
        environment=capture_environment(arguments.threads),
        versions=tuple((name, package_version(name)) for name in ("onnxruntime", "openvino", "torch", "timm")),
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        agreements=tuple(agreements),
    )


def _agreements(model: str, subject: Subject, images: Path, rounds: int) -> list[Agreement]:
    """Time one graph and batch in turns of random order: all four of ours and theirs."""
    seconds: dict[str, list[tuple[float, ...]]] = {}
    conditions: dict[str, list[Conditions]] = {}
    order = random.Random()
    with ExitStack() as stack:
        clocks: dict[str, Callable[[], tuple[float, ...]]] = {
            "InferenceSession.run": lambda: _plain_loop(subject),
            "benchmark_app": lambda: _benchmarked(subject),
        }
        for backend in PAIRS:
            worker = stack.enter_context(IsolatedWorker(timeout_s=3600))
            worker.open(backend, subject.artifact, subject.batch, subject.threads, images)
            conditions[backend] = []
            clocks[backend] = _ours(worker, subject.seconds, conditions[backend])
        for _ in range(rounds):
            for name in order.sample(list(clocks), len(clocks)):
                seconds.setdefault(name, []).append(clocks[name]())
    return [
        _agreement(model, subject, runtime, seconds[runtime], seconds[outsider], conditions[runtime])
        for runtime, outsider in PAIRS.items()
    ]


def _ours(worker: IsolatedWorker, seconds: float, conditions: list[Conditions]) -> Callable[[], tuple[float, ...]]:
    def turn() -> tuple[float, ...]:
        timed = worker.round(samples=1, least_s=seconds, most_s=2 * seconds, warmup_s=WARMUP_S)
        conditions.append(timed.conditions)
        return timed.seconds

    return turn


def _plain_loop(subject: Subject) -> tuple[float, ...]:
    shape = [str(subject.batch), str(PX), str(subject.threads), str(subject.seconds)]
    command = [sys.executable, str(PLAIN_LOOP), subject.artifact.path, *shape]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return tuple(json.loads(done.stdout))


def _benchmarked(subject: Subject) -> tuple[float, ...]:
    """Return the one median that benchmark_app reports, to a hundredth of a millisecond."""
    with tempfile.TemporaryDirectory(prefix="effvit-") as folder:
        command = [str(_benchmark_app()), "-m", subject.artifact.path, "-shape", f"[{subject.batch},3,{PX},{PX}]"]
        command += ["-d", "CPU", "-api", "sync", "-hint", "none", "-nstreams", "1", "-nthreads", str(subject.threads)]
        command += ["-infer_precision", "f32", "-pin", "NO", "-t", str(max(1, round(subject.seconds)))]
        command += ["-report_type", "no_counters", "-json_stats", "-report_folder", folder]
        subprocess.run(command, check=True, capture_output=True)
        report = json.loads((Path(folder) / "benchmark_report.json").read_text())
    return (float(report["execution_results"]["latency (ms)"]) / 1e3,)


def _benchmark_app() -> Path:
    return Path(sys.executable).with_name("benchmark_app")


def _agreement(
    model: str,
    subject: Subject,
    runtime: str,
    ours: Sequence[Sequence[float]],
    theirs: Sequence[Sequence[float]],
    conditions: Sequence[Conditions],
) -> Agreement:
    mine, other = _samples(ours), _samples(theirs)
    ratio = speedup(other, mine)
    assert ratio is not None  # every round has both
    return Agreement(
        model=model,
        batch=subject.batch,
        runtime=runtime,
        outsider=PAIRS[runtime],
        ours_s=median_s(mine),
        theirs_s=median_s(other),
        ratio=ratio,
        ours=tuple(median_s(_samples([one])) for one in ours),
        theirs=tuple(median_s(_samples([one])) for one in theirs),
        disturbed=sum(map(bool, disturbances(conditions, TOLERANCE))),
    )


def _samples(rounds: Sequence[Sequence[float]]) -> Samples:
    return Samples(
        seconds=tuple(second for seconds in rounds for second in seconds),
        rounds=tuple(number for number, seconds in enumerate(rounds) for _ in seconds),
        warmup=0,
        clock=CLOCK,
        stopped="",
    )


def _table(report: Report) -> Table:
    versions = ", ".join(f"{name} {version}" for name, version in report.versions)
    machine = report.environment
    table = Table(title=f"{machine.cpu}, {machine.threads} threads, {versions}", box=SIMPLE_HEAD)
    heads = ("model", "batch", "runtime", "other clock", "effvit p50", "other p50", "other / effvit", "within 3 %")
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place in (1, 4, 5, 6) else "left")
    for one in report.agreements:
        low, high = one.ratio.low, one.ratio.high
        interval = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
        medians = (f"{1e3 * one.ours_s:.2f} ms", f"{1e3 * one.theirs_s:.2f} ms", f"{one.ratio.value:.3f}{interval}")
        verdict = "yes" if one.agrees else "no"
        table.add_row(one.model, str(one.batch), one.runtime, one.outsider, *medians, verdict)
    return table


if __name__ == "__main__":
    run_command(_parser(), _run)
