"""Every runtime of an NVIDIA GPU beside the others: `python tests/benchmarks/gpu.py --help`.

A sweep as `effvit profile` runs it, over models with random weights: latency, throughput, what a process takes of the
host's memory, the parts of a call, and which share of the GPU's own rate of matrix products a model reaches. Runtimes
that are not here are left out by name; a cell that cannot be measured is a row with the reason.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from command import kept, run_command
from results import read_report, show_table, write_report
from rich.box import SIMPLE_HEAD
from rich.table import Table
from untrained_runs import make_run

from effvit.cli.options import batches_from_text, names_from_text, precisions_from_text, resolutions_from_text
from effvit.cli.output import progress_bars, say
from effvit.cli.sweeping import SweepDisplay
from effvit.environment import Environment, capture_environment, package_version, usable_cores
from effvit.errors import BackendUnavailableError
from effvit.export.base import pick_backend
from effvit.export.cuda import set_tf32
from effvit.export.typed import DTYPES
from effvit.profiling.devices import Device, check_gpus, device_from_text
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Plan
from effvit.profiling.records import DeviceTimes, Outcome
from effvit.profiling.report import quantities
from effvit.profiling.report.rows import Row, make_rows
from effvit.profiling.stats import Estimate
from effvit.profiling.sweep import run_sweep
from effvit.run import RECORD, Run, open_run
from effvit.spec import Precision
from effvit.surgery import attention_variants

SCHEMA = "effvit.gpu-benchmark/1"
BACKENDS = ("torch", "torch-compile", "ort-cuda", "tensorrt")
PACKAGES = ("torch", "timm", "onnxruntime-gpu", "tensorrt", "nvidia-ml-py")
LEDGER = ("python", "runtime", "weights", "images", "activations", "residual")
# The side of the square matrices whose products give a device's rate: large enough for a GPU to be busy.
SIDES = {"cuda": 8192, "cpu": 512}
PRODUCTS_S = 1.0


@dataclass(frozen=True, slots=True)
class Rate:
    """The matrix products of a device in one type, in MACs a second: the best of several, by PyTorch."""

    precision: Precision
    macs_per_s: float
    side: int


@dataclass(frozen=True, slots=True)
class Part:
    """A line of the ledger of the host's memory; None where it was not read."""

    name: str
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class Result:
    """One cell; numbers are None where it was not measured, `reason` then says why.

    `share` is that of the device's rate of matrix products in the same type. `parts_s` are the medians of copying a
    batch to the GPU, computing, and copying the logits back.
    """

    attention: str
    backend: str
    precision: Precision
    px: int
    batch: int
    status: str
    reason: str
    latency_s: Estimate | None
    images_per_s: Estimate | None
    share: float | None
    parts_s: tuple[float, float, float] | None
    host_peak_bytes: int | None
    ledger: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What the JSON file holds; `missing` are runtimes that are not here, and why; `outcomes` the raw samples."""

    command: str
    environment: Environment
    versions: tuple[tuple[str, str | None], ...]
    device: str
    backbone: str
    missing: tuple[tuple[str, str], ...]
    rates: tuple[Rate, ...]
    results: tuple[Result, ...]
    outcomes: tuple[Outcome, ...]
    schema: str = SCHEMA


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure every variant in every runtime of an NVIDIA GPU.")
    parser.add_argument("--device", default="cuda:0", help="cuda:0, or cpu to see whether all of this works")
    parser.add_argument("--model", default="vit_small_patch16_224", help="timm model")
    parser.add_argument("--attn", default=",".join(attention_variants()), help="variants")
    parser.add_argument("--res", default="224,384,512,1024", help="sides of square images in px")
    parser.add_argument("--batch", default="1,8,64", help="images a call")
    parser.add_argument("--precision", default="fp32,tf32,fp16,bf16", help="number types")
    parser.add_argument("--backend", default=",".join(BACKENDS), help="runtimes, as far as they are here")
    parser.add_argument("--rounds", type=int, default=5, help="rounds a cell, at least")
    parser.add_argument("--seconds-per-cell", type=float, default=1.0, help="timed seconds a cell, at least")
    parser.add_argument("--most-s", type=float, default=10.0, help="seconds of rounds a cell, at most")
    parser.add_argument("--folder", type=Path, help="keep models and samples; started again, it goes on from there")
    parser.add_argument("--out", type=Path, help="write everything to this JSON file")
    parser.add_argument("--show", type=Path, help="measure nothing: show this JSON file")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown to stdout")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    if arguments.show is not None:
        report = read_report(arguments.show, Report)
    else:
        with kept(arguments.folder) as folder:
            report = _measured(arguments, folder)
        if arguments.out is not None:
            write_report(arguments.out, report)
    show_table(_table(report), markdown=arguments.markdown)
    for name, reason in report.missing:
        say(f"{name} is not among these: {reason}")


def _measured(arguments: argparse.Namespace, folder: Path) -> Report:
    device = device_from_text(arguments.device)
    check_gpus([device])
    here, missing = _backends(names_from_text(arguments.backend), device)
    precisions = precisions_from_text(arguments.precision)
    runs = [_run_of(folder / "runs", arguments.model, name) for name in names_from_text(arguments.attn)]
    plan = Plan(
        runs=tuple(runs),
        resolutions=tuple(resolutions_from_text(arguments.res)),
        batches=tuple(batches_from_text(arguments.batch)),
        precisions=tuple(precisions),
        backends=here,
        devices=(device,),
    )
    plan.check()
    rates = tuple(rate for precision in precisions if (rate := _rate(precision, device)) is not None)
    effort = Effort(
        threads=device.threads or usable_cores(),
        rounds=arguments.rounds,
        samples=3 * arguments.rounds,
        least_s=arguments.seconds_per_cell,
        most_s=arguments.most_s,
        eval_images=1,  # of random weights, accuracy says nothing
        verify_images=16,
    )
    with progress_bars() as progress, PixelStore() as pixels:
        shown = SweepDisplay(progress)
        outcomes = run_sweep(plan, effort, folder / "results.jsonl", pixels, shown)
        shown.close()
    return Report(
        command=shlex.join(["python", *sys.argv]),
        environment=capture_environment(effort.threads),
        versions=tuple((name, package_version(name)) for name in PACKAGES),
        device=str(device),
        backbone=arguments.model,
        missing=missing,
        rates=rates,
        results=tuple(_result(row, rates) for row in make_rows(outcomes)),
        outcomes=tuple(outcomes),
    )


def _backends(names: Sequence[str], device: Device) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Return the runtimes that compute on the device here, and why the others do not.

    Raises:
        BackendUnavailableError: None does.
    """
    missing = []
    for name in names:
        backend = pick_backend(name)
        if device.kind not in backend.devices:
            missing.append((name, f"it computes on {' and '.join(backend.devices)}"))
        elif (reason := backend.unavailable()) is not None:
            missing.append((name, f"{reason}; to get it: {backend.install}"))
    left_out = dict(missing)
    here = tuple(name for name in names if name not in left_out)
    if not here:
        raise BackendUnavailableError(f"no runtime of {', '.join(names)} computes on {device} here", missing[0][1])
    return here, tuple(missing)


