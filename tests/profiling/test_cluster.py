"""A sweep over a cluster, without Ray: what goes together, what is asked of Ray, and what becomes of the answers."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from agents import BRIEF
from outcomes import ENVIRONMENT, make_outcome
from untrained_runs import make_run

from effvit.errors import (
    BackendUnavailableError,
    CellsFailedError,
    CheckFailedError,
    UnavailableError,
    UnknownNameError,
    UnsupportedError,
    UsageError,
)
from effvit.profiling.agent.archive import code_digest
from effvit.profiling.agent.detached import Ended
from effvit.profiling.agent.kit import Kit, encode
from effvit.profiling.agent.measuring import AS_ASKED, Allowed
from effvit.profiling.agent.packing import Packing, collect
from effvit.profiling.cluster import ray_cluster
from effvit.profiling.cluster.nodes import (
    Demand,
    Member,
    Node,
    NodeFacts,
    able_nodes,
    check_code,
    demand_of,
    remarks,
    runtimes_for,
)
from effvit.profiling.cluster.parts import cut, missing_parts
from effvit.profiling.cluster.ray_cluster import RayCluster, connected
from effvit.profiling.cluster.sweep import Answer, ClusterSweep, Job
from effvit.profiling.cluster.working import Worked, measure_here
from effvit.profiling.devices import CPU, Device
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Plan
from effvit.profiling.records import Outcome
from effvit.profiling.results import append, read
from effvit.profiling.results import encode as encode_outcome
from effvit.run import Run
from effvit.spec import Precision

GPU = Device("cuda", index=0)
HEAD = Node("0", "head", cpus=0)
FACTS = NodeFacts("0.1.0", code_digest(), ENVIRONMENT, ("torch", "ort-cpu"), niceness=0)
OTHER_MACHINE = replace(ENVIRONMENT, cpu="Another CPU")


def node(number: int, cpus: float = 4, gpus: float = 0, machines: float = 0) -> Node:
    return Node(str(number), f"node-{number}", cpus, gpus, machines)


def member(number: int = 1, facts: NodeFacts = FACTS) -> Member:
    return Member(node(number), facts)


def test_a_cell_asks_for_all_cpus_of_a_node_and_never_for_those_of_a_head_that_has_none() -> None:
    assert demand_of(CPU, [HEAD, node(1), node(2)]) == Demand(cpus=4)
    assert demand_of(Device(threads=2), [HEAD, node(1)]) == Demand(cpus=4)
    assert able_nodes(CPU, [HEAD, node(1)]) == [node(1)]


def test_nodes_that_offer_themselves_as_machines_are_asked_for_one_and_the_others_for_nothing() -> None:
    nodes = [HEAD, node(1, cpus=8, machines=1), node(2, cpus=2, machines=1), node(3, cpus=64)]
    assert demand_of(CPU, nodes) == Demand(cpus=0, machines=1)
    assert able_nodes(CPU, nodes) == nodes[1:3]
    # Only the first has so many, and Ray counts.
    assert demand_of(Device(threads=8), nodes) == Demand(cpus=8, machines=1)
    assert able_nodes(Device(threads=8), nodes) == nodes[1:2]


def test_what_is_asked_fits_a_node_that_has_all_of_it() -> None:
    demand = Demand(cpus=4, gpus=1, machines=1)
    assert demand.fits(node(1, cpus=4, gpus=1, machines=1))
    lacking = [node(1, 3, 1, 1), node(1, 4, 0, 1), node(1, 4, 1, 0)]
    assert [demand.fits(one) for one in lacking] == [False] * 3


def test_nodes_with_unlike_numbers_of_cpus_must_offer_themselves_as_machines() -> None:
    with pytest.raises(UnavailableError, match="nodes have 4 and 8 CPUs") as refused:
        demand_of(CPU, [node(1), node(2, cpus=8)])
    assert "ray start --num-cpus=0 --resources='{\"effvit_cpu\": 1}'" in refused.value.hint
    with pytest.raises(UsageError, match="node-1 offers 2 of effvit_cpu, but is one machine"):
        demand_of(CPU, [node(1, machines=2)])


def test_a_cell_of_a_gpu_asks_for_one_and_for_the_machine_around_it() -> None:
    assert demand_of(GPU, [node(1), node(2, cpus=16, gpus=2)]) == Demand(cpus=16, gpus=1)
    assert demand_of(GPU, [node(1, machines=1), node(2, gpus=1, machines=1)]) == Demand(cpus=0, gpus=1, machines=1)
    with pytest.raises(UsageError, match="cuda:1 cannot be asked for: Ray hands out GPUs"):
        demand_of(Device("cuda", index=1), [node(1, gpus=2)])


@pytest.mark.parametrize(
    ("device", "nodes", "words"),
    [
        (GPU, [node(1)], "no node of the cluster has cuda:0: node-1 has 4 CPUs and 0 GPUs"),
        (Device(threads=5), [node(1)], "no node of the cluster has cpu:threads=5"),
        (CPU, [HEAD], "no node of the cluster has cpu: head has 0 CPUs"),
        (GPU, [node(1, machines=1), node(2, gpus=1)], "no node of the cluster that offers effvit_cpu has cuda:0"),
        (CPU, [], "it has no node"),
    ],
)  # fmt: skip
def test_what_no_node_has_is_a_sentence(device: Device, nodes: list[Node], words: str) -> None:
    with pytest.raises(UnavailableError, match=words):
        demand_of(device, nodes)


def test_without_a_name_the_runtimes_are_those_that_all_nodes_have_for_the_device() -> None:
    fewer = member(2, replace(FACTS, runtimes=("ort-cpu", "openvino")))
    assert runtimes_for(CPU, (), [member(), fewer]) == ("ort-cpu",)
    assert runtimes_for(GPU, (), [member()]) == ("torch",)
    assert runtimes_for(GPU, ("ort-cpu", "torch"), [member()]) == ("torch",)
    with pytest.raises(BackendUnavailableError, match="node-2 has no torch") as refused:
        runtimes_for(CPU, ("torch",), [member(), fewer])
    assert refused.value.hint == "pip install torch"
    with pytest.raises(BackendUnavailableError, match="node-1 and node-2 have no runtime for cuda:0 in common"):
        runtimes_for(GPU, (), [member(), fewer])


def test_a_node_with_another_effvit_is_refused() -> None:
    check_code(member())
    with pytest.raises(UnavailableError, match=r"node-1 has effvit 0\.0\.9 of the code 0123"):
        check_code(member(facts=replace(FACTS, version="0.0.9", code="0123")))


def test_machines_that_do_not_compare_and_tasks_that_wait_for_others_are_told() -> None:
    assert remarks([member(1), member(2)]) == []
    unlike = member(2, replace(FACTS, environment=OTHER_MACHINE, niceness=15))
    machines, niceness = remarks([member(1), unlike])
    assert machines.startswith("the 2 nodes are 2 different machines")
    assert niceness.startswith("Ray runs tasks at niceness 15 on node-2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, ...]:
    root = tmp_path_factory.mktemp("runs")
    return make_run(root, "softmax"), make_run(root, "linformer")


@pytest.fixture(scope="module")
def pixels() -> Iterator[PixelStore]:
    with PixelStore() as store:
        yield store


@pytest.fixture
def plan(runs: tuple[Run, ...]) -> Plan:
    return Plan(runs, ((32, 32), (64, 64)), (1, 2), (Precision.FP32,), ("torch",))


def packing(plan: Plan, pixels: PixelStore) -> Packing:
    return Packing(plan, BRIEF, pixels, lambda _: None)


def test_cells_that_are_compared_stay_together_and_measured_ones_are_left_out(plan: Plan) -> None:
    groups, (softmax, linformer) = plan.groups(), plan.runs
    known = {groups[0].cell(softmax).key, groups[0].cell(linformer).key, groups[3].cell(linformer).key}
    parts = missing_parts(plan, known)
    assert [part.group for part in parts] == groups[1:]
    assert [[run.name for run in part.runs] for part in parts] == [["softmax", "linformer"]] * 2 + [["softmax"]]


def test_a_part_carries_the_files_of_its_own_cells_alone(plan: Plan, pixels: PixelStore, tmp_path: Path) -> None:
    whole = collect(packing(plan, pixels), tmp_path)
    part = missing_parts(plan, {plan.groups()[0].cell(plan.runs[1]).key})[0]
    kit = cut(whole, part)
    again = kit.plan(tmp_path)
    assert again.groups() == [part.group]
    assert [run.name for run in again.runs] == ["softmax"]
    # The checkpoint, images to verify on with PyTorch's logits of them, and images to evaluate on.
    assert len(kit.blobs) == 4
    assert len(whole.blobs) == 2 + 2 * (2 + 2)
    assert set(kit.blobs) < set(whole.blobs)
    assert all((tmp_path / name).is_file() for name in whole.blobs)


def test_two_runs_of_one_name_are_no_kit(plan: Plan, pixels: PixelStore, tmp_path: Path) -> None:
    twice = replace(plan, runs=(plan.runs[0], make_run(tmp_path / "others", "performer", name="softmax")))
    with pytest.raises(UsageError, match="two runs are called softmax"):
        collect(packing(twice, pixels), tmp_path)


def invented(job: Job, environment: object = ENVIRONMENT) -> Worked:
    """Return outcomes as a node would send them; what was measured is invented."""
    lines = []
    kit_plan = job.kit.plan(Path())
    (group,) = kit_plan.groups()
    for run in kit_plan.runs:
        outcome = replace(make_outcome(), cell=group.cell(run), run=run.name, environment=environment)  # type: ignore[arg-type]
        lines.append(encode_outcome(outcome))
    return Worked(tuple(lines), Ended(0))


@dataclass
class Machines:
    """A cluster that answers at once, by `work`, and remembers what it was given."""

    work: Callable[[int, Job], Answer] = lambda number, job: Answer(number, f"node-{number % 2}", invented(job))
    facts_told: NodeFacts = FACTS
    given: list[Job] = field(default_factory=list)
    answered: int = 0
    closed: bool = False

    def nodes(self) -> list[Node]:
        return [HEAD, node(0), node(1)]

    def facts(self, nodes: Sequence[Node]) -> list[NodeFacts]:
        assert HEAD not in nodes
        return [self.facts_told for _ in nodes]

    def measure(self, jobs: Sequence[Job], blobs: Path, allowed: Allowed) -> Generator[Answer, None, None]:
        self.given += jobs
        assert all((blobs / name).is_file() for job in jobs for name in job.kit.blobs)
        try:
            for number, job in enumerate(jobs):
                self.answered += 1
                yield self.work(number, job)
        finally:
            self.closed = True


@dataclass
class Told:
    planned_cells: int = 0
    stages: list[str] = field(default_factory=list)
    fresh: list[bool] = field(default_factory=list)

    def planned(self, cells: int) -> None:
        self.planned_cells = cells

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def outcome(self, outcome: Outcome, measured_now: bool) -> None:
        self.fresh.append(measured_now)


def sweep(cluster: Machines, plan: Plan, pixels: PixelStore, results: Path, told: Told | None = None) -> list[Outcome]:
    return ClusterSweep(cluster, packing(plan, pixels), AS_ASKED, told or Told()).run(results)


def test_every_cell_is_in_the_file_once_and_the_same_command_hands_nothing_over(
    plan: Plan, pixels: PixelStore, tmp_path: Path
) -> None:
    results, first, told = tmp_path / "results.jsonl", Machines(), Told()
    outcomes = sweep(first, plan, pixels, results, told)
    expected = [group.cell(run) for group in plan.groups() for run in plan.runs]
    assert [one.cell for one in outcomes] == expected
    assert [one.cell for one in read(results)] == expected
    assert [job.demand for job in first.given] == [Demand(cpus=4)] * 4
    assert (told.planned_cells, told.fresh) == (8, [True] * 8)
    assert told.stages[0] == "4 groups left"
    assert told.stages[-1] == "node-0: 4 cells, node-1: 4 cells, 0 groups left"

    second, again = Machines(), Told()
    assert sweep(second, plan, pixels, results, again) == outcomes
    assert second.given == []
    assert again.fresh == [False] * 8
    assert len(results.read_bytes().splitlines()) == 8


def test_what_another_machine_measured_is_measured_here(plan: Plan, pixels: PixelStore, tmp_path: Path) -> None:
    results, cluster = tmp_path / "results.jsonl", Machines()
    group = plan.groups()[0]
    foreign = replace(make_outcome(), cell=group.cell(plan.runs[0]), environment=OTHER_MACHINE)
    append(results, foreign)
    append(results, replace(make_outcome(), cell=group.cell(plan.runs[1])))
    sweep(cluster, plan, pixels, results)
    assert [[run.name for run in job.kit.runs] for job in cluster.given] == [["softmax"]] + [
        ["softmax", "linformer"]
    ] * 3


def test_parts_that_are_lost_for_good_leave_the_others_in_the_file(
    plan: Plan, pixels: PixelStore, tmp_path: Path
) -> None:
    def work(number: int, job: Job) -> Answer:
        return Answer(number, lost="the node died") if number == 1 else Answer(number, "node-1", invented(job))

    results = tmp_path / "results.jsonl"
    with pytest.raises(CellsFailedError, match=r"1 of 4 groups of cells were lost with every node .*: the node died"):
        sweep(Machines(work), plan, pixels, results)
    groups = plan.groups()
    assert {one.cell.workload for one in read(results)} == {groups[place].workload for place in (0, 2, 3)}
    second = Machines()
    sweep(second, plan, pixels, results)
    assert [job.kit.plan(Path()).groups() for job in second.given] == [[groups[1]]]
    assert len(results.read_bytes().splitlines()) == 8


def test_what_a_node_ends_with_ends_the_sweep_and_cancels_the_rest(
    plan: Plan, pixels: PixelStore, tmp_path: Path
) -> None:
    def work(number: int, job: Job) -> Answer:
        worked = invented(job)
        if number:
            worked = Worked(worked.lines[:1], Ended(2, "the disk is full", "free some space"))
        return Answer(number, "node-1", worked)

    results, cluster = tmp_path / "results.jsonl", Machines(work)
    with pytest.raises(UsageError, match="node-1: the disk is full"):
        sweep(cluster, plan, pixels, results)
    assert (cluster.answered, cluster.closed) == (2, True)
    assert len(read(results)) == 3


def test_ctrl_c_cancels_and_leaves_what_was_measured(plan: Plan, pixels: PixelStore, tmp_path: Path) -> None:
    @dataclass
    class Impatient(Told):
        def outcome(self, outcome: Outcome, measured_now: bool) -> None:
            raise KeyboardInterrupt

    results, cluster = tmp_path / "results.jsonl", Machines()
    with pytest.raises(KeyboardInterrupt):
        sweep(cluster, plan, pixels, results, Impatient())
    assert (cluster.answered, cluster.closed) == (1, True)
    assert len(read(results)) == 2


def test_what_is_no_outcome_is_not_stored(plan: Plan, pixels: PixelStore, tmp_path: Path) -> None:
    cluster = Machines(lambda number, _: Answer(number, "node-1", Worked((b'{"schema": 3}',), Ended(0))))
    with pytest.raises(UsageError, match="an outcome from node-1"):
        sweep(cluster, plan, pixels, tmp_path / "results.jsonl")
    assert not (tmp_path / "results.jsonl").exists()


def test_what_cannot_be_is_refused_before_a_node_is_asked(plan: Plan, pixels: PixelStore, tmp_path: Path) -> None:
    class Nowhere(Machines):
        def nodes(self) -> list[Node]:
            raise AssertionError("a node was asked")

    def refused(changed: Plan, kind: type[UsageError], words: str) -> None:
        with pytest.raises(kind, match=words):
            sweep(Nowhere(), changed, pixels, tmp_path / "results.jsonl")

    refused(replace(plan, backends=("tensorrt",), devices=(GPU,)), UnsupportedError, "engines of tensorrt")
    refused(replace(plan, backends=("ort-cpu",), devices=(GPU,)), UnsupportedError, "ort-cpu computes on cpu")
    refused(replace(plan, backends=("tensorflow",)), UnknownNameError, "no backend named 'tensorflow'")
    refused(replace(plan, devices=(CPU, CPU)), UsageError, "the same device is named twice")
    refused(replace(plan, resolutions=((33, 33),)), UsageError, "33 px")


def test_an_artifact_for_a_gpu_is_made_where_there_is_none(plan: Plan, pixels: PixelStore, tmp_path: Path) -> None:
    kit = collect(packing(replace(plan, backends=("torch", "ort-cpu"), devices=(GPU,)), pixels), tmp_path)
    assert {one.backend for one in kit.artifacts} == {"torch"}
    assert all(one.artifact is not None and one.blob is not None for one in kit.artifacts)


def some_kit(plan: Plan, pixels: PixelStore, blobs: Path) -> Kit:
    return collect(packing(replace(plan, resolutions=((32, 32),), batches=(1,)), pixels), blobs)


def test_a_file_that_changed_on_its_way_to_a_node_is_a_sentence(plan: Plan, pixels: PixelStore, tmp_path: Path) -> None:
    kit = some_kit(plan, pixels, tmp_path)
    worked = measure_here(encode(kit), kit.blobs, lambda _: b"something else", AS_ASKED)
    assert worked.lines == ()
    assert worked.ended.code == CheckFailedError.exit_code
    assert "has changed on the way" in worked.ended.message


@pytest.mark.slow
def test_a_node_measures_a_checkpoint_and_keeps_nothing(
    plan: Plan, pixels: PixelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = some_kit(plan, pixels, tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    worked = measure_here(encode(kit), kit.blobs, lambda name: (tmp_path / name).read_bytes(), AS_ASKED)
    assert worked.ended == Ended(0)
    assert len(worked.lines) == 2
    assert list((tmp_path / "temporary").iterdir()) == []


def test_without_ray_there_is_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda _: None)
    with pytest.raises(UnavailableError, match="Ray is not installed") as refused, connected("auto"):
        pass
    assert refused.value.hint == "install it: pip install 'effvit[ray]'"


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Put a module called `ray` in the place of Ray."""
    module = ModuleType("ray")
    module.__spec__ = ModuleSpec("ray", None)
    module.shutdown = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return module


