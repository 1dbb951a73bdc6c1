import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from effvit import memory
from effvit.memory import available_bytes, forget_peak, resident_memory, resident_memory_of


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_a_forgotten_peak_is_that_of_what_came_before() -> None:
    size = 256 * 2**20
    before = resident_memory().now_bytes
    assert before is not None
    block = np.ones(size, dtype=np.uint8)
    peak = resident_memory().peak_bytes
    assert peak is not None
    assert peak >= before + 0.9 * size
    del block
    assert forget_peak()
    later = resident_memory().peak_bytes
    assert later is not None
    assert later < peak - 0.5 * size


def test_a_kernel_that_does_not_forget_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "none" / "clear_refs")
    assert not forget_peak()


def test_the_readings_are_those_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t   9000 kB\nVmHWM:\t 300 kB\nVmRSS:\t 200 kB\n")
    monkeypatch.setattr(memory, "STATUS", status)
    found = resident_memory()
    assert (found.now_bytes, found.peak_bytes, found.virtual_peak_bytes) == (204_800, 307_200, 9_216_000)


@pytest.mark.skipif(sys.platform != "linux", reason="other processes are read from /proc")
def test_another_process_is_read_from_outside_while_it_is_there() -> None:
    code = "import sys; block = bytearray(b'1') * 2**27; print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        now_bytes = resident_memory_of(process.pid).now_bytes
    assert now_bytes is not None
    assert 2**27 <= now_bytes < 2**27 + 2**26  # an interpreter beside the block
    gone = resident_memory_of(process.pid)
    assert (gone.now_bytes, gone.peak_bytes) == (None, None)
    assert gone.note


def drawn(root: Path, limits: dict[str, tuple[str, int, int]], names: tuple[str, str, str]) -> None:
    """Draw cgroups with a limit, what is used, and how much of that is idle."""
    for folder, (limit, used, idle) in limits.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / names[0]).write_text(f"{limit}\n")
        (root / folder / names[1]).write_text(f"{used}\n")
        (root / folder / "memory.stat").write_text(f"anon 7\n{names[2]} {idle}\n")


VERSIONS = [
    ("0::/slice/own\n", "", ("memory.max", "memory.current", "inactive_file"), "max"),
    (
        "9:cpu:/x\n4:memory:/slice/own\n0::/\n",
        "memory/",
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        str(2**63 - 4096),
    ),
]


@pytest.mark.parametrize(("lines", "base", "names", "unlimited"), VERSIONS, ids=["v2", "v1"])
def test_the_nearest_limit_around_us_is_what_is_available(
    tmp_path: Path, lines: str, base: str, names: tuple[str, str, str], unlimited: str
) -> None:
    (tmp_path / "membership").write_text(lines)
    groups = {f"{base}slice/own": (unlimited, 5000, 0), f"{base}slice": ("9000", 6000, 1500)}
    drawn(tmp_path, groups, names)
    assert available_bytes(tmp_path, tmp_path / "membership") == 9000 - 6000 + 1500
    drawn(tmp_path, {f"{base}slice": ("9000", 9500, 100)}, names)
    assert available_bytes(tmp_path, tmp_path / "membership") == 0


@pytest.mark.skipif(not memory.MEMINFO.exists(), reason="needs /proc/meminfo")
def test_without_limits_the_machine_is_what_is_available(tmp_path: Path) -> None:
    available = available_bytes(tmp_path, tmp_path / "none")
    assert available is not None
    assert 0 < available < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
