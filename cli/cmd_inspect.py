"""`effvit inspect`: what an artifact is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from effvit.cli.artifacts import is_file, newest_artifacts
from effvit.cli.options import DEFAULT_RUNS, JsonOption, RunsOption
from effvit.cli.output import show, write_json


def inspect(
    artifact: Annotated[
        str | None,
        typer.Argument(
            metavar="ARTIFACT", help="graph, engine, program or run [default: the newest]", show_default=False
        ),
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

    Takes ONNX graphs, also of others, TensorRT engines, what `trtexec --exportLayerInfo` wrote of one (.json), and
    ExecuTorch programs (.pte), of which it says what XNNPACK runs and what it does not.
    """
    path = Path(artifact) if artifact is not None and is_file(artifact, runs) else None
    if path is None:
        chosen = newest_artifacts(runs, artifact, precision, res, None if backend is None else [backend])
        path = Path(chosen[-1].artifact.path)

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
