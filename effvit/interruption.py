"""Ctrl-C: the first ends the work where that tears nothing, the second ends the process. Standard library only."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self

INTERRUPTED = 130
"""The exit code of a command that was stopped with Ctrl-C."""
SHOW_CURSOR = b"\x1b[?25h"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], Any] | int | None


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, and one sentence on what is left of the work and how to go on with it."""


@contextmanager
def second_ends_at_once() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first Ctrl-C in the block, and let the kernel end the process at the second.

    Whatever Python or a library does then cannot keep it alive. A Ctrl-C that is ignored, as in a process started in
    the background, still is.
    """
    if not _in_main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is _interrupt:  # after a first, a second ends whatever comes then, too
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put a first Ctrl-C off until the block is done: it writes what belongs together. A second one is not put off."""
    handler = signal.getsignal(signal.SIGINT)
    # Only the main thread is ever interrupted. What is no function ignores the signal, or ends the process.
    if not _in_main_thread() or not callable(handler):
        yield
        return
    came: list[FrameType | None] = []

    def put_off(number: int, frame: FrameType | None) -> None:
        came.append(frame)
        _end_at_the_next()

    signal.signal(signal.SIGINT, put_off)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(signal.SIGINT, came[0])


@contextmanager
def advising(advice: Callable[[], str]) -> Iterator[None]:
    """Let a Ctrl-C in the block say how to go on.

    Raises:
        Interrupted: Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"interrupted; {advice()}") from error


def same_command() -> str:
    """Return how to go on with what finds again what it has written."""
    return "what was finished is on disk, and the same command goes on from there"


class Interruption:
    """While entered, the first Ctrl-C (or SIGTERM) is only remembered, as `asked`; a second one interrupts at once.

    `on_ask` is told of the first. In another thread than the main one, which is where Python handles signals, nothing
    changes.
    """

    def __init__(self, on_ask: Callable[[], None]) -> None:
        self.asked = False
        self._on_ask = on_ask
        self._before: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> Self:
        if _in_main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # None stands for a handler that Python did not install, and cannot put back.
            if handler is not None:
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._on_ask()


def leave_to_parent() -> None:
    """Let Ctrl-C in a terminal, which reaches every process of a command, be the parent's alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _end_at_the_next()
    raise KeyboardInterrupt


def _end_at_the_next() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.stderr.isatty():
        os.write(sys.stderr.fileno(), SHOW_CURSOR)  # progress bars hide it, and are not asked at the second


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
