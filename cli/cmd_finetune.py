"""`effvit finetune`: swap the attention, train, leave a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from effvit.cli.launched import one_voice
from effvit.cli.options import (
    DEFAULT_RUNS,
    JsonOption,
    RunsOption,
    SkipCorruptOption,
    ThreadsOption,
    names_from_text,
    pairs_from_texts,
    resolutions_from_text,
)
from effvit.cli.output import CountingBar, hint, progress_bars, say, show, write_json
from effvit.errors import UsageError
from effvit.mix import parse_blocks, parse_mix
from effvit.spec import BASELINE

if TYPE_CHECKING:
    from effvit.recipe import Recipe
    from effvit.run import Run

DEFAULT_DATA, SAVE_MINUTES = "digits", 10.0


@one_voice
def finetune(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL|RUN]",
            help="timm model [default: what suits the data]; with --resume the run [default: the newest unfinished]",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="go on with RUN, which was cut short; its settings are those it was begun with"),
    ] = False,
    attn: Annotated[
        str | None,
        typer.Option(
            "--attn",
            metavar="NAME|MIX",
            help="attention variant, see `effvit list attention`; a mix is written 0-3:atrous,4-11:linformer "
            f"[default: {BASELINE}]",
            show_default=False,
        ),
    ] = None,
    attn_option: Annotated[
        list[str] | None,
        typer.Option(
            "--attn-option", metavar="NAME=VALUE", help="option of the variant, in a mix VARIANT.NAME=VALUE; repeatable"
        ),
    ] = None,
    layers: Annotated[str | None, typer.Option(metavar="0-9", help="swap these blocks only")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH",
            help=f"data set or ImageFolder, with or without train/ val/ [default: {DEFAULT_DATA}]",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            metavar="auto|pretrained|none|PATH|hf:OWNER/NAME",
            help="initial weights; PATH is a checkpoint, a run, or a model's folder of `transformers`; "
            "auto takes those of the --teacher if there is one",
        ),
    ] = "auto",
    res: Annotated[
        str | None, typer.Option(metavar="PX", help="image size [default: what suits model and data]")
    ] = None,
    patch: Annotated[
        int | None, typer.Option(metavar="PX", min=1, help="patch size [default: the model's own]")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="quick, standard or strong; what follows changes it [default: quick]"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="any field of the recipe, see --show-recipe; repeatable"),
    ] = None,
    show_recipe: Annotated[
        bool, typer.Option("--show-recipe", help="print the recipe that would be followed, and do nothing")
    ] = False,
    epochs: Annotated[int | None, typer.Option(metavar="N", min=1, help="passes over the training part")] = None,
    batch: Annotated[int | None, typer.Option(metavar="N", min=1, help="images a step")] = None,
    lr: Annotated[float | None, typer.Option(metavar="X", help="peak learning rate")] = None,
    weight_decay: Annotated[float | None, typer.Option(metavar="X", help="AdamW's weight decay")] = None,
    layer_decay: Annotated[
        float | None, typer.Option(metavar="X", help="learning rate factor from block to block")
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(metavar="X", help="share of the target given to all classes")
    ] = None,
    mixup: Annotated[float | None, typer.Option(metavar="X", help="mixup alpha, 0 is off")] = None,
    cutmix: Annotated[float | None, typer.Option(metavar="X", help="cutmix alpha, 0 is off")] = None,
    drop_path: Annotated[
        float | None, typer.Option(metavar="X", help="stochastic depth rate of the last block")
    ] = None,
    amp: Annotated[
        str | None,
        typer.Option(metavar="bf16|fp16|off", help="type to compute in [default: bf16 or fp16 on a GPU, off on a CPU]"),
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="have PyTorch compile the model")] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="have images lie in memory pixel by pixel")
    ] = False,
    seed: Annotated[int | None, typer.Option(metavar="N", help="for weights, order and augmentation")] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="exact run to learn from; decides backbone, image and patch size where left out"
        ),
    ] = None,
    transfer_epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="passes, before fine-tuning, that teach swapped layers to answer as the exact ones of --teacher, "
            "or of the initial weights",
        ),
    ] = None,
    transfer_lr: Annotated[float | None, typer.Option(metavar="X", help="learning rate of the transfer")] = None,
    distill_weight: Annotated[
        float | None,
        typer.Option(metavar="X", help="share of the loss that is the distance from --teacher [default: 0.5 with one]"),
    ] = None,
    distill_temperature: Annotated[float | None, typer.Option(metavar="X", help="temperature of that distance")] = None,
    device: Annotated[
        str | None, typer.Option(metavar="cpu|cuda[:N]", help="where to train [default: cuda if there]")
    ] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", min=0, help="processes that load images")] = None,
    threads: ThreadsOption = None,
    save_minutes: Annotated[
        float, typer.Option(metavar="N", min=0, help="save, at least so often, the state that --resume needs")
    ] = SAVE_MINUTES,
    track: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="tell tensorboard, mlflow or wandb of every epoch"),
    ] = None,
    cache: Annotated[
        Literal["ram", "disk", "none"] | None,
        typer.Option(
            metavar="ram|disk|none",
            help="decode training images once, make them no larger than their crops need, and keep them there "
            "[default: ram if --recipe is standard or strong, and half of the free memory is enough]",
            show_default=False,
        ),
    ] = None,
    skip_corrupt: SkipCorruptOption = False,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="the run's name [default: model, attention, data, time]")
    ] = None,
    runs: RunsOption = DEFAULT_RUNS,
    json: JsonOption = False,
) -> None:
    """Swap the attention of a timm Vision Transformer, fine-tune it, and write a run.

    Every epoch ends with the last and the best checkpoint on disk. Stopped at any moment, it goes on with --resume.
    """
    changes = {
        "epochs": epochs,
        "batch": batch,
        "learning_rate": lr,
        "weight_decay": weight_decay,
        "layer_decay": layer_decay,
        "label_smoothing": label_smoothing,
        "mixup": mixup,
        "cutmix": cutmix,
        "drop_path": drop_path,
        "amp": amp,
        "compile": compile or None,
        "channels_last": channels_last or None,
        "seed": seed,
        "transfer_epochs": transfer_epochs,
        "transfer_learning_rate": transfer_lr,
        "distill_weight": distill_weight,
        "distill_temperature": distill_temperature,
    }
    sizes = resolutions_from_text(res) if res is not None else [None]
    if len(sizes) > 1:
        raise UsageError(f"a run is trained at one size, not at {res}", "fine-tune once for each size")
    blocks = parse_blocks(layers) if layers is not None else None
    if resume and attn is None and (attn_option or blocks):
        raise UsageError("--attn-option and --layers say nothing without --attn", "leave them out to go on as begun")
    if resume and model is not None and name not in (None, model):
        raise UsageError(f"the run {model} cannot go on as {name}", "leave --name out")
    written = attn if resume else attn or BASELINE
    swaps = () if written is None else parse_mix(written, pairs_from_texts(attn_option), blocks)

    from effvit.data.base import load_data
    from effvit.finetune import Finetuning, recipe_of
    from effvit.finetune import finetune as run_finetuning
    from effvit.recipe import changes_from_texts
    from effvit.resume import resume as run_resumption
    from effvit.resume import unfinished_run
    from effvit.runs import resolve_runs
    from effvit.surgery import pick_variant
    from effvit.team import join_team

    set_one_by_one = changes_from_texts(pairs_from_texts(settings))
    for swap in swaps:
        pick_variant(swap.attention)  # a misspelt name must not wait for the images to be checked
    request = Finetuning(
        swaps=swaps,
        model=None if resume else model,
        weights=weights,
        resolution=sizes[0],
        patch=patch,
        preset=recipe,
        recipe=set_one_by_one | {key: value for key, value in changes.items() if value is not None},
        device=device,
        workers=workers,
        threads=threads,
        teacher=None if teacher is None else resolve_runs(runs, [teacher], [])[0].folder,
        save_every_s=60 * save_minutes,
        track=tuple(names_from_text(track)),
        cache=cache,
    )
    from effvit.cli.training import TrainingDisplay, offering_to_resume, warn_of_skipped

    unfinished = unfinished_run(runs, model or name) if resume else None
    if unfinished is not None:
        begun = unfinished.record.data
        data, skip_corrupt = data or begun.name, skip_corrupt or bool(begun.skipped)
    begun_on = None if unfinished is None else unfinished.record.device
    with join_team(device or begun_on) as team, progress_bars() as progress:
        checking = CountingBar(progress, "checking images", "checked")
        with team.together():
            images = load_data(data or DEFAULT_DATA, skip_corrupt=skip_corrupt, progress=checking)
        warn_of_skipped(images)
        if show_recipe:
            _show_recipe(recipe_of(request, images) if unfinished is None else unfinished.record.recipe, json=json)
            return
        display = TrainingDisplay(progress)
        with offering_to_resume(display):
            if unfinished is not None:
                run = run_resumption(unfinished, request, images, listener=display, team=team)
            else:
                run = run_finetuning(request, images, out=runs, name=name, listener=display, team=team)
    _show(run, json=json)


def _show_recipe(recipe: Recipe, *, json: bool) -> None:
    if json:
        import msgspec

        write_json(msgspec.json.encode(recipe))
        return
    from dataclasses import fields

    from effvit.cli.render import names_table

    show(names_table([(field.name, _written(getattr(recipe, field.name))) for field in fields(recipe)]))


def _written(value: object) -> str:
    """Return a field's value as --set takes it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)


def _show(run: Run, *, json: bool) -> None:
    if json:
        import msgspec

        write_json(msgspec.json.encode(run.record))
    best = run.record.best
    assert best is not None  # there is at least one epoch
    say(f"{run.folder}: top-1 {best.top1:.1%} after epoch {best.epoch} of {run.record.recipe.epochs}")
    hint(f"measure it with `effvit profile {run.name}`")
