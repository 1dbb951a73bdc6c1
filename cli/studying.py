"""What `effvit study` shows while variants are fine-tuned, and what it advises at its end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.progress import Progress

from effvit.cli.output import hint, progress_bars, say, show
from effvit.cli.remote_sweeping import GOES_ON, remote_sweep
from effvit.cli.sweeping import SweepDisplay
from effvit.cli.training import TrainingDisplay
from effvit.data.base import ImageData
from effvit.finetune import Listener as TrainingListener
from effvit.interruption import advising, same_command
from effvit.profiling.plan import Effort
from effvit.profiling.ranking import comparisons
from effvit.profiling.records import Outcome
from effvit.profiling.report.advice import USUAL_QUESTION, usual_advice
from effvit.profiling.report.devices import sentences
from effvit.profiling.report.rows import Row
from effvit.profiling.study import Listener, Study, run_study
from effvit.profiling.study_time import spending
from effvit.run import Run


class StudyDisplay(Listener):
    """A heading for every variant, then what `effvit finetune` shows."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._training: TrainingDisplay | None = None

    def training(self, attention: str, index: int, count: int) -> TrainingListener:
        self.close()
        say(f"\nvariant {index + 1} of {count}: {attention}")
        self._training = TrainingDisplay(self._progress)
        return self._training

    def kept(self, run: Run) -> None:
        self.close()
        best = run.record.best
        say(f"{run.name}: fine-tuned before" + (f", top-1 {best.top1:.1%}" if best is not None else ""))

    def close(self) -> None:
        """Take away the bar of the variant before, if any."""
        if self._training is not None:
            self._training.close()
            self._training = None


def carry_out(study: Study, images: ImageData, folder: Path, effort: Effort, description: str) -> list[Outcome]:
    """Carry out what of the study is left, and show how that goes.

    Raises:
        EffvitError: Whatever `run_study` raises.
    """
    with advising(same_command), spending(folder, study), progress_bars() as progress:
        display = StudyDisplay(progress)
        sweeps: list[SweepDisplay] = []

        def begin_sweep() -> SweepDisplay:
            display.close()
            for earlier in sweeps[-1:]:
                earlier.close()
            sweeps.append(SweepDisplay(progress))
            return sweeps[-1]

        try:
            outcomes = run_study(
                study, images, folder, effort, display, begin_sweep, description, partial(remote_sweep, progress)
            )
        except KeyboardInterrupt:
            if study.hosts and sweeps:
                say(GOES_ON)
            raise
        sweeps[-1].close()
    return outcomes


def show_ranking(rows: Sequence[Row]) -> None:
    """Print how the order of the mechanisms changes from device to device; nothing for a single one."""
    for sentence in sentences(comparisons(rows)):
        show(f"\n{sentence}")


def show_choice(rows: Sequence[Row], results: Path) -> None:
    """Print what to ship where a point of top-1 may be lost, and how to ask for something else of the `results`."""
    found = usual_advice(rows)
    show(f"\n{USUAL_QUESTION}:" if found else "\nNo accuracy was measured, so nothing can be recommended.")
    for one in found:
        for line in (*([f"{one.place}:"] if one.place else []), one.answer, *one.details):
            show(line)
    hint(f"for other limits, see `effvit recommend {results} --max-latency-p50 10ms`")
