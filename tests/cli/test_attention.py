from __future__ import annotations

import json

import pytest
from command_line import Effvit

from effvit.surgery import attention_variants

QUICK = ("--model", "test_vit")


@pytest.mark.parametrize("name", attention_variants())
def test_every_variant_is_shown(effvit: Effvit, name: str) -> None:
    variant = attention_variants()[name]
    answer = effvit("attention", name, *QUICK, "--res", "64,96x128")
    text = " ".join(answer.out.split())
    assert (answer.code, answer.err) == (0, "")
    assert variant.summary in text
    assert variant.source in text
    # 4 x 4 and 6 x 8 patches, and the class token
    assert " 64 17 " in text
    assert " 96x128 49 " in text
    assert "test_vit, one image:" in text
    # Not a terminal, so nothing limits the width but what people read well.
    assert max(len(line.rstrip()) for line in answer.out.splitlines()) <= 110


def test_options_are_shown_with_what_they_are_here_and_by_default(effvit: Effvit) -> None:
    out = effvit("attention", "nystromformer", *QUICK, "--res", "64", "--attn-option", "iterations=3").out
    assert "iterations = 3 (default 6)" in out
    assert "pool = 5 (default None)" in out
    assert "`pool` is the side of the grid of landmarks" in out


def test_without_a_name_all_variants_stand_side_by_side(effvit: Effvit) -> None:
    answer = effvit("attention", *QUICK, "--res", "64,96x128")
    ratios, _, layers = answer.out.partition("bytes")
    assert (answer.code, answer.err) == (0, "")
    assert "96x128 px" in ratios
    for part in (ratios, layers):
        assert all(f"\n{name} " in part for name in attention_variants())
    # Width 64, 17 tokens: 6 blocks, the embedding of 16 patches, 1000 classes; and 6 cores of 2 * 17 * 17 * 64.
    macs = 6 * (4 * 17 * 64**2 + 2 * 17**2 * 64 + 2 * 17 * 64 * 256) + 16 * 64 * 768 + 64 * 1000
    assert f"(ceiling) {macs / (macs - 6 * 2 * 17**2 * 64):.2f}x " in " ".join(ratios.split())


def test_the_default_is_a_small_model_at_four_sizes(effvit: Effvit) -> None:
    found = json.loads(effvit("attention", "linformer", "--json").out)
    bills = [promise["bill"] for promise in found["promises"]]
    assert found["model"] == "vit_small_patch16_224"
    assert [bill["height"] for bill in bills] == [224, 384, 512, 1024]
    assert [bill["cost"]["tokens"] for bill in bills] == [197, 577, 1025, 4097]


def test_json_holds_options_and_counts(effvit: Effvit) -> None:
    answer = effvit("attention", "linformer", *QUICK, "--res", "160", "--attn-option", "pool=2", "--json")
    found = json.loads(answer.out)
    assert (answer.code, answer.err) == (0, "")
    assert found["options"] == [{"name": "pool", "default": None, "resolved": 2}]
    (promise,) = found["promises"]
    ours, theirs = promise["bill"], promise["exact"]
    # 6 blocks, 101 tokens of width 64, 2 heads with 1 + 4 keys: compression, two projections of the keys and values,
    # and both products with tokens that are left unprojected
    assert ours["cost"]["core_macs"] == 6 * (4 * 100 * 64 + 2 * 5 * 64 * 64 + 2 * 101 * 2 * 5 * 64)
    assert promise["macs_ratio"] == pytest.approx(theirs["cost"]["macs"] / ours["cost"]["macs"])
    assert 0 < ours["layer_bytes"] < theirs["layer_bytes"]


def test_json_without_a_name_is_a_list_of_all(effvit: Effvit) -> None:
    found = json.loads(effvit("attention", *QUICK, "--res", "64", "--json").out)
    assert [one["name"] for one in found] == list(attention_variants())


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["performr"], "there is no attention variant named 'performr'", "did you mean performer"),
        (["performer", "--model", "test_vitt"], "there is no timm model named 'test_vitt'", "did you mean test_vit"),
        (["performer", "--res", "100"], "100 px cannot be cut into the 16 px patches", "use 96 or 112 px"),
        (["performer", "--res", "big"], "'big' is not an image size", "write --res"),
        (
            ["performer", *QUICK, "--attn-option", "feature=8"],
            "no option of performer attention",
            "did you mean features?",
        ),
        (["performer", *QUICK, "--attn-option", "features=x"], "does not fit", "see `effvit attention performer`"),
        (["softmax", *QUICK, "--attn-option", "pool=7"], "softmax attention has no options", "leave the option out"),
        (["performer", "--model", "resnet18"], "resnet18 is not supported", "choose one of the timm Vision"),
        (["--attn-option", "pool=7"], "options belong to one variant", "write `effvit attention NAME`"),
        ([""], "there is no attention variant named ''", "choose one of: agent, atrous"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence_and_a_hint(
    effvit: Effvit, arguments: list[str], message: str, hint: str
) -> None:
    answer = effvit("attention", *arguments)
    assert (answer.code, answer.out) == (2, "")
    sentence, _, advice = answer.err.partition("\n\nhint: ")
    assert message in sentence
    assert hint in advice