def _run_of(folder: Path, model: str, attention: str) -> Run:
    name = f"{model}-{attention}"
    if (folder / name / RECORD).is_file():
        return open_run(folder / name)
    return make_run(folder, attention, name=name, backbone=model, px=224 if "224" in model else 32)


def _rate(precision: Precision, device: Device) -> Rate | None:
    """Measure the products of square matrices; None for a type that this is not measured in."""
    dtype = DTYPES.get(precision)
    if dtype is None or (precision is Precision.TF32 and device.kind == "cpu"):
        return None
    set_tf32(precision is Precision.TF32)
    side, place = SIDES[device.kind], torch.device(device.name)
    left, right = (torch.randn(side, side, device=place).to(dtype) for _ in range(2))
    best_s = min(_timed(left, right) for _ in range(3))  # the first of a kind chooses kernels
    started = time.perf_counter()
    while time.perf_counter() - started < PRODUCTS_S:
        best_s = min(best_s, _timed(left, right))
    set_tf32(False)
    return Rate(precision, side**3 / best_s, side)


def _timed(left: torch.Tensor, right: torch.Tensor) -> float:
    if left.is_cuda:
        torch.cuda.synchronize(left.device)
    started = time.perf_counter()
    left @ right
    if left.is_cuda:
        torch.cuda.synchronize(left.device)
    return time.perf_counter() - started


