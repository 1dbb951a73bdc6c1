"""The training loop: timm's optimiser, loss and mixup, and after every epoch all of it on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest

import torch
from timm.data.mixup import Mixup
from timm.loss.cross_entropy import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models.vision_transformer import VisionTransformer
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from effvit.accuracy import Accuracy, balanced_top1, top1, top5
from effvit.autocast import mixed_precision
from effvit.compiling import compiled
from effvit.counters import Instruments, instruments
from effvit.data.base import ImageData
from effvit.energy import EnergyMeter, EnergyTaken, together
from effvit.evaluate import count_correct, merge
from effvit.images import EvaluationBatches
from effvit.memory import forget_peak, resident_memory
from effvit.optimisation import (
    NOT_BEGUN,
    Begun,
    Epoch,
    Guard,
    Optimisation,
    Step,
    cosine_schedule,
    training_batches,
)
from effvit.parameters import parameter_groups
from effvit.preprocessing import Preprocessing, normalise
from effvit.recipe import Amp
from effvit.run import LAST, WEIGHTS, EpochRecord, Run
from effvit.run_in_progress import RunInProgress
from effvit.state import Position, State, StateKeeper, Work
from effvit.team import Team

EVALUATION_BATCH = 128
GUARD = Guard("epoch", "lower --lr; the checkpoint of the last finished epoch is intact")


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
    teacher: VisionTransformer | None = None,
    on_step: Callable[[Step], None],
    on_epoch: Callable[[EpochRecord], None],
    keeper: StateKeeper | None = None,
    state: State | None = None,
    team: Team | None = None,
    counters: Callable[[], Instruments] = instruments,
) -> Run:
    """Train `model` as the run's recipe says and return the run with its best epoch.

    With a frozen `teacher` the loss is in part the distance from its answers, as the recipe's `distill_weight` says.
    After every epoch the last weights, and the best so far, are on disk: whatever ends the training, what was finished
    stays usable. So does the state, which `keeper` keeps: with it, and the model as it was then, the training goes on.
    `counters` finds this machine's counters of energy.
    Every process of a `team` calls this; only the first one writes.

    Raises:
        CheckFailedError: The loss became infinite or NaN.
        DataError: An image vanished or became unreadable.
        StorageError: The disk is full.
        UsageError: Mixup with an odd batch, or fewer images than a batch needs.
        UnsupportedError: The device has too little memory.
        PeerError: Another process of the team has ended.
    """
    team = team or Team()
    with RunInProgress(run) as progress:
        keeper = keeper or StateKeeper(run.folder, team=team)
        meter = EnergyMeter(counters())
        _Trainer(progress, model, data, device, workers, teacher, keeper, team, meter).train(on_step, on_epoch, state)
    with team.together():
        done = progress.run.updated(replace(progress.run.record, status="done"))
        keeper.remove()
    return done


def validate(
    model: nn.Module,
    batches: EvaluationBatches,
    preprocessing: Preprocessing,
    device: torch.device,
    *,
    amp: Amp | None = None,
    team: Team | None = None,
) -> Validation:
    """Return accuracy and loss of `model` on the images of `batches`, and the seconds of the slowest of a `team`.

    Raises:
        DataError: An image vanished or became unreadable.
    """
    team = team or Team()
    model.eval()
    parts: list[tuple[Accuracy, float]] = []
    inference_s = 0.0
    with team.together():
        for pixels, labels in batches:
            images = torch.from_numpy(normalise(pixels, preprocessing)).to(device)
            started = time.perf_counter()
            with torch.inference_mode(), mixed_precision(device, amp):
                logits = model(images).float()
            logits = logits.cpu()  # waits for the device
            inference_s += time.perf_counter() - started
            loss = float(F.cross_entropy(logits, torch.from_numpy(labels), reduction="sum"))
            parts.append((count_correct(logits.numpy(), labels), loss))
    # In the order of one process, whose batches were dealt out: the sum is then the same to the last bit.
    of_all = team.gathered(parts)
    dealt = [part for turn in zip_longest(*of_all) for part in turn if part is not None]
    accuracy = merge([counted for counted, _ in dealt])
    loss_sum = 0.0
    for _, loss in dealt:  # `sum` would add them up with compensation, or not, as Python's version has it
        loss_sum += loss
    return Validation(accuracy, loss_sum / max(1, accuracy.images), max(team.gathered(inference_s)))


def distillation_loss(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Return the mean divergence of the teacher's softened answers from the student's, both logits `(batch, classes)`.

    Softening divides the gradient by the square of `temperature`, which is multiplied back in.

    Source:
        Hinton et al. 2015, section 2, https://arxiv.org/abs/1503.02531; Touvron et al. 2021, equation 2,
        https://arxiv.org/abs/2012.12877
    """
    student = F.log_softmax(logits / temperature, dim=-1)
    teacher = F.log_softmax(target / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


class _Trainer:
    def __init__(
        self,
        progress: RunInProgress,
        model: VisionTransformer,
        data: ImageData,
        device: torch.device,
        workers: int,
        teacher: VisionTransformer | None,
        keeper: StateKeeper,
        team: Team,
        meter: EnergyMeter,
    ) -> None:
        self.progress, self.keeper, self.team, self.meter = progress, keeper, team, meter
        self.record = progress.run.record
        recipe = self.record.recipe
        self.device, self.recipe = device, recipe
        self.layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.model = model.to(device)
        if recipe.channels_last:
            self.model.to(memory_format=self.layout)
        self.shared = team.synchronised(self.model)
        self.answer = compiled(self.shared) if recipe.compile else self.shared
        self.teacher = None if teacher is None else teacher.to(device).eval()
        with team.together():
            self.batches = training_batches(self.record, data, device, workers, team.place)
        self.held_out = EvaluationBatches(
            data.val, self.record.preprocessing, *self.record.spec.trained, batch=EVALUATION_BATCH, place=team.place
        )
        self.optimisation = self._optimisation()
        self.average: ModelEmaV3 | None = None
        if recipe.ema_decay:
            # Warmed up: an average over 1000 steps would mostly hold the initial weights for as long.
            self.average = ModelEmaV3(self.model, decay=recipe.ema_decay, use_warmup=True)
        self.kept: nn.Module = self.model if self.average is None else self.average.module
        self.work = Work(self.model, self.optimisation, None if self.average is None else self.average.module)
        self.mixup = self._mixup(len(data.classes))
        self.criterion: nn.Module = LabelSmoothingCrossEntropy(recipe.label_smoothing)
        if self.mixup is not None:
            self.criterion = SoftTargetCrossEntropy()

    def train(
        self, on_step: Callable[[Step], None], on_epoch: Callable[[EpochRecord], None], state: State | None
    ) -> None:
        position = self._begin(state or State(Position("training")))
        for index in range(position.epoch, self.recipe.epochs):
            self.model.train()
            self.meter.begin()
            best = self.progress.run.record.best
            begun = position.begun if index == position.epoch else NOT_BEGUN
            epoch = self.optimisation.epoch(
                index,
                self.recipe.epochs,
                self.batches,
                self._losses,
                on_step,
                None if best is None else best.top1,
                begun=begun,
                after_step=partial(self._after_step, index),
            )
            energy = self._energy(begun)
            validation = self._validated(index)
            record = self._record_of(index, epoch, energy, validation)
            with self.team.together():
                if best is None or record.top1 > best.top1:
                    self.progress.run.save(WEIGHTS, self.kept)
                    self.progress.best(record, validation.accuracy)
                self.progress.run.save(LAST, self.kept)
                self.progress.run.append_epoch(record)
                on_epoch(record)
                self.keeper.after_epoch(Position("training", index + 1), self.work)

    def _begin(self, state: State) -> Position:
        if state.optimiser:
            self.optimisation.restore(state.optimiser, state.position.scaler)
        if state.average and self.average is not None:
            self.average.module.load_state_dict(state.average)
        # A study trains one variant after the other in one process; each has a peak of its own.
        forget_peak()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        return state.position

    def _after_step(self, index: int, begun: Begun) -> None:
        self.meter.look()
        if self.average is not None:
            self.average.update(self.model, step=index * len(self.batches) + begun.steps)
        self.keeper.after_step(Position("training", index, begun), self.work)

    def _losses(self, images: Tensor, labels: Tensor) -> Iterator[Tensor]:
        if self.mixup is not None:
            images, labels = self.mixup(images, labels)
        parts = min(self.recipe.accumulate, len(images))
        split = zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)
        for number, (some, their) in enumerate(split, start=1):
            # Once a step is enough for processes to share what they have added up.
            with nullcontext() if number == parts else self.team.unsynchronised(self.shared):
                yield self._loss(some, their) * (len(some) / len(images))

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        images = images.contiguous(memory_format=self.layout)
        with mixed_precision(self.device, self.recipe.amp):
            logits = self.answer(images).float()
            loss: Tensor = self.criterion(logits, labels)
        if self.teacher is None:
            return loss
        with torch.no_grad(), mixed_precision(self.device, self.recipe.amp):
            target = self.teacher(images).float()
        weight = self.recipe.distill_weight
        return (1 - weight) * loss + weight * distillation_loss(logits, target, self.recipe.distill_temperature)

    def _validated(self, index: int) -> Validation:
        validation = validate(
            self.kept, self.held_out, self.record.preprocessing, self.device, amp=self.recipe.amp, team=self.team
        )
        # The last step of an epoch can ruin the weights without a loss that shows it.
        GUARD.require_finite(validation.loss, f"on the held-out images after epoch {index + 1}")
        return validation

    def _energy(self, begun: Begun) -> EnergyTaken:
        """Return what the machines of the team took in an epoch that was `begun` when it was gone on with."""
        taken = self.meter.end()
        if begun.steps and (taken.cpu_joules, taken.gpu_joules) != (None, None):
            taken = EnergyTaken(None, None, "the epoch was cut short, and its first part was not counted")
        counted = taken if self.team.place.local_rank == 0 else None  # one process a machine: its counters are of all
        return together(one for one in self.team.gathered(counted) if one is not None)

    def _record_of(self, index: int, epoch: Epoch, energy: EnergyTaken, validation: Validation) -> EpochRecord:
        accuracy = validation.accuracy
        return EpochRecord(
            epoch=index + 1,
            train_loss=epoch.loss,
            val_loss=validation.loss,
            top1=top1(accuracy) or 0.0,
            top5=top5(accuracy),
            balanced_top1=balanced_top1(accuracy) or 0.0,
            train_s=epoch.seconds,
            inference_s=validation.inference_s,
            images_per_s=epoch.images_per_s,
            learning_rate=self.optimisation.learning_rate,
            host_peak_bytes=resident_memory().peak_bytes,
            device_peak_bytes=torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None,
            cpu_joules=energy.cpu_joules,
            gpu_joules=energy.gpu_joules,
            energy_note=energy.note,
        )

    def _optimisation(self) -> Optimisation:
        recipe = self.recipe
        optimizer = AdamW(parameter_groups(self.model, recipe), lr=recipe.learning_rate, fused=True)
        schedule = cosine_schedule(
            optimizer, recipe.learning_rate, recipe.epochs, len(self.batches), warmup_epochs=recipe.warmup_epochs
        )
        return Optimisation(
            optimizer,
            schedule,
            self.device,
            GUARD,
            model=self.model,
            seed=recipe.seed,
            amp=recipe.amp,
            clip=recipe.clip_gradient,
            team=self.team,
        )

    def _mixup(self, classes: int) -> Mixup | None:
        recipe = self.recipe
        if not (recipe.mixup or recipe.cutmix):
            return None
        return Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=classes)
