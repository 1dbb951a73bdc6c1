"""A training that is cut short and gone on with ends where one ends that never was: with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from models_for_tests import digits, finished_run, model_of, record_of
from training_program import RESOLUTION, request

from effvit import autocast
from effvit import state as state_module
from effvit.checkpoint import save_weights
from effvit.claim import LOCK
from effvit.errors import CheckpointError, DataError, EffvitError, StorageError, UnsupportedError, UsageError
from effvit.finetune import Finetuning, Listener, finetune
from effvit.mix import parse_mix
from effvit.optimisation import Step
from effvit.resume import resume, unfinished_run
from effvit.run import LAST, RECORD, WEIGHTS, EpochRecord, Run, TransferEpoch, create_run, open_run
from effvit.state import STATE, TEACHER

EVERY_STEP = 0.0
STEPS = 4  # of an epoch: 40 images, 10 a batch
TRANSFER = {"transfer_epochs": 3, "epochs": 1}


@pytest.fixture(autouse=True)
def _threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Cut(Listener):
    """Cuts a training short at (phase, epoch, step), epochs and steps from 1; step 0 is when the epoch is recorded."""

    def __init__(self, phase: str, epoch: int, step: int) -> None:
        self.place = (phase, epoch, step)

    def step(self, step: Step) -> None:
        self._at("training", step.epoch + 1, step.step)

    def epoch(self, record: EpochRecord) -> None:
        self._at("training", record.epoch, 0)

    def transfer_step(self, step: Step) -> None:
        self._at("transfer", step.epoch + 1, step.step)

    def transfer_epoch(self, epoch: TransferEpoch) -> None:
        self._at("transfer", epoch.epoch, 0)

    def transferred(self, record: object) -> None:
        self._at("transferred", 0, 0)

    def _at(self, *place: object) -> None:
        if place == self.place:
            raise KeyboardInterrupt


def cut(root: Path, place: tuple[str, int, int], asked: Finetuning | None = None, name: str = "cut") -> Run:
    """Return a run that was cut short at `place`; its state is saved after every step."""
    asked = replace(asked or request(), save_every_s=EVERY_STEP)
    with pytest.raises(KeyboardInterrupt):
        finetune(asked, digits(), out=root, name=name, listener=Cut(*place))
    run = open_run(root / name)
    assert run.record.status in ("interrupted", "running")
    return run


def untimed(run: Run) -> list[EpochRecord]:
    """Return the history without what no two trainings have in common."""
    timeless = {"train_s": 0.0, "inference_s": 0.0, "images_per_s": 0.0, "host_peak_bytes": None}
    return [replace(epoch, **timeless) for epoch in run.history()]


def require_same(run: Run, whole: Run) -> None:
    """Check that two runs came to the same, and that nothing of how is left behind."""
    for name in (WEIGHTS, LAST):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    assert untimed(run) == untimed(whole)
    assert run.record.best is not None
    assert run.record.best.epoch == whole.record.best.epoch  # type: ignore[union-attr]
    assert run.record.status == "done"
    assert run.record.spec == whole.record.spec
    assert {path.name for path in run.folder.iterdir()} == {path.name for path in whole.folder.iterdir()}
    assert not {STATE, TEACHER, LOCK} & {path.name for path in run.folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return the run that was never interrupted."""
    return finetune(request(), digits(), out=tmp_path_factory.mktemp("whole"), name="whole")


@pytest.mark.parametrize(
    "place",
    [("training", 1, 1), ("training", 2, 2), ("training", 2, STEPS), ("training", 2, 0), ("training", 3, 0)],
    ids=["first_step", "within_an_epoch", "before_validation", "epoch_recorded_state_not_saved", "all_but_done"],
)
def test_a_run_that_goes_on_ends_as_one_that_was_never_cut_short(
    place: tuple[str, int, int], whole: Run, tmp_path: Path
) -> None:
    run = cut(tmp_path, place)
    require_same(resume(run, Finetuning(()), digits()), whole)


