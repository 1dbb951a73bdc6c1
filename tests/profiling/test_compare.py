"""Verdicts on pairs of result files; what is simulated has a known truth."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import DRIFTING, HEAVY_TAILS, LAUNCHES, STEADY, UNEVEN, Machine
from outcomes import ENVIRONMENT, judged_accuracy, make_accuracy, make_outcome, make_samples, without_evidence

from effvit.accuracy import Accuracy
from effvit.errors import ResultError
from effvit.hardware import Hardware
from effvit.profiling import stats
from effvit.profiling.change import Change, Floor, given_floor
from effvit.profiling.compare import CellChange, Comparison, compare
from effvit.profiling.limits import Limit
from effvit.profiling.pairing import pairs
from effvit.profiling.plan import LEAST_ROUNDS
from effvit.profiling.records import Outcome, Samples
from effvit.profiling.verdict import MetricChange, judged

LATENCY = Limit("latency_s.p50", 0.03, "lower")
MEMORY = Limit("memory.host_peak_bytes", 0.05, "lower")
TOP1 = Limit("accuracy.top1", 0.005, "higher")
SOFTMAX, LINEAR = make_outcome("softmax"), make_outcome("linformer")
PAIRS = 200
MOST_ROUNDS, MAX_NOISE = 40, 0.02


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make thousands of intervals in seconds; the deviation of 200 draws is known to 5 %."""
    monkeypatch.setattr(stats, "DRAWS", 200)


def timed(outcome: Outcome, samples: Samples) -> Outcome:
    assert outcome.evidence is not None
    return replace(outcome, evidence=replace(outcome.evidence, samples=samples))


def steady(outcome: Outcome, seconds: float, spread: float = 0.001) -> Outcome:
    """Return the outcome with six rounds that differ a little, around a median of `seconds`."""
    factors = (1 - spread, 1, 1 + spread, 1 - spread, 1, 1 + spread)
    return timed(outcome, make_samples(*((seconds * factor,) for factor in factors)))


def scored(outcome: Outcome, top1: float, images: int = 2000) -> Outcome:
    assert outcome.evidence is not None
    return replace(outcome, evidence=replace(outcome.evidence, accuracy=make_accuracy(top1, images)))


def counted(outcome: Outcome, accuracy: Accuracy) -> Outcome:
    assert outcome.evidence is not None
    return replace(outcome, evidence=replace(outcome.evidence, accuracy=accuracy))


def sized(outcome: Outcome, peak_bytes: int) -> Outcome:
    assert outcome.evidence is not None
    memory = replace(outcome.evidence.memory, peak_bytes=peak_bytes)
    return replace(outcome, evidence=replace(outcome.evidence, memory=memory))


def only(comparison: Comparison) -> CellChange:
    (cell,) = comparison.cells
    return cell


def of(cell: CellChange, name: str) -> MetricChange:
    return next(change for change in cell.changes if change.name == name)


def measured_to_target(machine: Machine, slower: float, random: np.random.Generator) -> Samples:
    """Return what `effvit profile` would stop at: rounds until the interval of the median is within 2 %.

    A machine that drifts does so over what is measured.
    """
    drift = random.normal(0, machine.drift)
    samples = machine.samples(replace(machine, drift=0.0).rounds(MOST_ROUNDS, random) + np.log1p(slower), random)
    for count in range(LEAST_ROUNDS, MOST_ROUNDS + 1):
        end = count * LAUNCHES
        drifted = np.array(samples.seconds[:end]) * np.exp(drift * np.linspace(-0.5, 0.5, end))
        taken = replace(samples, seconds=tuple(drifted.tolist()), rounds=samples.rounds[:end])
        wide = stats.half_width(stats.median_interval(taken))
        if wide is not None and wide <= MAX_NOISE:
            break
    return taken


