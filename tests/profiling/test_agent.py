"""The agent: one file that measures a kit where there is no PyTorch and nothing else of ours."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from agents import ABSENT, BRIEF, Workplace, bare_environment, make_workplace, run_agent
from bare_venv import make_bare_venv
from sweep_program import QUICK, Silent
from untrained_runs import make_run

from effvit.errors import (
    ArtifactError,
    BackendUnavailableError,
    ChangedFileError,
    UnavailableError,
    UnsupportedError,
    UsageError,
)
from effvit.export.base import backends, pick_backend
from effvit.profiling.agent import msgspec_stand_in as stand_in
from effvit.profiling.agent.archive import build, code_digest, modules
from effvit.profiling.agent.kit import BLOBS, KIT, effort_here, encode, open_kit
from effvit.profiling.agent.measuring import LOCK
from effvit.profiling.agent.packing import Packing, write_kit
from effvit.profiling.devices import Device
from effvit.profiling.isolate import IsolatedWorker
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Plan
from effvit.profiling.records import Outcome
from effvit.profiling.report.rows import make_rows
from effvit.profiling.results import encode as encode_outcome
from effvit.profiling.results import read
from effvit.profiling.sweep import run_sweep
from effvit.run import open_run
from effvit.spec import Precision

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture(scope="module")
def killed(workplace: Workplace) -> list[bytes]:
    """Start the agent, kill it at its first outcome, and return the lines that it left."""
    results = workplace.folder / "kit/results.jsonl"
    command = [sys.executable, str(workplace.agent), "run", str(workplace.folder / "kit")]
    environment = bare_environment(workplace.folder / "bare")
    with subprocess.Popen(command, env=environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["event"] == "outcome":
                # What was told is on disk already.
                assert results.read_bytes().count(b"\n") >= 1
                os.kill(process.pid, signal.SIGKILL)
                break
        else:
            pytest.fail(f"no outcome: {process.stderr.read().decode() if process.stderr else ''}")
    time.sleep(0.1)
    return results.read_bytes().splitlines()


@pytest.fixture(scope="module")
def resumed(workplace: Workplace, killed: list[bytes]) -> subprocess.CompletedProcess[str]:
    """Return what the agent says when it is started again after it was killed."""
    return run_agent(workplace.agent, bare_environment(workplace.folder / "bare"), "run", workplace.folder / "kit")


def test_a_killed_agent_goes_on_and_measures_every_cell_once(
    workplace: Workplace, killed: list[bytes], resumed: subprocess.CompletedProcess[str]
) -> None:
    assert resumed.returncode == 0, resumed.stderr
    lines = (workplace.folder / "kit/results.jsonl").read_bytes().splitlines()
    assert lines[: len(killed)] == killed
    assert (len(killed), len(lines)) == (1, 2)
    events = [json.loads(line) for line in resumed.stdout.splitlines()]
    told = [event["measured_now"] for event in events if event["event"] == "outcome"]
    assert told == [False, True]


def test_its_outcomes_are_those_of_a_sweep(workplace: Workplace, resumed: subprocess.CompletedProcess[str]) -> None:
    outcomes = read(workplace.folder / "kit/results.jsonl")
    found = [(one.cell.model.attention, one.cell.workload.batch, one.cell.device) for one in outcomes]
    assert found == [("softmax", batch, Device(threads=1)) for batch in (1, 2)]
    for outcome in outcomes:
        assert outcome.status == "ok", outcome.reason
        assert dict(outcome.environment.packages).keys() >= {"effvit", "numpy", "onnxruntime"}
        evidence = outcome.evidence
        assert evidence is not None
        assert evidence.parity is not None
        assert evidence.parity.images == QUICK.verify_images
        assert evidence.parity.max_abs < 1e-4
        assert evidence.accuracy is not None
        assert evidence.accuracy.images == QUICK.eval_images
        assert evidence.memory.peak_bytes
        assert evidence.confinement is not None
        assert len(evidence.confinement.cores or ()) == 1
    assert len(make_rows(outcomes)) == 2


def test_the_agent_is_one_small_file_and_the_same_every_time(workplace: Workplace, tmp_path: Path) -> None:
    assert workplace.agent.stat().st_size < 300_000
    assert build(tmp_path / "again.pyz").read_bytes() == workplace.agent.read_bytes()
    ended = run_agent(workplace.agent, bare_environment(tmp_path / "bare"), "facts")
    told = json.loads(ended.stdout)
    assert told["code"] == code_digest()
    assert told["environment"]["hardware"]["clusters"]
    assert "end_c" in told["board"]


def test_a_machine_is_called_what_can_be_a_name(workplace: Workplace, tmp_path: Path) -> None:
    bare = bare_environment(tmp_path / "bare")
    ended = run_agent(workplace.agent, bare, "run", workplace.folder / "kit", "--name", "a b")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "'a b' is no name for a machine" in ended.stderr


def test_it_needs_nothing_newer_than_python_3_10(workplace: Workplace) -> None:
    vermin = pytest.importorskip("vermin")
    config = vermin.Config()
    config.add_exclusion("typing.Self")  # for type checkers alone
    with zipfile.ZipFile(workplace.agent) as archive:
        names = [name for name in archive.namelist() if name.endswith(".py")]
        assert len(names) > len(modules())
        for name in names:
            needed = vermin.detect(archive.read(name).decode(), config)[1]
            assert (needed or (3, 0)) <= (3, 10), name


@pytest.fixture(params=[10, 11, 12, 13, 14])
def python(request: pytest.FixtureRequest) -> str:
    """Return a Python 3 of this minor version, if it is here."""
    version = f"3.{request.param}"
    installed = sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))
    for found in (*installed[-1:], shutil.which(f"python{version}")):
        if found is not None and not subprocess.run([found, "-V"], capture_output=True, check=False).returncode:
            return found
    pytest.skip(f"there is no Python {version}")


def test_it_starts_on_every_python_that_is_here(workplace: Workplace, python: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = run_agent(workplace.agent, environment, "facts", python=python)
    assert ended.returncode == 0, ended.stderr
    compiled = subprocess.run(
        [python, "-W", "error", "-c", _COMPILE_ALL, str(workplace.agent)], capture_output=True, text=True, check=False
    )
    assert compiled.returncode == 0, compiled.stderr


_COMPILE_ALL = """\
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as archive:
    for name in archive.namelist():
        if name.endswith(".py"):
            compile(archive.read(name), name, "exec")
