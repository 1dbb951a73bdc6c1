"""The only module that knows Ray, which schedules jobs, repeats those of lost nodes, and carries files."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from effvit.errors import UnavailableError, UsageError, first_line
from effvit.profiling.agent.kit import encode
from effvit.profiling.agent.measuring import Allowed
from effvit.profiling.cluster.nodes import MACHINE, Node, NodeFacts
from effvit.profiling.cluster.sweep import Answer, Job
from effvit.profiling.cluster.working import Worked, facts_here, measure_here

AUTO = "auto"
RETRIES = 3
"""How often a job is given to another node after the one it was on is lost; Ray's own default."""
_REACHED_WITHIN_S, _ANSWERED_WITHIN_S, _CANCELLED_WITHIN_S, _LOOKED_AGAIN_S = 5.0, 120.0, 15.0, 10.0
_SETTINGS = b"\0\0\0\4\0\0\0\0\0"  # of length 0 and type 4, without flags, of no stream
_SAME = "install the same effvit on every node"
_START = "start one with `ray start --head`, or name its head: --ray-address HOST:PORT"


@contextmanager
def connected(address: str) -> Iterator[RayCluster]:
    """Yield the Ray cluster at `address`, HOST:PORT or `auto`: the one that RAY_ADDRESS names, or that runs here.

    Raises:
        UsageError: It is no such address.
        UnavailableError: Ray is not installed, no cluster can be reached, or it is of another Ray or Python.
    """
    if find_spec("ray") is None:
        raise UnavailableError("Ray is not installed", "install it: pip install 'effvit[ray]'")
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS") or AUTO
    if address != AUTO:
        _check_reachable(address)
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        ray.shutdown()
        raise _unconnected(address, error) from error
    try:
        yield RayCluster()
    finally:
        ray.shutdown()


class RayCluster:
    """The cluster that this process is connected to; see `Cluster`."""

    def nodes(self) -> list[Node]:
        import ray

        alive = [node for node in ray.nodes() if node["Alive"]]
        names = Counter(_host(node) for node in alive)
        return [
            Node(
                id=node["NodeID"],
                name=_host(node) if names[_host(node)] == 1 else f"{_host(node)} {node['NodeID'][:6]}",
                cpus=node["Resources"].get("CPU", 0),
                gpus=node["Resources"].get("GPU", 0),
                machines=node["Resources"].get(MACHINE, 0),
            )
            for node in alive
        ]

    def facts(self, nodes: Sequence[Node]) -> list[NodeFacts]:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # A process of its own: the runtimes that it imports are gone with it.
        asked = ray.remote(num_cpus=0, max_calls=1)(_facts)
        refs = [
            asked.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote()
            for node in nodes
        ]
        return [self._fact(node, ref) for node, ref in zip(nodes, refs, strict=True)]

    def measure(self, jobs: Sequence[Job], blobs: Path, allowed: Allowed) -> Generator[Answer, None, None]:
        import ray

        names = {node.id: node.name for node in self.nodes()}
        numbers: dict[Any, int] = {}
        try:
            carried = {name: ray.put((blobs / name).read_bytes()) for name in _blobs(jobs)}
            numbers |= {_started(job, carried, allowed): number for number, job in enumerate(jobs)}
            while numbers:
                ready, _ = ray.wait(list(numbers), timeout=_LOOKED_AGAIN_S)
                if not ready:
                    self._require_nodes([jobs[number] for number in numbers.values()])
                for ref in ready:
                    yield _answer(numbers.pop(ref), ref, names)
        except ray.exceptions.RayTaskError:
            raise  # an error of ours
        except ray.exceptions.RayError as error:
            hint = "see how it is with `ray status`; the same command goes on"
            raise UnavailableError(f"the Ray cluster failed: {first_line(error)}", hint) from error
        finally:
            _cancel(list(numbers))

    def _require_nodes(self, jobs: Sequence[Job]) -> None:
        """Check that jobs that are not done yet have not lost the last node that they could be on: Ray would wait.

        Raises:
            UnavailableError: One has.
        """
        nodes = self.nodes()
        for job in jobs:
            if not any(job.demand.fits(node) for node in nodes):
                hint = "start one with `ray start`; the same command goes on"
                raise UnavailableError(f"no node is left that can measure {job.name}", hint)

    def _fact(self, node: Node, ref: Any) -> NodeFacts:
        import ray

        try:
            facts: NodeFacts = ray.get(ref, timeout=_ANSWERED_WITHIN_S)
        except ray.exceptions.GetTimeoutError as error:
            hint = "see whether it is busy, and give the same command again"
            raise UnavailableError(f"{node.name} does not answer within {_ANSWERED_WITHIN_S:g} s", hint) from error
        except ray.exceptions.RayTaskError as error:
            # What is pickled by name is imported there: an effvit without this module, or none.
            reason = str(error).strip().splitlines()[-1]
            raise UnavailableError(f"{node.name} has no effvit like the one here: {reason}", _SAME) from error
        except ray.exceptions.RayError as error:
            hint = "give the same command again"
            raise UnavailableError(f"{node.name} is gone: {first_line(error)}", hint) from error
        return facts


