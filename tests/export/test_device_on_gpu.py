"""All ways to a GPU with a real one, and TensorRT where it is installed: run with `pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from untrained_runs import make_run

from effvit.data.base import load_data
from effvit.export.base import Source, StagedSession, pick_backend
from effvit.export.build import Limits, refuse, verified_artifact
from effvit.export.device import DeviceLibrary, device_libraries, no_device
from effvit.export.engine_options import engine_for
from effvit.export.torch_device import TorchDevice
from effvit.images import evaluation_pixels
from effvit.preprocessing import normalise
from effvit.profiling.staging import time_stages
from effvit.spec import Precision

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(no_device() is not None, reason="there is no CUDA GPU")]
NUMBERS = 2**24


def by_pytorch() -> str | None:
    return None if torch.cuda.is_available() else "PyTorch sees no CUDA GPU"


PYTORCH = DeviceLibrary("PyTorch", "torch", "", "", by_pytorch, TorchDevice)


@pytest.mark.parametrize("library", [*device_libraries(), PYTORCH], ids=lambda library: library.name)
def test_copies_marks_and_graphs_do_on_a_gpu_what_they_do_in_the_fakes(library: DeviceLibrary) -> None:
    if (reason := library.unavailable()) is not None:
        pytest.skip(reason)
    device = library.open(0)
    assert device.gpu.startswith("GPU-")
    sent, received = device.page_locked((NUMBERS,)), device.page_locked((NUMBERS,))
    sent[:], received[:] = np.arange(NUMBERS), 0
    buffer = device.allocate(sent.nbytes)
    marks = [device.mark()]
    device.upload(sent, buffer)
    marks.append(device.mark())
    device.download(buffer, received)
    marks.append(device.mark())
    device.synchronize()
    np.testing.assert_array_equal(received, sent)
    # 64 MiB at between 1 and 100 GB/s.
    assert all(6e-4 < device.seconds_between(*marks[place : place + 2]) < 0.1 for place in (0, 1))
    received[:] = 0
    graph = device.capture(lambda: device.download(buffer, received))
    device.synchronize()
    assert not received.any()
    graph.launch()
    device.synchronize()
    np.testing.assert_array_equal(received, sent)


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-graph"])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.BF16])
def test_an_engine_is_the_model_in_the_precision_it_was_asked_for(
    tmp_path: Path, name: str, precision: Precision
) -> None:
    backend = pick_backend(name)
    if (reason := backend.unavailable()) is not None:
        pytest.skip(reason)
    run = make_run(tmp_path, "softmax", px=224)
    pixels = tmp_path / "pixels.npy"
    np.save(pixels, evaluation_pixels(load_data("digits").val[:16], run.record.preprocessing, 224, 224))
    source = Source(run, 224, 224, precision, engine=engine_for(8))
    artifact = verified_artifact(source, backend, pixels, 1, limits=Limits(fallback=refuse))
    session = backend.open_on(artifact, 1, 0)
    session.bind(normalise(np.load(pixels)[:8], run.record.preprocessing))
    session.launch()
    assert isinstance(session, StagedSession)
    assert session.settings().cuda_graph is (name == "tensorrt-graph")
    times = time_stages(session)
    assert min(times.host_to_device_s) > 0
    assert min(times.compute_s) > 0
