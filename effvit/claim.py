"""A folder that is worked on belongs to one process at a time. Standard library only."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from effvit.errors import UsageError
from effvit.storage import storage_errors

LOCK = ".lock"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep other processes from training in `folder`; whatever ends this process ends the claim.

    Raises:
        UsageError: Another process trains there.
        StorageError: The folder cannot be written.
    """
    with exclusively(folder / LOCK, f"the run {folder.name} is being trained by another process"):
        yield


@contextmanager
def exclusively(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock on the file `path`, which no two processes hold at once and which ends with its holder.

    Raises:
        UsageError: Another process holds it; `busy` says so.
        StorageError: The folder cannot be written.
    """
    with storage_errors(path):
        stream = path.open("w")
    with stream:
        try:
            # A lock of this kind is not handed down to processes that load images, which may outlive this one a little.
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(busy, "wait for it, or stop it first") from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_claimed(folder: Path) -> bool:
    """Return whether another process trains in `folder`."""
    try:
        with (folder / LOCK).open("r+") as stream:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
