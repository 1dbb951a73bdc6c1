from dataclasses import replace

import pytest
from outcomes import (
    ENVIRONMENT,
    judged_accuracy,
    make_accuracy,
    make_outcome,
    make_samples,
    make_sweep,
    without_evidence,
)

from effvit.profiling.records import Accuracy, Outcome
from effvit.profiling.report.rows import Row, make_rows
from effvit.spec import Swap

SOFTMAX = make_outcome("softmax")
LINEAR = make_outcome("linformer")


def _timed(outcome: Outcome, *rounds: float, macs: int = 100, core_macs: int = 0, top1: float = 0.8) -> Outcome:
    evidence = outcome.evidence
    assert evidence is not None
    cost = replace(evidence.cost, macs=macs, core_macs=core_macs)
    samples = make_samples(*((seconds,) for seconds in rounds))
    return replace(outcome, evidence=replace(evidence, samples=samples, cost=cost, accuracy=make_accuracy(top1)))


def _row(outcomes: list[Outcome], attention: str, **where: int) -> Row:
    rows = [row for row in make_rows(outcomes) if row.outcome.cell.model.attention == attention]
    (row,) = (row for row in rows if all(getattr(row.workload, name) == value for name, value in where.items()))
    return row


def test_a_row_is_compared_with_softmax_of_its_rounds() -> None:
    baseline = _timed(SOFTMAX, 2.0, 4.0, macs=300, core_macs=100, top1=0.84)
    row = _row([baseline, _timed(LINEAR, 1.0, 2.0, macs=240, top1=0.80)], "linformer")
    assert row.baseline == baseline
    assert row.speedup is not None
    assert row.speedup.value == pytest.approx(2.0)
    assert row.ceiling == 1.5  # 300 / (300 - 100)
    assert row.macs_ratio == 1.25  # 300 / 240
    assert row.top1_gap is not None
    assert row.top1_gap.value == pytest.approx(-0.04)


def test_times_of_other_rounds_are_not_paired_but_counts_still_compare() -> None:
    evidence = LINEAR.evidence
    assert evidence is not None
    elsewhere = replace(LINEAR, evidence=replace(evidence, comparison="another sitting"))
    row = _row([SOFTMAX, elsewhere], "linformer")
    assert row.speedup is None
    assert row.ceiling is not None
    assert row.top1_gap is not None


@pytest.mark.parametrize(
    "other",
    [
        make_outcome("linformer", px=384),
        make_outcome("linformer", batch=8),
        make_outcome("linformer", backend="ort-cpu"),
        replace(LINEAR, data="birds"),
        replace(LINEAR, environment=replace(ENVIRONMENT, cores=64)),
    ],
)
def test_a_baseline_must_differ_in_nothing_but_attention(other: Outcome) -> None:
    assert _row([SOFTMAX, other], "linformer").baseline is None


def test_a_failed_baseline_compares_with_nothing() -> None:
    row = _row([without_evidence(SOFTMAX, "oom", "measure", "too large"), LINEAR], "linformer")
    assert (row.baseline, row.speedup, row.ceiling, row.top1_gap) == (None, None, None, None)


def test_the_baseline_is_not_compared_with_itself() -> None:
    row = _row([SOFTMAX], "softmax")
    assert (row.baseline, row.speedup, row.top1_gap) == (None, None, None)
    assert row.ceiling is not None


def test_accuracy_of_no_images_leaves_the_gap_open() -> None:
    evidence = LINEAR.evidence
    assert evidence is not None
    blind = replace(LINEAR, evidence=replace(evidence, accuracy=Accuracy(0, 9, 0, 0, (0,), (0,))))
    assert _row([SOFTMAX, blind], "linformer").top1_gap is None


def test_fronts_are_found_over_resolutions_but_within_a_batch() -> None:
    slow_and_worse = _timed(make_outcome("linformer", px=384), 9.0, top1=0.5)
    rows = [_timed(SOFTMAX, 1.0, top1=0.8), slow_and_worse, _timed(make_outcome("linformer", batch=8), 9.0, top1=0.5)]
    assert _row(rows, "softmax").pareto_latency
    assert not _row(rows, "linformer", batch=1).pareto_latency
    assert _row(rows, "linformer", batch=8).pareto_latency


