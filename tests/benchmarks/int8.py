"""int8 beside fp32 on the CPU: `python tests/benchmarks/int8.py --help`.

Accuracy, through the runtime, is that of small models that are trained on the digits first; latency that of a model
with random weights at a size that is worth quantising, since time does not depend on what weights are. `--prepare`
trains, exports and counts, at any time; without it, what is left to do is timing, which wants the machine for itself.
Stopped and started again with the same folder, it goes on where it was.
"""

from __future__ import annotations

import argparse
import random
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from command import kept, run_command
from results import markdown_of, read_report, write_report
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from trained_runs import trained_run
from untrained_runs import make_run

from effvit.cli.options import names_from_text
from effvit.cli.output import say
from effvit.data.base import load_data
from effvit.environment import Environment, capture_environment, package_version, usable_cores
from effvit.errors import EffvitError
from effvit.export.base import Artifact, Parity, Source, pick_backend, predict
from effvit.export.cache import make, reference_logits
from effvit.export.decisions import Truth, change_of
from effvit.export.quantisation import DEFAULT_QUANTISATION, LEAST_IMAGES, Quantisation
from effvit.export.verify import compare
from effvit.images import evaluation_pixels, labels_of
from effvit.preprocessing import normalise
from effvit.profiling.isolate import CellFailure, IsolatedWorker
from effvit.profiling.pixels import PixelStore
from effvit.profiling.records import Samples
from effvit.profiling.report import quantities
from effvit.profiling.stats import Estimate, agreement_of, median_s, speedup
from effvit.profiling.timer import CLOCK
from effvit.run import RECORD, Run, open_run
from effvit.spec import Precision
from effvit.storage import make_folder, write_atomically
from effvit.surgery import attention_variants, pick_variant

