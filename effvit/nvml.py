"""The interface of NVIDIA's driver, which the optional package nvidia-ml-py brings as the module `pynvml`."""

from __future__ import annotations

from typing import Any


def open_nvml(nvml: Any = None) -> tuple[Any, str]:
    """Return the module of that interface, ready to be asked, or None and why; given None, it is the installed one."""
    if nvml is None:
        try:
            import pynvml
        except ImportError:
            return None, "pynvml is not installed"
        nvml = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return None, f"NVML cannot be read: {error}"
    return nvml, ""
