"""What `effvit profile` and `effvit study` show while a sweep runs."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from effvit.cli.output import progress_bars, say
from effvit.profiling.records import Outcome
from effvit.profiling.stats import median_s


class SweepDisplay:
    """A bar over all cells with what is going on now, and a line a finished cell."""

    def __init__(self) -> None:
        self._context = progress_bars("{task.fields[stage]}")

    def __enter__(self) -> Self:
        self._progress = self._context.__enter__()
        self._task = self._progress.add_task("cells", total=None, stage="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)

    def planned(self, cells: int) -> None:
        self._progress.update(self._task, total=cells)

    def stage(self, text: str) -> None:
        self._progress.update(self._task, stage=text)

    def outcome(self, outcome: Outcome, measured_now: bool) -> None:
        self._progress.advance(self._task)
        if measured_now:
            say(_line(outcome))


def _line(outcome: Outcome) -> str:
    cell = outcome.cell
    workload = cell.workload
    name = f"{cell.model.attention} {workload.resolution} px, batch {workload.batch}, {cell.precision}, {cell.backend}"
    if outcome.evidence is None:
        return f"{name}: {outcome.status}: {outcome.reason}"
    return f"{name}: {median_s(outcome.evidence.samples) * 1e3:.3g} ms"
