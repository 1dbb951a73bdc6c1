from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effvit.errors import UsageError
from effvit.mix import parse_blocks, parse_mix
from effvit.spec import Swap, mix_name

NAMES = ("atrous", "linformer", "performer")


def test_one_name_is_for_all_blocks_or_for_those_given() -> None:
    assert parse_mix("linformer") == (Swap("linformer"),)
    assert parse_mix("linformer", layers=(3, 1, 1)) == (Swap("linformer", (), (1, 3)),)


@pytest.mark.parametrize(
    "text", ["0-3:atrous,4-11:linformer", "0-3:atrous+4-11:linformer", " 0-3 : atrous , 4-11:linformer,"]
)
def test_a_mix_names_the_blocks_of_each(text: str) -> None:
    assert parse_mix(text) == (Swap("atrous", (), (0, 1, 2, 3)), Swap("linformer", (), tuple(range(4, 12))))


def test_ranges_of_one_mechanism_are_one_swap() -> None:
    assert parse_mix("0:atrous,1:linformer,2-3:atrous") == (
        Swap("atrous", (), (0, 2, 3)),
        Swap("linformer", (), (1,)),
    )


@given(st.dictionaries(st.integers(0, 30), st.sampled_from(NAMES), min_size=1))
def test_a_name_reads_back_as_what_it_names(blocks: dict[int, str]) -> None:
    swaps = {Swap(name, (), tuple(sorted(i for i in blocks if blocks[i] == name))) for name in set(blocks.values())}
    assert set(parse_mix(mix_name(sorted(swaps, key=lambda swap: swap.attention)))) == swaps


def test_options_go_to_the_variant_they_name() -> None:
    first, second = parse_mix("0:atrous,1:linformer", [("atrous.window", "4"), ("linformer.pool", "3")])
    assert first.options == (("window", "4"),)
    assert second.options == (("pool", "3"),)
    assert parse_mix("linformer", [("pool", 7), ("linformer.other", 1)])[0].options == (("pool", 7), ("other", 1))


@pytest.mark.parametrize(
    ("text", "option", "message"),
    [
        ("0:atrous,1:linformer", "pool", "pool does not say whose it is"),
        ("linformer", "atrous.window", "an option of atrous, which no block holds"),
    ],
)
def test_an_option_of_nobody_is_refused(text: str, option: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_mix(text, [(option, 1)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no attention"),
        (",", "names no attention"),
        ("0-3:atrous,linformer", "'linformer' does not say which blocks"),
        ("0-3:", "'0-3:' does not say which blocks"),
        ("atrous:0-3", "'atrous' names no blocks"),
        ("0-3:atrous,3-4:linformer", "block 3 is named twice"),
        ("0-3:atrous,3:atrous", "block 3 is named twice"),
        ("5-2:atrous", "'5-2' names no blocks"),
    ],
)
def test_a_mix_that_says_nothing_or_two_things_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_mix(text)


def test_a_mix_and_layers_are_refused_together() -> None:
    with pytest.raises(UsageError, match="--layers names others"):
        parse_mix("0-3:atrous", layers=(1,))


@given(st.lists(st.integers(0, 99), min_size=1))
def test_blocks_round_trip(layers: list[int]) -> None:
    assert parse_blocks(",".join(map(str, layers))) == tuple(layers)


def test_a_range_of_blocks_includes_both_ends() -> None:
    assert parse_blocks("0,2,4-6") == (0, 2, 4, 5, 6)


@pytest.mark.parametrize("text", ["9-2", "0,9-2", "-1", "1--2", "a", "", "0-99999999999", "0-1000"])
def test_blocks_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="names no block"):
        parse_blocks(text)


@given(text=st.one_of(st.text(), st.text("0123456789:,+-x.", max_size=16)))
def test_no_text_is_worse_than_a_usage_error(text: str) -> None:
    try:
        parse_mix(text)
    except UsageError as error:
        assert error.hint  # noqa: PT017  # that it is raised is not required
