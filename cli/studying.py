"""What `effvit study` shows while variants are fine-tuned."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from effvit.cli.output import say
from effvit.cli.training import TrainingDisplay
from effvit.finetune import Listener as TrainingListener
from effvit.profiling.study import Listener
from effvit.run import Run


class StudyDisplay(Listener):
    """A heading for every variant, then what `effvit finetune` shows."""

    def __init__(self) -> None:
        self._training: TrainingDisplay | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finished()

    def training(self, attention: str, index: int, count: int) -> TrainingListener:
        self.finished()
        say(f"\nvariant {index + 1} of {count}: {attention}")
        self._training = TrainingDisplay().__enter__()
        return self._training

    def kept(self, run: Run) -> None:
        self.finished()
        best = run.record.best
        say(f"{run.name}: fine-tuned before" + (f", top-1 {best.top1:.1%}" if best is not None else ""))

    def finished(self) -> None:
        """Close the bar of the variant before, if any."""
        if self._training is not None:
            self._training.__exit__(None, None, None)
            self._training = None
