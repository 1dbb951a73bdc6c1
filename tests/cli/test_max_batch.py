"""`effvit profile --max-batch`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Effvit
from outcomes import ENVIRONMENT, make_cell
from rich.console import Console

from effvit.cli.render import batches_table
from effvit.profiling.frontier import Frontier, Stopped, Try

FITS = Try(96, "ok", 2**30, 2**29)
FRONTIER = Frontier(
    make_cell(), ENVIRONMENT, "run", (FITS, Try(98, "oom", 2**30), Try(97, "oom", 2**30, reason="MemoryError")), "found"
)


def shown(frontier: Frontier) -> str:
    console = Console(width=160, color_system=None)
    with console.capture() as capture:
        console.print(batches_table([frontier]))
    return " ".join(capture.get().splitlines()[1].split())


def test_the_largest_batch_stands_beside_what_the_next_one_met() -> None:
    assert shown(FRONTIER) == "softmax torch fp32 224 96 512 MiB 1.00 GiB no memory for 97"


@pytest.mark.parametrize("stopped", ["batch limit", "time limit"])
def test_a_search_that_was_ended_tells_a_lower_bound(stopped: Stopped) -> None:
    assert shown(replace(FRONTIER, tries=(FITS,), stopped=stopped)).endswith(f" ≥ 96 512 MiB 1.00 GiB {stopped}")


def test_a_search_that_ran_out_of_time_tells_both_bounds() -> None:
    ended = replace(FRONTIER, tries=(FITS, Try(128, "oom", 2**30)), stopped="time limit")
    assert shown(ended).endswith(" 96-127 512 MiB 1.00 GiB time limit")


def test_a_model_of_which_nothing_fits_has_a_largest_batch_of_0() -> None:
    nothing = replace(FRONTIER, tries=(Try(1, "oom", 2**20),))
    assert shown(nothing).endswith(" 0 - 1.00 MiB no memory for 1")


def test_a_search_that_failed_tells_why() -> None:
    failed = replace(FRONTIER, tries=(), stopped="failed", reason="no such operator")
    assert shown(failed).endswith("224 - - none no such operator")


def test_a_search_is_written_and_not_made_twice(effvit: Effvit, runs: Path) -> None:
    arguments = ("profile", "lin", "--runs", runs, "--max-batch", "--backend", "ort-cpu", "--threads", "1", "--json")
    answer = effvit(*arguments, "--max-batch-limit", "3")
    assert answer.code == 0, answer.err
    (found,) = json.loads(answer.out)
    assert [one["batch"] for one in found["tries"]] == [1, 2, 3]
    assert found["stopped"] == "batch limit"
    assert json.loads((runs / "frontier.jsonl").read_text()) == found
    assert not (runs / "results.jsonl").exists()
    again = effvit(*arguments, "--max-batch-limit", "3")
    assert json.loads(again.out) == [found]
