"""Which fine-tunings a study asks for; that they are carried out and measured, tests/cli/test_commands.py sees."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from models_for_tests import digits, finished_run, record_of

from effvit.errors import UsageError
from effvit.finetune import Finetuning
from effvit.profiling import study as study_module
from effvit.profiling.devices import CPU, Device
from effvit.profiling.plan import Effort, Plan
from effvit.profiling.records import Outcome
from effvit.profiling.study import SETTINGS, Listener, Study, run_study
from effvit.run import Run

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
    run_study(study, digits(), folder, Effort(threads=1), Listener(), lambda: None)  # type: ignore[arg-type,return-value]


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