def regressions(machine: Machine, slower: float, seed: int) -> int:
    """Return how many of 200 pairs fail a limit of +3 %."""
    random = np.random.default_rng(seed)
    failed = 0
    for _ in range(PAIRS):
        before, now = (timed(SOFTMAX, measured_to_target(machine, gain, random)) for gain in (0.0, slower))
        failed += compare([[before]], [now], [LATENCY]).verdict == "regressed"
    return failed


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("machine", [STEADY, UNEVEN, HEAVY_TAILS, DRIFTING])
def test_5_percent_more_latency_fails_a_limit_of_3_in_95_of_100_pairs(machine: Machine) -> None:
    assert regressions(machine, 0.05, seed=11) >= 0.95 * PAIRS


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("machine", [STEADY, UNEVEN, HEAVY_TAILS, DRIFTING])
def test_no_change_fails_in_at_most_5_of_100_pairs(machine: Machine) -> None:
    assert regressions(machine, 0.0, seed=12) <= 0.05 * PAIRS


@pytest.mark.usefixtures("few_draws")
def test_no_change_fails_in_at_most_5_of_100_pairs_of_files_with_many_noisy_cells() -> None:
    """Rounds that differ by 6 % make the estimate alone fail in nearly every file of 12 cells."""
    random, machine = np.random.default_rng(13), Machine(rounds_differ=0.06)
    cells = [make_outcome("softmax", px=224 + 16 * number) for number in range(12)]
    failed = beyond = 0
    for _ in range(60):
        before, now = (
            [timed(cell, machine.samples(machine.rounds(5, random), random)) for cell in cells] for _ in range(2)
        )
        comparison = compare([before], now, [LATENCY])
        failed += comparison.verdict == "regressed"
        changes = [of(cell, LATENCY.name).change for cell in comparison.cells]
        beyond += any(change is not None and change.value > LATENCY.most for change in changes)
    assert failed <= 3
    assert beyond > 54


def test_files_compared_with_themselves_are_the_same() -> None:
    cell = only(compare([[SOFTMAX]], [SOFTMAX], [LATENCY, MEMORY, TOP1]))
    assert cell.verdict == "same"
    assert [change.change.value for change in cell.changes if change.change] == [0.0] * 4


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(1.02, "same"), (1.05, "regressed"), (0.95, "improved"), (0.98, "same")]
)
def test_a_certain_change_counts_beyond_the_limit(seconds: float, verdict: str) -> None:
    assert only(compare([[steady(SOFTMAX, 1.0)]], [steady(SOFTMAX, seconds)], [LATENCY])).verdict == verdict


def test_a_certain_change_fails_as_long_as_it_may_be_beyond_the_limit() -> None:
    """2.5 % more, give or take 1.4 %: it may be more than 3; measured more exactly it is not."""
    coarse = only(compare([[steady(SOFTMAX, 1.0, 0.01)]], [steady(SOFTMAX, 1.025, 0.01)], [LATENCY]))
    change = of(coarse, LATENCY.name).change
    assert change is not None
    assert change.low is not None
    assert change.high is not None
    assert 0 < change.low < 0.025 < 0.03 < change.high
    assert coarse.verdict == "regressed"
    assert only(compare([[steady(SOFTMAX, 1.0)]], [steady(SOFTMAX, 1.025)], [LATENCY])).verdict == "same"


def test_too_noisy_for_the_limit_cannot_be_told() -> None:
    cell = only(compare([[steady(SOFTMAX, 1.0, 0.2)]], [steady(SOFTMAX, 1.05, 0.2)], [LATENCY]))
    assert cell.verdict == "cannot be told"
    assert of(cell, LATENCY.name).note == "the interval is wider than the limit"


def test_a_noise_floor_forbids_what_it_hides() -> None:
    before, now = steady(SOFTMAX, 1.0), steady(SOFTMAX, 1.05)
    assert compare([[before]], [now], [LATENCY], given_floor(0.02)).verdict == "regressed"
    assert compare([[before]], [now], [LATENCY], given_floor(0.06)).verdict == "passed"


@pytest.mark.parametrize("files", [1, 3])
def test_a_floor_is_estimated_where_cells_were_measured_again(files: int) -> None:
    """Whether the sittings are lines of one file or files: 1.00, 1.10 and 0.91 times the same."""
    sittings = [steady(SOFTMAX, seconds) for seconds in (1.0, 1.1, 1 / 1.1)]
    before = [sittings] if files == 1 else [[one] for one in sittings]
    comparison = compare(before, [steady(SOFTMAX, 1.05)], [LATENCY])
    floor = next(one.floor for one in comparison.floors if one.name == LATENCY.name)
    # The logarithms are 0 and +-log(1.1): their variance is log(1.1)^2, that of a difference twice as much.
    assert floor.deviation == pytest.approx(np.log(1.1) * np.sqrt(2), rel=1e-3)
    assert floor.source == "estimated from 3 sittings of 1 cell"
    assert only(comparison).verdict == "cannot be told"
    assert of(only(comparison), LATENCY.name).before == pytest.approx(1.0)


