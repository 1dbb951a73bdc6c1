"""Models that were trained, at least in that no weight is an initial one, at other resolutions and back."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import pytest
import torch
from models_for_tests import logits_of, model_of
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from effvit.backbone import set_resolution
from effvit.surgery import attention_variants

VARIANTS = tuple(attention_variants())
# 4 px for 16: the grids of 224, 384 and 512 px, and of 224 x 320, at a sixteenth of the cost.
PATCH = 4
SMALL, LARGE, LARGEST, WIDE = (14, 14), (24, 24), (32, 32), (14, 20)


def smooth_maps(count: int, grid: tuple[int, int], seed: int) -> Tensor:
    """Return `(count, rows, columns)` patterns of some four waves a side, of size about 1."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, count, 4, 4, generator=generator)
    return F.interpolate(coarse, size=grid, mode="bicubic", align_corners=False)[0]


@cache
def trained(attention: str, grid: tuple[int, int]) -> VisionTransformer:
    """Return a model with smooth patterns in all that depends on the grid, and noise in everything else."""
    model = model_of(attention, resolution=(grid[0] * PATCH, grid[1] * PATCH), patch=PATCH)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "pos_embed":
                maps = smooth_maps(parameter.shape[2], grid, seed=2)
                parameter[:, 1:] = 0.5 * maps.flatten(1).T
            elif name.endswith("compression"):
                patterns = smooth_maps(len(parameter), grid, seed=3).flatten(1)
                parameter.add_(patterns * 0.5 / patterns.shape[1])
            else:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
            if name.endswith("qkv.weight"):
                parameter.mul_(3)  # scores of size 1 to 2: attention far from uniform, as in trained models
    return model


def at(model: VisionTransformer, *grids: tuple[int, int]) -> VisionTransformer:
    """Return a copy of the model after going through all grids in order."""
    model = deepcopy(model)
    for rows, columns in grids:
        set_resolution(model, rows * PATCH, columns * PATCH)
    return model


def picture(grid: tuple[int, int]) -> Tensor:
    """Return the same smooth images in every size, `(4, 3, height, width)`."""
    return smooth_maps(12, (grid[0] * PATCH, grid[1] * PATCH), seed=4).unflatten(0, (4, 3))


def image_part(logits: Tensor) -> Tensor:
    """Return what of the logits depends on the image: a constant would make any two models look alike."""
    return logits - logits.mean(dim=0)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / image_part(a).norm())


# Softmax measures 0.09 to 0.20 here: a patch of a larger picture shows a smaller part of it. A position embedding in
# rows of a wrong length measures 0.7 and more, a compression whose weights do not shrink with the patches 0.4 and more.
CLOSE = 0.3
# Windows hold a number of patches, so on a finer grid each sees a smaller part of the picture: another function of it.
# Measured 0.75 to 0.99, where unrelated logits would be at 1.4.
FAR = {"atrous": 1.1}


@pytest.mark.parametrize(
    ("start", "steps"),
    [(SMALL, (LARGE,)), (SMALL, (LARGE, LARGEST)), (WIDE, ((20, 14),))],
    ids=["384", "512", "turned"],
)
@pytest.mark.parametrize("attention", VARIANTS)
def test_the_same_picture_in_another_size_gives_similar_logits(
    attention: str, start: tuple[int, int], steps: tuple[tuple[int, int], ...]
) -> None:
    model = trained(attention, start)
    before, after = logits_of(model, picture(start)), logits_of(at(model, *steps), picture(steps[-1]))
    assert distance(before, after) < FAR.get(attention, CLOSE)


@pytest.mark.parametrize(
    ("start", "steps"),
    [(SMALL, (LARGE, LARGEST, SMALL)), (WIDE, ((20, 14), WIDE))],
    ids=["512 and back", "turned and back"],
)
@pytest.mark.parametrize("attention", VARIANTS)
def test_smooth_patterns_come_back_from_other_resolutions(
    attention: str, start: tuple[int, int], steps: tuple[tuple[int, int], ...]
) -> None:
    model = trained(attention, start)
    back = at(model, *steps)
    parameters = dict(back.named_parameters())
    for name, parameter in model.named_parameters():
        if name == "pos_embed":
            assert torch.equal(parameters[name][:, 0], parameter[:, 0])  # the class token's is not resampled
        if name == "pos_embed" or name.endswith("compression"):
            learned = parameter - untrained(attention, start)[name]
            # Bicubic interpolation and its smoothing on the way down cost a pattern of four waves 1 % (measured).
            assert (parameters[name] - parameter).norm() < 0.02 * learned.norm(), name
        else:
            assert torch.equal(parameters[name], parameter), name
    # Measured up to 0.013.
    assert distance(logits_of(model, picture(start)), logits_of(back, picture(start))) < 0.03


@cache
def untrained(attention: str, grid: tuple[int, int]) -> dict[str, Tensor]:
    """Return what the parameters that depend on the grid are before training: nothing, and pooling."""
    fresh = model_of(attention, resolution=(grid[0] * PATCH, grid[1] * PATCH), patch=PATCH)
    return {
        name: torch.zeros_like(parameter) if name == "pos_embed" else parameter.detach()
        for name, parameter in fresh.named_parameters()
    }


def test_white_noise_does_not_come_back() -> None:
    # No finer grid holds what the smoothing on the way down takes away: the finest patterns are lost by design.
    model = deepcopy(trained("softmax", SMALL))
    with torch.no_grad():
        model.pos_embed.copy_(torch.randn(model.pos_embed.shape, generator=torch.Generator().manual_seed(6)))
    back = at(model, LARGE, LARGEST, SMALL)
    lost = (back.pos_embed - model.pos_embed).norm() / model.pos_embed.norm()
    assert 0.1 < lost < 0.6


@pytest.mark.parametrize("steps", [(LARGE,), (LARGE, LARGEST, SMALL), ((20, 14),), ((7, 28), SMALL)])
def test_a_trained_compression_keeps_its_row_sums(steps: tuple[tuple[int, int], ...]) -> None:
    model = trained("linformer", SMALL)
    for block, resized in zip(model.blocks, at(model, *steps).blocks, strict=True):
        sums = block.attn.compression.detach().double().sum(dim=1)
        assert (sums - 1).abs().max() > 1e-3  # not those of pooling
        # float32 rounding of up to 1024 weights of at most 0.5
        torch.testing.assert_close(resized.attn.compression.detach().double().sum(dim=1), sums, rtol=0, atol=1e-6)
