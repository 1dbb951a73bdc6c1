"""Attention transfer: swapped layers learn to answer as the exact ones did, from images without labels.

Sources:
    Zhang et al. 2024 (LoLCATs), section 3.1, https://arxiv.org/abs/2410.10254: each layer alone, on the teacher's
    inputs. Li et al. 2026 (ViT-AdaLA), https://arxiv.org/abs/2603.16063: then the final features, because the errors of
    the layers add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Literal, Self

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.optim import AdamW

from effvit.accuracy import top1
from effvit.autocast import mixed_precision
from effvit.backbone import attention_layers
from effvit.data.base import ImageData
from effvit.images import EvaluationBatches
from effvit.optimisation import (
    Begun,
    Guard,
    Optimisation,
    Step,
    cosine_schedule,
    training_batches,
)
from effvit.preprocessing import normalise
from effvit.run import LAST, Run, TransferEpoch, TransferRecord
from effvit.run_in_progress import RunInProgress
from effvit.state import Position, State, StateKeeper, TransferSoFar, Work
from effvit.teacher import Teacher, swapped_layers
from effvit.team import Team
from effvit.training import EVALUATION_BATCH, validate

GUARD = Guard("transfer epoch", "lower --transfer-lr")


def transfer(
    run: Run,
    student: VisionTransformer,
    teacher: Teacher,
    data: ImageData,
    *,
    device: torch.device,
    workers: int = 0,
    on_step: Callable[[Step], None],
    on_epoch: Callable[[TransferEpoch], None],
    keeper: StateKeeper | None = None,
    state: State | None = None,
    team: Team | None = None,
) -> Run:
    """Teach the swapped layers of `student` as the run's recipe says and return the run with what became of it.

    The first half of the epochs, and one more if they are odd, trains each layer alone on what the teacher's layer
    gets (teacher forcing): its new parameters, and the projections to q and k. The rest trains all parameters of the
    swapped layers together, on the student's own way from image to final features. The run's last checkpoint is then
    the student's. With a `state` that was kept, and the student as it was then, the transfer goes on from there. Every
    process of a `team` calls this; only the first one writes.

    Raises:
        CheckFailedError: An error became infinite or NaN.
        DataError: An image vanished or became unreadable.
        StorageError: The disk is full.
        UsageError: Mixup with an odd batch, or fewer images than a batch needs.
        UnsupportedError: The device has too little memory.
        PeerError: Another process of the team has ended.
    """
    team = team or Team()
    with RunInProgress(run):
        keeper = keeper or StateKeeper(run.folder, team=team)
        work = _Transfer(run, student, teacher, data, device, workers, keeper, team)
        record = work.carry_out(on_step, on_epoch, state)
        with team.together():
            run.save(LAST, student)
            transferred = run.updated(replace(run.record, transfer=record))
            keeper.save(Position("training"), Work(student))
        return transferred


def unexplained(output: Tensor, target: Tensor) -> Tensor:
    """Return the squared error of `output` in units of the variance of `target`, both `(batch, tokens, dim)`.

    The variance is that around each channel's mean, so 0 is equality, and 1 what the best constant output gets.
    """
    output, target = output.float(), target.float()
    variance = (target - target.mean(dim=(0, 1), keepdim=True)).square().mean()
    # A target that does not vary at all still divides.
    return (output - target).square().mean() / variance.clamp(min=torch.finfo(torch.float32).tiny)


class Lesson(nn.Module):
    """The error of a student as the output of a module, which is what processes share the gradients of."""

    def __init__(self, student: VisionTransformer, error: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.student, self.error = student, error

    def forward(self, images: Tensor) -> Tensor:
        return self.error(images)


class LayerTrace:
    """What the attention layers of `blocks` got and gave in the latest forward pass of `model`, by block.

    Both are `(batch, tokens, dim)`.
    """

    def __init__(self, model: VisionTransformer, blocks: Iterable[int]) -> None:
        self.inputs: dict[int, Tensor] = {}
        self.outputs: dict[int, Tensor] = {}
        layers = attention_layers(model, type(model).__name__)
        self._handles = [layers[block].register_forward_hook(partial(self._keep, block)) for block in blocks]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, block: int, layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        self.inputs[block], self.outputs[block] = arguments[0], output


def teacher_forced_errors(student: VisionTransformer, teacher: VisionTransformer, images: Tensor) -> Tensor:
    """Return the `unexplained` of each swapped layer, `(layers,)`, on what the teacher's layer gets.

    No layer's error depends on another layer of the student.
    """
    layers = swapped_layers(student)
    with torch.no_grad(), LayerTrace(teacher, layers) as trace:
        teacher.forward_features(images)
    return torch.stack(
        [unexplained(layer(trace.inputs[block]), trace.outputs[block]) for block, layer in layers.items()]
    )


def free_running_errors(
    student: VisionTransformer, teacher: VisionTransformer, images: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the `unexplained` of the final features, and its mean over the swapped layers.

    Each model goes its own way from the images on, so a layer is asked to make up for what earlier ones got wrong.
    Layers whose tokens were merged have no output to be compared token by token; the features alone teach them.
    """
    blocks = tuple(swapped_layers(student))
    with torch.no_grad(), LayerTrace(teacher, blocks) as taught:
        target = teacher.forward_features(images)
    with LayerTrace(student, blocks) as learnt:
        features = student.forward_features(images)
    # A row of blocks that merges tokens does not call its layers, so the trace holds none of them.
    layers = [unexplained(output, taught.outputs[block]) for block, output in learnt.outputs.items()]
    return unexplained(features, target), sum(layers, torch.zeros((), device=images.device)) / max(1, len(layers))


