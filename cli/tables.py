"""The one form of every table for people."""

from __future__ import annotations

from rich.table import Table


def plain(*columns: str, title: str | None = None) -> Table:
    """Return a table without lines, which reads well in a log, too."""
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
