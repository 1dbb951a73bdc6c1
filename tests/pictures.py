"""Image files for tests, made of noise that depends on nothing but a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def noise(width: int = 24, height: int = 20, seed: int = 0) -> Image.Image:
    """Return an RGB image of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def write_folder(root: Path, counts: dict[str, int], extension: str = "png") -> Path:
    """Write `counts[name]` images of noise into each sub-folder `name` of `root` and return `root`."""
    seed = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            noise(seed=seed).save(root / name / f"{index}.{extension}")
            seed += 1
    return root


def truncate(path: Path) -> None:
    """Cut the second half of a file off."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
