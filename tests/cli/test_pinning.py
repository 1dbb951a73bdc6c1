"""`effvit export --pin-fp32`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Effvit, refused
from overflowing import run_with_large_values

HALF = ("--onnx", "fp16", "--threads", "1", "--verify-images", "16", "--allow-fallback")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder of runs with one, `softmax`, whose fourth block overflows in fp16."""
    return run_with_large_values(tmp_path / "kept", "softmax", (3,)).folder.parent


@pytest.mark.slow
def test_auto_finds_what_overflows_and_says_what_it_costs(effvit: Effvit, root: Path) -> None:
    answer = effvit("export", "softmax", *HALF, "--runs", root, "--pin-fp32", "auto", "--json")
    assert answer.code == 0, answer.err
    (artifact,) = json.loads(answer.out)
    pinned = artifact["pinned"]
    assert (pinned["modules"], pinned["searched"]) == (["blocks.3.attn"], True)
    assert 0.2 < pinned["cost"]["value"] < 5
    assert (pinned["cost"]["batch"], pinned["cost"]["threads"]) == (1, 1)
    assert "trying blocks.3 in fp32\n" in answer.err
    assert "4 artifacts were tried, 2 of them refused" in answer.err
    assert "kept in fp32: blocks.3.attn; that takes" in answer.err
    assert answer.err.count("warning: ort-cpu: asked for fp16, computes in fp32") == 1
    shown = effvit("inspect", artifact["path"])
    assert shown.code == 0, shown.err
    assert "blocks.3.attn" in next(line for line in shown.out.splitlines() if line.startswith("kept in fp32"))
    assert f"{pinned['cost']['value']:.3f}x the time" in shown.out


def test_what_is_named_stays_in_fp32(effvit: Effvit, root: Path) -> None:
    common = ("export", "softmax", *HALF, "--runs", root, "--json")
    answer = effvit(*common, "--pin-fp32", "block 3")
    assert answer.code == 0, answer.err
    (artifact,) = json.loads(answer.out)
    assert (artifact["pinned"]["modules"], artifact["pinned"]["searched"]) == (["blocks.3"], False)
    assert f"kept in fp32: blocks.3; that takes {artifact['pinned']['cost']['value']:.3f}x the time" in answer.err
    again = effvit(*common, "--pin-fp32", "blocks.3")
    assert json.loads(again.out) == [artifact]  # found again, and not timed again


def test_what_cannot_be_pinned_is_one_sentence(effvit: Effvit, root: Path) -> None:
    before = sorted(root.rglob("*"))
    common = ("export", "softmax", "--runs", root, *HALF, "--pin-fp32")
    refused(effvit(*common, "auto,blocks.3"), 2, "auto finds the modules by itself")
    refused(effvit(*common, ","), 2, "names no module")
    refused(effvit(*common, "blocks.3.atn"), 2, "no module named 'blocks.3.atn'", "blocks.3.attn")
    exact = ("export", "softmax", "--runs", root, "--onnx", "fp32", "--pin-fp32", "auto")
    refused(effvit(*exact), 2, "nothing is pinned to fp32 in fp32", "fp16, bf16, int8, fp8")
    assert sorted(root.rglob("*")) == before
