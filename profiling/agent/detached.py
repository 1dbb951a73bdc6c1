"""An agent that goes on when the connection that started it has gone. Standard library only."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from effvit.errors import CheckFailedError, EffvitError, UnavailableError, UsageError
from effvit.storage import HINTS, storage_errors

EVENTS, ENDED, COMPLAINTS, RUNNING, PROCESS = "events.jsonl", "ended.json", "stderr.txt", "running.lock", "agent.pid"
CACHE = ".cache"
_LOOKED_AGAIN_S = 0.2
_STOPPED_WITHIN_S = 20.0
# Whoever looks whether an agent runs holds its lock for a moment.
_HELD_BY_A_LOOK_S = 1.0
# With less than this on a disk, the few bytes that say how an agent ended may not have found a place.
_FULL_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Ended:
    """How an agent ended: its exit code, and the sentence and hint of an error."""

    code: int
    message: str = ""
    hint: str = ""


KILLED = Ended(-1, "the agent was killed, or the device was switched off", "give the same command again: it goes on")
FULL = Ended(UsageError.exit_code, "the disk is full", HINTS[errno.ENOSPC])


@dataclass(frozen=True, slots=True)
class Complaint:
    """The sentence and the hint of what a program wrote to stderr; the last line where it is none of `ours`."""

    message: str
    hint: str = ""
    ours: bool = False


def error_of(place: str, ended: Ended) -> EffvitError:
    """Return an error of the kind that a program of ours ended with on the machine `place`."""
    kinds = {2: UsageError, 3: UnavailableError}
    return kinds.get(ended.code, CheckFailedError)(f"{place}: {ended.message}", ended.hint)


def complaint(text: str) -> Complaint:
    """Return what is wrong, of all that a program wrote to stderr."""
    _, ours, rest = f"\n{text}".rpartition("\nerror: ")
    if ours:
        message, _, hint = rest.partition("\n\nhint: ")
        return Complaint(message.strip(), hint.strip(), ours=True)
    lines = text.strip().splitlines()
    return Complaint(lines[-1] if lines else "")


def start(folder: Path, command: Sequence[str]) -> bool:
    """Start `command`, whose output goes to files in the kit's folder, unless one runs; return whether it was started.

    It has a session of its own, which a connection that breaks does not end.

    Raises:
        StorageError: The folder cannot be written, or the disk is full.
    """
    with storage_errors(folder), (folder / RUNNING).open("a") as lock:
        # Handed down to the process, this lock is held as long as it lives, whoever else ends.
        if not _locked_soon(lock):
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
                # What is kept between kits, and what is not, is removed with them.
                env={"EFFVIT_CACHE": str(folder.parent / CACHE), **os.environ, "TMPDIR": str(folder)},
            )
        try:
            (folder / PROCESS).write_text(str(process.pid))
        except OSError:  # nobody could stop it
            process.kill()
            raise
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
    """End the agent that measures the kit, if one does: politely, and by force if that takes too long.

    Raises:
        UsageError: Whoever started it was killed before its number was written.
    """
    deadline = time.monotonic() + _STOPPED_WITHIN_S
    while is_running(folder):
        late = time.monotonic() > deadline
        try:
            process = int((folder / PROCESS).read_text())
        except (FileNotFoundError, ValueError):  # not written yet
            if late:
                raise UsageError(
                    f"the kit {folder.name} is measured by a process whose number is not known",
                    "end it there by hand: its command line names effvit-agent",
                ) from None
        else:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(process, signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(_LOOKED_AGAIN_S)


def write_end(path: Path, ended: Ended) -> None:
    """Write how an agent ended to the file `path`, whole or not at all."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(asdict(ended)))
    beside.replace(path)


def _locked_soon(file: IO[str]) -> bool:
    """Return whether the file is locked now, but for the moments in which somebody looks whether it is."""
    deadline = time.monotonic() + _HELD_BY_A_LOOK_S
    while not _locked(file):
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOKED_AGAIN_S / 10)
    return True


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
        if shutil.disk_usage(folder).free < _FULL_BYTES:
            return FULL
        said = complaint((folder / COMPLAINTS).read_text(errors="replace")).message
        return Ended(1, f"the agent failed: {said}", "see effvit's documentation") if said else KILLED


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
