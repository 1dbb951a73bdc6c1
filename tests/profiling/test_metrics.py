from dataclasses import replace

import pytest
from outcomes import CALIBRATION, make_accuracy, make_cell, make_evidence, make_samples

from effvit.profiling.gpu import GpuMemory
from effvit.profiling.metrics.base import Metric, Reading
from effvit.profiling.records import Accuracy, Calibration, CallWork, Evidence, HostMemory, Throughput
from effvit.registry import discover

METRICS = discover("effvit.profiling.metrics", "METRIC", Metric)
EVIDENCE = make_evidence(make_cell())
BARE = replace(
    EVIDENCE,
    samples=make_samples((1.0,)),
    throughput=Throughput(()),
    memory=HostMemory(None, None, "", "no /proc on this system"),
    parity=None,
    accuracy=None,
    work=None,
    calibration=None,
)


def _reading(name: str, evidence: Evidence) -> Reading:
    (reading,) = (one for metric in METRICS.values() for one in metric.measure(evidence) if one.name == name)
    return reading


@pytest.mark.parametrize("name", METRICS)
def test_names_start_with_the_family_and_do_not_depend_on_the_evidence(name: str) -> None:
    full, bare = METRICS[name].measure(EVIDENCE), METRICS[name].measure(BARE)
    assert [reading.name for reading in full] == [reading.name for reading in bare]
    assert all(reading.name.startswith(f"{name}.") for reading in full)


@pytest.mark.parametrize("name", METRICS)
def test_a_gap_is_none_with_a_note(name: str) -> None:
    for reading in METRICS[name].measure(BARE):
        assert reading.value is not None or reading.note


def test_percentiles_without_enough_samples_say_how_many_are_needed() -> None:
    assert _reading("latency_s.p90", BARE) == Reading("latency_s.p90", None, note="1 of 29 samples needed")
    assert _reading("latency_s.p95", EVIDENCE).note == "36 of 59 samples needed"
    assert _reading("latency_s.p99", EVIDENCE).note == "36 of 299 samples needed"
    assert _reading("latency_s.p99.9", EVIDENCE).note == "36 of 2995 samples needed"


def test_tails_are_shown_as_they_are() -> None:
    # 2,994 launches of 1 s and six of 50 s: at most 2.99 may lie above p99.9, so it is one of the slow ones.
    evidence = replace(EVIDENCE, samples=make_samples((1.0,) * 2994 + (50.0,) * 6))
    names = ("latency_s.p50", "latency_s.p90", "latency_s.p95", "latency_s.p99", "latency_s.p99.9")
    assert [_reading(name, evidence).value for name in names] == [1.0, 1.0, 1.0, 1.0, 50.0]


def test_launches_of_rounds_left_out_do_not_support_a_percentile() -> None:
    samples = replace(make_samples((1.0,) * 20, (2.0,) * 20), left_out=(1,))
    assert _reading("latency_s.p90", replace(EVIDENCE, samples=samples)).note == "20 of 29 samples needed"


def test_memory_of_the_model_is_what_the_peak_adds() -> None:
    evidence = replace(EVIDENCE, memory=HostMemory(100, 350, "VmHWM"))
    assert _reading("memory.host_peak_bytes", evidence).value == 350
    assert _reading("memory.host_model_bytes", evidence).value == 250


def test_the_lines_of_the_ledger_and_the_residual_add_up_to_the_peak() -> None:
    memory = HostMemory(
        before_bytes=100,
        peak_bytes=350,
        source="VmHWM",
        start_bytes=30,
        loaded_bytes=220,
        bound_bytes=240,
        images_bytes=16,
        launch_peak_bytes=330,
        virtual_peak_bytes=900,
    )
    evidence = replace(EVIDENCE, memory=memory, artifact=replace(EVIDENCE.artifact, size_bytes=80))
    lines = {"python": 30, "runtime": 70, "weights": 80, "images": 16, "activations": 90, "residual": 64}
    found = {name: _reading(f"memory.{name}_bytes", evidence).value for name in lines}
    assert found == lines
    assert sum(lines.values()) == 350
    assert _reading("memory.virtual_peak_bytes", evidence).value == 900


