"""Files are written whole and renamed into place; a full disk or a read-only folder is one clear sentence."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from effvit.errors import StorageError

_HASHED_AT_ONCE = 2**20
HINTS = {
    errno.ENOSPC: "free some space on this disk, then run the same command again",
    errno.EDQUOT: "free some of your quota, then run the same command again",
    errno.EROFS: "choose a folder on a disk that can be written",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EISDIR: "name a file: this is a folder",
    errno.ENOTDIR: "choose another path: a part of this one is a file",
    errno.EEXIST: "choose another path: a part of this one is a file",
}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Translate an OSError raised while writing `path`.

    Raises:
        StorageError: The disk is full, the folder cannot be written, or a part of the path is a file, say.
    """
    try:
        yield
    except OSError as error:
        cause = (error.strerror or type(error).__name__).lower()
        hint = HINTS.get(error.errno or 0, "check the folder and the disk, then run the same command again")
        raise StorageError(f"{path} cannot be written: {cause}", hint) from error


def make_folder(path: Path) -> Path:
    """Create `path` and its parents, and return it; a folder that exists already is fine.

    Raises:
        StorageError: It cannot be made, or cannot be written to.
    """
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "permission denied", str(path))
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there takes the place of `path` on success.

    Raises:
        StorageError: The disk is full or the folder cannot be written; `path` is then as it was before.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Have other processes that come to the lock file `path` wait until this one leaves the block, or ends.

    Raises:
        StorageError: The folder cannot be written.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("w")
    with stream:
        fcntl.lockf(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def making_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which becomes `path` with all that was put into it, on success.

    Raises:
        StorageError: `path` exists already, the disk is full, or the folder around it cannot be written.
    """
    if path.exists():
        raise StorageError(f"{path} exists already", "choose another --out, or remove it")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    with file.open("rb") as stream:
                        os.fsync(stream.fileno())
            temporary.chmod(0o755)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_unfinished(path: Path) -> None:
    """Remove what `replacing` left beside `path` in processes that were killed meanwhile.

    Raises:
        StorageError: The folder cannot be written.
    """
    with storage_errors(path):
        for temporary in path.parent.glob(f".{glob.escape(path.name)}.*"):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all.

    Raises:
        StorageError: The disk is full or the folder cannot be written; `path` is then as it was before.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def user_cache() -> Path:
    """Return the folder for what can be made again: `$EFFVIT_CACHE`, or `effvit` in the user's cache folder."""
    own = os.environ.get("EFFVIT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "effvit"


def sha256_of(path: Path) -> str:
    """Return the sha256 of the file at `path` in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(_HASHED_AT_ONCE):
            digest.update(part)
    return digest.hexdigest()