@pytest.mark.parametrize(("peak", "verdict"), [(105, "same"), (106, "regressed"), (94, "improved")])
def test_what_is_measured_once_is_judged_by_its_value(peak: int, verdict: str) -> None:
    cell = only(compare([[sized(SOFTMAX, 100)]], [sized(SOFTMAX, peak)], [MEMORY]))
    assert cell.verdict == verdict
    assert of(cell, MEMORY.name).note == "no interval: judged by its value alone"


@pytest.mark.parametrize(("top1", "verdict"), [(0.795, "same"), (0.794, "regressed"), (0.81, "improved")])
def test_on_the_same_images_a_loss_of_accuracy_is_certain(top1: float, verdict: str) -> None:
    assert only(compare([[scored(SOFTMAX, 0.8)]], [scored(SOFTMAX, top1)], [TOP1])).verdict == verdict


@pytest.mark.parametrize(("top1", "verdict"), [(0.79, "cannot be told"), (0.6, "regressed")])
def test_on_other_images_a_loss_of_accuracy_has_doubt(top1: float, verdict: str) -> None:
    assert only(compare([[scored(SOFTMAX, 0.8)]], [scored(SOFTMAX, top1, 1000)], [TOP1])).verdict == verdict


def test_accuracy_of_the_same_images_has_the_interval_of_pairs_and_says_which_were_lost() -> None:
    """8 of 1,000 lost, 2 gained: by McNemar's exact test 2 * (1 + 10 + 45) / 2^10 = 0.109."""
    right = [True] * 800 + [False] * 190
    before, now = judged_accuracy([True] * 8 + [False] * 2 + right), judged_accuracy([False] * 8 + [True] * 2 + right)
    cell = only(compare([[counted(SOFTMAX, before)]], [counted(SOFTMAX, now)], [TOP1]))
    found = of(cell, TOP1.name)
    assert cell.verdict == "regressed"  # 0.6 points on these images, whatever it is on others
    assert found.change is not None
    assert found.change.value == pytest.approx(-0.006)
    assert found.change.half_width == pytest.approx(0.0066, abs=2e-4)  # of independent shares it would be 0.035
    assert "8 lost, 2 gained, p = 0.11" in found.note
    others = only(compare([[counted(SOFTMAX, before)]], [counted(SOFTMAX, replace(now, images_key="b"))], [TOP1]))
    assert others.verdict == "cannot be told"


def test_what_neither_side_has_is_not_compared_and_what_one_lacks_cannot_be_told() -> None:
    evidence = SOFTMAX.evidence
    assert evidence is not None
    blind = replace(SOFTMAX, evidence=replace(evidence, accuracy=None))
    assert of(only(compare([[blind]], [blind], [TOP1, LATENCY])), TOP1.name).verdict == "no limit"
    cell = only(compare([[SOFTMAX]], [blind], [TOP1, LATENCY]))
    assert cell.verdict == of(cell, TOP1.name).verdict == "cannot be told"
    assert of(cell, TOP1.name).note


def test_an_unstable_sitting_decides_nothing_about_time() -> None:
    shaken = replace(steady(sized(SOFTMAX, 200), 2.0), status="unstable", stage="measure", reason="a neighbour")
    cell = only(compare([[steady(sized(SOFTMAX, 100), 1.0)]], [shaken], [LATENCY]))
    assert cell.verdict == "cannot be told"
    assert of(cell, LATENCY.name).note == "B unstable: the machine was not ours"
    assert compare([[steady(sized(SOFTMAX, 100), 1.0)]], [shaken], [MEMORY]).verdict == "regressed"
    assert only(compare([[steady(sized(SOFTMAX, 200), 1.0)]], [shaken], [MEMORY])).verdict == "same"


