"""Token merging acts between layers, so whole models are compared: with loops over tokens, written from the paper."""

from __future__ import annotations

import math
from typing import Any

import onnxruntime
import pytest
import torch
from models_for_tests import images_of, logits_of, model_of
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from effvit.attention.base import Geometry
from effvit.attention.tome import TomeOptions, merged_patches
from effvit.backbone import create_backbone, set_resolution
from effvit.errors import UnsupportedError, UsageError
from effvit.spec import Swap
from effvit.surgery import replace_attention


class Token:
    """A vector, and the patches it stands for (none: a prefix token, which stands for itself)."""

    def __init__(self, vector: Tensor, patches: list[int]) -> None:
        self.vector, self.patches = vector, patches

    @property
    def size(self) -> int:
        return max(1, len(self.patches))


def reference_features(model: VisionTransformer, image: Tensor, rate: float) -> Tensor:
    """Return the final tokens of one image in float64, `(tokens, dim)`."""
    embedded = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))[0]
    prefix, patches = model.num_prefix_tokens, model.patch_embed.num_patches
    tokens = [Token(vector, []) for vector in embedded[:prefix]]
    tokens += [Token(vector, [index]) for index, vector in enumerate(embedded[prefix:])]
    for block in model.blocks:
        tokens = reference_block(block, tokens, prefix, round(rate * patches))
    final = {patch: token.vector for token in tokens for patch in token.patches}
    return model.norm(torch.stack([*(token.vector for token in tokens[:prefix]), *(final[i] for i in range(patches))]))


def reference_block(block: Any, tokens: list[Token], prefix: int, count: int) -> list[Token]:
    x = block.norm1(torch.stack([token.vector for token in tokens]))
    layer = block.attn
    q, k, v = (layer.qkv(x).reshape(len(x), 3, layer.heads, layer.head_dim)[:, part] for part in range(3))
    q, k = layer.q_norm(q), layer.k_norm(k)
    # A token that stands for three patches is three equal keys.
    repeated = [index for index, token in enumerate(tokens) for _ in range(token.size)]
    mixed = []
    for head in range(layer.heads):
        scores = q[:, head] @ k[repeated, head].T / math.sqrt(layer.head_dim)
        mixed.append(torch.softmax(scores, dim=-1) @ v[repeated, head])
    attended = layer.proj(layer.norm(torch.cat(mixed, dim=-1)))
    moved = [Token(t.vector + block.ls1(y), t.patches) for t, y in zip(tokens, attended, strict=True)]
    merged = reference_merge(moved, k.mean(dim=1), prefix, count)
    return [Token(t.vector + block.ls2(block.mlp(block.norm2(t.vector))), t.patches) for t in merged]


def reference_merge(tokens: list[Token], keys: Tensor, prefix: int, count: int) -> list[Token]:
    first, second = range(prefix, len(tokens), 2), range(prefix + 1, len(tokens), 2)
    count = min(count, (len(tokens) - prefix) // 2)
    if not count:
        return tokens
    pairs = []
    for a in first:
        likeness = {b: F.cosine_similarity(keys[a], keys[b], dim=0).item() for b in second}
        partner = max(likeness, key=lambda b: likeness[b])
        pairs.append((likeness[partner], a, partner))
    pairs.sort(key=lambda pair: -pair[0])
    sums = {b: tokens[b].vector * tokens[b].size for b in second}
    members = {b: list(tokens[b].patches) for b in second}
    for _, a, b in pairs[:count]:
        sums[b] = sums[b] + tokens[a].vector * tokens[a].size
        members[b] += tokens[a].patches
    merged = [Token(sums[b] / len(members[b]), members[b]) for b in second]
    # The order means nothing to a transformer, but the next block deals its tokens into two sets by it.
    return [*tokens[:prefix], *(tokens[a] for _, a, _ in pairs[count:]), *merged]


def merging_model(
    backbone: str = "test_vit", resolution: tuple[int, int] = (64, 64), **choices: Any
) -> VisionTransformer:
    torch.manual_seed(0)
    model = create_backbone(backbone, classes=10, resolution=resolution).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "qkv.weight" in name:
                parameter.mul_(3)  # far from uniform attention
    replace_attention(model, [Swap("tome", (("rate", 0.2),))])
    return model


# One prefix token; none, LayerScale and attention pooling; registers, qk-norm; a grid with an odd number of patches.
@pytest.mark.parametrize(
    ("backbone", "resolution"),
    [("test_vit", (64, 64)), ("test_vit3", (64, 64)), ("test_vit4", (64, 64)), ("test_vit", (48, 80))],
)
def test_a_model_gives_what_loops_over_tokens_give(backbone: str, resolution: tuple[int, int]) -> None:
    model = merging_model(backbone, resolution).double()
    images = images_of(*resolution, batch=2).double()
    with torch.no_grad():
        features = model.forward_features(images)
        expected = torch.stack([reference_features(model, image, 0.2) for image in images])
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-9)


