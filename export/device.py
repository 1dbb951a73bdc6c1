"""What sessions need of an NVIDIA GPU: memory, copies, one stream, events, graphs. No torch.

Through PyCUDA where it is installed, through NVIDIA's cuda-bindings otherwise. Both use the primary context of the GPU,
which PyTorch uses, too, if it is in the same process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from effvit.errors import BackendUnavailableError, ExportError

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class DeviceBuffer:
    """`size_bytes` of a GPU's memory at `address`, freed with `owner` when nobody holds the buffer any more."""

    address: int
    size_bytes: int
    owner: object


class Graph(Protocol):
    """Work that was captured once; `launch` enqueues all of it with one call of the driver."""

    def launch(self) -> None: ...


class GpuDevice(Protocol):
    """One GPU, and one stream of it on which everything is enqueued and done in order.

    `gpu` is its name with its driver's tools, `GPU-` and a UUID; `stream` the handle that other libraries take. Copies
    are from and to `page_locked` memory of the host: out of other memory the driver copies by itself, and waits.
    `capture` calls `enqueue`, and returns what that enqueued instead of doing it. `seconds_between` is for marks that
    are past.
    """

    @property
    def index(self) -> int: ...
    @property
    def gpu(self) -> str: ...
    @property
    def stream(self) -> int: ...
    def page_locked(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]: ...
    def allocate(self, size_bytes: int) -> DeviceBuffer: ...
    def upload(self, source: Array, target: DeviceBuffer) -> None: ...
    def download(self, source: DeviceBuffer, target: Array) -> None: ...
    def mark(self) -> Any: ...
    def seconds_between(self, first: Any, second: Any) -> float: ...
    def synchronize(self) -> None: ...
    def capture(self, enqueue: Callable[[], None]) -> Graph: ...


@dataclass(frozen=True, slots=True)
class DeviceLibrary:
    """A Python package that reaches GPUs. `unavailable()` returns why it finds none here, or None."""

    name: str
    package: str
    summary: str
    install: str
    unavailable: Callable[[], str | None]
    open: Callable[[int], GpuDevice]


def device_libraries() -> tuple[DeviceLibrary, ...]:
    """Return what reaches GPUs, here or not, in the order of preference."""
    from effvit.export import bindings_device, pycuda_device

    return pycuda_device.LIBRARY, bindings_device.LIBRARY


def no_device() -> str | None:
    """Return why no GPU can be used here, or None if one can."""
    reasons = []
    for library in device_libraries():
        reason = library.unavailable()
        if reason is None:
            return None
        reasons.append(reason)
    return "; ".join(reasons)


def open_device(index: int) -> GpuDevice:
    """Return the GPU of that number.

    Raises:
        BackendUnavailableError: It is not there, or nothing is installed that reaches it.
        ExportError: The GPU refuses.
    """
    for library in device_libraries():
        if library.unavailable() is None:
            return library.open(index)
    raise BackendUnavailableError(
        f"cuda:{index} cannot be used: {no_device()}", " or ".join(library.install for library in device_libraries())
    )


def no_such_device(index: int, count: int) -> BackendUnavailableError:
    """Return the error for a GPU beyond the `count` that CUDA sees."""
    return BackendUnavailableError(
        f"cuda:{index} cannot be used: CUDA sees {count} GPU{'s' * (count != 1)}",
        "choose another --device, and see CUDA_VISIBLE_DEVICES",
    )


def refused(what: str) -> ExportError:
    """Return the error for a call that CUDA refuses, in CUDA's own words."""
    return ExportError("run", f"CUDA refuses a call: {what}", "see `nvidia-smi` for what else uses the GPU")
