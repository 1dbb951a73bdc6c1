"""`effvit attention`: what a mechanism is, and what it promises on paper."""

from __future__ import annotations

from typing import Annotated

import typer

from effvit.cli.options import JsonOption, pairs_from_texts, resolutions_from_text
from effvit.cli.output import show, write_json
from effvit.errors import UsageError


def attention(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="attention variant [default: all of them, side by side]", show_default=False
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="timm model, see `effvit list models`")
    ] = "vit_small_patch16_224",
    res: Annotated[
        str, typer.Option(metavar="PX,...", help="image sizes: 224,384 or HEIGHTxWIDTH")
    ] = "224,384,512,1024",
    attn_option: Annotated[
        list[str] | None, typer.Option("--attn-option", metavar="NAME=VALUE", help="option of the variant; repeatable")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show what an attention variant is, its options, and what it promises a model on paper.

    The promise is counted, not measured: multiply-accumulates (MACs) of the model, and bytes that the operators of
    its first attention layer read and write, for one image. No weights are needed.
    """
    resolutions, options = resolutions_from_text(res), pairs_from_texts(attn_option)
    if name is None and options:
        raise UsageError(
            "options belong to one variant, and none is named", "write `effvit attention NAME` before them"
        )

    from effvit.prospect import prospects_of
    from effvit.surgery import attention_variants

    names = list(attention_variants()) if name is None else [name]
    prospects = prospects_of(names, model, resolutions, options)
    if json:
        import msgspec

        write_json(msgspec.json.encode(prospects if name is None else prospects[0]))
        return
    from effvit.cli.render import comparison_parts, prospect_parts

    for part in comparison_parts(prospects) if name is None else prospect_parts(prospects[0]):
        show(part)