def test_a_run_can_be_cut_short_again_and_again(whole: Run, tmp_path: Path) -> None:
    run = cut(tmp_path, ("training", 1, 3))
    for place in (("training", 1, 4), ("training", 2, 1), ("training", 3, 2)):
        with pytest.raises(KeyboardInterrupt):
            resume(run, Finetuning((), save_every_s=EVERY_STEP), digits(), listener=Cut(*place))
    (run.folder / ".tmpAb12Cd").touch()  # safetensors' own, of a process that was killed while it wrote
    require_same(resume(run, Finetuning(()), digits()), whole)
    assert not list(run.folder.glob(".*"))


def test_a_run_goes_on_from_an_earlier_state_than_what_else_is_on_disk(whole: Run, tmp_path: Path) -> None:
    run = cut(tmp_path, ("training", 1, 2))
    early = (run.folder / STATE).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        resume(run, Finetuning(()), digits(), listener=Cut("training", 3, 0))
    (run.folder / STATE).write_bytes(early)
    require_same(resume(run, Finetuning(()), digits()), whole)


def test_weights_that_replaced_the_best_unrecorded_are_made_again(whole: Run, tmp_path: Path) -> None:
    run = cut(tmp_path, ("training", 2, 2))
    save_weights(run.weights, model_of("linformer", resolution=RESOLUTION, seed=9))
    resumed = resume(run, Finetuning(()), digits())
    assert resumed.record.best is not None
    assert resumed.record.best.epoch >= 2
    resumed.model()  # the recorded hash is that of the file
    assert (resumed.folder / LAST).read_bytes() == (whole.folder / LAST).read_bytes()


def test_how_many_processes_load_images_changes_nothing(whole: Run, tmp_path: Path) -> None:
    run = cut(tmp_path, ("training", 2, 2), replace(request(), workers=2))
    require_same(resume(run, Finetuning((), workers=1), digits()), whole)


@pytest.mark.parametrize(
    "place",
    [
        ("transfer", 1, 1),
        ("transfer", 2, 3),
        ("transfer", 2, 0),
        ("transfer", 3, 2),
        ("transfer", 3, 0),
        ("transferred", 0, 0),
        ("training", 1, 2),
    ],
    ids=str,
)
def test_attention_transfer_goes_on_too(
    place: tuple[str, int, int], taught: tuple[Run, Finetuning], tmp_path: Path
) -> None:
    whole, asked = taught
    run = resume(cut(tmp_path, place, asked), Finetuning(()), digits())
    require_same(run, whole)
    one, other = run.record.transfer, whole.record.transfer
    assert one is not None
    assert other is not None
    assert one.errors_before == other.errors_before
    assert (one.errors_after, one.top1_before, one.top1_after) == (
        other.errors_after,
        other.top1_before,
        other.top1_after,
    )
    assert [epoch.error for epoch in one.epochs] == [epoch.error for epoch in other.epochs]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Finetuning]:
    """Return a run whose initial weights taught it, and how it was asked for."""
    root = tmp_path_factory.mktemp("taught")
    weights = root / "exact.safetensors"
    save_weights(weights, model_of(resolution=RESOLUTION))
    asked = replace(request(**TRANSFER), weights=str(weights))
    return finetune(asked, digits(), out=root, name="whole"), asked


def test_the_moving_average_goes_on_too(tmp_path: Path) -> None:
    asked = request(ema_decay=0.9, accumulate=2, new_rate=3.0)
    whole = finetune(asked, digits(), out=tmp_path, name="whole")
    require_same(resume(cut(tmp_path, ("training", 2, 3), asked), Finetuning(()), digits()), whole)


@pytest.mark.parametrize("changes", [{"channels_last": True}, {"amp": "bf16"}, {"amp": "fp16"}], ids=str)
def test_layouts_and_half_precision_go_on_too(
    changes: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autocast, "_supports", lambda *_: True)  # slow without the instructions, and the same
    asked = request(epochs=2, **changes)
    whole = finetune(asked, digits(), out=tmp_path, name="whole")
    require_same(resume(cut(tmp_path, ("training", 2, 2), asked), Finetuning(()), digits()), whole)


def exact_run(root: Path) -> Run:
    record = record_of(trained=RESOLUTION, patch=16)
    data = replace(record.data, fingerprint=digits().fingerprint)
    return finished_run(root, "exact", replace(record, data=data))[0]


