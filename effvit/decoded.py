"""Training images decoded and made smaller once, in memory or in a file that every process maps."""

from __future__ import annotations

import hashlib
import math
import shutil
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from effvit.cached import Cached, Where
from effvit.data.base import ImageData, Sample
from effvit.decoding import MappedImage, Source, decode, encoding_of, fits, in_threads, is_decoded
from effvit.errors import DataError, StorageError, UsageError, first_line
from effvit.images import CACHE_LIMIT_BYTES
from effvit.memory import available_bytes
from effvit.progress import Progress, silent
from effvit.storage import one_at_a_time, remove_unfinished, replacing, user_cache

MEMORY_SHARE = 0.75
"""Of the memory that is free, so much may be filled: the model, its optimiser and its batches need some, too."""
UNASKED_SHARE = 0.5
"""Nobody asked for it to be filled, so more of it is left to others."""
PART = 256
"""Images that are decoded before the next are."""
FORM = b"effvit/images/1\n"
WHAT = "decoded training images"
# At the end of a file, after the height and width of every image: how many there are.
_END = struct.Struct(f"<Q{len(FORM)}s")
_SIZES = np.dtype("<u4")


def cached_for(where: Where, resolution: tuple[int, int], crop_scale: tuple[float, float]) -> Cached:
    """Return how images are kept for crops of this share of their area, resized to `resolution` (height, width) px.

    A crop of the middle share, cut out of a kept image, has as many pixels as the model's input; smaller ones are
    enlarged from what was kept.
    """
    middle = sum(crop_scale) / 2
    return Cached(where, math.ceil(max(resolution) / math.sqrt(middle)))


def worth_keeping(data: ImageData, cached: Cached, processes: int) -> bool:
    """Return whether training images are to be kept in memory although nobody has said so.

    That is if they would otherwise be decoded in every epoch, and as often as there are `processes` on this machine
    they leave enough memory to others.

    Raises:
        DataError: An image vanished or became unreadable.
    """
    sources = [sample.source for sample in data.train]
    if all(map(is_decoded, sources)) or fits(sources, CACHE_LIMIT_BYTES):
        return False
    free_bytes = available_bytes()
    size_bytes = sum(_bytes_kept(source, cached.shorter_side) for source in sources)
    return free_bytes is not None and processes * size_bytes <= UNASKED_SHARE * free_bytes


def with_cache(data: ImageData, cached: Cached, progress: Progress) -> ImageData:
    """Return `data` whose training images are decoded already; those held out stay as they are.

    Raises:
        UsageError: They do not fit into memory.
        StorageError: They do not fit onto the disk, or the cache cannot be written.
        DataError: An image vanished or became unreadable.
    """
    size_bytes = sum(_bytes_kept(sample.source, cached.shorter_side) for sample in data.train)
    if cached.where == "ram":
        require_memory(size_bytes, WHAT)
        sources: Sequence[Source] = list(in_threads(lambda sample: _kept(sample, cached), data.train, progress))
    else:
        sources = _on_disk(data.train, cached, size_bytes, progress)
    train = tuple(Sample(source, sample.label) for source, sample in zip(sources, data.train, strict=True))
    return replace(data, train=train)


def _kept(sample: Sample, cached: Cached) -> npt.NDArray[np.uint8]:
    image = decode(sample.source)
    height, width = _shrunk(image.height, image.width, cached.shorter_side)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _bytes_kept(source: Source, shorter_side: int) -> int:
    encoding = encoding_of(source)
    height, width = _shrunk(encoding.height, encoding.width, shorter_side)
    return 3 * height * width


def _shrunk(height: int, width: int, shorter_side: int) -> tuple[int, int]:
    """The (height, width) of an image that is made smaller if its shorter side is longer than `shorter_side`."""
    shorter = min(height, width)
    if shorter <= shorter_side:
        return height, width
    return round(height * shorter_side / shorter), round(width * shorter_side / shorter)


