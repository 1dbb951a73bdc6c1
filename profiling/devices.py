"""Devices that a sweep measures on: the CPU, or a part of it. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from effvit.errors import UnknownNameError, UsageError

EXAMPLE = "write --device cpu:threads=1,memory=512MiB"
BYTES = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True, slots=True)
class Device:
    """A CPU with `threads` cores and `memory_bytes` of memory; None is as much as there is.

    Raises:
        UsageError: A limit below 1.
    """

    kind: Literal["cpu"] = "cpu"
    threads: int | None = None
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"a device has at least 1 thread, not {self.threads}", EXAMPLE)
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise UsageError(f"a device has at least 1 byte of memory, not {self.memory_bytes}", EXAMPLE)

    def __str__(self) -> str:
        """Return what `device_from_text` reads: `cpu:threads=1,memory=512MiB`."""
        limits = [] if self.threads is None else [f"threads={self.threads}"]
        if self.memory_bytes is not None:
            limits.append(f"memory={memory_text(self.memory_bytes)}")
        return f"{self.kind}:{','.join(limits)}" if limits else self.kind


CPU = Device()


def device_from_text(text: str) -> Device:
    """Return the device that `cpu`, or `cpu:threads=1,memory=512MiB`, names.

    Raises:
        UnknownNameError: Another kind of device, or of limit.
        UsageError: A limit that is no number, lies below 1, or is given twice.
    """
    kind, _, rest = text.strip().partition(":")
    if kind != "cpu":
        raise UnknownNameError("device", kind, ["cpu"])
    limits: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        name, _, value = part.partition("=")
        if name not in _LIMITS:
            raise UnknownNameError("limit of a device", name, _LIMITS)
        if name in limits:
            raise UsageError(f"{text!r} gives {name} twice", EXAMPLE)
        limits[name] = _LIMITS[name](value)
    return Device("cpu", limits.get("threads"), limits.get("memory"))


def memory_text(size_bytes: int) -> str:
    """Return a size in the largest unit that divides it: `512MiB`, or plain bytes."""
    for unit, factor in reversed(BYTES.items()):
        if size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return str(size_bytes)


def _threads(text: str) -> int:
    if re.fullmatch("[0-9]{1,9}", text) is None:
        raise UsageError(f"{text!r} is not a number of threads", EXAMPLE)
    return int(text)


def _memory_bytes(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(KiB|MiB|GiB)?", text)
    if match is None:
        raise UsageError(f"{text!r} is not a size of memory", f"{EXAMPLE}, in KiB, MiB or GiB")
    return int(float(match[1]) * BYTES.get(match[2], 1))


_LIMITS = {"threads": _threads, "memory": _memory_bytes}
