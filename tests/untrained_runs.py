"""Runs whose weights were never trained: as good as any for exporting and measuring, and made in a second."""

from __future__ import annotations

from pathlib import Path

from effvit.backbone import resolution_of
from effvit.checkpoint import save_weights
from effvit.data.base import load_data
from effvit.environment import capture_environment
from effvit.mix import parse_mix
from effvit.preprocessing import preprocessing_of
from effvit.recipe import Recipe
from effvit.run import WEIGHTS, DataRecord, Run, RunRecord, create_run, now, with_weights
from effvit.spec import ModelSpec
from effvit.weights import Architecture, initial_model, square_patch


def make_run(root: Path, attention: str, *, name: str | None = None, backbone: str = "test_vit", px: int = 32) -> Run:
    """Return a run on the digits with random weights, in `root`."""
    data = load_data("digits")
    architecture = Architecture(backbone=backbone, classes=10, swaps=parse_mix(attention), resolution=(px, px))
    initial = initial_model(architecture, "none")
    record = RunRecord(
        spec=ModelSpec(
            backbone=backbone,
            swaps=initial.surgery.swaps,
            classes=10,
            trained=resolution_of(initial.model),
            patch=square_patch(initial.model),
        ),
        data=DataRecord("digits", data.fingerprint, data.classes, len(data.train), len(data.val)),
        preprocessing=preprocessing_of(initial.model),
        recipe=Recipe(),
        weights=initial.weights,
        environment=capture_environment(),
        device="cpu",
        started=now(),
        status="done",
    )
    run = create_run(root, name or attention, record)
    save_weights(run.folder / WEIGHTS, initial.model)
    return run.updated(with_weights(run.record, run.folder / WEIGHTS))
