"""What `effvit profile` and `effvit study` do with devices behind ssh."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effvit.cli.output import say
from effvit.cli.sweeping import SweepDisplay
from effvit.profiling.agent.measuring import Allowed
from effvit.profiling.agent.remote import RemoteSweep
from effvit.profiling.agent.ssh import Host, Ssh

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from effvit.profiling.agent.packing import Packing
    from effvit.profiling.records import Outcome


GOES_ON = "what was started on other machines goes on; `effvit agent clean` ends it"


class _CopyBar:
    """A bar over the bytes that are copied to one host."""

    def __init__(self, progress: Progress, host: Host) -> None:
        self._progress, self._host = progress, host
        self._task: TaskID | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._task is None:
            self._task = self._progress.add_task(f"copying to {self._host}", total=total, detail="bytes")
        self._progress.update(self._task, completed=done)
        if done >= total:
            self._progress.remove_task(self._task)
            self._task = None


def remote_sweep(progress: Progress, host: Host) -> RemoteSweep:
    """Return the sweep of a host, with a bar over what is copied to it."""
    return RemoteSweep(Ssh(host), _CopyBar(progress, host))


def start_on(hosts: Sequence[Host], packing: Packing, allowed: Allowed, progress: Progress) -> list[RemoteSweep]:
    """Let every host measure; they do so at the same time, each at its own pace."""
    started = []
    for host in hosts:
        sweep = remote_sweep(progress, host)
        sweep.start(packing, allowed)
        started.append(sweep)
    return started


def follow_all(sweeps: Sequence[RemoteSweep], results: Path, progress: Progress) -> list[Outcome]:
    """Return the outcomes of all hosts, which are in the file `results` then."""
    outcomes = []
    for sweep in sweeps:
        display = SweepDisplay(progress)
        try:
            outcomes += sweep.follow(results, display)
        except KeyboardInterrupt:
            say(GOES_ON)
            raise
        display.close()
    return outcomes
