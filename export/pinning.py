"""Which modules of a model have to stay in fp32 for an artifact of lower precision to be good enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from effvit.errors import LackingError, MismatchError, UnknownNameError
from effvit.export.base import Artifact, Backend, Images, Source, pick_backend
from effvit.export.blocks import AFTER, BEFORE
from effvit.export.build import Limits, judged_artifact
from effvit.export.cache import GRAPH_SUFFIX, discard, find, keep, make
from effvit.export.decisions import Truth
from effvit.export.differences import MARGIN, PartDifference, Side, compare_blocks
from effvit.export.sidecars import searched_pins
from effvit.export.typed_blocks import compare_typed
from effvit.preprocessing import normalise
from effvit.spec import Precision

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

# The images that blocks are compared on: what a type does to numbers, every image shows.
COMPARED_IMAGES = 16
Pins = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """Which modules an artifact had in fp32 and why it was not good enough; `refused` is empty if it was."""

    pins: Pins
    refused: str


@dataclass(frozen=True, slots=True)
class Search:
    """The artifact that is good enough with the fewest modules in fp32 among what was tried, in order.

    `unpinned` is the one without any, `artifact` itself if that is good enough.
    """

    artifact: Artifact
    unpinned: Artifact
    trials: tuple[Trial, ...]


def pins_from_names(names: Sequence[str], model: VisionTransformer) -> Pins:
    """Return the modules of `model` that `names` mean, outermost ones alone, in their order.

    A name is that of a module (`blocks.3.attn`), a shell pattern of such names (`blocks.*.norm?`), or what
    `effvit diff` calls a part of the model (`block 3`, `embedding`, `logits`).

    Raises:
        UnknownNameError: One of them means none.
    """
    inert = (nn.Identity, nn.Dropout, nn.Sequential, nn.ModuleList)  # compute nothing, or are never called themselves
    known = [name for name, module in model.named_modules() if name and not isinstance(module, inert)]
    chosen: set[str] = set()
    for name in names:
        found = [module for module in known if fnmatchcase(module, name)] or part_modules(name, model)
        if not found:
            raise UnknownNameError("module", name, known)
        chosen.update(found)
    inside = {name for name in chosen for other in chosen if name.startswith(f"{other}.")}
    return tuple(name for name in known if name in chosen - inside)


def part_modules(part: str, model: VisionTransformer) -> list[str]:
    """Return the modules that a part of a model consists of, as block comparisons name it; none for another name."""
    modules = {BEFORE: ["patch_embed", "norm_pre"], AFTER: ["norm", "fc_norm", "head"]}
    modules |= {f"block {index}": [f"blocks.{index}"] for index in range(len(model.blocks))}
    return [name for name in modules.get(part, []) if _size(model, name)]


def groups_of(name: str, model: VisionTransformer) -> list[Pins]:
    """Return what a module consists of, smallest first: its norms together, and every other child with weights."""
    children = [f"{name}.{child}" for child, _ in model.get_submodule(name).named_children()]
    weighted = [child for child in children if _size(model, child)]
    norms = tuple(child for child in weighted if child.rpartition(".")[2].startswith("norm"))
    groups = [(child,) for child in weighted if child not in norms] + ([norms] if norms else [])
    return sorted(groups, key=lambda group: sum(_size(model, child) for child in group))


def _size(model: VisionTransformer, name: str) -> int:
    return sum(weight.numel() for weight in model.get_submodule(name).parameters())


def worst_part(parts: Sequence[PartDifference], pinned: Sequence[str]) -> str | None:
    """Return the part that is not `pinned` behind which the error is the most times that before; None if there is none.

    Less than the precision costs a sound model is as good as that. Behind the first number that is none, errors say
    nothing. Differences instead of ratios blame the head, which passes on what it is given several times as large.
    """
    growth: dict[str, float] = {}
    usual = parts[0].explained / MARGIN
    before = usual
    for part in parts:
        if part.part not in pinned:
            growth[part.part] = part.error / before if math.isfinite(part.error) else math.inf
        if not math.isfinite(part.error):
            break
        before = max(part.error, usual)
    return max(growth, key=growth.__getitem__, default=None)


def fewest_pins(
    repairs: Callable[[Pins], bool],
    worst: Callable[[Sequence[str]], str | None],
    modules: Callable[[str], Sequence[str]],
    groups: Callable[[str], Sequence[Pins]],
    most: int,
) -> Pins | None:
    """Return the modules that repair an artifact, as few as a greedy search finds; None if `most` parts do not.

    The worst part is pinned, then the worst of those left, until that `repairs`. Then every part that is not needed is
    let go again, and of those that are, all but the smallest group of modules that does.
    """
    parts: list[str] = []

    def all_of(some: Sequence[str]) -> Pins:
        return tuple(module for part in some for module in modules(part))

    while len(parts) < most:
        part = worst(parts)
        if part is None:
            return None
        parts.append(part)
        if repairs(all_of(parts)):
            break
    else:
        return None
    for part in parts[:-1]:
        left = [other for other in parts if other != part]
        if repairs(all_of(left)):
            parts = left
    kept = list(all_of(parts))
    for module in list(kept):
        rest = [other for other in kept if other != module]
        smaller = next((group for group in groups(module) if repairs((*rest, *group))), None)
        if smaller is not None:
            kept = [*rest, *smaller]
    return tuple(kept)


def pinned_artifact(
    source: Source,
    backend: Backend,
    runner: Backend,
    pixels: Path,
    threads: int,
    truth: Truth | None,
    limits: Limits,
    stage: Callable[[str], None] = lambda _: None,
) -> Search:
    """Return the artifact of `source` that is good enough with as few modules in fp32 as a greedy search finds.

    Good enough is what `verified_artifact` takes, on the same images. `runner` runs the graph of the artifact, which is
    the artifact itself unless it is an engine; where it has no kernels for its half precision, PyTorch compares blocks
    in its place. What an earlier search found is taken if it is still good enough. At
    most half of the parts of the model are pinned: with more, it would be of another precision. `stage` is told what
    is tried.

    Raises:
        MismatchError: No artifact that was tried is good enough; the nearest is named.
        LackingError: The precision is one of 8 bits that `runner` has no kernels for: blocks cannot be compared.
        EffvitError: Whatever `verified_artifact` raises for other reasons.
    """
    search = _Search(source, backend, runner, pixels, threads, truth, limits, stage)
    kept: Pins = ()
    try:
        found = search.run()
        kept = found.artifact.pinned.modules if found.artifact.pinned is not None else ()
        return found
    finally:
        search.discard_but(kept)


class _Search:
    def __init__(
        self,
        source: Source,
        backend: Backend,
        runner: Backend,
        pixels: Path,
        threads: int,
        truth: Truth | None,
        limits: Limits,
        stage: Callable[[str], None],
    ) -> None:
        self.source, self.backend, self.runner = source, backend, runner
        self.pixels, self.threads, self.truth, self.limits, self.stage = pixels, threads, truth, limits, stage
        self.model = source.model()
        self.refusals: dict[Pins, MismatchError | None] = {}
        self.artifacts: dict[Pins, Artifact] = {}
        self.made: list[Pins] = []
        self.exact: Side | None = None

    def run(self) -> Search:
        if self.repairs(()):
            return self.found(())
        known = self.earlier()
        if known is not None:
            return self.found(known)
        if self.source.precision.quantised and self.source.precision not in self.runner.precisions:
            raise LackingError(
                f"blocks cannot be compared in {self.source.precision}: {self.runner.name} does not run it",
                "name what is to stay in fp32: --pin-fp32 'blocks.*.attn'",
            )
        parts = len(self.model.blocks) + 2
        pins = fewest_pins(
            self.repairs,
            self.worst,
            lambda part: part_modules(part, self.model),
            lambda module: groups_of(module, self.model) if module.startswith("blocks.") else [],
            parts // 2,
        )
        if pins is None:
            raise self.no_repair()
        return self.found(_ordered(pins, self.model))

    def found(self, pins: Pins) -> Search:
        artifact = self.artifacts[pins]
        if artifact.pinned is not None and not artifact.pinned.searched:
            artifact = replace(artifact, pinned=replace(artifact.pinned, searched=True))
            keep(artifact, self.of(pins), self.backend)
        trials = (Trial(tried, "" if error is None else error.message) for tried, error in self.refusals.items())
        return Search(artifact, self.artifacts[()], tuple(trials))

    def earlier(self) -> Pins | None:
        """Return what an earlier search found for the same artifact, if it is still good enough."""
        source, kind = self.source, self.backend.format
        for pins in searched_pins(source.run.folder, kind, source.precision, (source.height, source.width)):
            if find(self.of(pins), self.backend) is not None and self.repairs(pins):
                return pins
        return None

    def repairs(self, pins: Pins) -> bool:
        """Return whether the artifact is good enough with `pins`; it is tried once."""
        pins = _ordered(pins, self.model)
        if pins not in self.refusals:
            self.refusals[pins] = self.refusal_of(pins)
        return self.refusals[pins] is None

    def refusal_of(self, pins: Pins) -> MismatchError | None:
        source = self.of(pins)
        if pins:
            self.stage(f"trying {', '.join(pins)} in fp32")
        artifact = find(source, self.backend)
        if artifact is None:
            artifact = make(source, self.backend)
            if pins:
                self.made.append(pins)
        self.artifacts[pins] = artifact
        try:
            self.artifacts[pins] = judged_artifact(
                artifact, source, self.backend, self.pixels, self.threads, self.truth, self.limits
            )
        except MismatchError as error:
            return error
        return None

    def worst(self, pinned: Sequence[str]) -> str | None:
        pins = _ordered([name for part in pinned for name in part_modules(part, self.model)], self.model)
        artifact = self.artifacts[pins]
        if self.source.precision not in self.runner.precisions:
            return worst_part(compare_typed(self.of(pins), self.images(artifact)), pinned)
        graph = str(Path(artifact.path).with_suffix(GRAPH_SUFFIX))
        comparison = compare_blocks(
            self.reference(), Side(replace(artifact, path=graph), self.runner), self.images(artifact), self.threads
        )
        return worst_part(comparison.parts, pinned)

    def reference(self) -> Side:
        if self.exact is None:
            runner = pick_backend("ort-cpu")
            source = replace(self.source, precision=Precision.FP32, pins=())
            self.exact = Side(find(source, runner) or make(source, runner), runner)
        return self.exact

    def images(self, artifact: Artifact) -> Images:
        return normalise(np.load(self.pixels, mmap_mode="r")[:COMPARED_IMAGES], artifact.preprocessing)

    def no_repair(self) -> MismatchError:
        """Return that nothing which was tried is good enough, naming the nearest."""
        tried = [(pins, error) for pins, error in self.refusals.items() if error is not None]
        pins, error = max(tried, key=lambda one: _nearness(one[1]))
        return MismatchError(
            f"none of {len(tried)} artifacts with up to half of the model in fp32 is good enough; the nearest keeps "
            f"{', '.join(pins) or 'nothing'} in fp32: {error.message}",
            "choose a higher precision, or allow more with --max-drop",
            max_abs=error.max_abs,
            cosine=error.cosine,
            agreement=error.agreement,
        )

    def discard_but(self, kept: Pins) -> None:
        """Remove the artifacts that were made for this search alone, but for the one with the pins `kept`."""
        for pins in self.made:
            if pins != kept:
                discard(self.of(pins), self.backend)

    def of(self, pins: Pins) -> Source:
        return replace(self.source, pins=pins)


def _ordered(pins: Sequence[str], model: VisionTransformer) -> Pins:
    """Return `pins` in the order of the modules of `model`: one set of pins has one name."""
    order = {name: index for index, (name, _) in enumerate(model.named_modules())}
    return tuple(sorted(set(pins), key=order.__getitem__))


def _nearness(error: MismatchError) -> tuple[float, float]:
    return error.agreement, -math.inf if math.isnan(error.cosine) else error.cosine
