"""`effvit finetune` as a function: data, model, swapped attention, weights and recipe become a run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from effvit.autocast import amp_of, native_amp
from effvit.backbone import resolution_of
from effvit.cached import Asked, Cached
from effvit.claim import claimed
from effvit.cost import cost_of
from effvit.data.base import ImageData
from effvit.decoded import cached_for, with_cache, worth_keeping
from effvit.environment import capture_environment, usable_cores
from effvit.errors import UnavailableError, UnsupportedError, UsageError
from effvit.interruption import Interruption
from effvit.optimisation import Step
from effvit.preprocessing import preprocessing_of
from effvit.product import product_macs_per_s
from effvit.recipe import PRESETS, QUICK, Recipe, checked_changes, default_recipe
from effvit.run import (
    DataRecord,
    EpochRecord,
    Run,
    RunRecord,
    TransferEpoch,
    TransferRecord,
    new_folder,
    now,
)
from effvit.run_in_progress import FollowedRun
from effvit.spec import Cost, ModelSpec, Swap
from effvit.state import EVERY_S, TEACHER, Position, State, StateKeeper, Work
from effvit.teacher import Teacher, open_teacher, require_fitting, teacher_of
from effvit.team import Team
from effvit.tracking import Trackers, require_trackers
from effvit.training import train
from effvit.transfer import transfer
from effvit.weights import AUTO, Architecture, InitialModel, initial_model, square_patch
from effvit.zero_training import zero_training


@dataclass(frozen=True, slots=True)
class Finetuning:
    """What to fine-tune. Everything left out follows from the data: see `ImageData.hints`.

    `resolution` is (height, width) px. `preset` names a recipe (None: quick), `recipe` holds fields to change of it.
    `threads` and `workers` None mean what suits the machine and the data. `teacher` is the folder of an exact run to
    learn from; backbone, resolution, patch and weights that are left out are then its. The state to resume from is
    saved at least every `save_every_s`. `track` names the trackers that are told of every epoch, `cache` where training
    images are kept decoded (None: as the preset has it).
    """

    swaps: tuple[Swap, ...]
    model: str | None = None
    weights: str = AUTO
    resolution: tuple[int, int] | None = None
    patch: int | None = None
    recipe: Mapping[str, object] | None = None
    device: str | None = None
    workers: int | None = None
    threads: int | None = None
    teacher: Path | None = None
    save_every_s: float = EVERY_S
    preset: str | None = None
    track: tuple[str, ...] = ()
    cache: Asked | None = None


class Listener:
    """Is told how a fine-tuning goes; override what matters."""

    def warn(self, text: str) -> None:
        """Something a reader of the results must know."""

    def begin(self, run: Run) -> None:
        """The run folder exists and training begins."""

    def resume(self, run: Run, position: Position) -> None:
        """Training goes on where it was cut short."""

    def caching(self, done: int, images: int) -> None:
        """So many training images are decoded and kept."""

    def stopping(self) -> None:
        """Training was asked to stop, and will once its state is saved."""

    def step(self, step: Step) -> None:
        """One optimiser step is done."""

    def epoch(self, record: EpochRecord) -> None:
        """One epoch is done and on disk."""

    def transfer_step(self, step: Step) -> None:
        """One optimiser step of attention transfer is done; its loss is the error."""

    def transfer_epoch(self, epoch: TransferEpoch) -> None:
        """One epoch of attention transfer is done."""

    def transferred(self, record: TransferRecord) -> None:
        """Attention transfer is done and on disk; fine-tuning begins."""


def finetune(
    request: Finetuning,
    data: ImageData,
    *,
    out: Path,
    name: str | None = None,
    listener: Listener | None = None,
    team: Team | None = None,
) -> Run:
    """Fine-tune and return the run, which lies in `out`.

    Every process of a `team` calls this; the first one makes the folder and writes.

    Raises:
        EffvitError: Any of the tree in errors.py; a run folder then holds what was finished.
    """
    listener, team = listener or Listener(), team or Team()
    with team.together():
        require_trackers(request.track)
        device = team.device(device_called(request.device))
        torch.set_num_threads(threads_for(request.threads, team))
        plan = _planned(request, data)
        initial, recipe, teacher = plan.initial, plan.recipe, plan.teacher
        for warning in initial.warnings:
            listener.warn(warning)
        record = replace(
            _record(plan.request, data, initial, recipe, team), teacher=None if teacher is None else teacher.record
        )
    untrained = zero_training(initial, record.spec.backbone, data, device, recipe.amp, team)
    rate = product_macs_per_s(device, amp_of(device, recipe.amp))
    cached = team.gathered(record.cached)[0]  # memory may have become short in one of the processes
    record = replace(record, zero_training=untrained, product_macs_per_s=rate, cached=cached)
    workers = workers_for(request, data, team)
    if record.cached is not None:
        with team.together():
            data = with_cache(data, record.cached, listener.caching)
    # The state before the record: a run that can be found can be gone on with.
    position = Position("transfer" if recipe.transfer_epochs and teacher is not None else "training")
    with ExitStack() as stack:
        folder = out
        with team.together():
            if team.leads:
                folder = new_folder(out, name, record)
                stack.enter_context(claimed(folder))
        folder = team.gathered(folder)[0]
        interruption = stack.enter_context(Interruption(listener.stopping))
        place = None if request.teacher is None else str(request.teacher.resolve())
        keeper = StateKeeper(folder, request.save_every_s, interruption, place, team)
        run = Run(folder, record) if team.leads else FollowedRun(folder, record)
        with team.together():
            if teacher is not None and teacher.record.weights is None:
                run.save(TEACHER, teacher.model)
            keeper.save(position, Work(initial.model))
            run = run.updated(record)
            listener.begin(run)
        training = Training(
            run, initial.model, teacher, data, device, workers, keeper, State(position), team, request.track
        )
        return carry_out(training, listener)


def recipe_of(request: Finetuning, data: ImageData) -> Recipe:
    """Return the recipe that `finetune` would follow, which depends on whether there are weights to start from.

    Raises:
        EffvitError: Any of the tree in errors.py that `finetune` raises before it begins.
    """
    return _planned(request, data).recipe


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """A training that is ready to begin, or to go on, from `state`, which is where `model` stands."""

    run: Run
    model: VisionTransformer
    teacher: Teacher | None
    data: ImageData
    device: torch.device
    workers: int
    keeper: StateKeeper
    state: State
    team: Team
    track: tuple[str, ...] = ()


def carry_out(training: Training, listener: Listener) -> Run:
    """Do what is left of a training, attention transfer first, and return the run.

    Raises:
        EffvitError: Any of the tree in errors.py; the run folder then holds what was finished.
    """
    run, teacher = training.run, training.teacher
    state: State | None = training.state
    if training.state.position.phase == "transfer":
        assert teacher is not None
        run = transfer(
            run,
            training.model,
            teacher,
            training.data,
            device=training.device,
            workers=training.workers,
            on_step=listener.transfer_step,
            on_epoch=listener.transfer_epoch,
            keeper=training.keeper,
            state=state,
            team=training.team,
        )
        assert run.record.transfer is not None
        listener.transferred(run.record.transfer)
        state = None
    # A teacher that has nothing more to say leaves the memory to the student.
    teacher = teacher if run.record.recipe.distill_weight else None
    names = training.track if training.team.leads else ()
    with closing(Trackers(names, run, 0 if state is None else state.position.epoch)) as trackers:

        def on_epoch(record: EpochRecord) -> None:
            trackers.epoch(record)
            listener.epoch(record)

        return train(
            run,
            training.model,
            training.data,
            device=training.device,
            workers=training.workers,
            teacher=None if teacher is None else teacher.model,
            on_step=listener.step,
            on_epoch=on_epoch,
            keeper=training.keeper,
            state=state,
            team=training.team,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """A request with all that it left out."""

    request: Finetuning
    initial: InitialModel
    recipe: Recipe
    teacher: Teacher | None


def _planned(request: Finetuning, data: ImageData) -> _Plan:
    changes = checked_changes(request.recipe or {})  # before a model is built or downloaded
    device = device_called(request.device)
    amp_of(device, changes.get("amp"))
    taught_by = None if request.teacher is None else open_teacher(request.teacher)
    if taught_by is not None:
        request = _following(request, taught_by, data)
    taught, preset = taught_by is not None, request.preset or QUICK
    recipe_for = partial(default_recipe, data.hints, taught=taught, preset=preset, native_amp=native_amp(device))
    # Whatever the weights: the depth rate is the model's, the seed that of weights which are not there.
    asked = replace(recipe_for(from_scratch=True), **changes)
    torch.manual_seed(asked.seed)
    initial = _initial(request, data, asked.drop_path)
    recipe = replace(recipe_for(from_scratch=initial.weights.origin == "random"), **changes)
    teacher = teacher_of(taught_by, initial, request.model or data.hints.model, recipe, data)
    return _Plan(request, initial, recipe, teacher)


def _initial(request: Finetuning, data: ImageData, drop_path: float) -> InitialModel:
    resolution = request.resolution
    if resolution is None and request.model is None and data.hints.resolution is not None:
        resolution = (data.hints.resolution, data.hints.resolution)
    return initial_model(
        Architecture(
            backbone=request.model or data.hints.model,
            classes=len(data.classes),
            swaps=request.swaps,
            resolution=resolution,
            patch=request.patch,
            drop_path=drop_path,
        ),
        request.weights,
    )


def _following(request: Finetuning, teacher: Run, data: ImageData) -> Finetuning:
    """Return the request with what it leaves out taken from the run that teaches."""
    require_fitting(
        teacher,
        backbone=request.model,
        resolution=request.resolution,
        patch=request.patch,
        classes=len(data.classes),
    )
    spec = teacher.record.spec
    return replace(
        request,
        model=request.model or spec.backbone,
        resolution=request.resolution or spec.trained,
        patch=request.patch or spec.patch,
        weights=str(teacher.folder) if request.weights == AUTO else request.weights,
    )


def _record(request: Finetuning, data: ImageData, initial: InitialModel, recipe: Recipe, team: Team) -> RunRecord:
    model = initial.model
    spec = ModelSpec(
        backbone=request.model or data.hints.model,
        swaps=initial.surgery.swaps,
        classes=len(data.classes),
        trained=resolution_of(model),
        patch=square_patch(model),
    )
    return RunRecord(
        spec=spec,
        data=DataRecord(
            name=data.name,
            fingerprint=data.fingerprint,
            classes=data.classes,
            train_images=len(data.train),
            val_images=len(data.val),
            skipped=data.skipped,
        ),
        preprocessing=preprocessing_of(model),
        recipe=recipe,
        weights=initial.weights,
        environment=capture_environment(threads_for(request.threads, team)),
        device=str(device_called(request.device)),
        started=now(),
        status="running",
        warnings=initial.warnings,
        processes=team.size,
        cost=_cost(initial.model, spec),
        cached=_cached(request, data, cached_for("ram", resolution_of(model), recipe.crop_scale), team),
    )


def _cached(request: Finetuning, data: ImageData, in_memory: Cached, team: Team) -> Cached | None:
    if request.cache == "none":
        return None
    if request.cache is not None:
        return replace(in_memory, where=request.cache)
    fast = PRESETS[request.preset or QUICK].fast
    return in_memory if fast and worth_keeping(data, in_memory, team.place.local_size) else None


def _cost(model: VisionTransformer, spec: ModelSpec) -> Cost | None:
    try:
        return cost_of(model, spec)
    except UnsupportedError:  # a form of pooling whose MACs nobody counts
        return None


def device_called(name: str | None) -> torch.device:
    """Return the device of this name, by default a GPU where there is one.

    Raises:
        UsageError: There is no such device, or it is not supported.
        UnavailableError: This machine has none.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"{name!r} is not a device", "use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnavailableError(f"{name} was asked for, and PyTorch sees no CUDA GPU", "use --device cpu")
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"{device.type} devices are not supported", "use cpu, cuda or cuda:N")
    if (device.index or 0) >= max(1, torch.cuda.device_count()):
        raise UnavailableError(
            f"{name} was asked for, and this machine has {torch.cuda.device_count()} CUDA GPUs", "use a lower number"
        )
    return device


def threads_for(asked: int | None, team: Team) -> int:
    """Return how many threads this process computes with: by default its share of the cores of this machine."""
    return asked or max(1, usable_cores() // team.place.local_size)


def workers_for(request: Finetuning, data: ImageData, team: Team) -> int:
    """Return how many processes load images: by default none for those in memory, which need no decoding."""
    if request.workers is not None:
        return request.workers
    in_memory = isinstance(data.train[0].source, np.ndarray)
    return 0 if in_memory else min(8, threads_for(None, team))
