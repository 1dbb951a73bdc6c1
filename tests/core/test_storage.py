import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from effvit.errors import StorageError
from effvit.storage import (
    make_folder,
    one_at_a_time,
    replacing,
    sha256_of,
    storage_errors,
    user_cache,
    write_atomically,
)


def test_a_file_and_its_folders_appear(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b.txt", b"whole")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"whole"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


@pytest.mark.parametrize(
    ("code", "hint"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "that can be written"), (errno.EIO, "check")]
)
def test_a_failed_write_leaves_the_old_content_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, hint: str
) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(b"old")

    def refuse(_descriptor: int) -> None:
        raise OSError(code, "refused")

    # A full disk cannot be made without root, so the system call that would report it is replaced.
    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(StorageError, match=r"report\.html cannot be written: refused") as caught:
        write_atomically(path, b"new")
    assert hint in caught.value.hint
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written") as caught:
        write_atomically(tmp_path / "file" / "report.html", b"")
    assert "is a file" in caught.value.hint


@pytest.mark.parametrize(
    ("error", "cause", "hint"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk quota exceeded", "free some of your quota"),
        (OSError(errno.EACCES, "Permission denied"), "permission denied", "a folder that you may write to"),
        (OSError(errno.EISDIR, "Is a directory"), "is a directory", "name a file"),
        (OSError("without a number"), "oserror", "check the folder and the disk"),
    ],
)
def test_the_cause_of_a_failed_write_decides_the_hint(error: OSError, cause: str, hint: str) -> None:
    with pytest.raises(StorageError) as caught, storage_errors(Path("out")):
        raise error
    assert caught.value.message == f"out cannot be written: {cause}"
    assert hint in caught.value.hint


def test_only_errors_of_the_system_are_translated() -> None:
    with pytest.raises(KeyError), storage_errors(Path("out")):
        raise KeyError("x")


def test_a_folder_is_made_with_its_parents_and_may_exist(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert make_folder(folder) == folder
    assert make_folder(folder).is_dir()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(StorageError, match="permission denied"):
        make_folder(tmp_path)


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file cannot be written"):
        make_folder(tmp_path / "file")


def test_an_interrupted_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights"]


def test_a_replaced_file_can_be_read_by_everyone(tmp_path: Path) -> None:
    with replacing(tmp_path / "weights") as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "weights").stat().st_mode & 0o777 == 0o644


def test_a_hash_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-4, the example for SHA-256 of "abc"
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFVIT_CACHE", "/big/disk")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/me")
    assert user_cache() == Path("/big/disk")
    monkeypatch.delenv("EFFVIT_CACHE")
    assert user_cache() == Path("/xdg/effvit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_cache() == Path("/home/me/.cache/effvit")


HOLD = """
import sys
from pathlib import Path
from effvit.storage import one_at_a_time
with one_at_a_time(Path(sys.argv[1])):
    print("inside", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time_is_let_in_and_one_that_is_killed_lets_the_next(tmp_path: Path) -> None:
    lock = tmp_path / "new" / "lock"
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "inside\n"
        with lock.open("w") as stream, pytest.raises(BlockingIOError):
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.kill()
    with one_at_a_time(lock):
        pass
