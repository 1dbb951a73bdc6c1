"""What the pretrained model answers before any training, where its head knows the classes of the data.

Its logits for those classes are held against each other, and the rest of the head is left out. A fine-tuning that
does not do better has taught nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from effvit.backbone import create_backbone, patch_size, resolution_of
from effvit.data.base import ImageData
from effvit.images import EvaluationBatches
from effvit.preprocessing import preprocessing_of
from effvit.recipe import Amp
from effvit.run import RECORD, ZeroTraining, open_run
from effvit.team import Team
from effvit.training import EVALUATION_BATCH, validate
from effvit.weights import InitialModel


@dataclass(frozen=True, slots=True, eq=False)
class _Head:
    """The model that the initial weights are taken from, what its classes are, and which of them are the data's."""

    model: VisionTransformer
    name: str
    classes: int
    indices: tuple[int, ...]


class _Slice(nn.Module):
    """The logits of some of the classes of a model, in the order of `indices`."""

    def __init__(self, head: _Head) -> None:
        super().__init__()
        self.model = head.model
        self.indices = list(head.indices)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits[:, self.indices]


def zero_training(
    initial: InitialModel, backbone: str, data: ImageData, device: torch.device, amp: Amp | None, team: Team
) -> ZeroTraining | None:
    """Return the accuracy before training on the held-out images; None where the head does not know all classes.

    Raises:
        DataError: An image is missing or damaged.
    """
    with team.together():
        head = _head_of(initial, backbone, data.classes)
    if head is None:
        return None
    preprocessing = preprocessing_of(initial.model)
    size = resolution_of(initial.model)
    batches = EvaluationBatches(data.val, preprocessing, *size, batch=EVALUATION_BATCH, place=team.place)
    validation = validate(_Slice(head).to(device), batches, preprocessing, device, amp=amp, team=team)
    return ZeroTraining(head.name, head.classes, validation.accuracy)


def matching(classes: Sequence[str], known: Sequence[Sequence[str]]) -> tuple[int, ...] | None:
    """Return which of the `known` classes, each with all its names, `classes` are; None if one is none, or several.

    Neither case nor `_` and `-` for a space matter.
    """
    places: dict[str, set[int]] = {}
    for index, names in enumerate(known):
        for name in names:
            places.setdefault(_plain(name), set()).add(index)
    found = [places.get(_plain(name), set()) for name in classes]
    if any(len(indices) != 1 for indices in found):
        return None
    indices = tuple(next(iter(one)) for one in found)
    return indices if len(set(indices)) == len(indices) else None


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _head_of(initial: InitialModel, backbone: str, classes: Sequence[str]) -> _Head | None:
    size, patch = resolution_of(initial.model), patch_size(initial.model)[0]
    if initial.weights.origin == "pretrained":
        config = cast(Mapping[str, object], vars(initial.model)["pretrained_cfg"])
        subset = infer_imagenet_subset(config)
        if subset is None:
            return None
        info = ImageNetInfo(subset)
        known = [(label, *info.label_name_to_description(label).split(",")) for label in info.label_names()]
        indices = matching(classes, known)
        if indices is None:
            return None
        model = create_backbone(backbone, classes=len(known), resolution=size, patch=patch, pretrained=True)
        return _Head(model.eval(), subset, len(known), indices)
    folder = Path(initial.weights.asked)
    if initial.weights.origin == "random" or not (folder / RECORD).is_file():
        return None
    run = open_run(folder)
    indices = matching(classes, [(name,) for name in run.record.data.classes])
    return None if indices is None else _Head(run.model(*size), run.record.data.name, run.record.spec.classes, indices)
