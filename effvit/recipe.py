"""How a model is fine-tuned: every number in one value, written into the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_type_hints

import msgspec

from effvit.data.base import DataDefaults
from effvit.errors import UnknownNameError, UsageError
from effvit.registry import pick

Amp = Literal["bf16", "fp16", "off"]
SEEDS = 2**32
"""How many seeds NumPy takes: numpy.random.seed."""
DISTILL_WEIGHT = 0.5
"""With a teacher; that and the temperature of 1 are those of DeiT: Touvron et al. 2021, https://arxiv.org/abs/2012.12877"""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of one fine-tuning.

    `learning_rate` is the peak, for a batch of `batch`; `layer_decay` multiplies it once per block from the head down
    (None: the same rate everywhere); `warmup_epochs` rise linearly to it, the rest is a cosine down to a hundredth.
    `mixup` and `cutmix` are the alphas of their beta distributions, 0 is off. `crop_scale` is the range of the area a
    random crop keeps; `auto_augment` is timm's policy string.

    `accumulate` is in how many parts a batch goes through the model, whose gradients are added up: the result is that
    of the batch, the memory that of a part. Parameters that a swap has added learn `new_rate` times as fast as the
    others, and never decay. With an `ema_decay` above 0, what is validated and kept is the weights' moving average,
    in which the latest weights have a share of 1 minus that, and more in the first steps.

    `amp` is the type that autocast computes in (None: bf16 or else fp16 on a GPU, single precision on a CPU). `compile`
    has PyTorch compile the model for its training steps, `channels_last` has images lie in memory pixel by pixel.

    The rest needs a teacher, an exact model to learn from. `transfer_epochs` come before the `epochs`, with AdamW from
    `transfer_learning_rate` down to a hundredth of it. `distill_weight` is the share of the loss that is the distance
    from the teacher's answers at `distill_temperature`; 0 is off.

    Raises:
        UsageError: A value outside its range.
    """

    epochs: int = 20
    batch: int = 64
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    layer_decay: float | None = 0.75
    warmup_epochs: int = 2
    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_path: float = 0.0
    clip_gradient: float = 1.0
    auto_augment: str | None = None
    crop_scale: tuple[float, float] = (0.35, 1.0)
    horizontal_flip: float = 0.5
    random_erasing: float = 0.0
    seed: int = 0
    transfer_epochs: int = 0
    transfer_learning_rate: float = 1e-3
    distill_weight: float = 0.0
    distill_temperature: float = 1.0
    accumulate: int = 1
    new_rate: float = 1.0
    ema_decay: float = 0.0
    amp: Amp | None = None
    compile: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}", f"choose {name} of 1 or more")
        for name in ("learning_rate", "clip_gradient", "transfer_learning_rate", "distill_temperature", "new_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(
                    f"{name} must be positive, not {getattr(self, name)}", "choose a small positive number"
                )
        for name in ("weight_decay", "warmup_epochs", "mixup", "cutmix", "transfer_epochs"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{name} must be 0 or more, not {getattr(self, name)}", f"choose {name} of 0 or more")
        for name in ("label_smoothing", "drop_path", "horizontal_flip", "random_erasing", "distill_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must lie in 0 to 1, not {getattr(self, name)}", "choose a share from 0 to 1")
        self._check_ranges()

    def _check_ranges(self) -> None:
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise UsageError(
                f"layer_decay must lie above 0 and up to 1, not {self.layer_decay}", "choose a factor of 1 or less"
            )
        if not 0 <= self.ema_decay < 1:
            raise UsageError(
                f"ema_decay must lie in 0 to 1, and below 1, not {self.ema_decay}", "choose a decay such as 0.999"
            )
        smallest, largest = self.crop_scale
        if not 0 < smallest <= largest <= 1:
            raise UsageError(
                f"crop_scale must rise within 0 to 1, not {self.crop_scale}", "choose two shares from 0 to 1"
            )
        if not 0 <= self.seed < SEEDS:
            raise UsageError(f"seed must lie in 0 to {SEEDS - 1}, not {self.seed}", "choose a seed in that range")


@dataclass(frozen=True, slots=True)
class Preset:
    """A recipe by name: what it changes of the one that suits the data.

    `epochs` is times the data's own. `changes` are fields of Recipe; `from_pretrained` those that only weights which
    have learnt something deserve. A `fast` one computes in half precision where the device is made for it, and keeps
    images decoded where memory is plenty.
    """

    summary: str
    source: str
    epochs: float
    changes: tuple[tuple[str, object], ...] = ()
    from_pretrained: tuple[tuple[str, object], ...] = ()
    fast: bool = False


QUICK = "quick"
# RandAugment is capped below magnitude 10, where timm's posterize keeps 0 bits, which Pillow has come to refuse.
PRESETS: Mapping[str, Preset] = {
    QUICK: Preset("what suits the data, and no more regularisation than that", "our choice", epochs=1),
    "standard": Preset(
        "RandAugment, some mixup, cutmix and stochastic depth, averaged weights",
        "our choice between the other two",
        epochs=1,
        changes=(
            ("auto_augment", "rand-m7-mstd0.5-mmax9-inc1"),
            ("mixup", 0.2),
            ("cutmix", 0.5),
            ("drop_path", 0.1),
            ("ema_decay", 0.999),
        ),
        from_pretrained=(("new_rate", 5.0),),
        fast=True,
    ),
    "strong": Preset(
        "the augmentation of DeiT, and three times the epochs for it to pay",
        "the defaults of https://github.com/facebookresearch/deit/blob/main/main.py, apart from the learning rate",
        epochs=3,
        changes=(
            ("auto_augment", "rand-m9-mstd0.5-mmax9-inc1"),
            ("mixup", 0.8),
            ("cutmix", 1.0),
            ("drop_path", 0.1),
            ("random_erasing", 0.25),
            ("warmup_epochs", 5),
            ("ema_decay", 0.9999),
        ),
        from_pretrained=(("new_rate", 5.0),),
        fast=True,
    ),
}


def default_recipe(
    hints: DataDefaults,
    *,
    from_scratch: bool,
    taught: bool = False,
    preset: str = QUICK,
    native_amp: Amp | None = None,
) -> Recipe:
    """Return the recipe for a data set, for pretrained weights or from scratch, with or without a teacher.

    From scratch every layer has all to learn, so the layers nearest the input are not slowed down. `native_amp` is the
    half precision that the device is made for, if any.

    Raises:
        UnknownNameError: There is no such preset.
    """
    chosen = pick(PRESETS, preset, "recipe")
    recipe = Recipe(
        epochs=round(chosen.epochs * hints.epochs),
        batch=hints.batch,
        crop_scale=hints.crop_scale,
        horizontal_flip=hints.horizontal_flip,
        auto_augment=hints.auto_augment,
        random_erasing=hints.random_erasing,
        distill_weight=DISTILL_WEIGHT if taught else 0.0,
        amp=native_amp if chosen.fast else None,
    )
    if from_scratch:
        recipe = replace(recipe, learning_rate=hints.scratch_learning_rate, layer_decay=None)
    return replace(recipe, **dict(chosen.changes), **({} if from_scratch else dict(chosen.from_pretrained)))  # type: ignore[arg-type]


def changes_from_texts(pairs: Sequence[tuple[str, object]]) -> dict[str, Any]:
    """Return the fields to change from pairs of text, such as ("mixup", "0.2"), ("crop_scale", "0.5,1").

    Raises:
        UnknownNameError: There is no such field.
        UsageError: A value of the wrong type.
    """
    texts = {name: str(value) for name, value in pairs}
    check_names(texts)
    types = get_type_hints(Recipe)
    changes: dict[str, Any] = {}
    for name, text in texts.items():
        value: object = text.split(",") if name == "crop_scale" else None if text.lower() == "none" else text
        try:
            changes[name] = msgspec.convert(value, types[name], strict=False)
        except msgspec.ValidationError as error:
            raise UsageError(f"{name} cannot be {text!r}: {error}", "see `effvit finetune --show-recipe`") from error
    return changes


def checked_changes(changes: Mapping[str, object]) -> dict[str, Any]:
    """Return fields to change, which are fields of a recipe and have values that one may have.

    Raises:
        UnknownNameError: There is no such field.
        UsageError: A value of the wrong type, or outside its range.
    """
    check_names(changes)
    try:
        recipe = msgspec.convert(changes, Recipe)
    except msgspec.ValidationError as error:
        raise UsageError(f"a recipe field does not fit: {error}", "see `effvit finetune --help`") from error
    if recipe.auto_augment:
        from effvit.augmentation import require_policy  # and with it torch, which reading a recipe does not need

        require_policy(recipe.auto_augment)
    return dict(changes)


def check_names(names: Iterable[str]) -> None:
    """Check that `names` are fields of a recipe.

    Raises:
        UnknownNameError: One of them is not; the closest is named.
    """
    known = [field.name for field in fields(Recipe)]
    for name in names:
        if name not in known:
            raise UnknownNameError("recipe field", name, known)
