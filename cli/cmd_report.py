"""`effvit report`: result files become tables, figures and one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from effvit.cli.options import DEFAULT_RUNS, JsonOption, RunsOption
from effvit.cli.output import say


def report(
    results: Annotated[
        list[Path] | None,
        typer.Argument(help="result files [default: results.jsonl among the runs]", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="where to write [default: `report` beside the first file]", show_default=False
        ),
    ] = None,
    runs: RunsOption = DEFAULT_RUNS,
    json: JsonOption = False,
) -> None:
    """Write the report of result files: one self-contained HTML page, CSV, Markdown, and every figure."""
    from effvit.cli.reporting import write_and_show
    from effvit.profiling.results import latest, read

    files = results or [runs / "results.jsonl"]
    outcomes = latest(outcome for file in files for outcome in read(file))
    _, written = write_and_show(outcomes, out or files[0].parent / "report", json=json)
    say(f"report: {written.html}")
