"""What a data set is, and how `--data` finds it. Imports no torch."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from effvit.errors import DataError
from effvit.progress import Progress, silent
from effvit.registry import discover

if TYPE_CHECKING:
    from effvit.decoding import Source

VAL_SHARE = 0.2
SPLIT_SEED = 0
"""Fixed, so that every run and every artifact of a data set without a split of its own has the same held-out images."""

Entry = tuple[str, int, int]
"""What identifies an image in a fingerprint: name, size in bytes, label."""


# Compared by identity: arrays have no single truth value.
@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image and its class, an index into `ImageData.classes`."""

    source: Source
    label: int


@dataclass(frozen=True, slots=True)
class DataDefaults:
    """What suits a data set where the user says nothing; `resolution` is in px, None for the model's own.

    `batch` is the images a step, `scratch_learning_rate` the peak rate for training from random weights, and
    `study_resolutions` (px) are what a study profiles. From `crop_scale` to `random_erasing` the fields are an
    `Augmentation`.
    """

    model: str
    resolution: int | None
    epochs: int
    crop_scale: tuple[float, float]
    horizontal_flip: float
    auto_augment: str | None = None
    random_erasing: float = 0.0
    batch: int = 64
    scratch_learning_rate: float = 1e-3
    study_resolutions: tuple[int, ...] = (224, 384, 512)


@dataclass(frozen=True, slots=True, eq=False)
class ImageData:
    """Labelled images in two parts.

    `name` is what the user called it. `fingerprint` tells whether they are still those that a run was trained and
    measured on. `skipped` are the files that were left out because they cannot be decoded.
    """

    name: str
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    fingerprint: str
    hints: DataDefaults
    skipped: tuple[str, ...] = ()


class Load(Protocol):
    """Loads what the user called `name`."""

    def __call__(self, name: str, *, skip_corrupt: bool, progress: Progress) -> ImageData:
        """Return the data; raise DataError for anything wrong with it."""


@dataclass(frozen=True, slots=True)
class DataSource:
    """A kind of data set.

    A source with `takes_path` is not asked for by its own name: it reads whatever path the user gives.
    """

    name: str
    summary: str
    load: Load
    takes_path: bool = False


def data_sources() -> dict[str, DataSource]:
    """Return every data source by name."""
    return discover("effvit.data", "SOURCE", DataSource)


def load_data(name_or_path: str, *, skip_corrupt: bool = False, progress: Progress = silent) -> ImageData:
    """Load a registered data set, or else the images under a path.

    A registered name wins over a folder of that name, which `./name` reaches. `progress` counts images checked.

    Raises:
        DataError: Neither a name nor a path that exists, or a data set that cannot be used.
    """
    sources = data_sources()
    names = [source.name for source in sources.values() if not source.takes_path]
    if name_or_path in names:
        return sources[name_or_path].load(name_or_path, skip_corrupt=skip_corrupt, progress=progress)
    if not _exists(name_or_path):
        closest = difflib.get_close_matches(name_or_path, names) or names
        raise DataError(
            f"{name_or_path!r} is neither a data set nor a path that exists",
            f"name {' or '.join(closest)}, or give the path of an existing folder with one sub-folder a class",
        )
    (reader,) = (source for source in sources.values() if source.takes_path)
    return reader.load(name_or_path, skip_corrupt=skip_corrupt, progress=progress)


def fingerprint(train: Iterable[Entry], val: Iterable[Entry]) -> str:
    """Return a sha256 over the entries of both parts, in order."""
    digest = hashlib.sha256()
    for part, entries in (("train", train), ("val", val)):
        for name, size_bytes, label in entries:
            # File names need not be valid Unicode, and may hold anything but a zero byte.
            digest.update(f"{part}\0{name}\0{size_bytes}\0{label}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError):  # longer than any path can be; the home of a user who does not exist
        return False
