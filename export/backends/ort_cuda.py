"""ONNX Runtime on an NVIDIA GPU, with kernels of its own, of cuBLAS and of cuDNN."""

from __future__ import annotations

from effvit.export.base import Artifact, Backend, Session
from effvit.export.cuda import require_gpu
from effvit.export.device import GpuDevice
from effvit.export.ort import Provider, export_typed, version
from effvit.export.ort_gpu import INSTALL, gpu_unavailable, open_on_device
from effvit.export.torch_device import TorchDevice
from effvit.spec import Precision

PROVIDER, LIBRARY = "CUDAExecutionProvider", "libonnxruntime_providers_cuda.so"
# Kernels that attention may take, as bits: flash, memory-efficient, cuDNN's, and the plain formula. Told nothing, ONNX
# Runtime reads environment variables,
# https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/contrib_ops/cpu/bert/attention_common.h
ATTENTION = 1 | 2 | 8 | 16


def provider_options(precision: Precision, device: GpuDevice, *, cuda_graph: bool = False) -> Provider:
    """Return the provider with everything that it would choose for itself said out loud.

    float32 products round to TF32, which they do by default, where `precision` says so and nowhere else.
    """
    return PROVIDER, {
        "device_id": str(device.index),
        "has_user_compute_stream": "1",
        "user_compute_stream": str(device.stream),
        "use_tf32": str(int(precision is Precision.TF32)),
        "sdpa_kernel": str(ATTENTION),
        "enable_cuda_graph": str(int(cuda_graph)),
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "arena_extend_strategy": "kSameAsRequested",  # or the arena doubles, and its size says little of the model
    }


def open_on_gpu(artifact: Artifact, threads: int, index: int) -> Session:
    """Load the graph onto the GPU of that number; every launch enqueues its kernels anew.

    Raises:
        BackendUnavailableError: There is no such GPU, or the provider does not load.
        FallbackError: The provider has not taken an option.
        ExportError: ONNX Runtime refuses the file.
    """
    import onnxruntime as ort

    require_gpu(index)
    device = TorchDevice(index)
    return open_on_device(ort, artifact, threads, provider_options(artifact.precision, device), device)


def open_session(artifact: Artifact, threads: int) -> Session:
    """Load the graph onto the first GPU.

    Raises:
        BackendUnavailableError: There is none, or the provider does not load.
        FallbackError: The provider has not taken an option.
        ExportError: ONNX Runtime refuses the file.
    """
    return open_on_gpu(artifact, threads, 0)


BACKEND = Backend(
    name="ort-cuda",
    summary="ONNX Runtime on an NVIDIA GPU, every launch enqueued anew",
    format="onnx",
    suffix=".onnx",
    precisions=frozenset({Precision.FP32, Precision.TF32, Precision.FP16}),
    install=INSTALL,
    unavailable=lambda: gpu_unavailable(PROVIDER, LIBRARY),
    version=version,
    export=export_typed,
    open=open_session,
    providers=frozenset({PROVIDER}),
    open_on_gpu=open_on_gpu,
    gpu_only=True,
)
