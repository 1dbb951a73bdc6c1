"""What a session really uses, read back from its runtime. Standard library only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from effvit.spec import Precision

# What PyTorch calls where none of its fused kernels takes what is asked of scaled_dot_product_attention.
PLAIN_ATTENTION = "_scaled_dot_product_attention_math"


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
    `attention_kernels` counts PyTorch's attention operators of one launch by name; `tf32` says whether float32
    products or convolutions may be rounded to TF32. `cuda_graph` says whether a launch repeats a captured CUDA graph;
    `options` are the runtime's own, by its names for them. `undelegated` counts the operators of the mechanism of
    attention, by name, that the library which was to run the graph did not take.
    """

    runtime: str
    device: str
    precision: Precision | None
    threads: int | None
    placement: tuple[Placement, ...] = ()
    attention_kernels: tuple[tuple[str, int], ...] | None = None
    tf32: bool | None = None
    cuda_graph: bool | None = None
    options: tuple[tuple[str, str], ...] = ()
    undelegated: tuple[tuple[str, int], ...] = ()

    def departures(self, precision: Precision, threads: int, providers: Collection[str]) -> list[str]:
        """Return what is not as it was asked for, a phrase each; what the runtime does not tell is not judged.

        `providers` are those that may run nodes; with none given, any may.
        """
        found = []
        if self.precision not in (None, precision):
            found.append(f"asked for {precision}, computes in {self.precision}")
        elif precision is Precision.FP32 and self.tf32:
            found.append("asked for fp32, rounds some products to tf32")
        if self.threads not in (None, threads):
            found.append(f"asked for {threads} thread{'s' * (threads != 1)}, uses {self.threads}")
        others = {one.provider for one in self.placement} - set(providers)
        if providers and others:
            found.append(f"asked for {' or '.join(sorted(providers))}, runs nodes on {' and '.join(sorted(others))}")
        return found

    def remarks(self) -> list[str]:
        """Return what is as it was asked for, and still not what a reader expects; a sentence each."""
        found = []
        plain = sum(count for name, count in self.attention_kernels or () if name.startswith(PLAIN_ATTENTION))
        if plain:
            layers = f"{plain} attention layer{'s' * (plain != 1)}"
            found.append(f"PyTorch computes {layers} by the plain formula: no fused kernel did")
        if self.undelegated:
            names = ", ".join(f"{count} {name}" for name, count in self.undelegated)
            found.append(f"of the attention, {names} did not go to {self.placement[0].provider}")
        return found
