"""What is known of artifacts, in files beside them: `NAME.BACKEND.json` for the verdict of a backend. No torch."""

from __future__ import annotations

import glob
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from effvit.errors import ChangedFileError
from effvit.export.base import Artifact
from effvit.spec import Precision
from effvit.storage import sha256_of

FOLDER = "artifacts"
AGAIN = "export it again with `effvit export`"


@dataclass(frozen=True, slots=True)
class Sidecar:
    """An artifact as one backend verified it."""

    backend: str
    artifact: Artifact


def sidecars_of(path: Path) -> list[Sidecar]:
    """Return what is known of the artifact in the file `path`; damaged sidecars are left out."""
    beside = sorted(path.parent.glob(f"{glob.escape(path.stem)}.*.json"))
    known = [sidecar for file in beside if (sidecar := read_sidecar(file)) is not None]
    return [sidecar for sidecar in known if Path(sidecar.artifact.path).name == path.name]


def intact_sidecars(path: Path) -> list[Sidecar]:
    """Return what `sidecars_of` does, all of it about this very content.

    Raises:
        ChangedFileError: The file is not the one that was verified.
    """
    known = sidecars_of(path)
    if not known:
        return []
    size_bytes = path.stat().st_size
    for sidecar in known:
        if sidecar.artifact.size_bytes != size_bytes:
            raise ChangedFileError(
                f"{path} is not the file that was verified: it has {size_bytes} bytes, not "
                f"{sidecar.artifact.size_bytes}",
                AGAIN,
            )
    digest = sha256_of(path)
    if any(sidecar.artifact.sha256 != digest for sidecar in known):
        raise ChangedFileError(f"{path} is not the file that was verified: its content has changed", AGAIN)
    return known


def stored_artifacts(run: Path) -> list[Sidecar]:
    """Return what is known of the artifacts of the run in the folder `run` whose files exist, the newest file last."""
    known = [read_sidecar(file) for file in sorted((run / FOLDER).glob("*.*.json"))]
    there = [sidecar for sidecar in known if sidecar is not None and Path(sidecar.artifact.path).is_file()]
    return sorted(there, key=lambda sidecar: Path(sidecar.artifact.path).stat().st_mtime_ns)


def searched_pins(run: Path, kind: str, precision: Precision, size: tuple[int, int]) -> list[tuple[str, ...]]:
    """Return which modules of the run in the folder `run` searches found to have to stay in fp32, the latest last.

    The searches were for artifacts of this kind of format and precision, for images of `size` (height, width) px.
    """
    found = []
    for known in stored_artifacts(run):
        artifact = known.artifact
        if artifact.pinned is None or not artifact.pinned.searched:
            continue
        if (artifact.format, artifact.precision, artifact.height, artifact.width) == (kind, precision, *size):
            found.append(artifact.pinned.modules)
    return list(dict.fromkeys(found))


def read_sidecar(file: Path) -> Sidecar | None:
    """Return what `file` says, its artifact's path made absolute, or None where it is missing or damaged."""
    try:
        artifact = msgspec.json.decode(file.read_bytes(), type=Artifact)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    # The path in the file is relative to the run, the folder around the one of its artifacts.
    path = (file.parent.parent / artifact.path).resolve()
    return Sidecar(file.name.split(".")[-2], replace(artifact, path=str(path)))
