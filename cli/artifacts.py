"""Which stored artifact a command means: a file, or the newest of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effvit.cli.options import precisions_from_text, resolutions_from_text
from effvit.cli.output import say
from effvit.errors import ArtifactError

if TYPE_CHECKING:
    from effvit.export.sidecars import Sidecar


def is_file(text: str) -> bool:
    """Return whether `text` names a file, there or not, rather than a run."""
    path = Path(text)
    if path.is_dir():
        return not (path / "run.json").is_file()
    return path.exists() or bool(path.suffix)


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
    from effvit.run import resolve_runs

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