"""


@pytest.mark.slow
def test_it_measures_on_every_python_that_is_here(workplace: Workplace, python: str, tmp_path: Path) -> None:
    try:
        bare = make_bare_venv(tmp_path / "venv", python)
    except UnavailableError as error:
        pytest.skip(f"no runtime for it: {error}")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    results = tmp_path / "results.jsonl"
    ended = run_agent(workplace.agent, environment, "run", workplace.folder / "kit", "--out", results, python=str(bare))
    assert ended.returncode == 0, ended.stderr
    version = subprocess.run([python, "-c", _VERSION], capture_output=True, text=True, check=True).stdout.strip()
    assert [(one.status, one.environment.python) for one in read(results)] == [("ok", version)] * 2


_VERSION = "import platform; print(platform.python_version())"


@pytest.mark.parametrize(("absent", "words"), [
    ("numpy", ("numpy cannot be imported", "python3 -m pip install numpy")),
    ("onnxruntime", ("ort-cpu cannot run here", "python3 -m pip install onnxruntime")),
])  # fmt: skip
def test_what_is_missing_is_a_sentence_with_the_command_that_installs_it(
    workplace: Workplace, tmp_path: Path, absent: str, words: tuple[str, ...]
) -> None:
    environment = bare_environment(tmp_path / "bare", (*ABSENT, absent))
    ended = run_agent(
        workplace.agent, environment, "run", workplace.folder / "kit", "--out", tmp_path / "results.jsonl"
    )
    assert (ended.returncode, ended.stdout) == (3, "")
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in ended.stderr


def test_a_full_disk_ends_it_with_a_sentence(workplace: Workplace, tmp_path: Path) -> None:
    command = [sys.executable, str(workplace.agent), "run", str(workplace.folder / "kit")]
    command += ["--out", str(tmp_path / "results.jsonl"), "--ended", str(tmp_path / "ended.json")]
    environment = bare_environment(tmp_path / "bare")
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            command, env=environment, cwd="/", stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    sentence = "what the agent tells cannot be written: no space left on device"
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (2, f"error: {sentence}")
    assert json.loads((tmp_path / "ended.json").read_text())["message"] == sentence


def test_a_kit_is_measured_by_one_agent_at_a_time(workplace: Workplace, tmp_path: Path) -> None:
    with (workplace.folder / "kit" / LOCK).open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        environment = bare_environment(tmp_path / "bare")
        ended = run_agent(workplace.agent, environment, "run", workplace.folder / "kit", "--out", tmp_path / "r.jsonl")
    assert ended.returncode == 2
    assert "is being measured by another agent" in ended.stderr


def test_a_file_that_changed_on_the_way_is_refused(workplace: Workplace, tmp_path: Path) -> None:
    blobs = Path(shutil.copytree(workplace.folder / "kit" / BLOBS, tmp_path / BLOBS))
    name = workplace.kit.blobs[0]
    content = bytearray((blobs / name).read_bytes())
    content[100] ^= 1
    (blobs / name).write_bytes(content)
    with pytest.raises(ChangedFileError, match="has changed on the way"):
        open_kit(workplace.folder / "kit", blobs, code_digest())
    (blobs / name).unlink()
    with pytest.raises(ChangedFileError, match="no such file"):
        open_kit(workplace.folder / "kit", blobs, code_digest())


def test_an_agent_of_other_code_is_refused(workplace: Workplace) -> None:
    with pytest.raises(UsageError, match=f"is for an agent of the code {code_digest()}, and this one is of 0123"):
        open_kit(workplace.folder / "kit", workplace.folder / "kit" / BLOBS, "0123")


def test_a_kit_reads_no_files_elsewhere(workplace: Workplace, tmp_path: Path) -> None:
    first, *others = workplace.kit.artifacts
    elsewhere = replace(workplace.kit, artifacts=(replace(first, blob="../secret"), *others))
    (tmp_path / KIT).write_bytes(encode(elsewhere))
    with pytest.raises(ArtifactError, match="lies outside of"):
        open_kit(tmp_path, workplace.folder / "kit" / BLOBS, code_digest())


@pytest.mark.parametrize("content", [b"", b"{}", b"[1", b'{"schema": "effvit.kit/1"}'])
def test_a_damaged_kit_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ArtifactError, match="is not a kit"):
        open_kit(tmp_path, tmp_path, code_digest())
    (tmp_path / KIT).write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged or of another version"):
        open_kit(tmp_path, tmp_path, code_digest())


def test_limits_without_bounds_survive_the_way(workplace: Workplace) -> None:
    assert np.isinf(workplace.kit.effort.max_noise)
    assert open_kit(workplace.folder / "kit", workplace.folder / "kit" / BLOBS, code_digest()) == workplace.kit


def test_on_a_device_nothing_is_predicted_in_larger_batches_than_are_measured(workplace: Workplace) -> None:
    groups, kit = workplace.kit.plan(workplace.runs).groups(), workplace.kit
    assert [group.evaluation_batch(effort_here(kit)) for group in groups] == [1, 2]
    assert {group.evaluation_batch(kit.effort) for group in groups} == {16}


@pytest.mark.slow
def test_on_a_device_workers_are_there_one_at_a_time(tmp_path: Path) -> None:
    workers: list[IsolatedWorker] = []
    alive: list[int] = []

    def started(timeout_s: float) -> IsolatedWorker:
        workers.append(IsolatedWorker(timeout_s))
        alive.append(sum(Path(f"/proc/{worker.pid}").exists() for worker in workers))
        return workers[-1]

    runs = tuple(make_run(tmp_path / "runs", attention) for attention in ("softmax", "linformer"))
    plan = Plan(runs, ((32, 32),), (1,), (Precision.FP32,), ("ort-cpu",))
    for frugal, most in ((True, 1), (False, 2)):
        alive.clear()
        with PixelStore() as pixels:
            effort = replace(BRIEF, frugal=frugal)
            found = run_sweep(plan, effort, tmp_path / f"{frugal}.jsonl", pixels, Silent(), start=started)
        assert [one.status for one in found] == ["ok", "ok"]
        assert max(alive) == most


def test_what_needs_pytorch_or_a_gpu_is_not_packed(workplace: Workplace, tmp_path: Path) -> None:
    run = open_run(workplace.runs / "softmax")

    def pack(backend: str, device: Device) -> None:
        plan = Plan((run,), ((32, 32),), (1,), (Precision.FP32,), (backend,), (device,))
        with PixelStore() as pixels:
            write_kit(Packing(plan, QUICK, pixels, lambda _: None), tmp_path / "kit")

    with pytest.raises(UnsupportedError, match="torch needs PyTorch"):
        pack("torch", Device())
    with pytest.raises(UnsupportedError, match="not on cuda:0"):
        pack("ort-cpu", Device("cuda", index=0))
    assert not list(tmp_path.iterdir())


def test_a_type_that_a_runtime_refuses_is_a_row_of_the_kit(workplace: Workplace, tmp_path: Path) -> None:
    plan = Plan((open_run(workplace.runs / "softmax"),), ((32, 32),), (1,), (Precision.BF16,), ("ort-cpu",))
    with PixelStore() as pixels:
        kit = write_kit(Packing(plan, QUICK, pixels, lambda _: None), tmp_path / "kit")
    (only,) = kit.artifacts
    assert only.refusal is not None
    assert (only.refusal.status, only.refusal.reason) == ("unsupported", "ort-cpu does not run bf16")


def test_the_stand_in_writes_and_reads_what_msgspec_does(
    workplace: Workplace, resumed: subprocess.CompletedProcess[str]
) -> None:
    for outcome in read(workplace.folder / "kit/results.jsonl"):
        line = encode_outcome(outcome)
        assert json.loads(stand_in.json.encode(outcome)) == json.loads(line)
        assert stand_in.json.decode(line, type=Outcome) == outcome
        assert msgspec.json.decode(stand_in.json.encode(outcome), type=Outcome) == outcome


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, 1), (int, 1.5), (int, True), (int, "1"), (float, 1), (float, 2.5), (float, True), (float, None),
        (bool, 1), (bool, False), (str, "a"), (str, None), (int | None, None), (int | str, 2.5), (int | str, "a"),
        (tuple[int, ...], [1, 2]), (tuple[int, ...], [1, "2"]), (tuple[int, str], [1, "a"]), (tuple[int, str], [1]),
        (list[float], [1, 2.5]), (list[float], "ab"), (dict[str, int], {"a": 1}), (dict[str, int], {"a": "b"}),
        (Precision, "fp32"), (Precision, "fp33"), (Device, {}), (Device, {"threads": 2, "unknown": 1}),
        (Device, {"threads": "2"}), (Device, [1]), (Device, {"kind": "tpu"}),
        (tuple[Device, ...], [{}, {"threads": 1}]),
    ],
)  # fmt: skip
def test_the_stand_in_is_as_strict_as_msgspec(kind: type, value: object) -> None:
    try:
        expected = msgspec.convert(value, kind)
    except msgspec.ValidationError:
        with pytest.raises(stand_in.ValidationError):
            stand_in.convert(value, kind)
    else:
        found = stand_in.convert(value, kind)
        assert found == expected
        assert type(found) is type(expected)


def test_the_stand_in_refuses_what_is_no_json() -> None:
    for data in (b"", b"{", b"{'a': 1}"):
        with pytest.raises(stand_in.DecodeError):
            stand_in.json.decode(data)
    assert stand_in.json.encode([float("nan"), float("inf"), 1.0]) == msgspec.json.encode(
        [float("nan"), float("inf"), 1.0]
    )


def test_a_runtime_that_is_missing_here_is_not_packed(
    workplace: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = replace(pick_backend("openvino"), unavailable=lambda: "there is none")
    monkeypatch.setitem(backends(), "openvino", missing)  # type: ignore[arg-type]  # discovery returns a dict
    plan = Plan((open_run(workplace.runs / "softmax"),), ((32, 32),), (1,), (Precision.FP32,), ("openvino",))
    with PixelStore() as pixels, pytest.raises(BackendUnavailableError, match="there is none"):
        write_kit(Packing(plan, QUICK, pixels, lambda _: None), tmp_path / "kit")


def test_the_same_cells_are_the_same_kit(workplace: Workplace, tmp_path: Path) -> None:
    plan = workplace.kit.plan(workplace.runs)
    with PixelStore() as pixels:
        write_kit(Packing(plan, workplace.kit.effort, pixels, lambda _: None), tmp_path / "kit")
    assert (tmp_path / "kit" / KIT).read_bytes() == (workplace.folder / "kit" / KIT).read_bytes()
    assert sorted(workplace.kit.blobs) == sorted(path.name for path in (tmp_path / "kit" / BLOBS).iterdir())
