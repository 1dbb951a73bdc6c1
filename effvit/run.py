"""A run: the folder that a fine-tuning leaves behind, and everything a later command needs to know of it.

Imports no torch, but to make the model: devices that measure a run's artifacts have none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from effvit.accuracy import Accuracy
from effvit.cached import Cached
from effvit.data.base import ImageData, known_data
from effvit.environment import Environment
from effvit.errors import CheckpointError, DataError, StorageError, UsageError
from effvit.preprocessing import Preprocessing
from effvit.recipe import Recipe
from effvit.spec import Cost, ModelSpec, file_name
from effvit.storage import make_folder, sha256_of, storage_errors, write_atomically

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

SCHEMA = "effvit.run/2"
WEIGHTS, LAST, RECORD, HISTORY = "model.safetensors", "last.safetensors", "run.json", "history.jsonl"


@dataclass(frozen=True, slots=True)
class DataRecord:
    """The images a run was trained on: what `--data` said, and a fingerprint of its files and labels."""

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    train_images: int
    val_images: int
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WeightsRecord:
    """Where a run's initial weights came from: asked for, what it became, and which parameters started fresh.

    `revision` is the commit of a checkpoint that was named by its place on the hub.
    """

    asked: str
    origin: Literal["pretrained", "random", "checkpoint"]
    inherited: int
    fresh: tuple[str, ...]
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch: mean training loss, accuracy on the held-out part, seconds, and peak memory so far in bytes.

    `cpu_joules` and `gpu_joules` are what all processors and all GPUs of the machines took in `train_s`, whatever ran
    on them; None where no counter told, and `energy_note` says why.
    """

    epoch: int
    train_loss: float
    val_loss: float
    top1: float
    top5: float | None
    balanced_top1: float
    train_s: float
    inference_s: float
    images_per_s: float
    learning_rate: float
    host_peak_bytes: int | None
    device_peak_bytes: int | None
    cpu_joules: float | None = None
    gpu_joules: float | None = None
    energy_note: str | None = None


@dataclass(frozen=True, slots=True)
class TeacherRecord:
    """The exact model that a run learned from: a run's name and the sha256 of its weights.

    `weights` None stands for the run's own initial weights, before the swap.
    """

    name: str
    weights: str | None


@dataclass(frozen=True, slots=True)
class TransferEpoch:
    """One epoch of attention transfer: what was trained, its mean error in units of the teacher's variance, seconds.

    In the stage "layers" the error is the mean over layers, in "features" that of the final features plus that mean.
    """

    epoch: int
    stage: Literal["layers", "features"]
    error: float
    train_s: float
    images_per_s: float
    learning_rate: float


@dataclass(frozen=True, slots=True)
class TransferRecord:
    """What attention transfer came to, on the held-out images.

    Errors are those of each of `blocks` on the inputs of the teacher's layer, in units of the variance of the teacher's
    output; `top1_before` is right after the swap. How it was done stands in the recipe.
    """

    blocks: tuple[int, ...]
    errors_before: tuple[float, ...]
    errors_after: tuple[float, ...]
    top1_before: float
    top1_after: float
    epochs: tuple[TransferEpoch, ...]


