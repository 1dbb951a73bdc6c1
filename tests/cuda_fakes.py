# ruff: noqa: N801, N802, N803, N815  # names are as NVIDIA writes them
"""A GPU in the memory of the host, and the two libraries that reach it: what of each the device layer calls.

What is enqueued is done when somebody waits for it, and takes made-up time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np

COPY_S, KERNEL_S = 0.001, 0.005
STREAM = 0x51
UUID = bytes(range(16))
BUS = "0000:65:00.0"
MEMORY_BYTES = 2**20

Work = tuple[Callable[[], object], float]


@dataclass
class SimulatedGpu:
    """One GPU with one stream; `memory` by address, `freed` addresses, and `waits`: how often somebody waited."""

    memory: dict[int, Any] = field(default_factory=dict)
    freed: list[int] = field(default_factory=list)
    queue: list[Work] = field(default_factory=list)
    captured: list[Work] | None = None
    clock_s: float = 0.0
    waits: int = 0
    launched_graphs: int = 0

    def allocate(self, size_bytes: int) -> int | None:
        """Return the address of so much memory; None if there is not so much."""
        if size_bytes > MEMORY_BYTES:
            return None
        block = (ctypes.c_char * size_bytes)()
        self.memory[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def free(self, address: int) -> None:
        self.freed.append(address)

    def enqueue(self, work: Callable[[], object], seconds: float) -> None:
        (self.queue if self.captured is None else self.captured).append((work, seconds))

    def copy(self, target: int, source: int, size_bytes: int) -> None:
        self.enqueue(lambda: ctypes.memmove(target, source, size_bytes), COPY_S)

    def wait(self) -> None:
        self.waits += 1
        for work, seconds in self.queue:
            work()
            self.clock_s += seconds
        self.queue.clear()

    def array(self, address: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return the float32 numbers at an address of this GPU."""
        size = int(np.prod(shape))
        return np.ctypeslib.as_array((ctypes.c_float * size).from_address(address)).reshape(shape)


class Event:
    """A moment in the stream."""

    def __init__(self, gpu: SimulatedGpu) -> None:
        self._gpu = gpu
        self.at_s: float | None = None

    def record(self, stream: object) -> Event:
        self._gpu.enqueue(self._stamp, 0.0)
        return self

    def time_till(self, other: Event) -> float:
        assert self.at_s is not None, "an event is asked before it is past"
        assert other.at_s is not None
        return (other.at_s - self.at_s) * 1e3

    def _stamp(self) -> None:
        self.at_s = self._gpu.clock_s


