"""`effvit predict`: what a bundle says of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effvit.cli.options import JsonOption, ThreadsOption
from effvit.cli.output import CountingBar, progress_bars, show, write_json

if TYPE_CHECKING:
    from rich.table import Table

    from effvit.export.classify import Classified


def predict(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder that `effvit bundle` wrote")],
    image: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="image files")],
    top: Annotated[int, typer.Option(metavar="N", min=1, help="classes an image")] = 5,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Classify images with a bundle: the most probable classes of each, by name.

    First every file of the bundle is compared with its recorded hash: one that has changed ends with exit code 4.
    """
    from effvit.environment import usable_cores
    from effvit.export.bundle import open_bundle
    from effvit.export.classify import classify

    opened = open_bundle(bundle)
    with progress_bars() as progress:
        bar = CountingBar(progress, "classifying images", "classified")
        found = classify(opened, image, threads or usable_cores(), top, bar)
    if json:
        import msgspec

        write_json(msgspec.json.encode(found))
        return
    show(_table(found))


def _table(found: Sequence[Classified]) -> Table:
    from effvit.cli.tables import plain

    table = plain("image", "class", "probability")
    for one in found:
        for place, guess in enumerate(one.guesses):
            table.add_row("" if place else one.image, guess.name, f"{guess.probability:.1%}")
    return table
