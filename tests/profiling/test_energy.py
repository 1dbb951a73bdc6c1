"""Energy counters: a folder that looks like the kernel's, and a module that looks like NVIDIA's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from outcomes import make_cell, make_evidence
from trees import JETSON_ORIN_NANO, chip, draw

from effvit.counters import Instruments, instruments
from effvit.profiling.energy import RailCounter, all_instruments, measure_energy
from effvit.profiling.hwmon import chips
from effvit.profiling.metrics.energy import measure
from effvit.profiling.rails import rails
from effvit.profiling.records import Energy, EnergyWindow

RANGE_UJ = 262_143_328_850


class NoNvml:
    """A driver that does not answer."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None:  # noqa: N802  # NVIDIA's name
        raise self.NVMLError("Driver Not Loaded")


class FakeNvml(NoNvml):
    """Two GPUs; the first has taken `first_mj` so far, the second five times as much."""

    first_mj = 1_000

    def nvmlInit(self) -> None:  # noqa: N802
        return

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        return self.first_mj * (5 if handle else 1)


class OldGpu(FakeNvml):
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        raise self.NVMLError("Not Supported")


def zone(folder: Path, number: str, name: str, energy_uj: int) -> Path:
    path = folder / f"intel-rapl:{number}"
    path.mkdir(parents=True)
    for file, text in (("name", name), ("energy_uj", energy_uj), ("max_energy_range_uj", RANGE_UJ)):
        (path / file).write_text(f"{text}\n")
    return path / "energy_uj"


