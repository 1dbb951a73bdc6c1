from __future__ import annotations

import pytest

from effvit.data.base import DataDefaults
from effvit.errors import UnknownNameError, UsageError
from effvit.recipe import DISTILL_WEIGHT, PRESETS, Amp, Recipe, changes_from_texts, default_recipe

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
        ("accumulate", 0),
        ("new_rate", 0.0),
        ("ema_decay", 1.0),
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


def test_a_preset_changes_what_suits_the_data_and_weights() -> None:
    quick = default_recipe(HINTS, from_scratch=False)
    assert default_recipe(HINTS, from_scratch=False, preset="quick") == quick
    strong = default_recipe(HINTS, from_scratch=False, preset="strong")
    assert (strong.epochs, strong.mixup, strong.new_rate) == (21, 0.8, 5.0)
    # What is a property of the images or of the weights stays.
    assert (strong.horizontal_flip, strong.crop_scale, strong.layer_decay) == (0.25, (0.5, 0.75), 0.75)
    scratch = default_recipe(HINTS, from_scratch=True, preset="standard")
    assert (scratch.learning_rate, scratch.layer_decay, scratch.new_rate) == (0.125, None, 1.0)
    assert (scratch.mixup, scratch.cutmix, scratch.drop_path, scratch.ema_decay) == (0.2, 0.5, 0.1, 0.999)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_recipe(name: str) -> None:
    for from_scratch in (True, False):
        default_recipe(HINTS, from_scratch=from_scratch, preset=name)


def test_a_preset_that_is_none_is_named_with_the_closest() -> None:
    with pytest.raises(UnknownNameError, match="there is no recipe named 'standart'") as caught:
        default_recipe(HINTS, from_scratch=True, preset="standart")
    assert caught.value.closest == ("standard",)


def test_fields_are_read_from_text() -> None:
    pairs = [("mixup", "0.5"), ("crop_scale", "0.5,1"), ("layer_decay", "none"), ("auto_augment", "rand-m5")]
    assert changes_from_texts([*pairs, ("epochs", "3")]) == {
        "mixup": 0.5,
        "crop_scale": (0.5, 1.0),
        "layer_decay": None,
        "auto_augment": "rand-m5",
        "epochs": 3,
    }


@pytest.mark.parametrize(
    ("name", "text"), [("mixup", "much"), ("epochs", "2.5"), ("crop_scale", "1"), ("seed", "none")]
)
def test_a_text_that_does_not_fit_is_named(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"{name} cannot be '{text}'"):
        changes_from_texts([(name, text)])


def test_a_field_that_is_none_is_named_with_the_closest() -> None:
    with pytest.raises(UnknownNameError, match="there is no recipe field named 'mix_up'") as caught:
        changes_from_texts([("mix_up", "1")])
    assert "mixup" in caught.value.closest


def test_half_precision_is_for_the_longer_recipes_and_devices_made_for_it() -> None:
    def amp(preset: str, native: Amp | None) -> Amp | None:
        return default_recipe(HINTS, from_scratch=False, preset=preset, native_amp=native).amp

    assert [amp(preset, "bf16") for preset in ("quick", "standard", "strong")] == [None, "bf16", "bf16"]
    assert [amp(preset, None) for preset in ("quick", "standard", "strong")] == [None, None, None]
