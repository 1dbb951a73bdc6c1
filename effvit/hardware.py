"""What a machine is beyond its processor's name: board, kinds of cores, swap, and which one of several alike it is.

Standard library only, and Linux alone tells: elsewhere everything is None with a note.

Source:
    https://docs.kernel.org/admin-guide/pm/cpufreq.html, and proc(5) on /proc/cpuinfo and /proc/swaps
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from effvit.arm import core_name
from effvit.errors import UsageError
from effvit.pseudofiles import number_from, number_of, numbered, text_of

ROOT = Path("/")
# machine-id(5) is not to be told to others as it is, so it is the key of a hash over this, as sd-id128(3) does it.
_PURPOSE = b"effvit: which of several machines alike"
_MACHINE_IDS = "etc/machine-id", "var/lib/dbus/machine-id"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,39}")
_MOST_CORES = 8192
_KIB = 1024


@dataclass(frozen=True, slots=True)
class Cluster:
    """Cores that are alike, by their numbers: what they are called, and the range of their clock in hertz.

    `capacity` is what the kernel takes one of them to be able to do, of the 1024 of the strongest core. None: the
    kernel does not tell.
    """

    cores: tuple[int, ...]
    name: str | None = None
    capacity: int | None = None
    least_hz: float | None = None
    most_hz: float | None = None
    governor: str | None = None


@dataclass(frozen=True, slots=True)
class Hardware:
    """A machine as the kernel knows it; None: not readable here, and `note` says which and why.

    `name` is what its user calls it; where it has none, `identity` tells it from others alike: 8 hexadecimal digits
    that stay the same and lead nobody back to the machine. `clusters` are in the order of their first cores.
    `swap_bytes` is all swap, and `zram_bytes` the part of it that is compressed memory. `power_mode` is that of a
    Jetson (`15W`, `MAXN_SUPER`) or of a laptop's firmware (`balanced`).
    """

    board: str | None
    identity: str | None
    clusters: tuple[Cluster, ...]
    swap_bytes: int | None
    zram_bytes: int | None
    power_mode: str | None
    name: str = ""
    note: str = ""

    @property
    def known_as(self) -> str:
        """What tells it from others alike; empty where nothing does."""
        return self.name or self.identity or ""

    @property
    def cores(self) -> str:
        """Return its kinds of cores where they have names: `4 x Cortex-A55, 4 x Cortex-A76`; else an empty text."""
        counts: dict[str, int] = defaultdict(int)
        for cluster in self.clusters:
            if cluster.name is not None:
                counts[cluster.name] += len(cluster.cores)
        return ", ".join(f"{count} x {name}" for name, count in counts.items())

    @property
    def governors(self) -> str:
        """Return what chooses the clocks, each once: `ondemand`; an empty text where nobody tells."""
        return ", ".join(dict.fromkeys(one.governor for one in self.clusters if one.governor is not None))


def machine_name(text: str) -> str:
    """Return what a user calls a machine.

    Raises:
        UsageError: Not letters, digits, `_`, `.` and `-`, 40 at most.
    """
    if _NAME.fullmatch(text) is None:
        raise UsageError(f"{text!r} is no name for a machine", "take letters, digits, _, . and -, 40 at most")
    return text


def read_hardware(name: str = "", root: Path = ROOT) -> Hardware:
    """Return what the files below `root` tell of this machine, which its user calls `name`."""
    identity = None if name else _identity(root)
    clusters, swap = tuple(_clusters(root)), text_of(root / "proc/swaps")
    gaps = [
        "" if name or identity else "which of several alike: no machine-id",
        "" if any(one.governor for one in clusters) else "governor: no cpufreq in /sys",
        "" if swap is not None else "swap: no /proc/swaps",
    ]
    return Hardware(
        board=_board(root),
        identity=identity,
        clusters=clusters,
        swap_bytes=None if swap is None else sum(size for _, size in _swaps(swap)),
        zram_bytes=None if swap is None else sum(size for file, size in _swaps(swap) if file.startswith("/dev/zram")),
        power_mode=_jetson_mode(root) or text_of(root / "sys/firmware/acpi/platform_profile"),
        name=name,
        note="; ".join(filter(None, gaps)),
    )


def _board(root: Path) -> str | None:
    """Return what the device tree calls the board, or on PCs what the firmware does."""
    model = text_of(root / "proc/device-tree/model")
    if model is not None:
        return model
    dmi = root / "sys/class/dmi/id"
    parts = [text_of(dmi / name) for name in ("sys_vendor", "product_name")]
    return " ".join(filter(None, parts)) or None


def _identity(root: Path) -> str | None:
    """Return a hash of the machine's own number, and of the board's where there is one: images of cards are copied."""
    known = (text_of(root / name) for name in _MACHINE_IDS)
    machine = next((one for one in known if one is not None and re.fullmatch("[0-9a-f]{32}", one)), None)
    if machine is None:
        return None
    serial = text_of(root / "proc/device-tree/serial-number") or ""
    return hmac.new(f"{machine}{serial}".encode(), _PURPOSE, hashlib.sha256).hexdigest()[:8]


def _clusters(root: Path) -> Iterator[Cluster]:
    cpus, names = root / "sys/devices/system/cpu", _core_names(text_of(root / "proc/cpuinfo") or "")
    clocks = _clocks(cpus)
    alike: dict[tuple[str | None, int | None, _Clock], list[int]] = defaultdict(list)
    for core in _range(text_of(cpus / "online") or "") or sorted({*names, *clocks}):
        capacity = number_of(cpus / f"cpu{core}" / "cpu_capacity")
        alike[names.get(core), capacity, clocks.get(core, _NO_CLOCK)].append(core)
    for (name, capacity, clock), cores in alike.items():
        yield Cluster(tuple(cores), name, capacity, clock.least_hz, clock.most_hz, clock.governor)


@dataclass(frozen=True, slots=True)
class _Clock:
    least_hz: float | None
    most_hz: float | None
    governor: str | None


_NO_CLOCK = _Clock(None, None, None)


def _clocks(cpus: Path) -> dict[int, _Clock]:
    """Return the clock of each core that has one; the range is that of the hardware, which heat does not change."""
    found: dict[int, _Clock] = {}
    for policy in numbered(cpus / "cpufreq", "policy*"):
        least, most = (number_of(policy / f"cpuinfo_{end}_freq") for end in ("min", "max"))
        clock = _Clock(_hertz(least), _hertz(most), text_of(policy / "scaling_governor"))
        cores = text_of(policy / "affected_cpus") or text_of(policy / "related_cpus") or ""
        found.update(dict.fromkeys(_range(cores.replace(" ", ",")), clock))
    return found


def _hertz(khz: int | None) -> float | None:
    return None if khz is None or khz <= 0 else khz * 1e3


def _core_names(cpuinfo: str) -> dict[int, str]:
    """Return the names of ARM cores by their numbers; processors of others tell one name, which is not here."""
    found: dict[int, str] = {}
    core = implementer = None
    for line in cpuinfo.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "processor":
            core, implementer = number_from(value), None
        elif name == "CPU implementer":
            implementer = number_from(value, 16)
        elif name == "CPU part":
            part = number_from(value, 16)
            if core is not None and implementer is not None and part is not None:
                found[core] = core_name(implementer, part)
    return found


def _range(text: str) -> list[int]:
    """Return the numbers that `0-3,6` means, nothing where it means none."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        ends = number_from(first), number_from(last if dash else first)
        if ends[0] is None or ends[1] is None or not 0 <= ends[0] <= ends[1] < _MOST_CORES:
            return []
        found += range(ends[0], ends[1] + 1)
    return found


def _swaps(text: str) -> Iterable[tuple[str, int]]:
    """Yield the name and the size in bytes of each file or device in /proc/swaps, below its heading."""
    for line in text.splitlines()[1:]:
        words = line.split()
        size = number_from(words[2]) if len(words) == 5 else None
        if size is not None and size >= 0:
            yield words[0], size * _KIB


def _jetson_mode(root: Path) -> str | None:
    """Return the name of a Jetson's power mode, from what `nvpmodel -q` reads itself."""
    modes = text_of(root / "etc/nvpmodel.conf") or ""
    chosen = re.fullmatch("pmode:([0-9]{1,4})", text_of(root / "var/lib/nvpmodel/status") or "")
    # Never chosen since the system was installed: what it begins with.
    chosen = chosen or re.search(r"^<\s*PM_CONFIG\s+DEFAULT=([0-9]{1,4})\s*>", modes, re.MULTILINE)
    if chosen is None:
        return None
    number = int(chosen[1])
    named = re.search(rf"^<\s*POWER_MODEL\s+ID={number}\s+NAME=(\S+)\s*>", modes, re.MULTILINE)
    return named[1] if named else f"mode {number}"
