"""The training loop: timm's optimiser, schedule, loss and mixup, and after every epoch all of it on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Literal

import torch
from timm.data.mixup import Mixup
from timm.loss.cross_entropy import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer_v2
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2
from timm.utils.random import random_seed
from torch import Tensor, nn
from torch.nn import functional as F

from effvit.accuracy import Accuracy, balanced_top1, top1, top5
from effvit.checkpoint import save_weights
from effvit.data.base import ImageData
from effvit.errors import CheckFailedError, StorageError, UnsupportedError, UsageError
from effvit.evaluate import count_correct, merge
from effvit.images import EvaluationBatches, ImageDataset, ImageLoader
from effvit.memory import forget_peak, resident_memory
from effvit.preprocessing import Preprocessing, normalise, training_transform
from effvit.run import LAST, WEIGHTS, EpochRecord, Run, with_weights

EVALUATION_BATCH = 128


@dataclass(frozen=True, slots=True)
class Step:
    """Where a fine-tuning stands; `top1` is of the last finished epoch, `images_per_s` of this one so far."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    images_per_s: float
    top1: float | None


@dataclass(frozen=True, slots=True)
class Validation:
    """Accuracy and mean cross-entropy on the held-out part, and the seconds that inference alone took."""

    accuracy: Accuracy
    loss: float
    inference_s: float


def train(
    run: Run,
    model: VisionTransformer,
    data: ImageData,
    *,
    device: torch.device,
    workers: int = 0,
    on_step: Callable[[Step], None],
    on_epoch: Callable[[EpochRecord], None],
) -> Run:
    """Train `model` as the run's recipe says and return the run with its best epoch.

    After every epoch the last weights, and the best so far, are on disk: whatever ends the training, what was finished
    stays usable.

    Raises:
        CheckFailedError: The loss became infinite or NaN.
        DataError: An image vanished or became unreadable.
        StorageError: The disk is full.
        UsageError: Mixup with an odd batch, or fewer images than a batch needs.
        UnsupportedError: The device has too little memory.
    """
    progress = _Progress(run)
    ended: Literal["interrupted", "failed", "done"] = "failed"
    try:
        _Trainer(progress, model, data, device, workers).train(on_step, on_epoch)
        ended = "done"
    except KeyboardInterrupt:
        ended = "interrupted"
        raise
    except torch.OutOfMemoryError as error:
        raise UnsupportedError(
            f"a batch of {run.record.recipe.batch} needs more memory than {device} has", "use a smaller --batch"
        ) from error
    finally:
        if ended != "done":
            progress.mark(ended)
    return progress.run.updated(replace(progress.run.record, status="done"))


def validate(
    model: VisionTransformer, batches: EvaluationBatches, preprocessing: Preprocessing, device: torch.device
) -> Validation:
    """Return accuracy and loss of `model` on the images of `batches`.

    Raises:
        DataError: An image vanished or became unreadable.
    """
    model.eval()
    counts: list[Accuracy] = []
    loss_sum, inference_s = 0.0, 0.0
    for pixels, labels in batches:
        images = torch.from_numpy(normalise(pixels, preprocessing)).to(device)
        started = time.perf_counter()
        with torch.inference_mode(), mixed_precision(device):
            logits = model(images).float()
        logits = logits.cpu()  # waits for the device
        inference_s += time.perf_counter() - started
        loss_sum += float(F.cross_entropy(logits, torch.from_numpy(labels), reduction="sum"))
        counts.append(count_correct(logits.numpy(), labels))
    accuracy = merge(counts)
    return Validation(accuracy, loss_sum / max(1, accuracy.images), inference_s)


def mixed_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return autocast to bfloat16 or float16 where the device computes in it, and nothing on a CPU."""
    if device.type != "cuda":
        return nullcontext()
    return torch.autocast("cuda", torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)


class _Progress:
    """The run as far as it is on disk, whatever becomes of the training."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def best(self, epoch: EpochRecord) -> None:
        """Record `epoch` and the hash of the weights that are its."""
        record = with_weights(self.run.record, self.run.weights)
        self.run = self.run.updated(replace(record, best=epoch))

    def mark(self, status: Literal["interrupted", "failed"]) -> None:
        """Record how the training ended."""
        # The disk that is full may be why it ended; the first error is the one to show.
        with suppress(StorageError):
            self.run.updated(replace(self.run.record, status=status))


