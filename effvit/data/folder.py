"""Any folder of images with one sub-folder a class, split by the user (train/ and val/) or here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from effvit.data.base import SPLIT_SEED, VAL_SHARE, DataDefaults, DataSource, Entry, ImageData, Sample, fingerprint
from effvit.decoding import in_threads, why_unusable
from effvit.errors import DataError
from effvit.progress import Progress
from effvit.sampling import stratified_split

TRAIN = "train"
HELD_OUT = ("val", "validation", "valid", "test")
"""Names of the held-out part; the first that exists is taken."""

NAMED = 3
"""How many culprits a message names before it only counts the rest."""

# Fine-tuning as DeiT does it, without erasing: Touvron et al. 2021, table 9, https://arxiv.org/abs/2012.12877
DEFAULTS = DataDefaults(
    model="vit_tiny_patch16_224",
    resolution=None,
    epochs=10,
    crop_scale=(0.08, 1.0),
    horizontal_flip=0.5,
    # Capped below magnitude 10, where timm's posterize keeps 0 bits, which Pillow has come to refuse.
    auto_augment="rand-m9-mstd0.5-mmax9-inc1",
)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file: `name` is relative to the data set's folder, `group` is the class folder's name."""

    path: Path
    name: str
    group: str


def load(name: str, *, skip_corrupt: bool, progress: Progress) -> ImageData:
    """Read the folder at path `name` and decode every image once, so that nothing fails in the middle of a run.

    Raises:
        DataError: Anything about the folder or its images that makes it unusable.
    """
    root = Path(name).expanduser()
    try:
        return _load(name, root, skip_corrupt=skip_corrupt, progress=progress)
    except OSError as error:
        where = error.filename or root
        raise DataError(f"{where} cannot be read: {error.strerror}", "check the path and its permissions") from error


def _load(name: str, root: Path, *, skip_corrupt: bool, progress: Progress) -> ImageData:
    _require_folder(root)
    parts = _parts(root)
    files = [_image_files(root, part) for part in parts]
    classes = _classes(root, parts, files)
    bad = _unusable([file for part in files for file in part], progress)
    if bad and not skip_corrupt:
        total = sum(len(part) for part in files)
        raise DataError(
            f"{len(bad)} of {total} image files in {root} cannot be used: "
            + _first([f"{file.name} ({reason})" for file, reason in bad.items()]),
            "repair or remove them, or leave them out with --skip-corrupt",
        )
    good = [[file for file in part if file not in bad] for part in files]
    for part, kept in zip(parts, good, strict=True):
        _require_images(part, classes, kept, "every image in it is corrupt")
    train, val = good if len(good) == 2 else _split(root, good[0])
    return ImageData(
        name=name,
        classes=classes,
        train=tuple(_samples(train, classes)),
        val=tuple(_samples(val, classes)),
        fingerprint=fingerprint(_entries(train, classes), _entries(val, classes)),
        hints=DEFAULTS,
        skipped=tuple(file.name for file in bad),
    )


def _require_folder(root: Path) -> None:
    if not root.exists():
        raise DataError(f"there is no folder {root}", "check the path")
    if not root.is_dir():
        raise DataError(f"{root} is a file, not a folder", "give the folder that holds one sub-folder a class")


def _parts(root: Path) -> list[Path]:
    """The folders that hold the class folders: train and held-out, or the root alone if it is not split.

    A folder without sub-folders is a class, whatever its name: there are pictures of trains.
    """
    held_out = next((root / name for name in HELD_OUT if _folders(root / name)), None)
    if _folders(root / TRAIN):
        if held_out is None:
            raise DataError(
                f"{root} has {TRAIN}/ but no {HELD_OUT[0]}/ with class folders",
                f"add {HELD_OUT[0]}/, or give {root / TRAIN} itself to have it split",
            )
        return [root / TRAIN, held_out]
    if held_out is not None:
        raise DataError(
            f"{root} has {held_out.name}/ but no {TRAIN}/ with class folders",
            f"add {TRAIN}/, or give {held_out} itself to have it split",
        )
    return [root]


def _folders(folder: Path) -> list[str]:
    """Names of the sub-folders in order; none if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _image_files(root: Path, part: Path) -> list[ImageFile]:
    """The images of a part, by class folder and then by name, whatever order the file system has."""
    files = []
    for group in _folders(part):
        paths = sorted(_images_below(part / group), key=Path.as_posix)
        files += [ImageFile(path, path.relative_to(root).as_posix(), group) for path in paths]
    return files


def _images_below(folder: Path) -> Iterator[Path]:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    visited: set[Path] = set()  # a link to a folder above it would be followed round and round
    for path, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        real = Path(path).resolve()
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in IMG_EXTENSIONS:
                yield Path(path, name)


def _raise(error: OSError) -> None:
    raise error


def _classes(root: Path, parts: Sequence[Path], files: Sequence[Sequence[ImageFile]]) -> tuple[str, ...]:
    """The classes, which every part must have, with images in each."""
    classes = tuple(_folders(parts[0]))
    if not classes:
        raise DataError(f"{parts[0]} has no class folders", "put the images of each class into a sub-folder of its own")
    for part in parts[1:]:
        others = _folders(part)
        if set(others) != set(classes):
            missing = [f"{part.name}/{name}" for name in classes if name not in others]
            missing += [f"{parts[0].name}/{name}" for name in others if name not in classes]
            raise DataError(
                f"{parts[0].name}/ and {part.name}/ in {root} have different classes: there is no {_first(missing)}",
                "give both the same class folders",
            )
    for part, found in zip(parts, files, strict=True):
        _require_images(part, classes, found, "it has no image files")
    if len(classes) == 1:
        raise DataError(f"{parts[0]} has a single class, {classes[0]}", "add a folder for every other class")
    return classes


def _require_images(part: Path, classes: Sequence[str], files: Sequence[ImageFile], why: str) -> None:
    filled = {file.group for file in files}
    for name in classes:
        if name not in filled:
            raise DataError(f"the class folder {part / name} cannot be used: {why}", "add images, or remove the folder")


def _unusable(files: Sequence[ImageFile], progress: Progress) -> dict[ImageFile, str]:
    """Why each damaged file cannot be decoded, in order."""
    reasons = in_threads(why_unusable, [file.path for file in files], progress)
    return {file: reason for file, reason in zip(files, reasons, strict=True) if reason is not None}


def _split(root: Path, files: Sequence[ImageFile]) -> tuple[list[ImageFile], list[ImageFile]]:
    for group, count in Counter(file.group for file in files).items():
        if count == 1:
            raise DataError(
                f"the class folder {root / group} has 1 usable image, too few to hold one out",
                f"add images, or make the split yourself as {TRAIN}/ and {HELD_OUT[0]}/",
            )
    train, val = stratified_split([file.group for file in files], VAL_SHARE, SPLIT_SEED)
    return [files[index] for index in train], [files[index] for index in val]


def _samples(files: Sequence[ImageFile], classes: Sequence[str]) -> Iterator[Sample]:
    for file in files:
        yield Sample(file.path, classes.index(file.group))


def _entries(files: Sequence[ImageFile], classes: Sequence[str]) -> Iterator[Entry]:
    for file in files:
        yield file.name, file.path.stat().st_size, classes.index(file.group)


def _first(culprits: Sequence[str]) -> str:
    rest = len(culprits) - NAMED
    return ", ".join(culprits[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


SOURCE = DataSource(
    name="folder",
    summary="any folder of images, PATH/<class>/<image> or PATH/train/<class>/<image> with PATH/val/<class>/<image>",
    load=load,
    takes_path=True,
)
