"""What a machine is, from the files that its kernel shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import (
    CONTAINER,
    INTEL_LAPTOP,
    JETSON_ORIN_NANO,
    MACHINE_ID,
    RASPBERRY_PI_5,
    arm_cpuinfo,
    draw,
    policy,
)

from effvit.environment import Environment, hardware_facts, machine_names
from effvit.errors import UsageError
from effvit.hardware import Cluster, machine_name, read_hardware


def test_a_raspberry_pi_is_its_board_with_cores_governor_and_swap(tmp_path: Path) -> None:
    found = read_hardware(root=draw(tmp_path, RASPBERRY_PI_5))
    assert found.board == "Raspberry Pi 5 Model B Rev 1.0"
    assert found.clusters == (Cluster((0, 1, 2, 3), "Cortex-A76", None, 1.5e9, 2.4e9, "ondemand"),)
    assert found.cores == "4 x Cortex-A76"
    assert found.zram_bytes == 2_097_136 * 1024
    assert found.swap_bytes == (2_097_136 + 524_272) * 1024
    assert found.power_mode is None
    assert found.note == ""


def test_a_jetson_says_its_power_mode_by_name(tmp_path: Path) -> None:
    root = draw(tmp_path, JETSON_ORIN_NANO)
    found = read_hardware(root=root)
    assert found.board == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    # Two policies with the same cores and clocks are cores that are alike.
    assert found.clusters == (Cluster((0, 1, 2, 3, 4, 5), "Cortex-A78AE", None, 115.2e6, 1.728e9, "schedutil"),)
    assert found.power_mode == "MAXN_SUPER"
    (root / "var/lib/nvpmodel/status").unlink()
    assert read_hardware(root=root).power_mode == "15W"  # its default
    draw(root, {"var/lib/nvpmodel/status": "pmode:0007\n"})
    assert read_hardware(root=root).power_mode == "mode 7"


def test_a_laptop_is_what_its_firmware_calls_it_with_two_kinds_of_cores(tmp_path: Path) -> None:
    found = read_hardware(root=draw(tmp_path, INTEL_LAPTOP))
    assert found.board == "LENOVO 21E3CTO1WW"
    assert [(one.cores, one.most_hz) for one in found.clusters] == [((0, 1), 4.4e9), ((2, 3, 4, 5), 3.3e9)]
    assert found.cores == ""
    assert found.swap_bytes == 0
    assert found.power_mode == "balanced"


def test_a_container_with_nothing_has_nothing_and_says_so(tmp_path: Path) -> None:
    found = read_hardware(root=draw(tmp_path, CONTAINER))
    assert (found.board, found.identity, found.swap_bytes, found.zram_bytes, found.power_mode) == (None,) * 5
    assert found.clusters == ()
    assert found.note == "which of several alike: no machine-id; governor: no cpufreq in /sys; swap: no /proc/swaps"
    assert [text for _, text in hardware_facts(found)] == [""] * 6


def test_small_and_large_cores_are_told_apart(tmp_path: Path) -> None:
    tree = {
        "proc/cpuinfo": arm_cpuinfo(*("0xd05",) * 4, *("0xd0b",) * 4),
        "sys/devices/system/cpu/online": "0-7\n",
        **{f"sys/devices/system/cpu/cpu{core}/cpu_capacity": "530\n" for core in range(4)},
        **{f"sys/devices/system/cpu/cpu{core}/cpu_capacity": "1024\n" for core in range(4, 8)},
        **policy(0, "0 1 2 3", 408_000, 1_800_000, "schedutil"),
        **policy(4, "4 5", 408_000, 2_256_000, "performance"),
        **policy(6, "6 7", 408_000, 2_256_000, "performance"),
    }
    found = read_hardware(root=draw(tmp_path, tree))
    assert [(one.cores, one.name, one.capacity) for one in found.clusters] == [
        ((0, 1, 2, 3), "Cortex-A55", 530),
        ((4, 5, 6, 7), "Cortex-A76", 1024),
    ]
    assert found.cores == "4 x Cortex-A55, 4 x Cortex-A76"
    assert found.governors == "schedutil, performance"


def test_cores_that_are_switched_off_are_no_part_of_it(tmp_path: Path) -> None:
    tree = {**JETSON_ORIN_NANO, "sys/devices/system/cpu/online": "0-3\n"}
    assert read_hardware(root=draw(tmp_path, tree)).cores == "4 x Cortex-A78AE"


def test_a_core_that_nobody_knows_is_called_by_its_numbers(tmp_path: Path) -> None:
    root = draw(tmp_path, {"proc/cpuinfo": arm_cpuinfo("0xfff")})
    assert read_hardware(root=root).cores == "1 x ARM part 0xfff"


def test_two_boards_alike_differ_and_one_stays_the_same(tmp_path: Path) -> None:
    one = read_hardware(root=draw(tmp_path / "one", RASPBERRY_PI_5))
    again = read_hardware(root=draw(tmp_path / "again", RASPBERRY_PI_5))
    # The card of the first was copied: one number of the system, and another of the board.
    other = {**RASPBERRY_PI_5, "proc/device-tree/serial-number": "100000009abcdef0\0"}
    copied = read_hardware(root=draw(tmp_path / "copied", other))
    assert one == again
    assert copied == replace(one, identity=copied.identity)
    assert one.identity != copied.identity
    assert one.identity is not None
    # Eight digits of a hash, that neither number is in.
    assert len(one.identity) == 8
    assert one.identity not in MACHINE_ID + "6d2a9c0112345678"


@pytest.mark.parametrize("content", ["", "uninitialized\n", "ABC\n", f"{MACHINE_ID}{MACHINE_ID}\n"])
def test_a_number_that_is_none_tells_no_machine_from_another(content: str, tmp_path: Path) -> None:
    found = read_hardware(root=draw(tmp_path, {"etc/machine-id": content}))
    assert found.identity is None
    assert "no machine-id" in found.note


def test_a_name_stands_for_the_number(tmp_path: Path) -> None:
    found = read_hardware("kitchen", draw(tmp_path, RASPBERRY_PI_5))
    assert (found.name, found.identity, found.known_as) == ("kitchen", None, "kitchen")


@pytest.mark.parametrize("text", ["", "a b", "-x", "a;b", "a\nb", "x" * 41, "é"])
def test_a_name_is_plain(text: str) -> None:
    with pytest.raises(UsageError, match="is no name for a machine"):
        machine_name(text)
    assert machine_name("pi-5_kitchen.2") == "pi-5_kitchen.2"


def environment(tree: dict[str, str], root: Path, name: str = "") -> Environment:
    """Return the environment of a machine whose kernel calls the processor by a number."""
    return Environment(
        "ARMv8 Processor", 4, 2**32, (), "Linux 6.12", "3.11", (), 4, read_hardware(name, draw(root, tree))
    )


def test_machines_alike_are_told_apart_by_what_they_are_known_as(tmp_path: Path) -> None:
    other = {**RASPBERRY_PI_5, "proc/device-tree/serial-number": "100000009abcdef0\0"}
    one, two = environment(RASPBERRY_PI_5, tmp_path / "one"), environment(other, tmp_path / "two")
    board = "Raspberry Pi 5 Model B Rev 1.0, 4 x Cortex-A76"
    assert one.key != two.key
    assert one.hardware is not None
    assert two.hardware is not None
    assert machine_names([one, two]) == [
        f"{board} (machine {one.hardware.identity})",
        f"{board} (machine {two.hardware.identity})",
    ]
    called = environment(other, tmp_path / "three", "kitchen")
    assert machine_names([one, called]) == [board, f"kitchen, {board}"]


def test_the_governor_and_the_power_mode_are_part_of_an_environment(tmp_path: Path) -> None:
    here = environment(JETSON_ORIN_NANO, tmp_path / "here")
    slower = environment({**JETSON_ORIN_NANO, "var/lib/nvpmodel/status": "pmode:0000"}, tmp_path / "slower")
    assert here.key != slower.key
    assert [name.rpartition("(")[2] for name in machine_names([here, slower])] == [
        "power mode MAXN_SUPER)",
        "power mode 15W)",
    ]


def test_what_an_older_version_wrote_keeps_its_key_and_may_be_of_any_machine_alike(tmp_path: Path) -> None:
    here = environment(RASPBERRY_PI_5, tmp_path)
    older = replace(here, hardware=None)
    # Of version 0.1, which had no hardware: sha256 of its facts in JSON with sorted names, by sha256sum.
    assert older.key == "e9d6be0c"
    assert here.includes(older)
    assert here.includes(here)
    assert not here.includes(replace(older, cores=2))
    assert not older.includes(here)


NAMES = sorted({*RASPBERRY_PI_5, *JETSON_ORIN_NANO, *INTEL_LAPTOP})


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=60) | st.just(None), max_size=12))
def test_torn_and_odd_files_are_never_an_error(
    tmp_path_factory: pytest.TempPathFactory, changed: dict[str, bytes | None]
) -> None:
    root = draw(tmp_path_factory.mktemp("tree"), {**INTEL_LAPTOP, **JETSON_ORIN_NANO, **RASPBERRY_PI_5})
    for name, content in changed.items():
        path = root / name
        path.unlink()
        if content is None:
            path.mkdir()  # what cannot be read as a file
        else:
            path.write_bytes(content)
    found = read_hardware(root=root)
    assert found.identity is None or len(found.identity) == 8
    assert all(one.least_hz is None or one.least_hz > 0 for one in found.clusters)
    assert found.swap_bytes is None or found.swap_bytes >= 0
