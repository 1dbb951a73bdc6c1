"""Classification data sets that torchvision knows how to download."""

from __future__ import annotations

import hashlib
import http.client
import inspect
import shutil
import sys
import tarfile
import urllib.error
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effvit.data.base import (
    DIGITS,
    HELD_OUT,
    PHOTOGRAPHS,
    TRAIN,
    WHOLE,
    DataDefaults,
    DataSource,
    Found,
    FoundImage,
    Part,
    require_classes,
)
from effvit.errors import UnavailableError, UnknownNameError, first_line
from effvit.storage import one_at_a_time, storage_errors, user_cache

PREFIX = "torchvision"
# What a download or an archive that was cut short raises, besides what a full disk does.
DOWNLOAD_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    RuntimeError,  # torchvision, of a file with the wrong checksum, or where every mirror failed
    EOFError,
    tarfile.TarError,
    zipfile.BadZipFile,
)


@dataclass(frozen=True, slots=True)
class Known:
    """What torchvision's class is called with for the part to train on and the one held out; None where it has none."""

    hints: DataDefaults
    train: Mapping[str, object]
    held_out: Mapping[str, object] | None


_FLAG = {"train": True}, {"train": False}
_SPLIT = {"split": "train"}, {"split": "test"}
_VAL = {"split": "train"}, {"split": "val"}
_WHOLE: tuple[Mapping[str, object], None] = {}, None

# Those whose images are small, or that hand their files to a loader: the others would have to be decoded all at once.
SETS: Mapping[str, Known] = {
    "CIFAR10": Known(PHOTOGRAPHS, *_FLAG),
    "CIFAR100": Known(PHOTOGRAPHS, *_FLAG),
    "Country211": Known(PHOTOGRAPHS, {"split": "train"}, {"split": "valid"}),
    "DTD": Known(PHOTOGRAPHS, *_VAL),
    "EuroSAT": Known(PHOTOGRAPHS, *_WHOLE),
    "FGVCAircraft": Known(PHOTOGRAPHS, *_VAL),
    "FashionMNIST": Known(PHOTOGRAPHS, *_FLAG),
    "Flowers102": Known(PHOTOGRAPHS, *_VAL),
    "Food101": Known(PHOTOGRAPHS, *_SPLIT),
    "Imagenette": Known(PHOTOGRAPHS, *_VAL),
    "KMNIST": Known(DIGITS, *_FLAG),
    "MNIST": Known(DIGITS, *_FLAG),
    "STL10": Known(PHOTOGRAPHS, *_SPLIT),
    "SUN397": Known(PHOTOGRAPHS, *_WHOLE),
    "SVHN": Known(DIGITS, *_SPLIT),
    "USPS": Known(DIGITS, *_FLAG),
}


def find(name: str) -> Found:
    """Return the data set that `torchvision:NAME` names, downloaded into the user's cache if it is not there yet.

    Raises:
        UnknownNameError: torchvision has no such set, or none that this source can read.
        UnavailableError: It is not in the cache and cannot be downloaded.
        StorageError: The disk is full, or the cache cannot be written.
    """
    asked = name.removeprefix(f"{PREFIX}:")
    if asked not in SETS:
        raise UnknownNameError("torchvision data set", asked, SETS)
    known, root = SETS[asked], user_cache() / PREFIX / asked
    _download(asked, known, root)
    parts, classes = [], None
    for part, arguments in _parts(known):
        dataset = _opened(asked, root, arguments)
        parts.append(Part(part, tuple(_images(dataset, part, root))))
        classes = classes or _class_names(dataset, parts[0])
    assert classes is not None
    return require_classes(Found(name, classes, tuple(parts), known.hints), "it has no images")


def _parts(known: Known) -> list[tuple[str, Mapping[str, object]]]:
    if known.held_out is None:
        return [(WHOLE, known.train)]
    return [(TRAIN, known.train), (HELD_OUT[0], known.held_out)]


def _download(name: str, known: Known, root: Path) -> None:
    """Have the whole set in `root`, which does not exist before every file of it is there."""
    unfinished = root.with_name(f".{name}")
    with one_at_a_time(root.with_name(f".{name}.lock")):
        if root.exists():
            return
        # torchvision takes half an archive that was unpacked for the whole of it.
        shutil.rmtree(unfinished, ignore_errors=True)
        with storage_errors(root):
            try:
                unfinished.mkdir(parents=True)
                for _, arguments in _parts(known):
                    _opened(name, unfinished, {**arguments, "download": True})
            except DOWNLOAD_ERRORS as error:
                reason = error.reason if isinstance(error, urllib.error.URLError) else first_line(error)
                raise UnavailableError(
                    f"{PREFIX}:{name} cannot be downloaded: {reason}",
                    f"connect to the internet once: it is then kept in {root}",
                ) from error
            unfinished.replace(root)


def _opened(name: str, root: Path, arguments: Mapping[str, object]) -> Any:
    import torchvision.datasets

    kind = getattr(torchvision.datasets, name)
    # A loader that does not load gives the files.
    lazily = {"loader": Path} if "loader" in inspect.signature(kind).parameters else {}
    with redirect_stdout(sys.stderr):  # where talk goes; stdout is for results
        return kind(str(root), **lazily, **arguments)


def _images(dataset: Any, part: str, root: Path) -> Iterator[FoundImage]:
    """The images of a part in order, files by path: some sets list them in whatever order the file system has."""
    items = [dataset[index] for index in range(len(dataset))]
    if items and isinstance(items[0][0], Path):
        for path, label in sorted(items):
            yield FoundImage(path, path.relative_to(root).as_posix(), path.stat().st_size, int(label))
        return
    for index, (image, label) in enumerate(items):
        pixels = np.asarray(image.convert("RGB"))
        # All of them have the same size in bytes: the contents tell them apart.
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        yield FoundImage(pixels, f"{part}/{index}:{digest[:16]}", pixels.nbytes, int(label))


def _class_names(dataset: Any, part: Part) -> tuple[str, ...]:
    names = getattr(dataset, "classes", None)
    if names is None:
        names = range(1 + max(image.label for image in part.images))
    # Imagenette gives every name that WordNet has for a class.
    return tuple(name[0] if isinstance(name, tuple) else str(name) for name in names)


SOURCE = DataSource(
    name=PREFIX,
    form=f"{PREFIX}:NAME",
    summary=f"a classification data set of torchvision, downloaded once: {', '.join(SETS)}",
    find=find,
)
