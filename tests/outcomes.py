"""Outcomes of an invented sweep: every number follows from a formula and a seed, none was measured."""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence
from dataclasses import replace

from effvit.profiling.records import (
    Accuracy,
    ArtifactFacts,
    Calibration,
    CallWork,
    Cell,
    Cost,
    Environment,
    Evidence,
    HostMemory,
    Outcome,
    Parity,
    Samples,
    Throughput,
)
from effvit.spec import ModelSpec, Precision, Swap, Workload

VARIANTS = ("softmax", "linformer", "performer", "nystromformer", "atrous")
RESOLUTIONS = (224, 384, 512)
BATCHES = (1, 8)
BACKENDS = ("torch", "ort-cpu")
# Share of softmax's core MACs that a variant keeps at 224 px, and whether they grow with the square of the tokens.
_CORE = {
    "softmax": (1.0, True),
    "linformer": (0.40, False),
    "performer": (0.90, False),
    "nystromformer": (0.70, False),
    "atrous": (0.30, True),
}
_TOP1 = {"softmax": 0.842, "linformer": 0.781, "performer": 0.806, "nystromformer": 0.835, "atrous": 0.820}

ENVIRONMENT = Environment(
    cpu="Example CPU 9000",
    cores=4,
    ram_bytes=16 * 2**30,
    gpus=(),
    os="Linux 6.1",
    python="3.11.9",
    packages=(("onnxruntime", "1.23.0"), ("torch", "2.9.0")),
    threads=4,
)


def make_cell(attention: str = "softmax", px: int = 224, batch: int = 1, backend: str = "torch") -> Cell:
    """Return a fp32 cell of a small backbone with 10 classes."""
    spec = ModelSpec(backbone="vit_tiny_patch16_224", swaps=(Swap(attention),), classes=10, trained=(224, 224))
    return Cell(spec, backend, Precision.FP32, Workload(batch, px, px))


def make_samples(*rounds: tuple[float, ...]) -> Samples:
    """Return samples from the seconds of each round."""
    seconds = tuple(second for numbers in rounds for second in numbers)
    numbers = tuple(number for number, values in enumerate(rounds) for _ in values)
    return Samples(seconds, numbers, warmup=3, clock="host", stopped="rounds")