@pytest.mark.parametrize(
    ("before", "now", "verdict", "overall"),
    [
        (SOFTMAX, without_evidence(SOFTMAX, "oom", "measure", "too large"), "failed now", "regressed"),
        (without_evidence(SOFTMAX, "oom", "measure", "too large"), SOFTMAX, "works now", "passed"),
        (
            without_evidence(SOFTMAX, "oom", "measure", "too large"),
            without_evidence(SOFTMAX, "failed", "open", "crashed"),
            "failed in both",
            "passed",
        ),
        (SOFTMAX, None, "missing in B", "passed"),
        (None, SOFTMAX, "missing in A", "passed"),
    ],
)
def test_cells_that_were_not_measured_on_both_sides(
    before: Outcome | None, now: Outcome | None, verdict: str, overall: str
) -> None:
    sides = [[LINEAR, *([] if one is None else [one])] for one in (before, now)]
    comparison = compare(sides[:1], sides[1], [LATENCY])
    assert [cell.verdict for cell in comparison.cells] == ["same", verdict]
    assert comparison.verdict == overall


def test_files_without_a_cell_in_common_are_refused() -> None:
    with pytest.raises(ResultError, match="no cell is in both files"):
        compare([[SOFTMAX]], [LINEAR], [LATENCY])


def test_other_weights_and_another_name_are_the_same_cell() -> None:
    model = replace(SOFTMAX.cell.model, weights="f" * 64)
    retrained = replace(SOFTMAX, cell=replace(SOFTMAX.cell, model=model), run="retrained")
    comparison = compare([[SOFTMAX]], [retrained], [LATENCY])
    assert only(comparison).verdict == "same"
    assert [one.what for one in comparison.differences] == ["weights"]


def test_two_runs_of_a_cell_are_paired_by_their_names() -> None:
    runs = [steady(replace(SOFTMAX, run=name), seconds) for name, seconds in (("one", 1.0), ("two", 2.0))]
    comparison = compare([runs], runs[::-1], [LATENCY])
    assert [(cell.run, cell.verdict) for cell in comparison.cells] == [("one", "same"), ("two", "same")]


def test_cells_of_several_machines_are_compared_with_their_own() -> None:
    other = replace(ENVIRONMENT, cpu="Example CPU 100")
    fast, slow = steady(SOFTMAX, 1.0), replace(steady(SOFTMAX, 9.0), environment=other)
    comparison = compare([[fast, slow]], [slow, fast], [LATENCY])
    assert [cell.verdict for cell in comparison.cells] == ["same", "same"]
    assert comparison.differences == ()


def test_machines_alike_are_compared_with_themselves_where_all_say_which_they_are() -> None:
    boards = [Hardware("A board", identity, (), 0, 0, None) for identity in ("01234567", "89abcdef")]
    fast, slow = (
        replace(steady(SOFTMAX, seconds), environment=replace(ENVIRONMENT, hardware=board))
        for seconds, board in zip((1.0, 9.0), boards, strict=True)
    )
    comparison = compare([[fast, slow]], [slow, fast], [LATENCY])
    assert [cell.verdict for cell in comparison.cells] == ["same", "same"]
    # A test farm has another machine of the kind every time: they are as one.
    third = replace(fast, environment=replace(ENVIRONMENT, hardware=Hardware("A board", "ffffffff", (), 0, 0, None)))
    assert only(compare([[fast], [fast]], [third], [LATENCY])).verdict == "same"
    assert only(compare([[fast], [replace(fast, environment=slow.environment)]], [third], [LATENCY])).verdict == "same"
    # Before, nobody wrote which machine it was: it is compared as one machine is.
    older = replace(fast, environment=ENVIRONMENT)
    assert only(compare([[older]], [fast], [LATENCY])).verdict == "same"
    assert not compare([[older]], [fast], [LATENCY]).other_machine


