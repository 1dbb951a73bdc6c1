"""Files of /proc and /sys, where anything may be missing, torn or odd. Standard library only."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

# More than any of them holds that is read here: /proc/cpuinfo of 400 cores.
_MOST_BYTES = 2**20
_NUMBERED = re.compile(r"([0-9]+)")


def text_of(path: Path) -> str | None:
    """Return what a file holds, without spaces around it; None where it cannot be read or holds nothing.

    Reading a sensor may fail although its file is there: it is switched off, say.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES)
    except (OSError, ValueError):  # ValueError: a name with a NUL in it
        return None
    # The device tree ends its texts with a NUL.
    return content.decode(errors="replace").strip("\0 \t\r\n") or None


def number_of(path: Path, base: int = 10) -> int | None:
    """Return the whole number that a file holds; None where it holds none, or one that no sensor has."""
    text = text_of(path)
    return None if text is None else number_from(text, base)


def number_from(text: str, base: int = 10) -> int | None:
    """Return the whole number that a text is; None where it is none, or one that no kernel counts to."""
    try:
        number = int(text, base)
    except ValueError:
        return None
    return number if abs(number) < 2**64 else None


def numbered(folder: Path, pattern: str) -> list[Path]:
    """Return what matches in a folder, `cpu2` before `cpu10`; nothing where the folder cannot be read."""
    return sorted(_matching(folder, pattern), key=_in_order)


def _matching(folder: Path, pattern: str) -> Iterator[Path]:
    try:
        yield from folder.glob(pattern)
    except OSError:
        return


def _in_order(path: Path) -> list[tuple[float, str]]:
    parts = _NUMBERED.split(path.as_posix())
    return [(float(part), "") if part.isdecimal() else (math.inf, part) for part in parts]
