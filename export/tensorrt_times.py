"""How long the layers of an engine take: TensorRT times them one by one, in a pass in which nothing else is timed."""

from __future__ import annotations

from collections import defaultdict
from math import prod
from typing import SupportsFloat

from effvit.errors import ExportError
from effvit.export.device import GpuDevice
from effvit.export.tensorrt_engine import FLOAT_BYTES, LoadedEngine

LAUNCHES, WARMUP_LAUNCHES = 20, 5


def layer_seconds(loaded: LoadedEngine, device: GpuDevice) -> dict[str, float]:
    """Return the mean seconds of every layer by name, for the batch that kernels were chosen for.

    What the images show makes no difference to their time: they are whatever lies in memory.

    Raises:
        ExportError: TensorRT or CUDA refuses.
    """
    import tensorrt as trt

    class Adding(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.seconds: defaultdict[str, float] = defaultdict(float)

        def report_layer_time(self, layer_name: str, ms: SupportsFloat) -> None:
            self.seconds[layer_name] += float(ms) * 1e-3 / LAUNCHES

    context = loaded.typical_context()
    shapes = [tuple(context.get_tensor_shape(name)) for name in (loaded.image, loaded.logits)]
    buffers = [device.allocate(FLOAT_BYTES * prod(shape)) for shape in shapes]
    for name, buffer in zip((loaded.image, loaded.logits), buffers, strict=True):
        context.set_tensor_address(name, buffer.address)
    profiler = Adding()
    for launch in range(WARMUP_LAUNCHES + LAUNCHES):
        if launch == WARMUP_LAUNCHES:
            context.profiler = profiler
        if not context.execute_async_v3(device.stream):
            raise ExportError(
                "run", f"TensorRT refuses to run the engine: {loaded.messages.error}", "see `effvit doctor`"
            )
        device.synchronize()
    return dict(profiler.seconds)