def _facts() -> NodeFacts:
    """Run on a node: return what it tells of itself."""
    # Ray hides the GPUs from a task that asks for none; this one only looks which there are.
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    return facts_here()


def _measured(kit: bytes, blobs: Mapping[str, Any], allowed: Allowed) -> tuple[str, Worked]:
    """Run on a node: measure a kit there, and return the node's id beside what came of it."""
    import ray

    def content(name: str) -> bytes:
        found: bytes = ray.get(blobs[name])
        return found

    return ray.get_runtime_context().get_node_id(), measure_here(kit, tuple(blobs), content, allowed)


def _blobs(jobs: Sequence[Job]) -> list[str]:
    """Return the names of all files, each once: most are of several jobs."""
    return list(dict.fromkeys(name for job in jobs for name in job.kit.blobs))


def _started(job: Job, carried: Mapping[str, Any], allowed: Allowed) -> Any:
    """Hand a job over to Ray, and return the reference to its answer."""
    import ray

    demand = job.demand
    resources = {MACHINE: demand.machines} if demand.machines else {}
    task = ray.remote(max_calls=1, max_retries=RETRIES)(_measured).options(
        name=job.name, num_cpus=demand.cpus, num_gpus=demand.gpus, resources=resources
    )
    # In a mapping, so that a node fetches what it writes, one file after the other.
    return task.remote(encode(job.kit), {name: carried[name] for name in job.kit.blobs}, allowed)


def _answer(job: int, ref: Any, names: Mapping[str, str]) -> Answer:
    import ray

    errors = ray.exceptions
    try:
        node, worked = ray.get(ref)
    except (errors.NodeDiedError, errors.WorkerCrashedError, errors.OutOfMemoryError, errors.ObjectLostError) as error:
        return Answer(job, lost=first_line(error))
    return Answer(job, names.get(node, node[:6]), worked)


def _cancel(refs: list[Any]) -> None:
    """End what is left: as Ctrl-C would, and by force where that takes too long."""
    import ray

    if not refs:
        return
    for ref in refs:
        ray.cancel(ref)
    _, left = ray.wait(refs, num_returns=len(refs), timeout=_CANCELLED_WITHIN_S)
    for ref in left:
        ray.cancel(ref, force=True)


def _host(node: Mapping[str, Any]) -> str:
    """Return what to call a node: the name that it was started with, or that of its machine."""
    name, address = str(node.get("NodeName") or ""), str(node.get("NodeManagerAddress"))
    return name if name and name != address else str(node.get("NodeManagerHostname") or address)


def _check_reachable(address: str) -> None:
    """Check that what may be a Ray cluster listens at HOST:PORT: Ray itself waits minutes for what is none.

    Raises:
        UsageError: It is no such address.
        UnavailableError: Nothing listens there, or something else.
    """
    match = re.fullmatch(r"(\[[^\]]+\]|[^:/]+):([0-9]{1,5})", address)
    if match is None:
        raise UsageError(
            f"{address!r} is not the address of a Ray cluster",
            "write HOST:PORT, or auto, and run the command on a node of the cluster: Ray's client is not used",
        )
    try:
        with socket.create_connection((match[1].strip("[]"), int(match[2])), timeout=_REACHED_WITHIN_S) as connection:
            speaks = "RAY_USE_TLS" in os.environ or _speaks_http2(connection)
    except (OSError, OverflowError) as error:
        raise UnavailableError(f"no Ray cluster can be reached at {address}: {first_line(error)}", _START) from error
    if not speaks:
        raise UnavailableError(f"what listens at {address} is no Ray cluster", _START)


def _speaks_http2(connection: socket.socket) -> bool:
    """Return whether the other end answers as gRPC, which Ray speaks, does: with a frame of settings.

    Source:
        RFC 9113, sections 3.4 and 6.5, https://www.rfc-editor.org/rfc/rfc9113
    """
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS)
    try:
        return connection.recv(len(_SETTINGS))[3:4] == _SETTINGS[3:4]
    except TimeoutError:
        return False


def _unconnected(address: str, error: ConnectionError | RuntimeError) -> UnavailableError:
    """Return the error for what Ray says where it cannot connect, or may not."""
    versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", str(error))
    if len(versions) == 2:  # of the cluster, and of here
        (there, there_python), (here, here_python) = versions
        return UnavailableError(
            f"the cluster runs Ray {there} on Python {there_python}, and here it is Ray {here} on Python {here_python}",
            f"use the Python of there, and pip install 'ray=={there}'",
        )
    where = "here" if address == AUTO else f"at {address}"
    # What follows the first sentence is advice on how to call Ray.
    reason = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error).partition(". ")[0]
    return UnavailableError(f"no Ray cluster can be reached {where}: {reason}", _START)
