"""The type that a training computes in: autocast to half precision where the device has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from effvit.errors import UnavailableError
from effvit.recipe import Amp

CPUINFO = Path("/proc/cpuinfo")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# What Linux calls the instructions of x86 and Arm processors that multiply in these types.
INSTRUCTIONS = {"bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "fp16": {"avx512_fp16", "amx_fp16", "asimdhp"}}

SPARED = {F.scaled_dot_product_attention, F.conv2d}
"""What a processor takes longer for in bf16 than in float32, by PyTorch 2.14 on a Xeon with AMX: the gradients of
attention over 17 tokens seven times as long, those of a patch embedding three times."""


def amp_of(device: torch.device, asked: Amp | None) -> Amp:
    """Return what `device` computes in: as asked, by default bf16 or else fp16 on a GPU, and single precision on a CPU.

    Raises:
        UnavailableError: The device has no instructions for it, so that it would be slower, or not work at all.
    """
    if asked is None:
        if device.type != "cuda":
            return "off"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if asked != "off" and not _supports(device, asked):
        raise UnavailableError(
            f"{device} does not compute in {asked}", "use --amp off, or leave it out for what the device has"
        )
    return asked


def native_amp(device: torch.device) -> Amp | None:
    """Return the half precision that `device` has instructions for and whose range is that of float32, if any."""
    return "bf16" if _supports(device, "bf16") else None


def mixed_precision(device: torch.device, amp: Amp | None = None) -> AbstractContextManager[object]:
    """Return autocast to what `amp_of` says, and nothing where that is off."""
    kind = amp_of(device, amp)
    if kind == "off":
        return nullcontext()
    return _on_processor(DTYPES[kind]) if device.type == "cpu" else torch.autocast(device.type, DTYPES[kind])


@contextmanager
def _on_processor(dtype: torch.dtype) -> Iterator[None]:
    with torch.autocast("cpu", dtype), _Sparing():
        yield


class _Sparing(TorchFunctionMode):
    """Has what is `SPARED` computed in single precision, and attention's result cast back."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func not in SPARED:
            return func(*args, **named)
        with torch.autocast("cpu", enabled=False):
            result = func(*map(_single, args), **{name: _single(value) for name, value in named.items()})
        return result if func is F.conv2d else result.to(args[0].dtype)


def _single(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _supports(device: torch.device, amp: Amp) -> bool:
    if device.type == "cuda":
        return amp == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
    return not INSTRUCTIONS[amp].isdisjoint(_instructions(CPUINFO))


@lru_cache  # every step asks, and where there are many cores the file is long
def _instructions(cpuinfo: Path) -> frozenset[str]:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(flags.split())