def pupil(teacher: Run) -> Finetuning:
    recipe = {"epochs": 2, "batch": 10}
    return Finetuning(parse_mix("linformer"), device="cpu", threads=1, recipe=recipe, teacher=teacher.folder)


def test_a_run_that_distils_goes_on_with_its_teacher(tmp_path: Path) -> None:
    asked = pupil(exact_run(tmp_path))
    whole = finetune(asked, digits(), out=tmp_path, name="whole")
    run = cut(tmp_path, ("training", 2, 2), asked)
    require_same(resume(run, Finetuning(()), digits()), whole)


def test_a_teacher_that_was_trained_further_is_refused(tmp_path: Path) -> None:
    teacher = exact_run(tmp_path)
    asked = pupil(teacher)
    run = cut(tmp_path, ("training", 1, 2), asked)
    teacher.updated(replace(teacher.record, spec=replace(teacher.record.spec, weights="0" * 64)))
    with pytest.raises(CheckpointError, match="the teacher exact has other weights than when the run cut was begun"):
        resume(run, Finetuning(()), digits())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"model": "test_vit2"}, "the model test_vit, not test_vit2"),
        ({"swaps": parse_mix("performer")}, "the attention linformer, not performer"),
        ({"swaps": parse_mix("linformer", (("pool", "2"),))}, "the attention options pool=1, not pool=2"),
        ({"resolution": (64, 48)}, "the image size 32 x 32 px, not 64 x 48 px"),
        ({"patch": 8}, "the patch size 16 px, not 8 px"),
        ({"weights": "pretrained"}, "the weights none, not pretrained"),
        ({"threads": 2}, "a number of threads of 1, not 2"),
        ({"recipe": {"epochs": 3, "batch": 12}}, "batch 10, not 12"),
        ({"recipe": {"seed": 7}}, "seed 0, not 7"),
        ({"preset": "strong", "recipe": {"epochs": 3, "batch": 10}}, "warmup_epochs 2, not 5"),
    ],
)
def test_other_settings_are_refused_by_name(asked: dict[str, Any], message: str, begun: Run) -> None:
    before = (begun.folder / RECORD).read_bytes()
    with pytest.raises(UsageError, match=f"the run begun was begun with {message}$"):
        resume(begun, replace(Finetuning(()), **asked), digits())
    assert (begun.folder / RECORD).read_bytes() == before


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run that was cut short; whoever goes on with it must copy it."""
    return cut(tmp_path_factory.mktemp("begun"), ("training", 1, 2), name="begun")


def test_the_settings_it_was_begun_with_may_be_said_again(whole: Run, tmp_path: Path) -> None:
    run = cut(tmp_path, ("training", 2, 1))
    require_same(resume(run, request(), digits()), whole)


def test_other_images_are_refused(begun: Run) -> None:
    with pytest.raises(DataError, match="the images of digits are not those that the run begun was begun with"):
        resume(begun, Finetuning(()), replace(digits(), fingerprint="0" * 64))


def test_a_finished_run_is_refused(whole: Run) -> None:
    with pytest.raises(UsageError, match="the run whole is finished") as caught:
        resume(whole, Finetuning(()), digits())
    assert f"--weights {whole.folder}" in caught.value.hint


@pytest.mark.parametrize("damage", ["truncated", "empty", "another"])
def test_a_damaged_state_is_one_sentence(damage: str, tmp_path: Path) -> None:
    run = cut(tmp_path, ("training", 1, 2))
    path = run.folder / STATE
    written = path.read_bytes()
    damaged = {"truncated": written[:-1], "empty": b"", "another": written.replace(b"training", b"trainimg")}
    path.write_bytes(damaged[damage])
    with pytest.raises(CheckpointError, match=r"state\.safetensors is damaged or of another effvit") as caught:
        resume(run, Finetuning(()), digits())
    assert "\n" not in caught.value.message


def test_a_run_without_a_state_is_refused(tmp_path: Path) -> None:
    run = create_run(tmp_path, "old", record_of())
    with pytest.raises(CheckpointError, match="the run old has no saved state"):
        resume(run, Finetuning(()), digits())


def test_the_newest_unfinished_run_is_found(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no unfinished run in"):
        unfinished_run(tmp_path, None)
    for name, day in (("first", 2), ("second", 3), ("third", 1)):
        run = create_run(tmp_path, name, record_of(started=f"2026-01-0{day}T00:00:00+00:00"))
        (run.folder / STATE).touch()
    run = open_run(tmp_path / "second")
    assert unfinished_run(tmp_path, None) == run
    assert unfinished_run(tmp_path, "first").name == "first"
    assert unfinished_run(tmp_path, str(tmp_path / "third")).name == "third"
    run.updated(replace(run.record, status="done"))
    assert unfinished_run(tmp_path, None).name == "first"
    with pytest.raises(UsageError, match="second is finished"):
        unfinished_run(tmp_path, "second")


class Signalling(Listener):
    """Presses Ctrl-C, `times`, at the second step of the second epoch, and counts what follows."""

    def __init__(self, times: int = 1) -> None:
        self.times, self.asked, self.steps = times, 0, 0

    def step(self, step: Step) -> None:
        self.steps += bool(self.asked)
        if (step.epoch, step.step) == (1, 2):
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)

    def stopping(self) -> None:
        self.asked += 1


def test_the_first_interruption_waits_for_a_state(whole: Run, tmp_path: Path) -> None:
    handler, listener = signal.getsignal(signal.SIGINT), Signalling()
    with pytest.raises(KeyboardInterrupt):
        finetune(replace(request(), save_every_s=3600), digits(), out=tmp_path, name="cut", listener=listener)
    assert (listener.asked, listener.steps) == (1, 0)
    assert signal.getsignal(signal.SIGINT) is handler
    run = open_run(tmp_path / "cut")
    assert state_module.read_state(run.folder).position.begun.steps == 3
    assert run.record.status == "interrupted"
    require_same(resume(run, Finetuning(()), digits()), whole)


def test_the_second_interruption_does_not_wait(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        finetune(
            replace(request(), save_every_s=3600), digits(), out=tmp_path, name="cut", listener=Signalling(times=2)
        )
    assert state_module.read_state(tmp_path / "cut").position.begun.steps == 0


def test_a_full_disk_leaves_the_last_state_intact(whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, saved = state_module.save_tensors, []

    def until_full(path: Path, *content: Any) -> None:
        if len(saved) == 6:
            raise StorageError(f"{path} cannot be written: no space left on device", "free some space")
        saved.append(honest(path, *content))

    with monkeypatch.context() as patch:
        patch.setattr(state_module, "save_tensors", until_full)
        with pytest.raises(StorageError, match="no space left"):
            finetune(replace(request(), save_every_s=EVERY_STEP), digits(), out=tmp_path, name="cut")
    run = open_run(tmp_path / "cut")
    assert run.record.status == "failed"
    require_same(resume(run, Finetuning(()), digits()), whole)


class Killing(Listener):
    """Kills the processes that load images once the second epoch has begun."""

    def step(self, step: Step) -> None:
        if (step.epoch, step.step) == (1, 1):
            for child in psutil.Process().children():
                child.kill()


def test_the_death_of_a_process_that_loads_images_is_one_sentence(whole: Run, tmp_path: Path) -> None:
    asked = replace(request(epochs=3), workers=1, save_every_s=EVERY_STEP)
    with pytest.raises(UnsupportedError, match="a process that loads images died: ") as caught:
        finetune(asked, digits(), out=tmp_path, name="cut", listener=Killing())
    assert "--workers" in caught.value.hint
    run = open_run(tmp_path / "cut")
    assert run.record.status == "failed"
    require_same(resume(run, Finetuning(()), digits()), whole)


def test_two_processes_do_not_train_one_run(begun: Run) -> None:
    holding = (
        "import sys; from pathlib import Path; from effvit.claim import claimed\n"
        "with claimed(Path(sys.argv[1])): print(flush=True); input()"
    )
    command = [sys.executable, "-c", holding, str(begun.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UsageError, match="the run begun is being trained by another process"):
            resume(begun, Finetuning(()), digits())
        other.kill()
    with pytest.raises(EffvitError, match="not 7"):  # no longer held
        resume(begun, Finetuning((), recipe={"seed": 7}), digits())
