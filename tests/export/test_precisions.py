"""Trained models in every precision that runs here: they decide as in fp32, on real images that they never saw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from trained_runs import PX

from effvit.data.base import load_data
from effvit.export.backends.tensorrt import graph_backend
from effvit.export.base import Source, pick_backend, predict
from effvit.export.cache import make, reference_logits
from effvit.images import evaluation_pixels, labels_of
from effvit.preprocessing import normalise
from effvit.run import Run
from effvit.spec import Precision
from effvit.surgery import attention_variants

# Of 359 held-out digits: 3 and 10 may be decided otherwise.
LEAST_AGREEMENT = {Precision.FP16: 0.99, Precision.BF16: 0.99, Precision.INT8: 0.97, Precision.FP8: 0.97}
# The graphs that engines are built from run in ONNX Runtime: its processor kernels take Q/DQ of int8 and fp8, and
# compute in fp32 what they lack in fp16. None takes a convolution in bf16, which OpenVINO makes of the fp32 graph.
TENSORRT = "graph of tensorrt"
CASES = [
    ("ort-cpu", Precision.FP16),
    ("ort-cpu", Precision.INT8),
    ("openvino", Precision.BF16),
    ("openvino", Precision.INT8),
    (TENSORRT, Precision.INT8),
    (TENSORRT, Precision.FP8),
]


@pytest.mark.slow
@pytest.mark.timeout(900)  # the first of a variant trains it
@pytest.mark.parametrize("attention", list(attention_variants()))
@pytest.mark.parametrize(("name", "precision"), CASES)
def test_a_trained_model_decides_as_in_fp32(
    trained: Callable[[str], Run], attention: str, name: str, precision: Precision
) -> None:
    backend = graph_backend(precision) if name == TENSORRT else pick_backend(name)
    if backend.unavailable() is not None:
        pytest.skip(f"{name} is not here")
    run, held_out = trained(attention), load_data("digits").val
    pixels = evaluation_pixels(held_out, run.record.preprocessing, PX, PX)
    source = Source(run, PX, PX, precision)
    exact = reference_logits(source, pixels).argmax(axis=1)
    assert np.mean(exact == labels_of(held_out)) > 0.8  # trained, so that decisions mean something
    session = backend.open(make(source, backend), 1)
    logits = predict(session, normalise(pixels, run.record.preprocessing), 60)
    assert np.isfinite(logits).all()
    assert np.mean(logits.argmax(axis=1) == exact) >= LEAST_AGREEMENT[precision]