class Clock:
    """Time that passes only where it is told to."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def metered(here: Instruments, idle: Callable[[], None], busy: Callable[[], None]) -> Energy:
    """Return the energy of 40 images in 4 s after 1 s of nothing, during which these happen."""
    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        idle()

    def run() -> int:
        clock.sleep(4.0)
        busy()
        return 40

    return measure_energy(here, run, idle_s=1.0, sleep=sleep, clock=clock)


def readings(energy: Energy | None) -> dict[str, float | None]:
    evidence = replace(make_evidence(make_cell()), energy=energy)
    return {reading.name.removeprefix("energy."): reading.value for reading in measure(evidence)}


def test_joules_an_image_are_told_with_and_without_what_the_idle_machine_takes(tmp_path: Path) -> None:
    energy_uj = zone(tmp_path, "0", "package-0", 5_000_000)
    energy = metered(
        instruments(tmp_path, NoNvml()),
        idle=lambda: energy_uj.write_text("15000000"),  # 10 J in 1 s
        busy=lambda: energy_uj.write_text("135000000"),  # 120 J in 4 s
    )
    assert energy.windows == (EnergyWindow("cpu", "RAPL package-0", 120.0, 4.0, 10.0, 1.0),)
    found = readings(energy)
    assert found["cpu_gross_j"] == pytest.approx(120 / 40)
    assert found["cpu_net_j"] == pytest.approx((120 - 4 * 10) / 40)
    assert (found["gpu_gross_j"], found["gpu_net_j"]) == (None, None)


def test_a_counter_that_wraps_round_goes_on(tmp_path: Path) -> None:
    energy_uj = zone(tmp_path, "0", "package-0", RANGE_UJ - 1_000_000)
    energy = metered(
        instruments(tmp_path, NoNvml()),
        idle=lambda: energy_uj.write_text(str(RANGE_UJ - 500_000)),
        busy=lambda: energy_uj.write_text("2500000"),
    )
    (window,) = energy.windows
    assert (window.idle_joules, window.joules) == (pytest.approx(0.5), pytest.approx(3.0))


def test_packages_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    for number, name in (("0", "package-0"), ("0:0", "core"), ("0:1", "dram"), ("1", "package-1"), ("2", "psys")):
        zone(tmp_path, number, name, 0)
    files = {path.parent.name: path for path in tmp_path.glob("*/energy_uj")}

    def busy() -> None:
        for number, file in files.items():
            file.write_text({"intel-rapl:0": "20000000", "intel-rapl:1": "60000000"}.get(number, "999000000"))

    energy = metered(instruments(tmp_path, NoNvml()), idle=lambda: None, busy=busy)
    assert [window.source for window in energy.windows] == ["RAPL package-0", "RAPL package-1"]
    assert readings(energy)["cpu_gross_j"] == pytest.approx(80 / 40)


def test_gpus_tell_millijoules_since_their_driver_was_loaded(tmp_path: Path) -> None:
    nvml = FakeNvml()

    def taken(millijoules: int) -> Callable[[], None]:
        return lambda: setattr(nvml, "first_mj", nvml.first_mj + millijoules)

    energy = metered(instruments(tmp_path, nvml), idle=taken(1_000), busy=taken(8_000))
    assert [window.source for window in energy.windows] == ["NVML GPU 0", "NVML GPU 1"]
    found = readings(energy)
    assert found["gpu_gross_j"] == pytest.approx((8 + 40) / 40)
    assert found["gpu_net_j"] == pytest.approx((8 + 40 - 4 * (1 + 5)) / 40)
    assert found["cpu_gross_j"] is None


def test_without_a_counter_nothing_is_run_and_the_reason_is_told(tmp_path: Path) -> None:
    def run() -> int:
        raise AssertionError("a pass that tells nothing takes time")

    energy = measure_energy(all_instruments(tmp_path, NoNvml(), tmp_path), run)
    reasons = f"no RAPL counter in {tmp_path}; NVML cannot be read: Driver Not Loaded"
    assert energy == Energy((), 0, f"{reasons}; no labelled supply of a board in /sys")
    evidence = replace(make_evidence(make_cell()), energy=energy)
    assert {reading.value for reading in measure(evidence)} == {None}
    assert all("NVML cannot be read" in reading.note for reading in measure(evidence))


def test_a_counter_that_only_root_reads_is_no_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path, "0", "package-0", 0)
    read = Path.read_text

    def refuse(path: Path, *arguments: str) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path, *arguments)

    monkeypatch.setattr(Path, "read_text", refuse)  # for root, who runs tests in containers, no file is closed
    here = all_instruments(tmp_path, NoNvml(), tmp_path)
    assert here.counters == ()
    assert here.reasons[0] == "RAPL cannot be read: permission denied"


def test_a_gpu_without_a_counter_leaves_those_of_the_processor(tmp_path: Path) -> None:
    zone(tmp_path, "0", "package-0", 0)
    here = instruments(tmp_path, OldGpu())
    assert [counter.source for counter in here.counters] == ["RAPL package-0"]
    assert here.reasons == ("NVML cannot be read: Not Supported",)


def test_energy_that_took_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="energy takes time"):
        EnergyWindow("cpu", "RAPL", 1.0, 0.0, 1.0, 1.0)


def supply(root: Path, milliamperes: int) -> Path:
    """Return a board whose supply of 5 V gives so much now."""
    readings = {"in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": str(milliamperes)}
    return draw(root, chip(1, "ina3221", **readings))


def test_a_supply_is_summed_up_from_one_moment_to_the_next(tmp_path: Path) -> None:
    clock = Clock()
    (rail,) = rails(chips(supply(tmp_path, 1000)))
    counter = RailCounter(rail, clock)
    counter.joules()
    clock.sleep(2.0)
    assert counter.joules() == pytest.approx(10.0)  # 5 W for 2 s
    supply(tmp_path, 3000)
    clock.sleep(1.0)
    assert counter.joules() == pytest.approx(20.0)  # from 5 W to 15 W in 1 s
    (tmp_path / "sys/class/hwmon/hwmon1/curr1_input").write_text("torn")
    clock.sleep(1.0)
    assert counter.joules() == pytest.approx(20.0)
    supply(tmp_path, 3000)
    clock.sleep(1.0)
    assert counter.joules() == pytest.approx(50.0)  # 15 W over both seconds


def test_a_board_is_metered_as_a_whole_where_nothing_else_counts(tmp_path: Path) -> None:
    root = draw(tmp_path / "root", JETSON_ORIN_NANO)
    here = all_instruments(tmp_path, NoNvml(), root)
    assert [(one.device, one.source) for one in here.counters] == [("board", "ina3221 VDD_IN")]
    assert here.polled
    zone(tmp_path, "0", "package-0", 0)
    counted = all_instruments(tmp_path, NoNvml(), root)
    assert [one.source for one in counted.counters] == ["RAPL package-0"]
    assert not counted.polled


def test_a_supply_is_read_all_the_time_while_calls_run(tmp_path: Path) -> None:
    root = supply(tmp_path, 1000)

    def run() -> int:
        # 5 W while idle; 25 W in the middle of the calls, which readings before and after them do not show.
        supply(root, 5000)
        time.sleep(0.4)
        supply(root, 1000)
        return 10

    energy = measure_energy(all_instruments(tmp_path / "none", NoNvml(), root), run, idle_s=0.1)
    (window,) = energy.windows
    assert window.device == "board"
    assert 4.0 < window.joules / window.seconds <= 25.0
    # 0.4 s at 25 W are 10 J; two readings alone would make 2 J of them.
    assert window.joules > 4.0
    found = readings(energy)
    assert found["board_gross_j"] == pytest.approx(window.joules / 10)
    assert (found["cpu_gross_j"], found["gpu_gross_j"]) == (None, None)


def test_a_supply_that_does_not_answer_took_nothing_that_is_known(tmp_path: Path) -> None:
    root = supply(tmp_path, 1000)
    here = all_instruments(tmp_path / "none", NoNvml(), root)
    (root / "sys/class/hwmon/hwmon1/curr1_input").unlink()
    energy = measure_energy(here, lambda: 10, idle_s=0.0)
    assert energy.windows == ()
    assert energy.note.endswith("ina3221 VDD_IN did not answer")
    assert set(readings(energy).values()) == {None}
