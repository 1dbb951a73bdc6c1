"""The machine and the software that produced a number. Standard library only."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from effvit.hardware import Cluster, Hardware, read_hardware

PACKAGES = (
    "effvit",
    "torch",
    "timm",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "executorch",
    "tensorrt",
    "numpy",
)


# More of them make no name.
_MOST_FACTS = 3
_RUNNING = Path("/proc/thread-self/exe")


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine and the software that produced an outcome; `cores` are those this process may use.

    `hardware` is None in files of versions that did not write it. `emulated`: a program like qemu carried out its
    instructions, so that its times and its memory are those of that.
    """

    cpu: str
    cores: int
    ram_bytes: int | None
    gpus: tuple[str, ...]
    os: str
    python: str
    packages: tuple[tuple[str, str], ...]
    threads: int
    hardware: Hardware | None = None
    emulated: bool = False

    @property
    def key(self) -> str:
        """Equal for equal environments, 8 hexadecimal digits."""
        facts = asdict(self)
        if self.hardware is None:
            del facts["hardware"]  # what was written before it was known keeps its key
        if not self.emulated:
            del facts["emulated"]  # as does what was measured before emulators were noticed
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def machine(self) -> str:
        """What its user calls the machine, board and cores or processor, and GPUs: `Raspberry Pi 5, 4 x Cortex-A76`."""
        known = self.hardware
        named = [] if known is None or not known.name else [known.name]
        # Kernels of ARM call the processor by its board, or by a number; PCs have names of processors.
        processor = [self.cpu] if known is None or not known.cores else [known.board or self.cpu, known.cores]
        return ", ".join([*named, *processor, *self.gpus])

    def includes(self, recorded: Environment) -> bool:
        """Return whether `recorded` is this one, or may be as far as the version that wrote it knew."""
        return recorded in (self, replace(self, hardware=None))


def facts(environment: Environment) -> list[tuple[str, str]]:
    """Return everything that is known of an environment as (name, text); packages by their own names."""
    ram = environment.ram_bytes
    return [
        ("processor", environment.cpu),
        ("usable cores", str(environment.cores)),
        ("threads", str(environment.threads)),
        ("memory", "" if ram is None else _gibibytes(ram)),
        ("GPUs", ", ".join(environment.gpus)),
        ("system", environment.os),
        ("Python", environment.python),
        *environment.packages,
        *hardware_facts(environment.hardware),
    ]


def hardware_facts(hardware: Hardware | None) -> list[tuple[str, str]]:
    """Return what is known of a machine beyond its processor, as (name, text); empty text where something is not."""
    if hardware is None:
        return []
    return [
        ("machine", hardware.known_as),
        ("board", hardware.board or ""),
        ("kinds of cores", "; ".join(map(_described, hardware.clusters))),
        ("governor", hardware.governors),
        ("power mode", hardware.power_mode or ""),
        ("swap", _swap(hardware)),
    ]


def _described(cluster: Cluster) -> str:
    """Return what cores are alike: `4 x Cortex-A76, 1.5 to 2.4 GHz`."""
    count = f"{len(cluster.cores)} {'core' if len(cluster.cores) == 1 else 'cores'}"
    named = count if cluster.name is None else f"{len(cluster.cores)} x {cluster.name}"
    if cluster.least_hz is None or cluster.most_hz is None:
        return named
    return f"{named}, {cluster.least_hz / 1e9:.2g} to {cluster.most_hz / 1e9:.2g} GHz"


def _swap(hardware: Hardware) -> str:
    if hardware.swap_bytes is None:
        return ""
    compressed = f", {_gibibytes(hardware.zram_bytes)} of it compressed memory" if hardware.zram_bytes else ""
    return f"{_gibibytes(hardware.swap_bytes)}{compressed}" if hardware.swap_bytes else "none"


