"""`effvit profile --max-batch`: the search for the largest batch that fits into memory, and its table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from effvit.cli.output import CountingBar, progress_bars, say, show, write_json
from effvit.cli.render import batches_table
from effvit.errors import CellsFailedError
from effvit.interruption import advising, same_command
from effvit.profiling.frontier import Bounds, Frontier, find_frontiers
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Plan

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class SearchDisplay:
    """A bar over all searches with the batch that is tried now."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def planned(self, searches: int) -> None:
        self._task = self._progress.add_task("searches", total=searches, detail="")

    def stage(self, text: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, detail=text)

    def frontier(self, frontier: Frontier) -> None:
        if self._task is not None:
            self._progress.advance(self._task)


def show_largest_batches(plan: Plan, effort: Effort, bounds: Bounds, results: Path, *, json: bool) -> None:
    """Search, write what was found to `results`, and print it to stdout.

    Raises:
        CellsFailedError: A search ended otherwise than by want of memory or at a bound.
        EffvitError: Any of the tree in errors.py.
    """
    with (
        advising(same_command),
        progress_bars() as progress,
        PixelStore(CountingBar(progress, "preparing images", "prepared")) as pixels,
    ):
        found = find_frontiers(plan, effort, bounds, results, pixels, SearchDisplay(progress))
    if json:
        write_json(msgspec.json.encode(found))
    else:
        show(batches_table(found))
    say(f"results: {results}")
    _raise_if_failed(found)


def _raise_if_failed(found: Sequence[Frontier]) -> None:
    failed = [one for one in found if one.stopped == "failed"]
    if failed:
        raise CellsFailedError(
            f"{len(failed)} of {len(found)} searches failed; the first: {failed[0].reason}",
            "the same command tries these again",
        )
