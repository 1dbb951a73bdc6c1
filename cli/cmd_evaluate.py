"""`effvit evaluate`: accuracy of a run through any backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from effvit.cli.launched import alone
from effvit.cli.options import (
    DEFAULT_RUNS,
    ClassesOption,
    FallbackOption,
    JsonOption,
    ResolutionsOption,
    RunArguments,
    RunsOption,
    ThreadsOption,
    precisions_from_text,
    resolutions_from_text,
)
from effvit.cli.output import CountingBar, progress_bars, say, show, warn, write_json
from effvit.errors import UsageError

if TYPE_CHECKING:
    from effvit.accuracy import Accuracy
    from effvit.run import Run


@alone
def evaluate(
    run: RunArguments = None,
    backend: Annotated[str, typer.Option(metavar="NAME", help="runtime, see `effvit list backends`")] = "torch",
    precision: Annotated[str, typer.Option(metavar="NAME", help="type to compute in")] = "fp32",
    res: ResolutionsOption = None,
    eval_images: Annotated[
        int, typer.Option(metavar="N", min=0, help="held-out images, evenly over the classes; 0 is all of them")
    ] = 0,
    cache: Annotated[
        Literal["ram", "disk"] | None,
        typer.Option(
            metavar="ram|disk",
            help="decode held-out images once for all sizes, or keep them prepared for the next time",
            show_default=False,
        ),
    ] = None,
    allow_fallback: FallbackOption = False,
    threads: ThreadsOption = None,
    classes: ClassesOption = False,
    runs: RunsOption = DEFAULT_RUNS,
    json: JsonOption = False,
) -> None:
    """Measure top-1, top-5 and class-balanced accuracy on the held-out images, through any backend.

    A runtime that does something else than it was asked for, such as computing in another type, ends with exit code 4.
    """
    kind, *others = precisions_from_text(precision)
    if others:
        raise UsageError(
            f"accuracy is measured in one precision at a time, not in {precision}", f"choose --precision {kind}"
        )
    sizes = resolutions_from_text(res) if res is not None else None

    from effvit.environment import usable_cores
    from effvit.export.base import Source, pick_backend
    from effvit.export.build import artifact_accuracy, refuse, verified_artifact
    from effvit.profiling.pixels import PixelStore
    from effvit.run import resolve_runs

    chosen = pick_backend(backend)
    chosen.require(kind)
    rows: list[tuple[str, str, Accuracy]] = []
    fallbacks: list[str | None] = []
    evaluated: list[Run] = []
    count = threads or usable_cores()
    with (
        progress_bars() as progress,
        PixelStore(CountingBar(progress, "preparing images", "prepared"), cache) as pixels,
    ):
        for one in resolve_runs(runs, run or [], []):
            for height, width in sizes or [one.record.spec.trained]:
                source = Source(one, height, width, kind)
                images = pixels.get(one, height, width, eval_images)
                artifact = verified_artifact(source, chosen, pixels.get(one, height, width, 64).path, count)
                fallen: list[str] = []
                accuracy = artifact_accuracy(
                    artifact,
                    chosen,
                    images.path,
                    images.labels,
                    images.of_images,
                    count,
                    fallback=fallen.append if allow_fallback else refuse,
                )
                for text in fallen:
                    warn(text)
                fallbacks.append("; ".join(fallen) or None)
                evaluated.append(one)
                rows.append((one.name, f"{height}x{width}", accuracy))
    if json:
        import msgspec

        facts = [
            {"run": name, "px": size, "accuracy": value, "fallback": fallback}
            for (name, size, value), fallback in zip(rows, fallbacks, strict=True)
        ]
        write_json(msgspec.json.encode(facts))
        return
    from effvit.cli.render import accuracy_table

    show(accuracy_table(rows, backend, str(kind)))
    if classes:
        from effvit.cli.curves import classes_table

        for one, (name, size, accuracy) in zip(evaluated, rows, strict=True):
            say(f"\n{name}, {size}")
            show(classes_table(one.record.data.classes, accuracy))