class FakeRuntime:
    """What of `cuda.bindings.runtime` is called: every answer is a tuple that begins with a status."""

    cudaStreamNonBlocking = 1

    class cudaError_t(IntEnum):
        cudaSuccess = 0
        cudaErrorInvalidValue = 1
        cudaErrorMemoryAllocation = 2
        cudaErrorInsufficientDriver = 35

    class cudaMemcpyKind(IntEnum):
        cudaMemcpyHostToDevice = 1
        cudaMemcpyDeviceToHost = 2

    class cudaStreamCaptureMode(IntEnum):
        cudaStreamCaptureModeThreadLocal = 1

    def __init__(self, gpu: SimulatedGpu, gpus: int = 1) -> None:
        self.gpu, self.gpus = gpu, gpus

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        if not self.gpus:
            return self.cudaError_t.cudaErrorInsufficientDriver, None
        return self.cudaError_t.cudaSuccess, self.gpus

    def cudaGetErrorString(self, error: Any) -> tuple[Any, ...]:
        words = {2: b"out of memory", 35: b"CUDA driver version is insufficient"}
        return self.cudaError_t.cudaSuccess, words.get(error, b"invalid argument")

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        return (self.cudaError_t.cudaSuccess,)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return self.cudaError_t.cudaSuccess, SimpleNamespace(uuid=SimpleNamespace(bytes=UUID))

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaStreamNonBlocking
        return self.cudaError_t.cudaSuccess, STREAM

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        return (self.cudaError_t.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        assert stream == STREAM
        self.gpu.wait()
        return (self.cudaError_t.cudaSuccess,)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        address = self.gpu.allocate(size)
        if address is None:
            return self.cudaError_t.cudaErrorMemoryAllocation, None
        return self.cudaError_t.cudaSuccess, address

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:
        return self.cudaMalloc(size)

    def cudaFree(self, devPtr: int) -> tuple[Any, ...]:
        self.gpu.free(devPtr)
        return (self.cudaError_t.cudaSuccess,)

    def cudaFreeHost(self, ptr: int) -> tuple[Any, ...]:
        return self.cudaFree(ptr)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: int) -> tuple[Any, ...]:
        device = src if kind is self.cudaMemcpyKind.cudaMemcpyDeviceToHost else dst
        if device not in self.gpu.memory or stream != STREAM:
            return (self.cudaError_t.cudaErrorInvalidValue,)
        self.gpu.copy(dst, src, count)
        return (self.cudaError_t.cudaSuccess,)

    def cudaEventCreate(self) -> tuple[Any, ...]:
        return self.cudaError_t.cudaSuccess, Event(self.gpu)

    def cudaEventDestroy(self, event: Event) -> tuple[Any, ...]:
        return (self.cudaError_t.cudaSuccess,)

    def cudaEventRecord(self, event: Event, stream: int) -> tuple[Any, ...]:
        event.record(stream)
        return (self.cudaError_t.cudaSuccess,)

    def cudaEventElapsedTime(self, start: Event, end: Event) -> tuple[Any, ...]:
        return self.cudaError_t.cudaSuccess, start.time_till(end)

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[Any, ...]:
        assert (stream, self.gpu.captured) == (STREAM, None)
        self.gpu.captured = []
        return (self.cudaError_t.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        graph, self.gpu.captured = self.gpu.captured, None
        return self.cudaError_t.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:
        return self.cudaError_t.cudaSuccess, list(graph)

    def cudaGraphDestroy(self, graph: Any) -> tuple[Any, ...]:
        graph.clear()
        return (self.cudaError_t.cudaSuccess,)

    def cudaGraphExecDestroy(self, graphExec: Any) -> tuple[Any, ...]:
        return (self.cudaError_t.cudaSuccess,)

    def cudaGraphLaunch(self, graphExec: list[Work], stream: int) -> tuple[Any, ...]:
        assert stream == STREAM
        self.gpu.launched_graphs += 1
        self.gpu.queue += graphExec
        return (self.cudaError_t.cudaSuccess,)


class Allocation:
    """Memory that PyCUDA has given out: a number, freed when nobody holds it."""

    def __init__(self, gpu: SimulatedGpu, address: int) -> None:
        self._gpu, self._address = gpu, address

    def __int__(self) -> int:
        return self._address

    def __del__(self) -> None:
        self._gpu.free(self._address)


class FakeDriver:
    """What of `pycuda.driver` is called: errors are raised."""

    class Error(Exception):
        pass

    def __init__(self, gpu: SimulatedGpu, gpus: int = 1) -> None:
        self.gpu = gpu
        self.contexts: list[str] = []
        context = SimpleNamespace(push=lambda: self.contexts.append("primary"), pop=lambda: None)

        class Device:
            def __init__(self, index: int) -> None:
                assert index < gpus

            count = staticmethod(lambda: gpus)

            def retain_primary_context(self) -> Any:
                return context

            def pci_bus_id(self) -> str:
                return BUS

        class Stream:
            handle = STREAM

            def __init__(self, flags: int = 0) -> None:
                assert flags == 1

            def synchronize(self) -> None:
                gpu.wait()

        self.Device, self.Stream = Device, Stream

    def init(self) -> None:
        if not self.Device.count():
            raise self.Error("cuInit failed: no CUDA-capable device is detected")

    def Event(self) -> Event:
        return Event(self.gpu)

    def mem_alloc(self, size: int) -> Allocation:
        address = self.gpu.allocate(size)
        if address is None:
            raise self.Error("cuMemAlloc failed: out of memory")
        return Allocation(self.gpu, address)

    def pagelocked_empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.empty(shape, dtype)

    def memcpy_htod_async(self, dest: int, src: np.ndarray, stream: Any) -> None:
        if dest not in self.gpu.memory:
            raise self.Error("cuMemcpyHtoDAsync failed: invalid argument")
        self.gpu.copy(dest, src.ctypes.data, src.nbytes)

    def memcpy_dtoh_async(self, dest: np.ndarray, src: int, stream: Any) -> None:
        self.gpu.copy(dest.ctypes.data, src, dest.nbytes)
