"""Who measures the cells of a sweep: this machine, or the nodes of a Ray cluster. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effvit.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from effvit.cli.sweeping import SweepDisplay
    from effvit.profiling.agent.measuring import Allowed
    from effvit.profiling.agent.packing import Packing
    from effvit.profiling.plan import Plan
    from effvit.profiling.records import Outcome

LOCAL, RAY = EXECUTORS = ("local", "ray")
AUTO = "auto"
ExecutorOption = Annotated[
    str,
    typer.Option(metavar="|".join(EXECUTORS), help="measure on this machine, or on the nodes of a Ray cluster"),
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="auto|HOST:PORT",
        help="with --executor ray: the cluster's head [default: auto: what RAY_ADDRESS says, or else the cluster here]",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Executor:
    """Who measures: the Ray cluster at an address, or this machine where that is None."""

    cluster: str | None

    def sweep(
        self, packing: Packing, allowed: Allowed, results: Path, display: SweepDisplay, plan: Plan
    ) -> list[Outcome]:
        """Measure what of `plan` the file `results` does not hold yet, and return the outcomes of all its cells.

        Raises:
            EffvitError: Whatever reaching the cluster or a sweep raises.
        """
        if self.cluster is None:
            from effvit.profiling.sweep import run_sweep

            retry, fallback = allowed.retry_failed, allowed.fallback
            return run_sweep(
                plan, packing.effort, results, packing.pixels, display, retry_failed=retry, allow_fallback=fallback
            )

        from effvit.profiling.cluster.ray_cluster import connected
        from effvit.profiling.cluster.sweep import ClusterSweep

        # Backends that were not named are those of the nodes.
        here = replace(packing, plan=replace(plan, backends=packing.plan.backends))
        packing.stage("connecting to the Ray cluster")
        with connected(self.cluster) as cluster:
            return ClusterSweep(cluster, here, allowed, display).run(results)


def executor_from_text(text: str, address: str | None, hosts: Sequence[object]) -> Executor:
    """Return the executor called `text`; `hosts` are the devices behind ssh.

    Raises:
        UnknownNameError: There is none.
        UsageError: An address of Ray for another one, or devices behind ssh beside it.
    """
    if text not in EXECUTORS:
        raise UnknownNameError("executor", text, EXECUTORS)
    if text == LOCAL and address is not None:
        raise UsageError("--ray-address names a cluster, and nothing is measured on one", "add --executor ray")
    if text == RAY and hosts:
        raise UsageError("devices behind ssh are no nodes of a Ray cluster", "use one command for each")
    return Executor(address or AUTO if text == RAY else None)
