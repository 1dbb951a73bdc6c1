"""`effvit inspect`: what an artifact is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from effvit.cli.options import (
    DEFAULT_RUNS,
    JsonOption,
    RunsOption,
    precisions_from_text,
    resolutions_from_text,
)
from effvit.cli.output import say, show, write_json
from effvit.errors import ArtifactError


def inspect(
    artifact: Annotated[
        str | None,
        typer.Argument(metavar="ARTIFACT", help="graph, engine or run [default: the newest]", show_default=False),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="of a run's artifacts, one of this precision")
    ] = None,
    res: Annotated[str | None, typer.Option(metavar="PX,...", help="of a run's artifacts, one of this size")] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="of a run's artifacts, one that this backend runs")
    ] = None,
    times: Annotated[
        Path | None, typer.Option(metavar="FILE", help="seconds of an engine's layers, from trtexec --exportProfile")
    ] = None,
    runs: RunsOption = DEFAULT_RUNS,
    json: JsonOption = False,
) -> None:
    """Show what an artifact is made of: operators, types of its products, quantisation, weights, inputs, outputs.

    Takes ONNX graphs, also of others, TensorRT engines, and what `trtexec --exportLayerInfo` wrote of one (.json).
    """
    path = Path(artifact) if artifact is not None and _is_file(artifact) else None
    if path is None:
        path = _of_run(runs, artifact, precision, res, backend)

    from effvit.export.inspection import check_types, inspect_artifact

    inspection = inspect_artifact(path, times)
    if json:
        import msgspec

        write_json(msgspec.json.encode(inspection))
    else:
        from effvit.cli.inspection import inspection_parts

        for part in inspection_parts(inspection):
            show(part)
    check_types(inspection)


def _is_file(text: str) -> bool:
    """Return whether `text` names a file, there or not, rather than a run."""
    path = Path(text)
    if path.is_dir():
        return not (path / "run.json").is_file()
    return path.exists() or bool(path.suffix)


def _of_run(runs: Path, name: str | None, precision: str | None, res: str | None, backend: str | None) -> Path:
    """Return the newest artifact of a run that is as asked for.

    Raises:
        CheckpointError, UnknownNameError: There is no such run.
        ArtifactError: It has no such artifact.
    """
    kinds = precisions_from_text(precision) if precision is not None else []
    sizes = resolutions_from_text(res) if res is not None else []

    from effvit.export.sidecars import stored_artifacts
    from effvit.run import resolve_runs

    (run,) = resolve_runs(runs, [name] if name is not None else [], [])
    known = [
        sidecar
        for sidecar in stored_artifacts(run.folder)
        if sidecar.artifact.format in ("onnx", "tensorrt")
        and (not kinds or sidecar.artifact.precision in kinds)
        and (not sizes or (sidecar.artifact.height, sidecar.artifact.width) in sizes)
        and backend in (None, sidecar.backend)
    ]
    if not known:
        raise ArtifactError(
            f"the run {run.name} has no such graph or engine", f"make one with `effvit export {run.name}`"
        )
    paths = list(dict.fromkeys(sidecar.artifact.path for sidecar in known))
    if len(paths) > 1:
        say(f"the newest of {len(paths)} artifacts of {run.name}; --precision, --res and --backend choose others")
    return Path(known[-1].artifact.path)
