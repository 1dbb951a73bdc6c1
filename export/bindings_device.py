"""GPUs through NVIDIA's cuda-bindings: where there is no PyCUDA, and for captured graphs, which PyCUDA lacks."""

from __future__ import annotations

import ctypes
import uuid
import weakref
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from effvit.errors import BackendUnavailableError
from effvit.export.device import Array, DeviceBuffer, DeviceLibrary, no_such_device, refused

INSTALL = "pip install cuda-bindings"


class _Owned:
    """What CUDA has given out, given back when nobody refers to it any more."""

    def __init__(self, handle: Any, free: Callable[[Any], object]) -> None:
        self.handle, self._free = handle, free

    def __del__(self) -> None:
        self._free(self.handle)


class BindingsDevice:
    """A GPU by the runtime's interface, in the context that the runtime shares with everyone in the process."""

    def __init__(self, index: int, runtime: Any = None) -> None:
        """Open the GPU of that number; `runtime` is the module of that name (None: the installed one).

        Raises:
            BackendUnavailableError: CUDA sees no GPU of that number.
        """
        self._cuda = _installed() if runtime is None else runtime
        self.index = index
        count = _count(self._cuda)
        if index >= count:
            raise no_such_device(index, count)
        self._call(self._cuda.cudaSetDevice, index)
        self.gpu = f"GPU-{uuid.UUID(bytes=self._call(self._cuda.cudaGetDeviceProperties, index).uuid.bytes)}"
        # One that does not wait for what others enqueue on the default stream.
        stream = self._call(self._cuda.cudaStreamCreateWithFlags, self._cuda.cudaStreamNonBlocking)
        self._owned = _Owned(stream, self._cuda.cudaStreamDestroy)
        self.stream = int(stream)

    def page_locked(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        numbers = ctypes.c_float * prod(shape)
        address = self._call(self._cuda.cudaMallocHost, ctypes.sizeof(numbers))
        memory = numbers.from_address(address)  # the array keeps it
        weakref.finalize(memory, self._cuda.cudaFreeHost, address)
        return np.ctypeslib.as_array(memory).reshape(shape)

    def allocate(self, size_bytes: int) -> DeviceBuffer:
        address = self._call(self._cuda.cudaMalloc, size_bytes)
        return DeviceBuffer(int(address), size_bytes, _Owned(address, self._cuda.cudaFree))

    def upload(self, source: Array, target: DeviceBuffer) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(self._cuda.cudaMemcpyAsync, target.address, source.ctypes.data, source.nbytes, kind, self.stream)

    def download(self, source: DeviceBuffer, target: Array) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(self._cuda.cudaMemcpyAsync, target.ctypes.data, source.address, target.nbytes, kind, self.stream)

    def mark(self) -> Any:
        event = _Owned(self._call(self._cuda.cudaEventCreate), self._cuda.cudaEventDestroy)
        self._call(self._cuda.cudaEventRecord, event.handle, self.stream)
        return event

    def seconds_between(self, first: Any, second: Any) -> float:
        milliseconds: float = self._call(self._cuda.cudaEventElapsedTime, first.handle, second.handle)
        return milliseconds * 1e-3

    def synchronize(self) -> None:
        self._call(self._cuda.cudaStreamSynchronize, self.stream)

    def capture(self, enqueue: Callable[[], None]) -> CapturedGraph:
        return capture(self.stream, enqueue, self._cuda)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return _value(self._cuda, function(*arguments))


class CapturedGraph:
    """An executable graph, and the stream that it is launched on."""

    def __init__(self, cuda: Any, executable: Any, stream: int) -> None:
        self._cuda, self._stream = cuda, stream
        self._owned = _Owned(executable, cuda.cudaGraphExecDestroy)

    def launch(self) -> None:
        _value(self._cuda, self._cuda.cudaGraphLaunch(self._owned.handle, self._stream))


def capture(stream: int, enqueue: Callable[[], None], runtime: Any = None) -> CapturedGraph:
    """Return what `enqueue` enqueues on `stream`, whoever made it, as a graph.

    Raises:
        BackendUnavailableError: cuda-bindings is not installed.
        ExportError: Something in it cannot be captured.
    """
    cuda = _installed() if runtime is None else runtime
    # What other threads do meanwhile is nobody's business.
    _value(cuda, cuda.cudaStreamBeginCapture(stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal))
    try:
        enqueue()
    finally:
        answer = cuda.cudaStreamEndCapture(stream)  # a stream that stays in capture does nothing any more
    graph = _value(cuda, answer)
    executable = _value(cuda, cuda.cudaGraphInstantiate(graph, 0))
    _value(cuda, cuda.cudaGraphDestroy(graph))
    return CapturedGraph(cuda, executable, stream)


def missing() -> str | None:
    """Return why cuda-bindings cannot be imported, or None."""
    try:
        import cuda.bindings.runtime  # noqa: F401
    except ImportError as error:
        return f"cuda-bindings cannot be imported ({error})"
    return None


def unavailable() -> str | None:
    """Return why no GPU can be reached through cuda-bindings, or None."""
    reason = missing()
    if reason is not None:
        return reason
    cuda = _installed()
    status, count = cuda.cudaGetDeviceCount()
    if status != cuda.cudaError_t.cudaSuccess:
        return f"there is no CUDA GPU ({_words(cuda, status)})"
    return None if count else "there is no CUDA GPU"


def _installed() -> Any:
    reason = missing()
    if reason is not None:
        raise BackendUnavailableError(reason, INSTALL)
    from cuda.bindings import runtime

    return runtime


def _count(cuda: Any) -> int:
    status, count = cuda.cudaGetDeviceCount()
    return int(count) if status == cuda.cudaError_t.cudaSuccess else 0


def _value(cuda: Any, answer: tuple[Any, ...]) -> Any:
    """Return what a call returned beside its status, None if that was nothing.

    Raises:
        ExportError: The call failed.
    """
    status, *values = answer
    if status != cuda.cudaError_t.cudaSuccess:
        raise refused(_words(cuda, status))
    return values[0] if values else None


def _words(cuda: Any, status: Any) -> str:
    _, text = cuda.cudaGetErrorString(status)
    return str(text.decode())


LIBRARY = DeviceLibrary(
    name="cuda-bindings",
    package="cuda-bindings",
    summary="reaches GPUs where PyCUDA is not installed, and captures CUDA graphs",
    install=INSTALL,
    unavailable=unavailable,
    open=BindingsDevice,
)
