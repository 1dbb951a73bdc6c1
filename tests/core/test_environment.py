from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from effvit.environment import (
    Environment,
    capture_environment,
    engine_gpus,
    gpu_uuid,
    is_emulated,
    machine_names,
    package_version,
    usable_cores,
)


def fake_tool(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_the_driver_names_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tool(tmp_path, "echo 'Some GPU, 1.2'; echo 'Other GPU, 1.2'", monkeypatch)
    assert capture_environment().gpus == ("Some GPU, 1.2", "Other GPU, 1.2")


def test_engines_are_for_gpus_with_their_compute_capability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tool(tmp_path, 'case "$1" in *,compute_cap) echo "Some GPU, 1.2, 9.0" ;; esac', monkeypatch)
    assert engine_gpus() == ("Some GPU, 1.2, 9.0",)


def test_a_gpu_whose_driver_tells_no_uuid_is_named_by_its_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tool(tmp_path, 'case "$3" in --id=0000:65:00.0) echo GPU-1234 ;; esac', monkeypatch)
    assert (gpu_uuid("0000:65:00.0"), gpu_uuid("0000:66:00.0")) == ("GPU-1234", "0000:66:00.0")


def test_a_driver_that_fails_names_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tool(tmp_path, "echo 'NVIDIA-SMI has failed'; exit 9", monkeypatch)
    assert capture_environment().gpus == ()


@pytest.mark.parametrize("error", [subprocess.TimeoutExpired("nvidia-smi", 20), PermissionError(13, "denied")])
def test_a_driver_that_hangs_or_cannot_be_run_names_no_gpu(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tool(tmp_path, "", monkeypatch)

    def refuse(*_command: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", refuse)  # waiting out the real limit would take 20 s
    assert capture_environment().gpus == ()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_cores_are_those_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_threads_default_to_the_usable_cores() -> None:
    assert capture_environment().threads == usable_cores()
    assert capture_environment(1).threads == 1


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert package_version("effvit-does-not-exist") is None
    environment = capture_environment()
    assert dict(environment.packages)["torch"] == package_version("torch")
    assert None not in dict(environment.packages).values()


def test_a_key_is_equal_for_equal_environments_alone() -> None:
    environment = capture_environment(2)
    assert environment.key == replace(environment).key
    assert environment.key != replace(environment, threads=3).key
    assert environment.key != replace(environment, gpus=("Some GPU",)).key


MACHINE = Environment("A CPU", 4, 2**34, (), "Linux 6.1", "3.11.9", (("onnxruntime", "1.23.0"), ("torch", "2.9.0")), 4)


@pytest.mark.parametrize(
    ("other", "names"),
    [
        (replace(MACHINE), ["A CPU", "A CPU"]),
        (replace(MACHINE, cpu="B CPU"), ["A CPU", "B CPU"]),
        (replace(MACHINE, gpus=("A GPU",)), ["A CPU", "A CPU, A GPU"]),
        (replace(MACHINE, threads=2), ["A CPU (threads 4)", "A CPU (threads 2)"]),
        (
            replace(MACHINE, packages=(("onnxruntime", "1.24.0"), ("torch", "2.9.0"))),
            ["A CPU (onnxruntime 1.23.0)", "A CPU (onnxruntime 1.24.0)"],
        ),
        (
            replace(MACHINE, packages=(("torch", "2.9.0"),)),
            ["A CPU (onnxruntime 1.23.0)", "A CPU (onnxruntime missing)"],
        ),
    ],
)
def test_machines_are_named_by_what_tells_them_apart(other: Environment, names: list[str]) -> None:
    assert machine_names([MACHINE, other]) == names


@pytest.mark.parametrize(
    "other",
    [
        replace(MACHINE, ram_bytes=2**34 + 1),
        replace(MACHINE, os="Linux 6.2", python="3.12.0", threads=2, cores=2),
    ],
)
def test_environments_that_differ_in_too_much_or_too_little_are_named_by_their_keys(other: Environment) -> None:
    assert machine_names([MACHINE, other]) == [f"A CPU ({MACHINE.key})", f"A CPU ({other.key})"]


def elf(path: Path, processor: int) -> Path:
    """Return a file that begins like a program for a processor, by the number that the ELF format has for it."""
    path.write_bytes(b"\x7fELF" + bytes(14) + processor.to_bytes(2, "little"))
    return path


def test_a_process_is_emulated_where_the_kernel_runs_another_kind_of_program(tmp_path: Path) -> None:
    intel, arm = elf(tmp_path / "qemu-aarch64", 62), elf(tmp_path / "python3", 183)
    (tmp_path / "script").write_text("#!/bin/sh\n")
    assert is_emulated(intel, str(arm))
    assert not is_emulated(arm, str(arm))
    for unknown in ("script", "none"):
        assert not is_emulated(tmp_path / unknown, str(arm))
        assert not is_emulated(intel, str(tmp_path / unknown))
    assert not is_emulated()


def test_an_emulated_environment_says_so_and_the_key_of_others_is_as_before() -> None:
    assert replace(MACHINE, emulated=True).key != MACHINE.key
    assert MACHINE.key == "74e78f8a"  # before there was a word of it
