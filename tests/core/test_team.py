"""Two processes train one model: as one process does with twice the batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models_for_tests import model_of
from team_program import IMAGES, Incident, launch, train_along, undrawn, use_command_line
from training_program import RESOLUTION

from effvit.checkpoint import load_weights, read_weights, save_weights
from effvit.errors import UnavailableError, UsageError
from effvit.finetune import Finetuning, finetune
from effvit.images import EvaluationBatches
from effvit.resume import resume
from effvit.run import LAST, WEIGHTS, Run, open_run
from effvit.state import STATE
from effvit.surgery import model_from_spec
from effvit.team import ALONE, Place, Team, join_team, launched_place
from effvit.training import EVALUATION_BATCH, validate

# Gradients are added up in another order: float32 has 24 bits, and Adam divides by gradients that are almost nothing.
TOLERANCE = {"rtol": 2e-3, "atol": 2e-5}
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def launch_as(monkeypatch: pytest.MonkeyPatch, *place: int) -> None:
    """Leave in the environment what torchrun would: rank, size, and both on this machine."""
    for name, value in zip(NAMES, place, strict=True):
        monkeypatch.setenv(name, str(value))


@pytest.fixture(autouse=True)
def _threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return the run of one process with a batch of 10."""
    return finetune(undrawn(batch=10), IMAGES, out=tmp_path_factory.mktemp("alone"), name="alone")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return the run of two processes with a batch of 5 each."""
    root = tmp_path_factory.mktemp("shared")
    assert launch(train_along, root, undrawn(accumulate=2)) == [0, 0]
    return open_run(root / "shared")


def test_two_processes_train_as_one_with_twice_the_batch(alone: Run, shared: Run) -> None:
    ours, theirs = (read_weights(run.folder / LAST) for run in (shared, alone))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")
    for epoch, other in zip(shared.history(), alone.history(), strict=True):
        assert epoch.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert epoch.val_loss == pytest.approx(other.val_loss, rel=1e-4)
    assert shared.record.processes == 2
    assert shared.record.status == "done"


def test_the_first_process_alone_writes(alone: Run, shared: Run) -> None:
    written = {path.name for path in shared.folder.iterdir()}
    assert written == {path.name for path in alone.folder.iterdir()}
    assert [path.name for path in shared.folder.parent.iterdir()] == ["shared"]
    assert [epoch.epoch for epoch in shared.history()] == [1, 2]
    shared.model()  # the recorded hash is that of the weights


def test_every_held_out_image_counts_once(shared: Run) -> None:
    """The accuracy and loss of two processes are those of one, to the last bit."""
    torch.set_num_threads(1)
    spec = shared.record.spec
    model = model_from_spec(spec)
    load_weights(model, read_weights(shared.folder / LAST), "the shared run")
    batches = EvaluationBatches(IMAGES.val, shared.record.preprocessing, *spec.trained, batch=EVALUATION_BATCH)
    whole = validate(model, batches, shared.record.preprocessing, torch.device("cpu"))
    last = shared.history()[-1]
    assert whole.accuracy.images == 260
    assert (last.top1, last.val_loss) == (whole.accuracy.top1_correct / 260, whole.loss)


def test_processes_that_stop_together_go_on_together(shared: Run, tmp_path: Path) -> None:
    launch(train_along, tmp_path, undrawn(accumulate=2), Incident(1, "stop"))
    assert said(tmp_path) == ["KeyboardInterrupt: ", "KeyboardInterrupt: "]
    run = open_run(tmp_path / "shared")
    assert run.record.status == "interrupted"
    with pytest.raises(UsageError, match="the run shared was begun by 2 processes, not 1") as caught:
        resume(run, Finetuning(()), IMAGES)
    assert caught.value.hint == "start it with torchrun --nproc-per-node 2"
    assert launch(train_along, tmp_path, undrawn()) == [0, 0]
    for name in (WEIGHTS, LAST):
        assert (run.folder / name).read_bytes() == (shared.folder / name).read_bytes()
    assert not (run.folder / STATE).exists()


def said(root: Path) -> list[str]:
    """Return what ended the training, process by process."""
    return [(root / f"{rank}.err").read_text() for rank in range(2)]


@pytest.mark.slow
def test_processes_transfer_attention_together(tmp_path: Path) -> None:
    weights = tmp_path / "exact.safetensors"
    save_weights(weights, model_of(resolution=RESOLUTION))
    asked = replace(undrawn(transfer_epochs=2, transfer_learning_rate=3e-3, epochs=1), weights=str(weights))
    assert launch(train_along, tmp_path, asked) == [0, 0]
    record = open_run(tmp_path / "shared").record
    assert (record.status, record.processes) == ("done", 2)
    assert record.transfer is not None
    assert [epoch.stage for epoch in record.transfer.epochs] == ["layers", "features"]
    assert sum(record.transfer.errors_after) < sum(record.transfer.errors_before)


def test_the_error_of_one_process_ends_all(tmp_path: Path) -> None:
    launch(train_along, tmp_path, undrawn(), Incident(1, "error"))
    assert said(tmp_path) == ["DataError: an image vanished", "DataError: an image vanished"]
    run = open_run(tmp_path / "shared")
    assert run.record.status == "failed"
    assert [epoch.epoch for epoch in run.history()] == [1]


def test_the_death_of_one_process_is_one_sentence(tmp_path: Path) -> None:
    codes = launch(train_along, tmp_path, undrawn(), Incident(1, "death"))
    assert codes[1] == -9
    assert (tmp_path / "0.err").read_text().startswith("PeerError: another process of this training has ended: ")
    assert open_run(tmp_path / "shared").record.status == "failed"


def test_one_process_says_what_ended_all(tmp_path: Path) -> None:
    options = ("finetune", "--runs", str(tmp_path / "runs"), "--device", "cpu", "--data")
    codes = launch(use_command_line, tmp_path, *options, each=[("digits",), (str(tmp_path / "nowhere"),)])
    assert codes == [2, 2]
    first, second = said(tmp_path)
    assert first.startswith("error: ")
    assert "nowhere' is neither a data set nor a path that exists" in first
    assert first.count("error: ") == 1
    assert second == ""
    assert [(tmp_path / f"{rank}.out").read_text() for rank in range(2)] == ["", ""]


def test_what_trains_nothing_together_is_refused_in_one_sentence(tmp_path: Path) -> None:
    assert launch(use_command_line, tmp_path, "study", "--out", str(tmp_path / "study")) == [2, 2]
    first, second = said(tmp_path)
    assert first.startswith("error: `effvit study` works in one process, and was started in 2\n\nhint: start it")
    assert second == ""
    assert not (tmp_path / "study").exists()


def test_without_a_launcher_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    assert launched_place() == ALONE
    assert type(join_team()) is Team


def test_a_launcher_says_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    launch_as(monkeypatch, 5, 8, 1, 4)
    assert launched_place() == Place(5, 8, 1, 4)
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(UsageError, match="names no process of a launch: RANK=first WORLD_SIZE=8"):
        launched_place()


@pytest.mark.parametrize(
    ("device", "gpus", "kind", "message"),
    [
        ("cuda:1", 8, UsageError, "4 processes cannot all train on cuda:1"),
        ("cuda", 2, UnavailableError, "4 processes were started on a machine with 2 CUDA GPUs"),
    ],
)
def test_a_gpu_for_every_process_or_none(
    device: str, gpus: int, kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    launch_as(monkeypatch, 0, 4, 0, 4)
    with pytest.raises(kind, match=message):
        join_team(device)


def test_without_accelerate_several_processes_are_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effvit.accelerated.find_spec", lambda _: None)
    launch_as(monkeypatch, 0, 2, 0, 2)
    with pytest.raises(UnavailableError, match="needs Accelerate") as caught:
        join_team("cpu")
    assert caught.value.hint == "install it: pip install 'effvit[distributed]'"
