"""A kit: the cells that another machine is to measure, and every file it needs for that, by content. No torch.

A kit is `kit.json` beside `blobs/`, whose files are called after their sha256: what lies there already is not copied.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from effvit.environment import usable_cores
from effvit.errors import ArtifactError, ChangedFileError, DataError, UnsupportedError, UsageError
from effvit.export.base import Artifact, Logits
from effvit.export.verify import check, compare
from effvit.profiling.devices import Device
from effvit.profiling.pixels import Pixels, PixelStore
from effvit.profiling.plan import Effort, Group, Plan
from effvit.profiling.preparation import Preparation, Refusal
from effvit.run import Run, RunRecord
from effvit.spec import Precision
from effvit.storage import sha256_of

SCHEMA = "effvit.kit/1"
KIT, BLOBS = "kit.json", "blobs"


@dataclass(frozen=True, slots=True)
class KitRun:
    """A run by name, and all that is known of it but its weights."""

    name: str
    record: RunRecord


@dataclass(frozen=True, slots=True)
class KitArtifact:
    """What a run's cells of one backend, precision and resolution are measured with, or why there is nothing."""

    run: str
    backend: str
    precision: Precision
    height: int
    width: int
    blob: str | None
    artifact: Artifact | None
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class KitImages:
    """Up to `at_most` held-out images of a run's data as uint8 pixels; `reference` are PyTorch's logits of them."""

    run: str
    height: int
    width: int
    at_most: int
    blob: str
    labels: list[int]
    of_images: int
    names: tuple[str, ...]
    key: str
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Kit:
    """Cells and what they need; resolutions are (height, width) px.

    `code` is a hash of the code that measures: only an agent of the same code measures it. The effort's threads are
    those of the machine that made the kit; the one that measures uses its own.
    """

    code: str
    runs: tuple[KitRun, ...]
    resolutions: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    precisions: tuple[Precision, ...]
    backends: tuple[str, ...]
    devices: tuple[Device, ...]
    effort: Effort
    artifacts: tuple[KitArtifact, ...]
    images: tuple[KitImages, ...]
    schema: str = SCHEMA

    @property
    def blobs(self) -> tuple[str, ...]:
        """The names of all files that the cells need."""
        found = [one.blob for one in self.artifacts] + [one.blob for one in self.images]
        return tuple(dict.fromkeys(filter(None, [*found, *(one.reference for one in self.images)])))

    def plan(self, folder: Path) -> Plan:
        """Return the cells; `folder` is where their runs seem to lie."""
        runs = tuple(Run(folder / run.name, run.record) for run in self.runs)
        return Plan(runs, self.resolutions, self.batches, self.precisions, self.backends, self.devices)


def encode(kit: Kit) -> bytes:
    """Return the content of `kit.json`; limits may be infinite, which JSON as Python writes it can say."""
    return json.dumps(msgspec.to_builtins(kit)).encode()


def open_kit(folder: Path, blobs: Path, code: str) -> Kit:
    """Return the kit in `folder`, all of whose files lie in `blobs` and are what they were.

    Raises:
        ArtifactError: There is no kit, or it is damaged.
        UsageError: It is for an agent of another version.
        ChangedFileError: A file is missing or has changed.
    """
    path = folder / KIT
    try:
        kit = msgspec.convert(json.loads(path.read_bytes()), Kit)
    except (FileNotFoundError, NotADirectoryError):
        hint = "name a folder that `effvit agent pack` wrote"
        raise ArtifactError(f"{folder} is not a kit: it holds no {KIT}", hint) from None
    except (ValueError, msgspec.DecodeError, OSError, UsageError) as error:
        raise ArtifactError(f"{path} is damaged or of another version: {error}", "pack it again") from error
    if kit.schema != SCHEMA or kit.code != code:
        raise UsageError(
            f"{folder} is for an agent of the code {kit.code}, and this one is of {code}",
            "make the agent and the kit with one effvit: `effvit agent build`, `effvit agent pack`",
        )
    for name in kit.blobs:
        if Path(name).name != name:
            raise ArtifactError(f"{path} names {name!r}, which lies outside of {blobs}", "pack it again")
        require_blob(blobs / name)
    return kit


def require_blob(path: Path) -> None:
    """Check that a file is what its name says.

    Raises:
        ChangedFileError: It is missing, or it is not.
    """
    try:
        intact = sha256_of(path) == path.stem
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ChangedFileError(f"{path} cannot be read: {reason}", "copy the kit again") from error
    if not intact:
        raise ChangedFileError(f"{path} has changed on the way: its content is not what its name says", _COPY_AGAIN)


_COPY_AGAIN = "remove the file, and copy the kit again"


class KitPixels(PixelStore):
    """The images of a kit, by links in a folder of this process's own: what is computed of them lies beside."""

    def __init__(self, kit: Kit, blobs: Path) -> None:
        super().__init__()
        self._kit, self._blobs = kit, blobs

    def get(self, run: Run, height: int, width: int, at_most: int) -> Pixels:
        """Return the images that the kit has for these arguments.

        Raises:
            DataError: It has none.
        """
        found = images_of(self._kit, run.name, height, width, at_most)
        path = self._folder.path / found.blob
        if not path.is_symlink():
            path.symlink_to((self._blobs / found.blob).resolve())
        return Pixels(path, found.labels, found.of_images, found.names, found.key)


class KitPreparation(Preparation):
    """The artifacts of a kit; verified here, with this machine's runtime, against PyTorch's logits in the kit."""

    def __init__(self, kit: Kit, blobs: Path, effort: Effort, pixels: PixelStore, stage: Callable[[str], None]) -> None:
        super().__init__(effort, pixels, stage)
        self._kit, self._blobs = kit, blobs

    def _made(self, group: Group, run: Run) -> Artifact | Refusal:
        try:
            group.backend.require_device(group.device.kind)
        except UnsupportedError as error:
            return Refusal("unsupported", "export", error.message)
        asked = (run.name, group.backend.name, group.precision, group.workload.height, group.workload.width)
        for one in self._kit.artifacts:
            if (one.run, one.backend, one.precision, one.height, one.width) == asked:
                if one.artifact is None or one.blob is None:
                    return one.refusal or Refusal("skipped", "export", "the kit has no artifact")
                return replace(one.artifact, path=str((self._blobs / one.blob).resolve()))
        return Refusal("skipped", "export", "the kit has no artifact")

    def _judged(self, group: Group, run: Run, artifact: Artifact, pixels: Pixels, logits: Logits) -> Artifact:
        work = group.workload
        images = images_of(self._kit, run.name, work.height, work.width, self._effort.verify_images)
        if images.reference is None:
            raise DataError(f"the kit has no logits of PyTorch for {run.name}", "pack it again")
        reference = np.load(self._blobs / images.reference)
        parity = compare(reference, logits, artifact.precision, pixels.truth)
        check(parity, reference, artifact)
        return replace(artifact, parity=parity)


def images_of(kit: Kit, run: str, height: int, width: int, at_most: int) -> KitImages:
    """Return the images of a run that a kit has.

    Raises:
        DataError: It has none.
    """
    for one in kit.images:
        if (one.run, one.height, one.width, one.at_most) == (run, height, width, at_most):
            return one
    raise DataError(f"the kit has no {at_most} images of {run} at {height} x {width} px", "pack it again")


def effort_here(kit: Kit) -> Effort:
    """Return the kit's effort with the threads of this machine, and as little memory as its cells need."""
    return replace(kit.effort, threads=usable_cores(), frugal=True)
