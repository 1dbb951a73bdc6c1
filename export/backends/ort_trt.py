"""TensorRT inside ONNX Runtime: engines that ONNX Runtime builds for the graph and keeps beside it.

The engines of this provider choose among the types that their flags allow, where those of the `tensorrt` backend are
strongly typed, and no option of it switches TF32 off: there is no strict fp32.
"""

from __future__ import annotations

from pathlib import Path

from effvit.errors import UnsupportedError
from effvit.export.base import Artifact, Backend, Session
from effvit.export.device import GpuDevice
from effvit.export.ort import Provider, export_typed, version
from effvit.export.ort_gpu import gpu_unavailable, open_for_batch
from effvit.spec import Precision
from effvit.storage import make_folder

PROVIDER, LIBRARY = "TensorrtExecutionProvider", "libonnxruntime_providers_tensorrt.so"
WORKSPACE_BYTES = 4 * 2**30
OPTIMISATION = 3
"""TensorRT's own default of 0 to 5."""


def provider_options(artifact: Artifact, device: GpuDevice, batch: int, folder: Path) -> Provider:
    """Return the provider for one batch, with the types that engines may compute in, and the folder that keeps them."""
    shape = f"images:{batch}x3x{artifact.height}x{artifact.width}"
    return PROVIDER, {
        "device_id": str(device.index),
        "has_user_compute_stream": "1",
        "user_compute_stream": str(device.stream),
        "trt_fp16_enable": str(int(artifact.precision is Precision.FP16)),
        "trt_bf16_enable": "0",
        "trt_int8_enable": "0",
        "trt_cuda_graph_enable": "0",
        "trt_builder_optimization_level": str(OPTIMISATION),
        "trt_max_workspace_size": str(WORKSPACE_BYTES),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        "trt_profile_min_shapes": shape,
        "trt_profile_opt_shapes": shape,
        "trt_profile_max_shapes": shape,
    }


def engine_folder(artifact: Artifact) -> Path:
    """Return the folder beside the graph, named after it and its content, that keeps its engines."""
    return Path(artifact.path).with_suffix(f".{artifact.sha256[:10]}.ort-trt")


def open_on_gpu(artifact: Artifact, threads: int, index: int) -> Session:
    """Load the graph onto the GPU of that number; an engine is built for the first batch that is bound.

    Raises:
        UnsupportedError: Modules are to stay in fp32.
        BackendUnavailableError: There is no such GPU, or the provider does not load.
        FallbackError: The provider has not taken an option.
        ExportError: ONNX Runtime refuses the file.
        StorageError: The folder of the engines cannot be made.
    """
    if artifact.pinned is not None:
        raise UnsupportedError(
            "ort-trt lets an engine compute in fp16 what it likes, and keeps no module in fp32",
            "leave --pin-fp32 away, or choose --backend tensorrt",
        )

    def provider(device: GpuDevice, batch: int) -> Provider:
        return provider_options(artifact, device, batch, make_folder(engine_folder(artifact)))

    return open_for_batch(artifact, threads, index, provider, launches=1)


def open_session(artifact: Artifact, threads: int) -> Session:
    """Load the graph onto the first GPU, as `open_on_gpu` does it."""
    return open_on_gpu(artifact, threads, 0)


BACKEND = Backend(
    name="ort-trt",
    summary="TensorRT 10 inside ONNX Runtime, on an NVIDIA GPU; opening takes as long as building an engine",
    format="onnx",
    suffix=".onnx",
    precisions=frozenset({Precision.TF32, Precision.FP16}),
    install="pip install 'effvit[gpu]' 'tensorrt-cu13<11': onnxruntime-gpu loads TensorRT 10, not 11",
    unavailable=lambda: gpu_unavailable(PROVIDER, LIBRARY),
    version=version,
    export=export_typed,
    open=open_session,
    providers=frozenset({PROVIDER}),
    open_on_gpu=open_on_gpu,
    gpu_only=True,
    slow_to_open=True,
)
