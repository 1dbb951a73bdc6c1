"""How the attention of a model is written: one name for all blocks, or a mechanism for each range of blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from effvit.errors import UsageError
from effvit.spec import OptionValue, Swap

EXAMPLE = "0-3:atrous,4-11:linformer"
# Deeper than any Vision Transformer; a range beyond it is a slip of the keyboard.
MOST_BLOCKS = 1000


def parse_mix(
    text: str, options: Sequence[tuple[str, OptionValue]] = (), layers: Sequence[int] | None = None
) -> tuple[Swap, ...]:
    """Return the swaps of `linformer`, or of `0-3:atrous,4-11:linformer`; a `+` may stand for the comma.

    `options` go to the variant they name (`atrous.window`), and without a name to the only one there is. `layers` are
    the blocks of a variant written without any (None: all).

    Raises:
        UsageError: The text is neither, a block is named twice, or it is not clear whose an option is.
    """
    parts = [part.strip() for part in re.split("[,+]", text) if part.strip()]
    if not parts:
        raise UsageError(f"{text!r} names no attention", f"write linformer, or {EXAMPLE}")
    if len(parts) == 1 and ":" not in parts[0]:
        return _with_options({parts[0]: layers}, options)
    if layers is not None:
        raise UsageError(f"{text!r} names blocks, and --layers names others", "leave --layers out")
    return _with_options(_blocks_by_variant(parts), options)


def parse_blocks(text: str) -> tuple[int, ...]:
    """Return the block numbers of `0-9` or `0,2,4-6`.

    Raises:
        UsageError: Not numbers, or none.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageError(f"{text!r} names no block", "write --layers 0-9")
    return tuple(index for part in parts for index in _block_range(part))


def _block_range(text: str) -> Iterable[int]:
    first, _, last = text.partition("-")
    try:
        blocks = range(int(first), int(last or first) + 1)
    except ValueError:
        blocks = range(0)
    if not 0 < len(blocks[: MOST_BLOCKS + 1]) <= MOST_BLOCKS:
        raise UsageError(f"{text!r} names no blocks", "write 0-9 for blocks 0 to 9, and 4 for block 4")
    return blocks


def _blocks_by_variant(parts: Sequence[str]) -> dict[str, list[int]]:
    holders: dict[int, str] = {}
    for part in parts:
        blocks, _, name = (piece.strip() for piece in part.partition(":"))
        if not name:
            raise UsageError(f"{part!r} does not say which blocks hold what", f"write {EXAMPLE}")
        for index in _block_range(blocks):
            if index in holders:
                raise UsageError(f"block {index} is named twice", "give every block one mechanism")
            holders[index] = name
    return {name: [index for index in sorted(holders) if holders[index] == name] for name in holders.values()}


def _with_options(
    layers: Mapping[str, Sequence[int] | None], options: Sequence[tuple[str, OptionValue]]
) -> tuple[Swap, ...]:
    given: dict[str, list[tuple[str, OptionValue]]] = {name: [] for name in layers}
    for name, value in options:
        owner, dot, option = name.rpartition(".")
        if not dot and len(given) > 1:
            which = " or ".join(f"{variant}.{name}" for variant in given)
            raise UsageError(f"several variants are mixed, and {name} does not say whose it is", f"write {which}")
        variant = owner if dot else next(iter(given))
        if variant not in given:
            raise UsageError(f"{name} is an option of {variant}, which no block holds", f"leave {name} out")
        given[variant].append((option, value))
    return tuple(
        Swap(name, tuple(given[name]), None if blocks is None else tuple(sorted(set(blocks))))
        for name, blocks in layers.items()
    )
