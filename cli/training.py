"""What `effvit finetune` shows while it runs."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from effvit.cli.output import progress_bars, say, warn
from effvit.finetune import Listener
from effvit.run import EpochRecord, Run
from effvit.training import Step


class TrainingDisplay(Listener):
    """A bar over all steps with loss, accuracy, speed and time left, and a line an epoch."""

    def __init__(self) -> None:
        self._context = progress_bars(
            "loss {task.fields[loss]}", "top-1 {task.fields[top1]}", "{task.fields[speed]} images/s"
        )

    def __enter__(self) -> Self:
        self._progress = self._context.__enter__()
        self._task = self._progress.add_task("starting", total=None, loss="-", top1="-", speed="-")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)

    def warn(self, text: str) -> None:
        warn(text)

    def begin(self, run: Run) -> None:
        record = run.record
        height, width = record.spec.trained
        say(
            f"{record.spec.backbone} with {record.spec.attention} attention at {height} x {width} px, "
            f"{record.weights.origin} weights; {record.data.train_images} images of {record.data.name} in "
            f"{len(record.data.classes)} classes, {record.data.val_images} held out; {record.recipe.epochs} epochs on "
            f"{record.device}"
        )
        if record.weights.origin != "random":
            say(f"{record.weights.inherited} tensors carried over, new: {', '.join(record.weights.fresh) or 'none'}")

    def step(self, step: Step) -> None:
        self._progress.update(
            self._task,
            description=f"epoch {step.epoch + 1}/{step.epochs}",
            completed=step.epoch * step.steps + step.step,
            total=step.epochs * step.steps,
            loss=f"{step.loss:.3f}",
            top1="-" if step.top1 is None else f"{step.top1:.1%}",
            speed=f"{step.images_per_s:.0f}",
        )

    def epoch(self, record: EpochRecord) -> None:
        top5 = "" if record.top5 is None else f", top-5 {record.top5:.1%}"
        memory = "" if record.host_peak_bytes is None else f", peak memory {record.host_peak_bytes / 2**20:.0f} MiB"
        say(
            f"epoch {record.epoch}: loss {record.train_loss:.3f}, held-out loss {record.val_loss:.3f}, "
            f"top-1 {record.top1:.1%}{top5}; training {record.train_s:.1f} s ({record.images_per_s:.0f} images/s), "
            f"inference {record.inference_s:.1f} s{memory}"
        )
