"""`effvit study`: the whole comparison with one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effvit.cli.cmd_profile import raise_if_unfinished
from effvit.cli.hosts import split_devices
from effvit.cli.launched import alone
from effvit.cli.options import (
    DevicesOption,
    JsonOption,
    NoiseOption,
    ResolutionsOption,
    SkipCorruptOption,
    ThreadsOption,
    attentions_from_text,
    batches_from_text,
    devices_from_texts,
    names_from_text,
    precisions_from_text,
    resolutions_from_text,
)
from effvit.cli.output import CountingBar, progress_bars, say, write
from effvit.cli.study_file import settings_text, take_file, take_model_or_file
from effvit.errors import UsageError
from effvit.mix import parse_mix
from effvit.spec import BASELINE

if TYPE_CHECKING:
    from effvit.profiling.study import Study

# Many cells, and rounds of each: less of what a single `effvit profile` takes for one.
STUDY_LEAST_S = 0.5
STUDY_MOST_S = 8.0
# Each takes as long as any; these are the ones that most papers compare.
STUDIED = "softmax,atrous,linformer,nystromformer,performer"


@alone
def study(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            help="timm model [default: what suits the data]; or a file as of --file, whose name ends in .toml",
            show_default=False,
            is_eager=True,
            callback=take_model_or_file,
        ),
    ] = None,
    data: Annotated[str, typer.Option(metavar="NAME|PATH", help="data set or ImageFolder")] = "digits",
    attn: Annotated[
        str, typer.Option(metavar="NAME,...", help="variants, or mixes such as 0-3:atrous+4-11:linformer")
    ] = STUDIED,
    weights: Annotated[
        str, typer.Option(metavar="auto|pretrained|none|PATH|hf:OWNER/NAME", help="initial weights of every variant")
    ] = "auto",
    train_res: Annotated[
        str | None, typer.Option(metavar="PX", help="image size to train at [default: what suits]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", min=1, help="passes over the training part")] = None,
    train_batch: Annotated[int | None, typer.Option(metavar="N", min=1, help="images a training step")] = None,
    lr: Annotated[float | None, typer.Option(metavar="X", help="peak learning rate")] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="for weights, order and augmentation; the same for all variants")
    ] = 0,
    transfer_epochs: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="softmax, fine-tuned first, teaches the others: they start from its weights, learn its attention for "
            "N epochs, and are fine-tuned with distillation; 0 is off",
        ),
    ] = 0,
    res: ResolutionsOption = None,
    batch: Annotated[str, typer.Option(metavar="N,...", help="images a call: 1,8,32 or FIRST:LAST:FACTOR")] = "1,8",
    precision: Annotated[str, typer.Option(metavar="NAME,...", help="types to compute in")] = "fp32",
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...", help="runtimes [default: all here that run exported artifacts]", show_default=False
        ),
    ] = None,
    device: DevicesOption = None,
    max_noise: NoiseOption = 2.0,
    eval_images: Annotated[int, typer.Option(metavar="N", min=0, help="held-out images for accuracy; 0 is all")] = 500,
    threads: ThreadsOption = None,
    skip_corrupt: SkipCorruptOption = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="the study's folder [default: studies/DATA]", show_default=False),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="take options from a TOML file, whose keys they are; what is given beside it goes first",
            show_default=False,
            is_eager=True,
            callback=take_file,
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="print all settings as such a file, and do nothing")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the cells and how long they will take, by a probe; train nothing")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Fine-tune, export, verify and profile every variant under the same conditions, then write the report.

    Stopped at any moment and started again, it goes on where it was: within the training of a variant, too. Its
    settings are kept in its folder as study.toml.
    """
    sizes = resolutions_from_text(res) if res is not None else None
    trained = resolutions_from_text(train_res) if train_res is not None else [None]
    batches, precisions = batches_from_text(batch), precisions_from_text(precision)
    hosts, here = split_devices(device, None)  # those that do not say their threads have the effort's
    devices = devices_from_texts(here, None) if here or not hosts else []
    if len(trained) > 1:
        raise UsageError(f"a study trains at one size, not at {train_res}", "use one study for each size")

    from effvit.cli.forecasting import say_time, show_forecast
    from effvit.cli.reporting import write_and_show
    from effvit.cli.studying import carry_out, show_choice, show_ranking
    from effvit.cli.training import warn_of_skipped
    from effvit.data.base import load_data
    from effvit.environment import usable_cores
    from effvit.profiling.plan import Effort
    from effvit.profiling.study import RESULTS, Study, common_backends
    from effvit.surgery import pick_variant

    attentions = attentions_from_text(attn)
    if not attentions:
        raise UsageError(f"{attn!r} names no attention", f"write --attn {STUDIED}")
    for swap in (swap for attention in attentions for swap in parse_mix(attention)):
        pick_variant(swap.attention)
    with progress_bars() as progress:
        images = load_data(
            data, skip_corrupt=skip_corrupt, progress=CountingBar(progress, "checking images", "checked")
        )
    warn_of_skipped(images)
    recipe = {"epochs": epochs, "batch": train_batch, "learning_rate": lr, "seed": seed}
    request = Study(
        data=images.name,
        fingerprint=images.fingerprint,
        # The baseline first: it is what everything else is held against, and the first thing to go wrong visibly.
        attentions=tuple(sorted(dict.fromkeys(attentions), key=lambda name: (name != BASELINE, name))),
        model=model,
        weights=weights,
        trained=trained[0],
        recipe={key: value for key, value in recipe.items() if value is not None},
        resolutions=tuple(sizes or [(size, size) for size in images.hints.study_resolutions]),
        batches=tuple(batches),
        precisions=tuple(precisions),
        backends=tuple(names_from_text(backend)) or common_backends(devices, hosts),
        transfer_epochs=transfer_epochs,
        devices=tuple(devices),
        hosts=tuple(hosts),
    )
    folder = out or Path("studies") / (Path(images.name).name or "data")
    description = settings_text(context, _decided(request, threads or usable_cores()), "what suits the data")
    if show:
        write(description.rstrip("\n"))
        return
    effort = Effort(
        threads=threads or usable_cores(),
        least_s=STUDY_LEAST_S,
        most_s=STUDY_MOST_S,
        eval_images=eval_images,
        max_noise=max_noise / 100,
    )
    if dry_run:
        show_forecast(request, images, folder, effort, json=json)
        return
    outcomes = carry_out(request, images, folder, effort, description)
    rows, written = write_and_show(outcomes, folder / "report", json=json)
    if not json:
        show_ranking(rows)
        show_choice(rows, folder / RESULTS)
    say(f"report: {written.html}")
    say_time(folder, request)
    raise_if_unfinished(outcomes)


def _decided(request: Study, threads: int) -> dict[str, object]:
    """Return the options that have become something, as they are written in a file."""
    return {
        "attn": request.attentions,
        "res": [height if height == width else f"{height}x{width}" for height, width in request.resolutions],
        "batch": request.batches,
        "precision": request.precisions,
        "backend": request.backends,
        "device": [*map(str, request.devices), *(host.text for host in request.hosts)],
        "threads": threads,
    }
