"""What `--pin-fp32` does: an artifact with modules in fp32, and what these cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from effvit.cli.inspection import cost_text
from effvit.cli.output import say
from effvit.export.base import Artifact, Backend, Source
from effvit.export.build import Limits, verified_artifact
from effvit.export.cache import find, keep, make
from effvit.export.pinning import pinned_artifact, pins_from_names
from effvit.export.pins import AUTO, PinCost
from effvit.export.sidecars import searched_pins
from effvit.preprocessing import normalise
from effvit.profiling.plan import Effort
from effvit.profiling.ratio import latency_ratio

if TYPE_CHECKING:
    from effvit.profiling.pixels import Pixels

BATCH = 1
# Whether pins cost a percent or ten is what is asked here; a sweep tells more.
_LEAST_S, _MOST_S = 0.5, 10.0


def pinned(
    source: Source, backend: Backend, images: Pixels, threads: int, limits: Limits, names: Sequence[str]
) -> Artifact:
    """Return the verified artifact with the modules that `names` mean in fp32, and say what it costs.

    Raises:
        UnknownNameError: A name means no module.
        MismatchError: It is not good enough.
        EffvitError: Whatever making and opening it raises.
    """
    artifact, unpinned = _found(source, backend, images, threads, limits, names)
    if artifact.pinned is None:
        say(f"nothing has to stay in fp32: the {source.precision} artifact is good enough as it is")
        return artifact
    modules, cost = artifact.pinned.modules, artifact.pinned.cost
    if cost is None or cost.threads != threads:
        say("timing it beside the artifact without pins")
        cost = _cost(artifact, unpinned, backend, images, threads)
        artifact = replace(artifact, pinned=replace(artifact.pinned, cost=cost))
        keep(artifact, replace(source, pins=modules), backend)
    say(f"kept in fp32: {', '.join(modules)}; that takes {cost_text(cost)} in {backend.name}")
    return artifact


def pins_named(names: Sequence[str], source: Source, backend: Backend) -> tuple[str, ...]:
    """Return the modules that `names` mean in the artifact of `source`; of `auto`, what a search has found, if one has.

    Raises:
        UnknownNameError: A name means no module.
    """
    run = source.run
    if tuple(names) != AUTO:
        return pins_from_names(names, source.model())
    found = searched_pins(run.folder, backend.format, source.precision, (source.height, source.width))
    if not found:
        say(f"no `effvit export --pin-fp32 auto` has found what to keep in fp32 in {run.name}: it is taken as it is")
    return found[-1] if found else ()


def _found(
    source: Source, backend: Backend, images: Pixels, threads: int, limits: Limits, names: Sequence[str]
) -> tuple[Artifact, Artifact]:
    """Return the artifact with pins, and the one without."""
    if tuple(names) != AUTO:
        chosen = replace(source, pins=pins_from_names(names, source.model()))
        artifact = verified_artifact(chosen, backend, images.path, threads, images.truth, limits)
        return artifact, find(source, backend) or make(source, backend)

    from effvit.export.backends.tensorrt import graph_backend

    runner = graph_backend(source.precision) if backend.format == "tensorrt" else backend
    if limits.fallback is not None:
        limits = replace(limits, fallback=cache(limits.fallback))  # what holds for all that is tried is said once
    found = pinned_artifact(source, backend, runner, images.path, threads, images.truth, limits, say)
    refused = sum(bool(trial.refused) for trial in found.trials)
    if found.artifact.pinned is not None:
        say(f"{len(found.trials)} artifacts were tried, {refused} of them refused")
    return found.artifact, found.unpinned


def _cost(artifact: Artifact, unpinned: Artifact, backend: Backend, images: Pixels, threads: int) -> PinCost:
    """Time both artifacts in turns, on the same image."""
    some = normalise(np.load(images.path, mmap_mode="r")[:BATCH], artifact.preprocessing)
    without, with_pins = backend.open(unpinned, threads), backend.open(artifact, threads)
    without.bind(some)
    with_pins.bind(some)
    ratio = latency_ratio(without, with_pins, Effort(threads, least_s=_LEAST_S, most_s=_MOST_S))
    estimate = ratio.estimate
    return PinCost(estimate.value, estimate.low, estimate.high, BATCH, threads, ratio.unstable)