class _Trainer:
    def __init__(
        self, progress: _Progress, model: VisionTransformer, data: ImageData, device: torch.device, workers: int
    ) -> None:
        self.progress = progress
        self.folder, self.record = progress.run.folder, progress.run.record
        recipe = self.record.recipe
        random_seed(recipe.seed)
        self.data, self.device, self.recipe = data, device, recipe
        self.model = model.to(device)
        self.loader = self._loader(workers)
        self.held_out = EvaluationBatches(
            data.val, self.record.preprocessing, *self.record.spec.trained, batch=EVALUATION_BATCH
        )
        self.optimizer = create_optimizer_v2(
            model,
            "adamw",
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay,
            fused=True,
        )
        self.scheduler = self._scheduler()
        self.mixup = self._mixup()
        self.loss: nn.Module = LabelSmoothingCrossEntropy(recipe.label_smoothing)
        if self.mixup is not None:
            self.loss = SoftTargetCrossEntropy()
        # Only float16 needs its gradients scaled; bfloat16 has the range of float32.
        half = device.type == "cuda" and not torch.cuda.is_bf16_supported()
        self.scaler = torch.amp.GradScaler(device.type, enabled=half)

    def train(self, on_step: Callable[[Step], None], on_epoch: Callable[[EpochRecord], None]) -> None:
        best: EpochRecord | None = None
        # A study trains one variant after the other in one process; each has a peak of its own.
        forget_peak()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        for epoch in range(self.recipe.epochs):
            started = time.perf_counter()
            loss, images = self._train_epoch(epoch, best, on_step)
            train_s = time.perf_counter() - started
            record = self._validated(epoch, loss, images, train_s)
            if best is None or record.top1 > best.top1:
                best = record
                save_weights(self.folder / WEIGHTS, self.model)
                self.progress.best(best)
            save_weights(self.folder / LAST, self.model)
            self.progress.run.append_epoch(record)
            on_epoch(record)

    def _train_epoch(self, epoch: int, best: EpochRecord | None, on_step: Callable[[Step], None]) -> tuple[float, int]:
        self.model.train()
        loss_sum, images, steps = 0.0, 0, len(self.loader)
        started = time.perf_counter()
        for step, (pixels, labels) in enumerate(self.loader):
            loss = self._step(pixels.to(self.device), labels.to(self.device))
            _require_finite(loss, f"in epoch {epoch + 1}, step {step + 1}")
            loss_sum += loss * len(labels)
            images += len(labels)
            self.scheduler.step_update(epoch * steps + step + 1)
            rate = images / (time.perf_counter() - started)
            on_step(
                Step(
                    epoch,
                    self.recipe.epochs,
                    step + 1,
                    steps,
                    loss_sum / images,
                    rate,
                    None if best is None else best.top1,
                )
            )
        return loss_sum / images, images

    def _step(self, images: Tensor, labels: Tensor) -> float:
        if self.mixup is not None:
            images, labels = self.mixup(images, labels)
        with mixed_precision(self.device):
            loss = self.loss(self.model(images).float(), labels)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_gradient)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return float(loss.detach())

    def _validated(self, epoch: int, loss: float, images: int, train_s: float) -> EpochRecord:
        record = self.record
        validation = validate(self.model, self.held_out, record.preprocessing, self.device)
        # The last step of an epoch can ruin the weights without a loss that shows it.
        _require_finite(validation.loss, f"on the held-out images after epoch {epoch + 1}")
        accuracy = validation.accuracy
        return EpochRecord(
            epoch=epoch + 1,
            train_loss=loss,
            val_loss=validation.loss,
            top1=top1(accuracy) or 0.0,
            top5=top5(accuracy),
            balanced_top1=balanced_top1(accuracy) or 0.0,
            train_s=train_s,
            inference_s=validation.inference_s,
            images_per_s=images / train_s,
            learning_rate=max(group["lr"] for group in self.optimizer.param_groups),
            host_peak_bytes=resident_memory().peak_bytes,
            device_peak_bytes=torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None,
        )

    def _loader(self, workers: int) -> ImageLoader:
        recipe, record = self.recipe, self.record
        batch = min(recipe.batch, len(self.data.train))
        if recipe.mixup or recipe.cutmix:
            batch -= batch % 2
            if recipe.batch % 2 or batch < 2:
                raise UsageError(f"mixup pairs images and cannot use a batch of {recipe.batch}", "use an even --batch")
        return ImageLoader(
            ImageDataset(self.data.train, training_transform(record.preprocessing, *record.spec.trained, recipe)),
            batch=batch,
            workers=workers,
            generator=torch.Generator().manual_seed(recipe.seed),
            drop_last=True,
            pin_memory=self.device.type == "cuda",
        )

    def _scheduler(self) -> Scheduler:
        recipe = self.recipe
        scheduler: Scheduler
        scheduler, _ = create_scheduler_v2(
            self.optimizer,
            "cosine",
            num_epochs=recipe.epochs,
            warmup_epochs=min(recipe.warmup_epochs, recipe.epochs - 1),
            warmup_lr=recipe.learning_rate / 100,
            min_lr=recipe.learning_rate / 100,
            step_on_epochs=False,
            updates_per_epoch=len(self.loader),
        )
        scheduler.step_update(0)
        return scheduler

    def _mixup(self) -> Mixup | None:
        recipe = self.recipe
        if not (recipe.mixup or recipe.cutmix):
            return None
        return Mixup(
            recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=len(self.data.classes)
        )


def _require_finite(loss: float, where: str) -> None:
    if not math.isfinite(loss):
        raise CheckFailedError(
            f"the loss became {loss} {where}", "lower --lr; the checkpoint of the last finished epoch is intact"
        )
