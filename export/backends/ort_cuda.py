"""ONNX Runtime on an NVIDIA GPU, with kernels of its own, of cuBLAS and of cuDNN."""

from __future__ import annotations

from effvit.export.base import Artifact, Backend, Images, Session, StagedSession
from effvit.export.cuda import require_gpu
from effvit.export.ort import Provider, export_typed, version
from effvit.export.ort_gpu import INSTALL, GpuStream, gpu_unavailable, open_on_stream
from effvit.export.pieces import StagedFixedBatchSession
from effvit.spec import Precision

PROVIDER, LIBRARY = "CUDAExecutionProvider", "libonnxruntime_providers_cuda.so"
# Kernels that attention may take, as bits: flash, memory-efficient, cuDNN's, and the plain formula. Told nothing, ONNX
# Runtime reads environment variables,
# https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/contrib_ops/cpu/bert/attention_common.h
ATTENTION = 1 | 2 | 8 | 16


def provider_options(precision: Precision, stream: GpuStream, *, cuda_graph: bool = False) -> Provider:
    """Return the provider with everything that it would choose for itself said out loud.

    float32 products round to TF32, which they do by default, where `precision` says so and nowhere else.
    """
    return PROVIDER, {
        "device_id": str(stream.index),
        "has_user_compute_stream": "1",
        "user_compute_stream": stream.handle,
        "use_tf32": str(int(precision is Precision.TF32)),
        "sdpa_kernel": str(ATTENTION),
        "enable_cuda_graph": str(int(cuda_graph)),
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "arena_extend_strategy": "kSameAsRequested",  # or the arena doubles, and its size says little of the model
    }


def open_on_gpu(artifact: Artifact, threads: int, index: int) -> Session:
    """Load the graph onto the GPU of that number; every launch enqueues its kernels one by one.

    Raises:
        BackendUnavailableError: There is no such GPU, or the provider does not load.
        FallbackError: The provider has not taken an option.
        ExportError: ONNX Runtime refuses the file.
    """
    import onnxruntime as ort

    require_gpu(index)
    stream = GpuStream(index)
    return open_on_stream(ort, artifact, threads, provider_options(artifact.precision, stream), stream)


def open_with_cuda_graph(artifact: Artifact, threads: int, index: int) -> Session:
    """Do the same, but record the launches of the first batch that is bound as a CUDA graph, and replay that.

    Raises:
        BackendUnavailableError: There is no such GPU, or the provider does not load.
        FallbackError: The provider has not taken an option.
        ExportError: ONNX Runtime refuses the file.
    """
    import onnxruntime as ort

    require_gpu(index)

    def compiled_for(images: Images) -> StagedSession:
        stream = GpuStream(index)
        provider = provider_options(artifact.precision, stream, cuda_graph=True)
        session = open_on_stream(ort, artifact, threads, provider, stream)
        session.bind(images)
        # The first launch allocates, the second is recorded.
        for _ in range(2):
            session.launch()
            session.synchronize()
        return session

    return StagedFixedBatchSession(compiled_for)


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
    summary="ONNX Runtime on an NVIDIA GPU",
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
