"""Any folder of images with one sub-folder a class, split by the user (train/ and val/) or here."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from effvit.data.base import (
    FOLDER,
    HELD_OUT,
    PHOTOGRAPHS,
    TRAIN,
    WHOLE,
    DataSource,
    Found,
    FoundImage,
    Part,
    first_of,
    require_classes,
)
from effvit.errors import DataError


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file: `name` is relative to the data set's folder, `group` is the class folder's name."""

    path: Path
    name: str
    group: str


def find(name: str) -> Found:
    """Return the images in the folder at path `name`.

    Raises:
        DataError: Anything about the folder that makes it unusable.
    """
    return find_in(name, Path(name).expanduser())


def find_in(name: str, root: Path, only: Collection[str] | None = None) -> Found:
    """Return the images in the folder `root` as a data set that the user calls `name`; with `only`, of these classes.

    Raises:
        DataError: Anything about the folder that makes it unusable.
    """
    try:
        return _find(name, root, only)
    except OSError as error:
        where = error.filename or root
        raise DataError(f"{where} cannot be read: {error.strerror}", "check the path and its permissions") from error


def _find(name: str, root: Path, only: Collection[str] | None) -> Found:
    _require_folder(root)
    parts = _parts(root)
    classes = _classes(root, parts, only)
    files = [list(_files(root, part, classes)) for part in parts]
    found = Found(
        name=name,
        classes=classes,
        parts=tuple(
            Part(part.name if part != root else WHOLE, tuple(_images(some, classes)))
            for part, some in zip(parts, files, strict=True)
        ),
        hints=PHOTOGRAPHS,
        others=tuple(file.name for some in files for file in some if not _is_image(file)),
    )
    return require_classes(found, "it has no image files")


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


def _files(root: Path, part: Path, classes: Sequence[str]) -> Iterator[ImageFile]:
    """The files of a part, by class folder and then by name, whatever order the file system has."""
    for group in classes:
        for path in sorted(_files_below(part / group), key=Path.as_posix):
            yield ImageFile(path, path.relative_to(root).as_posix(), group)


def _files_below(folder: Path) -> Iterator[Path]:
    visited: set[Path] = set()  # a link to a folder above it would be followed round and round
    for path, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        real = Path(path).resolve()
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                yield Path(path, name)


def _raise(error: OSError) -> None:
    raise error


def _is_image(file: ImageFile) -> bool:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return file.path.suffix.lower() in IMG_EXTENSIONS


def _images(files: Sequence[ImageFile], classes: Sequence[str]) -> Iterator[FoundImage]:
    labels = {name: label for label, name in enumerate(classes)}
    for file in files:
        if _is_image(file):
            yield FoundImage(file.path, file.name, file.path.stat().st_size, labels[file.group])


def _classes(root: Path, parts: Sequence[Path], only: Collection[str] | None) -> tuple[str, ...]:
    """The classes, for which every part must have a folder."""
    if only is not None:
        return _wanted(root, parts, only)
    classes = tuple(_folders(parts[0]))
    if not classes:
        raise DataError(f"{parts[0]} has no class folders", "put the images of each class into a sub-folder of its own")
    for part in parts[1:]:
        others = _folders(part)
        if set(others) != set(classes):
            missing = [f"{part.name}/{name}" for name in classes if name not in others]
            missing += [f"{parts[0].name}/{name}" for name in others if name not in classes]
            raise DataError(
                f"{parts[0].name}/ and {part.name}/ in {root} have different classes: there is no {first_of(missing)}",
                "give both the same class folders",
            )
    return classes


def _wanted(root: Path, parts: Sequence[Path], only: Collection[str]) -> tuple[str, ...]:
    classes = tuple(sorted(only))
    for part in parts:
        missing = sorted(set(only).difference(_folders(part)))
        if missing:
            raise DataError(
                f"{part} has no folder for {len(missing)} of the {len(only)} classes: {first_of(missing)}",
                "name a folder that holds one sub-folder for each of them, called as the classes are",
            )
    return classes


SOURCE = DataSource(
    name=FOLDER,
    form="PATH",
    summary="any folder of images, PATH/<class>/<image> or PATH/train/<class>/<image> with PATH/val/<class>/<image>",
    find=find,
)