def test_an_unstable_row_keeps_its_numbers_and_lies_on_no_front() -> None:
    unstable = replace(_timed(LINEAR, 0.1, top1=0.9), status="unstable", stage="measure", reason="a neighbour")
    row = _row([_timed(SOFTMAX, 1.0, top1=0.8), unstable], "linformer")
    assert row.unstable
    assert row.reading("latency_s.p50").value == 0.1
    assert row.speedup is not None
    assert not row.pareto_latency
    assert _row([_timed(SOFTMAX, 1.0, top1=0.8), unstable], "softmax").pareto_latency


def test_what_is_slower_in_every_round_and_worse_on_the_same_images_is_beaten() -> None:
    """Rounds differ by a fifth and images by chance; the variants by 1 % in each round and on 10 of 2,000 images."""
    right = [True] * 1590 + [False] * 400
    better, worse = (
        _judged(_timed(outcome, *(seconds * factor for factor in (0.8, 1.0, 1.2, 0.9, 1.1))), judged)
        for outcome, seconds, judged in (
            (SOFTMAX, 1.0, judged_accuracy([True] * 10 + right)),
            (LINEAR, 1.01, judged_accuracy([False] * 10 + right)),
        )
    )
    assert _row([better, worse], "linformer").standing("latency") == "beaten"
    assert worse.evidence is not None
    elsewhere = replace(worse, evidence=replace(worse.evidence, comparison="another sitting"))
    assert _row([better, elsewhere], "linformer").standing("latency") == "near"
    others = _judged(worse, judged_accuracy([False] * 10 + right, images_key="others"))
    assert _row([better, others], "linformer").standing("latency") == "near"


def _judged(outcome: Outcome, accuracy: Accuracy) -> Outcome:
    assert outcome.evidence is not None
    return replace(outcome, evidence=replace(outcome.evidence, accuracy=accuracy))


def test_variants_of_one_name_are_told_apart_by_options_then_by_run() -> None:
    model = LINEAR.cell.model
    narrow, wide = (
        replace(LINEAR, cell=replace(LINEAR.cell, model=replace(model, swaps=(Swap("linformer", (("rank", rank),)),))))
        for rank in (32, 64)
    )
    again = replace(wide, run="second seed")
    labels = {row.label for row in make_rows([SOFTMAX, narrow, wide, again])}
    assert labels == {
        "softmax", "linformer (rank=32)", "linformer (rank=64) (vit_tiny-linformer)",
        "linformer (rank=64) (second seed)",
    }  # fmt: skip


def test_one_run_a_resolution_is_one_variant() -> None:
    other = replace(make_outcome("linformer", px=384), run="trained at 384")
    assert {row.label for row in make_rows([LINEAR, other])} == {"linformer"}


def test_every_outcome_is_a_row() -> None:
    sweep = make_sweep()
    rows = make_rows(sweep)
    assert len(rows) == len(sweep)
    assert {row.outcome.cell.key for row in rows} == {outcome.cell.key for outcome in sweep}


def test_the_same_cell_on_two_machines_is_two_rows_that_are_never_paired() -> None:
    """Even if their rounds are called the same, as those of two sweeps started alike are."""
    small = replace(ENVIRONMENT, cpu="Small CPU")
    here = [_timed(SOFTMAX, 2.0, 4.0), _timed(LINEAR, 1.0, 2.0)]
    there = [replace(_timed(SOFTMAX, 30.0, 30.0), environment=small), replace(_timed(LINEAR, 10.0), environment=small)]
    rows = {(row.machine, row.label): row for row in make_rows([*here, *there])}
    assert len(rows) == 4
    for machine, gain in (("Example CPU 9000", 2.0), ("Small CPU", 3.0)):
        speedup = rows[machine, "linformer"].speedup
        assert speedup is not None
        assert speedup.value == pytest.approx(gain)
        assert rows[machine, "linformer"].pareto_latency
    (alone,) = (row for row in make_rows([here[0], there[1]]) if row.label == "linformer")
    assert (alone.baseline, alone.speedup, alone.top1_gap) == (None, None, None)
