"""Ctrl-C as a signal to a real process: the first ends the work where that tears nothing, the second the process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from effvit.interruption import Interrupted, advising, same_command, uninterrupted

# What a program needs from start to its first line, and what "at once" may take on a busy machine.
PATIENCE_S = 60.0
HEAD = """
import time
from effvit.interruption import second_ends_at_once, uninterrupted
def tell(text): print(text, flush=True)
"""
Program = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def program(request: pytest.FixtureRequest) -> Program:
    """Return a function that starts Python code and waits for its first line, `ready`."""

    def start(code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HEAD + code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Who runs tests in parallel ignores Ctrl-C in its processes, and what they start would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        request.addfinalizer(lambda: (process.kill(), process.communicate()))
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    return start


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Press Ctrl-C and return the exit code and what was still said."""
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out


def test_what_belongs_together_is_written_before_the_first_ctrl_c_ends_the_work(program: Program) -> None:
    process = program("""
with second_ends_at_once():
    try:
        with uninterrupted():
            tell("ready")
            time.sleep(1)
            tell("written")
        tell("went on")
    except KeyboardInterrupt:
        tell("interrupted")
""")
    assert interrupted(process) == (0, "written\ninterrupted\n")


def test_outside_the_first_ctrl_c_ends_the_work_at_once(program: Program) -> None:
    process = program("""
with second_ends_at_once():
    try:
        tell("ready")
        time.sleep(3600)
    except KeyboardInterrupt:
        tell("interrupted")
""")
    assert interrupted(process) == (0, "interrupted\n")


@pytest.mark.parametrize("block", ["uninterrupted()", "second_ends_at_once()"])
def test_the_second_ctrl_c_ends_the_process_whatever_it_does(program: Program, block: str) -> None:
    process = program(f"""
with second_ends_at_once():
    with {block}:
        try:
            tell("ready")
            time.sleep(3600)
        except KeyboardInterrupt:
            pass
        while True:  # what cleans up hangs
            time.sleep(3600)
""")
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    assert interrupted(process) == (-signal.SIGINT, "")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_with_the_second_ctrl_c_workers_end_even_if_they_hang(program: Program) -> None:
    process = program(f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import fakes
with second_ends_at_once(), fakes.start_worker(3600) as worker:
    worker.prepare("hanging-import")
    with uninterrupted():
        tell("ready")
        time.sleep(3600)
""")
    (worker,) = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert worker.is_running()
    assert interrupted(process)[0] == -signal.SIGINT
    psutil.wait_procs([worker], PATIENCE_S)
    assert not worker.is_running()


def test_an_ignored_ctrl_c_stays_ignored(program: Program) -> None:
    process = program("""
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
with second_ends_at_once(), uninterrupted():
    tell("ready")
    time.sleep(1)
    tell("done")
""")
    assert interrupted(process) == (0, "done\n")


def test_an_interruption_says_how_to_go_on() -> None:
    sentence = "interrupted; what was finished is on disk, and the same command goes on from there"
    with pytest.raises(Interrupted, match=sentence), advising(same_command):
        raise KeyboardInterrupt


def test_what_fails_meanwhile_still_fails() -> None:
    with pytest.raises(ValueError, match="full"), advising(same_command), uninterrupted():
        raise ValueError("full")
