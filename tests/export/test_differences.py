"""Where blocks end, against PyTorch's own; and where two artifacts part, on graphs with a known fault."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from untrained_runs import make_run

from effvit.data.base import load_data
from effvit.errors import ArtifactError, CheckFailedError
from effvit.export.base import Images, Source, pick_backend
from effvit.export.blocks import boundaries, made_in, with_boundaries
from effvit.export.cache import make
from effvit.export.differences import Side, check_comparison, compare_blocks, typical_error
from effvit.export.graph_file import read_graph
from effvit.export.quantisation import Quantisation
from effvit.export.typed import TypedModel
from effvit.images import evaluation_pixels
from effvit.preprocessing import normalise
from effvit.run import Run
from effvit.spec import Precision

BLOCKS = [f"block {index}" for index in range(6)]
ORT = pick_backend("ort-cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs"), "softmax")


@pytest.fixture(scope="module")
def images(run: Run) -> Images:
    return normalise(
        evaluation_pixels(load_data("digits").val[:6], run.record.preprocessing, 32, 32), run.record.preprocessing
    )


def side(run: Run, precision: Precision = Precision.FP32) -> Side:
    return Side(make(Source(run, 32, 32, precision), ORT), ORT)


@pytest.fixture(scope="module")
def exact(run: Run) -> Side:
    return side(run)


def with_fault(exact: Side, folder: Path, block: int) -> Side:
    """Return a copy of the graph whose first product in `block` has one column doubled."""
    model = onnx.load(exact.artifact.path)
    scope = f"model.blocks.{block}."
    node = next(
        node
        for node in model.graph.node
        if node.op_type == "MatMul"
        and any(scope in entry.value for entry in node.metadata_props if entry.key == "namespace")
    )
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    values = numpy_helper.to_array(weight).copy()
    values[:, 150] *= 2  # of the values, which no softmax takes back
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    path = folder / f"fault-{block}.onnx"
    onnx.save_model(model, path)
    return Side(replace(exact.artifact, path=str(path)), ORT)


@pytest.mark.parametrize("attention", ["softmax", "nystromformer", "0-2:linformer,3-5:performer"])
def test_what_passes_between_blocks_is_what_passes_between_them_in_pytorch(
    tmp_path: Path, images: Images, attention: str
) -> None:
    run = make_run(tmp_path, attention, name="run")
    model = run.model(32, 32)
    wanted: list[torch.Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: wanted.append(inputs[0]))
    for block in model.blocks:
        block.register_forward_hook(lambda *given: wanted.append(given[-1]))
    with torch.inference_mode():
        wanted.append(model(torch.from_numpy(images)))
    one = side(run)
    graph = read_graph(Path(one.artifact.path))
    between = boundaries(graph, tmp_path)
    assert [boundary.part for boundary in between] == ["embedding", *BLOCKS, "logits"]
    onnx.save_model(with_boundaries(graph, between), tmp_path / "copy.onnx")
    session = ORT.open(replace(one.artifact, path=str(tmp_path / "copy.onnx")), 1)
    session.bind(images)
    session.launch()
    expected = np.concatenate([tensor.flatten(1).numpy() for tensor in wanted], axis=1)
    np.testing.assert_allclose(session.logits(), expected, atol=1e-4)


def test_precision_explains_all_that_fp16_changes(run: Run, exact: Side, images: Images) -> None:
    comparison = compare_blocks(exact, side(run, Precision.FP16), images, 1)
    assert [part.part for part in comparison.parts] == ["embedding", *BLOCKS, "logits"]
    assert comparison.parted is None
    assert all(part.error > 1e-6 for part in comparison.parts)  # it is not the same graph twice
    check_comparison(comparison)


@pytest.mark.parametrize("block", [0, 3, 5])
def test_the_block_with_the_fault_is_named(exact: Side, images: Images, tmp_path: Path, block: int) -> None:
    comparison = compare_blocks(exact, with_fault(exact, tmp_path, block), images, 1)
    assert comparison.parted == f"block {block}"
    assert all(part.error < 1e-6 for part in comparison.parts[: block + 1])
    with pytest.raises(CheckFailedError, match=f"in block {block}: the relative error is"):
        check_comparison(comparison)


@pytest.mark.parametrize(
    ("precision", "by_hand"),
    [
        # Roundings of the type times what was measured, and the root of four parts.
        (Precision.FP16, 2 * 2.0**-11),
        (Precision.BF16, 2 * 2.0**-8),
        (Precision.INT8, 2 * 3.7 / 256),
        (Precision.FP8, 2 * 0.8 / 16),
    ],
)
def test_a_type_costs_its_rounding_times_the_root_of_depth(precision: Precision, by_hand: float) -> None:
    assert typical_error(precision, 3) == pytest.approx(by_hand)


@pytest.mark.parametrize("attention", ["softmax", "performer"])
def test_bf16_in_pytorch_stays_within_what_is_typical_and_uses_it(
    tmp_path: Path, images: Images, attention: str
) -> None:
    """Independent of the table above: PyTorch's own bfloat16, block by block."""
    run = make_run(tmp_path, attention)
    ends: dict[torch.dtype, list[torch.Tensor]] = {}
    for precision in (Precision.FP32, Precision.BF16):
        typed = TypedModel(run.model(32, 32), precision)
        seen = ends.setdefault(typed.dtype, [])
        for block in typed.model.blocks:
            block.register_forward_hook(lambda *given, seen=seen: seen.append(given[-1].double()))
        with torch.inference_mode():
            typed(torch.from_numpy(images))
    pairs = zip(ends[torch.float32], ends[torch.bfloat16], strict=True)
    for index, (exact, rounded) in enumerate(pairs):
        share = float((rounded - exact).norm() / exact.norm()) / typical_error(Precision.BF16, index + 1)
        assert 0.3 < share < 1.3  # this model is not among those that were measured


