"""What heat did to a cell, and who says so."""

from __future__ import annotations

from dataclasses import replace

import pytest
from outcomes import make_outcome

from effvit.cli.sweeping import _line
from effvit.profiling.board import BoardConditions
from effvit.profiling.disturbance import TOLERANCE, Conditions, Turn, disturbances
from effvit.profiling.heat import Heat, heat_of
from effvit.profiling.metrics.base import Reading, metrics
from effvit.profiling.recommend import OBJECTIVES, Constraints, recommend
from effvit.profiling.records import Outcome
from effvit.profiling.report import display, summary
from effvit.profiling.report.advice import lines
from effvit.profiling.report.details import DETAILS
from effvit.profiling.report.rows import Row, make_rows
from effvit.profiling.report.table import csv_text

COOL = BoardConditions(50.0, 61.0, (), 6.0, "cpu-thermal", "ina3221 VDD_IN")
LIMITED = "the processor was at the soft limit of its temperature"
HOT = replace(COOL, start_c=79.5, end_c=84.2, held_back=(LIMITED,), power_w=9.0)
QUIET = Conditions(2.0, 2.0, 1, 0.0, 0.0, 0, 2.4e9, None, "", None, 2.4e9, COOL)
THROTTLED = replace(QUIET, clock_hz=2.3e9, lowest_hz=1.5e9, board=HOT)


def measured(*rounds: Conditions, attention: str = "softmax", status: str = "ok") -> Outcome:
    outcome = make_outcome(attention)
    assert outcome.evidence is not None
    turns = tuple(
        Turn(number, one, reason)
        for number, (one, reason) in enumerate(zip(rounds, disturbances(rounds, TOLERANCE), strict=True))
    )
    evidence = replace(outcome.evidence, turns=turns)
    return replace(outcome, evidence=evidence, status=status, reason="" if status == "ok" else "rounds were disturbed")  # type: ignore[arg-type]


def row_of(outcome: Outcome) -> Row:
    (row,) = make_rows([outcome])
    return row


def test_a_round_that_heat_slowed_down_is_disturbed() -> None:
    assert disturbances([QUIET, THROTTLED, QUIET], TOLERANCE) == ["", LIMITED, ""]


def test_a_cell_has_the_extremes_of_its_rounds() -> None:
    evidence = measured(QUIET, THROTTLED, QUIET).evidence
    assert evidence is not None
    assert heat_of(evidence) == Heat(50.0, 84.2, 1.5e9, 7.0, 1, 3, (LIMITED,), "cpu-thermal")


def test_what_a_counter_counted_is_one_reason_whatever_the_number() -> None:
    evidence = measured(replace(QUIET, throttled=3), replace(QUIET, throttled=7), QUIET).evidence
    assert evidence is not None
    assert heat_of(evidence).reasons == ("heat slowed the processor down",)
    assert heat_of(evidence).slowed == 2


def test_readings_have_units_and_gaps_have_notes() -> None:
    def readings(outcome: Outcome) -> list[Reading]:
        assert outcome.evidence is not None
        names = ("temperature_c", "clock_hz", "slowed", "power_w")
        return [reading for name in names for reading in metrics()[name].measure(outcome.evidence)]

    told = readings(measured(QUIET, THROTTLED))
    assert [(one.name, one.value) for one in told] == [
        ("temperature_c.start", 50.0),
        ("temperature_c.peak", 84.2),
        ("clock_hz.lowest", 1.5e9),
        ("slowed.rounds", 1),
        ("power_w.supply", 7.5),
    ]
    bare = readings(measured(Conditions(1.0, 1.0, 1, 0.0, 0.0, 0, None, None)))
    assert all(one.value is None and one.note for one in bare)
    # Nothing slowed it down, and it would have been told: that is 0, and no gap.
    assert readings(measured(QUIET))[3].value == 0


def test_the_live_line_says_how_hot_it_was_only_where_that_mattered() -> None:
    hot = f"slowed down in 1 of 2 rounds, at up to 84 °C: {LIMITED}"
    assert _line(measured(QUIET, THROTTLED)).endswith(f" ms, {hot}")
    assert _line(measured(QUIET, QUIET)).endswith(" ms")
    assert _line(measured(QUIET, THROTTLED, status="unstable")).endswith(f" ms, unstable: rounds were disturbed, {hot}")


def test_a_cell_that_was_slowed_down_has_a_mark_and_a_sentence() -> None:
    hot, cool = row_of(measured(QUIET, THROTTLED)), row_of(measured(QUIET, QUIET))
    assert display.SLOWED_SIGN in display.signs(hot)
    assert display.SLOWED_SIGN not in display.signs(cool)
    assert display.signs(row_of(measured(THROTTLED, status="unstable"))) == "!°"
    assert summary.heat([cool]) == ""
    assert summary.heat([hot, cool]) == (
        f"The machine was slowed down in 1 round of 1 cell, at up to 84 °C: {LIMITED}. Such rounds are left out where "
        "enough others are there."
    )
    assert summary.heat([hot]) in summary.paragraphs([hot])[0].sentences


def test_the_report_has_a_table_of_heat_and_power() -> None:
    (detail,) = (one for one in DETAILS if one.title == "Heat and power")
    hot = row_of(measured(QUIET, THROTTLED))
    shown = {column.title: column.text(hot) for column in detail.columns}
    assert (shown["at first"], shown["at most"], shown["lowest clock"]) == ("50 °C", "84 °C", "1.5 GHz")
    assert (shown["rounds slowed down"], shown["slowed down by"]) == ("1 of 2", LIMITED)
    assert not detail.has(row_of(make_outcome()))
    head, line = (text.split(",") for text in csv_text([hot]).splitlines())
    assert line[head.index("temperature_c.peak")] == "84.2"


@pytest.mark.parametrize(
    ("status", "said"),
    [("ok", "the choice was slowed down in 1 of 2 rounds"), ("unstable", "1 of 2 cells are left out because")],
)
def test_a_recommendation_says_what_heat_did(status: str, said: str) -> None:
    hot = measured(QUIET, THROTTLED, attention="linformer", status=status)
    objective = next(one for one in OBJECTIVES if one.name == "latency")
    rows = make_rows([measured(QUIET, QUIET), hot])
    (found,) = recommend(rows, Constraints(), objective)
    (caveat,) = found.caveats
    assert caveat.startswith(said)
    assert f"Mind: {caveat}." in list(lines(found, "latency", several=False))
    (cool,) = recommend(make_rows([measured(QUIET, QUIET)]), Constraints(), objective)
    assert cool.caveats == ()
