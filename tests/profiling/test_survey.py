"""What is found out of a machine before anything is measured on it, here and by the agent's file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from agents import bare_python, stand_in
from outcomes import CALIBRATION, ENVIRONMENT

from effvit.environment import usable_cores
from effvit.errors import CheckFailedError, EffvitError, UsageError
from effvit.profiling.agent.remote import ROOT, RemoteSweep
from effvit.profiling.agent.ssh import Host, Ssh
from effvit.profiling.devices import Device
from effvit.profiling.survey import BareRuntime, Survey, survey

pytest.importorskip("onnxruntime")


def test_a_machine_is_its_rates_and_its_runtimes() -> None:
    asked: list[int] = []
    found = survey(1, ["ort-cpu", "nothing"], print, calibrate=lambda threads, _: asked.append(threads) or CALIBRATION)
    assert asked == [1]
    assert found.calibration == CALIBRATION
    assert found.environment.cores == usable_cores()
    bare = found.bare_bytes("ort-cpu")
    assert bare is not None
    assert 20 * 2**20 < bare < 500 * 2**20  # Python with numpy and ONNX Runtime, and no torch
    assert found.bare_bytes("nothing") is None
    assert found.bare_bytes("openvino") is None


def test_all_cores_are_meant_where_none_are_named() -> None:
    asked: list[int] = []
    survey(None, [], print, calibrate=lambda threads, _: asked.append(threads) or CALIBRATION)
    assert asked == [usable_cores()]


def test_what_cannot_be_surveyed_is_a_sentence() -> None:
    with pytest.raises(UsageError, match="100000 threads are more than"):
        survey(100_000, [], print, calibrate=lambda *_: CALIBRATION)
    with pytest.raises(CheckFailedError, match="could not be measured"):
        survey(1, [], print, calibrate=lambda *_: None)


@pytest.fixture
def device(tmp_path: Path) -> Callable[[int], Ssh]:
    """Return a device that has numpy and ONNX Runtime and knows its rates at once, by its number of threads."""
    python, hook = bare_python(tmp_path), tmp_path / "bare/sitecustomize.py"
    told = f"import os; print({msgspec.json.encode(CALIBRATION).decode()!r}, flush=True); os._exit(0)"
    hook.write_text(f"{hook.read_text()}\nif 'effvit.profiling.calibration' in sys.orig_argv:\n    {told}\n")
    program = stand_in(tmp_path, python, "export EFFVIT_CACHE=$PWD/rates")
    return lambda threads: Ssh(Host("device", device=Device(threads=threads)), program)


def test_the_agent_alone_is_copied_and_tells_what_the_device_can_do(
    device: Callable[[int], Ssh], tmp_path: Path
) -> None:
    copied: list[int] = []
    sweep = RemoteSweep(device(1), lambda done, _: copied.append(done))
    assert sweep.backends(["ort-cpu"]) == ("ort-cpu",)
    found = sweep.survey(["ort-cpu"])
    assert found.calibration == CALIBRATION
    assert found.bare_bytes("ort-cpu")
    assert found.environment.cores == usable_cores()
    (agent,) = (path for path in (tmp_path / "home" / ROOT).rglob("*") if path.is_file())
    assert agent.suffix == ".pyz"
    assert copied[-1] == agent.stat().st_size


def test_what_the_device_refuses_is_its_own_sentence(device: Callable[[int], Ssh]) -> None:
    with pytest.raises(EffvitError, match="device: 100000 threads are more than"):
        RemoteSweep(device(100_000)).survey([])


def test_a_survey_reads_back_as_it_was() -> None:
    found = Survey(ENVIRONMENT, CALIBRATION, (BareRuntime("ort-cpu", 1), BareRuntime("openvino", None)))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Survey) == found
