"""Recommendations from rows whose numbers are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from outcomes import ENVIRONMENT, judged_accuracy, make_accuracy, make_outcome, make_samples, without_evidence

from effvit.environment import Environment
from effvit.profiling.candidates import Candidate
from effvit.profiling.recommend import OBJECTIVES, Constraints, Objective, Recommendation, recommend
from effvit.profiling.records import Outcome, Throughput
from effvit.profiling.report.rows import make_rows
from effvit.spec import Precision

THROUGHPUT, LATENCY, ACCURACY, MEMORY, ENERGY = OBJECTIVES


def outcome(
    attention: str = "softmax",
    px: int = 224,
    *,
    seconds: float = 0.01,
    rate: float = 100.0,
    memory: int = 100,
    top1: float | None = 0.8,
    images: int = 2000,
    wide: float = 0.001,
    precision: Precision = Precision.FP32,
    environment: Environment = ENVIRONMENT,
) -> Outcome:
    """Return a measured cell with this median, images a second, peak memory and top-1; rounds differ by `wide`."""
    made = make_outcome(attention, px)
    evidence = made.evidence
    assert evidence is not None
    factors = (1 - wide, 1, 1 + wide, 1 - wide, 1, 1 + wide)
    evidence = replace(
        evidence,
        samples=make_samples(*((seconds * factor,) for factor in factors)),
        throughput=Throughput(tuple((1000, 1000 / (rate * factor)) for factor in factors)),
        memory=replace(evidence.memory, peak_bytes=memory),
        accuracy=None if top1 is None else replace(make_accuracy(top1, images), of_images=images),
    )
    cell = replace(made.cell, precision=precision)
    return replace(made, cell=cell, evidence=evidence, environment=environment)


def judged(outcome: Outcome, right: list[bool]) -> Outcome:
    assert outcome.evidence is not None
    return replace(outcome, evidence=replace(outcome.evidence, accuracy=judged_accuracy(right)))


def apart(outcome: Outcome) -> Outcome:
    """Return the outcome as one of another sitting, whose rounds are not those of the others."""
    assert outcome.evidence is not None
    return replace(outcome, evidence=replace(outcome.evidence, comparison="another sitting"))


def recommended(
    outcomes: list[Outcome], constraints: Constraints | None = None, objective: Objective = THROUGHPUT
) -> Recommendation:
    (found,) = recommend(make_rows(outcomes), constraints or Constraints(), objective)
    return found


def name(candidate: Candidate | None) -> str:
    assert candidate is not None
    return candidate.label


def test_the_best_of_what_keeps_the_limits_is_chosen() -> None:
    outcomes = [
        outcome("softmax", rate=100, memory=100),
        outcome("linformer", rate=200, memory=100, seconds=0.02),
        outcome("performer", rate=150, memory=100),
        outcome("atrous", rate=300, memory=300),
    ]
    found = recommended(outcomes, Constraints(latency_s=0.015, memory_bytes=200))
    assert name(found.choice) == "performer"
    assert found.safe is None
    assert found.choice is not None
    assert found.choice.certain
    assert [(one.name, name(one.candidate)) for one in found.relaxations] == [
        ("memory", "atrous"),
        ("latency_p50", "linformer"),
    ]
    assert found.relaxations[0].needed == 300
    assert found.relaxations[0].gain == pytest.approx(1.0)
    assert found.relaxations[1].needed == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("objective", "chosen"),
    [(THROUGHPUT, "atrous"), (LATENCY, "performer"), (ACCURACY, "softmax"), (MEMORY, "linformer")],
)
def test_objectives_go_their_own_way(objective: Objective, chosen: str) -> None:
    outcomes = [
        outcome("softmax", top1=0.9),
        outcome("linformer", memory=50),
        outcome("performer", seconds=0.005),
        outcome("atrous", rate=300),
    ]
    assert name(recommended(outcomes, objective=objective).choice) == chosen


def test_without_the_number_that_is_the_objective_there_is_no_candidate() -> None:
    found = recommended([outcome("softmax")], objective=ENERGY)
    assert found.choice is None
    assert (found.considered, found.lacking) == (0, 1)


def test_a_loss_of_accuracy_is_counted_from_softmax_at_the_same_resolution() -> None:
    outcomes = [
        outcome("softmax", 224, top1=0.8, rate=100, images=100_000),
        outcome("softmax", 384, top1=0.9, rate=50, images=100_000),
        outcome("linformer", 224, top1=0.795, rate=200, images=100_000),
        outcome("linformer", 384, top1=0.85, rate=300, images=100_000),
    ]
    found = recommended(outcomes, Constraints(drop=0.01))
    assert found.choice is not None
    assert (name(found.choice), found.choice.cell.workload.height) == ("linformer", 224)
    (check,) = found.choice.checks
    assert check.value is not None
    assert check.value.value == pytest.approx(0.005)
    assert check.state == "satisfied"


def test_softmax_itself_loses_nothing_beyond_doubt() -> None:
    found = recommended([outcome("softmax")], Constraints(drop=0.0))
    assert found.choice is not None
    assert found.choice.certain


def test_softmax_in_int8_may_have_lost_something() -> None:
    coarse = outcome("softmax", top1=0.7, rate=300, precision=Precision.INT8)
    fine = outcome("softmax", top1=0.8, rate=100)
    found = recommended([coarse, fine], Constraints(drop=0.05))
    assert found.choice is not None
    assert found.choice.cell.precision is Precision.FP32
    alone = recommended([coarse], Constraints(drop=0.05))
    assert alone.choice is not None


def test_a_loss_that_a_few_images_cannot_tell_is_perhaps_kept() -> None:
    """0.5 points of loss against a limit of 1, by 2,000 images: 0.5 (-2 to 3)."""
    outcomes = [outcome("softmax", top1=0.8, rate=100), outcome("linformer", top1=0.795, rate=200)]
    found = recommended(outcomes, Constraints(drop=0.01))
    assert name(found.choice) == "linformer"
    assert name(found.safe) == "softmax"
    assert found.choice is not None
    assert found.choice.checks[0].state == "perhaps"
    settling = found.settling[0]
    assert (name(settling.candidate), settling.question, settling.unit, settling.now) == (
        "linformer", "drop", "images", 2000,
    )  # fmt: skip
    # Wilson's half-width of 0.8 of 2,000 is about 1.76 points, of two about 2.49: 5 times 0.5, so 25 times the images.
    assert settling.count == pytest.approx(24 * 2000, rel=0.05)
    assert settling.available == 2000


def test_a_loss_on_the_same_images_is_told_image_by_image() -> None:
    """10 of 2,000 lost: 0.5 points, known to 0.3 as pairs and to 2.5 as two shares."""
    right = [True] * 1590 + [False] * 400
    softmax = judged(outcome("softmax", rate=100), [True] * 10 + right)
    linear = judged(outcome("linformer", rate=200), [False] * 10 + right)
    found = recommended([softmax, linear], Constraints(drop=0.01))
    assert name(found.choice) == "linformer"
    assert found.safe is None
    assert found.choice is not None
    assert found.choice.checks[0].state == "satisfied"
    alike = recommended([softmax, linear], objective=ACCURACY)
    assert (name(alike.choice), alike.alike) == ("softmax", ())


def test_a_latency_close_to_its_limit_asks_for_rounds() -> None:
    found = recommended([outcome("softmax", seconds=0.0099, wide=0.02)], Constraints(latency_s=0.01))
    assert found.choice is not None
    assert found.choice.checks[0].state == "perhaps"
    settling = found.settling[0]
    assert (settling.question, settling.unit, settling.now) == ("latency_p50", "rounds", 6)
    assert settling.count is not None
    assert settling.count > 6


def test_what_would_be_better_and_perhaps_keeps_the_limits_is_asked_for() -> None:
    outcomes = [outcome("softmax"), outcome("linformer", seconds=0.0102, rate=200, wide=0.05)]
    found = recommended(outcomes, Constraints(latency_s=0.01005))
    assert name(found.choice) == "softmax"
    assert name(found.settling[0].candidate) == "linformer"


def test_what_cannot_be_told_from_the_choice_is_named() -> None:
    outcomes = [
        apart(outcome("softmax", rate=101, wide=0.05)),
        outcome("linformer", rate=102, wide=0.05),
        outcome("performer", rate=50, wide=0.05),
    ]
    found = recommended(outcomes)
    assert name(found.choice) == "linformer"
    assert [name(rival.candidate) for rival in found.alike] == ["softmax"]
    assert found.alike[0].change.value == pytest.approx(101 / 102 - 1)
    assert [(one.question, name(one.candidate)) for one in found.settling] == [("throughput", "softmax")]


def test_latencies_of_the_same_rounds_are_paired() -> None:
    """Both vary by 20 % with the round, and differ by 1 % in each of them."""
    outcomes = [outcome("softmax", seconds=0.0101, wide=0.2), outcome("linformer", seconds=0.01, wide=0.2)]
    assert recommended(outcomes, objective=LATENCY).alike == ()
    outcomes[0] = apart(outcomes[0])
    assert [name(one.candidate) for one in recommended(outcomes, objective=LATENCY).alike] == ["softmax"]


def test_throughputs_of_the_same_rounds_are_paired() -> None:
    """Both vary by 20 % with the round, and differ by 1 % in each of them."""
    outcomes = [outcome("softmax", rate=100, wide=0.2), outcome("linformer", rate=101, wide=0.2)]
    assert recommended(outcomes).alike == ()
    outcomes[0] = apart(outcomes[0])
    assert [name(one.candidate) for one in recommended(outcomes).alike] == ["softmax"]


def test_what_cannot_be_relied_on_is_not_recommended() -> None:
    shaken = replace(outcome("linformer", rate=900), status="unstable", stage="measure", reason="a neighbour")
    failed = without_evidence(outcome("performer"), "oom", "measure", "too large")
    found = recommended([outcome("softmax"), shaken, failed])
    assert name(found.choice) == "softmax"
    assert (found.considered, found.unstable, found.unmeasured) == (1, 1, 1)


def test_a_number_that_was_not_measured_keeps_no_limit() -> None:
    outcomes = [outcome("softmax"), outcome("linformer", top1=None, rate=900)]
    found = recommended(outcomes, Constraints(drop=0.5))
    assert name(found.choice) == "softmax"


def test_where_nothing_keeps_the_limits_the_nearest_is_told() -> None:
    outcomes = [outcome("softmax", seconds=0.03), outcome("linformer", seconds=0.02, memory=500)]
    found = recommended(outcomes, Constraints(latency_s=0.01, memory_bytes=200))
    assert found.choice is None
    assert name(found.nearest) == "linformer"
    assert found.nearest is not None
    assert found.nearest.excess == pytest.approx(1.5)
    assert [(one.name, one.gain) for one in found.relaxations] == [("latency_p50", None)]


def test_machines_have_a_recommendation_each() -> None:
    small = replace(ENVIRONMENT, cpu="Small CPU", cores=1)
    outcomes = [
        outcome("softmax", rate=100),
        outcome("linformer", rate=90),
        outcome("softmax", rate=10, environment=small),
        outcome("linformer", rate=20, environment=small),
    ]
    found = recommend(make_rows(outcomes), Constraints(), THROUGHPUT)
    assert {(one.machine, name(one.choice)) for one in found} == {
        ("Example CPU 9000", "softmax"), ("Small CPU", "linformer"),
    }  # fmt: skip
    assert all(one.considered == 2 for one in found)


def test_softmax_is_found_among_what_is_not_considered() -> None:
    rows = make_rows([outcome("softmax", rate=500, top1=0.9), outcome("linformer", top1=0.7)])
    (found,) = recommend(rows, Constraints(drop=0.1), THROUGHPUT, lambda row: not row.is_baseline)
    assert found.choice is None
    assert found.nearest is not None
    assert found.nearest.excess == pytest.approx(0.1)
