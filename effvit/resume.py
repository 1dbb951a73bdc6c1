"""`effvit finetune --resume` as a function: an unfinished run goes on as if nothing had come between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer

from effvit.autocast import native_amp
from effvit.backbone import create_backbone
from effvit.cached import Cached
from effvit.checkpoint import load_weights, read_weights, remove_unfinished_tensors
from effvit.claim import claimed
from effvit.data.base import ImageData
from effvit.decoded import with_cache
from effvit.errors import CheckpointError, DataError, UsageError
from effvit.finetune import Finetuning, Listener, Training, carry_out, device_called, workers_for
from effvit.interruption import Interruption
from effvit.recipe import checked_changes, default_recipe
from effvit.run import LAST, RECORD, WEIGHTS, Run, RunRecord, open_run
from effvit.run_in_progress import FollowedRun
from effvit.spec import Swap, mix_name
from effvit.state import STATE, TEACHER, Position, State, StateKeeper, read_state
from effvit.storage import remove_unfinished, sha256_of
from effvit.surgery import model_from_spec, replace_attention
from effvit.teacher import Teacher, open_teacher
from effvit.team import Team
from effvit.tracking import require_trackers
from effvit.weights import AUTO


def unfinished_run(root: Path, name: str | None) -> Run:
    """Return the run called `name` (a folder, or a name under `root`), by default the newest that is not finished.

    Raises:
        CheckpointError: There is none, or its record is damaged.
        UsageError: It is finished.
    """
    if name is None:
        runs = [open_run(path.parent) for path in root.glob(f"*/{STATE}") if (path.parent / RECORD).is_file()]
        unfinished = [run for run in runs if run.record.status != "done"]
        if not unfinished:
            raise CheckpointError(f"there is no unfinished run in {root}", "begin one with `effvit finetune`")
        return max(unfinished, key=lambda run: (run.record.started, run.name))
    run = open_run(Path(name) if (Path(name) / RECORD).is_file() else root / name)
    _require_unfinished(run)
    return run


def resume(
    run: Run, asked: Finetuning, data: ImageData, *, listener: Listener | None = None, team: Team | None = None
) -> Run:
    """Go on with an unfinished run, and return it finished.

    Everything follows from the run; what `asked` says beyond its defaults must agree with it. On a CPU the weights
    become those of a run that was never interrupted, bit for bit. Every process of a `team`, as many as the run was
    begun with, calls this, and finds the run's folder; only the first one writes.

    Raises:
        UsageError: `asked` differs, the run is finished, or another process trains it.
        CheckpointError: The state is missing or damaged, or the teacher is no longer what it was.
        DataError: The images are other ones.
        EffvitError: Any other of the tree in errors.py; the run folder then holds what was finished.
    """
    listener, team = listener or Listener(), team or Team()
    with ExitStack() as stack:
        with team.together():
            if team.leads:
                stack.enter_context(claimed(run.folder))
        interruption = stack.enter_context(Interruption(listener.stopping))
        with team.together():
            require_trackers(asked.track)
            run = open_run(run.folder)  # another process may have finished it meanwhile
            _require_unfinished(run)
            _require_as_many(team, run)
            state = read_state(run.folder)
            _require_same(asked, run, state.position, data)
            _require_same_images(data, run)
            device = team.device(device_called(run.record.device))
            torch.set_num_threads(run.record.environment.threads)
            model = model_from_spec(run.record.spec, drop_path=run.record.recipe.drop_path)
            load_weights(model, dict(state.model), str(run.folder / STATE))
            teacher = _teacher(run, state.position)
        with team.together():  # once all have read what the first one is about to change
            run = _prepared(run, state) if team.leads else FollowedRun(run.folder, run.record)
            listener.resume(run, state.position)
        run = replace(run, record=team.gathered(run.record)[0])
        keeper = StateKeeper(run.folder, asked.save_every_s, interruption, state.position.teacher, team)
        workers = workers_for(asked, data, team)
        if run.record.cached is not None:
            with team.together():
                data = with_cache(data, _cached(run.record.cached, asked), listener.caching)
        training = Training(run, model, teacher, data, device, workers, keeper, state, team, asked.track)
        return carry_out(training, listener)


def _require_unfinished(run: Run) -> None:
    if run.record.status == "done":
        raise UsageError(
            f"the run {run.name} is finished: there is nothing to go on with",
            f"train its weights further with --weights {run.folder}",
        )


def _require_as_many(team: Team, run: Run) -> None:
    begun = run.record.processes
    if begun != team.size:
        raise UsageError(
            f"the run {run.name} was begun by {begun} process{'es' if begun > 1 else ''}, not {team.size}",
            f"start it with torchrun --nproc-per-node {begun}" if begun > 1 else "start it without torchrun",
        )


def _require_same(asked: Finetuning, run: Run, position: Position, data: ImageData) -> None:
    """Check that what was asked for, as far as it was, is what the run was begun with."""
    for what, begun, now in (*_settings(asked, run.record, position), *_recipe(asked, run.record, data)):
        if begun != now:
            raise UsageError(
                f"the run {run.name} was begun with {what} {begun}, not {now}",
                "leave that out to go on with it, or begin another run",
            )


def _settings(asked: Finetuning, record: RunRecord, position: Position) -> Iterator[tuple[str, object, object]]:
    """Yield what each setting that was asked for is called, its value in the run, and the one that was asked for."""
    spec = record.spec
    if asked.model is not None:
        yield "the model", spec.backbone, asked.model
    if asked.swaps:
        yield "the attention", mix_name(spec.swaps), mix_name(asked.swaps)
        yield "the attention options", _options(spec.swaps), _options(_resolved(record, asked.swaps))
    if asked.resolution is not None:
        yield "the image size", _size(spec.trained), _size(asked.resolution)
    if asked.patch is not None:
        yield "the patch size", f"{spec.patch} px", f"{asked.patch} px"
    if asked.weights != AUTO:
        yield "the weights", record.weights.asked, asked.weights
    if asked.device is not None:
        yield "the device", record.device, str(device_called(asked.device))
    if asked.threads is not None:
        yield "a number of threads of", record.environment.threads, asked.threads
    if asked.cache is not None and (asked.cache == "none") is not (record.cached is None):
        yield "the cache", "none" if record.cached is None else record.cached.where, asked.cache
    if asked.teacher is not None:
        yield "the teacher", position.teacher, str(asked.teacher.resolve())


def _recipe(asked: Finetuning, record: RunRecord, data: ImageData) -> Iterator[tuple[str, object, object]]:
    changes = checked_changes(asked.recipe or {})
    if asked.preset is not None:
        from_scratch, taught = record.weights.origin == "random", record.recipe.distill_weight > 0
        whole = default_recipe(
            data.hints,
            from_scratch=from_scratch,
            taught=taught,
            preset=asked.preset,
            native_amp=native_amp(device_called(record.device)),
        )
        changes = {field.name: getattr(whole, field.name) for field in fields(whole)} | changes
    for field, value in changes.items():
        yield field, getattr(record.recipe, field), value


def _cached(begun: Cached, asked: Finetuning) -> Cached:
    """Return where images are kept from now on: memory may have become short, and in either place they are the same."""
    return begun if asked.cache is None or asked.cache == "none" else replace(begun, where=asked.cache)


def _resolved(record: RunRecord, swaps: tuple[Swap, ...]) -> tuple[Swap, ...]:
    spec = record.spec
    model = create_backbone(spec.backbone, classes=spec.classes, resolution=spec.trained, patch=spec.patch)
    return replace_attention(model, swaps).swaps


def _options(swaps: tuple[Swap, ...]) -> str:
    return ", ".join(f"{name}={value}" for swap in swaps for name, value in swap.options) or "none"


def _size(resolution: tuple[int, int]) -> str:
    return f"{resolution[0]} x {resolution[1]} px"


def _require_same_images(data: ImageData, run: Run) -> None:
    if data.fingerprint != run.record.data.fingerprint:
        raise DataError(
            f"the images of {data.name} are not those that the run {run.name} was begun with",
            "restore them, or begin another run",
        )


def _teacher(run: Run, position: Position) -> Teacher | None:
    """Return what the rest of the run learns from, as it was when the run began."""
    record = run.record.teacher
    if record is None:
        return None
    if record.weights is None:
        return Teacher(_kept_teacher(run), record) if position.phase == "transfer" else None
    teacher = open_teacher(Path(position.teacher or ""))
    if teacher.record.spec.weights != record.weights:
        raise CheckpointError(
            f"the teacher {record.name} has other weights than when the run {run.name} was begun",
            "restore them, or begin another run",
        )
    return Teacher(teacher.model().requires_grad_(False), record)


def _kept_teacher(run: Run) -> VisionTransformer:
    spec = run.record.spec
    exact = create_backbone(spec.backbone, classes=spec.classes, resolution=spec.trained, patch=spec.patch)
    load_weights(exact, read_weights(run.folder / TEACHER), str(run.folder / TEACHER))
    return exact.requires_grad_(False).eval()


def _prepared(run: Run, state: State) -> Run:
    """Take back what was written after the state was, and return the run as one that is at work."""
    for name in (WEIGHTS, LAST, RECORD, STATE, TEACHER):
        remove_unfinished(run.folder / name)
    remove_unfinished_tensors(run.folder)
    record, position = replace(run.record, status="running"), state.position
    run.keep_epochs(position.epoch if position.phase == "training" else 0)
    # Weights of an epoch that was never recorded have taken the place of the best ones: that epoch will be again.
    kept = sha256_of(run.weights) if run.weights.is_file() else None
    if record.best is not None and record.spec.weights != kept:
        record = replace(record, best=None, accuracy=None)
    return run.updated(record)
