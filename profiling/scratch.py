"""A temporary folder that does not outlive its process for long: what a killed one left, the next one removes."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from effvit.interruption import uninterrupted
from effvit.storage import storage_errors

PREFIX = "effvit-pixels-"
LOCK = "lock"


class ScratchFolder:
    """A folder among the temporary ones, and a lock in it that the kernel drops with the process that holds it.

    Unlike the number of a process, a lock is never that of another one later. What this process started may hold it,
    too: as long as anyone who could read the folder lives, it stays.

    Raises:
        StorageError: The disk is full, or nothing can be written there.
    """

    def __init__(self) -> None:
        for left in _abandoned():
            shutil.rmtree(left, ignore_errors=True)
        with storage_errors(Path(tempfile.gettempdir())):
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
            # Renamed once it is held: under its name nobody ever sees it free while we live.
            unnamed = self.path / f".{LOCK}"
            self._lock = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with suppress(OSError):  # a file system without locks: what stays here after a kill stays for good
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unnamed.rename(self.path / LOCK)

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        with uninterrupted():
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)


def _abandoned() -> Iterator[Path]:
    """Yield the folders of this user's whose processes have ended."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # of another user, without a lock yet, locked, or removed by somebody else right now
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield folder
            finally:
                os.close(lock)
