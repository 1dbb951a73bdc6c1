"""Graphs without a verdict: what they are is read from their own metadata."""

from __future__ import annotations

from pathlib import Path

from effvit.cost import cost_of
from effvit.errors import ArtifactError
from effvit.export.base import Artifact
from effvit.export.census import graph_census
from effvit.export.pins import Pinned
from effvit.run import Run
from effvit.storage import sha256_of


def stray_artifact(path: Path, run: Run) -> Artifact:
    """Return the graph in `path`, verified or not, as an artifact of `run`.

    Raises:
        ArtifactError: It is no graph, or not one of this run.
    """
    census = graph_census(path)
    record = run.record
    if census.precision is None or census.model != record.spec:
        raise ArtifactError(
            f"{path} was not exported from the run {run.name}", "name graphs that `effvit export` wrote of one run"
        )
    height, width = census.inputs[0].shape[-2:]
    if not isinstance(height, int) or not isinstance(width, int):
        raise ArtifactError(f"the size of the images of {path} is free", "export it at one resolution")
    return Artifact(
        format="onnx",
        path=str(path.resolve()),
        sha256=sha256_of(path),
        size_bytes=census.size_bytes,
        model=record.spec,
        precision=census.precision,
        height=height,
        width=width,
        preprocessing=record.preprocessing,
        classes=record.data.classes,
        cost=cost_of(run.model(height, width), record.spec),
        built_with=(),
        build_s=0.0,
        pinned=Pinned(census.pins) if census.pins else None,
    )
