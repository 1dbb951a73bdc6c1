"""The result table for a terminal: readable without colour, and no wider than the window."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from effvit.environment import Environment
from effvit.profiling.report import display, summary
from effvit.profiling.report.display import Column
from effvit.profiling.report.rows import Row
from effvit.spec import BASELINE

_MEASURED = ("latency p50", f"vs. {BASELINE}", "ceiling", "images/s", "peak memory", "top-1", "top-1 points")
# What a narrow window loses, the dearest last.
_DROPPED_FIRST = ("images/s", "peak memory", "top-1 points", "ceiling")
_GAP = "   "
_MOST_REASONS = 3


@dataclass(frozen=True, slots=True)
class ResultTable:
    """A rich renderable of report rows; print it with any console."""

    rows: Sequence[Row]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the header, one line a cell, and what the signs mean."""
        if not self.rows:
            yield Text("no cells")
            return
        yield Text(_header(self.rows), style="bold")
        yield Text()
        columns, dropped = _fitting(self.rows, options.max_width)
        widths = [_width(column, self.rows) for column in columns]
        yield _line([column.title for column in columns], columns, widths, "bold")
        previous = self.rows[0].context
        for row in self.rows:
            if row.context != previous:
                yield Text()
            previous = row.context
            yield _row_line(row, columns, widths)
        yield Text()
        yield Text(_explanation(self.rows), style="dim")
        if dropped:
            yield Text(f"left out at this width: {', '.join(dropped)}", style="dim")


def render(rows: Sequence[Row]) -> ResultTable:
    """Return the table of `rows`, as `make_rows` orders them."""
    return ResultTable(tuple(rows))


def _header(rows: Sequence[Row]) -> str:
    """Return what all rows share: model, backend, precision, machine, threads, baseline."""
    cells = [row.outcome.cell for row in rows]
    facts = [
        _shared(cell.model.backbone for cell in cells),
        _shared(cell.backend for cell in cells),
        _shared(str(cell.precision) for cell in cells),
        *_machine([row.outcome.environment for row in rows]),
        _threads(rows),
    ]
    baseline = BASELINE if any(row.is_baseline for row in rows) else "none measured"
    return f"{', '.join(fact for fact in facts if fact)}      baseline: {baseline}"


def _machine(environments: Sequence[Environment]) -> list[str]:
    if len({environment.key for environment in environments}) > 1:
        return ["several machines"]
    return [environments[0].machine]


def _threads(rows: Sequence[Row]) -> str:
    """Return on how many threads all rows ran; nothing where devices differ in that."""
    counts = {row.outcome.cell.device.threads or row.outcome.environment.threads for row in rows}
    if len(counts) > 1:
        return ""
    count = counts.pop()
    return f"{count} threads" if count != 1 else "1 thread"


def _shared(values: Iterable[str]) -> str:
    """Return the value if there is only one; those that differ have a column."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else ""


def _fitting(rows: Sequence[Row], width: int) -> tuple[list[Column], list[str]]:
    """Return the columns that fit into `width` characters, and the titles of those that had to go."""
    shown = [column for column in display.NAMING if _varies(column, rows)]
    measured = list(display.columns(*_MEASURED))
    dropped: list[str] = []
    for title in _DROPPED_FIRST:
        needed = sum(_width(column, rows) + len(_GAP) for column in shown + measured) - len(_GAP)
        if needed <= width:
            break
        dropped.append(title)
        measured = [column for column in measured if column.title != title]
    return shown + measured, dropped


def _varies(column: Column, rows: Sequence[Row]) -> bool:
    shared = ("machine", "backend", "precision", "device")
    return column.title not in shared or len({column.text(row) for row in rows}) > 1


def _width(column: Column, rows: Sequence[Row]) -> int:
    """Return the column's width in characters; the reason of a cell that was not measured runs over the others."""
    return max(len(column.title), *(len(column.text(row)) for row in rows))


def _row_line(row: Row, columns: Sequence[Column], widths: Sequence[int]) -> Text:
    named = [column for column in columns if column in display.NAMING]
    if row.outcome.evidence is None:
        line = _line([column.text(row) for column in named], named, widths[: len(named)])
        return line.append(f"{_GAP}{display.status(row)}", style="yellow")
    signs = display.signs(row)
    style = "yellow" if row.unstable or display.SLOWED_SIGN in signs else "green" if signs else ""
    return _line([column.text(row) for column in columns], columns, widths, style)


def _line(texts: Sequence[str], columns: Sequence[Column], widths: Sequence[int], style: str = "") -> Text:
    padded = [
        text.rjust(width) if column.numeric else text.ljust(width)
        for text, column, width in zip(texts, columns, widths, strict=True)
    ]
    return Text(_GAP.join(padded), style=style)


def _explanation(rows: Sequence[Row]) -> str:
    signs = display.SIGNS if any(display.signs(row) for row in rows) else ""
    lines = [
        signs,
        *_reasons([row for row in rows if row.unstable]),
        summary.heat(rows),
        "± half the width of the 95 % interval",
        display.accuracy_basis(rows),
    ]
    return "\n".join(line for line in lines if line)


def _reasons(unstable: Sequence[Row]) -> list[str]:
    """Return why rows cannot be relied on; of many, which mostly share their reason, the first."""
    lines = [f"{_named(row)}: {display.status(row)}" for row in unstable[:_MOST_REASONS]]
    more = len(unstable) - _MOST_REASONS
    return [*lines, f"... and {more} more; `effvit report` has their reasons"] if more > 0 else lines


def _named(row: Row) -> str:
    cell = row.outcome.cell
    return f"{row.label}, {row.workload.resolution} px, batch {row.workload.batch}, {cell.precision}, {cell.backend}"
