"""What `effvit compare` shows: in a terminal, and as Markdown for a pull request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effvit.profiling.change import Change
from effvit.profiling.compare import SHOWN, CellChange, Comparison
from effvit.profiling.limits import Limit, alias, in_points
from effvit.profiling.report import quantities
from effvit.profiling.report.table import escaped
from effvit.profiling.sittings import NamedFloor
from effvit.profiling.verdict import FAILING, MetricChange

if TYPE_CHECKING:
    from rich.console import RenderableType

METHOD = (
    "± is half the width of the 95 % interval. A and B are other sittings, so rounds are not paired: the interval "
    "comes from those of both medians, taken from whole rounds, and the noise floor. A metric regressed where "
    "it is worse beyond doubt and its interval reaches beyond the limit; among many cells more is asked of each, so "
    "that two equal files fail in 2.5 % of cases, as far as the noise floor is known. What has "
    "no interval is judged by its value, and so is accuracy on the same images: there it was counted."
)
NO_FLOOR = (
    "No noise floor is known: another sitting of the same may differ by more than the intervals say. Name several "
    "files of the baseline, or give --noise-floor."
)
OTHER_MACHINE = "A and B were measured on different machines: changes of time tell of the machines as well."
# The quantile of 3 degrees of freedom is 3.2, that of 1 is 12.7.
_ENOUGH = 3
_TITLES = {
    "latency_s.p50": "latency p50",
    "throughput.images_per_s": "images/s",
    "memory.host_peak_bytes": "peak memory",
    "accuracy.top1": "top-1 points",
}


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    text: Callable[[CellChange], str]
    numeric: bool = False
    always: bool = True


def parts(comparison: Comparison) -> list[RenderableType]:
    """Return what differs around the measurements, every cell, and what it comes to."""
    from rich.table import Table

    columns = _columns(comparison)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column.title, justify="right" if column.numeric else "left", overflow="fold")
    for cell in _ordered(comparison):
        style = "red" if cell.verdict in FAILING else "yellow" if cell.verdict == "cannot be told" else ""
        table.add_row(*(column.text(cell) for column in columns), style=style)
    return [*_around(comparison), "", table, "", METHOD, "", summary(comparison)]


def markdown_text(comparison: Comparison) -> str:
    """Return the verdict first, then what differs around it, every cell, and how it was judged."""
    columns = _columns(comparison)
    lines = [
        [column.title for column in columns],
        ["---:" if column.numeric else "---" for column in columns],
        *([escaped(column.text(cell)) for column in columns] for cell in _ordered(comparison)),
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    around = "\n".join(f"- {escaped(line)}" for line in _around(comparison))
    return f"**{escaped(summary(comparison))}**\n\n{around}\n\n{table}\n\n<sub>{escaped(METHOD)}</sub>\n"


def summary(comparison: Comparison) -> str:
    """Return one sentence: what it comes to, and how many cells came to what."""
    counts = Counter(cell.verdict for cell in comparison.cells)
    fates = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    return f"{comparison.verdict.capitalize()}: of {_counted(len(comparison.cells), 'cell')} {fates}."


def cell_name(cell: CellChange) -> str:
    """Return what tells a cell from others in a sentence."""
    work = cell.cell.workload
    return f"{cell.label}, {work.resolution} px, batch {work.batch}, {cell.cell.precision}, {cell.cell.backend}"


def verdict_text(cell: CellChange) -> str:
    """Return the verdict, with the metrics it rests on: `regressed: latency_p50 +5 ±1 %, limit +3 %`."""
    if cell.verdict in ("regressed", "improved"):
        return f"{cell.verdict}: {'; '.join(_over(one) for one in cell.changes if one.verdict == cell.verdict)}"
    if cell.verdict == "same":
        return _same(cell.changes)
    if cell.verdict == "cannot be told":
        doubtful = [one for one in cell.changes if one.verdict == cell.verdict]
        return f"cannot be told: {'; '.join(f'{alias(one.name)}: {one.note}' for one in doubtful)}"
    if cell.verdict == "failed now":
        return f"failed now, {(cell.status_now or '').replace('_', ' ')}: {cell.reason}"
    told = cell.reason and not cell.verdict.startswith("missing")  # what it was measured with is no reason for that
    return f"{cell.verdict}: {cell.reason}" if told else cell.verdict


def change_text(name: str, change: Change) -> str:
    """Return a change with as many digits as its interval supports: `+4 ±1 %`, `-0.5 ±2.1 points`."""
    number = quantities.points(change.value, change.low, change.high)
    return f"{number.replace('(', '').replace(')', '')} {'points' if in_points(name) else '%'}"


def _around(comparison: Comparison) -> list[str]:
    """Return the differences of the environments, the limits and the noise floor, a line each."""
    lines = [OTHER_MACHINE] if comparison.other_machine else []
    for one in comparison.differences:
        lines.append(f"{one.what}: {one.before} -> {one.now}" if one.before else f"{one.what}: {one.now} (only B)")
    if not comparison.differences:
        lines.append("A and B were measured on the same machine with the same software")
    lines += [_floor(one) for one in comparison.floors]
    if not comparison.floors:
        lines.append(NO_FLOOR)
    limits = ", ".join(limit.text for limit in comparison.limits)
    return [*lines, f"limits: {limits}" if limits else "limits: none"]


def _floor(one: NamedFloor) -> str:
    text = f"noise floor of {alias(one.name)} on {one.device}: {100 * one.floor.share:.2g} %, {one.floor.source}"
    return f"{text}; so few make it wide, more narrow it" if one.floor.freedom < _ENOUGH else text


def _columns(comparison: Comparison) -> list[_Column]:
    metrics = tuple(dict.fromkeys([*SHOWN, *(limit.name for limit in comparison.limits)]))
    metrics = tuple(name for name in metrics if any(_change(cell, name) is not None for cell in comparison.cells))
    shown = [column for column in _NAMING if column.always or len({column.text(cell) for cell in comparison.cells}) > 1]
    numbers = [_Column(_TITLES.get(name, alias(name)), _metric(name), numeric=True) for name in metrics]
    return [*shown, *numbers, _Column("verdict", verdict_text)]


_NAMING = (
    _Column("attention", lambda cell: cell.label),
    _Column("backbone", lambda cell: cell.cell.model.backbone, always=False),
    _Column("data", lambda cell: cell.data, always=False),
    _Column("backend", lambda cell: cell.cell.backend, always=False),
    _Column("precision", lambda cell: str(cell.cell.precision), always=False),
    _Column("device", lambda cell: str(cell.cell.device), always=False),
    _Column("batch", lambda cell: str(cell.cell.workload.batch), numeric=True),
    _Column("px", lambda cell: cell.cell.workload.resolution, numeric=True),
)


def _metric(name: str) -> Callable[[CellChange], str]:
    def text(cell: CellChange) -> str:
        change = _change(cell, name)
        return quantities.ABSENT if change is None else change_text(name, change)

    return text


def _change(cell: CellChange, name: str) -> Change | None:
    return next((one.change for one in cell.changes if one.name == name), None)


def _ordered(comparison: Comparison) -> list[CellChange]:
    """Return the cells that failed the gate first, otherwise in the order of the files."""
    return sorted(comparison.cells, key=lambda cell: cell.verdict not in FAILING)


def _over(one: MetricChange) -> str:
    change = "" if one.change is None else change_text(one.name, one.change)
    return f"{alias(one.name)} {change}{'' if one.limit is None else f', limit {_limit(one.limit)}'}"


def _limit(limit: Limit) -> str:
    sign, unit = "+" if limit.better == "lower" else "-", "points" if limit.in_points else "%"
    return f"{sign}{100 * limit.most:g} {unit}"


def _same(changes: Sequence[MetricChange]) -> str:
    """Return within how much the gated metrics are the same, as far as their intervals tell."""
    widest = [one.within for one in changes if one.verdict == "same" and one.within and not in_points(one.name)]
    return f"same within {100 * max(widest):.2g} %" if widest else "same"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
