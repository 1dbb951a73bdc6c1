"""Encoded images to RGB images. Pillow only, no torch."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from effvit.errors import DataError
from effvit.progress import Progress

ORIENTATION = 0x0112
"""The EXIF tag that says how an image is to be turned: CIPA DC-008, section 4.6.5.1.6."""


class Stored(Protocol):
    """An encoded image that is no file of its own, in a table, say. Its `str` is what messages call it."""

    def read(self) -> bytes:
        """Return the encoded image; raise OSError where it cannot be had."""


@dataclass(frozen=True, slots=True)
class MappedImage:
    """An RGB image that lies decoded in a file, `height` x `width` px from byte `offset` on.

    A process maps the file when it first needs it: what goes from one to another is only where the image lies.
    """

    path: Path
    offset: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"an image in {self.path}"

    def pixels(self) -> npt.NDArray[np.uint8]:
        """Return the image, `(height, width, 3)`; raise OSError where its file has gone."""
        count = 3 * self.height * self.width
        return _mapping(self.path)[self.offset : self.offset + count].reshape(self.height, self.width, 3)


@lru_cache(maxsize=4)
def _mapping(path: Path) -> npt.NDArray[np.uint8]:
    return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))


Source = Path | npt.NDArray[np.uint8] | MappedImage | Stored
"""An image file, an RGB image in memory, `(height, width, 3)`, or one that lies elsewhere, decoded or not."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How an image is stored: Pillow's names for its format and mode, and its size in px as it is seen.

    `turned` is whether its metadata has it turned or mirrored, `animated` whether further frames follow.
    """

    format: str
    mode: str
    width: int
    height: int
    turned: bool
    animated: bool


ITEM = TypeVar("ITEM")
RESULT = TypeVar("RESULT")

# What Pillow's format plug-ins raise on damaged files: besides OSError, whatever their parsing trips over.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def decode(source: Source) -> Image.Image:
    """Return the whole image in RGB, upright, the first frame of an animation.

    Transparency is dropped, as timm and torchvision do. 16-bit grey levels keep their upper 8 bits.

    Raises:
        DataError: A file that is missing, unreadable, damaged or too large; the message names it.
    """
    if isinstance(source, np.ndarray):
        return Image.fromarray(source)
    try:
        return Image.fromarray(source.pixels()) if isinstance(source, MappedImage) else _read(source)
    except DECODE_ERRORS as error:
        raise _refusal(source, error) from error


def is_decoded(source: Source) -> bool:
    """Return whether the image needs no decoding any more."""
    return isinstance(source, np.ndarray | MappedImage)


def why_unusable(source: Source) -> str | None:
    """Decode the whole image and return the reason why that fails; None if it does not."""
    if isinstance(source, np.ndarray | MappedImage):
        return None
    try:
        _read(source)
    except DECODE_ERRORS as error:
        return _reason(source, error)
    return None


def encoding_of(source: Source) -> Encoding:
    """Return how the image is stored, from its header alone.

    Raises:
        DataError: As `decode`.
    """
    if isinstance(source, MappedImage):
        return Encoding("pixels", "RGB", source.width, source.height, turned=False, animated=False)
    if isinstance(source, np.ndarray):
        return Encoding("pixels", "RGB", source.shape[1], source.shape[0], turned=False, animated=False)
    try:
        with _opened(source) as image:
            orientation = _orientation(image)
            # From 5 on, rows and columns change places.
            width, height = (image.height, image.width) if orientation >= 5 else image.size
            animated: bool = getattr(image, "is_animated", False)
            return Encoding(image.format or "", image.mode, width, height, orientation > 1, animated)
    except DECODE_ERRORS as error:
        raise _refusal(source, error) from error


def decoded_bytes(source: Source) -> int:
    """The memory that the decoded image takes, from the header of the file alone.

    Raises:
        DataError: As `decode`.
    """
    if isinstance(source, np.ndarray):
        return source.nbytes
    if isinstance(source, MappedImage):
        return 3 * source.height * source.width
    try:
        with _opened(source) as image:
            return 3 * image.width * image.height
    except DECODE_ERRORS as error:
        raise _refusal(source, error) from error


def fits(sources: Iterable[Source], limit_bytes: int) -> bool:
    """Return whether the decoded images together take at most so much memory.

    Raises:
        DataError: As `decode`.
    """
    total = 0
    for source in sources:
        total += decoded_bytes(source)
        if total > limit_bytes:
            return False
    return True


def in_threads(work: Callable[[ITEM], RESULT], items: Sequence[ITEM], progress: Progress) -> Iterator[RESULT]:
    """Yield `work(item)` in order, from a few threads: Pillow decodes and resizes without the interpreter's lock."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for done, result in enumerate(pool.map(work, items), start=1):
            progress(done, len(items))
            yield result


def _opened(source: Path | Stored) -> Image.Image:
    image = Image.open(source if isinstance(source, Path) else io.BytesIO(source.read()))
    # Above its limit Pillow only warns, once, and above twice the limit it refuses.
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        image.close()
        raise Image.DecompressionBombError
    return image


def _read(source: Path | Stored) -> Image.Image:
    with _opened(source) as image:
        image.load()
        return _rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except DECODE_ERRORS:
        # The pixels are fine and only the metadata is damaged: every viewer shows such an image as it is stored.
        return image


def _orientation(image: Image.Image) -> int:
    """1 is upright, as is what the metadata does not say."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except DECODE_ERRORS:
        return 1
    return orientation if orientation in range(1, 9) else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its floating-point pixels have no defined white")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow would clip at 255, which turns most of a 16-bit image white.
        levels = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        # The direct way to RGB warns about transparency given in bytes.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _refusal(source: Path | MappedImage | Stored, error: Exception) -> DataError:
    return DataError(f"{source} cannot be used as an image: {_reason(source, error)}", "repair or remove the file")


def _reason(source: Path | MappedImage | Stored, error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels could be a decompression bomb"
    if isinstance(error, UnidentifiedImageError):
        return "the file is empty" if _is_empty(source) else "no image format fits its contents"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def _is_empty(source: Path | MappedImage | Stored) -> bool:
    if isinstance(source, Path):
        return source.stat().st_size == 0
    return not isinstance(source, MappedImage) and not source.read()
