"""Result files of the benchmarks: reading them back, and their tables as Markdown for `docs/`."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec
from rich.console import Console
from rich.table import Table

from effvit.cli.output import say
from effvit.errors import ResultError
from effvit.storage import write_atomically

T = TypeVar("T")


def read_report(path: Path, kind: type[T]) -> T:
    """Return the report in a result file.

    Raises:
        ResultError: There is no such file, or it holds something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        hint = "name a file that --out wrote"
        raise ResultError(f"{path} is not a result of this benchmark: {error}", hint) from error


def write_report(path: Path, report: object) -> None:
    """Write a report to a result file, whole, and say where it is."""
    write_atomically(path, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    say(f"results: {path}")


def show_table(table: Table, *, markdown: bool) -> None:
    """Print a table to stderr, or as Markdown to stdout."""
    if markdown:
        print(markdown_of(table))
        return
    Console(stderr=True, highlight=False, markup=False).print(table)


def markdown_of(table: Table) -> str:
    """Return a table of rich's as one of Markdown, without the rows that only set others apart."""
    heads = [str(column.header) for column in table.columns]
    rules = ["---:" if column.justify == "right" else "---" for column in table.columns]
    rows = zip(*(column.cells for column in table.columns), strict=True)
    lines = [heads, rules, *([str(cell) for cell in row] for row in rows if any(row))]
    title = f"**{table.title}**\n\n" if table.title else ""
    return title + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
