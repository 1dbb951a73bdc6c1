"""A large invented sweep: as many cells as a week of measuring, with as many launches in each as a real one has."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

from outcomes import make_outcome, make_samples, without_evidence

from effvit.profiling.disturbance import Conditions, Turn
from effvit.profiling.records import Outcome, Training
from effvit.spec import Precision, Swap

# Each has the invented costs and accuracy of one of those that outcomes.py knows.
_LIKE = {
    "softmax": "softmax", "agent": "atrous", "atrous": "atrous", "hedgehog": "performer", "linformer": "linformer",
    "nystromformer": "nystromformer", "performer": "performer", "sra": "linformer", "tome": "nystromformer",
}  # fmt: skip
_SIZES = (224, 288, 384, 512, 640, 768, 1024)
_BATCHES = (1, 8, 32, 64)
_BACKENDS = ("torch", "ort-cpu", "openvino", "torch-compile")
_PRECISIONS = (Precision.FP32, Precision.FP16)
CELLS = len(_LIKE) * len(_SIZES) * len(_BATCHES) * len(_BACKENDS) * len(_PRECISIONS)
_ROUNDS, _LAUNCHES = 12, 34
_CONDITIONS = Conditions(
    0.764237111001421, 1.522128, 2, 0.0, 0.007871999998835921, 24, None, None,
    "clock: no cpufreq in /sys; throttling: no thermal_throttle in /sys",
)  # fmt: skip


def make_many() -> list[Outcome]:
    """Return `CELLS` outcomes, each with 408 launches; one in 40 ran out of memory."""
    axes = itertools.product(_BACKENDS, _PRECISIONS, _BATCHES, _SIZES, _LIKE)
    outcomes = [_outcome(*where) for where in axes]
    return [_failed(outcome) if place % 40 == 39 else outcome for place, outcome in enumerate(outcomes)]


def _outcome(backend: str, precision: Precision, batch: int, px: int, attention: str) -> Outcome:
    model = make_outcome(_LIKE[attention], px, batch, "torch" if backend.startswith("torch") else "ort-cpu")
    spec = replace(model.cell.model, swaps=(Swap(attention),))
    cell = replace(model.cell, model=spec, backend=backend, precision=precision)
    evidence = model.evidence
    assert evidence is not None
    noise = random.Random(cell.key)
    median_s = evidence.samples.seconds[0] * (0.6 if precision is Precision.FP16 else 1)
    rounds = [tuple(median_s * noise.lognormvariate(0, 0.02) for _ in range(_LAUNCHES)) for _ in range(_ROUNDS)]
    measured = replace(
        evidence,
        comparison=f"{backend}-{precision}-{batch}-{px}",
        samples=make_samples(*rounds),
        turns=tuple(Turn(number, replace(_CONDITIONS, wall_s=noise.random())) for number in range(_ROUNDS)),
    )
    training = Training(30, 1800 + 60 * len(attention), 410.0, 0.8 + len(attention) / 100, 2**31, None)
    return replace(model, cell=cell, run=f"vit_tiny-{attention}", evidence=measured, training=training)


def _failed(outcome: Outcome) -> Outcome:
    return without_evidence(outcome, "oom", "measure", "the worker needed more than 4.0 GiB")
