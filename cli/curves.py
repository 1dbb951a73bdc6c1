"""Runs as tables, and their histories as curves of one line each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rich.table import Table

from effvit.overview import Overview
from effvit.profiling.report.quantities import ABSENT
from effvit.run import EpochRecord, Run
from effvit.spec import Workload

LEVELS = "▁▂▃▄▅▆▇█"
MOST_COLUMNS = 48


def sparkline(values: Sequence[float], columns: int = MOST_COLUMNS) -> str:
    """Return `values` as a line of blocks, lowest to highest; of more than `columns`, neighbours are averaged."""
    count = min(columns, len(values))
    bounds = [len(values) * column // count for column in range(count + 1)] if count else [0]
    means = [sum(values[low:high]) / (high - low) for low, high in pairwise(bounds)]
    lowest, spread = min(means, default=0.0), max(means, default=0.0) - min(means, default=0.0)
    # Without any spread, a line in the middle: neither low nor high.
    shares = [(mean - lowest) / spread if spread else 0.5 for mean in means]
    return "".join(LEVELS[min(len(LEVELS) - 1, int(share * len(LEVELS)))] for share in shares)


def runs_table(runs: Sequence[Overview]) -> Table:
    """Return runs with what they came to."""
    table = _table("run", "model", "px", "attention", "data", "epochs", "top-1", "time", "status")
    for run in runs:
        size = ABSENT if run.resolution is None else Workload(1, *run.resolution).resolution
        done = ABSENT if run.epochs is None else f"{run.epochs} of {run.of_epochs}"
        table.add_row(
            run.name,
            run.model or ABSENT,
            size,
            run.attention or ABSENT,
            run.data or ABSENT,
            done,
            ABSENT if run.top1 is None else f"{run.top1:.1%}",
            ABSENT if run.seconds is None else duration(run.seconds),
            f"{run.status}, resumable" if run.resumable else run.status,
        )
    return table


def curves_table(run: Run, history: Sequence[EpochRecord]) -> Table:
    """Return the curves of a run, each with its first, best and last value; `best` is that of the kept weights."""
    table = _table("", f"epochs 1 to {len(history)}", "first", "last", "best")
    for column in table.columns[2:]:
        column.justify = "right"
    best = run.record.best
    for name, field, form in _CURVES:
        values = [value for epoch in history if (value := getattr(epoch, field)) is not None]
        if values:
            kept = ABSENT if best is None else format(getattr(best, field), form)
            table.add_row(name, sparkline(values), format(values[0], form), format(values[-1], form), kept)
    return table


def duration(seconds: float) -> str:
    """Return a time as `45 s`, `12 min` or `3.5 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


_CURVES = (
    ("training loss", "train_loss", ".3f"),
    ("held-out loss", "val_loss", ".3f"),
    ("top-1", "top1", ".1%"),
    ("top-5", "top5", ".1%"),
    ("class-balanced top-1", "balanced_top1", ".1%"),
    ("learning rate", "learning_rate", ".2g"),
    ("images/s in training", "images_per_s", ".0f"),
)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