SCHEMA = "effvit.int8-benchmark/2"
WIDTH_WITHOUT_TERMINAL = 160
BATCH, WARMUP_S, TIMEOUT_S = 60, 0.2, 600.0
# Weights that are random need no good ranges.
FEW = Quantisation(LEAST_IMAGES)
TOOLS = ("onnxruntime", "openvino", "executorch", "torchao", "torch", "timm")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Counted:
    """What int8 does to the decisions of a trained model in one runtime; `exact_right` of its images fp32 has right.

    `parity` is to PyTorch in fp32, None where the runtime refuses, for the `reason`.
    """

    attention: str
    backend: str
    exact_right: int
    parity: Parity | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Timed:
    """One attention in one runtime, batch 1; `speedup` is fp32 over int8, paired by rounds.

    `exact` and `small` are the samples of both, None where the runtime refuses, for the `reason`.
    """

    attention: str
    backend: str
    exact: Samples | None
    small: Samples | None
    speedup: Estimate | None
    sizes_bytes: tuple[int, int]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What the JSON file holds; `model` at `px` is what was timed, with random weights."""

    command: str
    environment: Environment
    versions: tuple[tuple[str, str | None], ...]
    model: str
    px: int
    rounds: int
    seconds: float
    counted: tuple[Counted, ...]
    timed: tuple[Timed, ...]
    schema: str = SCHEMA


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time int8 beside fp32 on the CPU, and count what it classifies right."
    )
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="timm model to time")
    parser.add_argument("--attn", default=",".join(attention_variants()), help="variants")
    parser.add_argument("--backend", default="ort-cpu,openvino", help="runtimes, executorch among them")
    parser.add_argument("--res", type=int, default=224, help="side of the square images in px")
    parser.add_argument("--rounds", type=int, default=8, help="interleaved rounds")
    parser.add_argument("--seconds", type=float, default=0.8, help="timed seconds a round, of each")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="CPU threads")
    parser.add_argument(
        "--folder", type=Path, help="keep models and results here; started again, it goes on from there"
    )
    parser.add_argument("--prepare", action="store_true", help="train, export and count only; time nothing")
    parser.add_argument("--out", type=Path, help="write everything to this JSON file")
    parser.add_argument("--show", type=Path, help="measure nothing: show this JSON file")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown to stdout")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    if arguments.show is not None:
        _show(read_report(arguments.show, Report), markdown=arguments.markdown)
        return
    attentions, backends = names_from_text(arguments.attn), names_from_text(arguments.backend)
    for attention in attentions:
        pick_variant(attention)
    for backend in backends:
        pick_backend(backend).require(Precision.INT8)
    cells = [(attention, backend) for attention in attentions for backend in backends]
    with kept(arguments.folder) as folder:
        counted = [_once(folder, "counted", cell, Counted, lambda cell=cell: _count(folder, *cell)) for cell in cells]
        runs = {name: _untrained(folder, arguments.model, name, arguments.res) for name in attentions}
        for attention, backend in cells:
            _artifacts(folder, runs[attention], backend, arguments.res, FEW)
        if arguments.prepare:
            say(f"prepared: {len(cells)} pairs of artifacts, in {folder}")
            return
        # The name says what was measured how: other settings are other results.
        kind = (
            f"timed-{arguments.model}-{arguments.res}px-{arguments.threads}-{arguments.rounds}x{arguments.seconds:g}s"
        )
        timed = [
            _once(folder, kind, cell, Timed, lambda cell=cell: _time(folder, arguments, cell, runs[cell[0]]))
            for cell in cells
        ]
    report = Report(
        command=shlex.join(["python", *sys.argv]),
        environment=capture_environment(arguments.threads),
        versions=tuple((name, package_version(name)) for name in TOOLS),
        model=arguments.model,
        px=arguments.res,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        counted=tuple(counted),
        timed=tuple(timed),
    )
    _show(report, markdown=arguments.markdown)
    if arguments.out is not None:
        write_report(arguments.out, report)


def _once(folder: Path, kind: str, cell: tuple[str, ...], result: type[T], measure: Callable[[], T]) -> T:
    """Return what was measured earlier of a cell, or measure it and keep it."""
    path = folder / "results" / f"{kind}-{'-'.join(cell)}.json"
    if path.is_file():
        return read_report(path, result)
    say(f"{kind}: {', '.join(cell)}")
    measured = measure()
    make_folder(path.parent)
    write_atomically(path, msgspec.json.encode(measured))
    return measured


def _count(folder: Path, attention: str, backend_name: str) -> Counted:
    """Classify all held-out digits in int8, through the runtime."""
    run, backend = trained_run(folder / "trained", attention), pick_backend(backend_name)
    height, width = run.record.spec.trained
    held_out = load_data("digits").val
    labels = labels_of(held_out)
    pixels = evaluation_pixels(held_out, run.record.preprocessing, height, width)
    images = normalise(pixels, run.record.preprocessing)
    exact, small = _artifacts(folder, run, backend_name, height, DEFAULT_QUANTISATION)
    right = 0
    try:
        right = int((predict(backend.open(exact, 1), images, BATCH).argmax(axis=1) == labels).sum())
        logits = predict(backend.open(small, 1), images, BATCH)
    except EffvitError as error:
        return Counted(attention, backend_name, right, None, error.message)
    truth = Truth(tuple(labels.tolist()), tuple(f"digit {index}" for index in range(len(labels))))
    reference = reference_logits(Source(run, height, width, Precision.FP32), pixels)
    return Counted(attention, backend_name, right, compare(reference, logits, Precision.INT8, truth))


def _untrained(folder: Path, model: str, attention: str, px: int) -> Run:
    name = f"{model}-{attention}-{px}px"
    if (folder / "random" / name / RECORD).is_file():
        return open_run(folder / "random" / name)
    return make_run(folder / "random", attention, name=name, backbone=model, px=px)


def _artifacts(
    folder: Path, run: Run, backend_name: str, px: int, quantisation: Quantisation
) -> tuple[Artifact, Artifact]:
    """Return a run's artifacts in fp32 and int8, made now unless they were before; runtimes of graphs take the same."""
    maker = pick_backend(backend_name)
    name = (run.name,) if maker.format == "onnx" else (run.name, maker.format)
    exact, small = (Source(run, px, px, precision, quantisation) for precision in (Precision.FP32, Precision.INT8))
    return (
        _once(folder, "fp32", name, Artifact, lambda: make(exact, maker)),
        _once(folder, "int8", name, Artifact, lambda: make(small, maker)),
    )


