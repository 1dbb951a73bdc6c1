"""GPUs through PyTorch, where it is in the process anyway: it shares the primary context with whoever else computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from effvit.export.bindings_device import capture
from effvit.export.device import Array, DeviceBuffer, Graph


class TorchDevice:
    """A GPU as PyTorch reaches it; memory is that of its allocator."""

    def __init__(self, index: int, stream: Any = None, cuda: Any = None, place: str | None = None) -> None:
        """Take the GPU of that number, which PyTorch sees.

        Everything is enqueued on `stream` (None: a new one). `cuda` is the module of that name (None: `torch.cuda`),
        and tensors lie on `place` (None: on that GPU).
        """
        import torch

        self._torch, self._cuda = torch, torch.cuda if cuda is None else cuda
        self._place = torch.device(place or f"cuda:{index}")
        self._stream = self._cuda.Stream(index) if stream is None else stream
        self.index = index
        self.gpu = f"GPU-{self._cuda.get_device_properties(index).uuid}"

    @property
    def stream(self) -> int:
        handle: int = self._stream.cuda_stream
        return handle

    def page_locked(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        # What stays on the processor, as in tests, has no driver that could lock pages.
        memory: npt.NDArray[np.float32] = self._torch.empty(shape, pin_memory=self._place.type == "cuda").numpy()
        return memory

    def allocate(self, size_bytes: int) -> DeviceBuffer:
        memory = self._torch.empty(size_bytes, dtype=self._torch.uint8, device=self._place)
        return DeviceBuffer(memory.data_ptr(), size_bytes, memory)

    def upload(self, source: Array, target: DeviceBuffer) -> None:
        self._copy(target.owner, self._bytes(source))

    def download(self, source: DeviceBuffer, target: Array) -> None:
        self._copy(self._bytes(target), source.owner)

    def mark(self) -> Any:
        event = self._cuda.Event(enable_timing=True)
        event.record(self._stream)
        return event

    def seconds_between(self, first: Any, second: Any) -> float:
        milliseconds: float = first.elapsed_time(second)
        return milliseconds * 1e-3

    def synchronize(self) -> None:
        self._stream.synchronize()

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        return capture(self.stream, enqueue)

    def _bytes(self, values: Array) -> Any:
        return self._torch.from_numpy(values.reshape(-1).view(np.uint8))

    def _copy(self, to: Any, values: Any) -> None:
        with self._cuda.stream(self._stream):
            to.copy_(values, non_blocking=True)
