"""Which of timm's models can be given another attention."""

from __future__ import annotations

from fnmatch import fnmatch

import timm
from timm.models import list_models

# timm's modules of plain Vision Transformers. Building every model to find out takes more than a minute, so this list
# is short, and a test (in the slow tier) builds them all.
MODULES = ("vision_transformer", "deit")
# Their members with parallel, joint or differential blocks, which hold another attention.
OTHERS = ("*_18x2_*", "*_xp_*", "*_dlittle_*", "*wee_*")


def supported_models() -> list[tuple[str, str]]:
    """Return (model, remark) of every timm model that can be given another attention."""
    names = sorted({name for module in MODULES for name in list_models(module=module)})
    return [(name, _weights(name)) for name in names if not any(fnmatch(name, other) for other in OTHERS)]


def _weights(name: str) -> str:
    tags = timm.list_pretrained(f"{name}.*")
    if not tags:
        return "no pretrained weights"
    return f"{len(tags)} {'set' if len(tags) == 1 else 'sets'} of pretrained weights"
