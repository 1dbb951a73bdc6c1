"""ONNX Runtime on an NVIDIA GPU: a stream and buffers of our own, options that are stated and read back.

PyTorch lends memory, stream and events: it shares the primary CUDA context with ONNX Runtime, and has loaded the CUDA
libraries that ONNX Runtime looks for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effvit.errors import BackendUnavailableError, FallbackError, first_line
from effvit.export.base import Artifact, Images, Logits
from effvit.export.ort import CPU_PROVIDER, Assigned, Provider, assigned_nodes, computed_in, opened, options, placement
from effvit.export.ort import version as ort_version
from effvit.export.settings import RuntimeSettings
from effvit.spec import Precision

if TYPE_CHECKING:
    from torch import Tensor

INSTALL = "pip install 'effvit[gpu]' in place of 'effvit[cpu]', with PyTorch for the same major version of CUDA"
# An address of this process: no setting that anyone could ask for again, nor one that is told as it was given.
_STREAM = "user_compute_stream"


class GpuStream:
    """The GPU of one number, and a stream on it that copies and launches are enqueued on, one after the other."""

    def __init__(self, index: int, cuda: Any = None, device: str | None = None) -> None:
        """Make a stream; `cuda` is the module of that name (None: `torch.cuda`), `device` what tensors lie on."""
        import torch

        self._torch, self._cuda = torch, torch.cuda if cuda is None else cuda
        self.index = index
        self.device = torch.device(device or f"cuda:{index}")
        self._stream = self._cuda.Stream(index)
        self.gpu = f"GPU-{self._cuda.get_device_properties(index).uuid}"

    @property
    def handle(self) -> str:
        """The address of the stream, as an option of ONNX Runtime."""
        return str(self._stream.cuda_stream)

    def empty(self, shape: Sequence[int]) -> Tensor:
        return self._torch.empty(tuple(shape), device=self.device)

    def page_locked(self, shape: Sequence[int]) -> Tensor:
        # A tensor that stays on the CPU, as in tests, has no driver that could lock pages.
        return self._torch.empty(tuple(shape), pin_memory=self.device.type == "cuda")

    def copy(self, to: Tensor, values: Tensor) -> None:
        with self._cuda.stream(self._stream):
            to.copy_(values, non_blocking=True)

    def mark(self) -> Any:
        event = self._cuda.Event(enable_timing=True)
        event.record(self._stream)
        return event

    def synchronize(self) -> None:
        self._stream.synchronize()


class OrtGpuSession:
    """A graph on one GPU, bound to buffers there; a launch returns before the GPU has computed.

    `bind` copies into the buffers of the batch before where it is of the same shape, whose addresses a CUDA graph has
    recorded.
    """

    def __init__(
        self, session: Any, artifact: Artifact, provider: str, stream: GpuStream, run_options: Any = None
    ) -> None:
        """Launch `session`, which runs on `stream`, with `run_options` (None: those that do not wait for the GPU)."""
        self._session, self._artifact, self._provider, self._stream = session, artifact, provider, stream
        self._run_options = run_options
        self._binding = session.io_binding()
        self._images = self._host_images = stream.page_locked(())
        self._logits = self._host_logits = stream.page_locked(())

    @property
    def gpu(self) -> str:
        return self._stream.gpu

    def bind(self, images: Images) -> None:
        import torch

        if self._images.shape != images.shape:
            self._make_buffers(images.shape)
        self._host_images.copy_(torch.from_numpy(images))
        self.upload()
        self.synchronize()

    def launch(self) -> None:
        self._session.run_with_iobinding(self._binding, self._run_options)

    def synchronize(self) -> None:
        self._stream.synchronize()

    def upload(self) -> None:
        self._stream.copy(self._images, self._host_images)

    def download(self) -> None:
        self._stream.copy(self._host_logits, self._logits)

    def mark(self) -> Any:
        return self._stream.mark()

    def seconds_between(self, first: Any, second: Any) -> float:
        milliseconds: float = first.elapsed_time(second)
        return milliseconds * 1e-3

    def logits(self) -> Logits:
        self.download()
        self.synchronize()
        return self._host_logits.numpy().copy()

    def settings(self) -> RuntimeSettings:
        """Read the provider's options, and which provider took which nodes; those that are about shapes aside."""
        known: Mapping[str, str] = self._session.get_provider_options()[self._provider]
        nodes = assigned_nodes(self._session)
        rounded = known["use_tf32"] == "1" if "use_tf32" in known else None
        precision = None
        if nodes is not None:
            precision = computed_in(self._artifact.precision, nodes)
            if precision in (Precision.FP32, Precision.TF32) and rounded is not None:
                precision = Precision.TF32 if rounded else Precision.FP32
            nodes = _without_shapes(nodes, self._artifact)
        graph = next((known[name] for name in ("enable_cuda_graph", "trt_cuda_graph_enable") if name in known), None)
        return RuntimeSettings(
            runtime=f"onnxruntime {ort_version()}",
            device=f"cuda:{known['device_id']}",
            precision=precision,
            threads=self._session.get_session_options().intra_op_num_threads,
            placement=placement(self._session, nodes),
            tf32=rounded,
            cuda_graph=None if graph is None else graph in ("1", "True"),
            options=tuple(sorted((name, value) for name, value in known.items() if name != _STREAM)),
        )

    def _make_buffers(self, shape: tuple[int, ...]) -> None:
        image, logits = self._session.get_inputs()[0].name, self._session.get_outputs()[0]
        out = (shape[0], logits.shape[1])
        # Out of page-locked memory the GPU copies by itself; from other memory the driver would copy first, and wait.
        self._host_images, self._images = self._stream.page_locked(shape), self._stream.empty(shape)
        self._host_logits, self._logits = self._stream.page_locked(out), self._stream.empty(out)
        kind, index = self._stream.device.type, self._stream.index
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        self._binding.bind_input(image, kind, index, np.float32, shape, self._images.data_ptr())
        self._binding.bind_output(logits.name, kind, index, np.float32, out, self._logits.data_ptr())


