"""Lines of older result files as lines of this version, one step a version.

A step knows the plain data of two versions and nothing of today's types: what it does stays true when those change.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from effvit.errors import ResultError
from effvit.profiling.records import SCHEMA

_NAME = re.compile(r"effvit\.result/([1-9][0-9]{0,5})")
REPAIR = "delete this line to measure its cell again, or name another file"
_MOST_SHOWN = 40
_TIMED_TOO = "read in the process that was timed"


def upgraded(line: bytes, schema: str, where: str) -> bytes:
    """Return `line`, which is JSON of another `schema`, as a line of this one; `where` names it in errors.

    What an older version did not have yet is left to the defaults of today's types.

    Raises:
        ResultError: The schema is newer or not one of result files, or the line does not have its form.
    """
    known = _NAME.fullmatch(schema)
    if known is None:
        hint = "name a file that effvit profile wrote"
        raise ResultError(f"{where}: the schema is {schema[:_MOST_SHOWN]!r}, not {SCHEMA!r}", hint)
    version = int(known[1])
    if version > len(_STEPS) + 1:
        raise ResultError(
            f"{where}: the schema is {schema!r}, newer than {SCHEMA!r}", "read it with the effvit that wrote it"
        )
    data = msgspec.json.decode(line)
    for step in _STEPS[version - 1 :]:
        step(data, where)
    return msgspec.json.encode({**data, "schema": SCHEMA})


def _from_1(data: dict[str, Any], where: str) -> None:
    """Make one attention in some blocks the first of several swaps."""
    model = _part(_part(data, "cell", where), "model", where)
    swap = {"attention": model.pop("attention", None), "options": model.pop("options", [])}
    model["swaps"] = [swap | {"layers": model.pop("layers", None)}]


def _from_2(data: dict[str, Any], where: str) -> None:
    """Say of memory that it was not read in a process of its own yet; the ledger came with those."""
    if data.get("evidence") is None:
        return
    memory = _part(_part(data, "evidence", where), "memory", where)
    if "start_bytes" not in memory and memory.get("peak_bytes") is not None:
        memory["note"] = _TIMED_TOO


# What takes a line of version 1 to 2, of 2 to 3, and so on.
_STEPS = (_from_1, _from_2)


def _part(data: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    part = data.get(name)
    if not isinstance(part, dict):
        raise ResultError(f"{where}: {name} is not an object", REPAIR)
    return part
