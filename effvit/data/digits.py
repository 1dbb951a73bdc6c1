"""scikit-learn's handwritten digits: real images that need no download."""

from __future__ import annotations

import numpy as np

from effvit.data.base import DIGITS, WHOLE, DataSource, Found, FoundImage, Part

MAX_LEVEL = 16


def find(name: str) -> Found:
    """Return the 1,797 digits as 8 x 8 px images in memory."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / MAX_LEVEL)).astype(np.uint8)
    rgb = np.repeat(grey[..., None], 3, axis=3)  # (1797, 8, 8, 3)
    labels: list[int] = digits.target.tolist()
    images = tuple(FoundImage(rgb[index], str(index), rgb[index].nbytes, label) for index, label in enumerate(labels))
    return Found(name, tuple(str(digit) for digit in digits.target_names), (Part(WHOLE, images),), DIGITS)


SOURCE = DataSource(
    name="digits",
    form="digits",
    summary="1,797 handwritten digits of 8 x 8 px, comes with scikit-learn; for trying things out",
    find=find,
)
