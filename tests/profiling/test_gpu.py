"""What a GPU did beside a round, from a driver that is made up, and what that means."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from effvit.export.base import Images, Logits
from effvit.profiling.disturbance import TOLERANCE, Conditions, Counters, disturbances
from effvit.profiling.gpu import GpuConditions, GpuMemory, GpuMeter, parent_of
from effvit.profiling.timer import time_round

NAME = "GPU-01234567"
OURS, SIBLING, STRANGER = os.getpid(), 70_001, 70_002


@dataclass
class Process:
    pid: int
    usedGpuMemory: int | None = 700  # noqa: N815  # NVIDIA's name


@dataclass
class Memory:
    used: int


@dataclass
class Sample:
    pid: int
    smUtil: int  # noqa: N815  # NVIDIA's name


@dataclass
class Violation:
    violationTime: int  # noqa: N815


class FakeNvml:
    """A GPU whose clocks are 1,500 and 2,600 MHz, at its power cap; `refused` are the questions it does not answer."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU, NVML_PERF_POLICY_THERMAL = 1, 2, 0, 1

    class NVMLError(Exception):
        pass

    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.asked: list[str] = []
        self.heat_ns = 5_000_000_000
        self.bits = 0x4
        self.pids = [OURS]
        self.samples: list[Sample] = []
        self.since_us = 0

    def _answer(self, name: str) -> None:
        self.asked.append(name)
        if name in self.refused:
            raise self.NVMLError("Not Supported")

    def nvmlInit(self) -> None:  # noqa: N802  # NVIDIA's names
        self._answer("nvmlInit")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self._answer("nvmlDeviceGetHandleByUUID")
        assert uuid == NAME
        return "handle"

    def nvmlDeviceGetClockInfo(self, handle: str, type: int) -> int:  # noqa: A002, N802
        self._answer("nvmlDeviceGetClockInfo")
        return {1: 1500, 2: 2600}[type]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:  # noqa: N802
        self._answer("nvmlDeviceGetCurrentClocksEventReasons")
        return self.bits

    def nvmlDeviceGetViolationStatus(self, device: str, perfPolicyType: int) -> Violation:  # noqa: N802, N803
        self._answer("nvmlDeviceGetViolationStatus")
        assert perfPolicyType == 1
        return Violation(self.heat_ns)

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: N802
        self._answer("nvmlDeviceGetTemperature")
        return 61

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        self._answer("nvmlDeviceGetPowerUsage")
        return 640_500

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Process]:  # noqa: N802
        self._answer("nvmlDeviceGetComputeRunningProcesses")
        return [Process(pid) for pid in self.pids]

    def nvmlDeviceGetMemoryInfo(self, handle: str, version: int | None = None) -> Memory:  # noqa: N802
        self._answer("nvmlDeviceGetMemoryInfo")
        return Memory(9_000)

    def nvmlDeviceGetProcessUtilization(self, handle: str, timeStamp: int) -> list[Sample]:  # noqa: N802, N803
        self._answer("nvmlDeviceGetProcessUtilization")
        self.since_us = timeStamp
        return self.samples


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Return a folder like /proc in which a sibling has our parent, and a stranger has not."""
    for pid, parent in ((SIBLING, os.getppid()), (STRANGER, 1)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (python) 3 (x) S {parent} 7 7 0\n")
    return tmp_path


def observed(nvml: FakeNvml, proc: Path, during: Callable[[], None] = lambda: None) -> GpuConditions:
    meter = GpuMeter(NAME, nvml, proc)
    meter.start()
    during()
    return meter.conditions()


def test_readings_are_in_si_units(proc: Path) -> None:
    assert observed(FakeNvml(), proc) == GpuConditions(
        sm_hz=1.5e9,
        memory_hz=2.6e9,
        reasons=("power cap",),
        heat_s=0.0,
        temperature_c=61.0,
        power_w=pytest.approx(640.5),
        others=0,
        others_share=0.0,
    )


def test_every_reason_for_lower_clocks_is_named(proc: Path) -> None:
    nvml = FakeNvml()
    nvml.bits = 0x8 | 0x20 | 0x40 | 0x80
    assert observed(nvml, proc).reasons == (
        "hardware slowdown", "software thermal slowdown", "hardware thermal slowdown", "hardware power brake",
    )  # fmt: skip
    nvml.bits = 0
    assert observed(nvml, proc).reasons == ()


def test_heat_is_that_since_the_start_of_the_round(proc: Path) -> None:
    nvml = FakeNvml()

    def hot() -> None:
        nvml.heat_ns += 250_000_000

    assert observed(nvml, proc, hot).heat_s == pytest.approx(0.25)


def test_workers_of_the_same_sweep_are_not_others(proc: Path) -> None:
    nvml = FakeNvml()
    nvml.pids = [OURS, SIBLING]
    nvml.samples = [Sample(OURS, 90), Sample(SIBLING, 5)]
    found = observed(nvml, proc)
    assert (found.others, found.others_share) == (0, 0.0)


def test_a_stranger_is_counted_with_the_most_that_was_seen_of_it_in_the_round(proc: Path) -> None:
    nvml = FakeNvml()
    nvml.pids = [OURS, SIBLING, STRANGER]
    nvml.samples = [Sample(STRANGER, 12), Sample(OURS, 60), Sample(STRANGER, 30)]
    found = observed(nvml, proc)
    assert (found.others, found.others_share) == (1, pytest.approx(0.30))
    assert nvml.since_us > 1.7e15  # microseconds since 1970
    nvml.samples = []
    assert observed(nvml, proc).others_share == 0.0


def test_in_a_container_that_numbers_processes_itself_nobody_can_be_told_apart(proc: Path) -> None:
    nvml = FakeNvml()
    nvml.pids = [4242, STRANGER]
    found = observed(nvml, proc)
    assert (found.others, found.others_share) == (None, None)
    assert "does not name ours" in found.note


@pytest.mark.parametrize(
    ("question", "fields", "word"),
    [
        ("nvmlDeviceGetClockInfo", ("sm_hz", "memory_hz"), "SM clock: Not Supported"),
        ("nvmlDeviceGetCurrentClocksEventReasons", ("reasons",), "slowdowns: Not Supported"),
        ("nvmlDeviceGetViolationStatus", ("heat_s",), "heat: Not Supported"),
        ("nvmlDeviceGetTemperature", ("temperature_c",), "temperature: Not Supported"),
        ("nvmlDeviceGetPowerUsage", ("power_w",), "power: Not Supported"),
        ("nvmlDeviceGetComputeRunningProcesses", ("others", "others_share"), "processes: Not Supported"),
    ],
)
def test_what_the_driver_does_not_answer_is_none_with_a_note(
    proc: Path, question: str, fields: tuple[str, ...], word: str
) -> None:
    whole, found = observed(FakeNvml(), proc), observed(FakeNvml(question), proc)
    assert word in found.note
    assert replace(found, note="", **{name: getattr(whole, name) for name in fields}) == whole
    assert all(getattr(found, name) is None for name in fields)


def test_shares_that_cannot_be_told_leave_the_count(proc: Path) -> None:
    nvml = FakeNvml("nvmlDeviceGetProcessUtilization")
    nvml.pids = [OURS, STRANGER]
    found = observed(nvml, proc)
    assert (found.others, found.others_share, found.note) == (1, None, "shares: Not Supported")


@pytest.mark.parametrize(
    ("question", "note"),
    [
        ("nvmlInit", "NVML cannot be read: Not Supported"),
        ("nvmlDeviceGetHandleByUUID", f"{NAME}: Not Supported"),
    ],
)
def test_without_a_driver_that_knows_the_gpu_nothing_is_read(proc: Path, question: str, note: str) -> None:
    found = observed(FakeNvml(question), proc)
    assert found == GpuConditions(None, None, None, None, None, None, None, None, note)


def test_the_made_up_driver_has_the_names_and_arguments_of_the_real_one() -> None:
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    for name, ours in inspect.getmembers(FakeNvml, inspect.isfunction):
        if name.startswith("nvml"):
            theirs = inspect.signature(getattr(pynvml, name)).parameters
            assert list(inspect.signature(ours).parameters)[1:] == list(theirs)
    for name in ("NVML_CLOCK_SM", "NVML_CLOCK_MEM", "NVML_TEMPERATURE_GPU", "NVML_PERF_POLICY_THERMAL"):
        assert getattr(FakeNvml, name) == getattr(pynvml, name)
    assert "violationTime" in dict(pynvml.c_nvmlViolationTime_t._fields_)
    assert {"pid", "smUtil"} <= set(dict(pynvml.c_nvmlProcessUtilizationSample_t._fields_))


def test_the_parent_of_a_process_is_told_whatever_the_process_calls_itself(proc: Path) -> None:
    assert parent_of(SIBLING, proc) == os.getppid()
    assert parent_of(STRANGER, proc) == 1
    assert parent_of(99, proc) is None


class Logging:
    """A session, and the GPU that it computes on; both write down what is asked of them."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def bind(self, images: Images) -> None: ...

    def launch(self) -> None:
        self.log.append("launch")

    def synchronize(self) -> None: ...

    def logits(self) -> Logits:
        raise AssertionError("a round reads no logits")

    def start(self) -> None:
        self.log.append("start")

    def conditions(self) -> GpuConditions:
        self.log.append("conditions")
        return GpuConditions(1e9, None, None, None, None, None, None, None)


