"""Workers that crash, hang, eat memory or talk too much: each is a result with its reason."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import fakes
import numpy as np
import psutil
import pytest
from untrained_runs import make_run

from effvit.errors import StorageError
from effvit.export.base import Artifact, Source, pick_backend
from effvit.export.cache import make, reference_logits
from effvit.profiling.devices import Device
from effvit.profiling.isolate import CellFailure, IsolatedWorker
from effvit.spec import Precision

PX = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("isolate")


@pytest.fixture(scope="module")
def source(folder: Path) -> Source:
    return Source(make_run(folder, "softmax"), PX, PX, Precision.FP32)


@pytest.fixture(scope="module")
def artifact(source: Source) -> Artifact:
    return make(source, pick_backend("ort-cpu"))


@pytest.fixture(scope="module")
def pixels(folder: Path) -> Path:
    path = folder / "pixels.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (20, PX, PX, 3), dtype=np.uint8))
    return path


@pytest.fixture
def worker() -> Iterator[IsolatedWorker]:
    with fakes.start_worker(60) as started:
        yield started


def refused(worker: IsolatedWorker, backend: str, artifact: Artifact, pixels: Path) -> CellFailure:
    with pytest.raises(CellFailure) as caught:
        worker.open(backend, artifact, 1, 1, pixels)
    return caught.value


@pytest.mark.parametrize(
    ("backend", "status", "reason"),
    [
        ("crashing", "failed", "SIGSEGV"),
        ("killed", "oom", "memory runs out"),
        ("hungry", "oom", "MemoryError"),
        ("leaving", "failed", "exit code 7"),
        ("not-finite", "failed", "NaN"),
    ],
)
def test_a_misbehaving_runtime_is_a_result_with_a_reason(
    worker: IsolatedWorker, artifact: Artifact, pixels: Path, backend: str, status: str, reason: str
) -> None:
    failure = refused(worker, backend, artifact, pixels)
    assert failure.status == status
    assert reason in failure.reason


def test_a_hanging_runtime_is_ended_at_its_time_limit(artifact: Artifact, pixels: Path) -> None:
    with fakes.start_worker(60) as worker:
        worker.prepare("ort-cpu")
        worker.ready()
        worker.limit(0.5)
        started = time.monotonic()
        failure = refused(worker, "hanging", artifact, pixels)
    assert failure.status == "timeout"
    assert time.monotonic() - started < 10


def test_a_full_disk_is_nothing_that_a_cell_did(worker: IsolatedWorker, artifact: Artifact, pixels: Path) -> None:
    worker.open("ort-cpu", artifact, 1, 1, pixels)
    with pytest.raises(StorageError, match="/dev/full cannot be written: no space left on device"):
        worker.predict(pixels, Path("/dev/full"), 4)


def test_a_runtime_collects_nothing_for_its_makers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    with fakes.start_worker(60) as worker:
        worker.prepare("ort-cpu")
        worker.ready()
    assert not list(tmp_path.iterdir())


def test_time_spent_parked_does_not_count(artifact: Artifact, pixels: Path) -> None:
    with fakes.start_worker(60) as worker:
        worker.prepare("ort-cpu")
        worker.ready()
        worker.limit(5)
        time.sleep(0.3)
        assert worker.left_s == pytest.approx(5)


def ready_and_open(worker: IsolatedWorker, backend: str, artifact: Artifact, pixels: Path) -> None:
    worker.ready()
    worker.open(backend, artifact, 1, 1, pixels)


@pytest.mark.parametrize("backend", ["ort-cpu", "openvino"])
def test_a_runtime_that_is_refused_memory_is_out_of_it_however_it_fails(
    artifact: Artifact, pixels: Path, backend: str
) -> None:
    """In the least memory it does not even load, in a little more its threads do not start.

    OpenVINO has been seen, once in many runs, to wait for such threads for ever: then the reason still names the limit.
    """
    if pick_backend(backend).unavailable() is not None:
        pytest.skip(f"{backend} is not here")
    for size_bytes in (24 * 2**20, 64 * 2**20):
        with fakes.start_worker(30) as worker:
            worker.prepare(backend, Device(threads=1, memory_bytes=size_bytes))
            with pytest.raises(CellFailure) as caught:
                ready_and_open(worker, backend, artifact, pixels)
        assert caught.value.status in ({"oom", "timeout"} if backend == "openvino" else {"oom"})
        assert f"(limit: {size_bytes // 2**20}MiB, " in caught.value.reason


def test_what_a_runtime_prints_is_not_taken_for_an_answer(
    worker: IsolatedWorker, artifact: Artifact, pixels: Path
) -> None:
    opened = worker.open("chatty", artifact, 1, 1, pixels)
    assert opened.open_s > 0
    assert opened.first_s > 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a peak")
@pytest.mark.parametrize("backend", ["working", "loading"])
def test_activations_are_what_launches_add_whatever_loading_took(
    worker: IsolatedWorker, artifact: Artifact, pixels: Path, backend: str
) -> None:
    memory = worker.memory(backend, artifact, 2, 1, pixels)
    assert memory.launch_peak_bytes is not None
    assert memory.bound_bytes is not None
    assert memory.before_bytes is not None
    assert memory.peak_bytes is not None
    # The kernel counts in batches of pages, each thread its own; ONNX Runtime's own buffers for a model of 32 px are a
    # few MiB, and what it takes when it loads one is less than 48.
    near = -2 * 2**20
    assert near <= memory.launch_peak_bytes - memory.bound_bytes - fakes.WORKED_BYTES < 16 * 2**20
    most = {"working": fakes.WORKED_BYTES, "loading": fakes.LOADED_BYTES}[backend]
    assert near <= memory.peak_bytes - memory.before_bytes - most < 48 * 2**20
    assert memory.images_bytes == 2 * 3 * PX * PX * 4


def test_a_worker_leaves_no_process_behind(artifact: Artifact, pixels: Path) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with fakes.start_worker(60) as worker:
        worker.open("ort-cpu", artifact, 1, 1, pixels)
        assert {child.pid for child in psutil.Process().children(recursive=True)} > before
    assert {child.pid for child in psutil.Process().children(recursive=True)} == before


def test_a_worker_ends_when_its_sweep_is_killed(artifact: Artifact, pixels: Path) -> None:
    """The pipe closes with the process that holds its other end, however that ended."""
    worker = fakes.start_worker(60)
    worker.open("ort-cpu", artifact, 1, 1, pixels)
    process = psutil.Process(worker.pid)
    worker.hang_up()
    assert process.wait(timeout=20) in (0, None)
    worker.close()


def test_logits_come_back_as_the_model_gives_them(
    worker: IsolatedWorker, source: Source, artifact: Artifact, pixels: Path, tmp_path: Path
) -> None:
    worker.open("ort-cpu", artifact, 1, 1, pixels)
    worker.predict(pixels, tmp_path / "logits.npy", 8)  # 20 images: two full batches and a rest
    expected = reference_logits(source, np.load(pixels))
    # fp32 in another order of additions; logits are of order 1.
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-4)


def test_accuracy_is_counted_over_every_image(
    worker: IsolatedWorker, source: Source, artifact: Artifact, pixels: Path
) -> None:
    labels = reference_logits(source, np.load(pixels)).argmax(axis=1).tolist()
    labels[3] = (labels[3] + 1) % 10
    worker.open("ort-cpu", artifact, 1, 1, pixels)
    accuracy = worker.evaluate(pixels, labels, 8)
    assert (accuracy.images, accuracy.top1_correct) == (20, 19)


def test_a_round_runs_the_batch_of_its_cell_after_predictions_at_another(
    worker: IsolatedWorker, artifact: Artifact, pixels: Path, tmp_path: Path
) -> None:
    worker.open("counting", artifact, 3, 1, pixels)
    worker.predict(pixels, tmp_path / "logits.npy", 16)
    worker.round(samples=2, least_s=0, most_s=1, warmup_s=0)
    assert fakes.bound_batches(worker.pid)[-1] == 3


def test_a_worker_for_onnx_runtime_imports_no_torch(worker: IsolatedWorker, artifact: Artifact, pixels: Path) -> None:
    worker.open("ort-cpu", artifact, 1, 1, pixels)
    mapped = Path(f"/proc/{worker.pid}/maps")
    if not mapped.exists():
        pytest.skip("the loaded libraries of a process are read from /proc")
    assert "onnxruntime" in mapped.read_text()
    assert "libtorch" not in mapped.read_text()


def test_a_dead_worker_answers_with_its_death_again(worker: IsolatedWorker, artifact: Artifact, pixels: Path) -> None:
    refused(worker, "crashing", artifact, pixels)
    with pytest.raises(CellFailure, match="SIGSEGV"):
        worker.ready()


def test_workers_inherit_no_terminal_signals(worker: IsolatedWorker, artifact: Artifact, pixels: Path) -> None:
    """Ctrl-C reaches the process group of the terminal; a cell must not die of it before the sweep decides."""
    worker.open("ort-cpu", artifact, 1, 1, pixels)
    assert os.getpgid(worker.pid) != os.getpgid(0)
