"""stdout is data, stderr is talk: messages, progress, tables for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from effvit.errors import EffvitError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress


def talk() -> Console:
    """Return the console on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a line for people."""
    print(text, file=sys.stderr)


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
    """Print the result of a command to stdout; as wide as its content where stdout is no terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 200
    # Names and paths may hold square brackets: they are not markup.
    Console(highlight=False, markup=False, width=width).print(renderable)


def write_json(data: bytes) -> None:
    """Write the result of a command to stdout as JSON."""
    sys.stdout.write(data.decode() + "\n")


@contextmanager
def progress_bars(*columns: str) -> Iterator[Progress]:
    """Yield progress bars on stderr, invisible where stderr is no terminal.

    Every task is described, counted and timed; `columns` are formats of further task fields.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = talk()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        *(TextColumn(column) for column in columns),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        yield progress


@contextmanager
def counting(description: str) -> Iterator[CountingBar]:
    """Yield a progress callback (done, total) that shows a bar once the work turns out to take a while."""
    with progress_bars() as progress:
        yield CountingBar(progress, description)


class CountingBar:
    """A progress callback with one bar, made at its first call."""

    def __init__(self, progress: Progress, description: str) -> None:
        self._progress, self._description = progress, description
        self._task: object = None

    def __call__(self, done: int, total: int) -> None:
        if self._task is None:
            self._task = self._progress.add_task(self._description, total=total)
        self._progress.update(self._task, completed=done, total=total)  # type: ignore[arg-type]  # made just above
