from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effvit.cli.options import (
    attentions_from_text,
    batches_from_text,
    devices_from_texts,
    names_from_text,
    pairs_from_texts,
    precisions_from_text,
    resolutions_from_text,
)
from effvit.errors import UnknownNameError, UsageError
from effvit.profiling.devices import Device
from effvit.spec import Precision

counts = st.integers(1, 4096)


@given(st.lists(st.tuples(counts, counts), min_size=1))
def test_sizes_round_trip(sizes: list[tuple[int, int]]) -> None:
    assert resolutions_from_text(",".join(f"{height}x{width}" for height, width in sizes)) == sizes


def test_one_number_is_a_square() -> None:
    assert resolutions_from_text("224, 384X512, 64x") == [(224, 224), (384, 512), (64, 64)]


@given(st.lists(counts, min_size=1, unique=True))
def test_batches_round_trip(batches: list[int]) -> None:
    assert batches_from_text(",".join(map(str, batches))) == batches


@pytest.mark.parametrize(
    ("text", "batches"),
    [
        ("1:64:2", [1, 2, 4, 8, 16, 32, 64]),
        ("1:64", [1, 2, 4, 8, 16, 32, 64]),
        ("3:100:5", [3, 15, 75]),
        ("8:8:2", [8]),
        ("1:4:2,2,7", [1, 2, 4, 7]),
    ],
)
def test_a_range_of_batches_is_geometric(text: str, batches: list[int]) -> None:
    assert batches_from_text(text) == batches


@given(st.lists(st.sampled_from(Precision), min_size=1))
def test_precisions_round_trip(precisions: list[Precision]) -> None:
    assert precisions_from_text(",".join(precisions)) == precisions


@pytest.mark.parametrize("text", ["abc", "", ",", "0", "-1", "224x0", "x224x3", "1.5"])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        resolutions_from_text(text)


@pytest.mark.parametrize("text", ["0", "1:8:1", "8:1:2", "1:2:3:4", "a", "", "1:", "-4"])
def test_batches_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        batches_from_text(text)


def test_mixes_get_the_name_their_models_have() -> None:
    names = attentions_from_text("softmax, 4-11:linformer+0-3:atrous,performer")
    assert names == ["softmax", "0-3:atrous+4-11:linformer", "performer"]
    assert attentions_from_text(None) == []


def test_devices_that_say_nothing_of_threads_get_those_of_the_command() -> None:
    assert devices_from_texts(None, None) == [Device()]
    assert devices_from_texts(None, 1) == [Device(threads=1)]
    assert devices_from_texts(["cpu", "cpu:threads=2"], 1) == [Device(threads=1), Device(threads=2)]
    assert devices_from_texts(["cuda"], 3) == [Device("cuda", threads=3, index=0)]


def test_a_misspelt_precision_has_closest_names() -> None:
    with pytest.raises(UnknownNameError) as error:
        precisions_from_text("fp15")
    assert "fp16" in error.value.closest


def test_pairs_are_text_and_split_at_the_first_equals_sign() -> None:
    assert pairs_from_texts(["pool=7", " a = b=c "]) == (("pool", "7"), ("a", "b=c"))
    assert pairs_from_texts(None) == ()
    with pytest.raises(UsageError, match="NAME=VALUE"):
        pairs_from_texts(["pool"])
    with pytest.raises(UsageError, match="pool is given twice"):
        pairs_from_texts(["pool=7", "pool=8"])


@pytest.mark.parametrize(
    "parse", [resolutions_from_text, batches_from_text, precisions_from_text, attentions_from_text, names_from_text]
)
@given(text=st.one_of(st.text(), st.text("0123456789:,-x", max_size=12)))
def test_no_text_is_worse_than_a_usage_error(parse: Callable[[str], object], text: str) -> None:
    try:
        parse(text)
    except UsageError as error:
        assert error.message  # noqa: PT017  # that it is raised is not required
        assert error.hint  # noqa: PT017


@given(st.lists(st.text()))
def test_no_pair_is_worse_than_a_usage_error(texts: list[str]) -> None:
    try:
        pairs_from_texts(texts)
    except UsageError as error:
        assert error.hint  # noqa: PT017
