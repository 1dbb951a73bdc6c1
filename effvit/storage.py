"""Files appear whole or not at all, and a disk that refuses says so in one sentence."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from effvit.errors import StorageError

_HINTS = {
    errno.ENOSPC: "free some space on this disk, or choose a folder on another one",
    errno.EDQUOT: "free some of your quota, or choose a folder on another disk",
    errno.EROFS: "choose a folder on a disk that can be written",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EISDIR: "name a file: this is a folder",
    errno.ENOTDIR: "choose another folder: a part of this path is a file",
    errno.EEXIST: "choose another folder: a part of this path is a file",
}


def storage_error(path: Path, error: OSError) -> StorageError:
    """Return the error that says why `path` could not be written, with a hint that fits the cause."""
    cause = error.strerror or type(error).__name__
    hint = _HINTS.get(error.errno or 0, "check the folder and the disk, then run the same command again")
    return StorageError(f"{path} cannot be written: {cause}", hint)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a file beside `path` and rename it into place; missing folders are made.

    A reader sees the old content or the new, never a part, and a failed write leaves the old content.

    Raises:
        StorageError: The folder cannot be written, or the disk is full.
    """
    # In the same folder, because a rename is atomic only within one file system.
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("xb") as file:
                file.write(data)
                file.flush()
                # Without this a power cut can leave the new name on an empty file.
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error
