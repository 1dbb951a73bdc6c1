"""Images and labels in the tables of Hugging Face `datasets`. Whoever imports that package hands its tables in."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effvit.data.base import (
    HELD_OUT,
    PHOTOGRAPHS,
    TRAIN,
    Found,
    FoundImage,
    Part,
    first_of,
    require_classes,
)
from effvit.errors import DataError, UnavailableError, UnknownNameError

if TYPE_CHECKING:
    from datasets import Dataset

Kinds = Sequence[Callable[[Any], bool]]
"""Tell whether a column is of a type, the best type first."""
IMAGE, LABEL = "image", "label"
OPTIONS = "[,image=COLUMN][,label=COLUMN]"
"""How a user names the columns that cannot be found."""


# Compared by identity: a table has no single truth value.
@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """An encoded image in a table, whose column `column` holds its bytes, or the path of its file."""

    table: Dataset
    column: str
    part: str
    row: int

    def __str__(self) -> str:
        return f"row {self.row} of {self.part}"

    def read(self) -> bytes:
        """Return the encoded image; raise OSError where it cannot be had."""
        cell = self.table[self.row][self.column]
        if cell is None:
            raise OSError("the cell is empty")
        content: bytes | None = cell["bytes"]
        return Path(cell["path"]).read_bytes() if content is None else content


def require_datasets(name: str) -> None:
    """Check that the package `datasets` is installed, which `name` needs.

    Raises:
        UnavailableError: It is not.
    """
    if importlib.util.find_spec("datasets") is None:
        raise UnavailableError(
            f"{name} needs the package datasets, which is not installed",
            "install it with pip install 'effvit[datasets]'",
        )


def without_options(text: str, known: Collection[str]) -> tuple[str, dict[str, str]]:
    """Return what stands before the options of `NAME,image=COLUMN,label=COLUMN`, and the options.

    Only what is `known` is an option: a comma may belong to a path.
    """
    options: dict[str, str] = {}
    while (match := re.fullmatch(rf"(.*),({'|'.join(known)})=([^,]+)", text)) is not None:
        text, name, value = match.groups()
        options[name] = value
    return text, options


def found_in(name: str, tables: Mapping[str, Dataset], options: Mapping[str, str]) -> Found:
    """Return the images in the split tables of the data set that the user calls `name`.

    The `options` image and label name columns; what they do not name is found by its type.

    Raises:
        DataError: The splits or columns are not clear, a label is no class, or a class has no images.
    """
    chosen = _splits(name, {split: table for split, table in tables.items() if len(table)})
    columns = chosen[0][1].features
    image = _column(name, columns, IMAGE, options, (_is_image, _is_bytes))
    label = _column(name, columns, LABEL, options, (_is_class, _is_number_or_text))
    for split, table in chosen[1:]:
        missing = [column for column in (image, label) if column not in table.features]
        if missing:
            raise DataError(f"the {split} part of {name} has no column {missing[0]!r}", "save it with equal columns")
    values = {split: table[label][:] for split, table in chosen}
    classes, numbers = _classes(name, columns[label], label, values)
    parts = tuple(
        Part(split, tuple(_images(table, image, split, [numbers[value] for value in values[split]])))
        for split, table in chosen
    )
    return require_classes(Found(name, classes, parts, PHOTOGRAPHS), "it has no images there")


def _splits(name: str, tables: Mapping[str, Dataset]) -> list[tuple[str, Dataset]]:
    """The tables to train on and to hold out, or a single one that is yet to be split; none of them is empty."""
    if not tables:
        raise DataError(f"{name} has no rows", "name a data set with images in it")
    if len(tables) == 1:
        return list(tables.items())
    held_out = next((split for split in HELD_OUT if split in tables), None)
    if TRAIN not in tables or held_out is None:
        raise DataError(
            f"{name} has the splits {', '.join(tables)}, not {TRAIN} and {HELD_OUT[0]}",
            f"save it with splits called {TRAIN} and {HELD_OUT[0]}, or with a single one to have it split",
        )
    return [(split, tables[split]) for split in (TRAIN, held_out)]


def _column(name: str, columns: Mapping[str, Any], what: str, options: Mapping[str, str], kinds: Kinds) -> str:
    """Return the column that is named; else the one called like what it holds, or the only one of its type.

    Of the `kinds` of types that would do, an earlier one is preferred.
    """
    fitting = [column for column, feature in columns.items() if any(fits(feature) for fits in kinds)]
    asked = options.get(what)
    if asked is not None:
        if asked not in columns:
            raise UnknownNameError(f"column of {name}", asked, columns)
        if asked not in fitting:
            raise DataError(
                f"the column {asked!r} of {name} cannot be its {what}: it holds {columns[asked]}",
                f"name another: {', '.join(fitting or columns)}",
            )
        return asked
    for fits in kinds:
        some = [column for column in fitting if fits(columns[column])]
        if what in some or len(some) == 1:
            return what if what in some else some[0]
    raise DataError(
        f"{name} has {len(fitting) or 'no'} columns that could be its {what}: {', '.join(fitting or columns)}",
        f"name one, as in {name},{what}=COLUMN",
    )


def _is_image(feature: Any) -> bool:
    from datasets import Image

    return isinstance(feature, Image)


def _is_bytes(feature: Any) -> bool:
    from datasets import Value

    if isinstance(feature, Value):
        return str(feature.dtype) in ("binary", "large_binary")
    return isinstance(feature, dict) and set(feature) == {"bytes", "path"}


def _is_class(feature: Any) -> bool:
    from datasets import ClassLabel

    return isinstance(feature, ClassLabel)


def _is_number_or_text(feature: Any) -> bool:
    from datasets import Value

    return isinstance(feature, Value) and str(feature.dtype).removeprefix("u").removeprefix("large_").startswith(
        ("int", "string", "bool")
    )


def _classes(
    name: str, feature: Any, label: str, values: Mapping[str, Sequence[Any]]
) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Return the names of the classes, and which of them each value of the label column stands for."""
    if _is_class(feature):
        names = tuple(feature.names)
        known: list[Any] = list(range(len(names)))
    else:
        known = sorted({value for value in values[next(iter(values))] if value is not None})
        names = tuple(map(str, known))
    numbers = {value: number for number, value in enumerate(known)}
    for split, some in values.items():
        wrong = next((row for row, value in enumerate(some) if value not in numbers), None)
        if wrong is not None:
            raise DataError(
                f"{label!r} in row {wrong} of the {split} part of {name} is {some[wrong]!r}, which is none of its "
                f"{len(names)} classes: {first_of(names)}",
                f"name the column of the labels with {name},{LABEL}=COLUMN, or repair that row",
            )
    return names, numbers


def _images(table: Dataset, column: str, part: str, labels: Sequence[int]) -> Iterator[FoundImage]:
    import pyarrow.compute as compute
    from datasets import Image

    encoded = table.select_columns([column]).cast_column(column, Image(decode=False))
    whole = encoded.with_format("arrow")[:]
    sizes = compute.binary_length(compute.struct_field(whole[column], "bytes")).to_pylist()
    for row, (label, size_bytes) in enumerate(zip(labels, sizes, strict=True)):
        yield FoundImage(Cell(encoded, column, part, row), f"{part}/{row}", size_bytes or 0, label)