@pytest.mark.parametrize("address", ["ray://host:10001", "host", "host:port", "http://host:8265", ":6379"])
def test_what_is_no_address_of_a_cluster_is_a_sentence(fake_ray: ModuleType, address: str) -> None:
    with pytest.raises(UsageError, match="is not the address of a Ray cluster"), connected(address):
        pass


def test_a_cluster_that_nobody_answers_for_is_a_sentence(fake_ray: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UnavailableError, match=r"no Ray cluster can be reached at 127\.0\.0\.1:1"), connected("auto"):
        pass


def test_something_else_that_listens_there_is_a_sentence(fake_ray: ModuleType) -> None:
    def answer(server: socket.socket) -> None:
        with server.accept()[0] as connection:
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=f"what listens at {address} is no Ray"), connected(address):
            pass
        thread.join()


def test_a_cluster_of_other_versions_is_a_sentence(fake_ray: ModuleType) -> None:
    # The words of ray 2.60, _private/utils.py, check_version_info.
    words = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.50.1\n    Python: 3.12.4\n"
        "This process on node 10.0.0.2 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
    )

    def init(**_: object) -> None:
        raise RuntimeError(words)

    fake_ray.init = init  # type: ignore[attr-defined]
    with pytest.raises(UnavailableError) as refused, connected("auto"):
        pass
    assert refused.value.message == (
        "the cluster runs Ray 2.50.1 on Python 3.12.4, and here it is Ray 2.60.0 on Python 3.11.7"
    )
    assert "pip install 'ray==2.50.1'" in refused.value.hint