def _result(row: Row, rates: Sequence[Rate]) -> Result:
    cell, evidence = row.outcome.cell, row.outcome.evidence
    images_per_s = _estimate(row, "throughput.images_per_s")
    rate = next((rate.macs_per_s for rate in rates if rate.precision is cell.precision), None)
    share = None
    if images_per_s is not None and evidence is not None and rate is not None:
        share = images_per_s.value * evidence.cost.macs / rate
    return Result(
        attention=cell.model.attention,
        backend=cell.backend,
        precision=cell.precision,
        px=cell.workload.height,
        batch=cell.workload.batch,
        status=row.outcome.status,
        reason=row.outcome.reason,
        latency_s=_estimate(row, "latency_s.p50"),
        images_per_s=images_per_s,
        share=share,
        parts_s=_parts(evidence.device_times) if evidence is not None else None,
        host_peak_bytes=_bytes(row, "memory.host_peak_bytes"),
        ledger=tuple(Part(name, _bytes(row, f"memory.{name}_bytes")) for name in LEDGER),
    )


def _estimate(row: Row, name: str) -> Estimate | None:
    reading = row.reading(name)
    return None if reading.value is None else Estimate(reading.value, reading.low, reading.high)


def _bytes(row: Row, name: str) -> int | None:
    value = row.reading(name).value
    return None if value is None else int(value)


def _parts(times: DeviceTimes | None) -> tuple[float, float, float] | None:
    if times is None or not times.compute_s:
        return None
    return median(times.host_to_device_s), median(times.compute_s), median(times.device_to_host_s)


def _table(report: Report) -> Table:
    rates = ", ".join(f"{quantities.si(rate.macs_per_s, 'MACs/s')} in {rate.precision}" for rate in report.rates)
    table = Table(title=f"{report.backbone}, {report.device}; matrix products: {rates}", box=SIMPLE_HEAD)
    for head in ("attention", "runtime", "type"):
        table.add_column(head)
    for head in ("px", "batch", "latency", "to GPU", "computing", "back", "images/s", "of peak", "host memory"):
        table.add_column(head, justify="right")
    table.add_column("")
    for one in report.results:
        table.add_row(
            one.attention,
            one.backend,
            str(one.precision),
            str(one.px),
            str(one.batch),
            _shown(one.latency_s, "s"),
            *(quantities.si(part, "s") for part in one.parts_s or ()),
            *([] if one.parts_s else [quantities.ABSENT] * 3),
            _shown(one.images_per_s, ""),
            quantities.ABSENT if one.share is None else f"{one.share:.1%}",
            quantities.ABSENT if one.host_peak_bytes is None else quantities.size(one.host_peak_bytes),
            "" if one.status == "ok" else f"{one.status}: {one.reason}",
        )
    return table


def _shown(estimate: Estimate | None, unit: str) -> str:
    return quantities.ABSENT if estimate is None else quantities.si(estimate.value, unit, estimate.low, estimate.high)


if __name__ == "__main__":
    run_command(_parser(), _run)
