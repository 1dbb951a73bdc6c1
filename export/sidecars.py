"""What is known of artifacts, in files beside them: `NAME.BACKEND.json` for the verdict of a backend. No torch."""

from __future__ import annotations

import glob
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from effvit.export.base import Artifact

FOLDER = "artifacts"


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


def stored_artifacts(run: Path) -> list[Sidecar]:
    """Return what is known of the artifacts of the run in the folder `run` whose files exist, the newest file last."""
    known = [read_sidecar(file) for file in sorted((run / FOLDER).glob("*.*.json"))]
    there = [sidecar for sidecar in known if sidecar is not None and Path(sidecar.artifact.path).is_file()]
    return sorted(there, key=lambda sidecar: Path(sidecar.artifact.path).stat().st_mtime_ns)


def read_sidecar(file: Path) -> Sidecar | None:
    """Return what `file` says, its artifact's path made absolute, or None where it is missing or damaged."""
    try:
        artifact = msgspec.json.decode(file.read_bytes(), type=Artifact)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    # The path in the file is relative to the run, the folder around the one of its artifacts.
    path = (file.parent.parent / artifact.path).resolve()
    return Sidecar(file.name.split(".")[-2], replace(artifact, path=str(path)))
