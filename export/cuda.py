"""PyTorch on an NVIDIA GPU: page-locked buffers, the stream they are copied on, and switches that are read back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from effvit.errors import BackendUnavailableError
from effvit.export.base import Artifact, Images, Logits
from effvit.export.pytorch import attention_kernels, build_model, half_type, weights_type
from effvit.export.settings import RuntimeSettings
from effvit.export.torch_device import TorchDevice
from effvit.spec import Precision

if TYPE_CHECKING:
    from torch import Tensor

    from effvit.export.typed import TypedModel

# What PyTorch calls two ways of multiplying float32 numbers,
# https://docs.pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices
TF32, EXACT = "tf32", "ieee"


class CudaSession:
    """A model on one GPU; copies and launches are enqueued on PyTorch's current stream, one after the other.

    A launch is a pass over the batch that `bind` has copied to the GPU, and leaves its logits there.
    """

    def __init__(self, model: TypedModel, run: Callable[[Tensor], Tensor], index: int, cuda: Any = None) -> None:
        """Launch `run`, which computes what `model` does; `cuda` is the module of that name (None: `torch.cuda`)."""
        import torch

        self._torch = torch
        self._model, self._run = model, run
        self._place = next(model.parameters()).device
        cuda = torch.cuda if cuda is None else cuda
        self._device = TorchDevice(index, cuda.current_stream(index), cuda, str(self._place))
        self.gpu = self._device.gpu
        self._images = self._host_images = torch.empty(0)
        self._logits = self._host_logits = torch.empty(0)

    def bind(self, images: Images) -> None:
        # Out of page-locked memory the GPU copies by itself; from other memory the driver would copy first, and wait.
        self._host_images = self._torch.from_numpy(self._device.page_locked(images.shape))
        self._host_images.copy_(self._torch.from_numpy(images))
        self._images = self._torch.empty(images.shape, device=self._place)
        self.upload()
        self.synchronize()

    def launch(self) -> None:
        with self._torch.inference_mode():
            self._logits = self._run(self._images)

    def synchronize(self) -> None:
        self._device.synchronize()

    def upload(self) -> None:
        self._images.copy_(self._host_images, non_blocking=True)

    def download(self) -> None:
        if self._host_logits.shape != self._logits.shape:
            self._host_logits = self._torch.from_numpy(self._device.page_locked(tuple(self._logits.shape)))
        self._host_logits.copy_(self._logits, non_blocking=True)

    def mark(self) -> Any:
        return self._device.mark()

    def seconds_between(self, first: Any, second: Any) -> float:
        return self._device.seconds_between(first, second)

    def logits(self) -> Logits:
        self.download()
        self.synchronize()
        return self._host_logits.numpy().copy()

    def settings(self) -> RuntimeSettings:
        """Read the switches, and watch one launch to see which attention kernels it calls."""
        torch = self._torch
        products = torch.backends.cuda.matmul.fp32_precision == TF32
        convolutions = torch.backends.cudnn.conv.fp32_precision == TF32
        kernels = attention_kernels(self.launch)
        self.synchronize()
        return RuntimeSettings(
            runtime=f"torch {torch.__version__}",
            device=str(self._logits.device),
            precision=half_type(weights_type(self._model)) or (Precision.TF32 if products else Precision.FP32),
            threads=torch.get_num_threads(),
            attention_kernels=kernels,
            tf32=products or convolutions,
        )


def open_model(artifact: Artifact, threads: int, index: int) -> TypedModel:
    """Return the model around its checkpoint on the GPU of that number, and set the switches of this process.

    Raises:
        BackendUnavailableError: PyTorch does not see that GPU.
        CheckpointError: The checkpoint is damaged or of another architecture.
    """
    import torch

    require_gpu(index)
    torch.set_num_threads(threads)
    set_switches(index, artifact.precision)
    return build_model(artifact).to(torch.device("cuda", index))


def require_gpu(index: int, cuda: Any = None) -> None:
    """Check that PyTorch sees the GPU of that number; `cuda` is the module of that name (None: `torch.cuda`).

    Raises:
        BackendUnavailableError: It does not.
    """
    import torch

    cuda = torch.cuda if cuda is None else cuda
    seen = cuda.device_count() if cuda.is_available() else 0
    if index < seen:
        return
    built = torch.version.cuda
    build = "is built without CUDA" if built is None else f"is built for CUDA {built} and sees {seen} GPUs"
    raise BackendUnavailableError(
        f"cuda:{index} cannot be used: torch {torch.__version__} {build}",
        "install PyTorch for the CUDA of your driver, https://pytorch.org/get-started, and see CUDA_VISIBLE_DEVICES",
    )


def set_switches(index: int, precision: Precision) -> None:
    """Make the GPU of that number the current one, and set what PyTorch would choose for itself.

    float32 products round to TF32 where `precision` says so, and nowhere else: cuDNN's convolutions do it by default.
    """
    import torch

    torch.cuda.set_device(index)
    set_tf32(precision is Precision.TF32)
    # Whatever kernel PyTorch prefers among these: which it was is read back.
    torch.backends.cuda.enable_flash_sdp(True)
    torch.backends.cuda.enable_mem_efficient_sdp(True)
    torch.backends.cuda.enable_cudnn_sdp(True)
    torch.backends.cuda.enable_math_sdp(True)


def set_tf32(rounded: bool) -> None:
    """Let float32 products and convolutions on NVIDIA GPUs round to TF32, or forbid it."""
    import torch

    # PyTorch keeps two accounts of this and fails where one asks the older of them while they differ, as Inductor does.
    # The older switches write both; the newer ones say `ieee` where the older leave the choice to a parent's switch.
    torch.set_float32_matmul_precision("high" if rounded else "highest")
    torch.backends.cudnn.allow_tf32 = rounded
    mode = TF32 if rounded else EXACT
    torch.backends.cuda.matmul.fp32_precision = mode
    torch.backends.cudnn.conv.fp32_precision = mode  # type: ignore[attr-defined]  # made when torch is imported
    torch.backends.cudnn.rnn.fp32_precision = mode  # type: ignore[attr-defined]
