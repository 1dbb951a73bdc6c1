"""What the PyTorch backends share: the model around its checkpoint; on the CPU, switches that are set and read back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effvit.errors import LackingError
from effvit.export.base import Artifact, Images, Logits, Source
from effvit.export.settings import RuntimeSettings
from effvit.spec import Precision

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from effvit.export.typed import TypedModel

FORMAT, SUFFIX = "checkpoint", ".safetensors"
PRECISIONS = frozenset({Precision.FP32, Precision.TF32, Precision.FP16, Precision.BF16})
# How oneDNN may compute float32 products, https://docs.pytorch.org/docs/stable/notes/mkldnn.html
FP32_MODES = {"ieee": Precision.FP32, "tf32": Precision.TF32, "bf16": Precision.BF16}
ATTENTION = "aten::_scaled_dot_product_"


class TorchSession:
    """A model on the CPU; every launch is finished when it returns."""

    def __init__(self, model: TypedModel, run: Callable[[Tensor], Tensor]) -> None:
        """Launch `run`, which computes what `model` does."""
        import torch

        self._torch = torch
        self._model, self._run = model, run
        self._images = torch.empty(0)
        self._logits = torch.empty(0)

    def bind(self, images: Images) -> None:
        self._images = self._torch.from_numpy(images)

    def launch(self) -> None:
        with self._torch.inference_mode():
            self._logits = self._run(self._images)

    def synchronize(self) -> None:
        return

    def logits(self) -> Logits:
        return np.asarray(self._logits.numpy(), dtype=np.float32)

    def settings(self) -> RuntimeSettings:
        """Read the switches, and watch one launch to see which attention kernels it calls."""
        torch = self._torch
        mode = FP32_MODES.get(torch.backends.mkldnn.matmul.fp32_precision)
        return RuntimeSettings(
            runtime=f"torch {torch.__version__}",
            device=str(self._logits.device),
            precision=half_type(weights_type(self._model)) or mode,
            threads=torch.get_num_threads(),
            attention_kernels=attention_kernels(self.launch),
            tf32=mode is Precision.TF32,
        )


def weights_type(model: TypedModel) -> torch.dtype:
    """Return the type of most of the model's weights: modules that are kept in fp32 are not what it computes in."""
    numbers: Counter[torch.dtype] = Counter()
    for weight in model.parameters():
        numbers[weight.dtype] += weight.numel()
    return numbers.most_common(1)[0][0]


def half_type(weights: torch.dtype) -> Precision | None:
    """Return the precision whose weights are of this type of 16 bits; None if it has more."""
    import torch

    return {torch.float16: Precision.FP16, torch.bfloat16: Precision.BF16}.get(weights)


def attention_kernels(launch: Callable[[], None]) -> tuple[tuple[str, int], ...]:
    """Return how often a launch calls which of PyTorch's attention operators, by name."""
    from torch.profiler import ProfilerActivity, profile

    # An observer of events rather than a question to the dispatcher: compiled code does not ask it again.
    with profile(activities=[ProfilerActivity.CPU]) as observed:
        launch()
    names = Counter(event.name for event in observed.events() or () if event.name.startswith(ATTENTION))
    return tuple(sorted((name.removeprefix("aten::"), count) for name, count in names.items()))


def export(source: Source, path: Path) -> Path:
    """Return the run's own checkpoint: PyTorch needs no other file."""
    return source.run.weights


def open_model(artifact: Artifact, threads: int) -> TypedModel:
    """Rebuild the model around its checkpoint for the CPU, and set the switches of this process.

    Raises:
        CheckpointError: The checkpoint is damaged or of another architecture.
        LackingError: The precision is one of GPUs alone.
    """
    if artifact.precision is Precision.TF32:
        raise LackingError("PyTorch on the CPU does not compute in tf32", "choose --device cuda, or another type")
    _set_switches(threads)
    return build_model(artifact)


def build_model(artifact: Artifact) -> TypedModel:
    """Return the model around its checkpoint, at the artifact's resolution and in its type, on the CPU.

    Raises:
        CheckpointError: The checkpoint is damaged or of another architecture.
    """
    from effvit.backbone import set_resolution
    from effvit.checkpoint import load_weights, read_weights
    from effvit.export.typed import TypedModel
    from effvit.surgery import model_from_spec

    model = model_from_spec(artifact.model)
    load_weights(model, read_weights(Path(artifact.path)), artifact.path)
    set_resolution(model, artifact.height, artifact.width)
    return TypedModel(model, artifact.precision, () if artifact.pinned is None else artifact.pinned.modules)


def _set_switches(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")  # oneDNN's products, too; its convolutions round nothing unless told
    # The flash kernel where it can, and the plain formula where it cannot (a mask that it does not take).
    # These switches of the CUDA module are those of the CPU's kernels, too.
    torch.backends.cuda.enable_flash_sdp(True)
    torch.backends.cuda.enable_math_sdp(True)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
