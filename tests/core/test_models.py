from __future__ import annotations

import pytest
import torch
from timm.models import list_models

from effvit.backbone import create_backbone
from effvit.errors import UnsupportedError
from effvit.models import MODULES, supported_models

LISTED = dict(supported_models())


def members() -> list[str]:
    return [name for module in MODULES for name in list_models(module=module)]


def builds(name: str) -> bool:
    try:
        with torch.device("meta"):
            create_backbone(name, classes=2)
    except UnsupportedError:
        return False
    return True


@pytest.mark.parametrize(
    "name", ["test_vit", "vit_tiny_patch16_224", "deit3_small_patch16_224", "vit_small_patch14_dinov2"]
)
def test_plain_models_are_listed_and_build(name: str) -> None:
    assert name in LISTED
    assert builds(name)


@pytest.mark.parametrize(
    "name", ["vit_small_patch16_18x2_224", "vit_base_patch16_xp_224", "vit_dwee_patch16_reg1_gap_256"]
)
def test_members_with_other_blocks_are_not_listed_and_do_not_build(name: str) -> None:
    assert name not in LISTED
    assert not builds(name)


def test_pretrained_weights_are_counted() -> None:
    assert LISTED["test_vit"] == "1 set of pretrained weights"
    assert LISTED["test_vit4"] == "no pretrained weights"
    assert LISTED["vit_tiny_patch16_224"].endswith(" sets of pretrained weights")


@pytest.mark.slow  # builds some 180 models, the largest of a billion parameters, though without memory for them
@pytest.mark.parametrize("name", members())
def test_a_model_is_listed_exactly_if_it_builds(name: str) -> None:
    assert builds(name) == (name in LISTED)
