"""Runtimes on a real GPU: run with `pytest -m gpu` where there is one."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from untrained_runs import make_run

from effvit.data.base import load_data
from effvit.errors import BackendUnavailableError
from effvit.export.base import Artifact, Source, StagedSession, backends, pick_backend, predict
from effvit.export.cache import make, reference_logits
from effvit.export.verify import check, compare
from effvit.images import evaluation_pixels
from effvit.preprocessing import normalise
from effvit.profiling.devices import Device
from effvit.profiling.isolate import IsolatedWorker
from effvit.profiling.staging import time_stages
from effvit.run import Run
from effvit.spec import Precision

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU"),
    pytest.mark.filterwarnings("ignore:TensorFloat32"),  # Inductor advises what would make fp32 something else
]
PX, IMAGES = 224, 32
BACKENDS = [
    name for name, one in backends().items() if one.open_on_gpu and not one.device_bound and one.unavailable() is None
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs"), "softmax", px=PX)


@pytest.fixture(scope="module")
def pixels(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pixels") / "pixels.npy"
    np.save(path, evaluation_pixels(load_data("digits").val[:IMAGES], run.record.preprocessing, PX, PX))
    return path


def artifact_of(run: Run, precision: Precision, name: str = "torch") -> Artifact:
    if precision not in pick_backend(name).precisions:
        pytest.skip(f"{name} does not run {precision}")
    return make(Source(run, PX, PX, precision), pick_backend(name))


def opened(run: Run, pixels: Path, precision: Precision, name: str = "torch") -> StagedSession:
    """Return a session that is bound to all images and was launched once."""
    session = pick_backend(name).open_on(artifact_of(run, precision, name), 1, 0)
    session.bind(normalise(np.load(pixels), run.record.preprocessing))
    session.launch()
    session.synchronize()
    assert isinstance(session, StagedSession)
    return session


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.TF32, Precision.FP16, Precision.BF16])
def test_logits_are_those_of_the_processor_within_the_precision(
    run: Run, pixels: Path, name: str, precision: Precision
) -> None:
    reference = reference_logits(Source(run, PX, PX, precision), np.load(pixels))
    session = opened(run, pixels, precision, name)
    check(compare(reference, session.logits(), precision), reference, artifact_of(run, precision))
    images = normalise(np.load(pixels), run.record.preprocessing)
    again = predict(session, images[:7], 3)  # batches that it was not bound to before
    assert compare(reference[:7], again, precision).agreement >= 6 / 7


def test_fp32_is_as_close_to_float64_as_the_processor_is(run: Run, pixels: Path) -> None:
    """TF32 would be a thousand times further away: it keeps 10 bits of 23."""
    images = normalise(np.load(pixels), run.record.preprocessing)
    with torch.inference_mode():
        exact = run.model(PX, PX).double()(torch.from_numpy(images).double()).numpy()
    on_cpu = np.abs(reference_logits(Source(run, PX, PX, Precision.FP32), np.load(pixels)) - exact).max()
    on_gpu = np.abs(opened(run, pixels, Precision.FP32).logits() - exact).max()
    assert on_gpu < 20 * on_cpu


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.TF32, Precision.FP16, Precision.BF16])
def test_settings_are_read_back_as_they_were_asked_for(run: Run, pixels: Path, name: str, precision: Precision) -> None:
    settings = opened(run, pixels, precision, name).settings()
    assert settings.departures(precision, 1, pick_backend(name).providers) == []
    assert (settings.device, settings.precision) == ("cuda:0", precision)
    assert settings.remarks() == []


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.TF32, Precision.FP16, Precision.BF16])
def test_pytorch_tells_its_rounding_and_its_attention_kernels(run: Run, pixels: Path, precision: Precision) -> None:
    settings = opened(run, pixels, precision).settings()
    assert settings.tf32 is (precision is Precision.TF32)
    assert settings.attention_kernels


@pytest.mark.parametrize("name", BACKENDS)
def test_the_parts_of_a_call_add_up_to_what_its_caller_waits_for(run: Run, pixels: Path, name: str) -> None:
    times = time_stages(opened(run, pixels, Precision.FP32, name))
    parts = zip(times.host_to_device_s, times.compute_s, times.device_to_host_s, strict=True)
    shares = [sum(part) / whole for part, whole in zip(parts, times.end_to_end_s, strict=True)]
    # What is left is the host's: the first call of the driver before the GPU starts, and the wait that ends.
    assert 0.6 < median(shares) <= 1.02
    assert min(times.host_to_device_s) > 0
    assert 0 < median(times.enqueue_s) < median(times.end_to_end_s)


def test_a_launch_returns_before_the_gpu_has_computed(run: Run, pixels: Path) -> None:
    session = opened(run, pixels, Precision.FP32)
    session.bind(np.resize(normalise(np.load(pixels), run.record.preprocessing), (512, 3, PX, PX)))
    times = time_stages(session)
    assert median(times.enqueue_s) < median(times.compute_s)


def test_a_worker_measures_on_the_gpu_and_says_what_the_gpu_did(run: Run, pixels: Path) -> None:
    with IsolatedWorker(300.0, (sys.executable, "-m", "effvit.profiling.worker")) as worker:
        worker.prepare("torch", Device("cuda", index=0))
        worker.ready()
        found = worker.open("torch", artifact_of(run, Precision.FP32), 8, 1, pixels)
        assert found.settings.device == "cuda:0"
        measured = worker.round(samples=10, least_s=0.1, most_s=2.0, warmup_s=0.1)
        assert worker.stages() is not None
    gpu = measured.conditions.gpu
    assert gpu is not None
    if gpu.note != "pynvml is not installed":
        assert gpu.sm_hz is not None
        assert 1e8 < gpu.sm_hz < 5e9
        assert gpu.temperature_c is not None


def test_a_gpu_that_is_not_there_is_a_reason_and_no_crash(run: Run) -> None:
    backend = pick_backend("torch")
    with pytest.raises(BackendUnavailableError, match=f"cuda:{torch.cuda.device_count()} cannot be used"):
        backend.open_on(artifact_of(run, Precision.FP32), 1, torch.cuda.device_count())
