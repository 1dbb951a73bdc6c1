"""A real Ray cluster of several nodes on this machine: every cell once, one at a time on a node, whatever is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from sweep_program import QUICK
from untrained_runs import make_run

from effvit.errors import UnavailableError
from effvit.profiling.agent.measuring import AS_ASKED
from effvit.profiling.agent.packing import Packing
from effvit.profiling.cluster.nodes import MACHINE
from effvit.profiling.cluster.ray_cluster import connected
from effvit.profiling.cluster.sweep import ClusterSweep
from effvit.profiling.devices import Device
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Plan
from effvit.profiling.records import Outcome
from effvit.profiling.results import read
from effvit.run import Run
from effvit.spec import Precision

pytest.importorskip("onnxruntime")
psutil = pytest.importorskip("psutil")
# What Ray itself warns of is none of ours.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(find_spec("ray") is None, reason="there is no Ray (pip install 'effvit[ray]')"),
]
ONE_THREAD = Device(threads=1)
MEASURES = "ray::32 px"
"""How the processes of our tasks call themselves: after their groups."""


class Nodes:
    """A cluster whose head measures nothing, and nodes that can be measured on."""

    def __init__(self, count: int, **resources: Any) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self._resources = resources or {"num_cpus": 1, "resources": {MACHINE: 1}}
        self.nodes = [self.add() for _ in range(count)]
        self.address: str = self._cluster.address

    def add(self) -> Any:
        return self._cluster.add_node(**self._resources)

    def lose(self, node: Any) -> None:
        """End all processes of a node at once."""
        self._cluster.remove_node(node, allow_graceful=False)
        self.nodes.remove(node)

    def shutdown(self) -> None:
        self._cluster.shutdown()

    def measuring(self) -> dict[str, list[int]]:
        """Return the processes that carry out our tasks, by the node that started them."""
        found: dict[str, list[int]] = {}
        for node in self.nodes:
            (raylet,) = node.all_processes["raylet"]
            found[node.unique_id] = [
                child.pid for child in _children(raylet.process.pid) if _title(child).startswith(MEASURES)
            ]
        return found


def _children(pid: int) -> list[Any]:
    try:
        return list(psutil.Process(pid).children())
    except psutil.NoSuchProcess:
        return []


def _title(process: Any) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@pytest.fixture(scope="module", autouse=True)
def _apart() -> Iterator[None]:
    """Keep what Ray writes, the address of the newest cluster among it, from whoever else uses Ray here."""
    # Not among pytest's own folders: the paths of sockets may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture
def two() -> Iterator[Nodes]:
    nodes = Nodes(2)
    try:
        yield nodes
    finally:
        nodes.shutdown()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    root = tmp_path_factory.mktemp("runs")
    return [make_run(root, "softmax"), make_run(root, "linformer")]


@pytest.fixture(scope="module")
def pixels() -> Iterator[PixelStore]:
    with PixelStore() as store:
        yield store


def plan_of(runs: list[Run], *batches: int) -> Plan:
    return Plan(tuple(runs), ((32, 32),), batches, (Precision.FP32,), ("ort-cpu",), (ONE_THREAD,))


@dataclass
class Told:
    stages: list[str] = field(default_factory=list)
    fresh: list[bool] = field(default_factory=list)
    at_first: Callable[[], None] | None = None

    def planned(self, cells: int) -> None: ...

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def outcome(self, outcome: Outcome, measured_now: bool) -> None:
        self.fresh.append(measured_now)
        if self.at_first is not None and len(self.fresh) == 1:
            self.at_first()


def sweep(nodes: Nodes, plan: Plan, pixels: PixelStore, results: Path, told: Told, most_s: float = 5) -> list[Outcome]:
    packing = Packing(plan, replace(QUICK, most_s=most_s, least_s=most_s / 5), pixels, lambda _: None)
    with connected(nodes.address) as cluster:
        return ClusterSweep(cluster, packing, AS_ASKED, told).run(results)


class Watch:
    """Looks again and again at what measures on every node, from outside."""

    def __init__(self, nodes: Nodes) -> None:
        self.most_on_a_node = self.most_at_once = 0
        self._nodes, self._done = nodes, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.02):
            counts = [len(found) for found in self._nodes.measuring().values()]
            self.most_on_a_node = max(self.most_on_a_node, *counts)
            self.most_at_once = max(self.most_at_once, sum(counts))


def cells_of(results: Path) -> Counter[tuple[str, int]]:
    lines = [json.loads(line) for line in results.read_bytes().splitlines()]
    return Counter((line["run"], line["cell"]["workload"]["batch"]) for line in lines)


def once(batches: int) -> Counter[tuple[str, int]]:
    return Counter({(name, batch): 1 for name in ("softmax", "linformer") for batch in range(1, batches + 1)})


def test_every_cell_lands_once_and_has_its_node_for_itself(
    two: Nodes, runs: list[Run], pixels: PixelStore, tmp_path: Path
) -> None:
    results, told = tmp_path / "results.jsonl", Told()
    with Watch(two) as watch:
        outcomes = sweep(two, plan_of(runs, 1, 2, 3, 4), pixels, results, told)
    assert {outcome.status for outcome in outcomes} == {"ok"}, outcomes[0].reason
    assert cells_of(results) == once(4)
    assert read(results) == sorted(outcomes, key=lambda one: read(results).index(one))
    assert (watch.most_on_a_node, watch.most_at_once) == (1, 2)
    # Both worked, and what is compared was measured in the same rounds.
    assert told.stages[-1].count(" cells") == 2
    comparisons = Counter(one.evidence.comparison for one in outcomes if one.evidence is not None)
    assert list(comparisons.values()) == [2] * 4
    again = Told()
    assert len(sweep(two, plan_of(runs, 1, 2, 3, 4), pixels, results, again)) == 8
    assert again.fresh == [False] * 8


def test_the_cells_of_a_lost_node_run_elsewhere(
    two: Nodes, runs: list[Run], pixels: PixelStore, tmp_path: Path
) -> None:
    results, told = tmp_path / "results.jsonl", Told()
    lost_work: list[int] = []

    def lose_one() -> None:
        deadline = time.monotonic() + 30
        while not (busy := [node for node in two.nodes if two.measuring()[node.unique_id]]):
            assert time.monotonic() < deadline, "nothing is measured any more"
        lost_work.append(len(two.measuring()[busy[0].unique_id]))
        two.lose(busy[0])

    told.at_first = lose_one
    outcomes = sweep(two, plan_of(runs, 1, 2, 3, 4), pixels, results, told, most_s=10)
    assert lost_work == [1]
    assert len(outcomes) == 8
    assert cells_of(results) == once(4)


def test_when_no_node_is_left_the_command_says_so(
    two: Nodes, runs: list[Run], pixels: PixelStore, tmp_path: Path
) -> None:
    def lose_all() -> None:
        for node in list(two.nodes):
            two.lose(node)

    results = tmp_path / "results.jsonl"
    with pytest.raises(UnavailableError, match="no node is left that can measure 32 px, batch"):
        sweep(two, plan_of(runs, 1, 2, 3, 4), pixels, results, Told(at_first=lose_all))
    assert 2 <= sum(cells_of(results).values()) < 8


def test_nodes_that_say_nothing_are_asked_for_all_their_cpus(
    runs: list[Run], pixels: PixelStore, tmp_path: Path
) -> None:
    nodes = Nodes(2, num_cpus=3)
    try:
        with Watch(nodes) as watch:
            sweep(nodes, plan_of(runs, 1, 2, 3), pixels, tmp_path / "results.jsonl", Told())
        assert (watch.most_on_a_node, watch.most_at_once) == (1, 2)
        gpu = replace(plan_of(runs, 1), backends=("torch",), devices=(Device("cuda", index=0),))
        with pytest.raises(UnavailableError, match="no node of the cluster has cuda:0"):
            sweep(nodes, gpu, pixels, tmp_path / "gpu.jsonl", Told())
    finally:
        nodes.shutdown()


def command(nodes: Nodes, runs: list[Run], results: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "effvit.cli.main", "profile", *(str(run.folder) for run in runs)),
        *("--executor", "ray", "--ray-address", nodes.address, "--backend", "ort-cpu", "--device", "cpu:threads=1"),
        *("--batch", "1,2,3,4", "--eval-images", "40", "--rounds", "3", "--samples", "3", "--least-s", "1"),
        *("--most-s", "3", "--max-noise", "inf", "--out", str(results)),
    ]


def test_ctrl_c_cancels_and_the_same_command_goes_on(two: Nodes, runs: list[Run], tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    environment = {**os.environ, "EFFVIT_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(
        command(two, runs, results),
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    deadline = time.monotonic() + 200
    while not results.exists() or results.read_bytes().count(b"\n") < 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "nothing was measured"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "what was finished is on disk, and the same command goes on from there" in said
    assert "Traceback" not in said
    kept = results.read_bytes()
    assert 2 <= kept.count(b"\n") < 8
    while any(two.measuring().values()):
        assert time.monotonic() < deadline, "tasks go on without the one who wanted them"
        time.sleep(0.1)

    ended = subprocess.run(
        command(two, runs, results), capture_output=True, text=True, env=environment, check=False, timeout=300
    )
    assert ended.returncode in (0, 5), ended.stderr
    assert results.read_bytes().startswith(kept)
    assert cells_of(results) == once(4)
    assert f"{kept.count(chr(10).encode())} cells were in the result file already" in ended.stderr


def test_another_version_of_ray_is_a_sentence(two: Nodes) -> None:
    code = (
        "import ray; ray.__version__ = '9.9.9'\n"
        "from effvit.errors import UnavailableError\n"
        "from effvit.profiling.cluster.ray_cluster import connected\n"
        "try:\n"
        f"    with connected({two.address!r}): pass\n"
        "except UnavailableError as error:\n"
        "    print(error.message)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stdout.startswith("the cluster runs Ray "), ended.stderr
    assert "and here it is Ray 9.9.9" in ended.stdout
