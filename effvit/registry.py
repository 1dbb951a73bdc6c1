"""Plug-ins are values found by listing a package: one file, one plug-in, one name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import TypeVar

from effvit.errors import UnknownNameError

T = TypeVar("T")


def discover(package: str, attribute: str, kind: type[T]) -> dict[str, T]:
    """Return the plug-ins of `package` by name, sorted.

    Every module of the package except `base` holds one plug-in, bound to `attribute`.

    Raises:
        TypeError: A module without the attribute, or with one of another type, or two plug-ins of one name.
    """
    found: dict[str, T] = {}
    folder = importlib.import_module(package)
    for entry in sorted(pkgutil.iter_modules(folder.__path__), key=lambda entry: entry.name):
        if entry.name == "base":
            continue
        module = importlib.import_module(f"{package}.{entry.name}")
        plugin = getattr(module, attribute, None)
        if not isinstance(plugin, kind):
            raise TypeError(f"{module.__name__} must bind {attribute} to a {kind.__name__}, not {plugin!r}")
        name: str = plugin.name  # type: ignore[attr-defined]  # every plug-in type has a name
        if name in found:
            raise TypeError(f"{module.__name__}: the name {name!r} is taken")
        found[name] = plugin
    return found


def pick(plugins: Mapping[str, T], name: str, what: str) -> T:
    """Return the plug-in called `name`.

    Raises:
        UnknownNameError: No plug-in has that name; it carries the closest ones.
    """
    if name not in plugins:
        raise UnknownNameError(what, name, plugins)
    return plugins[name]
