"""TensorRT engines: loaded from their files, and asked what they are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from effvit.errors import ExportError
from effvit.export.engine_file import AGAIN
from effvit.export.tensorrt_log import Messages, messages

if TYPE_CHECKING:
    import tensorrt as trt

FLOAT_BYTES = 4
"""Images and logits are float32 in engines of every type."""


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine with what has to live as long: its runtime, and the messages that it logs to.

    `image` and `logits` are the names of its input and of its output; `shapes` the smallest shape of the input, the
    one that kernels were chosen for, and the largest.
    """

    engine: trt.ICudaEngine
    runtime: trt.Runtime
    messages: Messages
    image: str
    logits: str
    shapes: tuple[tuple[int, ...], ...]

    @property
    def batches(self) -> tuple[int, int, int]:
        """The smallest batch, the one that kernels were chosen for, and the largest."""
        least, tuned, most = (shape[0] for shape in self.shapes)
        return least, tuned, most

    def context(self) -> trt.IExecutionContext:
        """Return what runs the engine once; it takes the memory of one launch.

        Raises:
            ExportError: TensorRT refuses, for want of memory say.
        """
        self.messages.lines.clear()
        made = self.engine.create_execution_context()
        if made is None:
            raise ExportError(
                "open", f"TensorRT cannot run the engine: {self.messages.error}", "see `nvidia-smi` for free memory"
            )
        return made

    def typical_context(self) -> trt.IExecutionContext:
        """Return a context with the batch that kernels were chosen for.

        Raises:
            ExportError: TensorRT refuses, for want of memory say.
        """
        made = self.context()
        made.set_input_shape(self.image, self.shapes[1])
        return made


def load_engine(plan: bytes, *, host_code: bool = False) -> LoadedEngine:
    """Load an engine onto the GPU that is current.

    CUDA is to be asked for a GPU before: without one, TensorRT ends the process. Engines that load in later versions of
    TensorRT bring `host_code` along, which is executed: that is for engines alone that are known to be ours.

    Raises:
        ExportError: TensorRT refuses it, or it is no classifier of float32 images.
    """
    import tensorrt as trt

    log = messages()
    log.lines.clear()
    runtime = trt.Runtime(log.logger)
    runtime.engine_host_code_allowed = host_code
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ExportError(
            "open", f"TensorRT cannot load the engine, as of another version or another GPU: {log.error}", AGAIN
        )
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
    types = {engine.get_tensor_dtype(name) for name in names}
    if (len(inputs), len(outputs), types) != (1, 1, {trt.DataType.FLOAT}):
        raise ExportError(
            "open", f"the engine takes {inputs} and returns {outputs}, not float32 images and logits", AGAIN
        )
    # Of inputs alone: the shapes of an output have no size, and reading them crashes.
    shapes = tuple(tuple(shape) for shape in engine.get_tensor_profile_shape(inputs[0], 0))
    return LoadedEngine(engine, runtime, log, inputs[0], outputs[0], shapes)


def layer_information(loaded: LoadedEngine, context: trt.IExecutionContext) -> bytes:
    """Return what the inspector tells of the engine's layers, as JSON, with the shapes of `context`."""
    import tensorrt as trt

    inspector = loaded.engine.create_engine_inspector()
    # Without shapes, the formats of a dynamic engine are "N/A due to dynamic shapes".
    inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON)).encode()
