"""What `effvit profile` and `effvit study` show while a sweep runs."""

from __future__ import annotations

from rich.progress import Progress, TaskID

from effvit.cli.output import say
from effvit.profiling.crossover import crossovers
from effvit.profiling.heat import heat_of
from effvit.profiling.records import Cell, Outcome
from effvit.profiling.report import crossings, details, display
from effvit.profiling.report.rows import make_rows
from effvit.profiling.stats import median_s


class SweepDisplay:
    """A bar over all cells with what is going on now, and a line a finished cell."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._cells = self._earlier = 0

    def planned(self, cells: int) -> None:
        self._cells += cells  # a search for crossovers plans again and again
        self._progress.update(self._bar(), total=self._cells)

    def stage(self, text: str) -> None:
        self._progress.update(self._bar(), detail=text)

    def _bar(self) -> TaskID:
        """Return the bar; what is packed for another machine is told before anything is planned."""
        if self._task is None:
            self._task = self._progress.add_task("cells", total=None, detail="")
        return self._task

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


def say_crossovers(outcomes: list[Outcome]) -> None:
    """Tell where variants become faster than softmax, context by context."""
    found = crossovers(make_rows(outcomes))
    among = list(dict.fromkeys(one.context for one in found))
    for context in among:
        say(f"\n{display.context_name(context, among)}:")
        for sentence in crossings.sentences([one for one in found if one.context == context]):
            say(f"  {sentence}")
    if not found:
        unstable = any(outcome.status == "unstable" for outcome in outcomes)
        reason = ", but for cells that are unstable" if unstable else ""
        say(f"no variant was measured beside softmax at two resolutions{reason}")


def say_pins(outcomes: list[Outcome]) -> None:
    """Tell what it costs that modules stay in fp32, cell by cell."""
    pinned = [row for row in make_rows(outcomes) if row.outcome.cell.pins]
    for row in pinned:
        say(f"{_name(row.outcome.cell)}: {details.pin_cost(row)}")
    if not pinned:
        say("no `effvit export --pin-fp32 auto` has found anything to keep in fp32 here: all was measured as it is")


def _name(cell: Cell) -> str:
    workload = cell.workload
    name = f"{cell.model.attention} {workload.resolution} px, batch {workload.batch}, {cell.precision}, {cell.backend}"
    if str(cell.device) != cell.device.kind:
        name = f"{name}, {cell.device}"
    return f"{name}, {', '.join(cell.pins)} in fp32" if cell.pins else name


def _line(outcome: Outcome) -> str:
    name = _name(outcome.cell)
    fate = f"{outcome.status}: {outcome.reason}"
    if outcome.evidence is None:
        return f"{name}: {fate}"
    time = f"{median_s(outcome.evidence.samples) * 1e3:.3g} ms"
    heat = str(heat_of(outcome.evidence))
    told = [f"{name}: {time}", *([] if outcome.status == "ok" else [fate]), *([heat] if heat else [])]
    return ", ".join(told)
