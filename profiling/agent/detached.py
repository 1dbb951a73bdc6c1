"""An agent that goes on when the connection that started it has gone. Standard library only."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

EVENTS, ENDED, COMPLAINTS, RUNNING, PROCESS = "events.jsonl", "ended.json", "stderr.txt", "running.lock", "agent.pid"
CACHE = ".cache"
_LOOKED_AGAIN_S = 0.2
_STOPPED_WITHIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How an agent ended: its exit code, and the sentence and hint of an error."""

    code: int
    message: str = ""
    hint: str = ""


KILLED = Ended(-1, "the agent was killed, or the device was switched off", "give the same command again: it goes on")


def start(folder: Path, command: Sequence[str]) -> bool:
    """Start `command`, whose output goes to files in the kit's folder, unless one runs; return whether it was started.

    It has a session of its own, which a connection that breaks does not end.
    """
    with (folder / RUNNING).open("a") as lock:
        # Handed down to the process, this lock is held as long as it lives, whoever else ends.
        if not _locked(lock):
            return False
        (folder / ENDED).unlink(missing_ok=True)
        with (folder / EVENTS).open("wb") as events, (folder / COMPLAINTS).open("wb") as complaints:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=events,
                stderr=complaints,
                pass_fds=(lock.fileno(),),
                start_new_session=True,
                cwd="/",
                # What is kept between kits is removed with them.
                env={"EFFVIT_CACHE": str(folder.parent / CACHE), **os.environ},
            )
        (folder / PROCESS).write_text(str(process.pid))
    return True


def is_running(folder: Path) -> bool:
    """Return whether an agent measures the kit."""
    try:
        with (folder / RUNNING).open("r+") as lock:
            return not _locked(lock)
    except (FileNotFoundError, NotADirectoryError):
        return False


def follow(folder: Path, say: Callable[[str], None]) -> None:
    """Tell every event since the agent was started, until it ends; the last one says how it did."""
    for line in _lines(folder):
        say(line)
    say(json.dumps({"event": "ended", **asdict(_ended(folder))}))


def stop(folder: Path) -> None:
    """End the agent that measures the kit, if one does: politely, and by force if that takes too long."""
    deadline = time.monotonic() + _STOPPED_WITHIN_S
    number = signal.SIGTERM
    while is_running(folder):
        os.kill(int((folder / PROCESS).read_text()), number)
        if time.monotonic() > deadline:
            number = signal.SIGKILL
        time.sleep(_LOOKED_AGAIN_S)


def write_end(path: Path, ended: Ended) -> None:
    """Write how an agent ended to the file `path`, whole or not at all."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(asdict(ended)))
    beside.replace(path)


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _ended(folder: Path) -> Ended:
    try:
        return Ended(**json.loads((folder / ENDED).read_text()))
    except (FileNotFoundError, ValueError):
        complaints = (folder / COMPLAINTS).read_text(errors="replace").strip().splitlines()
        return Ended(1, f"the agent failed: {complaints[-1]}", "see effvit's documentation") if complaints else KILLED


def _lines(folder: Path) -> Iterator[str]:
    """Yield the whole lines of the events as they are written."""
    with (folder / EVENTS).open(encoding="utf-8") as events:
        torn = ""
        while True:
            running = is_running(folder)  # asked before reading: what is written at the very end is read, too
            while part := events.readline():
                torn += part
                if torn.endswith("\n"):
                    yield torn.rstrip("\n")
                    torn = ""
            if not running:
                return
            time.sleep(_LOOKED_AGAIN_S)
