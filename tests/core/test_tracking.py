"""The curves that trackers are told of are those of the history."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import torch
from models_for_tests import digits, record_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_program import request

from effvit import tracking
from effvit.errors import UnavailableError, UnknownNameError
from effvit.finetune import Listener, finetune
from effvit.resume import resume
from effvit.run import EpochRecord, Run, create_run, open_run
from effvit.tracking import FOLDER, Trackers, require_trackers

TRACKED = replace(request(epochs=2), track=("tensorboard",))


@pytest.fixture(autouse=True)
def _threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def curves(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard would draw: name -> (step, value)."""
    events = EventAccumulator(str(run.folder / FOLDER))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def expected(run: Run) -> dict[str, list[tuple[int, float]]]:
    named: dict[str, list[tuple[int, float]]] = {}
    for epoch in run.history():
        for name, value in asdict(epoch).items():
            if name != "epoch" and value is not None:
                named.setdefault(name, []).append((epoch.epoch, pytest.approx(value, rel=1e-6)))
    return named


def test_tensorboard_draws_the_history(tmp_path: Path) -> None:
    run = finetune(TRACKED, digits(), out=tmp_path, name="tracked")
    assert {"train_loss", "val_loss", "top1", "balanced_top1", "images_per_s", "learning_rate"} <= curves(run).keys()
    assert curves(run) == expected(run)


class Cut(Listener):
    """Cuts a training short when its second epoch is on disk, and its state is not."""

    def epoch(self, record: EpochRecord) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt


def test_a_run_that_goes_on_is_drawn_once(tmp_path: Path) -> None:
    asked = replace(TRACKED, recipe={**(TRACKED.recipe or {}), "epochs": 3})
    with pytest.raises(KeyboardInterrupt):
        finetune(asked, digits(), out=tmp_path, name="cut", listener=Cut())
    run = resume(open_run(tmp_path / "cut"), replace(asked, recipe=None), digits())
    assert curves(run) == expected(run)
    assert [step for step, _ in curves(run)["top1"]] == [1, 2, 3]


def test_what_is_missing_is_named_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownNameError, match="there is no tracker named 'tensorbord'") as caught:
        require_trackers(("tensorbord",))
    assert caught.value.hint == "did you mean tensorboard?"
    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name == "wandb" else object())
    require_trackers(("tensorboard", "mlflow"))
    with pytest.raises(UnavailableError, match="tracking with wandb needs wandb, which is not installed") as missing:
        finetune(replace(TRACKED, track=("wandb",)), digits(), out=tmp_path)
    assert missing.value.hint == "install it: pip install wandb"
    assert missing.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_other_trackers_are_told_by_the_same_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import tracking as theirs

    kind = {"mlflow": theirs.MLflowTracker, "wandb": theirs.WandBTracker}[name]
    tracker = create_autospec(kind, instance=True)
    monkeypatch.setattr(theirs, kind.__name__, create_autospec(kind, return_value=tracker))
    run = create_run(tmp_path, "run", record_of())
    trackers = Trackers((name,), run, 0)
    trackers.epoch(epoch_of(3))
    trackers.close()
    assert tracker.store_init_configuration.call_args.args[0]["learning_rate"] == run.record.recipe.learning_rate
    (values,), settings = tracker.log.call_args
    assert settings == {"step": 3}
    assert values["top1"] == 0.5
    assert "device_peak_bytes" not in values  # absent is not zero
    tracker.finish.assert_called_once_with()


def epoch_of(number: int) -> EpochRecord:
    return EpochRecord(number, 1.0, 1.1, 0.5, None, 0.5, 2.0, 1.0, 20.0, 1e-3, None, None)
