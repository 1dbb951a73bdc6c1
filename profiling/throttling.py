"""What holds the processor's clock down: heat, or want of power. Standard library only.

The counters of Intel's processors are read elsewhere, core by core.

Source:
    https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
    https://docs.kernel.org/driver-api/thermal/sysfs-api.html: cooling devices, at work where `cur_state` is above 0
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from effvit.profiling.hwmon import Chip
from effvit.pseudofiles import number_from, number_of, numbered, text_of

LOW_VOLTAGE = "the supply voltage was too low"
# By the bits of a Raspberry Pi's firmware; each stands 16 bits higher, too, where it was so since that was last asked.
FIRMWARE = {
    0: LOW_VOLTAGE,
    1: "the firmware capped the clock",
    2: "the firmware throttled the processor",
    3: "the processor was at the soft limit of its temperature",
}
_REMEMBERED = 16
# Where kernels have them: `soc/soc:firmware`, `soc@107c000000/...` or, in some, `soc:firmware`.
_BITS = "soc*/*firmware/get_throttled", "soc*firmware/get_throttled"
# The kernel's own names, those of ACPI on PCs, and those of Jetsons, where fans are cooling devices, too.
_SLOWING = re.compile(r"cpufreq|^Processor$|^intel_powerclamp$|(?:cpu|soc[0-9]*)-throttle-alert")
_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Brakes:
    """What holds the clock down at one moment; None: the machine does not tell.

    `firmware` are the bits of a Raspberry Pi, `cooling` the cooling devices at work, and `currents` how often each
    alarm of a Jetson has met too high a current since the machine was started.
    """

    firmware: int | None
    cooling: tuple[str, ...] | None
    currents: tuple[tuple[str, int], ...] | None


class BrakeReader:
    """Looks once for what a machine below `root` tells, and reads it; `tool` asks a Raspberry Pi's firmware."""

    def __init__(self, root: Path, chips: Iterable[Chip], tool: str | None) -> None:
        self._firmware = list(_firmware(root, chips, tool))
        self._cooling = [
            (kind, device / "cur_state")
            for device in numbered(root / "sys/class/thermal", "cooling_device*")
            if (kind := text_of(device / "type")) is not None and _SLOWING.search(kind)
        ]
        self._currents = [
            (path.name.removesuffix("_event_cnt"), path)
            for chip in chips
            if chip.name == "soctherm_oc"
            for path in numbered(chip.folder, "oc*_event_cnt")
        ]

    def read(self) -> Brakes:
        """Return what holds the clock down now."""
        states = [(kind, state) for kind, path in self._cooling if (state := number_of(path)) is not None]
        counts = [(name, count) for name, path in self._currents if (count := number_of(path)) is not None]
        return Brakes(
            self._bits(),
            tuple(dict.fromkeys(kind for kind, state in states if state > 0)) if states else None,
            tuple(counts) if counts else None,
        )

    def _bits(self) -> int | None:
        while self._firmware:
            bits = self._firmware[0]()
            if bits is not None:
                return bits
            del self._firmware[0]  # not allowed, say: it will not be the next time
        return None


def vcgencmd() -> str | None:
    """Return the program that asks the firmware of a Raspberry Pi."""
    return shutil.which("vcgencmd")


def held_back(before: Brakes, after: Brakes) -> tuple[str, ...] | None:
    """Return what held the clock down at one of two moments, or in between, each as half a sentence.

    None where the machine does not tell.
    """
    if after.firmware is None and after.cooling is None and after.currents is None:
        return None
    bits = (before.firmware or 0) | (after.firmware or 0)
    # What the firmware remembers now and did not before happened in between.
    fresh = 0 if before.firmware is None else (after.firmware or 0) & ~before.firmware
    told = [text for bit, text in FIRMWARE.items() if bits >> bit & 1 or fresh >> bit + _REMEMBERED & 1]
    cooling = dict.fromkeys([*(before.cooling or ()), *(after.cooling or ())])
    told += [f"heat held the clock down ({', '.join(cooling)})"] if cooling else []
    earlier = dict(before.currents or ())
    alarms = [name for name, count in after.currents or () if count > earlier.get(name, count)]
    told += [f"the current was too high ({', '.join(alarms)})"] if alarms else []
    return tuple(told)


def _firmware(root: Path, chips: Iterable[Chip], tool: str | None) -> Iterable[Callable[[], int | None]]:
    """Yield ways to a Raspberry Pi's bits, the best first.

    Newer kernels look at them every two seconds, and their file says what they saw; it is on its way out, too.
    """
    if tool is not None:
        yield partial(_asked, tool)
    for pattern in _BITS:
        yield from (partial(_bits_of, path, 16) for path in numbered(root / "sys/devices/platform", pattern))
    for chip in chips:
        if chip.name == "rpi_volt":
            # It tells of the voltage alone, as 0 or 1, which is that bit.
            yield partial(_bits_of, chip.folder / "in0_lcrit_alarm", 2)


def _bits_of(path: Path, base: int) -> int | None:
    bits = number_of(path, base)
    return None if bits is None or bits < 0 else bits


def _asked(tool: str) -> int | None:
    """Return the bits that `vcgencmd get_throttled` tells: `throttled=0x50005`."""
    try:
        answer = subprocess.run(
            [tool, "get_throttled"], capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # no memory left for another process, say
        return None
    told = re.search(r"throttled=0x([0-9a-fA-F]{1,8})\b", answer.stdout)
    return None if told is None else number_from(told[1], 16)
