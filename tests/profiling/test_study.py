"""Which fine-tunings a study asks for, and that one which was cut short is gone on with.

That they are measured, tests/cli/test_commands.py sees.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from models_for_tests import digits, finished_run, record_of
from outcomes import make_outcome

from effvit.claim import LOCK
from effvit.errors import EffvitError, UnavailableError, UnsupportedError, UsageError
from effvit.finetune import Finetuning
from effvit.finetune import Listener as TrainingListener
from effvit.optimisation import Step
from effvit.profiling import study as study_module
from effvit.profiling.agent.packing import Packing
from effvit.profiling.agent.remote import RemoteSweep
from effvit.profiling.agent.ssh import Host
from effvit.profiling.devices import CPU, Device
from effvit.profiling.plan import Effort, Plan, exported_backends
from effvit.profiling.records import Outcome
from effvit.profiling.study import DESCRIPTION, SETTINGS, Listener, Study, common_backends, run_study
from effvit.run import LAST, WEIGHTS, Run, open_run

STUDY = Study(
    data="digits",
    fingerprint="f",
    attentions=("softmax", "linformer", "0-2:performer"),
    model="test_vit",
    weights="none",
    trained=(64, 64),
    recipe={"epochs": 3, "seed": 1},
    resolutions=((64, 64),),
    batches=(1,),
    precisions=(),
    backends=(),
    transfer_epochs=2,
)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[Finetuning]:
    """Return what is asked to be fine-tuned, which is made at once, without training."""
    asked: list[Finetuning] = []

    def make(request: Finetuning, data: object, *, out: Path, name: str, listener: object) -> Run:
        asked.append(request)
        return finished_run(out, name, record_of("softmax"))[0]

    monkeypatch.setattr(study_module, "finetune", make)
    monkeypatch.setattr(study_module, "run_sweep", lambda *_: [])
    return asked


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch, requests: list[Finetuning]) -> list[Plan]:
    """Return what is asked to be measured, which nothing is."""
    asked: list[Plan] = []

    def sweep(plan: Plan, *_: object) -> list[Outcome]:
        asked.append(plan)
        return []

    monkeypatch.setattr(study_module, "run_sweep", sweep)
    return asked


def carry_out(study: Study, folder: Path) -> None:
    run_study(study, digits(), folder, Effort(threads=1), Listener(), SilentSweep)


class SilentSweep:
    """Is told how a sweep goes, and listens to nothing."""

    def planned(self, cells: int) -> None: ...
    def stage(self, text: str) -> None: ...
    def outcome(self, outcome: Outcome, measured_now: bool) -> None: ...


def test_the_fine_tuned_baseline_teaches_all_others(requests: list[Finetuning], tmp_path: Path) -> None:
    carry_out(STUDY, tmp_path)
    baseline, *others = requests
    assert (baseline.teacher, baseline.weights, baseline.recipe) == (None, "none", {"epochs": 3, "seed": 1})
    assert [request.swaps[0].attention for request in others] == ["linformer", "performer"]
    for request in others:
        assert request.teacher == tmp_path / "runs" / "softmax"
        assert request.weights == "auto"  # those of the teacher
        assert request.recipe == {"epochs": 3, "seed": 1, "transfer_epochs": 2}
        assert (request.model, request.resolution) == ("test_vit", (64, 64))


def test_without_transfer_nobody_teaches(requests: list[Finetuning], tmp_path: Path) -> None:
    carry_out(replace(STUDY, transfer_epochs=0), tmp_path)
    assert {(request.teacher, request.weights) for request in requests} == {(None, "none")}


def test_without_a_baseline_there_is_no_transfer(requests: list[Finetuning], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs softmax, the teacher, before linformer") as caught:
        carry_out(replace(STUDY, attentions=("linformer",)), tmp_path)
    assert "add softmax to --attn" in caught.value.hint
    assert (requests, list(tmp_path.iterdir())) == ([], [])


def test_cells_are_measured_on_every_device(plans: list[Plan], tmp_path: Path) -> None:
    devices = (CPU, Device(threads=1, memory_bytes=2**30))
    carry_out(replace(STUDY, devices=devices), tmp_path)
    (plan,) = plans
    assert plan.devices == devices


def test_a_device_that_is_not_here_is_refused_before_anything_is_trained(
    requests: list[Finetuning], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="cpu:threads=100000 is more than"):
        carry_out(replace(STUDY, devices=(Device(threads=100_000),)), tmp_path)
    assert (requests, list(tmp_path.iterdir())) == ([], [])


def test_a_study_is_not_gone_on_with_on_other_devices(plans: list[Plan], tmp_path: Path) -> None:
    study = replace(STUDY, devices=(Device(threads=1),))
    carry_out(study, tmp_path)
    with pytest.raises(UsageError, match="other settings: devices"):
        carry_out(STUDY, tmp_path)
    carry_out(study, tmp_path)
    assert [plan.devices for plan in plans] == [(Device(threads=1),)] * 2


PI, PI_PART = Host("pi"), Host("pi", device=Device(threads=1))


class FakeRemote:
    """A host that measures at once, and remembers what happened to it in which order."""

    def __init__(self, host: Host, told: list[tuple[str, Host]], there: Sequence[str] = ("ort-cpu",)) -> None:
        self.host, self.told, self.there = host, told, there
        self.packing: Packing | None = None

    def backends(self, asked: Sequence[str]) -> tuple[str, ...]:
        lacking = [name for name in asked if name not in self.there]
        if lacking:
            raise UnavailableError(f"{self.host} has no runtime for {lacking[0]}", "install it")
        return tuple(self.there)

    def start(self, packing: Packing) -> None:
        self.packing = packing
        self.told.append(("start", self.host))

    def follow(self, results: Path, listener: object) -> list[Outcome]:
        assert self.packing is not None
        assert self.packing.plan.backends == STUDY.backends
        self.told.append(("follow", self.host))
        return [make_outcome(run=str(self.host.device))]


def carry_out_with(study: Study, folder: Path, told: list[tuple[str, Host]]) -> list[Outcome]:
    return run_study(
        study,
        digits(),
        folder,
        Effort(threads=1),
        Listener(),
        SilentSweep,
        remote=lambda host: FakeRemote(host, told),  # type: ignore[arg-type,return-value]
    )


def test_hosts_measure_while_this_machine_does_and_a_machine_one_part_at_a_time(
    plans: list[Plan], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[tuple[str, Host]] = []
    desk = Host("desk")
    monkeypatch.setattr(study_module, "run_sweep", lambda *_: told.append(("here", PI)) or [make_outcome(run="here")])
    found = carry_out_with(replace(STUDY, hosts=(PI, PI_PART, desk)), tmp_path, told)
    assert [what for what, _ in told] == ["start", "start", "here", "follow", "follow", "start", "follow"]
    assert [host for _, host in told[:2]] == [PI, desk]
    assert [host for _, host in told[5:]] == [PI_PART, PI_PART]
    assert [one.run for one in found] == ["here", "cpu", "cpu", "cpu:threads=1"]


def test_a_study_of_hosts_alone_measures_nothing_here(plans: list[Plan], tmp_path: Path) -> None:
    found = carry_out_with(replace(STUDY, devices=(), hosts=(PI,)), tmp_path, [])
    assert [one.run for one in found] == ["cpu"]
    assert plans == []


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"backends": ("openvino",)}, UnavailableError, "pi has no runtime for openvino"),
        ({"backends": ("torch",)}, UnsupportedError, "torch needs PyTorch or a GPU"),
        ({"hosts": (PI, PI)}, UsageError, "the same host is named twice"),
    ],
)
def test_a_host_that_cannot_measure_is_refused_before_anything_is_trained(
    requests: list[Finetuning], tmp_path: Path, change: dict[str, Any], error: type[EffvitError], words: str
) -> None:
    study = replace(STUDY, devices=(), hosts=(PI,))
    with pytest.raises(error, match=words):
        carry_out_with(replace(study, **change), tmp_path, [])
    assert (requests, list(tmp_path.iterdir())) == ([], [])


def test_without_a_name_the_backends_are_those_that_all_machines_have() -> None:
    def having(*names: str) -> Callable[[Host], RemoteSweep]:
        return lambda host: FakeRemote(host, [], names)  # type: ignore[return-value]

    here = exported_backends()
    assert common_backends([CPU], [], having()) == here
    assert common_backends([], [PI], having("ort-cpu")) == ("ort-cpu",)
    with pytest.raises(UnavailableError, match="no runtime in common"):
        common_backends([CPU], [PI], having("nothing-of-ours"))


def test_settings_written_before_there_were_hosts_are_those_without(requests: list[Finetuning], tmp_path: Path) -> None:
    carry_out(STUDY, tmp_path)
    settings: dict[str, Any] = json.loads((tmp_path / SETTINGS).read_bytes())
    del settings["hosts"]
    (tmp_path / SETTINGS).write_text(json.dumps(settings))
    carry_out(STUDY, tmp_path)
    with pytest.raises(UsageError, match="other settings: hosts"):
        carry_out_with(replace(STUDY, hosts=(PI,)), tmp_path, [])


def test_settings_written_before_there_were_devices_are_those_of_the_whole_cpu(
    requests: list[Finetuning], tmp_path: Path
) -> None:
    carry_out(STUDY, tmp_path)
    settings: dict[str, Any] = json.loads((tmp_path / SETTINGS).read_bytes())
    del settings["devices"]
    (tmp_path / SETTINGS).write_text(json.dumps(settings))
    carry_out(STUDY, tmp_path)
    assert len(requests) == 3  # all are kept


def test_settings_written_before_there_was_transfer_are_those_without(
    requests: list[Finetuning], tmp_path: Path
) -> None:
    carry_out(replace(STUDY, transfer_epochs=0), tmp_path)
    settings: dict[str, Any] = json.loads((tmp_path / SETTINGS).read_bytes())
    del settings["transfer_epochs"]
    (tmp_path / SETTINGS).write_text(json.dumps(settings))
    carry_out(replace(STUDY, transfer_epochs=0), tmp_path)
    assert len(requests) == 3  # all are kept
    with pytest.raises(UsageError, match="other settings: transfer_epochs"):
        carry_out(STUDY, tmp_path)


def test_the_description_is_kept_in_the_folder_of_its_own_study_alone(
    requests: list[Finetuning], tmp_path: Path
) -> None:
    arguments = (digits(), tmp_path, Effort(threads=1), Listener(), SilentSweep)
    run_study(STUDY, *arguments, description="epochs = 3\n")
    with pytest.raises(UsageError, match="other settings"):
        run_study(replace(STUDY, weights="auto"), *arguments, description="epochs = 4\n")
    assert (tmp_path / DESCRIPTION).read_text() == "epochs = 3\n"


TRAINED = replace(
    STUDY,
    attentions=("softmax", "linformer"),
    trained=(32, 32),
    recipe={"epochs": 2, "batch": 10, "mixup": 0.2},
    transfer_epochs=1,
)


class Counting(TrainingListener):
    """Counts the optimiser steps of one fine-tuning, and cuts it short after `most` of them."""

    def __init__(self, most: int | None = None) -> None:
        self.steps, self.most = 0, most

    def step(self, step: Step) -> None:
        self.steps += 1
        if self.steps == self.most:
            raise KeyboardInterrupt


class CutShort(Listener):
    """Cuts the fine-tuning of one variant short after some optimiser steps, and counts those of all."""

    def __init__(self, attention: str = "", most: int | None = None) -> None:
        self.attention, self.most = attention, most
        self.told: dict[str, Counting] = {}
        self.kept_runs: list[str] = []

    def training(self, attention: str, index: int, count: int) -> TrainingListener:
        self.told[attention] = Counting(self.most if attention == self.attention else None)
        return self.told[attention]

    def kept(self, run: Run) -> None:
        self.kept_runs.append(run.name)


def train_all(folder: Path, listener: Listener, threads: int = 1) -> None:
    run_study(TRAINED, digits(), folder, Effort(threads), listener, SilentSweep)


def test_a_variant_that_was_cut_short_goes_on_and_ends_as_if_it_had_not_been(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By hand: 40 images, 10 a step, 2 epochs are 8 steps; cut in the sixth, the state is that of the first epoch."""
    monkeypatch.setattr(study_module, "run_sweep", lambda *_: [])
    train_all(tmp_path / "whole", CutShort())
    with pytest.raises(KeyboardInterrupt):
        train_all(tmp_path / "cut", CutShort("linformer", 6))
    assert open_run(tmp_path / "cut/runs/linformer").record.status == "interrupted"
    rest = CutShort()
    train_all(tmp_path / "cut", rest, threads=2)  # the weights are those of the threads it was begun with
    assert rest.kept_runs == ["softmax"]
    assert rest.told["linformer"].steps == 4
    for name in (WEIGHTS, LAST):
        whole, cut = (tmp_path / study / "runs/linformer" / name for study in ("whole", "cut"))
        assert whole.read_bytes() == cut.read_bytes(), name


def test_what_is_left_of_a_run_that_had_not_begun_is_made_anew(requests: list[Finetuning], tmp_path: Path) -> None:
    (tmp_path / "runs/softmax").mkdir(parents=True)
    (tmp_path / "runs/softmax/teacher.safetensors").write_bytes(b"half of it")
    carry_out(STUDY, tmp_path)
    assert len(requests) == 3
    assert not (tmp_path / "runs/softmax/teacher.safetensors").exists()


def test_a_run_that_another_process_trains_is_left_alone(requests: list[Finetuning], tmp_path: Path) -> None:
    folder = tmp_path / "runs/softmax"
    folder.mkdir(parents=True)
    code = "import sys\nfrom pathlib import Path\nfrom effvit.claim import claimed\n"
    code += "with claimed(Path(sys.argv[1])):\n    print(flush=True)\n    sys.stdin.read()"
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == "\n"
        with pytest.raises(UsageError, match="softmax is being trained by another process"):
            carry_out(STUDY, tmp_path)
        assert (folder / LOCK).exists()
        training.communicate()
    assert requests == []