def test_a_fault_of_eight_bits_is_told_from_their_rounding(
    run: Run, exact: Side, images: Images, tmp_path: Path
) -> None:
    small = Side(make(Source(run, 32, 32, Precision.INT8, Quantisation(images=16)), ORT), ORT)
    comparison = compare_blocks(exact, small, images, 1)
    assert comparison.parted is None
    assert all(part.error > 1e-3 for part in comparison.parts)
    # The scales of one weight thirty times too large: no rounding of eight bits, though nothing overflows.
    model = onnx.load(small.artifact.path)
    makers = {output: node for node in model.graph.node for output in node.output}
    (product, *_) = [node for node in model.graph.node if node.op_type == "MatMul" and made_in(node, ["blocks.3.mlp"])]
    scale = next(weight for weight in model.graph.initializer if weight.name == makers[product.input[1]].input[1])
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * 30, scale.name))
    path = tmp_path / "fault.onnx"
    onnx.save_model(model, path)
    assert compare_blocks(exact, Side(replace(small.artifact, path=str(path)), ORT), images, 1).parted == "block 3"


@pytest.mark.slow
def test_8_bit_blocks_whose_weights_are_equal_are_compared(tmp_path: Path, images: Images) -> None:
    """The reductions of sra start as the same average: shared by all blocks, ONNX Runtime refuses to repack them."""
    run = make_run(tmp_path, "sra")
    small = Side(make(Source(run, 32, 32, Precision.INT8, Quantisation(images=16)), ORT), ORT)
    comparison = compare_blocks(side(run), small, images, 1)
    assert [part.part for part in comparison.parts] == ["embedding", *BLOCKS, "logits"]
    assert comparison.parted is None
    weights = {weight.name for weight in onnx.load(small.artifact.path).graph.initializer}
    assert sum(name.startswith("model.blocks.0.attn.reduction_weight") for name in weights) >= 6


def test_numbers_that_are_none_are_not_explained(exact: Side, images: Images) -> None:
    broken = images.copy()
    broken[0, 0, 0, 0] = np.nan
    assert compare_blocks(exact, exact, broken, 1).parted == "embedding"


@pytest.mark.skipif(pick_backend("openvino").unavailable() is not None, reason="openvino is not here")
def test_two_runtimes_of_one_graph_agree(exact: Side, images: Images) -> None:
    comparison = compare_blocks(exact, Side(exact.artifact, pick_backend("openvino")), images, 1)
    assert comparison.parted is None


def test_models_of_other_shapes_are_not_compared(exact: Side, images: Images, tmp_path: Path) -> None:
    other = side(make_run(tmp_path, "softmax", name="wide", backbone="test_vit2"))
    with pytest.raises(ArtifactError, match="not the same model"):
        compare_blocks(exact, other, images, 1)


def test_a_graph_without_blocks_is_one_sentence(tmp_path: Path) -> None:
    path = graphs.write(tmp_path / "model.onnx", graphs.classifier())
    with pytest.raises(ArtifactError, match="does not say which block its nodes belong to"):
        boundaries(read_graph(path), path)