def _gibibytes(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"


def machine_names(environments: Iterable[Environment]) -> list[str]:
    """Return what to call each environment: its hardware, with what else differs where that is the same.

    Two environments that differ never have one name.
    """
    kept = list(environments)
    by_hardware: dict[str, list[Environment]] = defaultdict(list)
    for environment in dict.fromkeys(kept):
        by_hardware[environment.machine].append(environment)
    names = {one: name for hardware, alike in by_hardware.items() for one, name in _told_apart(hardware, alike)}
    return [names[environment] for environment in kept]


def _told_apart(hardware: str, alike: Sequence[Environment]) -> list[tuple[Environment, str]]:
    """Return the name of each environment of the same hardware: by the facts that differ, or by the key of them all."""
    known = [dict(facts(one)) for one in alike]
    names = dict.fromkeys(name for one in known for name in one)
    differing = [name for name in names if len({one.get(name) for one in known}) > 1]
    texts = [", ".join(f"{name} {one.get(name) or 'missing'}" for name in differing) for one in known]
    if len(differing) > _MOST_FACTS or len(set(texts)) < len(texts):
        texts = [one.key for one in alike]
    if len(alike) == 1:
        return [(alike[0], hardware)]
    return [(one, f"{hardware} ({text})") for one, text in zip(alike, texts, strict=True)]


def capture_environment(threads: int | None = None, name: str = "") -> Environment:
    """Return the facts of this machine, which its user calls `name`.

    `threads` is what runtimes are told to use (default: every usable core).
    """
    emulated = is_emulated()
    return Environment(
        cpu=f"{platform.machine()}, emulated on {_cpu_model()}" if emulated else _cpu_model(),
        cores=usable_cores(),
        ram_bytes=_ram_bytes(),
        gpus=nvidia_gpus(),
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        packages=tuple((name, version) for name in PACKAGES if (version := package_version(name)) is not None),
        threads=threads or usable_cores(),
        hardware=read_hardware(name),
        emulated=emulated,
    )


def is_emulated(running: Path = _RUNNING, program: str = sys.executable) -> bool:
    """Return whether this process, as the kernel sees it, runs a program for another processor than Python's is for.

    An emulator of user programs answers in its own way for what lies in /proc/self, so that these see themselves there.
    Elsewhere in /proc it is itself. One that emulates a whole machine, with a kernel of its own, is not noticed.
    """
    real, apparent = _processor_of(running), _processor_of(Path(program))
    return None not in (real, apparent) and real != apparent


def _processor_of(program: Path) -> bytes | None:
    """Return what an ELF file calls the processor that it is for; None for another kind of file, or none."""
    try:
        with program.open("rb") as file:
            head = file.read(20)
    except OSError:
        return None
    return head[18:20] if head.startswith(b"\x7fELF") and len(head) == 20 else None


def usable_cores() -> int:
    """Return how many cores this process may run on, which a container or affinity can make fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def package_version(name: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    import importlib.metadata  # with the e-mail parser that it needs, it would double the time of `effvit --help`

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _ram_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def nvidia_gpus() -> tuple[str, ...]:
    """Return name and driver of every NVIDIA GPU, in the order of their numbers; nothing without a driver."""
    return _asked_of_driver("name,driver_version")


def engine_gpus() -> tuple[str, ...]:
    """Return name, driver and compute capability of every NVIDIA GPU: what engines are built for."""
    return _asked_of_driver("name,driver_version,compute_cap")


def gpu_uuid(bus: str) -> str:
    """Return the name, `GPU-` and a UUID, of the GPU in the slot `bus` of the PCI bus; the slot where nothing tells."""
    return next(iter(_asked_of_driver("uuid", f"--id={bus}")), bus)


def _asked_of_driver(facts: str, *which: str) -> tuple[str, ...]:
    # The driver's own tool, so that naming GPUs needs no torch and makes no CUDA context.
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, f"--query-gpu={facts}", "--format=csv,noheader", *which]
    try:
        listing = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):  # not executable; a driver that hangs
        return ()
    return tuple(line.strip() for line in listing.stdout.splitlines() if line.strip()) if not listing.returncode else ()
