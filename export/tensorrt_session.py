"""A TensorRT engine bound to one batch, with its transfers told from the pass itself. No torch."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from effvit.errors import ExportError, UnsupportedError
from effvit.export.base import Artifact, Images, Logits
from effvit.export.device import GpuDevice, Graph
from effvit.export.pieces import StagedFixedBatchSession
from effvit.export.settings import RuntimeSettings
from effvit.export.tensorrt_engine import FLOAT_BYTES, LoadedEngine, layer_information

if TYPE_CHECKING:
    import tensorrt as trt


class TensorrtSession:
    """One execution context; copies and launches are enqueued on the device's stream, one after the other.

    A launch is a pass over the batch that `bind` has copied to the GPU, and leaves its logits there. With `graph` it is
    one call of the driver, which repeats what TensorRT enqueued once; otherwise TensorRT enqueues every kernel anew.
    """

    def __init__(
        self, loaded: LoadedEngine, device: GpuDevice, artifact: Artifact, images: Images, *, graph: bool
    ) -> None:
        """Bind the engine of `artifact` to the batch of `images`, which stays that of this session.

        Raises:
            UnsupportedError: The engine is built for other batches.
            ExportError: TensorRT or CUDA refuses.
        """
        self._loaded, self._device, self._artifact = loaded, device, artifact
        _check_batch(loaded, len(images))
        self._context = loaded.context()
        shape = _set_shape(loaded, self._context, images.shape)
        self.gpu = device.gpu
        self._host_images, self._host_logits = device.page_locked(images.shape), device.page_locked(shape)
        self._images, self._logits = device.allocate(images.nbytes), device.allocate(FLOAT_BYTES * prod(shape))
        for name, buffer in ((loaded.image, self._images), (loaded.logits, self._logits)):
            if not self._context.set_tensor_address(name, buffer.address):
                raise ExportError("open", f"TensorRT refuses the memory of {name}", "report this engine to effvit")
        self._graph: Graph | None = None
        self.bind(images)
        if graph:
            # The first launch after a change of shapes settles what later ones repeat, and cannot be captured.
            self._enqueue()
            self.synchronize()
            self._graph = device.capture(self._enqueue)

    def bind(self, images: Images) -> None:
        np.copyto(self._host_images, images)
        self.upload()
        self.synchronize()

    def launch(self) -> None:
        if self._graph is None:
            self._enqueue()
        else:
            self._graph.launch()

    def synchronize(self) -> None:
        self._device.synchronize()

    def upload(self) -> None:
        self._device.upload(self._host_images, self._images)

    def download(self) -> None:
        self._device.download(self._logits, self._host_logits)

    def mark(self) -> Any:
        return self._device.mark()

    def seconds_between(self, first: Any, second: Any) -> float:
        return self._device.seconds_between(first, second)

    def logits(self) -> Logits:
        self.download()
        self.synchronize()
        return self._host_logits.copy()

    def settings(self) -> RuntimeSettings:
        """Read in which types most products are computed from what the engine's inspector tells of its layers."""
        import tensorrt as trt

        # Imports onnx, which nothing before needs.
        from effvit.export.engine_census import computed_in, engine_census

        census = engine_census(layer_information(self._loaded, self._context))
        return RuntimeSettings(
            runtime=f"tensorrt {trt.__version__}",
            device=f"cuda:{self._device.index}",
            precision=computed_in(census, self._artifact.precision, self._artifact.quantised),
            threads=None,
            tf32=True if any(share.type == "tf32" for share in census.products) else None,
            cuda_graph=self._graph is not None,
        )

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._device.stream):
            raise ExportError(
                "run", f"TensorRT refuses to run the engine: {self._loaded.messages.error}", "see `effvit doctor`"
            )


def session_of(loaded: LoadedEngine, device: GpuDevice, artifact: Artifact, *, graph: bool) -> StagedFixedBatchSession:
    """Return a session that takes any batch, and runs it in pieces of the first that is bound.

    The first one is to be one that the engine is built for.
    """
    return StagedFixedBatchSession(lambda images: TensorrtSession(loaded, device, artifact, images, graph=graph))


def _check_batch(loaded: LoadedEngine, batch: int) -> None:
    least, _, most = loaded.batches
    if not least <= batch <= most:
        built = f"a batch of {most}" if least == most else f"batches of {least} to {most}"
        raise UnsupportedError(
            f"the engine is built for {built}, not of {batch}", f"export it with --batch {batch}, or 1:{batch}:{batch}"
        )


def _set_shape(loaded: LoadedEngine, context: trt.IExecutionContext, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Set the shape of the images, and return that of the logits.

    Raises:
        ExportError: The engine refuses it.
    """
    if not context.set_input_shape(loaded.image, shape) or context.infer_shapes():
        raise ExportError(
            "open", f"the engine takes images of {loaded.shapes[1][1:]}, not of {shape[1:]}", "export it again"
        )
    return tuple(context.get_tensor_shape(loaded.logits))
