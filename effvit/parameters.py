"""Which parameters learn how fast, and which decay."""

from __future__ import annotations

from typing import Any

from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay, param_groups_weight_decay

from effvit.attention.base import InheritedAttention
from effvit.recipe import Recipe

INHERITED = ("qkv", "q_norm", "k_norm", "norm", "gate", "proj")
"""What a swapped layer takes over from the exact one; everything else of it is new."""


def new_parameters(model: VisionTransformer) -> tuple[str, ...]:
    """Return the names of the parameters that swapped attention has added: compressions, gates, feature maps."""
    names = []
    for path, layer in model.named_modules():
        if isinstance(layer, InheritedAttention):
            names += [f"{path}.{name}" for name, _ in layer.named_parameters() if name.split(".")[0] not in INHERITED]
    return tuple(names)


def parameter_groups(model: VisionTransformer, recipe: Recipe) -> list[dict[str, Any]]:
    """Return what an optimiser of PyTorch's takes: parameters by weight decay and, as `lr_scale`, learning rate.

    New parameters do not decay: they start as an average over tokens or as an identity, and 0, where decay would take
    them, means that no token is heard.
    """
    names = new_parameters(model)
    undecayed = {*model.no_weight_decay(), *names}
    groups: list[dict[str, Any]]
    if recipe.layer_decay is None:
        groups = param_groups_weight_decay(model, recipe.weight_decay, no_weight_decay_list=undecayed)
    else:
        groups = param_groups_layer_decay(
            model, recipe.weight_decay, no_weight_decay_list=undecayed, layer_decay=recipe.layer_decay
        )
    if recipe.new_rate == 1:
        return groups
    new = {id(parameter) for name, parameter in model.named_parameters() if name in names}
    return [part for group in groups for part in _split(group, new, recipe.new_rate)]


def _split(group: dict[str, Any], new: set[int], rate: float) -> list[dict[str, Any]]:
    """Return the group without what is new, and what is new with its own rate; either only if there is any."""
    scale = group.get("lr_scale", 1.0)
    parts = [
        {**group, "params": [parameter for parameter in group["params"] if (id(parameter) in new) is wanted]}
        for wanted in (False, True)
    ]
    parts[1]["lr_scale"] = scale * rate
    return [part for part in parts if part["params"]]
