"""A bundle: the folder that takes a model to where it is deployed, with all it needs and hashes. No torch.

`preprocessing.json` and `labels.json` are for programs that know nothing of effvit; here the manifest is read alone.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import msgspec

from effvit.environment import package_version
from effvit.errors import ArtifactError, ChangedFileError, DamagedArtifactError, UnsupportedError
from effvit.export import bundled_predict
from effvit.export.base import Artifact, pick_backend
from effvit.export.sidecars import Sidecar
from effvit.export.triton import write_repository
from effvit.storage import making_folder, sha256_of

SCHEMA = "effvit.bundle/1"
MANIFEST, MODEL, LABELS, PREPROCESSING, EXAMPLE = (
    "manifest.json",
    "model.onnx",
    "labels.json",
    "preprocessing.json",
    "predict.py",
)
REPOSITORY = "model_repository"
RUNTIMES = ("ort-cpu", "openvino")
TOOLS = ("effvit", "numpy", "pillow", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino")


@dataclass(frozen=True, slots=True)
class BundledFile:
    """A file of a bundle; its name is relative to the bundle, with slashes."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle holds: `artifact` in the file `model_file`, verified through `runtime`.

    `precision` is the artifact's, again, for programs that do not look into it. `made_with` are the tools that were
    there when it was made, by package: those that its example is known to run with.
    """

    name: str
    runtime: str
    model_file: str
    precision: str
    artifact: Artifact
    files: tuple[BundledFile, ...]
    made_with: tuple[tuple[str, str], ...]
    schema: str = SCHEMA


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files are those that its manifest records; the artifact's path is absolute."""

    folder: Path
    manifest: Manifest

    @property
    def artifact(self) -> Artifact:
        return replace(self.manifest.artifact, path=str((self.folder / self.manifest.model_file).resolve()))


def write_bundle(sidecar: Sidecar, out: Path, *, triton: bool = False) -> Bundle:
    """Write the bundle of a verified artifact to the new folder `out`, and return it.

    With `triton` the model lies in a model repository of Triton Inference Server, which is a part of the bundle.

    Raises:
        UnsupportedError: The artifact is no ONNX graph, or one for a runtime that the example does not know.
        ChangedFileError: The file is not the one that was verified.
        StorageError: `out` exists already or cannot be written.
    """
    artifact = sidecar.artifact
    if artifact.format != "onnx" or sidecar.backend not in RUNTIMES:
        raise UnsupportedError(
            f"{artifact.path} is for {sidecar.backend}: a bundle holds an ONNX graph for {' or '.join(RUNTIMES)}",
            "make one with `effvit export --onnx fp32`, and name it or add --backend ort-cpu",
        )
    _check(Path(artifact.path), artifact.sha256)
    name = Path(artifact.path).stem
    with making_folder(out) as folder:
        model_file = MODEL
        if triton:
            repository = write_repository(artifact, sidecar.backend, folder / REPOSITORY, name)
            model_file = repository.relative_to(folder).as_posix()
        else:
            shutil.copyfile(artifact.path, folder / MODEL)
        (folder / LABELS).write_bytes(_json(artifact.classes))
        size = {"height": artifact.height, "width": artifact.width}
        (folder / PREPROCESSING).write_bytes(_json({**msgspec.to_builtins(artifact.preprocessing), **size}))
        shutil.copyfile(bundled_predict.__file__, folder / EXAMPLE)
        manifest = Manifest(
            name=name,
            runtime=sidecar.backend,
            model_file=model_file,
            precision=artifact.precision.value,
            artifact=_portable(artifact, model_file),
            files=tuple(_recorded(path, folder) for path in sorted(folder.rglob("*")) if path.is_file()),
            made_with=tuple((tool, version) for tool in TOOLS if (version := package_version(tool)) is not None),
        )
        (folder / MANIFEST).write_bytes(_json(manifest))
    return Bundle(out, manifest)


def open_bundle(folder: Path) -> Bundle:
    """Return the bundle in `folder`, every file of which is the one that was written.

    Raises:
        ArtifactError: There is no bundle, or one of another effvit.
        DamagedArtifactError: Its manifest is damaged, or names files elsewhere.
        ChangedFileError: A file is missing or has changed.
    """
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(
            f"{folder} is not a bundle: it holds no {MANIFEST}", "name a folder that `effvit bundle` wrote"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        raise DamagedArtifactError(f"{path} is damaged or of another effvit: {error}", _AGAIN) from error
    if manifest.schema != SCHEMA:
        raise ArtifactError(f"{path} has schema {manifest.schema!r}, not {SCHEMA!r}", "use the effvit that wrote it")
    if manifest.runtime not in RUNTIMES or manifest.model_file not in {file.name for file in manifest.files}:
        raise DamagedArtifactError(
            f"{path} names no model that is one of its files, or a runtime that is unknown", _AGAIN
        )
    for file in manifest.files:
        if PurePosixPath(file.name).is_absolute() or ".." in PurePosixPath(file.name).parts:
            raise DamagedArtifactError(f"{path} names {file.name!r}, which lies outside of the bundle", _AGAIN)
        _check(folder / file.name, file.sha256)
    return Bundle(folder, manifest)


_AGAIN = "make the bundle again with `effvit bundle`"


def runtimes_of(sidecars: list[Sidecar], backend: str | None) -> list[Sidecar]:
    """Return those that a bundle can be made for, through `backend` if it is named; ONNX Runtime's come last.

    Raises:
        UnknownNameError: There is no such backend.
    """
    if backend is not None:
        pick_backend(backend)
        return [one for one in sidecars if one.backend == backend]
    return sorted((one for one in sidecars if one.backend in RUNTIMES), key=lambda one: one.backend == RUNTIMES[0])


def _portable(artifact: Artifact, model_file: str) -> Artifact:
    """Return the artifact without what names files of this machine."""
    parity = artifact.parity
    return replace(artifact, path=model_file, parity=None if parity is None else replace(parity, flips=()))


def _recorded(path: Path, folder: Path) -> BundledFile:
    return BundledFile(path.relative_to(folder).as_posix(), sha256_of(path), path.stat().st_size)


def _check(path: Path, sha256: str) -> None:
    try:
        changed = sha256_of(path) != sha256
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ChangedFileError(f"{path} cannot be read: {reason}", _AGAIN) from error
    if changed:
        raise ChangedFileError(f"{path} is not the file that was recorded: its content has changed", _AGAIN)


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
