"""The type that a training computes in: autocast to half precision where the device has it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from effvit.errors import UnavailableError
from effvit.recipe import Amp

CPUINFO = Path("/proc/cpuinfo")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# What Linux calls the instructions of x86 and Arm processors that multiply in these types.
INSTRUCTIONS = {"bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "fp16": {"avx512_fp16", "amx_fp16", "asimdhp"}}


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
    return nullcontext() if kind == "off" else torch.autocast(device.type, DTYPES[kind])


def _supports(device: torch.device, amp: Amp) -> bool:
    if device.type == "cuda":
        return amp == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
    return not INSTRUCTIONS[amp].isdisjoint(flags.split())
