"""stdout is data, stderr is talk: messages, progress, tables for people."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from effvit.errors import EffvitError, StorageError
from effvit.plain_text import plain_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID

# A bar that was gone in less leaves no line behind.
_WORTH_A_LINE_S = 2.0
_BAR_WIDTH, _LEAST_FOR_TIMES = 16, 100


def talk() -> Console:
    """Return the console on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a line for people."""
    print(plain_text(text), file=sys.stderr)


def warn(text: str) -> None:
    """Print a warning for people."""
    say(f"warning: {text}")


def hint(text: str) -> None:
    """Print advice on what to do next, set off by a blank line."""
    say(f"\nhint: {text}")


def report_error(error: EffvitError) -> None:
    """Print what is wrong and what to do about it."""
    say(f"error: {error.message}")
    if error.hint:
        hint(error.hint)


def show(renderable: RenderableType) -> None:
    """Print the result of a command to stdout; as wide as its content where stdout is no terminal.

    Raises:
        StorageError: The disk behind stdout is full.
    """
    from rich.console import Console
    from rich.segment import Segment, Segments

    terminal = sys.stdout.isatty()
    width = None if terminal else 200
    text = io.StringIO()  # writing to stdout itself, rich would end with exit code 1 where the reader has gone
    # Names and paths may hold square brackets: they are not markup.
    console = Console(file=text, force_terminal=terminal, highlight=False, markup=False, width=width)
    parts = [Segment(plain_text(part.text), part.style, part.control) for part in console.render(renderable)]
    console.print(Segments(parts))
    write(text.getvalue().rstrip("\n"))


def write_json(data: bytes) -> None:
    """Write the result of a command to stdout as JSON.

    Raises:
        StorageError: The disk behind stdout is full.
    """
    write(data.decode())


def write(text: str) -> None:
    """Write a line to stdout.

    Raises:
        StorageError: The disk behind stdout is full.
    """
    with _writing_to_stdout():
        sys.stdout.write(text + "\n")


@contextmanager
def _writing_to_stdout() -> Iterator[None]:
    try:
        yield
        sys.stdout.flush()  # at the interpreter's end it is too late to tell
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        reason = (error.strerror or type(error).__name__).lower()
        raise StorageError(
            f"the result cannot be written to stdout: {reason}", "send it to a disk with free space"
        ) from error


def discard_stdout() -> None:
    """Let what is still buffered for stdout go nowhere, or the interpreter fails to write it once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Yield the progress bars of a command on stderr, invisible where stderr is no terminal.

    Only one such display can be live at a time: a command makes one, and everything in it adds tasks. Every task has
    the field `detail`, a text behind its bar that is cut off where the window ends.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    console = talk()
    times: tuple[ProgressColumn, ...] = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=_BAR_WIDTH),
        MofNCompleteColumn(),
        *(times if console.width >= _LEAST_FOR_TIMES else (TimeRemainingColumn(),)),
        TextColumn(
            "{task.fields[detail]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
        ),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        expand=True,
    ) as progress:
        yield progress


class CountingBar:
    """A progress callback (done, total): a bar while the work goes on, and a line once it is done if it took long."""

    def __init__(self, progress: Progress, doing: str, done: str, what: str = "images") -> None:
        """Call the bar `doing`, as in "checking images", and the line `done` so many of `what`, as in "checked"."""
        self._progress, self._doing, self._done, self._what = progress, doing, done, what
        self._task: TaskID | None = None
        self._started = 0.0

    def __call__(self, done: int, total: int) -> None:
        if self._task is None:
            self._task = self._progress.add_task(self._doing, total=total, detail="")
            self._started = time.monotonic()
        self._progress.update(self._task, completed=done, total=total)
        if done >= total:
            self._progress.remove_task(self._task)
            self._task = None
            took_s = time.monotonic() - self._started
            if took_s >= _WORTH_A_LINE_S:
                say(f"{self._done} {total} {self._what} in {took_s:.0f} s")
