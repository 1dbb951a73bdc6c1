"""Small models, data and runs for the tests of the core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from effvit.backbone import create_backbone
from effvit.checkpoint import save_weights
from effvit.data.base import ImageData, load_data
from effvit.environment import Environment
from effvit.mix import parse_mix
from effvit.preprocessing import preprocessing_of
from effvit.recipe import Recipe
from effvit.run import DataRecord, Run, RunRecord, WeightsRecord, create_run, with_weights
from effvit.spec import ModelSpec, OptionValue
from effvit.surgery import replace_attention

CLASSES = 10
MACHINE = Environment("a processor", 2, None, (), "Linux", "3.11", (), 2)


def model_of(
    attention: str = "softmax",
    backbone: str = "test_vit",
    *,
    resolution: tuple[int, int] = (64, 64),
    patch: int | None = None,
    classes: int = CLASSES,
    options: Sequence[tuple[str, OptionValue]] = (),
    seed: int = 0,
) -> VisionTransformer:
    """Return a model with random weights in evaluation mode."""
    torch.manual_seed(seed)
    model = create_backbone(backbone, classes=classes, resolution=resolution, patch=patch)
    replace_attention(model, parse_mix(attention, options))
    return model.eval()


def images_of(height: int = 64, width: int = 64, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(5))


def logits_of(model: VisionTransformer, images: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(images)
    return logits


def digits(train: int = 40, val: int = 20) -> ImageData:
    """Return a few of the digits, spread over all classes."""
    data = load_data("digits")
    return replace(data, train=data.train[:: len(data.train) // train][:train], val=data.val[:val])


def record_of(
    attention: str = "softmax",
    *,
    backbone: str = "test_vit",
    trained: tuple[int, int] = (64, 64),
    patch: int | None = None,
    options: tuple[tuple[str, OptionValue], ...] = (),
    recipe: Recipe | None = None,
    started: str = "2026-01-01T00:00:00+00:00",
) -> RunRecord:
    model = model_of(resolution=(64, 64))
    return RunRecord(
        spec=ModelSpec(backbone, parse_mix(attention, options), CLASSES, trained, patch=patch),
        data=DataRecord("digits", "f" * 64, tuple("0123456789"), 40, 20),
        preprocessing=preprocessing_of(model),
        recipe=recipe or Recipe(),
        weights=WeightsRecord("none", "random", 0, ()),
        environment=MACHINE,
        device="cpu",
        started=started,
        status="running",
    )


def finished_run(root: Path, name: str, record: RunRecord) -> tuple[Run, VisionTransformer]:
    """Return a run with weights, and the model that holds the same."""
    spec = record.spec
    model = model_of(
        spec.attention, spec.backbone, resolution=spec.trained, patch=spec.patch, options=spec.options, seed=3
    )
    run = create_run(root, name, record)
    save_weights(run.weights, model)
    return run.updated(replace(with_weights(record, run.weights), status="done")), model
