"""What a data set is, and how `--data` finds it. Imports no torch."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effvit.errors import DataError
from effvit.progress import Progress, silent
from effvit.registry import discover
from effvit.sampling import stratified_split

if TYPE_CHECKING:
    from effvit.decoding import Source

VAL_SHARE = 0.2
SPLIT_SEED = 0
"""Fixed, so that every run and every artifact of a data set without a split of its own has the same held-out images."""

TRAIN = "train"
HELD_OUT = ("val", "validation", "valid", "test")
"""What sources call the held-out part; the first that exists is taken."""

WHOLE = "whole"
"""What a part is called that is yet to be split."""

NAMED = 3
"""How many culprits a message names before it only counts the rest."""

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


# Fine-tuning as DeiT does it, without erasing: Touvron et al. 2021, table 9, https://arxiv.org/abs/2012.12877
PHOTOGRAPHS = DataDefaults(
    model="vit_tiny_patch16_224",
    resolution=None,
    epochs=10,
    crop_scale=(0.08, 1.0),
    horizontal_flip=0.5,
    # Capped below magnitude 10, where timm's posterize keeps 0 bits, which Pillow has come to refuse.
    auto_augment="rand-m9-mstd0.5-mmax9-inc1",
)

# A mirrored digit is another sign, and a small crop of one is none.
DIGITS = DataDefaults(
    model="test_vit",
    resolution=64,
    epochs=25,
    batch=32,
    scratch_learning_rate=2e-3,
    crop_scale=(0.9, 1.0),
    horizontal_flip=0.0,
    study_resolutions=(64, 128, 256),
)


@dataclass(frozen=True, slots=True, eq=False)
class FoundImage:
    """An image that nobody has decoded yet; name, size in bytes and label identify it in a fingerprint."""

    source: Source
    name: str
    size_bytes: int
    label: int


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Images that belong together, and what their source calls them."""

    name: str
    images: tuple[FoundImage, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a source holds, before any image is decoded.

    `parts` are the one to train on and the one held out, or a single one that is yet to be split. `others` are files
    among the images that are none.
    """

    name: str
    classes: tuple[str, ...]
    parts: tuple[Part, ...]
    hints: DataDefaults
    others: tuple[str, ...] = ()


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


def _no_path(path: Path) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class DataSource:
    """A kind of data set.

    `form` is how a user writes it: the name alone, the name with a colon and what follows, or a path. `find` takes what
    the user wrote, and raises a DataError for anything wrong with it. A source that `recognises` a path reads it even
    where it is written without the name.
    """

    name: str
    form: str
    summary: str
    find: Callable[[str], Found]
    recognises: Callable[[Path], bool] = _no_path


FOLDER = "folder"
"""The source that reads every path which no other recognises."""


def data_sources() -> dict[str, DataSource]:
    """Return every data source by name."""
    return discover("effvit.data", "SOURCE", DataSource)


def load_data(name_or_path: str, *, skip_corrupt: bool = False, progress: Progress = silent) -> ImageData:
    """Load a data set, every image of which was decoded once, so that nothing fails in the middle of a run.

    `progress` counts images checked. A set without a split is split here, the same way every time.

    Raises:
        DataError: Neither a name nor a path that exists, or a data set that cannot be used.
        UnavailableError: It has to be downloaded, and cannot be.
    """
    found = find_data(name_or_path)
    bad = _unusable(found, progress)
    if bad and not skip_corrupt:
        raise DataError(
            f"{len(bad)} of {sum(len(part.images) for part in found.parts)} images of {found.name} cannot be used: "
            + first_of([f"{image.name} ({reason})" for image, reason in bad.items()]),
            "repair or remove them, or leave them out with --skip-corrupt",
        )
    return _without(found, bad)


def known_data(name: str, skipped: Collection[str]) -> ImageData:
    """Load a data set of which every image was decoded earlier, and `skipped` are the ones that could not be.

    What has been damaged since is found where it is decoded.

    Raises:
        DataError: The data set is gone, or cannot be used.
        UnavailableError: It has to be downloaded, and cannot be.
    """
    found = find_data(name)
    # Both parts may have an image of the name.
    suspects = [image for part in found.parts for image in part.images if image.name in skipped]
    return _without(found, _reasons(suspects, silent))


def _without(found: Found, bad: Collection[FoundImage]) -> ImageData:
    train, val = split_parts(found, bad)
    return ImageData(
        name=found.name,
        classes=found.classes,
        train=tuple(Sample(image.source, image.label) for image in train.images),
        val=tuple(Sample(image.source, image.label) for image in val.images),
        fingerprint=fingerprint(map(_entry, train.images), map(_entry, val.images)),
        hints=found.hints,
        skipped=tuple(image.name for image in bad),
    )


def find_data(name_or_path: str) -> Found:
    """Return what a data set holds, without decoding any of it.

    A source's name wins over a path that begins like it, which `./name` reaches.

    Raises:
        DataError: Neither a name nor a path that exists, or a data set that cannot be used.
        UnavailableError: It has to be downloaded, and cannot be.
    """
    sources = data_sources()
    name, colon, _ = name_or_path.partition(":")
    source = sources.get(name)
    if source is not None and source.form.partition(":")[:2] == (name, colon):
        return source.find(name_or_path)
    if not _exists(name_or_path):
        forms = [source.form for source in sources.values() if source.form.startswith(source.name)]
        closest = difflib.get_close_matches(name_or_path, forms) or forms
        raise DataError(
            f"{name_or_path!r} is neither a data set nor a path that exists",
            f"name {' or '.join(closest)}, or give the path of an existing folder with one sub-folder a class",
        )
    path = Path(name_or_path).expanduser()
    reader = next((source for source in sources.values() if source.recognises(path)), sources[FOLDER])
    return reader.find(name_or_path)


def split_parts(found: Found, bad: Collection[FoundImage]) -> tuple[Part, Part]:
    """Return the parts to train on and to hold out, without the `bad` images.

    A single part is split, a share of each class held out.

    Raises:
        DataError: A class has no image left in a part, or too few to be split.
    """
    parts = readable_parts(found, bad)
    for part in parts:
        _require_every_class(found, part, "every image in it is corrupt")
    if len(parts) == 2:
        return parts[0], parts[1]
    images = parts[0].images
    for label, count in Counter(image.label for image in images).items():
        if count == 1:
            raise DataError(
                f"the class {found.classes[label]} of {found.name} has 1 usable image, too few to hold one out",
                f"add images, or make the split yourself as {TRAIN} and {HELD_OUT[0]}",
            )
    train, val = stratified_split([image.label for image in images], VAL_SHARE, SPLIT_SEED)
    return (
        Part(TRAIN, tuple(images[index] for index in train)),
        Part(HELD_OUT[0], tuple(images[index] for index in val)),
    )


def readable_parts(found: Found, bad: Collection[FoundImage]) -> tuple[Part, ...]:
    """Return the parts without the `bad` images."""
    return tuple(Part(part.name, tuple(image for image in part.images if image not in bad)) for part in found.parts)


def require_classes(found: Found, reason: str) -> Found:
    """Return `found` if it has two classes or more, each of them with images in every part.

    Raises:
        DataError: It has not, for the `reason` that is given.
    """
    if len(found.classes) < 2:
        classes = f"a single class, {found.classes[0]}" if found.classes else "no images"
        raise DataError(f"{found.name} has {classes}", "add images of every class that is to be told apart")
    for part in found.parts:
        _require_every_class(found, part, reason)
    return found


def first_of(culprits: Sequence[str]) -> str:
    """Return the first few, and how many more there are."""
    rest = len(culprits) - NAMED
    return ", ".join(culprits[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def fingerprint(train: Iterable[Entry], val: Iterable[Entry]) -> str:
    """Return a sha256 over the entries of both parts, in order."""
    digest = hashlib.sha256()
    for part, entries in (("train", train), ("val", val)):
        for name, size_bytes, label in entries:
            # File names need not be valid Unicode, and may hold anything but a zero byte.
            digest.update(f"{part}\0{name}\0{size_bytes}\0{label}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _entry(image: FoundImage) -> Entry:
    return image.name, image.size_bytes, image.label


def _unusable(found: Found, progress: Progress) -> dict[FoundImage, str]:
    """Why each damaged image cannot be decoded, in order; what is in memory already needs no decoding."""
    encoded = [image for part in found.parts for image in part.images if not isinstance(image.source, np.ndarray)]
    return _reasons(encoded, progress)


def _reasons(images: Sequence[FoundImage], progress: Progress) -> dict[FoundImage, str]:
    from effvit.decoding import in_threads, why_unusable

    reasons = in_threads(why_unusable, [image.source for image in images], progress)
    return {image: reason for image, reason in zip(images, reasons, strict=True) if reason is not None}


def _require_every_class(found: Found, part: Part, reason: str) -> None:
    filled = {image.label for image in part.images}
    empty = [name for label, name in enumerate(found.classes) if label not in filled]
    if empty:
        where = found.name if len(found.parts) == 1 else f"the {part.name} part of {found.name}"
        raise DataError(f"the class {empty[0]} of {where} cannot be used: {reason}", "add images, or remove the class")


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError):  # longer than any path can be; the home of a user who does not exist
        return False
