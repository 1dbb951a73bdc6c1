"""Where two artifacts of one model part: block by block, on the same images, in one pass of each."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from effvit.errors import ArtifactError, CheckFailedError
from effvit.export.base import Artifact, Backend, Images, Session, predict
from effvit.export.blocks import boundaries, with_boundaries
from effvit.export.graph_file import read_graph
from effvit.spec import Precision

BATCH = 4
# Half the distance between neighbouring numbers, relative to them; of int8, relative to a tensor's largest number. In
# fp32 it is the order of hundreds of additions that differs between runtimes, which is worth two bits.
ROUNDING = {
    Precision.FP32: 2.0**-22,
    Precision.TF32: 2.0**-11,
    Precision.FP16: 2.0**-11,
    Precision.BF16: 2.0**-8,
    Precision.INT8: 2.0**-8,
    Precision.FP8: 2.0**-4,
}
# The largest errors of sound models in these units, over the root of how many parts there were, as measured by
# tests/benchmarks/rounding.py with every attention variant. int8 has the most: a tensor's largest number is several
# times as large as most of its numbers. fp16 is taken to do what bf16 does with three bits less: on processors, whose
# runtimes compute it in fp32 and round what comes out, it came to no more than 0.7.
TYPICAL = {
    Precision.FP32: 2.6,
    Precision.TF32: 0.8,
    Precision.FP16: 1.0,
    Precision.BF16: 1.0,
    Precision.INT8: 3.7,
    Precision.FP8: 0.8,
}
# What a sound model of another size, or other weights, may exceed these by.
MARGIN = 4.0


def typical_error(precision: Precision, part: int) -> float:
    """Return the relative error that a type causes behind the part of this number, counted from 0, of a sound model.

    Every part rounds anew, and errors of many roundings add up like steps in random directions: with the root of how
    many parts there were. That is what bf16 was seen to do, with a power of 0.4 to 0.5 of the depth. Errors of fp16,
    tf32 and int8 hardly grow behind the embedding, those of fp8 with a power of 0.7, which over 24 blocks is within the
    margin.

    Source:
        Higham and Mary 2019, a probabilistic error analysis, https://doi.org/10.1137/18M1226312
    """
    return TYPICAL[precision] * ROUNDING[precision] * math.sqrt(part + 1)


@dataclass(frozen=True, slots=True)
class Side:
    """An artifact in a backend."""

    artifact: Artifact
    backend: Backend


@dataclass(frozen=True, slots=True)
class PartDifference:
    """How far two artifacts lie apart behind one part of the model: the embedding, a block, or all of it.

    `error` is the norm of the difference as a share of the first artifact's own norm, over all images, and `explained`
    what the coarser of the two precisions accounts for: several times what it costs a sound model.
    """

    part: str
    error: float
    explained: float

    @property
    def parted(self) -> bool:
        return not self.error <= self.explained  # what is no number is not explained


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two artifacts, part by part; `parted` is the first part behind which they differ by more than explained."""

    first: str
    second: str
    images: int
    parts: tuple[PartDifference, ...]
    parted: str | None


def compare_blocks(first: Side, second: Side, images: Images, threads: int) -> Comparison:
    """Return how far two artifacts lie apart behind every block on `images`, `(images, 3, height, width)`.

    Each runs once, with all blocks' ends as its output, which keeps a runtime from fusing across them.

    Raises:
        ArtifactError: One of them is no graph that says where its blocks end, or they have other blocks.
        ExportError: A runtime refuses its graph.
    """
    with tempfile.TemporaryDirectory(prefix="effvit-") as folder:
        one, other = (
            _opened(side, Path(folder) / f"{index}.onnx", threads) for index, side in enumerate((first, second))
        )
        if one.sizes != other.sizes:
            raise ArtifactError(
                f"{first.artifact.path} and {second.artifact.path} are not the same model: their blocks differ",
                "name two artifacts of one run, at one resolution",
            )
        norms, gaps = np.zeros(len(one.sizes)), np.zeros(len(one.sizes))
        for start in range(0, len(images), BATCH):
            some = images[start : start + BATCH]
            wanted = predict(one.session, some, BATCH).astype(np.float64)
            found = predict(other.session, some, BATCH)
            norms += one.squares(wanted)
            with np.errstate(invalid="ignore"):
                gaps += one.squares(wanted - found)
    coarser = max((side.artifact.precision for side in (first, second)), key=lambda one: typical_error(one, 0))
    parts = [
        PartDifference(name, relative_error(gap, norm), MARGIN * typical_error(coarser, index))
        for index, ((name, _), gap, norm) in enumerate(zip(one.sizes, gaps, norms, strict=True))
    ]
    return Comparison(
        first=first.artifact.path,
        second=second.artifact.path,
        images=len(images),
        parts=tuple(parts),
        parted=next((part.part for part in parts if part.parted), None),
    )


def check_comparison(comparison: Comparison) -> None:
    """Check that precision explains all differences.

    Raises:
        CheckFailedError: It does not; the first block that it does not explain is named.
    """
    if comparison.parted is None:
        return
    part = next(part for part in comparison.parts if part.parted)
    raise CheckFailedError(
        f"{comparison.second} parts from {comparison.first} in {part.part}: the relative error is {part.error:.2g}, "
        f"and precision explains {part.explained:.2g}",
        f"keep it in fp32 with `effvit export --pin-fp32 '{part.part}'`, or see what differs with `effvit inspect`",
    )


@dataclass(frozen=True, slots=True)
class _Opened:
    """A session that answers with the ends of all parts, side by side; `sizes` are (part, numbers of one image)."""

    session: Session
    sizes: tuple[tuple[str, int], ...]

    def squares(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the sum of the squares of `values` in every part."""
        starts = np.cumsum([0, *(size for _, size in self.sizes[:-1])])
        with np.errstate(invalid="ignore"):  # what is no number stays none
            return np.asarray(np.add.reduceat(np.square(values).sum(axis=0), starts))


def _opened(side: Side, copy: Path, threads: int) -> _Opened:
    """Open a copy of the graph, written to `copy`, that answers with the ends of its blocks.

    Raises:
        ArtifactError: The graph does not say where they are, or how large.
    """
    path = Path(side.artifact.path)
    model = read_graph(path)
    between = boundaries(model, path)
    values = {value.name: value.type.tensor_type.shape for value in (*model.graph.value_info, *model.graph.output)}
    shapes = [values.get(boundary.tensor, onnx.TensorShapeProto()) for boundary in between]
    sizes = [math.prod(dim.dim_value for dim in list(shape.dim)[1:]) if shape.dim else 0 for shape in shapes]
    if 0 in sizes:
        raise ArtifactError(f"{path} does not say how large its blocks are", "name a graph that `effvit export` wrote")
    onnx.save_model(with_boundaries(model, between), copy)
    session = side.backend.open(replace(side.artifact, path=str(copy)), threads)
    return _Opened(session, tuple((boundary.part, size) for boundary, size in zip(between, sizes, strict=True)))


def relative_error(gap: float, norm: float) -> float:
    """Return the root of the ratio of two sums of squares."""
    if norm == 0:
        return 0.0 if gap == 0 else math.inf
    return float(math.sqrt(gap / norm))
