"""The curves of a run for the displays of TensorBoard, MLflow and Weights & Biases, through Accelerate's trackers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import msgspec

from effvit.errors import CheckpointError, UnavailableError, UnknownNameError, first_line
from effvit.run import EpochRecord, Run
from effvit.storage import write_atomically

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

PROJECT = "effvit"
FOLDER, IDS = "tensorboard", "trackers.json"
PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}
"""What each tracker needs beside Accelerate."""
REFUSALS = {"mlflow": ("mlflow.exceptions", "MlflowException"), "wandb": ("wandb.errors", "Error")}
"""What the package of a service raises where the service cannot be reached, or refuses: module and class."""


def require_trackers(names: Iterable[str]) -> None:
    """Check that these trackers exist, and can be used here.

    Raises:
        UnknownNameError: There is no such tracker.
        UnavailableError: Its package, or Accelerate, is not installed.
    """
    for name in names:
        if name not in PACKAGES:
            raise UnknownNameError("tracker", name, PACKAGES)
        missing = [package for package in ("accelerate", PACKAGES[name]) if find_spec(package) is None]
        if missing:
            raise UnavailableError(
                f"tracking with {name} needs {' and '.join(missing)}, which is not installed",
                f"install it: pip install {' '.join(missing)}",
            )


@dataclass(frozen=True, slots=True)
class TrackerIds:
    """What the services that a run is told to call it: kept in its folder, for them to go on with it."""

    mlflow: str | None = None
    wandb: str | None = None


class Trackers:
    """Tells trackers of a run's epochs, by the names that its history has.

    `first_epoch` counts from 0. A run that goes on is gone on with there, too: TensorBoard takes back what it was told
    of that epoch and later ones; the others are told again, of the same step, what was lost with the state.

    Raises:
        CheckpointError: What the folder says of an earlier part of the run is damaged.
        UnavailableError: Here or later: a service cannot be reached, or has never heard of the run.
        StorageError: The folder cannot be written.
    """

    def __init__(self, names: Iterable[str], run: Run, first_epoch: int) -> None:
        self._trackers = [_opened(name, run, first_epoch) for name in names]

    def epoch(self, record: EpochRecord) -> None:
        """Tell of one finished epoch."""
        values = {
            name: value
            for name, value in asdict(record).items()
            if name != "epoch" and value is not None and not isinstance(value, str)
        }
        for tracker in self._trackers:
            with _services_missed(tracker.name):
                tracker.log(values, step=record.epoch)

    def close(self) -> None:
        """Let the trackers write what they still hold."""
        for tracker in self._trackers:
            with _services_missed(tracker.name):
                tracker.finish()


def _opened(name: str, run: Run, first_epoch: int) -> GeneralTracker:
    if name == "tensorboard":
        from accelerate.tracking import TensorBoardTracker

        board: GeneralTracker = TensorBoardTracker(FOLDER, run.folder, purge_step=first_epoch + 1)
        board.start()
        return board
    known = _ids_in(run)
    with _services_missed(name):
        tracker, own = (_mlflow if name == "mlflow" else _wandb)(run, known)
        if own != known:
            tracker.store_init_configuration(msgspec.to_builtins(run.record.recipe))
    if own != known:
        write_atomically(run.folder / IDS, msgspec.json.encode(own) + b"\n")
    return tracker


def _mlflow(run: Run, known: TrackerIds) -> tuple[GeneralTracker, TrackerIds]:
    from accelerate.tracking import MLflowTracker

    tracker = MLflowTracker(PROJECT, run_id=known.mlflow, run_name=run.name)
    tracker.start()
    return tracker, replace(known, mlflow=tracker.active_run.info.run_id)


def _wandb(run: Run, known: TrackerIds) -> tuple[GeneralTracker, TrackerIds]:
    from accelerate.tracking import WandBTracker

    tracker = WandBTracker(PROJECT, name=run.name, id=known.wandb, resume="allow", dir=str(run.folder))
    tracker.start()
    return tracker, replace(known, wandb=tracker.run.id)


def _ids_in(run: Run) -> TrackerIds:
    path = run.folder / IDS
    if not path.is_file():
        return TrackerIds()
    try:
        return msgspec.json.decode(path.read_bytes(), type=TrackerIds)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", "remove it to have trackers begin anew") from error


@contextmanager
def _services_missed(name: str) -> Iterator[None]:
    """Tell in one sentence of what a service refuses."""
    if name not in REFUSALS:
        yield
        return
    module, kind = REFUSALS[name]
    refusal: type[Exception] = getattr(import_module(module), kind)
    try:
        yield
    except refusal as error:
        raise UnavailableError(
            f"{name} cannot be told of the run: {first_line(error)}",
            f"see to {name}, or go on without it: leave --track {name} out",
        ) from error
