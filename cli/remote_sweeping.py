"""What `effvit profile` and `effvit study` do with devices behind ssh."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from effvit.cli.output import say
from effvit.cli.sweeping import SweepDisplay
from effvit.errors import EffvitError
from effvit.profiling.agent.measuring import Allowed
from effvit.profiling.agent.remote import Event, RemoteSweep
from effvit.profiling.agent.ssh import Host, Ssh

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from effvit.profiling.agent.packing import Packing
    from effvit.profiling.records import Outcome


GOES_ON = "what was started on other machines goes on; `effvit agent stop` ends it"


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


def start_on(
    hosts: Sequence[Host],
    packing: Packing,
    allowed: Allowed,
    progress: Progress,
    connect: Callable[[Progress, Host], RemoteSweep] = remote_sweep,
) -> list[RemoteSweep]:
    """Let every host measure; they do so at the same time, each at its own pace, and none waits for another's copies.

    Raises:
        EffvitError: Of the first host that cannot be started; the others are, and go on.
    """
    sweeps = [connect(progress, host) for host in hosts]
    errors: list[BaseException | None] = []
    sending: list[Future[None]] = []
    with ExitStack() as folders:
        for sweep in sweeps:
            folder = Path(folders.enter_context(TemporaryDirectory(prefix="effvit-kit-")))
            try:
                files = sweep.pack(packing, folder)
            except EffvitError as error:
                errors.append(error)
            else:
                sending.append(_beside(partial(sweep.send, files, packing.stage, allowed)))
        errors += [one.exception() for one in sending]
    _raise_first(errors)
    return sweeps


def follow_all(sweeps: Sequence[RemoteSweep], results: Path, progress: Progress) -> list[Outcome]:
    """Return the outcomes of all hosts, which are in the file `results` then.

    What one of them tells is taken at once, whatever the others do.

    Raises:
        EffvitError: Of the first host that failed; the others were followed to their ends.
    """
    followed = [_Followed(sweep, results, SweepDisplay(progress)) for sweep in sweeps]
    told: Queue[tuple[_Followed, Event | None]] = Queue()
    for one in followed:
        one.start(told)
    try:
        going = len(followed)
        while going:
            one, event = told.get()
            going -= event is None
            one.take(event)
    except KeyboardInterrupt:
        say(GOES_ON)
        raise
    finally:
        for sweep in sweeps:
            sweep.leave()
    _raise_first([one.error for one in followed])
    return [outcome for one in followed for outcome in one.outcomes]


class _Followed:
    """A host that is listened to by a thread, and whose events are taken by another, in which all files are written."""

    def __init__(self, sweep: RemoteSweep, results: Path, display: SweepDisplay) -> None:
        self._sweep, self._display = sweep, display
        self._following = sweep.following(results, display)
        self._listening: Future[None]
        self.outcomes: list[Outcome] = []
        self.error: BaseException | None = None

    def start(self, told: Queue[tuple[_Followed, Event | None]]) -> None:
        """Let a thread tell every event, and None after the last."""

        def listen() -> None:
            try:
                for event in self._sweep.events():
                    told.put((self, event))
            finally:
                told.put((self, None))

        self._listening = _beside(listen)

    def take(self, event: Event | None) -> None:
        """Take an event; after the last one there are `outcomes`, or an `error`."""
        if self.error is not None:
            return
        try:
            if event is not None:
                self._following.take(event)
                return
            self.error = self._listening.exception()
            if self.error is None:
                self.outcomes = self._following.outcomes()
        except EffvitError as error:
            self.error = error
        self._display.close()


def _beside(work: Callable[[], None]) -> Future[None]:
    """Do `work` in a thread of its own, which keeps no command from ending; the result tells what went wrong."""
    done: Future[None] = Future()

    def carry_out() -> None:
        try:
            work()
        except EffvitError as error:
            done.set_exception(error)
        else:
            done.set_result(None)
        finally:
            if not done.done():  # a bug, whose traceback the thread prints: whoever waits is not to wait for ever
                done.set_exception(RuntimeError("the work on a host ended without a result"))

    threading.Thread(target=carry_out, daemon=True).start()
    return done


def _raise_first(errors: Sequence[BaseException | None]) -> None:
    for error in errors:
        if error is not None:
            raise error
