from __future__ import annotations

from dataclasses import replace

import pytest

from effvit.errors import UsageError
from effvit.spec import ModelSpec, Workload

SPEC = ModelSpec("test_vit", "linformer", 10, (64, 64), (("pool", 2),))


@pytest.mark.parametrize("field", ["batch", "height", "width"])
def test_a_workload_without_images_or_pixels_is_refused(field: str) -> None:
    with pytest.raises(UsageError, match=f"{field} must be at least 1, not 0"):
        Workload(**{"batch": 1, "height": 8, "width": 8, field: 0})


def test_a_resolution_is_one_number_for_squares_and_height_x_width_otherwise() -> None:
    assert Workload(8, 224, 224).resolution == "224"
    assert Workload(8, 224, 320).resolution == "224x320"


def test_a_slug_is_the_same_in_every_process() -> None:
    # Files are found again by it. The hash is sha256 of [10, [64, 64], [["pool", 2]], null, null, null], by sha256sum.
    assert SPEC.slug == "test_vit-linformer-4ff3439a"


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "test_vit2"},
        {"attention": "performer"},
        {"classes": 11},
        {"trained": (64, 96)},
        {"options": (("pool", 3),)},
        {"layers": (0,)},
        {"patch": 8},
        {"weights": "0" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_differs_gives_another_slug(change: dict[str, object]) -> None:
    assert replace(SPEC, **change).slug != SPEC.slug
