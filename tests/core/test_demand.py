"""What models demand on paper is what their forward pass does where it is carried out."""

from __future__ import annotations

import pytest
import torch
from models_for_tests import images_of, model_of
from torch.nn.attention import SDPBackend, sdpa_kernel

from effvit.backbone import set_resolution
from effvit.demand import demand_of, demands_of
from effvit.errors import UsageError
from effvit.mix import parse_mix
from effvit.prospect import IMAGENET_CLASSES, prospects_of
from effvit.spec import ModelSpec, Swap
from effvit.surgery import attention_variants
from effvit.traffic import traffic_of

SMALL = "test_vit"  # 6 blocks of width 64, 2 heads, 16 px patches, 160 px


@pytest.mark.parametrize("attention", attention_variants())
def test_demands_are_those_of_a_model_in_memory(attention: str) -> None:
    (found,) = demands_of(parse_mix(attention), SMALL, [(96, 128)])
    model = model_of(
        attention, SMALL, resolution=found.model.trained, classes=IMAGENET_CLASSES, options=found.model.options
    )
    set_resolution(model, 96, 128)
    with sdpa_kernel(SDPBackend.MATH):
        traffic = traffic_of(model, images_of(96, 128, batch=1))
    weight_bytes = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    assert found.weight_bytes == weight_bytes
    assert found.operators == traffic.operators
    assert found.moved_bytes == traffic.moved_bytes - weight_bytes
    assert found.peak_bytes == traffic.peak_bytes


def test_exact_attention_keeps_a_number_for_each_pair_of_tokens() -> None:
    small, large = demands_of(parse_mix("softmax"), SMALL, [(256, 256), (512, 512)])
    pairs_bytes = 2 * (32 * 32 + 1) ** 2 * 4  # heads, tokens, float32
    assert 2 * pairs_bytes < large.peak_bytes < 4 * pairs_bytes  # products of queries and keys, and their softmax
    assert large.peak_bytes > 10 * small.peak_bytes
    (linear,) = demands_of(parse_mix("linformer"), SMALL, [(512, 512)])
    assert linear.peak_bytes < pairs_bytes


def test_costs_are_those_of_the_bill() -> None:
    (found,) = demands_of(parse_mix("sra"), SMALL, [(160, 160)])
    (promise,) = prospects_of(["sra"], SMALL, [(160, 160)])[0].promises
    assert found.cost == promise.bill.cost
    assert (found.model.patch, found.model.trained) == (16, (160, 160))


def test_a_specification_has_its_own_patches_and_classes() -> None:
    spec = ModelSpec(SMALL, (Swap("softmax"),), 10, (64, 64), patch=8)
    found = demand_of(spec, 32, 64)
    assert found.cost.tokens == 4 * 8 + 1
    assert found.model == spec
    with torch.no_grad():
        model = model_of("softmax", SMALL, resolution=(64, 64), patch=8)
    assert found.cost.parameters == sum(parameter.numel() for parameter in model.parameters()) - (64 - 32) * 64


def test_a_size_that_patches_do_not_divide_is_refused() -> None:
    with pytest.raises(UsageError, match="100 px cannot be cut into the 16 px patches"):
        demands_of(parse_mix("softmax"), SMALL, [(100, 100)])
