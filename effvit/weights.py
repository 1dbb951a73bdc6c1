"""Where a model's initial weights come from, and the swap of its attention on the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from timm.models.vision_transformer import VisionTransformer

from effvit.backbone import check_resolution, create_backbone, patch_size, set_resolution
from effvit.checkpoint import load_weights, read_weights
from effvit.errors import CheckpointError, UnavailableError
from effvit.run import RECORD, WeightsRecord, open_run
from effvit.spec import OptionValue
from effvit.surgery import Surgery, pick_variant, replace_attention

AUTO, PRETRAINED, NONE = "auto", "pretrained", "none"


@dataclass(frozen=True, slots=True)
class Architecture:
    """What to build: a timm backbone, its classes, its attention, its input (height, width) and patch size in px.

    `resolution` and `patch` None mean the backbone's own; `layers` None means every block.
    """

    backbone: str
    classes: int
    attention: str
    options: tuple[tuple[str, OptionValue], ...] = ()
    layers: tuple[int, ...] | None = None
    resolution: tuple[int, int] | None = None
    patch: int | None = None


@dataclass(frozen=True, slots=True)
class InitialModel:
    """A model ready to be trained, how it was made, and what a reader of its results must be warned of."""

    model: VisionTransformer
    surgery: Surgery
    weights: WeightsRecord
    warnings: tuple[str, ...] = ()


def initial_model(architecture: Architecture, weights: str) -> InitialModel:
    """Build the model with weights from `weights`: auto, pretrained, none, a run folder, or a checkpoint file.

    `auto` is pretrained where timm can have them, and random with a warning where it cannot.

    Raises:
        UnavailableError: `pretrained`, and they can be had neither from the hub nor from its cache.
        CheckpointError: The checkpoint is damaged or of another architecture.
        UnknownNameError, UnsupportedError, UsageError: The architecture cannot be built.
    """
    if weights == NONE:
        return _swapped(architecture, _backbone(architecture), weights, "random")
    if weights == PRETRAINED:
        return _swapped(architecture, _backbone(architecture, pretrained=True), weights, "pretrained")
    if weights == AUTO:
        try:
            return _swapped(architecture, _backbone(architecture, pretrained=True), weights, "pretrained")
        except UnavailableError as error:
            warning = f"weights: {error.message}; training starts from random weights"
            return _swapped(architecture, _backbone(architecture), weights, "random", (warning,))
    return _from_checkpoint(architecture, Path(weights))


def _backbone(architecture: Architecture, *, pretrained: bool = False) -> VisionTransformer:
    # Named before timm is asked for the hub: a misspelt variant must not wait for the network.
    pick_variant(architecture.attention)
    return create_backbone(
        architecture.backbone,
        classes=architecture.classes,
        resolution=architecture.resolution,
        patch=architecture.patch,
        pretrained=pretrained,
    )


def _swapped(
    architecture: Architecture, model: VisionTransformer, asked: str, origin: str, warnings: tuple[str, ...] = ()
) -> InitialModel:
    surgery = _swap(architecture, model)
    inherited = len(surgery.inherited) if origin == "pretrained" else 0
    fresh = surgery.new if origin == "pretrained" else tuple(model.state_dict())
    record = WeightsRecord(asked, "pretrained" if origin == "pretrained" else "random", inherited, fresh)
    return InitialModel(model, surgery, record, warnings)


def _from_checkpoint(architecture: Architecture, path: Path) -> InitialModel:
    start = architecture.resolution
    target: tuple[int, int] | None = None
    file = path
    if path.is_dir():
        if not (path / RECORD).is_file():
            raise CheckpointError(f"{path} holds no run", "name a run folder, or a checkpoint file inside it")
        run = open_run(path)
        spec, file = run.record.spec, run.weights
        if spec.backbone != architecture.backbone:
            raise CheckpointError(
                f"the run {run.name} is a {spec.backbone}, not a {architecture.backbone}",
                f"use `effvit finetune {spec.backbone} ...`, or another --weights",
            )
        # Built at the resolution its weights belong to, loaded, and only then resized: tensors that depend on the grid
        # fit only there.
        start, target = spec.trained, architecture.resolution
        check_resolution(architecture.backbone, target or start, spec.patch or 1)
    tensors = read_weights(file)
    model = create_backbone(
        architecture.backbone, classes=architecture.classes, resolution=start, patch=architecture.patch
    )
    surgery = _swap(architecture, model)
    fresh = load_weights(model, tensors, str(file), new=surgery.new)
    if target is not None:
        set_resolution(model, *target)
    record = WeightsRecord(str(path), "checkpoint", len(model.state_dict()) - len(fresh), fresh)
    return InitialModel(model, surgery, record)


def _swap(architecture: Architecture, model: VisionTransformer) -> Surgery:
    variant = pick_variant(architecture.attention)
    return replace_attention(model, variant, architecture.options, architecture.layers)


def square_patch(model: VisionTransformer) -> int:
    """Return the side of the model's patches in px."""
    return patch_size(model)[0]
