from __future__ import annotations

import pytest

from effvit.data.base import DataDefaults
from effvit.errors import UsageError
from effvit.recipe import DISTILL_WEIGHT, Recipe, default_recipe

HINTS = DataDefaults(
    model="test_vit",
    resolution=None,
    epochs=7,
    scratch_learning_rate=0.125,
    crop_scale=(0.5, 0.75),
    horizontal_flip=0.25,
    study_resolutions=(64,),
    auto_augment="rand-m9",
    random_erasing=0.5,
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("learning_rate", float("nan")),
        ("clip_gradient", -1.0),
        ("weight_decay", -0.1),
        ("warmup_epochs", -1),
        ("mixup", -0.1),
        ("cutmix", float("nan")),
        ("label_smoothing", 1.1),
        ("drop_path", -0.1),
        ("horizontal_flip", 2.0),
        ("random_erasing", float("nan")),
        ("layer_decay", 0.0),
        ("layer_decay", 1.5),
        ("crop_scale", (0.0, 1.0)),
        ("crop_scale", (0.9, 0.5)),
        ("crop_scale", (0.5, 1.5)),
        ("transfer_epochs", -1),
        ("transfer_learning_rate", 0.0),
        ("distill_weight", 1.5),
        ("distill_temperature", 0.0),
        ("seed", -1),
        ("seed", 2**32),
    ],
)
def test_a_value_outside_its_range_is_named(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^{field} must ") as caught:
        Recipe(**{field: value})
    assert caught.value.hint


def test_the_data_decides_length_and_augmentation() -> None:
    recipe = default_recipe(HINTS, from_scratch=False)
    assert recipe == Recipe(
        epochs=7, crop_scale=(0.5, 0.75), horizontal_flip=0.25, auto_augment="rand-m9", random_erasing=0.5
    )


def test_from_scratch_every_layer_learns_at_the_same_rate() -> None:
    recipe = default_recipe(HINTS, from_scratch=True)
    assert (recipe.learning_rate, recipe.layer_decay) == (0.125, None)


def test_a_teacher_is_listened_to_unless_told_otherwise() -> None:
    assert default_recipe(HINTS, from_scratch=True).distill_weight == 0.0
    assert default_recipe(HINTS, from_scratch=True, taught=True).distill_weight == DISTILL_WEIGHT
