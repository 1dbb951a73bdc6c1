"""Processes held to cores and memory, for real; cgroups on a drawn tree, since few machines let a test make some."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from effvit.profiling import confinement
from effvit.profiling.confinement import BY_RLIMIT, Confinement, cores_for, memory_group
from effvit.profiling.devices import Device

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to cores and memory")
MIB = 2**20


def confined(device: str, then: str) -> Any:
    """Return what a process prints as JSON that is confined to `device` before it does `then`."""
    code = f"""
import json, os, resource
from effvit.profiling.confinement import confine
from effvit.profiling.devices import device_from_text
told = confine(device_from_text({device!r}), None)
{then}
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


def test_a_process_runs_on_as_many_cores_as_its_device_has() -> None:
    told, allowed = confined("cpu:threads=1", "print(json.dumps([told.cores, sorted(os.sched_getaffinity(0))]))")
    assert told == allowed
    assert len(allowed) == 1
    assert set(allowed) <= os.sched_getaffinity(0)


def test_memory_beyond_the_limit_is_refused_and_below_it_is_not() -> None:
    then = """
def fits(size):
    try:
        return len(bytearray(size)) == size
    except MemoryError:
        return False
print(json.dumps([told.memory_bytes, told.memory_by, fits(40 * 2**20), fits(400 * 2**20)]))
"""
    assert confined("cpu:memory=200MiB", then) == [200 * MIB, BY_RLIMIT, True, False]


def test_a_device_without_limits_changes_nothing() -> None:
    then = "print(json.dumps([told.cores, told.memory_bytes, *resource.getrlimit(resource.RLIMIT_DATA)]))"
    assert confined("cpu", then) == [sorted(os.sched_getaffinity(0)), None, -1, -1]


def test_physical_cores_come_before_second_threads_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four hardware threads on two cores, numbered as some machines do: 0 and 1 are one core, 2 and 3 the other."""
    for core, siblings in enumerate(("0-1", "0-1", "2-3", "2-3")):
        folder = tmp_path / f"cpu{core}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    monkeypatch.setattr(confinement, "TOPOLOGY", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert [cores_for(count) for count in (1, 2, 3)] == [{0}, {0, 2}, {0, 1, 2}]


def test_other_cores_and_other_memory_than_the_device_has_are_departures() -> None:
    device = Device(threads=1, memory_bytes=512 * MIB)
    assert Confinement((3,), 512 * MIB, BY_RLIMIT).departures(device) == []
    assert Confinement((0, 1)).departures(device) == [
        "asked for 1 of the cores, may run on 2",
        "asked for 512MiB of memory, has all",
    ]


def tree(root: Path, own: str, delegated: str) -> tuple[Path, Path]:
    """Draw a cgroup tree of version 2 down to `own`, with control of memory for the groups right below `delegated`."""
    (root / own).mkdir(parents=True)
    (root / "cgroup.controllers").write_text("cpu memory\n")
    for folder in (root / own, (root / own).parent):
        (folder / "cgroup.subtree_control").write_text("cpu memory\n" if folder == root / delegated else "cpu\n")
    membership = root.parent / "membership"
    membership.write_text(f"4:memory:/elsewhere\n0::/{own}\n")
    return root, membership


def test_a_group_is_made_where_control_of_memory_is_delegated(tmp_path: Path) -> None:
    root, membership = tree(tmp_path / "cgroups", "user/scope", delegated="user")
    assert memory_group(64 * MIB, 4711, root, membership) is not None
    folder = root / "user" / "effvit-4711"
    assert (folder / "memory.max").read_text() == str(64 * MIB)
    assert (folder / "memory.swap.max").read_text() == "0"
    assert (folder / "cgroup.procs").read_text() == "4711"


def test_without_control_of_memory_there_is_no_group(tmp_path: Path) -> None:
    root, membership = tree(tmp_path / "cgroups", "user/scope", delegated="nowhere")
    assert memory_group(64 * MIB, 4711, root, membership) is None
    assert not list(root.rglob("effvit-*"))


def test_without_a_tree_of_version_2_there_is_no_group(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    membership.write_text("4:memory:/elsewhere\n")
    assert memory_group(64 * MIB, 4711, tmp_path, membership) is None
