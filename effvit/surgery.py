"""Replaces the attention of a Vision Transformer; everything else of the model stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any

import msgspec
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer

from effvit.attention.base import AttentionVariant, Geometry, InheritedAttention
from effvit.backbone import attention_layers, create_backbone, geometry_of
from effvit.errors import UnknownNameError, UnsupportedError, UsageError
from effvit.registry import discover, pick
from effvit.spec import BASELINE, ModelSpec, OptionValue, Swap


@dataclass(frozen=True, slots=True)
class Surgery:
    """What was swapped: options resolved, and the names of parameters that carried over and that are new.

    Buffers a mechanism needs as weights (random features) count as new.
    """

    swaps: tuple[Swap, ...]
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


def replace_attention(model: VisionTransformer, swaps: Sequence[Swap]) -> Surgery:
    """Swap the attention of the blocks that `swaps` name, in place.

    Raises:
        UnknownNameError: There is no such variant, or it has no such option.
        UnsupportedError: The model's blocks do not hold timm's plain attention, or were swapped before.
        UsageError: No block at all, one that does not exist or is named twice, or an option that a variant refuses.
    """
    donors = attention_layers(model, type(model).__name__)
    # Everything that can be refused is, before the first block changes.
    plans = [(swap, pick_variant(swap.attention), _chosen_layers(len(donors), swap)) for swap in swaps]
    for index in _once(index for _, _, layers in plans for index in layers):
        _untouched(donors[index], index)
    blocks = model.blocks
    for _, variant, layers in plans:
        blocks = variant.assemble(blocks, layers)
    before = set(model.state_dict())
    resolved = tuple(_resolved(swap, variant, geometry_of(model, donors[0])) for swap, variant, _ in plans)
    for swap, (_, variant, layers) in zip(resolved, plans, strict=True):
        options = parse_options(variant, swap.options)
        for index in layers:
            donor = _untouched(donors[index], index)
            blocks[index].attn = variant.build(geometry_of(model, donor), options, donor)
    model.blocks = blocks
    after = tuple(model.state_dict())
    return Surgery(
        swaps=resolved,
        inherited=tuple(name for name in after if name in before),
        new=tuple(name for name in after if name not in before),
    )


def variants_by_block(swaps: Sequence[Swap], depth: int) -> list[tuple[AttentionVariant, Any]]:
    """Return the variant and the parsed options of each of the model's `depth` blocks; exact attention by default."""
    exact = pick_variant(BASELINE)
    blocks = [(exact, parse_options(exact, ()))] * depth
    for swap in swaps:
        variant = pick_variant(swap.attention)
        for index in _chosen_layers(depth, swap):
            blocks[index] = variant, parse_options(variant, swap.options)
    return blocks


def model_from_spec(spec: ModelSpec, *, drop_path: float = 0.0) -> VisionTransformer:
    """Return a freshly initialised model of this specification, at the resolution its weights belong to.

    `drop_path` is the stochastic depth rate of the last block.

    Raises:
        UnknownNameError, UnsupportedError, UsageError: The specification is not one this installation can build.
    """
    model = create_backbone(
        spec.backbone, classes=spec.classes, resolution=spec.trained, patch=spec.patch, drop_path=drop_path
    )
    replace_attention(model, spec.swaps)
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
            f"see `effvit attention {variant.name}` for its options",
        ) from error


def _untouched(layer: Attention | InheritedAttention, index: int) -> Attention:
    if isinstance(layer, InheritedAttention):
        raise UnsupportedError(f"block {index} was swapped before", "start from a model with timm's own attention")
    return layer


def _chosen_layers(depth: int, swap: Swap) -> Sequence[int]:
    if swap.layers is None:
        return range(depth)
    if not swap.layers:
        raise UsageError("no block is named to be swapped", "name blocks, or leave --layers out to swap all of them")
    if pick_variant(swap.attention).exact:
        raise UsageError(
            f"blocks hold {swap.attention} attention already", "name only those that get another, with their mechanism"
        )
    for index in swap.layers:
        if not 0 <= index < depth:
            raise UsageError(f"block {index} does not exist", f"the model's blocks are numbered 0 to {depth - 1}")
    return swap.layers


def _once(indices: Iterable[int]) -> list[int]:
    seen: list[int] = []
    for index in indices:
        if index in seen:
            raise UsageError(f"block {index} is named twice", "give every block one mechanism")
        seen.append(index)
    return seen


def _resolved(swap: Swap, variant: AttentionVariant, geometry: Geometry) -> Swap:
    options = variant.resolve(parse_options(variant, swap.options), geometry)
    return replace(swap, options=tuple(sorted(asdict(options).items())))
