"""`effvit export --pin-fp32`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Effvit, refused
from overflowing import run_with_large_values
from pictures import write_folder

PROFILE = ("--precision", "fp16", "--backend", "ort-cpu", "--batch", "1", "--threads", "1", "--allow-fallback")
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
    profiled = effvit("profile", "softmax", *PROFILE, "--runs", root, "--pin-fp32", "auto", "--json")
    assert profiled.code == 0, profiled.err
    (outcome,) = json.loads(profiled.out)  # without pins it returns no numbers, and is not measured
    assert outcome["cell"]["pins"] == ["blocks.3.attn"]
    assert outcome["evidence"]["artifact"] == {
        "path": Path(artifact["path"]).name,
        "sha256": artifact["sha256"],
        "size_bytes": artifact["size_bytes"],
        "build_s": artifact["build_s"],
        "pinned": pinned,
    }
    costs = f"blocks.3.attn in fp32: {pinned['cost']['value']:.3f}x"
    assert costs in profiled.err
    assert "the time of the same without when it was exported, batch 1 on 1 thread" in profiled.err


def test_what_is_named_stays_in_fp32(effvit: Effvit, root: Path) -> None:
    common = ("export", "softmax", *HALF, "--runs", root, "--json")
    answer = effvit(*common, "--pin-fp32", "block 3")
    assert answer.code == 0, answer.err
    (artifact,) = json.loads(answer.out)
    assert (artifact["pinned"]["modules"], artifact["pinned"]["searched"]) == (["blocks.3"], False)
    assert f"kept in fp32: blocks.3; that takes {artifact['pinned']['cost']['value']:.3f}x the time" in answer.err
    again = effvit(*common, "--pin-fp32", "blocks.3")
    assert json.loads(again.out) == [artifact]  # found again, and not timed again


@pytest.mark.slow
def test_what_has_pins_is_evaluated_bundled_and_classifies(effvit: Effvit, root: Path, tmp_path: Path) -> None:
    pins = ("--pin-fp32", "block 3")
    exported = effvit("export", "softmax", *HALF, "--runs", root, "--json", *pins)
    (artifact,) = json.loads(exported.out)
    common = ("--threads", "1", "--allow-fallback", "--json")
    half = ("--backend", "ort-cpu", "--precision", "fp16", "--eval-images", "20", "--runs", root)
    asked = effvit("evaluate", "softmax", *half, *pins, *common)
    assert asked.code == 0, asked.err
    (row,) = json.loads(asked.out)
    assert (row["artifact"], row["pins"]) == (Path(artifact["path"]).name, ["blocks.3"])
    named = effvit("evaluate", artifact["path"], "--eval-images", "20", *common)
    assert json.loads(named.out) == [row]
    # What no search has found is said, and is not what was asked for by name: this one returns no numbers.
    searched = effvit("evaluate", "softmax", *half, "--pin-fp32", "auto", *common)
    assert searched.code == 4, searched.err
    assert "no `effvit export --pin-fp32 auto` has found what to keep in fp32 in softmax" in searched.err
    bundled = effvit("bundle", artifact["path"], "--out", tmp_path / "bundle", "--json")
    assert bundled.code == 0, bundled.err
    assert json.loads(bundled.out)["artifact"]["pinned"]["modules"] == ["blocks.3"]
    image = next(write_folder(tmp_path / "pictures", {"cat": 1}).rglob("*.png"))
    predicted = effvit("predict", tmp_path / "bundle", image, "--threads", "1", "--json")
    assert predicted.code == 0, predicted.err
    assert len(json.loads(predicted.out)[0]["guesses"]) == 5


def test_what_cannot_be_pinned_is_one_sentence(effvit: Effvit, root: Path) -> None:
    before = sorted(root.rglob("*"))
    common = ("export", "softmax", "--runs", root, *HALF, "--pin-fp32")
    refused(effvit(*common, "auto,blocks.3"), 2, "auto finds the modules by itself")
    refused(effvit(*common, ","), 2, "names no module")
    refused(effvit(*common, "blocks.3.atn"), 2, "no module named 'blocks.3.atn'", "blocks.3.attn")
    exact = ("export", "softmax", "--runs", root, "--onnx", "fp32", "--pin-fp32", "auto")
    refused(effvit(*exact), 2, "nothing is pinned to fp32 in fp32", "fp16, bf16, int8, fp8")
    assert sorted(root.rglob("*")) == before
