"""One contract for both ways to a GPU, with libraries that reach a GPU in the memory of the host."""

from __future__ import annotations

import gc
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from cuda_fakes import BUS, COPY_S, KERNEL_S, MEMORY_BYTES, STREAM, UUID, FakeDriver, FakeRuntime, SimulatedGpu

from effvit.errors import BackendUnavailableError, ExportError
from effvit.export import bindings_device, pycuda_device
from effvit.export.bindings_device import BindingsDevice, capture
from effvit.export.device import GpuDevice, device_libraries, no_device, open_device
from effvit.export.pycuda_device import PycudaDevice

Opened = tuple[GpuDevice, SimulatedGpu]
SHAPE = (2, 3)


def by_bindings(gpus: int = 1) -> Opened:
    gpu = SimulatedGpu()
    return BindingsDevice(0, FakeRuntime(gpu, gpus)), gpu


def by_pycuda(gpus: int = 1) -> Opened:
    gpu = SimulatedGpu()
    return PycudaDevice(0, FakeDriver(gpu, gpus), FakeRuntime(gpu, gpus)), gpu


@pytest.fixture(params=[by_bindings, by_pycuda], ids=["cuda-bindings", "pycuda"])
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    return request.param()


def numbers(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE, dtype=np.float32)


def test_what_is_uploaded_comes_back(opened: Opened) -> None:
    device, _ = opened
    sent, received, buffer = device.page_locked(SHAPE), device.page_locked(SHAPE), device.allocate(24)
    sent[:], received[:] = numbers(), 0
    device.upload(sent, buffer)
    device.download(buffer, received)
    np.testing.assert_array_equal(received, 0)  # enqueued, and not done yet
    device.synchronize()
    np.testing.assert_array_equal(received, numbers())
    assert (sent.shape, sent.dtype, buffer.size_bytes) == (SHAPE, np.float32, 24)


def test_marks_tell_what_lies_between_them_in_seconds(opened: Opened) -> None:
    device, gpu = opened
    sent, buffer = device.page_locked(SHAPE), device.allocate(24)
    marks = [device.mark()]
    device.upload(sent, buffer)
    marks.append(device.mark())
    gpu.enqueue(lambda: None, KERNEL_S)
    marks.append(device.mark())
    device.synchronize()
    assert device.seconds_between(*marks[:2]) == pytest.approx(COPY_S)
    assert device.seconds_between(*marks[1:]) == pytest.approx(KERNEL_S)


def test_a_graph_repeats_what_was_captured_and_capturing_does_nothing(opened: Opened) -> None:
    device, gpu = opened
    done: list[int] = []
    graph = device.capture(lambda: gpu.enqueue(lambda: done.append(1), KERNEL_S))
    device.synchronize()
    assert done == []
    for _ in range(2):
        graph.launch()
    device.synchronize()
    assert done == [1, 1]
    assert gpu.launched_graphs == 2


def test_memory_is_free_once_nobody_holds_it(opened: Opened) -> None:
    device, gpu = opened
    buffer = device.allocate(8)
    address = buffer.address
    assert gpu.freed == []
    del buffer
    gc.collect()
    assert gpu.freed == [address]


def test_an_array_keeps_its_page_locked_memory() -> None:
    device, gpu = by_bindings()
    part = device.page_locked(SHAPE)[1:]
    gc.collect()
    assert gpu.freed == []
    del part
    gc.collect()
    assert len(gpu.freed) == 1


def test_more_memory_than_there_is_is_a_sentence_in_cudas_words(opened: Opened) -> None:
    device, _ = opened
    with pytest.raises(ExportError, match=r"CUDA refuses a call: .*out of memory") as caught:
        device.allocate(MEMORY_BYTES + 1)
    assert "nvidia-smi" in caught.value.hint


def test_a_copy_to_memory_that_is_not_the_gpus_is_refused(opened: Opened) -> None:
    device, gpu = opened
    buffer = device.allocate(24)
    del gpu.memory[buffer.address]
    with pytest.raises(ExportError, match="invalid argument"):
        device.upload(device.page_locked(SHAPE), buffer)


@pytest.mark.parametrize(
    "opening",
    [
        lambda index, gpus: BindingsDevice(index, FakeRuntime(SimulatedGpu(), gpus)),
        lambda index, gpus: PycudaDevice(index, FakeDriver(SimulatedGpu(), gpus)),
    ],
)
def test_a_gpu_that_cuda_does_not_see_is_unavailable(opening: Callable[[int, int], GpuDevice]) -> None:
    assert opening(1, 2).index == 1
    with pytest.raises(BackendUnavailableError, match="cuda:2 cannot be used: CUDA sees 2 GPUs") as caught:
        opening(2, 2)
    assert caught.value.exit_code == 3