def open_on_stream(ort: Any, artifact: Artifact, threads: int, provider: Provider, stream: GpuStream) -> OrtGpuSession:
    """Load the graph onto the GPU of `stream`, on this one provider, and check that its options are as stated.

    Raises:
        BackendUnavailableError: The provider does not load.
        FallbackError: It has not taken an option.
        ExportError: ONNX Runtime refuses the file, or an option.
    """
    name, stated = provider
    session = opened(ort, artifact.path, options(ort, threads), [provider])
    # A provider whose library does not load is left out with no more than a line in the log.
    if name not in session.get_providers():
        raise BackendUnavailableError(f"ONNX Runtime cannot load {name} and would compute on the CPU", INSTALL)
    known = session.get_provider_options()[name]
    others = [
        f"{key}={known.get(key)}"
        for key, value in stated.items()
        if key != _STREAM and not _same(value, known.get(key))
    ]
    if others:
        raise FallbackError(
            f"{name} has other options than it was given: {', '.join(others)}",
            "update onnxruntime-gpu",
        )
    run_options = ort.RunOptions()
    # Otherwise every launch waits for the GPU: what is timed then is no enqueueing.
    run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return OrtGpuSession(session, artifact, name, stream, run_options)


def library_error(library: str) -> str | None:
    """Return why a provider's library, which lies inside onnxruntime, cannot be loaded; None if it can.

    What is missing is named by the loader: CUDA's libraries, or TensorRT's.
    """
    import onnxruntime

    path = Path(onnxruntime.__file__).parent / "capi" / library
    if not path.exists():
        return f"onnxruntime {ort_version()} has no {library}"
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        return f"{library} cannot be loaded: {first_line(error)}"
    return None


def gpu_unavailable(provider: str, library: str) -> str | None:
    """Return why a provider of ONNX Runtime cannot be used here, or None; imports what a session needs."""
    import torch  # first, because it loads the CUDA libraries

    try:
        import onnxruntime
    except ImportError as error:
        return f"onnxruntime cannot be imported ({error})"
    if provider not in onnxruntime.get_available_providers():
        return f"this build of onnxruntime lacks {provider}"
    if not torch.cuda.is_available():
        return "there is no CUDA GPU"
    return library_error(library)


def _same(stated: str, known: str | None) -> bool:
    """Return whether an option is what it was given: numbers and switches are spelt in several ways."""
    spelt = {"true": "1", "false": "0"}
    one, other = (spelt.get(text.lower(), text.lower()) for text in (stated, known or ""))
    return one == other


def _without_shapes(nodes: Sequence[Assigned], artifact: Artifact) -> list[Assigned]:
    """Return the nodes without those on the CPU that compute the shapes of tensors, which are wanted there."""
    if all(node.provider != CPU_PROVIDER for node in nodes):
        return list(nodes)
    of_shapes = _integer_nodes(Path(artifact.path))
    return [node for node in nodes if node.provider != CPU_PROVIDER or node.name not in of_shapes]


def _integer_nodes(path: Path) -> frozenset[str]:
    """Return the names of the nodes of a graph whose results are all integers, as in the arithmetic of shapes."""
    import onnx

    from effvit.export.graph_file import nodes_of, read_graph

    graph = read_graph(path).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    integers = {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL}
    return frozenset(node.name for node in nodes_of(graph) if {types.get(name) for name in node.output} <= integers)