def make_accuracy(top1: float = 0.8, images: int = 2000) -> Accuracy:
    """Return counts over 10 classes of equal size; the last classes are the harder ones."""
    per_class = images // 10
    hits = round(top1 * images)
    class_top1 = tuple(min(per_class, hits * (11 - rank) // 60) for rank in range(10))
    top5 = round((1 - (1 - top1) / 4) * images)
    return Accuracy(images, images, hits, top5, (per_class,) * 10, class_top1)


def judged_accuracy(right: Sequence[bool], images_key: str | None = "images") -> Accuracy:
    """Return counts that tell of every image whether it was right; image i is of class i modulo 10."""
    digits = "".join("1" if one else "0" for one in right)
    packed = bytes(int(digits[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(digits), 8))
    classes = [right[number::10] for number in range(10)]
    return Accuracy(
        images=len(right),
        of_images=len(right),
        top1_correct=sum(right),
        top5_correct=None,
        class_images=tuple(map(len, classes)),
        class_top1=tuple(map(sum, classes)),
        hits=base64.b64encode(packed).decode(),
        images_key=images_key,
    )


def make_cost(attention: str = "softmax", px: int = 224) -> Cost:
    """Return invented costs with the growth of the real ones: linear layers in tokens, softmax in tokens squared."""
    tokens = (px // 16) ** 2 + 1
    share, quadratic = _CORE[attention]
    core_macs = int(share * 12 * 2 * 192 * tokens * (tokens if quadratic else 197))
    moved = 3 * px * px + 2 * 13 * 192 * tokens
    return Cost(5_700_000, 12 * 12 * 192 * 192 * tokens + core_macs, core_macs, tokens, moved)


CALIBRATION = Calibration(2e11, 2e10, threads=4, core_share=1.0, copied_bytes=2**28, library="numpy 2.4.0, some BLAS")


def make_memory(cell: Cell, runtime_bytes: int, model_bytes: int) -> HostMemory:
    """Return readings of a model that takes half of its memory when it is loaded, and the other half in calls."""
    images_bytes = 4 * 3 * cell.workload.batch * cell.workload.height * cell.workload.width
    loaded_bytes = runtime_bytes + model_bytes // 2
    peak_bytes = runtime_bytes + model_bytes
    return HostMemory(
        before_bytes=runtime_bytes,
        peak_bytes=peak_bytes,
        source="VmHWM",
        start_bytes=30 * 2**20,
        loaded_bytes=loaded_bytes,
        bound_bytes=loaded_bytes + images_bytes,
        images_bytes=images_bytes,
        launch_peak_bytes=peak_bytes,
        virtual_peak_bytes=4 * peak_bytes,
    )


def make_evidence(cell: Cell, seed: int = 0) -> Evidence:
    """Return six rounds of six launches with 2 % noise, and what belongs to them."""
    attention, px, batch = cell.model.attention, cell.workload.height, cell.workload.batch
    noise = random.Random(f"{cell.key}{seed}")
    cost = make_cost(attention, px)
    macs_per_s = 9e10 if cell.backend == "torch" else 1.4e11
    launch_s = 1.5e-3 + batch * (cost.macs + 0.4 * cost.core_macs) / macs_per_s
    rounds = tuple(tuple(launch_s * noise.lognormvariate(0, 0.02) for _ in range(6)) for _ in range(6))
    blocks = tuple((4 * batch, 3.8 * launch_s * noise.lognormvariate(0, 0.01)) for _ in range(6))
    model_bytes = 4 * cost.parameters + batch * (cost.tokens * 192 * 60 + (cost.core_macs // 300 if px > 224 else 0))
    runtime_bytes = (180 if cell.backend == "torch" else 60) * 2**20
    return Evidence(
        comparison=f"{cell.backend}-{px}-{batch}",
        artifact=ArtifactFacts(f"{cell.model.attention}.onnx", "0" * 64, 4 * cost.parameters + 20_000, 2.5),
        samples=make_samples(*rounds),
        throughput=Throughput(blocks),
        memory=make_memory(cell, runtime_bytes, model_bytes),
        cost=cost,
        open_s=0.12,
        first_s=2 * launch_s,
        parity=Parity(64, 2.1e-5, 0.999999, 1.0, 1.0),
        accuracy=make_accuracy(_TOP1[attention] + 0.0001 * (px - 224)),
        work=CallWork(batch, 4 * (cost.parameters + batch * (cost.least_moved or 0))),
        calibration=CALIBRATION,
    )


def make_outcome(
    attention: str = "softmax", px: int = 224, batch: int = 1, backend: str = "torch", run: str | None = None
) -> Outcome:
    """Return a measured cell."""
    cell = make_cell(attention, px, batch, backend)
    return Outcome(
        cell=cell,
        status="ok",
        environment=ENVIRONMENT,
        run=run or f"vit_tiny-{attention}",
        data="flowers",
        finished="2026-01-01T00:00:00Z",
        evidence=make_evidence(cell),
    )


def without_evidence(outcome: Outcome, status: str, stage: str, reason: str) -> Outcome:
    """Return the outcome of the same cell that was not measured."""
    return replace(outcome, status=status, stage=stage, reason=reason, evidence=None)  # type: ignore[arg-type]


def make_sweep() -> list[Outcome]:
    """Return all variants x resolutions x batches x backends, with one skipped, one failed and one out of memory."""
    outcomes = [
        make_outcome(attention, px, batch, backend)
        for backend in BACKENDS
        for batch in BATCHES
        for px in RESOLUTIONS
        for attention in VARIANTS
    ]
    changed = {
        make_cell("nystromformer", 224, 1, "ort-cpu").key: ("unsupported", "export", "pinv has no ONNX operator"),
        make_cell("nystromformer", 384, 8, "ort-cpu").key: ("failed", "open", "the worker ended with exit code -11"),
        make_cell("softmax", 512, 8, "ort-cpu").key: ("oom", "measure", "the worker needed more than 4.0 GiB"),
    }
    return [
        without_evidence(outcome, *changed[outcome.cell.key]) if outcome.cell.key in changed else outcome
        for outcome in outcomes
    ]
