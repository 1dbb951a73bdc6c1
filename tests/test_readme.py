"""The README's promises that a machine can check."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.layers.attention import Attention
from torch import Tensor

from effvit.attention import base
from effvit.attention.base import AttentionVariant, Geometry

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_variant_it_shows_how_to_write_works() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names = {"dataclass": dataclass, "Tensor": Tensor, **{name: getattr(base, name) for name in dir(base)}}
    exec(code, names)
    variant = names["VARIANT"]
    assert isinstance(variant, AttentionVariant)
    geometry = Geometry(dim=32, heads=2, head_dim=16, prefix_tokens=1, grid=(3, 4))
    layer = variant.build(geometry, variant.options(), Attention(32, num_heads=2, qkv_bias=True))
    x = torch.randn(2, geometry.tokens, 32)
    assert layer(x).shape == x.shape
    assert variant.macs(geometry, variant.options()).core == 0


def test_every_link_to_a_file_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_variant_is_in_its_table() -> None:
    variants = {path.stem for path in (ROOT / "effvit" / "attention").glob("*.py")} - {"__init__", "base"}
    assert variants == set(re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE))