def test_what_differs_around_the_measurements_is_told() -> None:
    packages = (("onnxruntime", "1.24.0"), ("torch", "2.9.0"))
    renewed = replace(ENVIRONMENT, cpu="Other CPU", packages=packages, threads=2)
    assert SOFTMAX.evidence is not None
    assert SOFTMAX.evidence.calibration is not None
    slower = replace(SOFTMAX.evidence.calibration, macs_per_s=1e11)
    now = replace(SOFTMAX, environment=renewed, evidence=replace(SOFTMAX.evidence, calibration=slower))
    comparison = compare([[SOFTMAX]], [now], [LATENCY])
    assert comparison.other_machine
    assert [(one.what, one.before, one.now) for one in comparison.differences] == [
        ("processor", "Example CPU 9000", "Other CPU"),
        ("threads", "4", "2"),
        ("onnxruntime", "1.23.0", "1.24.0"),
        ("numpy's matrix products a second", "", "-50 %"),
    ]


# None of them is a multiple of the level over a count, where the last digit of a sum would decide.
CHANCES = st.sampled_from((0.0, 1e-4, 0.0034, 0.0113, 0.0249, 0.0261, 0.5, 0.9739, 0.9887, 0.9999, 1.0))
CHANGES = st.tuples(
    st.sampled_from((-0.2, -0.031, -0.02, 0.0, 0.02, 0.031, 0.2)), CHANCES, st.sampled_from((0.01, 0.05))
)


def rejected(chances: Sequence[float]) -> set[int]:
    """Return those that Benjamini and Hochberg reject, as they wrote it: up to the largest k with p(k) <= k q / m."""
    order = sorted(range(len(chances)), key=lambda index: chances[index])
    largest = max(
        (rank for rank, index in enumerate(order, 1) if chances[index] <= rank * 0.025 / len(chances)), default=0
    )
    return set(order[:largest])


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.lists(CHANGES, max_size=4), max_size=4))
def test_verdicts_are_what_the_rule_says(table: list[list[tuple[float, float, float]]]) -> None:
    drafts = [
        [
            MetricChange(LATENCY.name, 1.0, 1.0, Change(value, value - half, value + half, chance), LATENCY)
            for value, chance, half in cells
        ]
        for cells in table
    ]
    flat = list(itertools.chain.from_iterable(table))
    worse = rejected([chance for _, chance, _ in flat])
    better = rejected([1 - chance for _, chance, _ in flat])
    expected = []
    for index, (value, _, half) in enumerate(flat):
        if index in worse and value + half > 0.03:
            expected.append("regressed")
        elif index in better and value - half < -0.03:
            expected.append("improved")
        else:
            stands_out = abs(value) > 0.03 and abs(value) > half
            expected.append("cannot be told" if half > 0.03 or stands_out else "same")
    assert [change.verdict for change in itertools.chain.from_iterable(judged(drafts))] == expected


PLACES = st.lists(st.tuples(st.sampled_from((224, 384)), st.sampled_from("abc")), unique=True, max_size=6)


@settings(max_examples=1000, deadline=None)
@given(PLACES, PLACES)
def test_every_outcome_is_in_one_pair_and_pairs_have_one_place(
    ours: list[tuple[int, str]], theirs: list[tuple[int, str]]
) -> None:
    sides = [[POOL[px, run] for px, run in side] for side in (ours, theirs)]
    found = pairs([sides[0]], [sides[1]])
    named = [
        tuple((taken.outcome.cell.workload.height, taken.outcome.run) for taken in side)
        for pair in found
        for side in (pair.before, pair.now)
    ]
    both = list(zip(named[::2], named[1::2], strict=True))
    assert sorted(one for before, _ in both for one in before) == sorted(ours)
    assert sorted(one for _, now in both for one in now) == sorted(theirs)
    expected = {(one, one) for one in ours if one in theirs}
    for px in (224, 384):
        left = [one for one in ours if one[0] == px and one not in theirs]
        right = [one for one in theirs if one[0] == px and one not in ours]
        if len(left) == len(right) == 1:
            expected.add((left[0], right[0]))
    assert {(before[0], now[0]) for before, now in both if before and now} == expected


POOL = {(px, run): make_outcome("softmax", px, run=run) for px in (224, 384) for run in "abc"}


def test_a_floor_of_zero_is_a_floor() -> None:
    comparison = compare([[SOFTMAX], [SOFTMAX]], [SOFTMAX], [LATENCY])
    floor = next(one.floor for one in comparison.floors if one.name == LATENCY.name)
    assert floor == Floor(0.0, float("inf"), 0.0, "estimated from 2 sittings of 1 cell")