def test_without_the_peak_of_the_launches_neither_activations_nor_residual_are_known() -> None:
    memory = HostMemory(100, 350, "VmHWM", "the peaks cannot be told apart", 30, 220, 240, 16, None)
    evidence = replace(EVIDENCE, memory=memory)
    for name in ("memory.activations_bytes", "memory.residual_bytes"):
        assert _reading(name, evidence) == Reading(name, None, note="not available: the peaks cannot be told apart")
    assert _reading("memory.host_peak_bytes", evidence).value == 350


def test_balanced_accuracy_weighs_classes_equally_and_leaves_out_unseen_ones() -> None:
    accuracy = Accuracy(110, 110, 95, None, (100, 10, 0), (90, 5, 0))
    evidence = replace(EVIDENCE, accuracy=accuracy)
    assert _reading("accuracy.balanced_top1", evidence).value == pytest.approx(0.7)
    assert _reading("accuracy.top1", evidence).value == pytest.approx(95 / 110)
    assert _reading("accuracy.top5", evidence) == Reading(
        "accuracy.top5", None, note="says nothing for fewer than 6 classes"
    )


def test_accuracy_from_a_part_of_the_images_says_so() -> None:
    evidence = replace(EVIDENCE, accuracy=replace(make_accuracy(), of_images=9000))
    assert _reading("accuracy.top1", evidence).note == "from 2000 of 9000 images"


def test_accuracy_over_no_images_is_absent() -> None:
    evidence = replace(EVIDENCE, accuracy=Accuracy(0, 50, 0, 0, (0,) * 10, (0,) * 10))
    assert _reading("accuracy.top1", evidence).value is None


def _calls(macs: int, least_bytes: int | None, calibration: Calibration = CALIBRATION) -> Evidence:
    """Return one call of 4 images in half a second, on a machine of 1000 MAC/s and 100 bytes/s."""
    return replace(
        EVIDENCE,
        throughput=Throughput(((4, 0.5),)),
        cost=replace(EVIDENCE.cost, macs=macs),
        work=CallWork(4, least_bytes),
        calibration=replace(calibration, macs_per_s=1000.0, bytes_per_s=100.0),
    )


def test_macs_a_second_are_those_of_the_images_that_passed() -> None:
    assert _reading("rate.macs_per_s", _calls(macs=50, least_bytes=10)).value == 400  # 8 images/s


def test_shares_are_the_least_time_of_a_call_over_the_time_it_took() -> None:
    evidence = _calls(macs=50, least_bytes=10)  # 0.2 s of products, 0.1 s of bytes
    assert _reading("efficiency.gemm_share", evidence).value == pytest.approx(0.4)
    assert _reading("efficiency.bandwidth_share", evidence).value == pytest.approx(0.2)
    assert _reading("efficiency.roofline_share", evidence).value == pytest.approx(0.4)
    assert _reading("efficiency.compute_to_memory", evidence).value == pytest.approx(2.0)


def test_the_roofline_of_a_model_with_more_bytes_than_products_is_the_bandwidth() -> None:
    evidence = _calls(macs=5, least_bytes=40)  # 0.02 s and 0.4 s
    assert _reading("efficiency.roofline_share", evidence).value == pytest.approx(0.8)
    assert _reading("efficiency.compute_to_memory", evidence).value == pytest.approx(0.05)


def test_the_share_of_the_gemm_rate_needs_no_bytes() -> None:
    evidence = _calls(macs=50, least_bytes=None)
    assert _reading("efficiency.gemm_share", evidence).value == pytest.approx(0.4)
    assert _reading("efficiency.roofline_share", evidence).value is None
    assert "were not counted" in _reading("efficiency.roofline_share", evidence).note


def test_a_disturbed_calibration_is_told_with_its_shares() -> None:
    assert "other processes" not in _reading("efficiency.gemm_share", _calls(50, 10)).note
    busy = _calls(50, 10, replace(CALIBRATION, core_share=0.6))
    assert "other processes" in _reading("efficiency.gemm_share", busy).note


def test_a_gpus_memory_is_read_where_one_computed_and_a_gap_elsewhere() -> None:
    gpu = replace(EVIDENCE, memory=replace(EVIDENCE.memory, gpu=GpuMemory(700, None, "memory: Not Supported")))
    assert _reading("gpu_memory.process_bytes", gpu).value == 700
    missing = _reading("gpu_memory.device_bytes", gpu)
    assert (missing.value, missing.note) == (None, "not available: memory: Not Supported")
    assert _reading("gpu_memory.process_bytes", EVIDENCE).value is None