@dataclass(frozen=True, slots=True)
class ZeroTraining:
    """What the model that initial weights come from answers before any training, among the classes of the data.

    `head` names the data that its own classes are of, and `of_classes` how many they are.
    """

    head: str
    of_classes: int
    accuracy: Accuracy


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Everything about a run but its tensors and its epochs; `run.json`.

    Each of `processes` takes a batch of the recipe's size at every step. `accuracy` counts the best epoch's answers,
    class by class. `product_macs_per_s` is the rate of a plain matrix product on one of the devices, in the type that
    was trained in. `cached` is how its training images were kept; None where every one was decoded anew from its
    file.
    """

    spec: ModelSpec
    data: DataRecord
    preprocessing: Preprocessing
    recipe: Recipe
    weights: WeightsRecord
    environment: Environment
    device: str
    started: str
    status: Literal["running", "interrupted", "failed", "done"]
    warnings: tuple[str, ...] = ()
    best: EpochRecord | None = None
    teacher: TeacherRecord | None = None
    transfer: TransferRecord | None = None
    schema: str = SCHEMA
    processes: int = 1
    accuracy: Accuracy | None = None
    zero_training: ZeroTraining | None = None
    cost: Cost | None = None
    product_macs_per_s: float | None = None
    cached: Cached | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder and its record; the modules `pins` stay in fp32 in what is made of it with 16 bits or less."""

    folder: Path
    record: RunRecord
    pins: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def weights(self) -> Path:
        """The best checkpoint."""
        return self.folder / WEIGHTS

    def updated(self, record: RunRecord) -> Run:
        """Write `record` and return the run with it.

        Raises:
            StorageError: The folder cannot be written.
        """
        write_atomically(self.folder / RECORD, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        return Run(self.folder, record)

    def append_epoch(self, epoch: EpochRecord) -> None:
        """Add a line to the history.

        Raises:
            StorageError: The disk is full, or the folder cannot be written.
        """
        path = self.folder / HISTORY
        with storage_errors(path), path.open("ab") as stream:
            stream.write(msgspec.json.encode(epoch) + b"\n")

    def save(self, name: str, model: nn.Module) -> None:
        """Write the weights of `model` as the file `name`.

        Raises:
            StorageError: The disk is full, or the folder cannot be written.
        """
        from effvit.checkpoint import save_weights

        save_weights(self.folder / name, model)

    def with_best(self, epoch: EpochRecord, accuracy: Accuracy) -> Run:
        """Record `epoch`, its answers and the hash of the weights that are its, and return the run with them.

        Raises:
            StorageError: The folder cannot be written.
        """
        return self.updated(replace(with_weights(self.record, self.weights), best=epoch, accuracy=accuracy))

    def history(self) -> list[EpochRecord]:
        """Return the finished epochs in order; a torn last line is left out.

        Raises:
            CheckpointError: The file is damaged.
        """
        path = self.folder / HISTORY
        written = path.read_bytes() if path.exists() else b""
        # What follows the last line's end was torn off when the process was killed.
        lines = written[: written.rfind(b"\n") + 1].splitlines()
        try:
            return [msgspec.json.decode(line, type=EpochRecord) for line in lines]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} is damaged: {error}", "delete the file to lose only the history") from error

    def keep_epochs(self, count: int) -> None:
        """Leave the first `count` epochs in the history.

        Raises:
            CheckpointError: The file is damaged.
            StorageError: The disk is full, or the folder cannot be written.
        """
        lines = [msgspec.json.encode(epoch) + b"\n" for epoch in self.history()[:count]]
        write_atomically(self.folder / HISTORY, b"".join(lines))

    def data(self) -> ImageData:
        """Return the images the run was trained on, which were all decoded once, when it was.

        Raises:
            DataError: They are gone, or not the same any more.
        """
        record = self.record.data
        data = known_data(record.name, record.skipped)
        if data.fingerprint != record.fingerprint:
            raise DataError(
                f"the images of {record.name} are not those that the run {self.name} was trained on",
                "restore them, or fine-tune again on the present ones",
            )
        return data

    def model(self, height: int | None = None, width: int | None = None) -> VisionTransformer:
        """Return the trained model in evaluation mode, at its training resolution or another (px).

        Raises:
            CheckpointError: The weights are missing, damaged, not the ones recorded, or of another architecture.
            UsageError: The patch size does not divide the resolution.
        """
        if not self.weights.is_file():
            raise CheckpointError(
                f"the run {self.name} has no weights yet: its status is {self.record.status!r}",
                "let `effvit finetune` finish at least one epoch",
            )
        from effvit.backbone import set_resolution
        from effvit.checkpoint import load_weights, read_weights
        from effvit.surgery import model_from_spec

        model = model_from_spec(self.record.spec)
        tensors = read_weights(self.weights)
        if self.record.spec.weights != sha256_of(self.weights):
            raise CheckpointError(
                f"{self.weights} is not the file that run.json records", "restore the file, or fine-tune again"
            )
        load_weights(model, tensors, str(self.weights))
        if height is not None:
            set_resolution(model, height, width or height)
        return model.eval()


def create_run(root: Path, name: str | None, record: RunRecord) -> Run:
    """Make a new run folder under `root`; without a name it is called after model, attention, data and time.

    Raises:
        UsageError: The name is a path.
        StorageError: The folder cannot be made, or the name is taken.
    """
    return Run(new_folder(root, name, record), record).updated(record)


def new_folder(root: Path, name: str | None, record: RunRecord) -> Path:
    """Make the folder of the run that `record` will describe, without it, and return it.

    Raises:
        UsageError: The name is a path.
        StorageError: The folder cannot be made, or the name is taken.
    """
    if name is None:
        stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
        data = re.sub(r"[^A-Za-z0-9]+", "_", Path(record.data.name).name).strip("_") or "data"
        name = f"{record.spec.backbone.partition('.')[0]}-{file_name(record.spec.attention)}-{data}-{stamp}"
    # A run elsewhere than directly under `root`, or hidden there, would not be found again.
    if not name or Path(name).name != name or name.startswith("."):
        raise UsageError(f"a run cannot be called {name!r}", "choose a --name without slashes and leading dots")
    folder = root / name
    if (folder / RECORD).exists():
        raise StorageError(f"the run {folder} exists already", "choose another --name, or remove the folder")
    return make_folder(folder)


def open_run(folder: Path) -> Run:
    """Return the run in `folder`.

    Raises:
        CheckpointError: There is no run, or its record is damaged or of a newer effvit.
    """
    path = folder / RECORD
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a run: it holds no {RECORD}", "name a folder that `effvit finetune` wrote"
        )
    try:
        record = msgspec.json.decode(path.read_bytes(), type=RunRecord)
    # UnicodeDecodeError: msgspec lets it through. UsageError: a recipe that refuses its values.
    except (msgspec.DecodeError, UnicodeDecodeError, OSError, UsageError) as error:
        raise CheckpointError(f"{path} is damaged or of another effvit: {error}", f"remove {folder}") from error
    if record.schema != SCHEMA:
        raise CheckpointError(f"{path} has schema {record.schema!r}, not {SCHEMA!r}", "use the effvit that wrote it")
    return Run(folder, record)


def now() -> str:
    """Return the time in ISO 8601, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def with_weights(record: RunRecord, path: Path) -> RunRecord:
    """Return `record` with the hash of the checkpoint at `path` in its specification."""
    return replace(record, spec=replace(record.spec, weights=sha256_of(path)))