def require_memory(size_bytes: int, what: str) -> None:
    """Check that `what` would leave enough memory free.

    Raises:
        UsageError: It would not.
    """
    free_bytes = available_bytes()
    if free_bytes is not None and size_bytes > MEMORY_SHARE * free_bytes:
        raise UsageError(
            f"the {what} take {size_bytes / 2**20:.0f} MiB, and {free_bytes / 2**20:.0f} MiB of memory are free",
            "keep them with --cache disk, or leave --cache out",
        )


def _on_disk(samples: Sequence[Sample], cached: Cached, size_bytes: int, progress: Progress) -> list[MappedImage]:
    """Return the images in a file that is called after what is in it, and made where there is none yet."""
    made_by = f"{FORM!r} {cached.shorter_side} Pillow {PIL.__version__}"
    path = user_cache() / "images" / f"{contents_digest(samples, made_by)}.bin"
    # Whoever comes second waits, and then finds the file.
    with one_at_a_time(path.with_suffix(".lock")):
        sizes = _sizes_in(path)
        if sizes is None or len(sizes) != len(samples):
            remove_unfinished(path)
            require_disk(path, size_bytes, WHAT)
            sizes = _write(path, samples, cached, progress)
    return list(_mapped(path, sizes))


def _write(path: Path, samples: Sequence[Sample], cached: Cached, progress: Progress) -> list[tuple[int, int]]:
    """Write the images to `path`, whole or not at all, and return their (height, width)."""
    sizes: list[tuple[int, int]] = []
    with replacing(path) as temporary, temporary.open("wb") as stream:
        # By parts: threads that are faster than the disk would fill the memory.
        for start in range(0, len(samples), PART):
            for pixels in in_threads(lambda sample: _kept(sample, cached), samples[start : start + PART], silent):
                stream.write(np.ascontiguousarray(pixels).data)
                sizes.append((pixels.shape[0], pixels.shape[1]))
                progress(len(sizes), len(samples))
        stream.write(np.array(sizes, dtype=_SIZES).tobytes())
        stream.write(_END.pack(len(sizes), FORM))
    return sizes


def _mapped(path: Path, sizes: Sequence[tuple[int, int]]) -> Iterator[MappedImage]:
    offset = 0
    for height, width in sizes:
        yield MappedImage(path, offset, height, width)
        offset += 3 * height * width


def contents_digest(samples: Sequence[Sample], made_by: str) -> str:
    """Return a hash of the images' contents, and of `made_by`: all else that what is kept of them follows from."""
    whole = hashlib.sha256(made_by.encode())
    for digest in in_threads(_content_digest, samples, silent):
        whole.update(digest)
    return whole.hexdigest()[:32]


def _content_digest(sample: Sample) -> bytes:
    source = sample.source
    if isinstance(source, MappedImage | np.ndarray):
        pixels = np.ascontiguousarray(source if isinstance(source, np.ndarray) else source.pixels())
        return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest()
    try:
        content = source.read_bytes() if isinstance(source, Path) else source.read()
    except OSError as error:
        raise DataError(f"{source} cannot be read: {first_line(error)}", "restore the file") from error
    return hashlib.sha256(content).digest()


def _sizes_in(path: Path) -> list[tuple[int, int]] | None:
    """Return the sizes of the images in the file, None if there is no whole file."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        end = path.stat().st_size - _END.size
        if end < 0:
            return None
        stream.seek(end)
        images, form = _END.unpack(stream.read(_END.size))
        start = end - 2 * _SIZES.itemsize * images
        if form != FORM or start < 0:
            return None
        stream.seek(start)
        sizes = np.frombuffer(stream.read(end - start), dtype=_SIZES).reshape(-1, 2)
    if 3 * int(sizes.astype(np.int64).prod(axis=1).sum()) != start:
        return None
    return [(height, width) for height, width in sizes.tolist()]


def require_disk(path: Path, size_bytes: int, what: str) -> None:
    """Check that `what` has room where the file `path` is to be.

    Raises:
        StorageError: It has not.
    """
    free_bytes = shutil.disk_usage(path.parent).free
    if size_bytes > free_bytes:
        raise StorageError(
            f"the {what} take {size_bytes / 2**20:.0f} MiB, and {free_bytes / 2**20:.0f} MiB are free in {path.parent}",
            "free some space, name another folder with the environment variable EFFVIT_CACHE, or leave --cache out",
        )
