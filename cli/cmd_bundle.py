"""`effvit bundle`: what a deployment engineer takes away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effvit.cli.artifacts import is_file, newest_artifacts, verified_file
from effvit.cli.options import DEFAULT_RUNS, JsonOption, RunsOption
from effvit.cli.output import hint, say, write, write_json
from effvit.errors import ArtifactError

if TYPE_CHECKING:
    from effvit.export.sidecars import Sidecar


def bundle(
    artifact: Annotated[
        str | None,
        typer.Argument(metavar="ARTIFACT", help="ONNX graph or run [default: the newest]", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="new folder [default: the graph's name in bundles/]", show_default=False),
    ] = None,
    triton: Annotated[
        bool, typer.Option("--triton", help="lay the model out as a Triton Inference Server model repository")
    ] = False,
    precision: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="of a run's graphs, one of this precision")
    ] = None,
    res: Annotated[str | None, typer.Option(metavar="PX,...", help="of a run's graphs, one of this size")] = None,
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="runtime to take: ort-cpu or openvino [default: whichever verified it]"),
    ] = None,
    runs: RunsOption = DEFAULT_RUNS,
    json: JsonOption = False,
) -> None:
    """Write a verified graph to a folder of its own, with its preprocessing, labels, and an example that runs it.

    The example needs numpy, Pillow and the runtime, nothing of effvit. The manifest has the sha256 of every file.
    """
    from effvit.export.bundle import write_bundle

    sidecar = _chosen(artifact, precision, res, backend, runs)
    path = out or Path("bundles") / Path(sidecar.artifact.path).stem
    written = write_bundle(sidecar, path, triton=triton)
    if json:
        import msgspec

        write_json(msgspec.json.encode(written.manifest))
    else:
        write(str(path))
    say(f"{len(written.manifest.files)} files and their hashes in {path}, for {written.manifest.runtime}")
    hint(f"try it with `effvit predict {path} IMAGE`, or there with `python predict.py IMAGE`")


def _chosen(artifact: str | None, precision: str | None, res: str | None, backend: str | None, runs: Path) -> Sidecar:
    """Return what the backend to bundle for knows of the artifact.

    Raises:
        ArtifactError: It is not there, or no backend that runs bundles has verified it.
        DamagedArtifactError, ChangedFileError: It is no whole graph, or not the one that was verified.
    """
    from effvit.export.bundle import runtimes_of

    if artifact is not None and is_file(artifact, runs):
        known = verified_file(Path(artifact))
    else:
        known = newest_artifacts(runs, artifact, precision, res, None if backend is None else [backend], ("onnx",))
    fitting = runtimes_of(known, backend)
    if not fitting:
        verifiers = ", ".join(sidecar.backend for sidecar in known)
        raise ArtifactError(
            f"{known[-1].artifact.path} was verified by {verifiers}, which is not what the bundle is for",
            "verify it with `effvit export --onnx fp32`, or name another --backend",
        )
    return fitting[-1]
