"""What is said to fit a device, from numbers that are made up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from outcomes import CALIBRATION, ENVIRONMENT, make_cell, make_cost, make_outcome, without_evidence

from effvit.demand import Demand
from effvit.errors import UnknownNameError, UnsupportedError
from effvit.profiling import prediction
from effvit.profiling.candidates import Check
from effvit.profiling.devices import Device
from effvit.profiling.fit import NOTHING, Axes, FitCell, History, Place, Quantity, errors_of, fit, fit_place, history_of
from effvit.profiling.prediction import check_predictable, expected_latency_s, expected_model_bytes
from effvit.profiling.recommend import LATENCY, MEMORY, Constraints
from effvit.profiling.records import Outcome
from effvit.profiling.stats import Estimate
from effvit.profiling.survey import BareRuntime, Survey
from effvit.spec import ModelSpec, Precision

BARE = 60 * 2**20
SURVEY = Survey(ENVIRONMENT, CALIBRATION, (BareRuntime("ort-cpu", BARE), BareRuntime("openvino", None)))
HERE = Place("cpu", Device(), SURVEY)


def demand(attention: str = "softmax", px: int = 224) -> Demand:
    """Return what a model demands that has as many MACs as that of `make_outcome`."""
    spec = replace(make_cell(attention, px).model, patch=16)
    return Demand(spec, px, px, make_cost(attention, px), 10, 400, 100_000_000, 22_800_000, 2_000_000)


def demand_of(spec: ModelSpec, height: int, width: int) -> Demand:
    return demand(spec.attention, height)


def seen(*outcomes: Outcome) -> History:
    return history_of(outcomes, demand_of)


def asked(
    attentions: Sequence[str] = ("softmax",),
    limits: Constraints = Constraints(1.0),  # noqa: B008  # a frozen value
    known: History = NOTHING,
    place: Place = HERE,
    backend: str = "ort-cpu",
) -> list[FitCell]:
    axes = Axes(tuple(map(demand, attentions)), (1,), (Precision.FP32,), (backend,))
    return fit(axes, place, limits, known)


def cell_with(latency: tuple[float, float, float], most: float) -> FitCell:
    quantity = Quantity(Estimate(*latency))
    checks = (Check(LATENCY, most, quantity.best),)
    return FitCell("cpu", make_cell(), quantity, None, checks)


def test_a_call_takes_its_products_its_bytes_and_its_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "_OPERATOR_S", 1e-6)
    one = replace(demand(), cost=replace(make_cost(), macs=1_000_000_000))
    # 4 images: 4e9 MACs at 2e11 a second; 4 * 1e8 bytes and the weights once, at 2e10 a second; 400 operators
    exact = 0.02 + (4e8 + 22_800_000) / 2e10 + 400e-6
    assert expected_latency_s(one, 4, Precision.FP32, CALIBRATION) == pytest.approx(exact)
    small = exact - 0.75 * 22_800_000 / 2e10  # weights of a byte
    assert expected_latency_s(one, 4, Precision.INT8, CALIBRATION) == pytest.approx(small)


def test_a_model_takes_its_weights_its_images_and_what_it_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_GRAPH_BYTES", {"ort-cpu": 1000}), ("_WEIGHTS", 2.0), ("_PEAK", 3.0), ("_OF_A_BLOCK", 0.5)):
        monkeypatch.setattr(prediction, name, value)
    # 8 images: thrice 2 MB at once, and half of what one of 10 blocks moves, 10 MB, for each of them
    rest = 1000 + 8 * (6_000_000 + 5_000_000) + 4 * 3 * 8 * 224 * 224
    assert expected_model_bytes(demand(), 8, Precision.FP32, "ort-cpu") == 2 * 22_800_000 + rest
    assert expected_model_bytes(demand(), 8, Precision.INT8, "ort-cpu") == 2 * 5_700_000 + rest


@pytest.mark.parametrize(
    ("latency", "fits", "met"),
    [
        ((0.010, 0.005, 0.019), "yes", True),
        ((0.010, 0.005, 0.021), "uncertain", True),
        ((0.030, 0.015, 0.060), "uncertain", False),
        ((0.030, 0.021, 0.040), "no", False),
    ],
)
def test_a_cell_fits_where_its_interval_does(latency: tuple[float, float, float], fits: str, met: bool) -> None:
    cell = cell_with(latency, most=0.020)
    assert (cell.fits, cell.met, cell.measured) == (fits, met, False)


def test_one_limit_that_is_broken_is_enough() -> None:
    quantity = Quantity(Estimate(0.01, 0.005, 0.02))
    checks = (Check(LATENCY, 0.015, quantity.best), Check(MEMORY, 1e6, Estimate(2e6, 1.5e6, 3e6)))
    assert FitCell("cpu", make_cell(), quantity, None, checks).fits == "no"


def test_memory_is_that_of_the_runtime_and_of_the_model() -> None:
    (cell,) = asked()
    assert cell.memory_bytes is not None
    found, expected = cell.memory_bytes.predicted, expected_model_bytes(demand(), 1, Precision.FP32, "ort-cpu")
    mean = prediction.MEMORY_PRIORS["ort-cpu"].means[Precision.FP32]
    assert found.value == pytest.approx(BARE + expected * math.exp(mean))
    assert found.low is not None
    assert BARE < found.low < found.value


def test_where_a_runtime_is_not_known_its_memory_is_uncertain() -> None:
    (cell,) = asked(limits=Constraints(memory_bytes=2**40), backend="openvino")
    assert cell.memory_bytes is None
    assert cell.fits == "uncertain"
    assert not cell.met


def test_the_memory_of_a_device_is_a_limit() -> None:
    device = Device(memory_bytes=2**20)
    (cell,) = asked(limits=Constraints(), place=replace(HERE, device=device))
    assert [(check.name, check.most) for check in cell.checks] == [(MEMORY, 2**20)]
    assert cell.fits == "no"
    (cell,) = asked(limits=Constraints(memory_bytes=2**19), place=replace(HERE, device=device))
    assert cell.checks[0].most == 2**19


def test_what_was_measured_decides_and_its_prediction_rests_on_the_others() -> None:
    measured = make_outcome("softmax", backend="ort-cpu")
    assert measured.evidence is not None
    others = make_outcome("linformer", backend="ort-cpu"), make_outcome("softmax", 384, backend="ort-cpu")
    (without,) = asked(known=seen(*others))
    (cell,) = asked(known=seen(*others, measured))
    assert cell.latency_s.predicted == without.latency_s.predicted
    middle = sorted(measured.evidence.samples.seconds)[17:19]
    assert cell.latency_s.measured is not None
    assert cell.latency_s.measured.value == pytest.approx(sum(middle) / 2)
    assert cell.measured
    assert cell.latency_s.error == pytest.approx(cell.latency_s.predicted.value / cell.latency_s.measured.value - 1)
    assert cell.checks[0].value == cell.latency_s.measured
    assert cell.memory_bytes is not None
    assert cell.memory_bytes.measured == Estimate(measured.evidence.memory.peak_bytes or 0)


def test_an_emulator_tells_nothing() -> None:
    measured = make_outcome("softmax", backend="ort-cpu")
    emulated = replace(measured, environment=replace(measured.environment, emulated=True))
    (without,), (cell,) = asked(), asked(known=seen(emulated))
    assert not cell.measured
    assert cell == without


def test_measured_kin_make_a_prediction_narrower_and_better() -> None:
    (alone,) = asked()
    known = seen(*(make_outcome(name, px, backend="ort-cpu") for name in ("linformer", "atrous") for px in (224, 384)))
    (informed,) = asked(known=known)
    truth = make_outcome("softmax", backend="ort-cpu").evidence
    assert truth is not None
    value = sorted(truth.samples.seconds)[18]
    narrow, wide = (_width(one) for one in (informed, alone))
    assert narrow < wide / 2
    assert abs(informed.latency_s.predicted.value / value - 1) < abs(alone.latency_s.predicted.value / value - 1)


def _width(cell: FitCell) -> float:
    found = cell.latency_s.predicted
    assert found.low is not None
    assert found.high is not None
    return math.log(found.high / found.low)


@pytest.mark.parametrize(
    "change",
    [
        lambda one: without_evidence(one, "timeout", "measure", "too long"),
        lambda one: replace(one, status="unstable"),
        lambda one: replace(one, evidence=replace(one.evidence, calibration=None)),
        lambda one: replace(one, cell=replace(one.cell, backend="torch")),
        lambda one: replace(one, cell=replace(one.cell, precision=Precision.BF16)),
    ],
    ids=["not measured", "unstable", "without rates", "another runtime", "another type"],
)
def test_what_says_nothing_reliable_is_left_out(change: object) -> None:
    assert callable(change)
    outcome = make_outcome(backend="ort-cpu")
    assert seen(outcome) != NOTHING
    assert seen(change(outcome)) == NOTHING


@pytest.mark.parametrize(
    ("had", "limits", "place", "fits"),
    [
        (None, Constraints(latency_s=1.0), HERE, "no"),  # not even all memory was enough
        (2**30, Constraints(memory_bytes=2**30), HERE, "no"),
        (2**29, Constraints(memory_bytes=2**30), HERE, "yes"),  # now there is more
        (2**29, Constraints(latency_s=10.0), HERE, "yes"),
        (2**30, Constraints(), replace(HERE, device=Device(memory_bytes=2**30)), "no"),
    ],
)
def test_what_ran_out_of_memory_does_not_fit_into_as_much(
    had: int | None, limits: Constraints, place: Place, fits: str
) -> None:
    outcome = without_evidence(make_outcome("softmax", backend="ort-cpu"), "oom", "measure", "memory")
    model = replace(outcome.cell.model, patch=16)
    outcome = replace(outcome, cell=replace(outcome.cell, model=model, device=Device(memory_bytes=had)))
    (cell,) = asked(limits=limits, known=seen(outcome), place=place)
    assert (cell.fits, cell.measured) == (fits, fits == "no")


def test_the_same_cell_elsewhere_is_another() -> None:
    other = replace(make_outcome("softmax", backend="ort-cpu"), environment=replace(ENVIRONMENT, cpu="a small one"))
    (cell,) = asked(known=seen(other))
    assert not cell.measured


def test_errors_are_counted_over_measured_cells() -> None:
    cells = [
        FitCell("cpu", make_cell(), Quantity(Estimate(value, low, high), measured), None, ())
        for value, low, high, measured in (
            (0.010, 0.008, 0.012, Estimate(0.008)),  # 25 % too high, and just within
            (0.010, 0.008, 0.012, Estimate(0.020)),  # half of it, and off the interval
            (0.010, 0.008, 0.012, Estimate(0.010)),
            (0.010, 0.008, 0.012, None),
        )
    ]
    (found,) = errors_of(cells)
    assert (found.quantity, found.cells, found.within) == (LATENCY, 3, 2)
    assert (found.median, found.largest) == (pytest.approx(0.25), pytest.approx(0.5))


def test_the_nearest_is_what_exceeds_its_limits_least() -> None:
    axes = Axes((demand("softmax", 512), demand("linformer")), (1,), (Precision.FP32,), ("ort-cpu",))
    found = fit_place(axes, HERE, Constraints(latency_s=1e-6))
    assert [(one.cell.model.attention, one.cell.workload.height) for one in found.cells] == [
        ("linformer", 224),
        ("softmax", 512),
    ]
    assert {one.fits for one in found.cells} == {"no"}
    assert found.nearest is not None
    assert found.nearest.label == "linformer"
    assert found.errors == ()


def test_nothing_is_predicted_of_what_was_never_looked_at() -> None:
    check_predictable(["ort-cpu", "openvino"], [Precision.FP32, Precision.INT8], [Device(threads=1)])
    with pytest.raises(UnsupportedError, match="nothing is predicted of torch-compile"):
        check_predictable(["torch-compile"], [Precision.FP32], [Device()])
    with pytest.raises(UnsupportedError, match="nothing is predicted of fp8 in ort-cpu"):
        check_predictable(["ort-cpu"], [Precision.FP8], [Device()])
    with pytest.raises(UnsupportedError, match="nothing is predicted of cuda:0"):
        check_predictable(["ort-cpu"], [Precision.FP32], [Device("cuda", index=0)])
    with pytest.raises(UnknownNameError):
        check_predictable(["ort-cpo"], [Precision.FP32], [Device()])
