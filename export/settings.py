"""What a session really uses, read back from its runtime. Standard library only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from effvit.spec import Precision


@dataclass(frozen=True, slots=True)
class Placement:
    """How many nodes of a graph one provider runs, and in which type, both where the runtime tells."""

    provider: str
    nodes: int | None
    type: str | None = None


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """What a session really uses; None, and nothing in a tuple, where the runtime does not tell.

    `runtime` is its name and version, `precision` the type in which most matrix products are computed, `threads` those
    inside one operator. `placement` counts the nodes of the graph where the runtime placed them.
    `attention_kernels` counts PyTorch's fused attention operators of one launch by name; `tf32` says whether float32
    products may be rounded to TF32.
    """

    runtime: str
    device: str
    precision: Precision | None
    threads: int | None
    placement: tuple[Placement, ...] = ()
    attention_kernels: tuple[tuple[str, int], ...] | None = None
    tf32: bool | None = None

    def departures(self, precision: Precision, threads: int, providers: Collection[str]) -> list[str]:
        """Return what is not as it was asked for, a phrase each; what the runtime does not tell is not judged.

        `providers` are those that may run nodes; with none given, any may.
        """
        found = []
        if self.precision not in (None, precision):
            found.append(f"asked for {precision}, computes in {self.precision}")
        if self.threads not in (None, threads):
            found.append(f"asked for {threads} thread{'s' * (threads != 1)}, uses {self.threads}")
        others = {one.provider for one in self.placement} - set(providers)
        if providers and others:
            found.append(f"asked for {' or '.join(sorted(providers))}, runs nodes on {' and '.join(sorted(others))}")
        return found
