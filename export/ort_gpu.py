"""ONNX Runtime on an NVIDIA GPU: a stream and buffers of our own, options that are stated and read back.

PyTorch lends memory, stream and events: it shares the primary CUDA context with ONNX Runtime, and has loaded the CUDA
libraries that ONNX Runtime looks for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effvit.errors import BackendUnavailableError, FallbackError, first_line
from effvit.export.base import Artifact, Images, Logits, Session, StagedSession
from effvit.export.cuda import require_gpu
from effvit.export.device import DeviceBuffer, GpuDevice
from effvit.export.ort import CPU_PROVIDER, Assigned, Provider, assigned_nodes, computed_in, opened, options, placement
from effvit.export.ort import version as ort_version
from effvit.export.pieces import StagedFixedBatchSession
from effvit.export.settings import RuntimeSettings
from effvit.export.torch_device import TorchDevice
from effvit.spec import Precision

INSTALL = "pip install 'effvit[gpu]' in place of 'effvit[cpu]', with PyTorch for the same major version of CUDA"
# An address of this process: no setting that anyone could ask for again, nor one that is told as it was given.
_STREAM = "user_compute_stream"


class OrtGpuSession:
    """A graph on one GPU, bound to buffers there; a launch returns before the GPU has computed.

    `bind` copies into the buffers of the batch before where it is of the same shape, whose addresses a CUDA graph has
    recorded.
    """

    def __init__(
        self,
        session: Any,
        artifact: Artifact,
        provider: str,
        device: GpuDevice,
        run_options: Any = None,
        memory: str = "cuda",
    ) -> None:
        """Launch `session`, which runs on the stream of `device`, with `run_options` (None: the usual ones).

        `memory` is what ONNX Runtime calls the device's.
        """
        self._session, self._artifact, self._provider, self._device = session, artifact, provider, device
        self._run_options, self._memory = run_options, memory
        self._binding = session.io_binding()
        self._host_images = self._host_logits = np.empty(0, dtype=np.float32)
        self._images = self._logits = DeviceBuffer(0, 0, None)

    @property
    def gpu(self) -> str:
        return self._device.gpu

    def bind(self, images: Images) -> None:
        if self._host_images.shape != images.shape:
            self._make_buffers(images.shape)
        np.copyto(self._host_images, images)
        self.upload()
        self.synchronize()

    def launch(self) -> None:
        self._session.run_with_iobinding(self._binding, self._run_options)

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
        device, image, logits = self._device, self._session.get_inputs()[0].name, self._session.get_outputs()[0]
        self._host_images, self._host_logits = (
            device.page_locked(shape),
            device.page_locked((shape[0], logits.shape[1])),
        )
        self._images, self._logits = (device.allocate(host.nbytes) for host in (self._host_images, self._host_logits))
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        place = (self._memory, device.index, np.float32)
        self._binding.bind_input(image, *place, shape, self._images.address)
        self._binding.bind_output(logits.name, *place, self._host_logits.shape, self._logits.address)


def open_for_batch(
    artifact: Artifact, threads: int, index: int, provider: Callable[[GpuDevice, int], Provider], launches: int
) -> Session:
    """Load the graph onto the GPU of that number for the first batch that is bound, and launch it so many times.

    `provider` returns the provider on a GPU for a batch. What takes a launch to be made, such as an engine or a CUDA
    graph, is there then.

    Raises:
        BackendUnavailableError: There is no such GPU, or the provider does not load.
        FallbackError: The provider has not taken an option.
        ExportError: ONNX Runtime refuses the file.
    """
    import onnxruntime as ort

    require_gpu(index)

    def compiled_for(images: Images) -> StagedSession:
        device = TorchDevice(index)
        session = open_on_device(ort, artifact, threads, provider(device, len(images)), device)
        session.bind(images)
        for _ in range(launches):
            session.launch()
            session.synchronize()
        return session

    return StagedFixedBatchSession(compiled_for)


def open_on_device(ort: Any, artifact: Artifact, threads: int, provider: Provider, device: GpuDevice) -> OrtGpuSession:
    """Load the graph onto `device` and its stream, on this one provider, and check that its options are as stated.

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
    return OrtGpuSession(session, artifact, name, device, run_options)


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
