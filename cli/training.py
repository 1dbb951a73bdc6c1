"""What `effvit finetune` shows while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import Progress

from effvit.cli.curves import before_training
from effvit.cli.output import CountingBar, say, warn
from effvit.data.base import ImageData
from effvit.errors import CheckFailedError, EffvitError
from effvit.finetune import Listener
from effvit.optimisation import Step
from effvit.recipe import Recipe
from effvit.run import EpochRecord, Run, TransferEpoch, TransferRecord
from effvit.state import Position

_NAMED = 3


class TrainingDisplay(Listener):
    """A bar over all steps with loss, accuracy, speed and time left, and a line an epoch."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=None, detail="")
        self._decoding = CountingBar(progress, "decoding images", "decoded")
        self.run: Run | None = None

    def close(self) -> None:
        """Take the bar away; the lines of the epochs stay."""
        self._progress.remove_task(self._task)

    def warn(self, text: str) -> None:
        warn(text)

    def caching(self, done: int, images: int) -> None:
        self._decoding(done, images)

    def begin(self, run: Run) -> None:
        self.run, record = run, run.record
        height, width = record.spec.trained
        say(
            f"{record.spec.backbone} with {record.spec.attention} attention at {height} x {width} px, "
            f"{record.weights.origin} weights; {record.data.train_images} images of {record.data.name} in "
            f"{len(record.data.classes)} classes, {record.data.val_images} held out; {record.recipe.epochs} "
            f"epoch{'s' if record.recipe.epochs > 1 else ''} on {record.device}"
        )
        if record.processes > 1:
            together = record.recipe.batch * record.processes
            say(f"{record.processes} processes, each with a batch of {record.recipe.batch}: {together} images a step")
        if record.weights.origin != "random":
            say(f"{record.weights.inherited} tensors carried over, new: {', '.join(record.weights.fresh) or 'none'}")

        if record.zero_training is not None:
            say(before_training(record.zero_training))
        if record.teacher is not None:
            say(_lesson(record.teacher.name, record.recipe))

    def resume(self, run: Run, position: Position) -> None:
        self.run = run
        epochs = "transfer epochs" if position.phase == "transfer" else "epochs"
        say(f"{run.name} goes on after {position.epoch} {epochs} and {position.begun.steps} steps of the next")

    def stopping(self) -> None:
        say("stopping after this step, with its state saved; press Ctrl-C again to stop at once")

    def transfer_step(self, step: Step) -> None:
        self._advance(step, "transfer", f"error {step.loss:.3f}")

    def transfer_epoch(self, epoch: TransferEpoch) -> None:
        what = "each layer alone" if epoch.stage == "layers" else "final features and layers together"
        say(
            f"transfer epoch {epoch.epoch}: {what}, error {epoch.error:.3f} of the teacher's variance; "
            f"{epoch.train_s:.1f} s ({epoch.images_per_s:.0f} images/s)"
        )

    def transferred(self, record: TransferRecord) -> None:
        before, after = (sum(errors) / len(errors) for errors in (record.errors_before, record.errors_after))
        say(
            f"transferred: error of a layer on held-out images {before:.3f}, now {after:.3f}; "
            f"top-1 {record.top1_before:.1%} after the swap, now {record.top1_after:.1%}"
        )

    def step(self, step: Step) -> None:
        top1 = "" if step.top1 is None else f", top-1 {step.top1:.1%}"
        self._advance(step, "epoch", f"loss {step.loss:.3f}{top1}")

    def epoch(self, record: EpochRecord) -> None:
        top5 = "" if record.top5 is None else f", top-5 {record.top5:.1%}"
        memory = "" if record.host_peak_bytes is None else f", peak memory {record.host_peak_bytes / 2**20:.0f} MiB"
        say(
            f"epoch {record.epoch}: loss {record.train_loss:.3f}, held-out loss {record.val_loss:.3f}, "
            f"top-1 {record.top1:.1%}{top5}; training {record.train_s:.1f} s ({record.images_per_s:.0f} images/s), "
            f"inference {record.inference_s:.1f} s{memory}"
        )

    def _advance(self, step: Step, what: str, detail: str) -> None:
        self._progress.update(
            self._task,
            description=f"{what} {step.epoch + 1}/{step.epochs}",
            completed=step.epoch * step.steps + step.step,
            total=step.epochs * step.steps,
            detail=f"{detail}, {step.images_per_s:.0f} images/s",
        )


@contextmanager
def offering_to_resume(display: TrainingDisplay) -> Iterator[None]:
    """Say how a run goes on if it is cut short by what a user can set right; a loss that exploded would do so again."""
    try:
        yield
    except (EffvitError, KeyboardInterrupt) as error:
        if display.run is not None and not isinstance(error, CheckFailedError):
            say(f"go on with `effvit finetune --resume {display.run.name}`")
        raise


def _lesson(teacher: str, recipe: Recipe) -> str:
    lessons = []
    if recipe.transfer_epochs:
        lessons.append(
            f"{recipe.transfer_epochs} epoch{'s' if recipe.transfer_epochs > 1 else ''} of attention transfer"
        )
    if recipe.distill_weight:
        lessons.append(
            f"distillation with weight {recipe.distill_weight:g} at temperature {recipe.distill_temperature:g}"
        )
    return f"teacher: {teacher}; " + (" and ".join(lessons) or "only its weights are used")


def warn_of_skipped(images: ImageData) -> None:
    """Name the damaged images that --skip-corrupt has left out."""
    if images.skipped:
        rest = len(images.skipped) - _NAMED
        named = ", ".join(images.skipped[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
        warn(f"left out as damaged: {named}")
