"""What `effvit study` shows while variants are fine-tuned."""

from __future__ import annotations

from rich.progress import Progress

from effvit.cli.output import say
from effvit.cli.training import TrainingDisplay
from effvit.finetune import Listener as TrainingListener
from effvit.profiling.study import Listener
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
