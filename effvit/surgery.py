"""Replaces the attention of a Vision Transformer; everything else of the model stays as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any

import msgspec
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer

from effvit.attention.base import AttentionVariant, InheritedAttention
from effvit.backbone import attention_layers, create_backbone, geometry_of
from effvit.errors import UnknownNameError, UnsupportedError, UsageError
from effvit.registry import discover, pick
from effvit.spec import ModelSpec, OptionValue


@dataclass(frozen=True, slots=True)
class Surgery:
    """What a swap did: the resolved options, and the names of parameters that carried over and that are new.

    Buffers a mechanism needs as weights (random features) count as new.
    """

    options: tuple[tuple[str, OptionValue], ...]
    inherited: tuple[str, ...]
    new: tuple[str, ...]


@cache
def attention_variants() -> Mapping[str, AttentionVariant]:
    """Return every attention variant by name."""
    return discover("effvit.attention", "VARIANT", AttentionVariant)


def pick_variant(name: str) -> AttentionVariant:
    """Return the attention variant called `name`.

    Raises:
        UnknownNameError: There is none.
    """
    return pick(attention_variants(), name, "attention variant")


def replace_attention(
    model: VisionTransformer,
    variant: AttentionVariant,
    options: Sequence[tuple[str, OptionValue]] = (),
    layers: Sequence[int] | None = None,
) -> Surgery:
    """Swap the attention of the blocks `layers` (None: all) for `variant`, in place.

    Raises:
        UnsupportedError: The model's blocks do not hold timm's plain attention, or were swapped before.
        UsageError: No block at all, or an option or a block index the variant or the model does not have.
    """
    donors = attention_layers(model, type(model).__name__)
    # Everything that can be refused is, before the first block changes.
    chosen = {index: _untouched(donors[index], index) for index in _chosen_layers(len(donors), layers)}
    before = set(model.state_dict())
    parsed = parse_options(variant, options)
    for index, donor in chosen.items():
        geometry = geometry_of(model, donor)
        parsed = variant.resolve(parsed, geometry)
        model.blocks[index].attn = variant.build(geometry, parsed, donor)
    after = tuple(model.state_dict())
    return Surgery(
        options=tuple(sorted(asdict(parsed).items())),
        inherited=tuple(name for name in after if name in before),
        new=tuple(name for name in after if name not in before),
    )


def model_from_spec(spec: ModelSpec) -> VisionTransformer:
    """Return a freshly initialised model of this specification, at the resolution its weights belong to.

    Raises:
        UnknownNameError, UnsupportedError, UsageError: The specification is not one this installation can build.
    """
    model = create_backbone(spec.backbone, classes=spec.classes, resolution=spec.trained, patch=spec.patch)
    replace_attention(model, pick_variant(spec.attention), spec.options, spec.layers)
    return model


def parse_options(variant: AttentionVariant, pairs: Sequence[tuple[str, OptionValue]]) -> Any:
    """Return the variant's options from pairs; values may be text, as they come from a command line.

    Raises:
        UnknownNameError: The variant has no such option.
        UsageError: A value of the wrong type, or one the variant refuses.
    """
    known = [field.name for field in fields(variant.options)]
    for name, _ in pairs:
        if name not in known:
            if not known:
                raise UsageError(f"{variant.name} attention has no options, not even {name!r}", "leave the option out")
            raise UnknownNameError(f"option of {variant.name} attention", name, known)
    try:
        return msgspec.convert(dict(pairs), variant.options, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"an option of {variant.name} attention does not fit: {error}",
            f"see `effvit list attention` for the options of {variant.name}",
        ) from error


def _untouched(layer: Attention | InheritedAttention, index: int) -> Attention:
    if isinstance(layer, InheritedAttention):
        raise UnsupportedError(f"block {index} was swapped before", "start from a model with timm's own attention")
    return layer


def _chosen_layers(depth: int, layers: Sequence[int] | None) -> list[int]:
    if layers is None:
        return list(range(depth))
    if not layers:
        raise UsageError("no block is named to be swapped", "name blocks, or leave --layers out to swap all of them")
    for index in layers:
        if not 0 <= index < depth:
            raise UsageError(f"block {index} does not exist", f"the model's blocks are numbered 0 to {depth - 1}")
    return sorted(set(layers))
