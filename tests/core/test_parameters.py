from __future__ import annotations

import pytest
import torch
from attention_layers import APPROXIMATE
from models_for_tests import model_of
from timm.models.vision_transformer import VisionTransformer
from torch.optim import AdamW

from effvit.parameters import new_parameters, parameter_groups
from effvit.recipe import Recipe

FLAT = Recipe(layer_decay=None)


def settings(model: VisionTransformer, recipe: Recipe) -> dict[str, tuple[float, float]]:
    """Return (weight decay, factor of the learning rate) of every parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in parameter_groups(model, recipe):
        for parameter in group["params"]:
            name = names.pop(id(parameter))  # each is in one group
            found[name] = (group["weight_decay"], group.get("lr_scale", 1.0))
    assert not names
    return found


@pytest.mark.parametrize("attention", APPROXIMATE)
def test_what_a_swap_adds_is_new_and_does_not_decay(attention: str) -> None:
    model, exact = model_of(attention), model_of()
    added = {name for name, _ in model.named_parameters()} - {name for name, _ in exact.named_parameters()}
    assert set(new_parameters(model)) == added
    for recipe in (FLAT, Recipe()):
        found = settings(model, recipe)
        assert all(found[name][0] == 0.0 for name in added)
        assert found["blocks.3.attn.qkv.weight"][0] == recipe.weight_decay


def test_new_parameters_have_a_rate_of_their_own_on_top_of_their_layers() -> None:
    model = model_of("3:linformer")
    found = settings(model, Recipe(layer_decay=0.5, new_rate=4.0))
    # Five blocks, and the embedding, lie below the head's layer; block 3 is three from it.
    assert found["blocks.3.attn.qkv.weight"][1] == pytest.approx(0.5**3)
    assert found["blocks.3.attn.compression"][1] == pytest.approx(4 * 0.5**3)
    flat = settings(model, Recipe(layer_decay=None, new_rate=4.0))
    assert flat["blocks.3.attn.compression"] == (0.0, 4.0)
    assert flat["blocks.3.attn.qkv.weight"] == (0.05, 1.0)


def test_decay_leaves_compressions_where_they_are() -> None:
    model = model_of("linformer")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = AdamW(parameter_groups(model, FLAT), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = dict(model.named_parameters())
    assert torch.equal(after["blocks.0.attn.compression"], before["blocks.0.attn.compression"])
    # AdamW multiplies by 1 - rate x decay.
    expected = before["blocks.0.attn.qkv.weight"] * (1 - 0.1 * 0.05)
    assert torch.allclose(after["blocks.0.attn.qkv.weight"], expected, rtol=1e-6)
