"""Where a model's initial weights come from, and the swap of its attention on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from effvit.backbone import create_backbone, patch_size, set_resolution
from effvit.checkpoint import CLASSIFIERS, converted_weights, load_weights, read_weights
from effvit.errors import CheckpointError, UnavailableError
from effvit.hub import HUB_PREFIX, download_config, download_weights
from effvit.huggingface import check_fit, huggingface_weights
from effvit.huggingface_config import is_huggingface, pixel_statistics, read_config
from effvit.run import RECORD, WeightsRecord, open_run
from effvit.spec import Swap, check_resolution
from effvit.surgery import Surgery, pick_variant, replace_attention

AUTO, PRETRAINED, NONE = "auto", "pretrained", "none"


@dataclass(frozen=True, slots=True)
class Architecture:
    """What to build: a timm backbone, its classes, its attention, its input (height, width) and patch size in px.

    `resolution` and `patch` None mean those of the run the weights come from, else the backbone's own. `drop_path` is
    the stochastic depth rate of the last block.
    """

    backbone: str
    classes: int
    swaps: tuple[Swap, ...]
    resolution: tuple[int, int] | None = None
    patch: int | None = None
    drop_path: float = 0.0


@dataclass(frozen=True, slots=True)
class InitialModel:
    """A model ready to be trained, how it was made, and what a reader of its results must be warned of."""

    model: VisionTransformer
    surgery: Surgery
    weights: WeightsRecord
    warnings: tuple[str, ...] = ()


def initial_model(architecture: Architecture, weights: str) -> InitialModel:
    """Build the model with weights from `weights`: auto, pretrained, none, a path, or `hf:OWNER/NAME[@REVISION]`.

    A path is a checkpoint file, a run folder, or a folder that `save_pretrained` of Hugging Face `transformers` wrote.
    `auto` is pretrained where timm can have them, and random with a warning where it cannot.

    Raises:
        UnavailableError: `pretrained` or `hf:`, and they can be had neither from the hub nor from its cache.
        CheckpointError: The checkpoint is damaged or of another architecture.
        UnknownNameError, UnsupportedError, UsageError: The architecture cannot be built.
    """
    # Named before timm is asked for the hub: a misspelt variant must not wait for the network.
    for swap in architecture.swaps:
        pick_variant(swap.attention)
    if weights == NONE:
        return _random(architecture, weights)
    if weights == PRETRAINED:
        return _pretrained(architecture, weights)
    if weights == AUTO:
        try:
            return _pretrained(architecture, weights)
        except UnavailableError as error:
            warning = f"weights: {error.message}; training starts from random weights"
            return _random(architecture, weights, (warning,))
    if weights.startswith(HUB_PREFIX):
        return _from_hub(architecture, weights)
    path = Path(weights)
    if not path.is_dir():
        return _from_file(architecture, path)
    if is_huggingface(path) and not (path / RECORD).is_file():
        return _from_huggingface(architecture, _fitting_backbone(architecture, path, weights), path, weights)
    return _from_run(architecture, path)


def _backbone(architecture: Architecture, *, pretrained: bool = False) -> VisionTransformer:
    return create_backbone(
        architecture.backbone,
        classes=architecture.classes,
        resolution=architecture.resolution,
        patch=architecture.patch,
        drop_path=architecture.drop_path,
        pretrained=pretrained,
    )


def _random(architecture: Architecture, asked: str, warnings: tuple[str, ...] = ()) -> InitialModel:
    model = _backbone(architecture)
    surgery = replace_attention(model, architecture.swaps)
    return InitialModel(model, surgery, WeightsRecord(asked, "random", 0, tuple(model.state_dict())), warnings)


def _pretrained(architecture: Architecture, asked: str) -> InitialModel:
    model = _backbone(architecture, pretrained=True)
    surgery = replace_attention(model, architecture.swaps)
    fresh = surgery.new
    # timm keeps the classifier only where the classes are those it was trained for.
    config: Mapping[str, object] = vars(model)["pretrained_cfg"]
    if architecture.classes != config["num_classes"]:
        fresh += tuple(name for name in surgery.inherited if name.split(".")[0] in CLASSIFIERS)
    record = WeightsRecord(asked, "pretrained", len(model.state_dict()) - len(fresh), fresh)
    return InitialModel(model, surgery, record)


def _from_run(architecture: Architecture, folder: Path) -> InitialModel:
    run = open_run(folder)
    spec, target = run.record.spec, architecture.resolution
    if spec.backbone != architecture.backbone:
        raise CheckpointError(
            f"the run {run.name} is a {spec.backbone}, not a {architecture.backbone}",
            f"use `effvit finetune {spec.backbone} ...`, or another --weights",
        )
    if architecture.patch not in (None, spec.patch):
        raise CheckpointError(
            f"the run {run.name} has patches of {spec.patch} px, not {architecture.patch}",
            "leave --patch out, or use another --weights",
        )
    # Built at the resolution its weights belong to, loaded, and only then resized: tensors that depend on the grid fit
    # only there.
    model = _backbone(replace(architecture, resolution=spec.trained, patch=spec.patch))
    if target is not None:
        check_resolution(spec.backbone, target, patch_size(model)[0])
    initial = _loaded(architecture, model, read_weights(run.weights), str(folder), str(run.weights))
    if target is not None:
        set_resolution(model, *target)
    return initial


def _from_file(architecture: Architecture, path: Path) -> InitialModel:
    tensors = read_weights(path)
    model = _backbone(architecture)
    return _loaded(architecture, model, converted_weights(model, tensors, str(path)), str(path), str(path))


def _from_hub(architecture: Architecture, identifier: str) -> InitialModel:
    snapshot = download_config(identifier)
    # Before the weights, which may be gigabytes, are downloaded.
    model = _fitting_backbone(architecture, snapshot.folder, identifier)
    download_weights(identifier, snapshot)
    initial = _from_huggingface(architecture, model, snapshot.folder, identifier)
    return replace(initial, weights=replace(initial.weights, revision=snapshot.revision))


def _fitting_backbone(architecture: Architecture, folder: Path, asked: str) -> VisionTransformer:
    config = read_config(folder)
    model = _backbone(architecture)
    check_fit(config, model, architecture.backbone, asked, other_patch=architecture.patch is not None)
    return model


def _from_huggingface(architecture: Architecture, model: VisionTransformer, folder: Path, asked: str) -> InitialModel:
    tensors = huggingface_weights(folder, model, asked)
    statistics = pixel_statistics(folder)
    if statistics is not None:
        # What a run records as its preprocessing is read from here.
        mean, deviation = statistics
        vars(model)["pretrained_cfg"] = {**vars(model)["pretrained_cfg"], "mean": mean, "std": deviation}
    return _loaded(architecture, model, tensors, asked, asked)


def _loaded(
    architecture: Architecture, model: VisionTransformer, tensors: dict[str, Tensor], asked: str, source: str
) -> InitialModel:
    surgery = replace_attention(model, architecture.swaps)
    fresh = load_weights(model, tensors, source, new=surgery.new)
    record = WeightsRecord(asked, "checkpoint", len(model.state_dict()) - len(fresh), fresh)
    return InitialModel(model, surgery, record)


def square_patch(model: VisionTransformer) -> int:
    """Return the side of the model's patches in px."""
    return patch_size(model)[0]
