from __future__ import annotations

import socket

import pytest
import torch
from models_for_tests import model_of

from effvit.backbone import attention_layers, geometry_of, set_resolution
from effvit.cost import cost_of
from effvit.errors import UnknownNameError, UnsupportedError, UsageError
from effvit.prospect import IMAGENET_CLASSES, Prospect, prospects_of
from effvit.spec import ModelSpec, OptionValue, Swap
from effvit.surgery import attention_variants, parse_options, pick_variant
from effvit.traffic import traffic_bytes

SMALL = "test_vit"  # 6 blocks of width 64, 2 heads, 16 px patches, 160 px


def prospect_of(
    attention: str, backbone: str, resolutions: list[tuple[int, int]], options: tuple[tuple[str, OptionValue], ...] = ()
) -> Prospect:
    (prospect,) = prospects_of([attention], backbone, resolutions, options)
    return prospect


def options_of(found: Prospect) -> dict[str, OptionValue]:
    return {option.name: option.resolved for option in found.options}


def test_linformer_in_vit_small_costs_what_is_counted_by_hand() -> None:
    (promise,) = prospect_of("linformer", "vit_small_patch16_224", [(224, 224)]).promises
    # 197 tokens, 1 + 49 keys, width 384: q and output, k and v; compression, and both attention products
    projections = 2 * 197 * 384 * 384 + 2 * 50 * 384 * 384
    core = 49 * 196 * 384 + 2 * 197 * 50 * 384
    exact_core = 2 * 197 * 197 * 384
    mlp, embedding, head = 2 * 197 * 384 * 1536, 196 * 384 * 3 * 16 * 16, 384 * 1000
    rest = 12 * mlp + embedding + head
    macs, exact = rest + 12 * (projections + core), rest + 12 * (4 * 197 * 384 * 384 + exact_core)
    bill = promise.bill
    assert (bill.height, bill.width, bill.cost.tokens) == (224, 224, 197)
    assert (bill.cost.macs, bill.cost.core_macs, promise.exact.cost.macs) == (macs, 12 * core, exact)
    assert promise.macs_ratio == pytest.approx(exact / macs)
    assert promise.ceiling == pytest.approx(exact / (exact - 12 * exact_core))


@pytest.mark.parametrize("attention", attention_variants())
def test_a_bill_is_that_of_a_model_in_memory(attention: str) -> None:
    found = prospect_of(attention, SMALL, [(96, 128), (192, 192)])
    model = model_of(attention, SMALL, resolution=found.trained, classes=IMAGENET_CLASSES)
    swap = Swap(attention, tuple(options_of(found).items()))
    spec = ModelSpec(SMALL, (swap,), IMAGENET_CLASSES, found.trained)
    for bill in (promise.bill for promise in found.promises):
        set_resolution(model, bill.height, bill.width)
        layer = attention_layers(model, SMALL)[0]
        geometry = geometry_of(model, layer)
        assert bill.cost == cost_of(model, spec)
        assert bill.layer_bytes == traffic_bytes(layer, torch.zeros(1, geometry.tokens, geometry.dim))


@pytest.mark.parametrize("attention", attention_variants())
def test_every_variant_is_described(attention: str) -> None:
    found = prospect_of(attention, SMALL, [(160, 160)])
    variant = pick_variant(attention)
    assert (found.name, found.summary, found.source) == (attention, variant.summary, variant.source)
    assert bool(found.mechanism) != variant.exact
    assert bool(found.options) == bool(found.options_meaning)
    assert "Raises" not in found.options_meaning
    assert "Source" not in found.mechanism
    parse_options(variant, list(options_of(found).items()))


def test_softmax_promises_nothing() -> None:
    (promise,) = prospect_of("softmax", SMALL, [(96, 96)]).promises
    assert promise.macs_ratio == 1
    assert promise.bill == promise.exact


def test_several_variants_are_held_against_one_bill() -> None:
    first, second = prospects_of(["performer", "linformer"], SMALL, [(96, 96)])
    assert (first.name, second.name) == ("performer", "linformer")
    assert first.promises[0].exact == second.promises[0].exact


def test_what_an_option_comes_to_follows_from_the_trained_grid_and_not_from_the_resolutions() -> None:
    found = prospect_of("linformer", SMALL, [(320, 320)])
    (pool,) = found.options
    # 10 patches a side at the model's own 160 px, and half of them
    assert found.trained == (160, 160)
    assert (pool.name, pool.default, pool.resolved) == ("pool", None, 5)
    assert found.promises[0].bill.cost.tokens == 1 + 20 * 20


def test_a_chosen_option_is_counted() -> None:
    found = prospect_of("performer", SMALL, [(160, 160)], (("features", "8"),))
    assert options_of(found) == {"features": 8, "seed": 0}
    # 6 blocks, 101 tokens, 2 heads of 32: features of q and k, and two products with the values and a column of ones
    core = 2 * 101 * 8 * 2 * 32 + 2 * 101 * 8 * 2 * 33
    assert found.promises[0].bill.cost.core_macs == 6 * core


def test_a_model_of_gigabytes_needs_no_memory_and_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    # 1.1 G parameters, 4.5 GB, and as many MACs as take a processor minutes
    (promise,) = prospect_of("performer", "vit_giant_patch14_dinov2.lvd142m", [(1036, 1036)]).promises
    assert promise.bill.cost.parameters > 1e9
    assert promise.bill.cost.tokens == 1 + 74 * 74


@pytest.mark.parametrize(
    ("attention", "backbone", "resolution", "options", "message"),
    [
        ("performr", SMALL, 160, (), "there is no attention variant named 'performr'"),
        ("performer", "test_vitt", 160, (), "there is no timm model named 'test_vitt'"),
        ("performer", SMALL, 160, (("feature", "8"),), "there is no option of performer attention named 'feature'"),
    ],
)
def test_unknown_names_are_refused_with_close_ones(
    attention: str, backbone: str, resolution: int, options: tuple[tuple[str, str], ...], message: str
) -> None:
    with pytest.raises(UnknownNameError, match=message) as refused:
        prospect_of(attention, backbone, [(resolution, resolution)], options)
    assert refused.value.closest


def test_a_resolution_that_patches_do_not_divide_is_refused() -> None:
    with pytest.raises(UsageError, match="100 px cannot be cut into the 16 px patches of test_vit"):
        prospect_of("performer", SMALL, [(160, 160), (100, 160)])


def test_a_model_without_plain_attention_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="resnet18 is not supported"):
        prospect_of("performer", "resnet18", [(224, 224)])
