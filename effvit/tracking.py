"""The curves of a run for the displays of TensorBoard, MLflow and Weights & Biases, through Accelerate's trackers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING

import msgspec

from effvit.errors import UnavailableError, UnknownNameError
from effvit.run import EpochRecord, Run

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

PROJECT = "effvit"
FOLDER = "tensorboard"
PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}
"""What each tracker needs beside Accelerate."""


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


class Trackers:
    """Tells trackers of a run's epochs, by the names that its history has.

    `first_epoch` counts from 0; a run that goes on takes back what was told of it and later ones, where a tracker can.
    """

    def __init__(self, names: Iterable[str], run: Run, first_epoch: int) -> None:
        self._trackers = [_opened(name, run, first_epoch) for name in names]

    def epoch(self, record: EpochRecord) -> None:
        """Tell of one finished epoch."""
        values = {name: value for name, value in asdict(record).items() if name != "epoch" and value is not None}
        for tracker in self._trackers:
            tracker.log(values, step=record.epoch)

    def close(self) -> None:
        """Let the trackers write what they still hold."""
        for tracker in self._trackers:
            tracker.finish()


def _opened(name: str, run: Run, first_epoch: int) -> GeneralTracker:
    from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker

    tracker: GeneralTracker
    if name == "tensorboard":
        tracker = TensorBoardTracker(FOLDER, run.folder, purge_step=first_epoch + 1)
        tracker.start()
        return tracker
    if name == "mlflow":
        tracker = MLflowTracker(PROJECT, run_name=run.name)
    else:
        tracker = WandBTracker(PROJECT, name=run.name, id=run.name, resume="allow", dir=str(run.folder))
    tracker.start()
    tracker.store_init_configuration(msgspec.to_builtins(run.record.recipe))
    return tracker
