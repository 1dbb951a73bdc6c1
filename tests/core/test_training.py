from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models_for_tests import digits, model_of, record_of
from pictures import noise
from torch._dynamo.exc import Unsupported

from effvit import checkpoint, training
from effvit.checkpoint import read_weights
from effvit.data.base import ImageData, Sample
from effvit.errors import CheckFailedError, DataError, StorageError, UnsupportedError, UsageError
from effvit.optimisation import Step
from effvit.recipe import Recipe
from effvit.run import HISTORY, LAST, WEIGHTS, EpochRecord, Run, create_run, open_run
from effvit.training import distillation_loss, train

RECIPE = Recipe(
    epochs=2,
    batch=10,
    learning_rate=3e-3,
    warmup_epochs=0,
    layer_decay=None,
    label_smoothing=0.0,
    crop_scale=(1.0, 1.0),
    horizontal_flip=0.0,
)


def nothing(_: object) -> None:
    pass


def trained(root: Path, recipe: Recipe = RECIPE, data: ImageData | None = None, name: str = "run", **watch: Any) -> Run:
    """Train test_vit on 40 digits at 32 px, and return the run."""
    run = create_run(root, name, record_of(trained=(32, 32), recipe=recipe))
    model = model_of(resolution=(32, 32))
    callbacks = {"on_step": nothing, "on_epoch": nothing} | watch
    return train(run, model, digits() if data is None else data, device=torch.device("cpu"), **callbacks)


def status(root: Path) -> str:
    return open_run(root / "run").record.status


def test_training_lowers_the_loss_and_leaves_a_run_after_every_epoch(tmp_path: Path) -> None:
    epochs: list[EpochRecord] = []
    steps: list[Step] = []

    def on_epoch(record: EpochRecord) -> None:
        epochs.append(record)
        run = open_run(tmp_path / "run")
        assert run.history() == epochs
        assert run.record.best is not None
        assert run.model().num_classes == 10
        assert (run.folder / LAST).is_file()
        assert run.record.status == "running"

    run = trained(tmp_path, on_step=steps.append, on_epoch=on_epoch)
    assert run == open_run(run.folder)
    assert run.record.status == "done"
    assert run.record.best == max(epochs, key=lambda epoch: epoch.top1)
    assert epochs[1].train_loss < epochs[0].train_loss
    assert [(step.epoch, step.step, step.steps) for step in steps] == [(e, s, 4) for e in (0, 1) for s in (1, 2, 3, 4)]
    assert (steps[0].top1, steps[-1].top1) == (None, epochs[0].top1)
    # 10 classes: a label among the first five is at least as frequent as one ranked first
    assert all(epoch.top5 is not None and epoch.top1 <= epoch.top5 <= 1 for epoch in epochs)
    assert all(0 <= epoch.balanced_top1 <= 1 and epoch.device_peak_bytes is None for epoch in epochs)


