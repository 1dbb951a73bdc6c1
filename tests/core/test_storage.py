import errno
from pathlib import Path

import pytest

from effvit.errors import StorageError
from effvit.storage import write_atomically


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