def test_a_gpu_is_named_as_its_drivers_tools_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert by_bindings()[0].gpu == "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f" == f"GPU-{_dashed(UUID.hex())}"
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\n[ "$1 $3" = "--query-gpu=uuid --id={BUS}" ] && echo GPU-1234\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert by_pycuda()[0].gpu == "GPU-1234"


def _dashed(digits: str) -> str:
    return "-".join([digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]])


def test_both_give_other_libraries_their_stream(opened: Opened) -> None:
    assert opened[0].stream == STREAM


def test_pycuda_works_in_the_context_that_everyone_shares() -> None:
    driver = FakeDriver(SimulatedGpu())
    PycudaDevice(0, driver)
    assert driver.contexts == ["primary"]


def test_a_capture_ends_where_what_is_captured_fails() -> None:
    gpu = SimulatedGpu()

    def failing() -> None:
        raise ExportError("run", "TensorRT refuses")

    with pytest.raises(ExportError, match="TensorRT refuses"):
        capture(STREAM, failing, FakeRuntime(gpu))
    assert gpu.captured is None


def install(monkeypatch: pytest.MonkeyPatch, pycuda: FakeDriver | None, bindings: FakeRuntime | None) -> None:
    """Let these be what is installed of PyCUDA and cuda-bindings."""
    packages: dict[str, ModuleType | None] = {"pycuda": None, "pycuda.driver": None}
    if pycuda is not None:
        package = ModuleType("pycuda")
        package.driver = pycuda  # type: ignore[attr-defined]
        packages = {"pycuda": package, "pycuda.driver": pycuda}  # type: ignore[dict-item]
    packages["cuda"] = packages["cuda.bindings"] = packages["cuda.bindings.runtime"] = None
    if bindings is not None:
        outer, inner = ModuleType("cuda"), ModuleType("cuda.bindings")
        outer.bindings, inner.runtime = inner, bindings  # type: ignore[attr-defined]
        packages |= {"cuda": outer, "cuda.bindings": inner, "cuda.bindings.runtime": bindings}  # type: ignore[dict-item]
    for name, package_ in packages.items():
        monkeypatch.setitem(sys.modules, name, package_)


def test_pycuda_is_taken_where_it_is_and_cuda_bindings_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimulatedGpu()
    install(monkeypatch, FakeDriver(gpu), FakeRuntime(gpu))
    assert isinstance(open_device(0), PycudaDevice)
    install(monkeypatch, None, FakeRuntime(gpu))
    assert isinstance(open_device(0), BindingsDevice)
    assert no_device() is None


def test_without_either_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None, None)
    with pytest.raises(BackendUnavailableError, match=r"pycuda cannot be imported .*cuda-bindings cannot be") as caught:
        open_device(0)
    assert all(library.install in caught.value.hint for library in device_libraries())
    with pytest.raises(BackendUnavailableError, match="cuda-bindings cannot be imported"):
        capture(STREAM, lambda: None)


def test_without_a_gpu_each_says_what_its_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeDriver(SimulatedGpu(), 0), FakeRuntime(SimulatedGpu(), 0))
    assert pycuda_device.unavailable() == "there is no CUDA GPU (cuInit failed: no CUDA-capable device is detected)"
    assert bindings_device.unavailable() == "there is no CUDA GPU (CUDA driver version is insufficient)"


def test_the_fake_of_cuda_bindings_is_called_as_the_real_module() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    functions = {
        name: made for name, made in vars(FakeRuntime).items() if inspect.isfunction(made) and name[:2] == "cu"
    }
    assert len(functions) > 20
    for name, made in functions.items():
        parameters = list(inspect.signature(made).parameters)[1:]  # without self
        assert parameters == list(inspect.signature(getattr(runtime, name)).parameters), name
    for name, made in vars(FakeRuntime).items():
        if inspect.isclass(made):
            real = getattr(runtime, name)
            assert {one.name: one.value for one in made} == {one.name: int(getattr(real, one.name)) for one in made}
    assert runtime.cudaStreamNonBlocking == FakeRuntime.cudaStreamNonBlocking
    assert len(runtime.cudaDeviceProp().uuid.bytes) == len(UUID)


def test_the_fake_of_pycuda_is_called_as_the_real_module() -> None:
    driver = pytest.importorskip("pycuda.driver", reason="PyCUDA is not installed")
    fake = FakeDriver(SimulatedGpu())
    for name in (name for name in dir(fake) if name[0] != "_" and name not in ("gpu", "contexts")):
        assert hasattr(driver, name), name
    for name in ("count", "retain_primary_context", "pci_bus_id"):
        assert hasattr(driver.Device, name)
    assert all(hasattr(driver.Context, name) for name in ("push", "pop"))
    assert all(hasattr(driver.Stream, name) for name in ("handle", "synchronize"))
    assert all(hasattr(driver.Event, name) for name in ("record", "time_till"))
    assert hasattr(driver.DeviceAllocation, "__int__")


def test_the_device_layer_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from effvit.export.device import no_device; no_device()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
