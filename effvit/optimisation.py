"""What training and attention transfer share: augmented batches, mixed precision, and epochs of optimiser steps."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2
from timm.utils.random import random_seed
from torch import Tensor, nn
from torch.optim import Optimizer

from effvit.autocast import amp_of
from effvit.data.base import ImageData
from effvit.diagnosis import diagnosis
from effvit.errors import CheckFailedError, UsageError
from effvit.images import ImageDataset, ImageLoader
from effvit.preprocessing import training_transform
from effvit.randomness import derived_seed
from effvit.recipe import Amp
from effvit.run import RunRecord
from effvit.team import ALONE, Place, Team

Loss = Callable[[Tensor, Tensor], Iterable[Tensor]]
"""Takes images `(batch, 3, height, width)` and labels `(batch,)`, both on the device, and yields what adds up to the
loss: of each part of the batch its share, computed when the gradients of the parts before are added up."""
EXPLODED = 100
"""A loss of so many times the first, and of that much itself, is no spike: cross-entropy starts at a few units."""
DRAWN_BY_STEPS = 1
"""Tells what a step draws (stochastic depth, mixup) from what its images' augmentation draws."""


@dataclass(frozen=True, slots=True)
class Step:
    """Where the work stands; `top1` is of the last finished epoch, `images_per_s` of this one so far."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    images_per_s: float
    top1: float | None


@dataclass(frozen=True, slots=True)
class Epoch:
    """What the steps of one epoch came to: their mean loss, the images they took, and the seconds."""

    loss: float
    images: int
    seconds: float

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds


@dataclass(frozen=True, slots=True)
class Begun:
    """How far an epoch is: steps taken, the sum of the loss over their images, how many these are, and the seconds."""

    steps: int = 0
    loss_sum: float = 0.0
    images: int = 0
    seconds: float = 0.0


NOT_BEGUN = Begun()


@dataclass(frozen=True, slots=True)
class Guard:
    """Refuses a loss that no training recovers from: `epoch` is what an epoch is called, `hint` what helps."""

    epoch: str
    hint: str

    def require_finite(self, loss: float, where: str) -> None:
        """Check that `loss` is a number.

        Raises:
            CheckFailedError: It is infinite or NaN.
        """
        if not math.isfinite(loss):
            raise self.failure("loss", loss, where)

    def failure(self, what: str, value: float, where: str) -> CheckFailedError:
        """Return the error that says what the loss, or the gradient, became."""
        return CheckFailedError(f"the {what} became {value:.3g} {where}", self.hint)


class Optimisation:
    """An optimiser with its schedule and, for float16, its scaling of gradients.

    `clip` is the greatest norm of all gradients together; None leaves them as they are. What a step draws at random
    follows from `seed`, the epoch and the step. When that goes wrong, it is said where in `model`. All processes of a
    `team` take the same steps, on the mean of their gradients.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        scheduler: Scheduler,
        device: torch.device,
        guard: Guard,
        *,
        model: VisionTransformer,
        seed: int,
        amp: Amp | None = None,
        clip: float | None = None,
        team: Team | None = None,
    ) -> None:
        self.model, self.team = model, team or Team()
        self._first_loss: float | None = None
        self.optimizer, self.scheduler, self.guard, self.clip = optimizer, scheduler, guard, clip
        self.device, self.seed = device, seed
        # Only float16 needs its gradients scaled; bfloat16 has the range of float32.
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp_of(device, amp) == "fp16")

    def epoch(
        self,
        index: int,
        epochs: int,
        batches: ImageLoader,
        loss_of: Loss,
        on_step: Callable[[Step], None],
        top1: float | None = None,
        *,
        begun: Begun = NOT_BEGUN,
        after_step: Callable[[Begun], None] = lambda _: None,
    ) -> Epoch:
        """Take one step for each of `batches`; `index` counts from 0 and places the epoch on the schedule.

        Of an epoch that is `begun`, the steps that were taken are left out.

        Raises:
            CheckFailedError: The loss became infinite, NaN or huge, or its gradient infinite or NaN; the weights are
                those of the step before.
            DataError: An image vanished or became unreadable.
        """
        steps = len(batches)
        self.scheduler.step_update(index * steps + begun.steps)
        started = time.perf_counter() - begun.seconds
        made = batches.epoch(index, begun.steps)
        with self.team.together():
            batch = next(made, None)
        while batch is not None:
            step, (pixels, labels) = begun.steps, batch
            random_seed(derived_seed(self.seed, index, step, DRAWN_BY_STEPS, rank=self.team.rank))
            images = pixels.to(self.device)
            loss, norm = self._gradients(loss_of(images, labels.to(self.device)))
            with self.team.together():
                self._require_sound(loss, norm, images, f"in {self.guard.epoch} {index + 1}, step {step + 1}")
                self._take_step(norm)
                self.scheduler.step_update(index * steps + step + 1)
                taken = len(labels) * self.team.size
                begun = Begun(
                    steps=step + 1,
                    loss_sum=begun.loss_sum + loss * taken,
                    images=begun.images + taken,
                    seconds=time.perf_counter() - started,
                )
                after_step(begun)
                mean, rate = begun.loss_sum / begun.images, begun.images / begun.seconds
                on_step(Step(index, epochs, step + 1, steps, mean, rate, top1))
                batch = next(made, None)
        return Epoch(begun.loss_sum / begun.images, begun.images, begun.seconds)

    def tensors(self) -> dict[str, Tensor]:
        """Return what the optimiser has gathered, by the number of the parameter and its own name for it."""
        state = self.optimizer.state_dict()["state"]
        return {f"{number}.{name}": tensor for number, held in state.items() for name, tensor in held.items()}

    def restore(self, tensors: Mapping[str, Tensor], scaler: Mapping[str, float]) -> None:
        """Go on from what `tensors` and `scaler.state_dict` returned."""
        state: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)
        for key, tensor in tensors.items():
            number, _, name = key.partition(".")
            state[int(number)][name] = tensor
        parameters = self._parameters()
        for index, held in state.items():
            # A fused step takes a parameter and what belongs to it for arrays of one layout.
            state[index] = {
                name: tensor if name == "step" else torch.empty_like(parameters[index]).copy_(tensor)
                for name, tensor in held.items()
            }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": dict(state), "param_groups": groups})
        if scaler:
            self.scaler.load_state_dict(dict(scaler))

    @property
    def learning_rate(self) -> float:
        """The highest of the parameter groups now."""
        highest: float = max(group["lr"] for group in self.optimizer.param_groups)
        return highest

    def _gradients(self, losses: Iterable[Tensor]) -> tuple[float, float]:
        """Compute the gradients; return the loss and, if they are to be clipped, their norm, else 0."""
        self.optimizer.zero_grad()
        shares = []
        with self.team.noticing():
            for loss in losses:
                self.scaler.scale(loss).backward()
                shares.append(loss.detach())
        whole = self.team.mean(sum(shares[1:], shares[0]))
        if self.clip is None:
            return float(whole), 0.0
        self.scaler.unscale_(self.optimizer)
        gradients = [parameter.grad for parameter in self._parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        value, length = torch.stack([whole, norm.to(whole)]).tolist()  # one wait for the device
        return value, length

    def _take_step(self, norm: float) -> None:
        if self.clip is not None:
            # Only now: gradients clipped by a norm that is no number would all be none.
            nn.utils.clip_grads_with_norm_(self._parameters(), self.clip, torch.tensor(norm, device=self.device))
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _require_sound(self, loss: float, norm: float, images: Tensor, where: str) -> None:
        first = loss if self._first_loss is None else self._first_loss
        self._first_loss = first
        # The scaler skips a step whose gradients overflow, and scales the next ones less.
        overflown = not math.isfinite(norm) and not self.scaler.is_enabled()
        if not math.isfinite(loss) or loss > EXPLODED * max(first, 1.0):
            raise self.guard.failure("loss", loss, where + diagnosis(self.model, images))
        if overflown:
            raise self.guard.failure("gradient", norm, where + diagnosis(self.model, images))


def cosine_schedule(
    optimizer: Optimizer, learning_rate: float, epochs: int, steps: int, *, warmup_epochs: int = 0
) -> Scheduler:
    """Return a linear rise to `learning_rate` and a cosine down to a hundredth of it, `steps` updates an epoch."""
    scheduler: Scheduler
    scheduler, _ = create_scheduler_v2(
        optimizer,
        "cosine",
        num_epochs=epochs,
        warmup_epochs=min(warmup_epochs, epochs - 1),
        warmup_lr=learning_rate / 100,
        min_lr=learning_rate / 100,
        step_on_epochs=False,
        updates_per_epoch=steps,
    )
    return scheduler


def training_batches(
    record: RunRecord, data: ImageData, device: torch.device, workers: int, place: Place = ALONE
) -> ImageLoader:
    """Return the training part in augmented batches, in the order that the recipe's seed decides.

    Raises:
        UsageError: Mixup with an odd batch, or fewer images than a batch needs.
    """
    recipe = record.recipe
    batch = min(recipe.batch, len(data.train) // place.size)
    if not batch:
        raise UsageError(
            f"{len(data.train)} training images are too few for {place.size} processes", "start fewer processes"
        )
    if recipe.mixup or recipe.cutmix:
        batch -= batch % 2
        if recipe.batch % 2 or batch < 2:
            raise UsageError(f"mixup pairs images and cannot use a batch of {recipe.batch}", "use an even --batch")
    return ImageLoader(
        ImageDataset(data.train, training_transform(record.preprocessing, *record.spec.trained, recipe)),
        batch=batch,
        workers=workers,
        seed=recipe.seed,
        drop_last=True,
        pin_memory=device.type == "cuda",
        place=place,
    )
