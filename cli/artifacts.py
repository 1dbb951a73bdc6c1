"""Which stored artifact a command means: a file, or the newest of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effvit.cli.options import precisions_from_text, resolutions_from_text
from effvit.cli.output import say
from effvit.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from effvit.export.sidecars import Sidecar
    from effvit.run import Run


def is_file(text: str, runs: Path) -> bool:
    """Return whether `text` names a file, there or not, rather than a run, which may be one in the folder `runs`."""
    path = Path(text)
    if path.is_dir():
        return not (path / "run.json").is_file()
    # Names of models have dots, and those of runs begin with them.
    return path.exists() or (bool(path.suffix) and not (runs / text / "run.json").is_file())


def verified_file(path: Path) -> list[Sidecar]:
    """Return what is known of the artifact in the file `path`, from every backend that verified it.

    Raises:
        ArtifactError: It is not there, or was never verified.
        DamagedArtifactError: It was not, and is no whole graph either.
        ChangedFileError: It is not the file that was verified.
    """
    from effvit.export.inspection import ENGINES
    from effvit.export.sidecars import intact_sidecars

    known = intact_sidecars(path) if path.is_file() else []
    if known:
        return known

    from effvit.export.graph_file import check_whole, read_file

    # What is wrong with a file that is none goes before that nobody verified it.
    if path.suffix in ENGINES:
        read_file(path)
    else:
        check_whole(path)
    raise ArtifactError(
        f"{path} was never verified against its model", "name a graph or an engine that `effvit export` wrote"
    )


def run_around(path: Path, hint: str) -> Run:
    """Return the run whose artifacts' folder the file `path` lies in.

    Raises:
        ArtifactError: It lies in none; `hint` says what to do about that.
        CheckpointError: The run's record is damaged.
    """
    from effvit.run import open_run

    folder = path.resolve().parent.parent
    if not (folder / "run.json").is_file():
        raise ArtifactError(f"{path} lies in no run's folder", hint)
    return open_run(folder)


def refuse_files(names: Sequence[str] | None, runs: Path) -> None:
    """Check that all `names` are those of runs.

    Raises:
        UsageError: One is an artifact's file, whose run is to be named instead.
        ArtifactError, DamagedArtifactError, ChangedFileError: It is a file, and none of an artifact.
    """
    for name in names or []:
        if is_file(name, runs) and not Path(name).is_dir():
            verified_file(Path(name))
            raise UsageError(
                f"{name} is an artifact, and cells are made of runs",
                "name the run that it was made from, with --precision, --res and --pin-fp32",
            )


def newest_artifacts(
    runs: Path,
    name: str | None,
    precision: str | None,
    res: str | None,
    backends: Sequence[str] | None,
    formats: Sequence[str] = ("onnx", "tensorrt", "executorch"),
) -> list[Sidecar]:
    """Return what is known of the newest artifact of a run that is as asked for, from every backend that verified it.

    Raises:
        CheckpointError, UnknownNameError: There is no such run.
        ArtifactError: It has no such artifact.
    """
    kinds = precisions_from_text(precision) if precision is not None else []
    sizes = resolutions_from_text(res) if res is not None else []

    from effvit.export.sidecars import stored_artifacts
    from effvit.runs import resolve_runs

    (run,) = resolve_runs(runs, [name] if name is not None else [], [])
    known = [
        sidecar
        for sidecar in stored_artifacts(run.folder)
        if sidecar.artifact.format in formats
        and (not kinds or sidecar.artifact.precision in kinds)
        and (not sizes or (sidecar.artifact.height, sidecar.artifact.width) in sizes)
        and (backends is None or sidecar.backend in backends)
    ]
    if not known:
        raise ArtifactError(
            f"the run {run.name} has no such graph, engine or program", f"make one with `effvit export {run.name}`"
        )
    paths = list(dict.fromkeys(sidecar.artifact.path for sidecar in known))
    if len(paths) > 1:
        say(f"the newest of {len(paths)} artifacts of {run.name}; --precision, --res and --backend choose others")
    return [sidecar for sidecar in known if sidecar.artifact.path == known[-1].artifact.path]
