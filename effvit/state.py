"""Where an unfinished training stands, on disk: enough to go on as if nothing had come between.

One safetensors file, so that it is written whole: the tensors of the model and its optimiser, and the rest as JSON in
the file's metadata. What is drawn at random follows from the position (`randomness`), and so does the schedule.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from effvit.checkpoint import save_tensors
from effvit.errors import CheckpointError, first_line
from effvit.interruption import Interruption
from effvit.optimisation import NOT_BEGUN, Begun, Optimisation
from effvit.run import TransferEpoch
from effvit.team import Team

STATE, TEACHER = "state.safetensors", "teacher.safetensors"
SCHEMA = "effvit.state/1"
EVERY_S = 600.0
"""How often a state is saved within an epoch: for a ViT-B it is 1 GB."""
_POSITION, _MODEL, _OPTIMISER, _AVERAGE = "position", "model.", "optimiser.", "average."


@dataclass(frozen=True, slots=True)
class TransferSoFar:
    """What attention transfer has come to: see TransferRecord."""

    errors_before: tuple[float, ...]
    top1_before: float
    epochs: tuple[TransferEpoch, ...] = ()


@dataclass(frozen=True, slots=True)
class Position:
    """Where a training stands: in which phase, at which epoch (from 0), and how far that is.

    `scaler` is the state of the gradients' scaling (PyTorch insists on its counts being whole numbers), `transfer` what
    the phase of that name needs, `teacher` the folder of the run to learn from.
    """

    phase: Literal["transfer", "training"]
    epoch: int = 0
    begun: Begun = NOT_BEGUN
    scaler: dict[str, float | int] = field(default_factory=dict)
    transfer: TransferSoFar | None = None
    teacher: str | None = None
    schema: str = SCHEMA


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """A position with the tensors that belong to it; at the start of a phase those of the model alone.

    `average` is the moving average of the model.
    """

    position: Position
    model: Mapping[str, Tensor] = field(default_factory=dict)
    optimiser: Mapping[str, Tensor] = field(default_factory=dict)
    average: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What a training works on: a model, and once it has begun, an optimiser and perhaps the model's moving average."""

    model: nn.Module
    optimisation: Optimisation | None = None
    average: nn.Module | None = None


class StateKeeper:
    """Keeps the state of one training in its run folder.

    Within an epoch that is every `every_s` seconds, and when an `interruption` asks for the training to stop. `teacher`
    is the folder of the run to learn from, if any. Of a `team` the first process writes, and all stop together.
    """

    def __init__(
        self,
        folder: Path,
        every_s: float = EVERY_S,
        interruption: Interruption | None = None,
        teacher: str | None = None,
        team: Team | None = None,
    ) -> None:
        self.path, self.team = folder / STATE, team or Team()
        self.every_s, self.interruption, self.teacher = every_s, interruption, teacher
        self._saved_s = time.monotonic()

    def save(self, position: Position, work: Work) -> None:
        """Write the state, whole or not at all.

        Raises:
            StorageError: The disk is full, or the folder cannot be written; the state before is intact.
        """
        if not self.team.leads:
            return
        tensors = _above(_MODEL, work.model.state_dict())
        if work.optimisation is not None:
            tensors |= _above(_OPTIMISER, work.optimisation.tensors())
            position = replace(position, scaler=work.optimisation.scaler.state_dict())
        if work.average is not None:
            tensors |= _above(_AVERAGE, work.average.state_dict())
        position = replace(position, teacher=self.teacher)
        save_tensors(self.path, tensors, {_POSITION: msgspec.json.encode(position).decode()})
        self._saved_s = time.monotonic()

    def after_step(self, position: Position, work: Work) -> None:
        """Write the state if it is time to.

        Raises:
            KeyboardInterrupt: The training was asked to stop; the state is written.
            StorageError: The disk is full, or the folder cannot be written; the state before is intact.
        """
        asked_to_stop = self._asked_to_stop()
        if asked_to_stop or time.monotonic() - self._saved_s >= self.every_s:
            self.save(position, work)
        if asked_to_stop:
            raise KeyboardInterrupt

    def after_epoch(self, position: Position, work: Work) -> None:
        """Write the state.

        Raises:
            KeyboardInterrupt: The training was asked to stop; the state is written.
            StorageError: The disk is full, or the folder cannot be written; the state before is intact.
        """
        self.save(position, work)
        if self._asked_to_stop():
            raise KeyboardInterrupt

    def remove(self) -> None:
        """Remove what only an unfinished training needs."""
        if not self.team.leads:
            return
        for path in (self.path, self.path.with_name(TEACHER)):
            path.unlink(missing_ok=True)

    def _asked_to_stop(self) -> bool:
        if self.interruption is not None and self.interruption.asked:
            self.team.ask_to_stop()
        return self.team.stops


def read_state(folder: Path) -> State:
    """Return the state of the training in `folder`.

    Raises:
        CheckpointError: There is none, or it is damaged or of another effvit.
    """
    path = folder / STATE
    hint = f"start again under another --name, or remove {folder}"
    if not path.is_file():
        raise CheckpointError(f"the run {folder.name} has no saved state to go on from", hint)
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  # no mapping
            position = msgspec.json.decode((stored.metadata() or {}).get(_POSITION, ""), type=Position)
    except (SafetensorError, OSError, msgspec.DecodeError) as error:
        raise CheckpointError(f"{path} is damaged or of another effvit: {first_line(error)}", hint) from error
    if position.schema != SCHEMA:
        raise CheckpointError(f"{path} has schema {position.schema!r}, not {SCHEMA!r}", "use the effvit that wrote it")
    return State(position, *(_below(prefix, tensors) for prefix in (_MODEL, _OPTIMISER, _AVERAGE)))


def _above(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
