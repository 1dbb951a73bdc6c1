"""`effvit profile --until-crossover` through a real runtime: what it says is what it measured."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest
from command_line import Effvit
from outcomes import make_outcome
from untrained_runs import make_run

from effvit.cli.sweeping import say_crossovers
from effvit.profiling.disturbance import Tolerance
from effvit.profiling.plan import Effort

# On two cores linformer was faster from the smallest size on, nystromformer from about 256 px on, atrous nowhere.
ATTENTIONS = ("softmax", "linformer", "nystromformer", "atrous")
SMALLEST, LARGEST, PATCH, TOLERANCE = 64, 384, 16, 0.3
QUICK = ("--rounds", "3", "--samples", "9", "--least-s", "0.05", "--warmup-ms", "10", "--max-noise", "inf")
ANYTHING = Tolerance(steal=math.inf, others=math.inf, idle=0, clock=0)
FROM = re.compile(r"(\w+) from about (\d+) px on")


def faster(outcomes: list[dict[str, Any]]) -> dict[str, dict[int, bool]]:
    """Return by variant and px whether it was faster than softmax, by the logarithms of the rounds' medians."""
    times: dict[tuple[str, int], dict[int, float]] = {}
    for outcome in outcomes:
        rounds = defaultdict(list)
        samples = outcome["evidence"]["samples"]
        for seconds, number in zip(samples["seconds"], samples["rounds"], strict=True):
            if number not in samples["left_out"]:
                rounds[number].append(seconds)
        cell = outcome["cell"]
        where = (cell["model"]["swaps"][0]["attention"], cell["workload"]["height"])
        times[where] = {number: math.log(median(seconds)) for number, seconds in rounds.items()}
    found: dict[str, dict[int, bool]] = defaultdict(dict)
    for (attention, px), ours in sorted(times.items()):
        if attention != "softmax":
            exact = times["softmax", px]
            found[attention][px] = mean(exact[number] - ours[number] for number in ours.keys() & exact.keys()) > 0
    return found


def test_where_cells_are_unstable_no_crossing_is_told_and_that_is_why(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [make_outcome(name, px) for name in ("softmax", "linformer") for px in (224, 384)]
    say_crossovers(outcomes)
    assert "unstable" not in capsys.readouterr().err
    say_crossovers([replace(one, status="unstable", reason="a neighbour") for one in outcomes])
    assert "at two resolutions, but for cells that are unstable" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_is_said_of_crossings_is_what_was_measured(
    effvit: Effvit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever other processes do meanwhile: a round that they disturb is as good as any for what is tested here."""
    monkeypatch.setattr("effvit.profiling.plan.Effort", partial(Effort, tolerance=ANYTHING))
    for attention in ATTENTIONS:
        make_run(tmp_path / "runs", attention, px=SMALLEST)
    sizes = ("--res", f"{SMALLEST},{LARGEST}", "--until-crossover", "--crossover-tolerance", 100 * TOLERANCE)
    where = ("--batch", 1, "--backend", "ort-cpu", "--threads", 1, "--eval-images", 1)
    answer = effvit("profile", *ATTENTIONS, *sizes, *where, *QUICK, "--json")
    assert answer.code == 0, answer.err
    outcomes = json.loads(answer.out)
    lines = (tmp_path / "runs/results.jsonl").read_text().splitlines()
    assert [json.loads(line)["cell"] for line in lines] == [outcome["cell"] for outcome in outcomes]
    assert {outcome["status"] for outcome in outcomes} == {"ok"}

    said, measured = answer.err, faster(outcomes)
    assert set(measured) == set(ATTENTIONS[1:])
    everywhere, never = (
        next((line for line in said.splitlines() if words in line), "")
        for words in ("from the smallest measured resolution on", "on this device up to")
    )
    starts = {name: int(px) for name, px in FROM.findall(said)}
    for attention, ways in measured.items():
        px = sorted(ways)
        assert {SMALLEST, LARGEST} <= set(px)
        assert all(size % PATCH == 0 for size in px)
        kinds = [attention in everywhere, attention in never, attention in starts]
        assert sum(kinds) == 1, f"one answer for {attention}: {said}"
        if attention in never:
            assert not ways[LARGEST]
        elif attention in everywhere:
            assert all(ways.values())
        else:
            low = max(size for size in px if not ways[size])
            high = min(size for size in px if size > low)
            assert low <= starts[attention] <= high
            assert high <= low * (1 + TOLERANCE)

    # Asked again, it has everything and measures nothing.
    again = effvit("profile", *ATTENTIONS, *sizes, *where, *QUICK, "--json")
    assert again.code == 0, again.err
    assert len((tmp_path / "runs/results.jsonl").read_text().splitlines()) == len(lines)