def test_gradients_flow_through_merged_tokens() -> None:
    model = merging_model().double()
    images = images_of().double().requires_grad_()
    weights = torch.randn(17, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (model.forward_features(images) * weights).sum().backward()
    again = images.detach().clone().requires_grad_()
    torch.stack([(reference_features(model, image, 0.2) * weights).sum() for image in again]).sum().backward()
    assert images.grad is not None
    assert again.grad is not None
    torch.testing.assert_close(images.grad, again.grad, rtol=0, atol=1e-8)


def test_an_image_does_not_depend_on_its_batch() -> None:
    model = merging_model()
    images = images_of(batch=3)
    torch.testing.assert_close(logits_of(model, images[1:2]), logits_of(model, images)[1:2], rtol=1e-4, atol=1e-5)


def tokens_into(model: VisionTransformer, part: str) -> list[int]:
    """Return a list that is filled with the number of tokens that `part` of each block meets."""
    seen: list[int] = []

    def note(_: nn.Module, arguments: tuple[Tensor]) -> None:
        seen.append(arguments[0].shape[1])

    for block in model.blocks:
        block.get_submodule(part).register_forward_pre_hook(note)
    return seen


def test_tokens_vanish_between_attention_and_mlp() -> None:
    model = merging_model()
    attention, mlp = tokens_into(model, "attn.qkv"), tokens_into(model, "mlp")
    logits_of(model, images_of())
    # 16 patches and the class token; a fifth of 16 is 3, half of 2 is 1
    assert attention == [17, 14, 11, 8, 5, 3]
    assert mlp == [14, 11, 8, 5, 3, 2]


def test_the_weights_keep_their_names() -> None:
    model = create_backbone("test_vit", classes=10, resolution=(64, 64))
    names = list(model.state_dict())
    assert replace_attention(model, [Swap("tome")]).new == ()
    assert list(model.state_dict()) == names


def test_other_attention_may_come_first() -> None:
    model = create_backbone("test_vit", classes=10, resolution=(64, 64)).eval()
    replace_attention(model, [Swap("linformer", (), (0, 1)), Swap("tome", (), (3, 4, 5))])
    assert logits_of(model, images_of()).isfinite().all()


def test_other_attention_may_not_follow() -> None:
    model = model_of()
    with pytest.raises(UsageError, match="go on to the last block") as caught:
        replace_attention(model, [Swap("tome", (), (1, 2))])
    assert caught.value.hint == "write --layers 1-5"
    assert type(model.blocks) is nn.Sequential


def test_blocks_of_another_form_are_refused() -> None:
    with torch.device("meta"):
        model = create_backbone("vit_base_patch16_rpn_224", classes=10)
    with pytest.raises(UnsupportedError, match="inside a ResPostBlock"):
        replace_attention(model, [Swap("tome")])


@pytest.mark.parametrize("rate", [0.0, -0.1, 0.6, float("nan")])
def test_a_rate_outside_its_range_is_refused(rate: float) -> None:
    with pytest.raises(UsageError, match="rate must lie"):
        TomeOptions(rate)


def test_another_resolution_merges_the_same_share() -> None:
    model = merging_model(resolution=(64, 64))
    set_resolution(model, 96, 128)
    seen = tokens_into(model, "mlp")
    assert logits_of(model, images_of(96, 128)).isfinite().all()
    assert seen[:3] == [1 + 48 - 10, 1 + 48 - 20, 1 + 48 - 30]  # a fifth of 6 x 8 is 9.6


def test_at_most_half_of_what_is_left_is_merged() -> None:
    grid = Geometry(24, 2, 12, 1, (4, 4), merged=11)
    assert merged_patches(grid.patches, grid, TomeOptions(0.5)) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype: torch.dtype) -> None:
    model = merging_model()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight.mul_(5)
    out = model.to(dtype)(images_of().to(dtype))
    out.float().square().mean().backward()
    assert out.isfinite().all()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_autocast_merges_in_single_precision() -> None:
    model = merging_model()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(images_of())
    assert half.isfinite().all()


def test_an_exported_model_gives_the_same_at_another_batch_size() -> None:
    model = merging_model()
    program = torch.onnx.export(
        model,
        (images_of(),),
        dynamo=True,
        opset_version=20,
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    assert program is not None
    refused = {"ScatterElements", "ScatterND", "NonZero", "Unique", "Einsum", "CumSum", "GatherND"}
    assert not {node.op_type for node in program.model_proto.graph.node} & refused
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    images = images_of(batch=3)
    (out,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), logits_of(model, images), rtol=0, atol=1e-4)
