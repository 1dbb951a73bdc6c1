"""The table as files: CSV in full precision for programs, Markdown for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from effvit.profiling.metrics.base import Reading
from effvit.profiling.report import details, display, quantities
from effvit.profiling.report.rows import PRICES, Row
from effvit.spec import BASELINE

_FACTS = (
    "attention", "variant", "options", "backbone", "run", "data", "backend", "precision",
    "device", "batch", "height_px", "width_px", "tokens", "status", "stage", "reason", "notes", "finished",
    "environment", "machine",
)  # fmt: skip
_COMPARED = (
    "speedup", "speedup_low", "speedup_high", "ceiling_speedup", "macs_ratio",
    "top1_difference", "top1_difference_low", "top1_difference_high",
    *(f"pareto_{price.name}" for price in PRICES), "bound_by",
)  # fmt: skip


def csv_text(rows: Sequence[Row]) -> str:
    """Return one line a cell under unit-suffixed names, in full precision; a number that is absent is empty."""
    names = list(dict.fromkeys(reading.name for row in rows for reading in row.readings))
    ranged = {reading.name for row in rows for reading in row.readings if reading.low is not None}
    ends = [(name, end) for name in names for end in (("", ".low", ".high") if name in ranged else ("",))]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*_FACTS, *(f"{name}{end}" for name, end in ends), *_COMPARED])
    for row in rows:
        writer.writerow([*_facts(row), *(_number(row.reading(name), end) for name, end in ends), *_compared(row)])
    return stream.getvalue()


def markdown_text(rows: Sequence[Row]) -> str:
    """Return a GitHub table of every cell, with what its signs mean."""
    columns = display.columns_of(rows)
    heads = [column.title for column in columns]
    rules = ["---:" if column.numeric else "---" for column in columns]
    lines = [heads, rules, *([escaped(column.text(row)) for column in columns] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    signs = escaped(display.SIGNS.replace("\n", "; "))
    basis = f"± is half the width of the 95 % interval. Baseline: {BASELINE}. {display.accuracy_basis(rows)}".rstrip()
    return f"{table}\n\n{signs}; {basis}\n\n{display.CEILING}\n"


def _facts(row: Row) -> list[object]:
    outcome, cell = row.outcome, row.outcome.cell
    options = " ".join(f"{name}={value}" for name, value in cell.model.options)
    model = [cell.model.attention, row.label, options, cell.model.backbone, outcome.run, outcome.data]
    runs = [cell.backend, str(cell.precision), str(cell.device)]
    work = [cell.workload.batch, cell.workload.height, cell.workload.width]
    fate = [outcome.status, outcome.stage, outcome.reason, "; ".join(outcome.notes), outcome.finished]
    return [*model, *runs, *work, row.tokens, *fate, outcome.environment.key, row.machine]


def _number(reading: Reading, end: str) -> float | None:
    return {"": reading.value, ".low": reading.low, ".high": reading.high}[end]


def _compared(row: Row) -> list[object]:
    times = [row.speedup.value, row.speedup.low, row.speedup.high] if row.speedup else [None] * 3
    gaps = [row.top1_gap.value, row.top1_gap.low, row.top1_gap.high] if row.top1_gap else [None] * 3
    return [*times, row.ceiling, row.macs_ratio, *gaps, *row.standings, _text(details.bound(row))]


def _text(shown: str) -> str:
    """Return what a column shows, and nothing for an absence."""
    return "" if shown == quantities.ABSENT else shown


def escaped(text: str) -> str:
    """Return `text` as one Markdown cell: Markdown passes HTML through, and a bar would open a new cell."""
    for character in "\\`*_[]|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())
