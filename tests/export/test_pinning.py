"""What stays in fp32: found among fakes whose answer is known, and in models with a known fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from models_for_tests import model_of
from overflowing import run_with_large_values, run_with_offset, run_with_outliers
from untrained_runs import make_run

from effvit.data.base import load_data
from effvit.errors import LackingError, MismatchError, UnknownNameError
from effvit.export.base import Backend, Images, Logits, Source, pick_backend
from effvit.export.blocks import made_in
from effvit.export.build import Limits
from effvit.export.cache import find, make, reference_logits, verify
from effvit.export.differences import MARGIN, PartDifference
from effvit.export.pinning import (
    Search,
    fewest_pins,
    groups_of,
    part_modules,
    pinned_artifact,
    pins_from_names,
    worst_part,
)
from effvit.export.pins import Pinned
from effvit.export.quantisable import weight_products
from effvit.export.quantisation import Quantisation
from effvit.export.settings import RuntimeSettings
from effvit.export.typed import TypedModel
from effvit.export.typed_blocks import compare_typed
from effvit.images import evaluation_pixels
from effvit.preprocessing import normalise
from effvit.run import Run
from effvit.spec import Precision

ORT = pick_backend("ort-cpu")
NAN = float("nan")


def parts_of(**errors: float) -> list[PartDifference]:
    """Return parts with these errors, of which the precision costs a sound model 0.01."""
    return [PartDifference(name, error, MARGIN * 0.01) for name, error in errors.items()]


def test_the_worst_part_is_the_one_that_multiplies_the_error_most() -> None:
    parts = parts_of(a=0.011, b=0.02, c=0.2, d=1.0)  # 1.1 times the usual 0.01, then 1.8, 10 and 5 times as much
    assert worst_part(parts, []) == "c"
    assert worst_part(parts, ["c"]) == "d"
    assert worst_part(parts, ["b", "c", "d"]) == "a"
    assert worst_part(parts, ["a", "b", "c", "d"]) is None


def test_less_than_is_usual_is_as_good_as_that() -> None:
    assert worst_part(parts_of(a=0.0001, b=0.005, c=0.03), []) == "c"  # 50 times as much is none of it


def test_behind_a_number_that_is_none_nothing_is_known() -> None:
    parts = parts_of(a=0.3, b=NAN, c=NAN)
    assert worst_part(parts, []) == "b"
    assert worst_part(parts, ["b"]) == "a"


class Fault:
    """An artifact that is good enough once the modules `needed` are pinned; parts are worst in the order given."""

    def __init__(self, needed: set[str], order: Sequence[str]) -> None:
        self.needed, self.order = needed, order
        self.tried: list[tuple[str, ...]] = []

    def repairs(self, pins: tuple[str, ...]) -> bool:
        self.tried.append(pins)
        # A part contains its modules: "2" pins "2.attn".
        return all(any(need == pin or need.startswith(f"{pin}.") for pin in pins) for need in self.needed)

    def pins(self, most: int = 4) -> tuple[str, ...] | None:
        return fewest_pins(
            self.repairs,
            lambda pinned: next((part for part in self.order if part not in pinned), None),
            lambda part: [part],
            lambda part: [(f"{part}.norm",), (f"{part}.attn",), (f"{part}.mlp",)],
            most,
        )


def test_the_worst_part_alone_is_cut_down_to_its_smallest_group() -> None:
    fault = Fault({"3.attn"}, "3210")
    assert fault.pins() == ("3.attn",)
    assert fault.tried == [("3",), ("3.norm",), ("3.attn",)]


def test_a_part_that_was_pinned_for_nothing_is_let_go() -> None:
    assert Fault({"1.mlp"}, "3210").pins() == ("1.mlp",)


def test_parts_that_are_needed_together_are_kept_together() -> None:
    pins = Fault({"3.attn", "2.norm", "2.mlp"}, "3210").pins()
    assert pins is not None
    assert set(pins) == {"3.attn", "2"}  # no single group of block 2 does


@pytest.mark.parametrize("order", ["3210", "32"])
def test_what_more_than_half_of_the_parts_would_repair_is_not_repaired(order: str) -> None:
    assert Fault({"3", "2", "1"}, order).pins(most=2) is None


def test_names_are_modules_patterns_and_parts() -> None:
    model = model_of()
    assert pins_from_names(["blocks.3.attn"], model) == ("blocks.3.attn",)
    assert pins_from_names(["blocks.*.norm1"], model) == tuple(f"blocks.{index}.norm1" for index in range(6))
    assert pins_from_names(["block 3", "embedding"], model) == ("patch_embed", "blocks.3")
    assert pins_from_names(["logits"], model) == ("norm", "head")  # test_vit pools the class token: no fc_norm
    assert pins_from_names(["blocks.1*", "blocks.1"], model) == ("blocks.1",)  # what lies inside says nothing more


@pytest.mark.parametrize("name", ["blocks.3.atn", "block 6", "blocks.3.ls1", "blocks"])
def test_a_name_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(UnknownNameError, match="there is no module named"):
        pins_from_names([name], model_of())


def test_a_block_consists_of_norms_attention_and_mlp() -> None:
    # test_vit, by hand: norms 2 * 2 * 64, attention 4 * 64^2 and biases, MLP 2 * 3 * 64^2 and biases.
    assert groups_of("blocks.2", model_of()) == [
        ("blocks.2.norm1", "blocks.2.norm2"),
        ("blocks.2.attn",),
        ("blocks.2.mlp",),
    ]
    assert part_modules("embedding", model_of()) == ["patch_embed"]
    assert part_modules("blocks.2", model_of()) == []


def test_pinned_modules_keep_their_weights_and_compute_in_float32() -> None:
    model = model_of()
    exact = model.blocks[3].attn.qkv.weight.detach().clone()
    typed = TypedModel(model, Precision.FP16, ("blocks.3.attn",))
    assert torch.equal(typed.model.blocks[3].attn.qkv.weight, exact)
    assert not torch.equal(exact.half().float(), exact)
    assert typed.model.blocks[3].mlp.fc1.weight.dtype == torch.float16
    seen: list[torch.dtype] = []
    typed.model.blocks[3].norm2.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    typed.model.blocks[3].attn.proj.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    with torch.inference_mode():
        logits = typed(torch.randn(2, 3, 64, 64))
    assert seen == [torch.float32, torch.float16]
    assert logits.dtype == torch.float32


def test_between_two_pinned_blocks_nothing_is_rounded() -> None:
    typed = TypedModel(model_of(), Precision.FP16, ("blocks.2", "blocks.3"))
    handed: list[torch.dtype] = []
    for index in (1, 2, 3):
        typed.model.blocks[index].register_forward_hook(lambda *given: handed.append(given[-1].dtype))
    with torch.inference_mode():
        typed(torch.randn(2, 3, 64, 64))
    assert handed == [torch.float16, torch.float32, torch.float16]


def pixels_of(run: Run, folder: Path, images: int = 24) -> Path:
    path = folder / "pixels.npy"
    np.save(path, evaluation_pixels(load_data("digits").val[:images], run.record.preprocessing, 32, 32))
    return path


def searched(run: Run, pixels: Path, precision: Precision = Precision.FP16) -> Search:
    source = Source(run, 32, 32, precision, Quantisation(images=16))
    return pinned_artifact(source, ORT, ORT, pixels, 1, None, Limits())


def files_of(run: Run) -> list[str]:
    return sorted(path.name for path in (run.folder / "artifacts").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["softmax", "linformer", "performer", "nystromformer"])
def test_the_attention_that_overflows_is_found_and_nothing_else(tmp_path: Path, attention: str) -> None:
    run = run_with_large_values(tmp_path, attention, (3,))
    pixels = pixels_of(run, tmp_path)
    found = searched(run, pixels)
    assert found.artifact.pinned is not None
    assert found.artifact.pinned.searched
    assert found.artifact.pinned.modules == ("blocks.3.attn",)
    assert found.artifact.parity is not None
    assert found.artifact.parity.agreement == 1.0
    assert found.unpinned.pinned is None
    assert [bool(trial.refused) for trial in found.trials] == [True, False, True, False]
    # In the graph all of its products are in fp32, and the layers of everything else are not.
    model = onnx.shape_inference.infer_shapes(onnx.load(found.artifact.path))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    inside = [node for node in model.graph.node if made_in(node, ["blocks.3.attn"])]
    outside = [node for node in model.graph.node if node.name in weight_products(model) and node not in inside]
    assert {types[node.output[0]] for node in inside if node.op_type == "MatMul"} == {onnx.TensorProto.FLOAT}
    assert {types[node.output[0]] for node in outside} == {onnx.TensorProto.FLOAT16}
    # What was tried is gone: left are the pinned graph with its verdict, the one that was refused, and that in fp32.
    assert len(files_of(run)) == 4
    again = searched(run, pixels)
    assert again.artifact == found.artifact
    assert len(again.trials) == 2


@pytest.mark.slow
def test_a_model_that_overflows_everywhere_is_not_repaired(tmp_path: Path) -> None:
    run = run_with_large_values(tmp_path, "softmax", tuple(range(6)))
    pixels = pixels_of(run, tmp_path)
    with pytest.raises(MismatchError, match="none of 5 artifacts with up to half of the model in fp32 is good enough"):
        searched(run, pixels)
    assert len(files_of(run)) == 2  # the one without pins, and that in fp32


@pytest.mark.slow
def test_the_block_that_eight_bits_cannot_hold_is_found(tmp_path: Path) -> None:
    run = run_with_outliers(tmp_path, "softmax", 2)
    found = searched(run, pixels_of(run, tmp_path, 128), Precision.INT8)
    assert found.artifact.pinned is not None
    assert found.artifact.pinned.modules == ("blocks.2.mlp",)
    assert found.artifact.quantised is not None
    assert found.unpinned.quantised is not None
    assert found.unpinned.quantised.products - found.artifact.quantised.products == 2
    assert (found.artifact.quantised.images, found.artifact.precision) == (16, Precision.INT8)


class Told:
    """A session whose logits are those of the PyTorch model, or nothing but zeros."""

    def __init__(self, run: Run, good: bool) -> None:
        self.model, self.good = run.model(32, 32), good

    def bind(self, images: Images) -> None:
        self.images = images

    def launch(self) -> None:
        return

    def synchronize(self) -> None:
        return

    def logits(self) -> Logits:
        with torch.inference_mode():
            logits: Logits = self.model(torch.from_numpy(self.images)).numpy()
        return logits * self.good

    def settings(self) -> RuntimeSettings:
        return RuntimeSettings("told", "cpu", None, None)


def told(run: Run, good: bool) -> Backend:
    """Return a backend whose files are empty, and good enough or not."""

    def export(source: Source, path: Path) -> Path:
        path.parent.mkdir(exist_ok=True)
        path.touch()
        return path

    return replace(ORT, export=export, open=lambda *_: Told(run, good))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs"), "softmax")


def test_an_artifact_that_is_good_enough_keeps_nothing_in_fp32(run: Run, tmp_path: Path) -> None:
    source, backend = Source(run, 32, 32, Precision.FP16), told(run, True)
    found = pinned_artifact(source, backend, backend, pixels_of(run, tmp_path), 1, None, Limits())
    assert found.artifact.pinned is None
    assert found.unpinned == found.artifact
    assert [(trial.pins, trial.refused) for trial in found.trials] == [((), "")]


def test_blocks_that_no_runtime_compares_have_to_be_named(run: Run, tmp_path: Path) -> None:
    source, backend = Source(run, 32, 32, Precision.FP8), told(run, False)
    blind = replace(ORT, precisions=frozenset({Precision.FP32}))
    with pytest.raises(LackingError, match="blocks cannot be compared in fp8: ort-cpu does not run it") as caught:
        pinned_artifact(source, backend, blind, pixels_of(run, tmp_path), 1, None, Limits())
    assert "--pin-fp32" in caught.value.hint


def test_blocks_in_a_half_type_that_no_runtime_here_has_are_compared_in_pytorch(tmp_path: Path) -> None:
    run = run_with_offset(tmp_path, "softmax", 3)
    pixels = pixels_of(run, tmp_path)
    images = normalise(np.load(pixels)[:8], run.record.preprocessing)
    source = Source(run, 32, 32, Precision.BF16)
    parts = compare_typed(source, images)
    assert [part.part for part in parts] == ["embedding", *(f"block {index}" for index in range(6)), "logits"]
    assert next(part.part for part in parts if part.parted) == "block 3"
    assert not any(part.parted for part in compare_typed(replace(source, pins=("blocks.3.attn",)), images))
    blind = replace(ORT, precisions=frozenset({Precision.FP32}))
    backend = replace(told(run, True), open=lambda artifact, _: Told(run, artifact.pinned is not None))
    found = pinned_artifact(source, backend, blind, pixels, 1, None, Limits())
    assert [trial.pins for trial in found.trials][:2] == [(), ("blocks.3",)]


def test_pins_make_another_artifact(run: Run, tmp_path: Path) -> None:
    source, backend = Source(run, 48, 48, Precision.FP16, pins=("blocks.3",)), told(run, True)
    artifact = make(source, backend)
    assert artifact.pinned == Pinned(("blocks.3",), searched=False, cost=None)
    reference = reference_logits(source, np.zeros((2, 48, 48, 3), dtype=np.uint8))
    known = verify(artifact, source, backend, reference, reference)
    assert find(source, backend) == known
    assert find(replace(source, pins=()), backend) is None
    assert find(replace(source, pins=("blocks.2",)), backend) is None
