"""One run among those measured together, and who of them is measured in the next round."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from effvit.accuracy import Accuracy
from effvit.errors import FallbackError, MismatchError
from effvit.export.base import Artifact
from effvit.profiling.isolate import CellFailure, IsolatedWorker, Opened
from effvit.profiling.preparation import Refusal
from effvit.profiling.records import DeviceTimes, Energy, HostMemory, Stage
from effvit.profiling.stopping import Standing
from effvit.profiling.timer import Round
from effvit.run import Run
from effvit.spec import BASELINE


class Contender:
    """One run among those measured together: its worker, and what was measured so far or why it dropped out.

    `beside` others that are open, it does not drop out for want of memory: that is to be tried alone.
    """

    def __init__(self, run: Run, artifact: Artifact) -> None:
        self.run, self.artifact = run, artifact
        self.worker: IsolatedWorker
        self.beside = False
        self.opened: Opened | None = None
        self.memory: HostMemory | None = None
        self.rounds: list[tuple[int, Round]] = []
        self.standing: Standing | None = None
        self.accuracy: Accuracy | None = None
        self.energy: Energy | None = None
        self.device_times: DeviceTimes | None = None
        self.refusal: Refusal | None = None

    @property
    def is_baseline(self) -> bool:
        return self.run.record.spec.attention == BASELINE

    def begin(self, *, beside: bool) -> None:
        """Forget the rounds there were: in a group either all or none count."""
        self.beside, self.rounds, self.standing = beside, [], None

    def attempt(self, stage: Stage, work: Callable[[], None]) -> None:
        """Do `work` unless this contender dropped out; a failing worker makes it drop out, and the others go on.

        Raises:
            Crowded: Memory ran out, and others have some of it.
        """
        if self.refusal is not None:
            return
        try:
            work()
        except CellFailure as failure:
            if failure.crowded and self.beside:
                raise Crowded(self) from failure
            self.refusal = Refusal(failure.status, stage, failure.reason)
        except MismatchError as error:
            self.refusal = Refusal("failed", "verify", error.message)
        except FallbackError as error:
            self.refusal = Refusal("fallback", "open", error.message)


class Crowded(Exception):  # noqa: N818  # not an error of the program: the group is measured in another way
    """Memory does not hold all contenders at once; `victim` is who met that, None if it was foreseen."""

    def __init__(self, victim: Contender | None = None) -> None:
        super().__init__()
        self.victim = victim


def taking_part(contenders: Sequence[Contender], least: int) -> list[Contender]:
    """Return who is measured in the next round: everyone that needs one, and the baseline with them.

    A ratio to the baseline is paired round by round. So the baseline goes on as long as anyone does, and whoever has
    fewer than `least` undisturbed rounds in common with it goes on, too, unless a limit of either forbids it. Two
    others are never divided by one another: once measured, they stop.
    """
    left = [one for one in contenders if one.refusal is None]
    baseline = next((one for one in left if one.is_baseline), None)
    waiting = [one for one in left if one.standing is None or not one.standing.done or _unpaired(one, baseline, least)]
    if not waiting or baseline is None or baseline in waiting or _spent(baseline):
        return waiting
    return [baseline, *waiting]


def _unpaired(one: Contender, baseline: Contender | None, least: int) -> bool:
    """Return whether more rounds would, and may, pair `one` with the baseline."""
    if baseline is None or one.standing is None or baseline.standing is None or _spent(one) or _spent(baseline):
        return False
    return len(one.standing.quiet & baseline.standing.quiet) < least


def _spent(one: Contender) -> bool:
    return one.standing is not None and bool(one.standing.limit)
