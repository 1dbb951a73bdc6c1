"""Rows that an emulator measured: their numbers are kept and shown, and nothing is concluded from them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from outcomes import ENVIRONMENT, RESOLUTIONS, make_outcome

from effvit.profiling.compare import compare
from effvit.profiling.crossover import crossovers
from effvit.profiling.limits import Limit
from effvit.profiling.recommend import OBJECTIVES, Constraints, Objective, recommend
from effvit.profiling.records import Outcome
from effvit.profiling.report import points, summary
from effvit.profiling.report.advice import lines
from effvit.profiling.report.rows import Row, make_rows
from effvit.profiling.results import decode, encode

EMULATED = replace(ENVIRONMENT, cpu="aarch64, emulated on Example CPU 9000", emulated=True)


def emulated(outcome: Outcome) -> Outcome:
    return replace(outcome, environment=EMULATED)


def real() -> list[Outcome]:
    return [make_outcome(attention, px) for px in RESOLUTIONS for attention in ("softmax", "linformer")]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return make_rows(map(emulated, real()))


def test_it_has_numbers_and_stands_nowhere_and_against_nothing(rows: list[Row]) -> None:
    for row in rows:
        assert row.reading("latency_s.p50").value is not None
        assert set(row.standings) == {None}
        assert row.speedup is None
    # Whether an artifact is right does not depend on who computes it.
    assert any(row.top1_gap is not None for row in rows)


def test_no_crossing_and_no_curve_is_made_of_it(rows: list[Row]) -> None:
    others = make_rows(real())
    assert crossovers(others)
    assert crossovers(rows) == []
    assert points.curves(others)
    assert points.curves(rows) == {}


def test_the_summary_of_an_emulated_machine_is_that_it_was() -> None:
    found = summary.paragraphs(make_rows([*real(), *map(emulated, real())]))
    said = {one.sentences for one in found if "emulated" in one.title}
    assert said == {("It was emulated: its times and its memory are those of the emulator, and rank nothing.",)}
    assert summary.paragraphs(make_rows(real()))[0].sentences in {one.sentences for one in found}


@pytest.mark.parametrize("objective", OBJECTIVES, ids=[one.name for one in OBJECTIVES])
def test_it_is_never_recommended_and_said_to_be_left_out(objective: Objective) -> None:
    rows = make_rows([emulated(make_outcome(name)) for name in ("softmax", "linformer")])
    (found,) = recommend(rows, Constraints(), objective)
    assert (found.choice, found.safe, found.nearest, found.alike) == (None, None, None, ())
    assert (found.considered, found.emulated) == (0, 2)
    assert "left out: 2 emulated" in "\n".join(lines(found, objective.name, several=False))


def test_its_times_decide_no_comparison_and_its_files_do() -> None:
    latency, size = Limit("latency_s.p50", 0.03, "lower"), Limit("artifact.size_bytes", 0.03, "lower")
    before, now = make_outcome("softmax"), emulated(make_outcome("softmax"))
    for sides, named in (((before, now), "B"), ((now, before), "A"), ((now, now), "A and B")):
        (cell,) = compare([[sides[0]]], [sides[1]], [latency, size]).cells
        changes = {one.name: one for one in cell.changes}
        assert changes["latency_s.p50"].verdict == "cannot be told"
        assert changes["latency_s.p50"].note == f"{named} emulated: the times are those of the emulator"
        assert changes["artifact.size_bytes"].verdict == "same"


def test_the_mark_survives_a_result_file() -> None:
    outcome = emulated(make_outcome())
    assert decode(encode(outcome), "here") == outcome
    assert decode(encode(make_outcome()), "here").environment.emulated is False