def test_without_a_cluster_there_is_the_command_that_starts_one(fake_ray: ModuleType) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance. Please specify the one to connect to")

    fake_ray.init = init  # type: ignore[attr-defined]
    words = "no Ray cluster can be reached here: Could not find any running Ray instance$"
    with pytest.raises(UnavailableError, match=words) as refused, connected("auto"):
        pass
    assert "ray start --head" in refused.value.hint


class NodeDiedError(Exception):
    """What Ray raises for a task whose node was lost once too often."""


class OtherRayError(Exception):
    """Any other error of Ray."""


@dataclass
class Tasks:
    """Stands for Ray's functions: tasks are never run, and answer with what `answers` has for their turn."""

    answers: list[tuple[str, Worked] | Exception]
    options: dict[str, object] = field(default_factory=dict)
    asked: list[dict[str, object]] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)

    def as_ray(self, module: ModuleType) -> None:
        """Let `module` be Ray."""

        class Task:
            @staticmethod
            def options(**options: object) -> type[Task]:
                self.asked.append(self.options | options)
                return Task

            @staticmethod
            def remote(*_: object) -> int:
                return len(self.asked) - 1

        def remote(**options: object) -> Callable[[object], type[Task]]:
            self.options = options
            return lambda _: Task

        def get(ref: int) -> tuple[str, Worked]:
            answer = self.answers[ref]
            if isinstance(answer, Exception):
                raise answer
            return answer

        kinds = {"WorkerCrashedError", "OutOfMemoryError", "ObjectLostError", "RayTaskError"}
        errors = {name: type(name, (Exception,), {}) for name in kinds}
        facts = {"NodeID": "a1", "Alive": True, "NodeName": "desk", "Resources": {"CPU": 4.0, "effvit_cpu": 1.0}}
        replaced = {
            "exceptions": SimpleNamespace(NodeDiedError=NodeDiedError, RayError=OtherRayError, **errors),
            "nodes": lambda: [facts],
            "put": lambda content: content,
            "remote": remote,
            "wait": lambda refs, num_returns=1, **_: (refs[:num_returns], refs[num_returns:]),
            "get": get,
            "cancel": self.cancelled.append,
        }
        for name, value in replaced.items():
            setattr(module, name, value)


