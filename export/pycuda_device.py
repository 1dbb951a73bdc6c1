"""GPUs through PyCUDA, in the primary context; graphs are captured by cuda-bindings, on PyCUDA's stream."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from effvit.environment import gpu_uuid
from effvit.errors import BackendUnavailableError
from effvit.export.device import Array, DeviceBuffer, DeviceLibrary, Graph, no_such_device, refused

INSTALL = "pip install 'effvit[pycuda]', which compiles it with the CUDA toolkit and a C++ compiler"
# CU_STREAM_NON_BLOCKING of cuda.h, which PyCUDA gives no name: a stream that does not wait for the default one.
NON_BLOCKING = 1


class PycudaDevice:
    """A GPU by the driver's interface; its context stays the current one of this thread until the process ends."""

    def __init__(self, index: int, driver: Any = None, runtime: Any = None) -> None:
        """Open the GPU of that number; `driver` is PyCUDA's module, `runtime` that of cuda-bindings (None: installed).

        Raises:
            BackendUnavailableError: CUDA sees no GPU of that number.
        """
        self._cuda = _installed() if driver is None else driver
        self._runtime = runtime
        self.index = index
        with self._errors():
            self._cuda.init()
            count = self._cuda.Device.count()
            if index >= count:
                raise no_such_device(index, count)
            device = self._cuda.Device(index)
            context = device.retain_primary_context()
            context.push()
            # PyCUDA ends a process that leaves a context behind.
            atexit.register(context.pop)
            self._stream = self._cuda.Stream(NON_BLOCKING)
        self.gpu = gpu_uuid(device.pci_bus_id())
        self.stream: int = self._stream.handle

    def page_locked(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        with self._errors():
            memory: npt.NDArray[np.float32] = self._cuda.pagelocked_empty(shape, np.float32)
        return memory

    def allocate(self, size_bytes: int) -> DeviceBuffer:
        with self._errors():
            allocation = self._cuda.mem_alloc(size_bytes)
        return DeviceBuffer(int(allocation), size_bytes, allocation)

    def upload(self, source: Array, target: DeviceBuffer) -> None:
        with self._errors():
            self._cuda.memcpy_htod_async(target.address, source, self._stream)

    def download(self, source: DeviceBuffer, target: Array) -> None:
        with self._errors():
            self._cuda.memcpy_dtoh_async(target, source.address, self._stream)

    def mark(self) -> Any:
        event = self._cuda.Event()
        event.record(self._stream)
        return event

    def seconds_between(self, first: Any, second: Any) -> float:
        milliseconds: float = first.time_till(second)
        return milliseconds * 1e-3

    def synchronize(self) -> None:
        # No context manager: this is timed.
        try:
            self._stream.synchronize()
        except self._cuda.Error as error:
            raise refused(str(error)) from error

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        from effvit.export.bindings_device import capture

        return capture(self.stream, enqueue, self._runtime)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._cuda.Error as error:
            raise refused(str(error)) from error


def unavailable() -> str | None:
    """Return why no GPU can be reached through PyCUDA, or None."""
    try:
        import pycuda.driver as driver
    except ImportError as error:
        return f"pycuda cannot be imported ({error})"
    try:
        driver.init()
    except driver.Error as error:
        return f"there is no CUDA GPU ({error})"
    return None if driver.Device.count() else "there is no CUDA GPU"


def _installed() -> Any:
    try:
        import pycuda.driver as driver
    except ImportError as error:
        raise BackendUnavailableError(f"pycuda cannot be imported ({error})", INSTALL) from error
    return driver


LIBRARY = DeviceLibrary(
    name="PyCUDA",
    package="pycuda",
    summary="reaches GPUs: memory, copies and events of TensorRT's sessions",
    install=INSTALL,
    unavailable=unavailable,
    open=PycudaDevice,
)