def test_the_gpu_is_read_before_the_warm_up_and_after_the_clock_of_the_round_has_stopped() -> None:
    session = Logging()

    def counters() -> Counters:
        session.log.append("counters")
        return Counters(float(len(session.log)), 0.0, 0, (0,), None, None, None)

    measured = time_round(session, samples=2, least_s=0, most_s=1, warmup_s=0, counters=counters, gpu=session)
    timed = ["launch"] * (2 + 2)
    assert session.log == ["start", "launch", "launch", "counters", *timed, "counters", "conditions"]
    assert measured.conditions.gpu is not None
    assert measured.conditions.gpu.sm_hz == 1e9


def test_a_round_without_a_gpu_says_nothing_of_one() -> None:
    assert time_round(Logging(), samples=1, least_s=0, most_s=1, warmup_s=0).conditions.gpu is None


STEADY = GpuConditions(1.5e9, 2.6e9, ("power cap",), 0.0, 61.0, 640.5, 0, 0.0)
ROUND = Conditions(1.0, 0.2, 2, 0.0, 0.0, 0, None, None, gpu=STEADY)


# Of a round of 1 s: 2 % are 0.02 s of heat; 5 % may be others'; nine tenths of 1.5 GHz are 1.35 GHz.
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"reasons": ()}, ""),
        ({"reasons": ("idle",)}, ""),
        ({"reasons": ("power cap", "hardware thermal slowdown")}, "heat slowed the GPU down"),
        ({"reasons": ("software thermal slowdown",)}, "heat slowed the GPU down"),
        ({"reasons": ("hardware slowdown", "hardware power brake")}, "the power supply slowed the GPU down"),
        ({"reasons": ("hardware slowdown",)}, "the GPU slowed itself down"),
        ({"heat_s": 0.019}, ""),
        ({"heat_s": 0.021}, "heat slowed the GPU down"),
        ({"others": 1}, ""),
        ({"others": 1, "others_share": 0.05}, ""),
        ({"others": 1, "others_share": 0.30}, "other processes had 30 % of the GPU's time"),
        ({"others": 2, "others_share": None}, "other processes, 2 of them, compute on the GPU"),
        ({"sm_hz": 1.35e9}, ""),
        ({"sm_hz": 0.75e9}, "the GPU ran at 50 % of its usual clock"),
        ({"temperature_c": 95.0, "power_w": 1.0, "memory_hz": 1.0}, ""),
        (dict.fromkeys(("sm_hz", "reasons", "heat_s", "others", "others_share")), ""),
    ],
)
def test_a_round_is_disturbed_by_what_the_gpu_suffers(changes: dict[str, object], reason: str) -> None:
    changed = replace(ROUND, gpu=replace(STEADY, **changes))  # type: ignore[arg-type]
    assert disturbances([ROUND, changed, ROUND], TOLERANCE) == ["", reason, ""]


def test_what_others_do_on_the_processor_counts_beside_a_gpu_too() -> None:
    (found,) = disturbances([replace(ROUND, others_s=1.0)], TOLERANCE)
    assert found == "other processes had 50 % of the cores"


def test_the_memory_of_the_process_is_told_from_that_of_all() -> None:
    nvml = FakeNvml()
    nvml.pids = [STRANGER, OURS]
    assert GpuMeter(NAME, nvml).memory() == GpuMemory(700, 9_000)


def test_memory_that_the_driver_does_not_tell_is_absent_with_the_reason() -> None:
    nvml = FakeNvml("nvmlDeviceGetMemoryInfo")
    nvml.pids = [STRANGER]
    memory = GpuMeter(NAME, nvml).memory()
    assert (memory.process_bytes, memory.device_bytes) == (None, None)
    assert "memory of the process: the driver does not tell it" in memory.note
    assert "memory: Not Supported" in memory.note