DONE = ("a1", Worked((), Ended(0)))


def jobs_for(plan: Plan, pixels: PixelStore, blobs: Path, count: int) -> list[Job]:
    return [Job(f"job {number}", Demand(0, 1, 1), some_kit(plan, pixels, blobs)) for number in range(count)]


def test_a_task_asks_ray_for_its_machine_and_to_be_repeated(
    fake_ray: ModuleType, plan: Plan, pixels: PixelStore, tmp_path: Path
) -> None:
    tasks = Tasks([DONE, NodeDiedError("it died"), DONE])
    tasks.as_ray(fake_ray)
    answers = list(RayCluster().measure(jobs_for(plan, pixels, tmp_path, 3), tmp_path, AS_ASKED))
    assert answers == [Answer(0, "desk", DONE[1]), Answer(1, lost="it died"), Answer(2, "desk", DONE[1])]
    demand = {"num_cpus": 0, "num_gpus": 1, "resources": {"effvit_cpu": 1}}
    assert tasks.asked[0] == {"name": "job 0", "max_calls": 1, "max_retries": 3, **demand}
    assert tasks.cancelled == []


def test_who_stops_listening_cancels_what_is_left(
    fake_ray: ModuleType, plan: Plan, pixels: PixelStore, tmp_path: Path
) -> None:
    tasks = Tasks([DONE, DONE, DONE])
    tasks.as_ray(fake_ray)
    answers = RayCluster().measure(jobs_for(plan, pixels, tmp_path, 3), tmp_path, AS_ASKED)
    assert next(answers).job == 0
    answers.close()
    assert tasks.cancelled == [1, 2]


def test_a_cluster_that_fails_is_a_sentence(
    fake_ray: ModuleType, plan: Plan, pixels: PixelStore, tmp_path: Path
) -> None:
    tasks = Tasks([OtherRayError("the head is gone"), DONE])
    tasks.as_ray(fake_ray)
    with pytest.raises(UnavailableError, match="the Ray cluster failed: the head is gone"):
        list(RayCluster().measure(jobs_for(plan, pixels, tmp_path, 2), tmp_path, AS_ASKED))
    assert tasks.cancelled == [1]
