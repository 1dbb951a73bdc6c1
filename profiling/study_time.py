"""How long a study was expected to take, and has taken so far: kept in its folder, over all its interruptions."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from effvit.profiling.study import SETTINGS, Study, require_same
from effvit.storage import make_folder, write_atomically

TIME = "time.json"


@dataclass(frozen=True, slots=True)
class StudyTime:
    """Seconds that a study has taken, and those that all of it was expected to take at least and at most.

    `study` tells studies apart; None where nothing was forecast.
    """

    study: str
    spent_s: float = 0.0
    low_s: float | None = None
    high_s: float | None = None


def read_time(folder: Path, study: Study) -> StudyTime:
    """Return what is known of the study in `folder`; nothing of another one, or of a damaged file."""
    fresh = StudyTime(hashlib.sha256(msgspec.json.encode(study)).hexdigest()[:16])
    try:
        kept = msgspec.json.decode((folder / TIME).read_bytes(), type=StudyTime)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return fresh
    return kept if kept.study == fresh.study else fresh


def expect(folder: Path, study: Study, low_s: float, high_s: float) -> None:
    """Keep how long what is left of the study will take.

    Raises:
        StorageError: The folder cannot be written.
    """
    known = read_time(folder, study)
    make_folder(folder)
    _write(folder, replace(known, low_s=known.spent_s + low_s, high_s=known.spent_s + high_s))


@contextmanager
def spending(folder: Path, study: Study) -> Iterator[None]:
    """Add what the block takes, however it ends, to what the study in `folder` has taken.

    A process that is killed leaves its last share uncounted. Where the study never began, nothing is written.

    Raises:
        UsageError: The folder holds a study with other settings.
    """
    require_same(folder, study)
    started = time.monotonic()
    try:
        yield
    finally:
        if (folder / SETTINGS).is_file():
            known = read_time(folder, study)
            _write(folder, replace(known, spent_s=known.spent_s + time.monotonic() - started))


def _write(folder: Path, known: StudyTime) -> None:
    write_atomically(folder / TIME, msgspec.json.encode(known) + b"\n")
