"""The part of msgspec that measuring uses, in pure Python: the agent carries it under that name.

Devices need not have msgspec, which is compiled; the code that measures there is the same as here. JSON is read into
dataclasses strictly, as msgspec does: a value of another type is an error, an unknown field is left out.
"""

from __future__ import annotations

import dataclasses
import json as _json
import math
import types
from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class DecodeError(Exception):
    """Not JSON."""


class ValidationError(DecodeError):
    """JSON, but not of the type that was asked for."""


class Struct:
    """A class whose annotations are its fields, all of them required."""


def to_builtins(value: Any) -> Any:
    """Return `value` in what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_builtins(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [to_builtins(one) for one in value]
    if isinstance(value, dict):
        return {str(name): to_builtins(one) for name, one in value.items()}
    return value


def _writable(value: Any) -> Any:
    """Return `value` with None in place of the numbers that JSON cannot write, as msgspec does."""
    if isinstance(value, list):
        return [_writable(one) for one in value]
    if isinstance(value, dict):
        return {name: _writable(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def convert(value: Any, type: Any) -> Any:  # noqa: A002  # as in msgspec
    """Return `value`, as JSON has it, as an instance of `type`.

    Raises:
        ValidationError: It is none.
    """
    return _converted(value, type, "$")


def _converted(value: Any, kind: Any, where: str) -> Any:
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, Struct)):
        return _record(value, kind, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enumerated(value, kind, where)
    maker = _MAKERS.get(get_origin(kind))
    if maker is not None:
        return maker(value, get_args(kind), where)
    return _plain(value, kind, where)


def _plain(value: Any, kind: Any, where: str) -> Any:
    kind = type(None) if kind is None else kind
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ValidationError(f"Expected `{kind.__name__}`, got `{type(value).__name__}` - at `{where}`")
    return value


def _enumerated(value: Any, kind: type[Enum], where: str) -> Enum:
    try:
        return kind(value)
    except ValueError:
        raise ValidationError(f"Invalid enum value {value!r} - at `{where}`") from None


def _union(value: Any, kinds: tuple[Any, ...], where: str) -> Any:
    problem = ValidationError(f"Expected one of {kinds} - at `{where}`")
    for kind in kinds:
        try:
            return _converted(value, kind, where)
        except ValidationError as error:
            problem = error if kind is not type(None) else problem
    raise problem


def _literal(value: Any, choices: tuple[Any, ...], where: str) -> Any:
    if any(value == choice and type(value) is type(choice) for choice in choices):
        return value
    raise ValidationError(f"Invalid enum value {value!r} - at `{where}`")


def _tuple(value: Any, kinds: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    items = _items(value, where)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(items)
    if len(items) != len(kinds):
        raise ValidationError(f"Expected `array` of length {len(kinds)}, got {len(items)} - at `{where}`")
    return tuple(_converted(item, kind, f"{where}[...]") for item, kind in zip(items, kinds, strict=True))


def _list(value: Any, kinds: tuple[Any, ...], where: str) -> list[Any]:
    return [_converted(item, kinds[0], f"{where}[...]") for item in _items(value, where)]


def _dict(value: Any, kinds: tuple[Any, ...], where: str) -> dict[Any, Any]:
    return {name: _converted(one, kinds[1], f"{where}[...]") for name, one in _fields(value, where).items()}


_MAKERS: dict[Any, Callable[[Any, tuple[Any, ...], str], Any]] = {
    Union: _union,
    types.UnionType: _union,
    Literal: _literal,
    tuple: _tuple,
    list: _list,
    dict: _dict,
}


def _items(value: Any, where: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise ValidationError(f"Expected `array`, got `{type(value).__name__}` - at `{where}`")
    return list(value)


def _fields(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValidationError(f"Expected `object`, got `{type(value).__name__}` - at `{where}`")
    return value


def _record(value: Any, kind: Any, where: str) -> Any:
    given, hints = _fields(value, where), _hints(kind)
    made = {name: _converted(given[name], hints[name], f"{where}.{name}") for name in hints if name in given}
    if issubclass(kind, Struct):
        required = set(hints)
    else:
        required = {
            field.name
            for field in dataclasses.fields(kind)
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        }
    missing = sorted(required - set(made))
    if missing:
        raise ValidationError(f"Object missing required field `{missing[0]}` - at `{where}`")
    if issubclass(kind, Struct):
        record = kind()
        vars(record).update(made)
        return record
    try:
        return kind(**made)
    except (ValueError, TypeError) as error:
        raise ValidationError(f"{error} - at `{where}`") from error


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


class _Decoder(Generic[T]):
    def __init__(self, type: type[T], strict: bool = True) -> None:  # noqa: A002
        self._type = type

    def decode(self, data: bytes) -> T:
        decoded: T = json.decode(data, type=self._type)
        return decoded


class json:  # noqa: N801  # as in msgspec
    """JSON from values and back."""

    Decoder = _Decoder

    @staticmethod
    def encode(value: Any) -> bytes:
        """Return `value` as JSON without white space."""
        return _json.dumps(_writable(to_builtins(value)), ensure_ascii=False, separators=(",", ":")).encode()

    @staticmethod
    def decode(data: bytes | str, type: Any = Any) -> Any:  # noqa: A002
        """Return what `data` holds as an instance of `type`."""
        try:
            value = _json.loads(data)
        except (ValueError, RecursionError) as error:
            if isinstance(error, UnicodeDecodeError):
                raise
            raise DecodeError(str(error)) from error
        return convert(value, type)

    @staticmethod
    def format(data: bytes, indent: int = 2) -> bytes:
        """Return JSON for people."""
        return _json.dumps(_json.loads(data), ensure_ascii=False, indent=indent).encode()
