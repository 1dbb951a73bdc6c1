"""The processes that train one model together: one alone, or all that `torchrun` or `accelerate launch` has started.

Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from effvit.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Which of how many processes this one is, and of how many on this machine; numbers count from 0."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


ALONE = Place()


def launched_place() -> Place:
    """Return the place that a launcher has given this process; without one, that of a process alone.

    Raises:
        UsageError: What the launcher left in the environment makes no sense.

    Source:
        https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if any(name not in os.environ for name in names[:3]):
        return ALONE
    texts = {name: os.environ.get(name, "1") for name in names}
    try:
        place = Place(*(int(texts[name]) for name in names))
    except ValueError as error:
        raise UsageError(
            "the environment names no process of a launch: " + " ".join(f"{name}={texts[name]}" for name in names),
            "start it with torchrun, or unset these variables",
        ) from error
    return place


class Team:
    """One process alone, which agrees with itself; `effvit.accelerated` has the team of several.

    The first process (rank 0) writes, and speaks, for all. What is not the same in all processes may fail in one of
    them only inside `together`.
    """

    def __init__(self, place: Place = ALONE) -> None:
        self.place = place
        self._stopping = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # After an error others may be gone, or still wait for what this process will not take part in any more.
        if error is None:
            self.close()

    @property
    def rank(self) -> int:
        return self.place.rank

    @property
    def size(self) -> int:
        return self.place.size

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def ask_to_stop(self) -> None:
        """Have every process stop after the step that all of them are at."""
        self._stopping = True

    @property
    def stops(self) -> bool:
        """Whether all processes know that one was asked to stop."""
        return self._stopping

    @contextmanager
    def together(self) -> Iterator[None]:
        """End the block in all processes with the error that one of them had there, if one had.

        Inside, processes must not wait for one another.
        """
        yield

    def synchronised(self, model: nn.Module) -> nn.Module:
        """Return a module that does what `model` does, and whose gradients become the mean over all processes.

        The parameters become those of the first process.
        """
        return model

    def unsynchronised(self, module: nn.Module) -> AbstractContextManager[object]:
        """Let gradients through the `synchronised` module add up in this process alone."""
        return nullcontext()

    def noticing(self) -> AbstractContextManager[object]:
        """Tell in one sentence of a process that ends while gradients are synchronised in the block."""
        return nullcontext()

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over all processes."""
        return value

    def gathered(self, value: T) -> list[T]:
        """Return the values of all processes in order of rank."""
        return [value]

    def device(self, chosen: torch.device) -> torch.device:
        """Return the device of this process where `chosen` is that of all."""
        return chosen

    def close(self) -> None:
        """Part; nothing can be agreed on any more."""


def join_team(device: str | None = None) -> Team:
    """Return the team that this process belongs to; `device` is what all were asked to train on (None: a GPU if any).

    Raises:
        UnavailableError: There is a launcher, but no `accelerate`, or no GPU for every process.
        UsageError: The device is that of one process alone.
    """
    place = launched_place()
    if place.size == 1:
        return Team()
    from effvit.accelerated import AcceleratedTeam

    return AcceleratedTeam(place, device)
