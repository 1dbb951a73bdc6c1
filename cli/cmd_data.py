"""`effvit data check`: what is in a data set, before anything is trained on it."""

from __future__ import annotations

from typing import Annotated

import typer

from effvit.cli.options import JsonOption
from effvit.cli.output import CountingBar, progress_bars, show, write_json
from effvit.errors import CheckFailedError

app = typer.Typer(subcommand_metavar="check SOURCE", rich_markup_mode=None)


@app.callback()
def data() -> None:
    """Look at data sets."""


@app.command("check", short_help="find damaged, odd and repeated images")
def check(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="what --data takes, see `effvit list data`")],
    near_bits: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=64,
            help="bits of 256 in which the perceptual hashes of one picture may differ [default: 10]",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Decode every image once: counts, sizes, class balance, unreadable files, odd kinds, and images that come twice.

    Exit code 4: images cannot be read, or some that are held out are trained on as well.
    """
    from effvit.audit import NEAR_BITS, audit
    from effvit.data.base import find_data

    found = find_data(source)
    with progress_bars() as progress:
        looking = CountingBar(progress, "checking images", "checked")
        result = audit(found, looking, near_bits=NEAR_BITS if near_bits is None else near_bits)
    if json:
        import msgspec

        write_json(msgspec.json.encode(result))
    else:
        from effvit.cli.auditing import audit_table

        show(audit_table(result))
    wrong = []
    if result.unreadable:
        wrong.append(f"{len(result.unreadable)} of {result.images} images cannot be read")
    if result.leaks:
        wrong.append(f"the split leaks: held-out images that are trained on as well: {len(result.leaks)}")
    if result.problem is not None:
        wrong.append(result.problem)
    if wrong:
        raise CheckFailedError(
            f"{source}: {', and '.join(wrong)}", "repair or remove what is named above; --json names all of it"
        )
