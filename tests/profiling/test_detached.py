"""Processes that outlive the connection that started them: started once, followed, stopped, and told how they ended."""

from __future__ import annotations

import fcntl
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from effvit.errors import StorageError, UsageError
from effvit.profiling.agent import detached
from effvit.profiling.agent.detached import (
    COMPLAINTS,
    ENDED,
    EVENTS,
    FULL,
    KILLED,
    PROCESS,
    RUNNING,
    Complaint,
    Ended,
    complaint,
    follow,
    is_running,
    start,
    stop,
    write_end,
)

# Here, whoever starts it goes on itself.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return the folder of a kit, whose agent is stopped at the end."""
    kit = tmp_path / "kit"
    kit.mkdir()
    yield kit
    stop(kit)


def told(folder: Path) -> list[dict[str, object]]:
    lines: list[str] = []
    follow(folder, lines.append)
    return [json.loads(line) for line in lines]


def wait_for(folder: Path) -> None:
    while is_running(folder):
        time.sleep(0.02)


def test_it_is_started_once_and_stopped(folder: Path) -> None:
    assert start(folder, SLEEP)
    assert is_running(folder)
    assert not start(folder, SLEEP)
    stop(folder)
    assert not is_running(folder)
    stop(folder)


def test_who_looks_whether_it_runs_does_not_keep_it_from_being_started(folder: Path) -> None:
    looking = (folder / RUNNING).open("a")
    fcntl.flock(looking, fcntl.LOCK_EX)
    threading.Timer(0.2, looking.close).start()
    assert start(folder, SLEEP)


def test_what_it_tells_and_how_it_ended_is_told_from_the_start(folder: Path) -> None:
    assert start(folder, [sys.executable, "-c", "print('[1]'); print('[2]')"])
    wait_for(folder)
    write_end(folder / ENDED, Ended(3, "a", "b"))
    ended = {"event": "ended", "code": 3, "message": "a", "hint": "b"}
    assert told(folder) == [[1], [2], ended]
    assert told(folder) == [[1], [2], ended]


def test_one_that_does_not_say_how_it_ended_was_killed_failed_or_had_no_room(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(folder, [sys.executable, "-c", "print('[1'"])
    wait_for(folder)
    (folder / EVENTS).write_text("[1")
    (folder / COMPLAINTS).write_text("")
    assert [one["message"] for one in told(folder)] == [KILLED.message]
    (folder / COMPLAINTS).write_text("Traceback\n  somewhere\nKeyError: 2\n")
    assert [one["message"] for one in told(folder)] == ["the agent failed: KeyError: 2"]
    monkeypatch.setattr(detached, "_FULL_BYTES", 2**63)
    assert told(folder) == [{"event": "ended", "code": 2, "message": FULL.message, "hint": FULL.hint}]


def test_what_it_keeps_for_a_moment_lies_in_its_folder(folder: Path) -> None:
    assert start(folder, [sys.executable, "-c", "import tempfile; print(tempfile.mkdtemp())"])
    wait_for(folder)
    assert Path((folder / EVENTS).read_text().strip()).parent == folder


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written: no such file"):
        start(tmp_path / "none", SLEEP)


def test_a_process_whose_number_was_not_written_is_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start(folder, SLEEP)
    number = (folder / PROCESS).read_text()
    (folder / PROCESS).write_text("")
    monkeypatch.setattr(detached, "_STOPPED_WITHIN_S", 0.0)
    with pytest.raises(UsageError, match="the kit kit is measured by a process whose number is not known"):
        stop(folder)
    (folder / PROCESS).write_text(number)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", Complaint("")),
        ("warning: x\nlast line\n", Complaint("last line")),
        ("error: a; b\n", Complaint("a; b", "", ours=True)),
        ("a warning\nerror: a\n\nhint: b, c\n", Complaint("a", "b, c", ours=True)),
        ("KeyError: error: no\n", Complaint("KeyError: error: no")),
    ],
)
def test_a_complaint_is_the_last_error_and_its_hint_or_the_last_line(text: str, found: Complaint) -> None:
    assert complaint(text) == found
