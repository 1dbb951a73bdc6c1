"""Several hosts in one sweep: none of them holds another up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import msgspec
import pytest
from outcomes import make_outcome

from effvit.cli.output import progress_bars
from effvit.cli.remote_sweeping import follow_all, start_on
from effvit.errors import EffvitError, UnavailableError
from effvit.profiling.agent.measuring import AS_ASKED, Allowed
from effvit.profiling.agent.packing import Packing
from effvit.profiling.agent.remote import Event, Following, RemoteFile, RemoteSweep
from effvit.profiling.agent.ssh import Host
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Plan
from effvit.profiling.records import Outcome
from effvit.profiling.results import encode, read
from effvit.profiling.sweep import Listener

LONG_S = 20.0


class FakeSweep:
    """A host that tells one outcome, once `free` is set, and then ends as it is told to."""

    def __init__(self, outcome: Outcome, free: threading.Event, end: EffvitError | None = None) -> None:
        self._outcome, self._free, self._end = outcome, free, end
        self.left = False

    def following(self, results: Path, listener: Listener) -> Following:
        return Following(self._outcome.run, results, listener)

    def events(self) -> Iterator[Event]:
        assert self._free.wait(LONG_S), "held up by another host"
        yield Event("planned", cells=1)
        if self._end is not None:
            raise self._end
        yield Event("outcome", outcome=msgspec.Raw(encode(self._outcome)))
        yield Event("ended")

    def leave(self) -> None:
        self.left = True


def free() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def follow(sweeps: Sequence[FakeSweep], results: Path) -> list[Outcome]:
    with progress_bars() as progress:
        return follow_all(cast("list[RemoteSweep]", sweeps), results, progress)


class Waiting(threading.Event):
    """Set once the file has a line, which another host has told."""

    def __init__(self, results: Path) -> None:
        super().__init__()
        self._results = results

    def wait(self, timeout: float | None = None) -> bool:
        for _ in range(int(100 * (timeout or LONG_S))):
            if self._results.exists() and self._results.read_bytes().endswith(b"\n"):
                return True
            super().wait(0.01)
        return False


def test_outcomes_of_a_fast_host_are_on_disk_while_a_slow_one_has_told_nothing(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    slow, fast = FakeSweep(make_outcome("softmax"), Waiting(results)), FakeSweep(make_outcome("linformer"), free())
    outcomes = follow([slow, fast], results)
    # In the order in which the hosts were named, whoever was first.
    assert [one.cell.model.attention for one in outcomes] == ["softmax", "linformer"]
    assert [one.cell.model.attention for one in read(results)] == ["linformer", "softmax"]
    assert slow.left
    assert fast.left


def test_a_host_that_breaks_away_does_not_end_the_others(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    broken = FakeSweep(make_outcome("softmax"), free(), UnavailableError("the connection broke", "again"))
    with pytest.raises(UnavailableError, match="the connection broke"):
        follow([broken, FakeSweep(make_outcome("linformer"), free())], results)
    assert [one.cell.model.attention for one in read(results)] == ["linformer"]


class FakeHost:
    """A host that is packed for and sent to by these."""

    def __init__(self, name: str, packed: Callable[[str], None], sent: Callable[[str], None]) -> None:
        self._name, self._packed, self._sent = name, packed, sent

    def pack(self, packing: Packing, folder: Path) -> list[RemoteFile]:
        self._packed(self._name)
        return []

    def send(self, files: Sequence[RemoteFile], stage: Callable[[str], None], allowed: Allowed) -> None:
        self._sent(self._name)


def start(sent: Callable[[str], None], packed: Callable[[str], None] = lambda _: None) -> list[RemoteSweep]:
    """Start two hosts, `slow` and then `fast`."""

    def connect(progress: object, host: Host) -> RemoteSweep:
        return cast(RemoteSweep, FakeHost(host.name, packed, sent))

    with PixelStore() as pixels, progress_bars() as progress:
        packing = Packing(Plan((), (), (), (), ()), Effort(1), pixels, lambda _: None)
        return start_on([Host("slow"), Host("fast")], packing, AS_ASKED, progress, connect)


def test_a_slow_copy_does_not_keep_another_host_from_starting() -> None:
    fast_started = threading.Event()

    def send(name: str) -> None:
        if name == "slow":
            assert fast_started.wait(LONG_S), "the other host waits for the copy"
        else:
            fast_started.set()

    assert len(start(send)) == 2


def test_a_host_that_does_not_answer_leaves_the_others_started() -> None:
    sent: list[str] = []

    def pack(name: str) -> None:
        if name == "slow":
            raise UnavailableError("slow does not answer", "switch it on")

    with pytest.raises(UnavailableError, match="slow does not answer"):
        start(sent.append, pack)
    assert sent == ["fast"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_a_thread_ends_the_command_and_does_not_hang() -> None:
    def send(name: str) -> None:
        raise ZeroDivisionError(name)

    with pytest.raises(RuntimeError, match="ended without a result"):
        start(send)
