"""What `effvit report` and `effvit study` make of outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effvit.cli.cmd_profile import show_outcomes
from effvit.cli.output import CountingBar, progress_bars
from effvit.profiling.records import Outcome
from effvit.profiling.report.rows import Row, make_rows

if TYPE_CHECKING:
    from effvit.profiling.report.writer import ReportFiles


def rows_of(outcomes: Sequence[Outcome]) -> list[Row]:
    """Return the rows of outcomes, behind a bar: of thousands they take seconds."""
    with progress_bars() as progress:
        return make_rows(outcomes, CountingBar(progress, "reading cells", "read", "cells"))


def write_and_show(outcomes: Sequence[Outcome], folder: Path, *, json: bool) -> tuple[list[Row], ReportFiles]:
    """Write the report into `folder`, print all cells to stdout, and return the rows and where the report is.

    Raises:
        StorageError: The folder cannot be written, or the disk is full.
    """
    from effvit.profiling.report.writer import write_report  # what draws takes its time to import

    rows = rows_of(outcomes)
    with progress_bars() as progress:
        written = write_report(rows, folder, CountingBar(progress, "drawing figures", "drew", "figures"))
    show_outcomes(outcomes, rows, json=json)
    return rows, written