def new_and_qkv(student: VisionTransformer, teacher: VisionTransformer) -> list[nn.Parameter]:
    """Return what the swapped layers have and `teacher` has not, and their joint projection to q, k and v."""
    known = dict(teacher.named_parameters())
    chosen = [parameter for name, parameter in student.named_parameters() if name not in known]
    for layer in swapped_layers(student).values():
        chosen += layer.qkv.parameters()
    return chosen


@contextmanager
def training_only(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let gradients reach `parameters` alone, and afterwards all that they reached before."""
    before = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in before:
            parameter.requires_grad_(True)


@contextmanager
def values_kept(model: VisionTransformer) -> Iterator[None]:
    """Keep gradients from the projection to v, which shares its weight and bias with those to q and k."""
    handles = []
    for layer in swapped_layers(model).values():
        rows = 2 * layer.heads * layer.head_dim  # timm stacks q, k, v
        for parameter in layer.qkv.parameters():
            handles.append(parameter.register_hook(partial(_first_rows, rows)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first_rows(rows: int, gradient: Tensor) -> Tensor:
    kept = gradient.clone()
    kept[rows:] = 0
    return kept


class _Transfer:
    def __init__(
        self,
        run: Run,
        student: VisionTransformer,
        teacher: Teacher,
        data: ImageData,
        device: torch.device,
        workers: int,
        keeper: StateKeeper,
        team: Team,
    ) -> None:
        record = run.record
        self.team = team
        self.keeper, self.position = keeper, Position("transfer")
        self.gathered: Mapping[str, Tensor] = {}
        self.recipe, self.preprocessing, self.device = record.recipe, record.preprocessing, device
        # Evaluation mode: dropout and stochastic depth would be errors that no layer can answer for.
        self.student, self.teacher = student.to(device).eval(), teacher.model.to(device)
        self.blocks = tuple(swapped_layers(student))
        with team.together():
            self.batches = training_batches(record, data, device, workers, team.place)
        self.held_out = EvaluationBatches(
            data.val, record.preprocessing, *record.spec.trained, batch=EVALUATION_BATCH, place=team.place
        )

    def carry_out(
        self, on_step: Callable[[Step], None], on_epoch: Callable[[TransferEpoch], None], state: State | None
    ) -> TransferRecord:
        position = Position("transfer") if state is None else state.position
        begun = position.transfer or TransferSoFar(self._errors("before"), self._top1())
        self.position, self.gathered = replace(position, transfer=begun), {} if state is None else state.optimiser
        count = self.recipe.transfer_epochs
        parameters = new_and_qkv(self.student, self.teacher)
        with training_only(self.student, parameters), values_kept(self.student):
            self._train("layers", self._forced_error, parameters, count - count // 2, on_step, on_epoch)
        layers = swapped_layers(self.student).values()
        parameters = [parameter for layer in layers for parameter in layer.parameters()]
        with training_only(self.student, parameters):
            self._train("features", self._free_error, parameters, count, on_step, on_epoch)
        assert self.position.transfer is not None
        return TransferRecord(
            blocks=self.blocks,
            errors_before=begun.errors_before,
            errors_after=self._errors("after"),
            top1_before=begun.top1_before,
            top1_after=self._top1(),
            epochs=self.position.transfer.epochs,
        )

    def _train(
        self,
        stage: Literal["layers", "features"],
        error: Callable[[Tensor], Tensor],
        parameters: list[nn.Parameter],
        until: int,
        on_step: Callable[[Step], None],
        on_epoch: Callable[[TransferEpoch], None],
    ) -> None:
        """Train `parameters` from the epoch of the position on, and up to epoch `until`."""
        if self.position.epoch >= until:
            return
        optimisation = self._optimisation(parameters)
        lesson = self.team.synchronised(Lesson(self.student, error))
        for index in range(self.position.epoch, until):
            epoch = optimisation.epoch(
                index,
                self.recipe.transfer_epochs,
                self.batches,
                partial(self._losses, lesson),
                on_step,
                begun=self.position.begun,
                after_step=partial(self._after_step, optimisation),
            )
            record = TransferEpoch(
                index + 1, stage, epoch.loss, epoch.seconds, epoch.images_per_s, optimisation.learning_rate
            )
            self._finish_epoch(record)
            with self.team.together():
                on_epoch(record)
                # The next stage has an optimiser of its own.
                self.keeper.after_epoch(self.position, Work(self.student, optimisation if index + 1 < until else None))

    def _optimisation(self, parameters: list[nn.Parameter]) -> Optimisation:
        recipe = self.recipe
        optimizer = AdamW(parameters, lr=recipe.transfer_learning_rate, weight_decay=0.0, fused=True)
        schedule = cosine_schedule(optimizer, recipe.transfer_learning_rate, recipe.transfer_epochs, len(self.batches))
        # Gradients are not clipped: by their common norm, the layers would no longer be independent.
        optimisation = Optimisation(
            optimizer,
            schedule,
            self.device,
            GUARD,
            model=self.student,
            seed=recipe.seed,
            amp=recipe.amp,
            team=self.team,
        )
        if self.gathered:
            optimisation.restore(self.gathered, self.position.scaler)
            self.gathered = {}
        return optimisation

    def _after_step(self, optimisation: Optimisation, begun: Begun) -> None:
        self.keeper.after_step(replace(self.position, begun=begun), Work(self.student, optimisation))

    def _finish_epoch(self, record: TransferEpoch) -> None:
        so_far = self.position.transfer
        assert so_far is not None
        so_far = replace(so_far, epochs=(*so_far.epochs, record))
        self.position = Position("transfer", record.epoch, transfer=so_far)

    def _losses(self, lesson: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
        with mixed_precision(self.device, self.recipe.amp):
            return [lesson(images)]

    def _forced_error(self, images: Tensor) -> Tensor:
        return teacher_forced_errors(self.student, self.teacher, images).mean()

    def _free_error(self, images: Tensor) -> Tensor:
        features, layers = free_running_errors(self.student, self.teacher, images)
        return features + layers

    def _errors(self, when: str) -> tuple[float, ...]:
        """Return each layer's error on the held-out images, the mean over batches weighed by their images."""
        sums, count = torch.zeros(len(self.blocks), dtype=torch.float64), 0
        with self.team.together():
            for pixels, labels in self.held_out:
                images = torch.from_numpy(normalise(pixels, self.preprocessing)).to(self.device)
                with torch.no_grad(), mixed_precision(self.device, self.recipe.amp):
                    errors = teacher_forced_errors(self.student, self.teacher, images)
                sums += errors.double().cpu() * len(labels)
                count += len(labels)
        sums = torch.stack(self.team.gathered(sums)).sum(dim=0)
        count = sum(self.team.gathered(count))
        GUARD.require_finite(float(sums.sum()), f"on the held-out images {when} the transfer")
        return tuple((sums / count).tolist())

    def _top1(self) -> float:
        validation = validate(
            self.student, self.held_out, self.preprocessing, self.device, amp=self.recipe.amp, team=self.team
        )
        GUARD.require_finite(validation.loss, "on the held-out images")
        return top1(validation.accuracy) or 0.0
