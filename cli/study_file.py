"""`study.toml`: a study described by a file, whose keys are the flags of `effvit study`, and written back as one."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from effvit.errors import UnknownNameError, UsageError

SUFFIX = ".toml"
# What is asked of a command, and says nothing of a study.
_NO_SETTINGS = ("file", "show", "dry_run", "json")
_EXAMPLE = 'write lines such as `attn = ["softmax", "linformer"]` or `epochs = 10`'


def take_file(context: typer.Context, path: Path | None) -> Path | None:
    """Let options that are not given be what the file says.

    Raises:
        UsageError: The file cannot be read, is not TOML, or holds what no such option takes; or there are two files.
        UnknownNameError: A key that is no option.
    """
    if path is not None:
        if context.default_map is not None:
            raise UsageError("two files describe this study", "name one of them")
        context.default_map = _settings(context, path)
    return path


def take_model_or_file(context: typer.Context, name: str | None) -> str | None:
    """Return the model that is asked for; what ends in `.toml` is a file that tells it.

    Raises:
        UsageError, UnknownNameError: As `take_file` does.
    """
    if name is None or not name.endswith(SUFFIX):
        return name
    take_file(context, Path(name))
    told = (context.default_map or {}).get("model")
    return None if told is None else str(told)


def settings_text(context: typer.Context, decided: Mapping[str, object], data_decides: str) -> str:
    """Return a file that says all options of the command: as `decided`, as given, or by default.

    An option that stays open is a remark: what it is follows from the data, as `data_decides` says.
    """
    lines = ["# `effvit study --file` with the name of this file repeats the study; flags go before what stands here."]
    names = [one.name for one in context.command.params if one.name not in (*_NO_SETTINGS, "out")]
    for name in names:
        value = decided.get(name, context.params[name])
        key = name.replace("_", "-")
        lines.append(f"# {key}: {data_decides}" if value is None else f"{key} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _settings(context: typer.Context, path: Path) -> dict[str, object]:
    parameters = {one.name.replace("_", "-"): one for one in context.command.params if one.name not in _NO_SETTINGS}
    found: dict[str, object] = {}
    for key, value in _read(path).items():
        if key not in parameters:
            raise UnknownNameError(f"setting of a study (in {path})", key, parameters)
        parameter = parameters[key]
        found[parameter.name] = _as_typed(value, key, path, parameter)
        try:
            parameter.process_value(context, found[parameter.name])
        except typer.BadParameter as error:
            reason = error.message.splitlines()[0].partition(", unable")[0].replace("Input should", "it should")
            raise UsageError(f"{path}: {key} cannot be {value!r}: {reason}", _EXAMPLE) from error
    return found


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "name a file that effvit study wrote") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}", _EXAMPLE) from error


def _as_typed(value: object, key: str, path: Path, parameter: Any) -> object:
    """Return a value as the command line would have it: a text, texts for an option given several times, a flag."""
    if isinstance(value, bool) and getattr(parameter, "is_flag", False):
        return value
    texts = [_text(one, key, path) for one in (value if isinstance(value, list) else [value])]
    return texts if getattr(parameter, "multiple", False) else ",".join(texts)


def _text(value: object, key: str, path: Path) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{path}: {key} is neither a text, a number nor a list of these", _EXAMPLE)
    return str(value)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, int | float):
        return str(value)
    # The escapes of JSON are among those of TOML, which wants one more character escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
