from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models_for_tests import digits, images_of, model_of, record_of

from effvit.diagnosis import diagnosis
from effvit.errors import CheckFailedError
from effvit.recipe import Recipe
from effvit.run import create_run, open_run
from effvit.training import train

RECIPE = Recipe(epochs=2, batch=10, learning_rate=1e-3, warmup_epochs=0, layer_decay=None)


def test_a_healthy_model_has_nothing_to_be_said_of() -> None:
    model = model_of("linformer")
    model(images_of()).sum().backward()
    assert diagnosis(model, images_of()) == ""


@pytest.mark.parametrize(
    ("parameter", "part", "own"),
    [
        ("patch_embed.proj.weight", "the patch embedding", "proj.weight"),
        ("blocks.2.attn.compression", "the attention of block 2", "compression"),
        ("blocks.4.mlp.fc1.bias", "the MLP of block 4", "fc1.bias"),
        ("head.weight", "the classifier", "weight"),
    ],
)
def test_the_first_part_that_fails_is_named_with_its_parameter(parameter: str, part: str, own: str) -> None:
    model = model_of("linformer")
    with torch.no_grad():
        dict(model.named_parameters())[parameter].view(-1)[0] = float("nan")
        if parameter != "head.weight":
            model.head.bias.fill_(float("inf"))  # later: a consequence, or another matter
    expected = f": {part} is the first part whose output is not finite, and its parameter {own} is not either"
    assert diagnosis(model, images_of()) == expected


def test_an_output_that_is_huge_is_named() -> None:
    model = model_of()
    with torch.no_grad():
        model.blocks[3].mlp.fc2.weight.mul_(1e9)
    assert diagnosis(model, images_of()).startswith(": the MLP of block 3 is the first part whose output is huge, ")


def test_a_gradient_is_named_where_the_way_back_meets_it_first() -> None:
    model = model_of()
    model(images_of()).sum().backward()
    for name in ("blocks.1.attn.qkv.weight", "blocks.4.mlp.fc1.weight"):
        gradient = dict(model.named_parameters())[name].grad
        assert gradient is not None
        gradient[0, 0] = float("inf")
    expected = ": the gradient of blocks.4.mlp.fc1.weight is the first, from the loss backwards, that is not finite"
    assert diagnosis(model, images_of()) == expected


def test_looking_leaves_the_model_as_it_was() -> None:
    model = model_of().train()
    diagnosis(model, images_of())
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def stopped(root: Path, recipe: Recipe, poisoned: str | None = None) -> CheckFailedError:
    """Return the error that ends a training, of which a parameter is `poisoned` after the first step."""
    run = create_run(root, "run", record_of(trained=(32, 32), recipe=recipe))
    model = model_of(resolution=(32, 32))

    def poison(_: object) -> None:
        if poisoned is not None:
            with torch.no_grad():
                dict(model.named_parameters())[poisoned].view(-1)[0] = float("nan")

    with pytest.raises(CheckFailedError) as caught:
        train(run, model, digits(), device=torch.device("cpu"), on_step=poison, on_epoch=lambda _: None)
    assert open_run(run.folder).record.status == "failed"
    return caught.value


def test_a_training_that_fails_says_where(tmp_path: Path) -> None:
    error = stopped(tmp_path, RECIPE, poisoned="blocks.3.mlp.fc1.weight")
    assert error.message == (
        "the loss became nan in epoch 1, step 2: the MLP of block 3 is the first part whose output is not "
        "finite, and its parameter fc1.weight is not either"
    )
    assert "lower --lr" in error.hint


def test_a_loss_that_explodes_stops_the_training_at_once(tmp_path: Path) -> None:
    error = stopped(tmp_path, replace(RECIPE, learning_rate=1e4))
    # A first step of 1e4 in every weight: the answers are off by powers of that, and still finite.
    assert error.message.startswith("the loss became 1")
    assert "e+09 in epoch 1, step 2: " in error.message