def test_the_best_weights_are_kept_when_later_ones_are_worse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, scores = training.validate, iter([7, 3])

    def scripted(*arguments: Any, **settings: Any) -> training.Validation:
        result = honest(*arguments, **settings)
        return replace(result, accuracy=replace(result.accuracy, top1_correct=next(scores)))

    monkeypatch.setattr(training, "validate", scripted)
    run = trained(tmp_path)
    assert run.record.best is not None
    assert (run.record.best.epoch, run.record.best.top1) == (1, 7 / 20)
    best, last = read_weights(run.folder / WEIGHTS), read_weights(run.folder / LAST)
    assert not torch.equal(best["head.weight"], last["head.weight"])
    run.model()  # the recorded hash is that of the best


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=1, crop_scale=(0.5, 1.0))
    first, again, other = (
        read_weights(trained(tmp_path, replace(recipe, seed=seed), name=name).folder / LAST)["head.weight"]
        for seed, name in ((1, "first"), (1, "again"), (2, "other"))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_loss_that_explodes_fails_and_leaves_earlier_epochs_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = training._Trainer._loss
    calls = iter(range(100))

    def exploding(self: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = honest(self, images, labels)
        return loss * float("nan") if next(calls) == 5 else loss

    monkeypatch.setattr(training._Trainer, "_loss", exploding)
    with pytest.raises(CheckFailedError, match="the loss became nan in epoch 2, step 2") as caught:
        trained(tmp_path)
    assert "lower --lr" in caught.value.hint
    run = open_run(tmp_path / "run")
    assert run.record.status == "failed"
    assert [epoch.epoch for epoch in run.history()] == [1]
    assert run.model().num_classes == 10


def test_weights_ruined_by_the_last_step_of_an_epoch_are_not_kept(tmp_path: Path) -> None:
    # One step an epoch: its own loss is still fine, the weights it leaves are not.
    ruinous = replace(RECIPE, epochs=1, batch=40, learning_rate=1e30)
    with pytest.raises(CheckFailedError, match="on the held-out images after epoch 1"):
        trained(tmp_path, ruinous)
    assert status(tmp_path) == "failed"
    assert not (tmp_path / "run" / WEIGHTS).exists()


def test_an_interruption_keeps_what_was_finished(tmp_path: Path) -> None:
    def interrupt(step: Step) -> None:
        if (step.epoch, step.step) == (1, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, on_step=interrupt)
    run = open_run(tmp_path / "run")
    assert run.record.status == "interrupted"
    assert [epoch.epoch for epoch in run.history()] == [1]
    assert run.model().num_classes == 10


def test_a_bug_in_a_listener_marks_the_run_as_failed(tmp_path: Path) -> None:
    def broken(_: Step) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trained(tmp_path, on_step=broken)
    assert status(tmp_path) == "failed"


def test_too_little_memory_is_one_sentence(tmp_path: Path) -> None:
    def exhausted(_: Step) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(UnsupportedError, match="a batch of 10 needs more memory than cpu has") as caught:
        trained(tmp_path, on_step=exhausted)
    assert caught.value.hint == "use a smaller --batch"
    assert status(tmp_path) == "failed"


@pytest.mark.parametrize("recipe", [replace(RECIPE, mixup=0.8, batch=5), replace(RECIPE, cutmix=1.0, batch=1)])
def test_mixup_refuses_an_odd_batch(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"cannot use a batch of {recipe.batch}"):
        trained(tmp_path, recipe)
    assert status(tmp_path) == "failed"


def test_mixup_pairs_the_images_that_there_are(tmp_path: Path) -> None:
    steps: list[Step] = []
    trained(tmp_path, replace(RECIPE, epochs=1, mixup=0.8, cutmix=1.0, batch=64), digits(train=7), on_step=steps.append)
    assert len(steps) == 1


def test_the_distance_from_the_teacher_is_hintons() -> None:
    generator = np.random.default_rng(0)
    logits, target = generator.normal(0, 3, (2, 5, 7))
    softened = [np.exp(values / 2.5) / np.exp(values / 2.5).sum(axis=1, keepdims=True) for values in (logits, target)]
    expected = (softened[1] * np.log(softened[1] / softened[0])).sum() / 5 * 2.5**2
    loss = distillation_loss(torch.from_numpy(logits), torch.from_numpy(target), 2.5)
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_the_weight_shares_the_loss_between_labels_and_teacher(tmp_path: Path) -> None:
    losses = {}
    for weight in (0.0, 0.25, 1.0):
        # One step over all images: its loss is that of the same untrained model, on the same mixed images.
        recipe = replace(RECIPE, epochs=1, batch=40, mixup=0.8, distill_weight=weight)
        run = trained(tmp_path, recipe, name=str(weight), teacher=model_of(resolution=(32, 32), seed=9))
        losses[weight] = run.history()[0].train_loss
    assert losses[0.25] == pytest.approx(0.75 * losses[0.0] + 0.25 * losses[1.0], rel=1e-4)
    assert losses[1.0] < losses[0.0]


def test_a_model_that_answers_as_its_teacher_has_nothing_to_learn_from_it(tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=1, batch=40, distill_weight=1.0, cutmix=1.0)
    run = trained(tmp_path, recipe, teacher=model_of(resolution=(32, 32)))
    assert run.history()[0].train_loss == pytest.approx(0.0, abs=1e-6)


def test_a_batch_in_parts_teaches_what_it_teaches_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, sizes = training._Trainer._loss, []

    def counted(self: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return honest(self, images, labels)

    monkeypatch.setattr(training._Trainer, "_loss", counted)
    recipe = replace(RECIPE, epochs=1, mixup=0.8, distill_weight=0.5)
    teacher = model_of(resolution=(32, 32), seed=9)
    whole, parts = (
        trained(tmp_path, replace(recipe, accumulate=count), name=str(count), teacher=teacher) for count in (1, 3)
    )
    assert sizes == [10] * 4 + [4, 3, 3] * 4
    # Sums in another order; Adam's first steps, which only know a gradient's sign, spread that a little.
    assert parts.history()[0].train_loss == pytest.approx(whole.history()[0].train_loss, rel=1e-3)


def test_the_moving_average_is_what_is_kept(tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=1, ema_decay=0.999)
    averaged = read_weights(trained(tmp_path, recipe, name="averaged").weights)["head.bias"]
    steps: list[torch.Tensor] = []
    model = model_of(resolution=(32, 32))
    run = create_run(tmp_path, "plain", record_of(trained=(32, 32), recipe=replace(RECIPE, epochs=1)))
    train(
        run,
        model,
        digits(),
        device=torch.device("cpu"),
        on_step=lambda _: steps.append(model.head.bias.detach().clone()),
        on_epoch=nothing,
    )
    expected = steps[0]
    for number, weights in enumerate(steps[1:], start=1):
        decay = 1 - (1 + number) ** (-2 / 3)  # timm's warm-up, which four steps do not leave
        expected = decay * expected + (1 - decay) * weights
    assert torch.allclose(averaged, expected, rtol=1e-5, atol=1e-8)
    assert not torch.allclose(averaged, steps[-1], rtol=1e-3)


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_vanished_image_is_named(part: str, tmp_path: Path) -> None:
    path = tmp_path / "vanished.png"
    noise().save(path)
    data = replace(digits(), **{part: (Sample(path, 0),) * 10})
    path.unlink()
    with pytest.raises(DataError, match=r"vanished\.png"):
        trained(tmp_path, data=data)
    assert status(tmp_path) == "failed"


def test_a_full_disk_is_said_and_the_first_epoch_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = checkpoint.save_weights

    def save(path: Path, model: torch.nn.Module) -> None:
        if (tmp_path / "run" / HISTORY).exists():
            raise StorageError(f"{path} cannot be written: no space left on device", "free some space")
        honest(path, model)

    monkeypatch.setattr(checkpoint, "save_weights", save)
    with pytest.raises(StorageError, match="no space left"):
        trained(tmp_path)
    run = open_run(tmp_path / "run")
    assert run.record.status == "failed"
    assert run.model().num_classes == 10


def test_a_disk_too_full_for_the_status_shows_the_first_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_run: Run, _record: object) -> Run:
        raise StorageError("run.json cannot be written", "free some space")

    def fill(_: Step) -> None:
        monkeypatch.setattr(Run, "updated", refuse)
        raise DataError("an image vanished", "restore it")

    with pytest.raises(DataError, match="an image vanished"):
        trained(tmp_path, on_step=fill)


@pytest.mark.slow
def test_a_compiled_model_learns_what_it_learns_as_written(tmp_path: Path) -> None:
    plain, compiled = (trained(tmp_path, replace(RECIPE, compile=on), name=str(on)) for on in (False, True))
    assert compiled.history()[0].train_loss == pytest.approx(plain.history()[0].train_loss, rel=1e-3)
    assert read_weights(compiled.weights).keys() == read_weights(plain.weights).keys()


def test_what_cannot_be_compiled_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(module: torch.nn.Module) -> Any:
        def call(_: torch.Tensor) -> torch.Tensor:
            raise Unsupported("no C++ compiler was found\nand more", "g++")

        return call

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(UnsupportedError, match="PyTorch cannot compile the model: no C") as caught:
        trained(tmp_path, replace(RECIPE, compile=True))
    assert caught.value.hint == "leave --compile out"
    assert status(tmp_path) == "failed"
