"""Held-out images decoded once: as they are in memory, or as a model takes them in files that later commands find."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL

from effvit.data.base import Sample
from effvit.decoded import contents_digest, require_disk, require_memory
from effvit.decoding import decode, decoded_bytes, in_threads
from effvit.environment import package_version
from effvit.preprocessing import Preprocessing
from effvit.progress import Progress
from effvit.storage import one_at_a_time, remove_unfinished, replacing, user_cache

WHAT = "prepared held-out images"


def in_memory(samples: Sequence[Sample], progress: Progress) -> tuple[Sample, ...]:
    """Return the images decoded and otherwise as they are, for several sizes to be made of them.

    Raises:
        UsageError: They do not fit into memory.
        DataError: An image vanished or became unreadable.
    """
    require_memory(sum(decoded_bytes(sample.source) for sample in samples), "decoded held-out images")
    arrays = in_threads(lambda sample: np.asarray(decode(sample.source)), samples, progress)
    return tuple(Sample(array, sample.label) for array, sample in zip(arrays, samples, strict=True))


def on_disk(
    samples: Sequence[Sample], preprocessing: Preprocessing, height: int, width: int, progress: Progress
) -> Path:
    """Return a file of what `evaluation_pixels` makes of the images, which is made where there is none yet.

    It is called after the images' contents and all else that it follows from.

    Raises:
        StorageError: They do not fit onto the disk, or the cache cannot be written.
        DataError: An image vanished or became unreadable.
    """
    made_by = f"{preprocessing} {height}x{width} Pillow {PIL.__version__} timm {package_version('timm')}"
    path = user_cache() / "evaluation" / f"{contents_digest(samples, made_by)}.npy"
    shape = (len(samples), height, width, 3)
    # Whoever comes second waits, and then finds the file.
    with one_at_a_time(path.with_suffix(".lock")):
        if not _holds(path, shape):
            remove_unfinished(path)
            require_disk(path, int(np.prod(shape)), WHAT)
            _write(path, samples, preprocessing, progress, height, width)
    return path


def _write(
    path: Path, samples: Sequence[Sample], preprocessing: Preprocessing, progress: Progress, height: int, width: int
) -> None:
    from effvit.images import evaluation_pixels  # and with it torch, which finding a file does not need

    pixels = evaluation_pixels(samples, preprocessing, height, width, progress)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, pixels)


def _holds(path: Path, shape: tuple[int, ...]) -> bool:
    if not path.is_file():
        return False
    try:
        held: tuple[int, ...] = np.load(path, mmap_mode="r").shape
    except (ValueError, EOFError):  # not whole
        return False
    return held == shape
