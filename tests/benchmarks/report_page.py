"""How large the report of 2,016 cells is, and how long Chromium takes to open it.

`PYTHONPATH=.:tests python tests/benchmarks/report_page.py`

The promises are 5 MB and 2 s until the page is loaded. The cells are invented, with 408 launches each; the times are
the browser's own, from the navigation on.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from browser import chromium, wait_until_drawn
from command import kept, run_command
from many import make_many
from results import show_table, write_report
from rich.table import Table

from effvit.cli.output import say
from effvit.profiling.report.html import html_text
from effvit.profiling.report.page import content_of
from effvit.profiling.report.rows import make_rows

_TIMES = (
    "const [entry] = performance.getEntriesByType('navigation'); return [entry.domInteractive, entry.loadEventEnd];"
)


@dataclass(frozen=True, slots=True)
class Opening:
    """Seconds from the navigation on until the page was parsed, loaded, and all its figures were drawn."""

    parsed_s: float
    loaded_s: float
    drawn_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """The page of so many cells: its size, what making it took, and what opening it took each time."""

    cells: int
    page_bytes: int
    made_s: float
    openings: tuple[Opening, ...]


def measure(folder: Path, rounds: int) -> Report:
    """Return what the page of the large sweep is like, opened `rounds` times in one browser."""
    say("inventing cells")
    outcomes = make_many()
    say("making the page")
    started = time.perf_counter()
    text = html_text(content_of(make_rows(outcomes))).encode()
    made_s = time.perf_counter() - started
    page = folder / "report.html"
    page.write_bytes(text)
    say("opening it")
    with chromium(folder / "profile") as browser:
        openings = []
        for _ in range(rounds):
            browser.get("about:blank")
            started = time.perf_counter()
            browser.get(page.as_uri())
            wait_until_drawn(browser)
            drawn_s = time.perf_counter() - started
            parsed_ms, loaded_ms = browser.execute_script(_TIMES)
            openings.append(Opening(parsed_ms / 1000, loaded_ms / 1000, drawn_s))
    return Report(len(outcomes), len(text), made_s, tuple(openings))


def table_of(report: Report) -> Table:
    """Return the report's numbers, medians over its openings."""
    table = Table("quantity", "value", title=f"a page of {report.cells} cells")
    table.add_row("size", f"{report.page_bytes / 1e6:.2f} MB")
    table.add_row("made in", f"{report.made_s:.1f} s")
    for name in ("parsed", "loaded", "drawn"):
        seconds = median(getattr(opening, f"{name}_s") for opening in report.openings)
        table.add_row(f"{name} after", f"{seconds:.2f} s")
    return table


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often the page is opened")
    parser.add_argument("--keep", type=Path, help="a folder for the page")
    parser.add_argument("--out", type=Path, help="write the numbers to this file")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")

    def run(arguments: argparse.Namespace) -> None:
        with kept(arguments.keep) as folder:
            folder.mkdir(parents=True, exist_ok=True)
            report = measure(folder, arguments.rounds)
        if arguments.out:
            write_report(arguments.out, report)
        show_table(table_of(report), markdown=arguments.markdown)

    run_command(parser, run)


if __name__ == "__main__":
    main()
