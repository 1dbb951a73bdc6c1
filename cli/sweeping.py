"""What `effvit profile` and `effvit study` show while a sweep runs."""

from __future__ import annotations

from rich.progress import Progress, TaskID

from effvit.cli.output import say
from effvit.profiling.records import Outcome
from effvit.profiling.stats import median_s


class SweepDisplay:
    """A bar over all cells with what is going on now, and a line a finished cell."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._earlier = 0

    def planned(self, cells: int) -> None:
        self._task = self._progress.add_task("cells", total=cells, detail="")

    def stage(self, text: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, detail=text)

    def outcome(self, outcome: Outcome, measured_now: bool) -> None:
        if self._task is not None:
            self._progress.advance(self._task)
        if measured_now:
            say(_line(outcome))
        else:
            self._earlier += 1

    def close(self) -> None:
        """Take the bar away, and tell how much was there before."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        if self._earlier:
            say(f"{self._earlier} cells were in the result file already")


def _line(outcome: Outcome) -> str:
    cell = outcome.cell
    workload = cell.workload
    name = f"{cell.model.attention} {workload.resolution} px, batch {workload.batch}, {cell.precision}, {cell.backend}"
    if str(cell.device) != cell.device.kind:
        name = f"{name}, {cell.device}"
    fate = f"{outcome.status}: {outcome.reason}"
    if outcome.evidence is None:
        return f"{name}: {fate}"
    time = f"{median_s(outcome.evidence.samples) * 1e3:.3g} ms"
    return f"{name}: {time}" if outcome.status == "ok" else f"{name}: {time}, {fate}"