def _time(folder: Path, arguments: argparse.Namespace, cell: tuple[str, str], run: Run) -> Timed:
    """Time fp32 and int8 in turns of random order, each in a worker that stays open."""
    attention, backend = cell
    artifacts = _artifacts(folder, run, backend, arguments.res, FEW)
    sizes = artifacts[0].size_bytes, artifacts[1].size_bytes
    seconds: list[list[tuple[float, ...]]] = [[], []]
    order = random.Random()
    try:
        with PixelStore() as pixels, ExitStack() as stack:
            images = pixels.get(run, arguments.res, arguments.res, LEAST_IMAGES).path
            workers = [stack.enter_context(IsolatedWorker(timeout_s=TIMEOUT_S)) for _ in artifacts]
            for worker, artifact in zip(workers, artifacts, strict=True):
                worker.open(backend, artifact, 1, arguments.threads, images)
            for _ in range(arguments.rounds):
                for place in order.sample(range(2), 2):
                    turn = workers[place].round(1, arguments.seconds, 4 * arguments.seconds, WARMUP_S)
                    seconds[place].append(turn.seconds)
    except CellFailure as failure:
        return Timed(attention, backend, None, None, None, sizes, failure.reason)
    exact, small = map(_samples, seconds)
    return Timed(attention, backend, exact, small, speedup(exact, small), sizes)


def _samples(rounds: Sequence[Sequence[float]]) -> Samples:
    return Samples(
        seconds=tuple(second for seconds in rounds for second in seconds),
        rounds=tuple(number for number, seconds in enumerate(rounds) for _ in seconds),
        warmup=0,
        clock=CLOCK,
        stopped="",
    )


def _show(report: Report, *, markdown: bool) -> None:
    """Print one table a runtime to stderr, or as Markdown to stdout."""
    tables = [_table(report, backend) for backend in dict.fromkeys(one.backend for one in report.timed)]
    if markdown:
        print("\n".join(map(markdown_of, tables)))
        return
    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH_WITHOUT_TERMINAL
    for table in tables:
        console.print(table)


def _table(report: Report, backend: str) -> Table:
    version = dict(report.versions).get({"ort-cpu": "onnxruntime"}.get(backend, backend))
    machine = report.environment
    table = Table(
        title=f"{backend} {version}, {report.model}, {report.px} px, batch 1, {machine.cpu}, {machine.threads} threads",
        box=SIMPLE_HEAD,
    )
    table.add_column("attention")
    for head in ("fp32", "int8", "speed-up (95 %)", "size", "top-1 fp32", "top-1 int8", "change (95 %)", "p"):
        table.add_column(head, justify="right")
    table.add_column("same top-1 (95 %)", justify="right")
    counted = {one.attention: one for one in report.counted if one.backend == backend}
    for one in report.timed:
        if one.backend == backend:
            table.add_row(one.attention, *_latencies(one), *_decisions(counted[one.attention]))
    return table


def _latencies(one: Timed) -> tuple[str, ...]:
    small, exact = one.sizes_bytes[1], one.sizes_bytes[0]
    if one.exact is None or one.small is None or one.speedup is None:
        return (one.reason, *[quantities.ABSENT] * 2, f"{small / exact:.0%}")
    medians = (f"{1e3 * median_s(samples):.2f} ms" for samples in (one.exact, one.small))
    return (*medians, f"{one.speedup.value:.2f}x{_between(one.speedup.low, one.speedup.high)}", f"{small / exact:.0%}")


def _decisions(one: Counted) -> tuple[str, ...]:
    if one.parity is None or one.parity.lost is None or one.parity.gained is None or one.parity.correct is None:
        return (one.reason, *[quantities.ABSENT] * 4)
    images, changed, agreement = one.parity.images, change_of(one.parity), agreement_of(one.parity)
    assert changed is not None  # labels were looked at
    right = one.parity.correct - one.parity.lost + one.parity.gained
    return (
        f"{one.exact_right / images:.1%}",
        f"{right / images:.1%}",
        f"{100 * changed.value:+.2f} ({100 * changed.low:+.2f} to {100 * changed.high:+.2f})",
        f"{changed.p:.2g}",
        f"{agreement.value:.1%}{_between(agreement.low, agreement.high, '.1%')}",
    )


def _between(low: float | None, high: float | None, form: str = ".2f") -> str:
    return "" if low is None or high is None else f" ({low:{form}} to {high:{form}})"


if __name__ == "__main__":
    run_command(_parser(), _run)
