"""`effvit compare`: result files against a baseline, cell by cell, as a gate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effvit.cli.options import JsonOption
from effvit.cli.output import CountingBar, progress_bars, say, show, write, write_json
from effvit.errors import RegressionError, UsageError

if TYPE_CHECKING:
    from effvit.profiling.compare import Comparison


def compare(
    results: Annotated[
        list[Path],
        typer.Argument(help="the result file of the baseline (or those of several sittings), and the new one, last"),
    ],
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on",
            metavar="LIMIT",
            help="what counts as a regression: latency_p50>+3%, throughput<-3%, top1<-0.5 (points), or a full name "
            "such as latency_s.p95>+10%; may be given several times "
            "[default: latency_p50>+3%, throughput<-3%, memory>+5%, top1<-0.5]",
            show_default=False,
        ),
    ] = None,
    noise_floor: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT",
            help="what two sittings on this machine differ by in 95 % of cases "
            "[default: estimated where cells were measured more than once]",
            show_default=False,
        ),
    ] = None,
    markdown: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="write it as Markdown for a pull request; - is stdout", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare result files cell by cell, and end with exit code 4 where something regressed.

    A cell regressed where it is worse beyond doubt and its interval of 95 % reaches beyond a limit; of many cells some
    stand out by chance, which is allowed for. A cell that was measured and fails now regressed as well. A and B are
    other sittings: their rounds are not paired, and what sittings differ by is not in either's interval. Name several
    files of the baseline to have it estimated, better three than two, or give --noise-floor.
    """
    if len(results) < 2:
        raise UsageError("one result file cannot be compared", "name a baseline and the new one: effvit compare A B")
    if json and markdown == "-":
        raise UsageError("--json and --markdown - both write to stdout", "name a file for the Markdown")

    from effvit.profiling import compare as comparing
    from effvit.profiling.change import given_floor
    from effvit.profiling.limits import DEFAULT_LIMITS, limit_from_text, share_from_text
    from effvit.profiling.results import read_sittings

    floor = None if noise_floor is None else given_floor(share_from_text(noise_floor, "--noise-floor"))
    files = [read_sittings(file) for file in results]
    known = comparing.known_names([outcome for outcomes in files for outcome in outcomes])
    limits = [limit_from_text(text, known) for text in fail_on or (DEFAULT_LIMITS if known else ())]
    if len({limit.name for limit in limits}) < len(limits):
        raise UsageError("--fail-on limits a metric twice", "give one limit for each metric")
    with progress_bars() as progress:
        bar = CountingBar(progress, "comparing cells", "compared", "cells")
        comparison = comparing.compare(files[:-1], files[-1], limits, floor, bar)
    _write(comparison, markdown, json=json)
    if comparison.failing:
        raise _regression(comparison)


def _write(comparison: Comparison, markdown: str | None, *, json: bool) -> None:
    from effvit.cli.comparison import markdown_text, parts
    from effvit.storage import write_atomically

    if markdown == "-":
        write(markdown_text(comparison).rstrip("\n"))
        return
    if markdown is not None:
        write_atomically(Path(markdown), markdown_text(comparison).encode())
    if json:
        import msgspec

        write_json(msgspec.json.encode(comparison))
    else:
        for part in parts(comparison):
            show(part)
    if markdown is not None:
        say(f"Markdown: {markdown}")


def _regression(comparison: Comparison) -> RegressionError:
    from effvit.cli.comparison import cell_name, verdict_text

    failing = comparison.failing
    first = failing[0]
    return RegressionError(
        f"{len(failing)} of {len(comparison.cells)} cells regressed; the first, {cell_name(first)}, "
        f"{verdict_text(first)}",
        "find what changed, or make B the new baseline if the change is wanted",
    )
