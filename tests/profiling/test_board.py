"""What a board's sensors tell of a round, on drawn trees of real boards."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import (
    CONTAINER,
    FIRMWARE,
    INTEL_LAPTOP,
    JETSON_ORIN_NANO,
    RASPBERRY_PI_5,
    chip,
    cooling,
    draw,
    zone,
)

from effvit.profiling.board import BoardConditions, BoardMeter
from effvit.profiling.hwmon import chips
from effvit.profiling.rails import rails
from effvit.profiling.throttling import Brakes, held_back

NO_TOOL = "/nowhere/vcgencmd"


def tool(folder: Path, answer: str, code: int = 0) -> str:
    """Return a program that answers like `vcgencmd`, whatever it is asked."""
    path = folder / "vcgencmd"
    path.write_text(f'#!/bin/sh\n[ "$1" = get_throttled ] || exit 1\necho {answer!r}\nexit {code}\n')
    path.chmod(0o755)
    return str(path)


def round_between(root: Path, changes: dict[str, str], tool: str = NO_TOOL) -> BoardConditions:
    """Return what is told of a round in which these files change."""
    meter = BoardMeter(root, tool)
    meter.start()
    draw(root, changes)
    return meter.conditions()


def test_a_raspberry_pi_tells_temperatures_and_that_nothing_held_it_back(tmp_path: Path) -> None:
    found = round_between(draw(tmp_path, RASPBERRY_PI_5), zone(0, "cpu-thermal", "66750"))
    assert found == BoardConditions(61.25, 66.75, (), None, "cpu-thermal", "", "power: no labelled supply in /sys")


@pytest.mark.parametrize(
    ("before", "after", "reasons"),
    [
        ("0", "0", ()),
        ("80008", "80008", ("the processor was at the soft limit of its temperature",)),
        # Remembered from before the round: nothing is known of the round itself.
        ("50000", "50000", ()),
        ("0", "50005", ("the supply voltage was too low", "the firmware throttled the processor")),
        # Over before the round was: the firmware remembers it, and did not before.
        ("50000", "70000", ("the firmware capped the clock",)),
        ("4", "0", ("the firmware throttled the processor",)),
    ],
)
def test_the_bits_of_the_firmware_say_what_happened_in_the_round(
    before: str, after: str, reasons: tuple[str, ...], tmp_path: Path
) -> None:
    root = draw(tmp_path, {**RASPBERRY_PI_5, FIRMWARE: f"{before}\n"})
    assert round_between(root, {FIRMWARE: f"{after}\n"}).held_back == reasons


def test_the_program_of_the_firmware_goes_before_the_file_of_the_kernel(tmp_path: Path) -> None:
    root = draw(tmp_path / "root", {**RASPBERRY_PI_5, FIRMWARE: "0\n"})
    found = BoardMeter(root, tool(tmp_path, "throttled=0x50005")).conditions()
    assert found.held_back == ("the supply voltage was too low", "the firmware throttled the processor")


@pytest.mark.parametrize("answer", ["VCHI initialization failed", "throttled=0xzz", ""])
def test_a_program_that_may_not_ask_leaves_it_to_the_files(answer: str, tmp_path: Path) -> None:
    root = draw(tmp_path / "root", {**RASPBERRY_PI_5, FIRMWARE: "8\n"})
    found = BoardMeter(root, tool(tmp_path, answer, code=255)).conditions()
    assert found.held_back == ("the processor was at the soft limit of its temperature",)


def test_the_alarm_of_the_supply_is_told_where_nothing_else_is(tmp_path: Path) -> None:
    root = draw(tmp_path, {**RASPBERRY_PI_5, **chip(3, "rpi_volt", in0_lcrit_alarm="1")})
    assert BoardMeter(root, NO_TOOL).conditions().held_back == ("the supply voltage was too low",)


def test_a_jetson_tells_its_hottest_sensor_of_the_processor_and_the_power_of_its_supply(tmp_path: Path) -> None:
    found = BoardMeter(draw(tmp_path, JETSON_ORIN_NANO), NO_TOOL).conditions()
    # tj-thermal at 52.687 °C; the GPU is hotter, and does not compute.
    assert (found.start_c, found.end_c, found.sensor) == (52.687, 52.687, "tj-thermal")
    # 5.072 V x 1 A; the other rails are parts of it, and in4 and in7 no supplies.
    assert found.power_w == pytest.approx(5.072)
    assert found.rail == "ina3221 VDD_IN"
    # A fan that turns and a GPU that is held back hold no core back.
    assert found.held_back == ()
    assert found.note == ""


def test_a_jetson_is_held_back_by_heat_and_by_too_high_a_current(tmp_path: Path) -> None:
    root = draw(tmp_path, JETSON_ORIN_NANO)
    changes = {
        **cooling(0, "cpufreq-cpu0", "3"),
        **cooling(4, "cpu-throttle-alert", "1"),
        **chip(2, "soctherm_oc", oc1_event_cnt="0", oc2_event_cnt="0", oc3_event_cnt="6"),
    }
    assert round_between(root, changes).held_back == (
        "heat held the clock down (cpufreq-cpu0, cpu-throttle-alert)",
        "the current was too high (oc3)",
    )


def test_a_laptop_tells_of_its_package_and_takes_its_battery_for_no_supply(tmp_path: Path) -> None:
    root = draw(tmp_path, INTEL_LAPTOP)
    found = BoardMeter(root, NO_TOOL).conditions()
    assert (found.end_c, found.sensor, found.held_back, found.power_w) == (64.0, "x86_pkg_temp", (), None)
    draw(root, cooling(0, "Processor", "2"))
    assert BoardMeter(root, NO_TOOL).conditions().held_back == ("heat held the clock down (Processor)",)


def test_chips_tell_the_temperature_where_no_zone_is_the_processors(tmp_path: Path) -> None:
    tree = {**zone(0, "acpitz", "90000"), **chip(4, "k10temp", temp1_label="Tctl", temp1_input="71125")}
    found = BoardMeter(draw(tmp_path / "chip", tree), NO_TOOL).conditions()
    assert (found.end_c, found.sensor) == (71.125, "k10temp Tctl")
    alone = BoardMeter(draw(tmp_path / "zone", zone(0, "acpitz", "27800")), NO_TOOL).conditions()
    assert (alone.end_c, alone.sensor) == (27.8, "acpitz")


def test_a_container_tells_nothing_and_says_so(tmp_path: Path) -> None:
    found = BoardMeter(draw(tmp_path, CONTAINER), NO_TOOL).conditions()
    assert (found.start_c, found.end_c, found.held_back, found.power_w) == (None,) * 4
    assert [gap.partition(":")[0] for gap in found.note.split("; ")] == ["temperature", "slowing down", "power"]


def test_a_sensor_that_is_switched_off_is_absent_and_not_0(tmp_path: Path) -> None:
    for number, text in enumerate(("0", "-256000", "", "unknown", "999999")):
        root = draw(tmp_path / str(number), zone(0, "cpu-thermal", text))
        found = BoardMeter(root, NO_TOOL).conditions()
        assert found.end_c is None, text
        assert "temperature" in found.note


def test_rails_of_a_larger_jetson_are_those_of_the_processor(tmp_path: Path) -> None:
    labels = {"in1_label": "VDD_GPU_SOC", "in2_label": "VDD_CPU_CV", "in3_label": "VIN_SYS_5V0"}
    readings = {f"{kind}{number}_input": "1000" for kind in ("in", "curr") for number in (1, 2, 3)}
    found = rails(chips(draw(tmp_path, chip(0, "ina3221", **labels, **readings))))
    assert [(rail.name, rail.feeds, rail.watts()) for rail in found] == [("ina3221 VDD_CPU_CV", "cpu", 1.0)]


def test_power_is_read_as_it_is_where_a_chip_tells_it(tmp_path: Path) -> None:
    found = rails(chips(draw(tmp_path, chip(0, "power_meter", power1_average="84500000"))))
    assert [(rail.feeds, rail.watts()) for rail in found] == [("board", 84.5)]


def test_a_supply_without_a_label_is_nobodys(tmp_path: Path) -> None:
    assert rails(chips(draw(tmp_path, chip(0, "ina226", in1_input="5000", curr1_input="900", power1_input="45")))) == ()


def test_nothing_is_held_back_by_what_a_moment_does_not_tell() -> None:
    unknown = Brakes(None, None, None)
    assert held_back(unknown, unknown) is None
    # First seen at the end: what the alarm counted before is not of this round.
    assert held_back(unknown, Brakes(None, None, (("oc1", 5),))) == ()
    assert held_back(unknown, Brakes(0x50000, (), None)) == ()


NAMES = sorted(
    name
    for name in {*RASPBERRY_PI_5, *JETSON_ORIN_NANO, *INTEL_LAPTOP, FIRMWARE}
    if "thermal" in name or "hwmon" in name
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=40) | st.none(), max_size=12))
def test_torn_and_odd_files_are_never_an_error(
    tmp_path_factory: pytest.TempPathFactory, changed: dict[str, bytes | None]
) -> None:
    tree = {**INTEL_LAPTOP, **JETSON_ORIN_NANO, **RASPBERRY_PI_5, FIRMWARE: "0\n"}
    root = draw(tmp_path_factory.mktemp("tree"), {name: tree[name] for name in NAMES} | {FIRMWARE: "0\n"})
    meter = BoardMeter(root, NO_TOOL)
    meter.start()
    for name, content in changed.items():
        (root / name).unlink()
        if content is not None:
            (root / name).write_bytes(content)
    for found in (meter.conditions(), BoardMeter(root, NO_TOOL).conditions()):
        assert found.end_c is None or -40 <= found.end_c <= 150
        assert found.power_w is None or found.power_w >= 0
