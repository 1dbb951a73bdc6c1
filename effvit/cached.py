"""How a run's training images were kept. Standard library only, as the run's record holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Where = Literal["ram", "disk"]
Asked = Literal["ram", "disk", "none"]


@dataclass(frozen=True, slots=True)
class Cached:
    """How the training images of a run were kept.

    Those whose shorter side is longer than `shorter_side` (px) were resized to it once, by Pillow's bicubic filter, and
    every crop is taken from that: not from the original image.
    """

    where: Where
    shorter_side: int
