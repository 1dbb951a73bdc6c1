"""Ctrl-C that lets the work at hand come to a good end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], Any] | int | None


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
        if threading.current_thread() is threading.main_thread():
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
