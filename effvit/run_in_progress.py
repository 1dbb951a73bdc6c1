"""A run while work on it goes on, in the process that writes it and in those that work along."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Self

import torch
from torch import nn

from effvit.accuracy import Accuracy
from effvit.errors import DeviceMemoryError, StorageError
from effvit.run import EpochRecord, Run, RunRecord


@dataclass(frozen=True, slots=True)
class FollowedRun(Run):
    """A run as every process but the first sees it: the first one writes."""

    def updated(self, record: RunRecord) -> Run:
        return FollowedRun(self.folder, record)

    def append_epoch(self, epoch: EpochRecord) -> None:
        """Leave it to the first process."""

    def save(self, name: str, model: nn.Module) -> None:
        """Leave it to the first process."""

    def with_best(self, epoch: EpochRecord, accuracy: Accuracy) -> Run:
        return self.updated(replace(self.record, best=epoch, accuracy=accuracy))


class RunInProgress:
    """The run as far as it is on disk while work on it goes on; whatever cuts the work short is its status then.

    Raises:
        DeviceMemoryError: On leaving, where the device had too little memory.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            return
        record = self.run.record
        status: Literal["interrupted", "failed"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        # The disk that is full may be why it ended; the first error is the one to show.
        with suppress(StorageError):
            self.run.updated(replace(record, status=status))
        if isinstance(error, torch.OutOfMemoryError):
            raise DeviceMemoryError(
                f"a batch of {record.recipe.batch} needs more memory than {record.device} has", "use a smaller --batch"
            ) from error

    def best(self, epoch: EpochRecord, accuracy: Accuracy) -> None:
        """Record `epoch`, its answers and the hash of the weights that are its."""
        self.run = self.run.with_best(epoch, accuracy)
