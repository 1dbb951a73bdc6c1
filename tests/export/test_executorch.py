"""ExecuTorch programs: what XNNPACK takes of them, and what they still decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from artifacts import ARTIFACT
from torch import Tensor, nn
from trained_runs import PX
from untrained_runs import make_run

from effvit.data.base import load_data
from effvit.errors import DamagedArtifactError, ExportError, UnsupportedError
from effvit.export.base import Source, pick_backend, predict
from effvit.export.cache import make, reference_logits
from effvit.export.census import Count, Port, ProductShare
from effvit.export.quantisation import Quantisation
from effvit.export.settings import Placement, RuntimeSettings
from effvit.images import evaluation_pixels, labels_of
from effvit.preprocessing import normalise
from effvit.run import Run
from effvit.spec import Precision
from effvit.surgery import attention_variants

BACKEND = pick_backend("executorch")
MISSING = BACKEND.unavailable()
# Of all nodes, those that XNNPACK runs: what ExecuTorch 1.5.1 was seen to hand over in fp32, rounded down.
LEAST_SHARE = {"softmax": 0.93, "linformer": 0.92, "performer": 0.80}
needs_executorch = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")


class Few(nn.Module):
    """A product with weights, one without, and a sum that XNNPACK has no node for; then an order."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return torch.bmm(y, y.mT).cumsum(dim=-1)


class Order(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argsort(dim=-1, descending=True).float()


def program(model: nn.Module, images: Tensor, path: Path) -> Path:
    """Write `model` as a program for `images` to `path`, and return it."""
    from effvit.export.lowering import folded, lowered, quiet_exporters
    from effvit.export.program_file import ProgramRecord

    with quiet_exporters(), torch.no_grad():
        path.write_bytes(lowered(folded(model.eval(), images), ProgramRecord(ARTIFACT.model, Precision.FP32)))
    return path


@needs_executorch
def test_nodes_and_products_are_those_of_the_file(tmp_path: Path) -> None:
    """XNNPACK multiplies by the weights, turns the result around and multiplies again; sums are not for it."""
    from effvit.export.program_census import program_census

    path = program(Few(), torch.zeros(1, 5, 4), tmp_path / "few.pte")
    census = program_census(path)
    taken = {"BatchMatrixMultiply": 1, "FullyConnected": 1, "StaticTranspose": 1}
    assert census.delegated == tuple(Count(name, count) for name, count in taken.items())
    assert census.left == (Count("aten::cumsum", 1),)
    assert census.share == 3 / 4
    assert census.delegates == (Count("XnnpackBackend", 1),)
    assert census.products == (ProductShare("fp32", 2, None, 1),)
    assert census.inputs == (Port("input 0", "fp32", (1, 5, 4)),)
    assert census.outputs == (Port("output 0", "fp32", (1, 5, 5)),)
    assert (census.size_bytes, census.path) == (path.stat().st_size, str(path))
    assert census.record is not None
    assert (census.record.model, census.record.precision) == (ARTIFACT.model, Precision.FP32)


@needs_executorch
def test_an_order_is_that_of_pytorch(tmp_path: Path) -> None:
    """ExecuTorch sorts nothing; the largest values of all are the values in order."""
    images = torch.randn(2, 5, 30)
    path = program(Order(), images, tmp_path / "order.pte")
    session = BACKEND.open(replace(ARTIFACT, path=str(path), batch=2), 1)
    np.testing.assert_array_equal(
        predict(session, images.numpy(), 2), images.argsort(dim=-1, descending=True).float().numpy()
    )


@needs_executorch
def test_a_file_that_is_no_program_or_breaks_off_is_refused(tmp_path: Path) -> None:
    from effvit.export.program_census import program_census

    whole = program(Few(), torch.zeros(1, 5, 4), tmp_path / "few.pte").read_bytes()
    torn = tmp_path / "torn.pte"
    for kept in (20, len(whole) // 2, len(whole) - 1):
        torn.write_bytes(whole[:kept])
        with pytest.raises(DamagedArtifactError, match=r"torn\.pte is damaged: it breaks off"):
            program_census(torn)
        with pytest.raises(ExportError, match="ExecuTorch cannot load"):
            BACKEND.open(replace(ARTIFACT, path=str(torn), batch=1), 1)
    torn.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(DamagedArtifactError, match="is not an ExecuTorch program"):
        program_census(torn)
    torn.write_bytes(whole[:60] + bytes(len(whole) - 60))
    with pytest.raises(DamagedArtifactError, match=r"torn\.pte is damaged"):
        program_census(torn)


@needs_executorch
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"quantisation": Quantisation(method="entropy")}, "takes no ranges by entropy"),
        ({"quantisation": Quantisation(attention=True)}, "multiplies no two activations"),
        ({"pins": ("blocks.0",)}, "cannot stay in fp32"),
    ],
)
def test_what_xnnpack_cannot_do_is_refused(tmp_path: Path, asked: dict[str, object], words: str) -> None:
    source = replace(Source(make_run(tmp_path, "softmax"), 32, 32, Precision.INT8), **asked)
    with pytest.raises(UnsupportedError, match=words):
        make(source, BACKEND)


def test_what_falls_off_the_delegate_is_said() -> None:
    settings = RuntimeSettings(
        "executorch 1.5", "cpu", Precision.FP32, 1, (Placement("XnnpackBackend", 9), Placement("ExecuTorch", 3)),
        undelegated=(("aten::topk", 2), ("aten::gather", 1)),
    )  # fmt: skip
    assert settings.remarks() == ["of the attention, 2 aten::topk, 1 aten::gather did not go to XnnpackBackend"]
    assert replace(settings, undelegated=()).remarks() == []


@needs_executorch
@pytest.mark.slow
@pytest.mark.timeout(900)  # the first of a variant trains it
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
@pytest.mark.parametrize("attention", list(attention_variants()))
def test_a_trained_model_decides_as_in_pytorch(
    trained: Callable[[str], Run], attention: str, precision: Precision
) -> None:
    """Of 359 held-out digits, int8 may decide 10 otherwise; of all nodes, XNNPACK runs as many as it did."""
    from effvit.export.program_census import program_census

    run, held_out = trained(attention), load_data("digits").val
    pixels = evaluation_pixels(held_out, run.record.preprocessing, PX, PX)
    source = Source(run, PX, PX, precision)
    exact = reference_logits(source, pixels)
    assert np.mean(exact.argmax(axis=1) == labels_of(held_out)) > 0.8  # trained, so that decisions mean something
    artifact = make(source, BACKEND)
    logits = predict(BACKEND.open(artifact, 1), normalise(pixels, run.record.preprocessing), 60)
    if precision is Precision.FP32:
        np.testing.assert_allclose(logits, exact, atol=1e-3 * exact.std())
    assert np.mean(logits.argmax(axis=1) == exact.argmax(axis=1)) >= 0.97
    share = program_census(Path(artifact.path)).share
    assert share is not None
    assert share >= LEAST_SHARE.get(attention, 0.5)
