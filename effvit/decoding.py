"""Image files to RGB images. Pillow only, no torch."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from effvit.errors import DataError
from effvit.progress import Progress

Source = Path | npt.NDArray[np.uint8]
"""An image file, or an RGB image in memory, `(height, width, 3)`."""

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
    if not isinstance(source, Path):
        return Image.fromarray(source)
    try:
        return _read(source)
    except DECODE_ERRORS as error:
        raise DataError(
            f"{source} cannot be used as an image: {_reason(source, error)}", "repair or remove the file"
        ) from error


def why_unusable(path: Path) -> str | None:
    """Decode the whole file and return the reason why that fails; None if it does not."""
    try:
        _read(path)
    except DECODE_ERRORS as error:
        return _reason(path, error)
    return None


def decoded_bytes(source: Source) -> int:
    """The memory that the decoded image takes, from the header of the file alone.

    Raises:
        DataError: As `decode`.
    """
    if not isinstance(source, Path):
        return source.nbytes
    try:
        with Image.open(source) as image:
            return 3 * image.width * image.height
    except DECODE_ERRORS as error:
        raise DataError(
            f"{source} cannot be used as an image: {_reason(source, error)}", "repair or remove the file"
        ) from error


def in_threads(work: Callable[[ITEM], RESULT], items: Sequence[ITEM], progress: Progress) -> Iterator[RESULT]:
    """Yield `work(item)` in order, from a few threads: Pillow decodes and resizes without the interpreter's lock."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for done, result in enumerate(pool.map(work, items), start=1):
            progress(done, len(items))
            yield result


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return _rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except DECODE_ERRORS:
        # The pixels are fine and only the metadata is damaged: every viewer shows such an image as it is stored.
        return image


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


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels could be a decompression bomb"
    if isinstance(error, UnidentifiedImageError):
        return "the file is empty" if path.stat().st_size == 0 else "no image format fits its contents"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
