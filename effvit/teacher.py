"""An exact model to learn from: where it comes from, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer

from effvit.attention.base import InheritedAttention
from effvit.backbone import attention_layers, create_backbone, patch_size, resolution_of
from effvit.data.base import ImageData
from effvit.errors import CheckpointError, UsageError
from effvit.recipe import Recipe
from effvit.run import RECORD, Run, TeacherRecord, open_run
from effvit.surgery import model_from_spec
from effvit.weights import InitialModel

INITIAL_WEIGHTS = "the initial weights"


@dataclass(frozen=True, slots=True)
class Teacher:
    """A frozen model with exact attention, in evaluation mode, and what the student's record says of it."""

    model: VisionTransformer
    record: TeacherRecord


def swapped_layers(model: VisionTransformer) -> dict[int, InheritedAttention]:
    """Return the attention layers that are no longer timm's own, by block."""
    layers = enumerate(attention_layers(model, type(model).__name__))
    return {block: layer for block, layer in layers if isinstance(layer, InheritedAttention)}


def open_teacher(folder: Path) -> Run:
    """Return the exact run in `folder`.

    Raises:
        UsageError: Some of its attention is not exact.
        CheckpointError: There is no run, or it has no weights yet.
    """
    run = open_run(folder)
    _require_exact(run)
    if not run.weights.is_file():
        raise CheckpointError(
            f"the teacher {run.name} has no weights yet: its status is {run.record.status!r}",
            "let `effvit finetune` finish at least one epoch of it",
        )
    return run


def require_fitting(
    run: Run, *, backbone: str | None, resolution: tuple[int, int] | None, patch: int | None, classes: int
) -> None:
    """Check that a student of this backbone, `resolution` and `patch` (px) differs from `run` in attention alone.

    None is what the student takes from the run.

    Raises:
        UsageError: The two differ; the values are named.
    """
    spec = run.record.spec
    for what, theirs, own in (
        ("backbone", spec.backbone, backbone),
        ("image size", _size(spec.trained), _size(resolution or spec.trained)),
        ("patch size", f"{spec.patch} px", f"{patch or spec.patch} px"),
        ("number of classes", spec.classes, classes),
    ):
        if own not in (None, theirs):
            raise UsageError(
                f"the {what} of the teacher {run.name} is {theirs}, not {own}",
                "name a teacher that differs in its attention alone",
            )


def teacher_of(
    run: Run | None, initial: InitialModel, backbone: str, recipe: Recipe, data: ImageData
) -> Teacher | None:
    """Return what the recipe has a student learn from; None where it says nothing of the kind.

    That is the exact run where one is given, and else the student's own weights before the swap.

    Raises:
        UsageError: There is nobody or nothing to learn from, or a distillation from a run on other images.
        CheckpointError: The run's weights are damaged.
    """
    if recipe.transfer_epochs and not swapped_layers(initial.model):
        raise UsageError(
            "exact attention has nothing to learn from exact attention",
            "leave --transfer-epochs out, or choose another --attn",
        )
    if run is not None:
        if recipe.distill_weight:
            _require_same_images(run, data)
        return Teacher(run.model().requires_grad_(False), TeacherRecord(run.name, run.record.spec.weights))
    if recipe.distill_weight:
        raise UsageError("distillation needs a teacher", "name an exact run with --teacher")
    if not recipe.transfer_epochs:
        return None
    _require_exact_origin(initial)
    return Teacher(exact_copy(initial.model, backbone).requires_grad_(False), TeacherRecord(INITIAL_WEIGHTS, None))


def exact_copy(model: VisionTransformer, backbone: str) -> VisionTransformer:
    """Return `model`, which is a `backbone`, with exact attention in every block and in evaluation mode."""
    exact = create_backbone(
        backbone, classes=model.num_classes, resolution=resolution_of(model), patch=patch_size(model)[0]
    )
    tensors, own = model.state_dict(), exact.state_dict()
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    return exact.eval()


def _require_exact(run: Run) -> None:
    swapped = swapped_layers(model_from_spec(run.record.spec))
    if swapped:
        raise UsageError(
            f"the run {run.name} cannot teach exact attention: it has {run.record.spec.attention} attention",
            "name a run with softmax attention",
        )


def _require_exact_origin(initial: InitialModel) -> None:
    """Check that the initial weights were trained with exact attention, as far as they tell."""
    if initial.weights.origin == "random":
        raise UsageError(
            "random weights have no attention worth transferring",
            "name an exact run with --teacher, or start from --weights pretrained or a checkpoint",
        )
    asked = Path(initial.weights.asked)
    if (asked / RECORD).is_file():
        _require_exact(open_run(asked))
    if not set(initial.surgery.new) <= set(initial.weights.fresh):
        raise UsageError(
            f"{asked} holds weights of swapped attention, which cannot teach exact attention",
            "name an exact run with --teacher",
        )


def _require_same_images(run: Run, data: ImageData) -> None:
    # Logits of a model that was trained on what is held out here would give its labels away.
    if run.record.data.fingerprint != data.fingerprint:
        raise UsageError(
            f"the teacher {run.name} was trained on other images, {run.record.data.name}, than those of {data.name}",
            "fine-tune a teacher on the same data, or switch distillation off with --distill-weight 0",
        )


def _size(resolution: tuple[int, int]) -> str:
    return f"{resolution[0]} x {resolution[1]} px"
