"""Devices that a sweep measures on: the CPU or a part of it, an NVIDIA GPU. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from effvit.environment import nvidia_gpus
from effvit.errors import UnavailableError, UnknownNameError, UsageError

EXAMPLE = "write --device cpu:threads=1,memory=512MiB"
GPU_EXAMPLE = "write --device cuda:0, or --device cuda:0,threads=2"
KINDS = ("cpu", "cuda")
BYTES = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True, slots=True)
class Device:
    """A CPU with `threads` cores and `memory_bytes` of memory, or the GPU number `index`, fed by so many cores.

    None is as much as there is. A GPU has a number, in the order of its driver's own tools, and no limit of memory.

    Raises:
        UsageError: A limit below 1, a CPU with a number, a GPU without one or with limited memory.
    """

    kind: Literal["cpu", "cuda"] = "cpu"
    threads: int | None = None
    memory_bytes: int | None = None
    index: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"a device has at least 1 thread, not {self.threads}", EXAMPLE)
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise UsageError(f"a device has at least 1 byte of memory, not {self.memory_bytes}", EXAMPLE)
        if (self.kind == "cuda") != (self.index is not None) or (self.index or 0) < 0:
            raise UsageError(f"{self.kind} cannot have the number {self.index}", GPU_EXAMPLE)
        if self.kind == "cuda" and self.memory_bytes is not None:
            raise UsageError("the memory of a GPU cannot be limited", GPU_EXAMPLE)

    @property
    def name(self) -> str:
        """What runtimes call it: `cpu`, `cuda:1`."""
        return self.kind if self.index is None else f"{self.kind}:{self.index}"

    def __str__(self) -> str:
        """Return what `device_from_text` reads: `cpu:threads=1,memory=512MiB`, `cuda:0,threads=2`."""
        limits = [] if self.threads is None else [f"threads={self.threads}"]
        if self.memory_bytes is not None:
            limits.append(f"memory={memory_text(self.memory_bytes)}")
        if not limits:
            return self.name
        return f"{self.name}{':' if self.index is None else ','}{','.join(limits)}"


CPU = Device()


def device_from_text(text: str) -> Device:
    """Return the device that `cpu`, `cpu:threads=1,memory=512MiB`, `cuda`, or `cuda:1,threads=2` names.

    `cuda` is `cuda:0`.

    Raises:
        UnknownNameError: Another kind of device, or of limit.
        UsageError: A limit that is no number, lies below 1, is given twice, or is not one of this kind of device.
    """
    kind, _, rest = text.strip().partition(":")
    if kind not in KINDS:
        raise UnknownNameError("device", kind, KINDS)
    parts = [part for part in (part.strip() for part in rest.split(",")) if part]
    if kind == "cpu":
        return Device("cpu", *_limits(parts, text))
    index = parts.pop(0) if parts and "=" not in parts[0] else "0"
    if re.fullmatch("[0-9]{1,4}", index) is None:
        raise UsageError(f"{index!r} is not the number of a GPU", GPU_EXAMPLE)
    return Device("cuda", *_limits(parts, text), index=int(index))


def check_gpus(devices: Sequence[Device], gpus: Callable[[], Sequence[str]] = nvidia_gpus) -> None:
    """Check that this machine has the GPUs among the devices; `gpus` is asked only if there are some.

    Raises:
        UnavailableError: It has not.
    """
    wanted = [device for device in devices if device.index is not None]
    known = len(gpus()) if wanted else 0
    for device in wanted:
        if device.index is not None and device.index >= known:
            here = f"none beyond cuda:{known - 1}" if known else "none here"
            raise UnavailableError(
                f"there is no {device.name}: of GPUs with an NVIDIA driver this machine knows {here}",
                "leave --device away to measure on the CPU; `effvit doctor` lists the devices of this machine",
            )


def _limits(parts: Sequence[str], text: str) -> tuple[int | None, int | None]:
    """Return the threads and the bytes of memory that the parts of `text` give."""
    limits: dict[str, int] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name not in _LIMITS:
            raise UnknownNameError("limit of a device", name, _LIMITS)
        if name in limits:
            raise UsageError(f"{text!r} gives {name} twice", EXAMPLE)
        limits[name] = _LIMITS[name](value)
    return limits.get("threads"), limits.get("memory")


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
