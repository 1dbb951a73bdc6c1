"""Runs whose weights say the same as before in float32 and exceed the numbers of another type."""

from __future__ import annotations

from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from untrained_runs import make_run

from effvit.checkpoint import save_weights
from effvit.run import Run, with_weights

# Values of order 1 come out of order 3e5, beyond the largest number of fp16, 65504; a power of 2 rounds nothing.
SCALE = 2.0**18


def run_with_large_values(root: Path, attention: str, blocks: tuple[int, ...]) -> Run:
    """Return a run in whose `blocks` the values of attention are too large, and projected back by as much."""
    run = make_run(root, attention)
    model = run.model(32, 32)
    with torch.no_grad():
        for index in blocks:
            layer = model.blocks[index].attn
            layer.qkv.weight[2 * len(layer.qkv.weight) // 3 :] *= SCALE
            layer.proj.weight /= SCALE
    return _saved(run, model)


def run_with_outliers(root: Path, attention: str, block: int) -> Run:
    """Return a run in one of whose MLPs a few neurons are a thousand times as active, and weighted by as much less.

    Eight bits for the range of all of its neurons leave nothing of the others.
    """
    run = make_run(root, attention)
    model = run.model(32, 32)
    with torch.no_grad():
        mlp = model.blocks[block].mlp
        mlp.fc1.weight[:4] *= 1000
        mlp.fc2.weight[:, :4] /= 1000
    return _saved(run, model)


def run_with_offset(root: Path, attention: str, block: int) -> Run:
    """Return a run in one of whose blocks the values of attention have an offset that its projection takes back.

    Of numbers of order 1 beside 1e4, float32 keeps three digits and bfloat16 none.
    """
    run = make_run(root, attention)
    model = run.model(32, 32)
    with torch.no_grad():
        layer = model.blocks[block].attn
        layer.qkv.bias[2 * len(layer.qkv.bias) // 3 :] += 1e4
        layer.proj.bias -= 1e4 * layer.proj.weight.sum(dim=1)
    return _saved(run, model)


def _saved(run: Run, model: VisionTransformer) -> Run:
    save_weights(run.weights, model)
    return run.updated(with_weights(run.record, run.weights))
