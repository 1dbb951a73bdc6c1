"""Cells measured on another machine: files are copied there once, an agent is started, and its outcomes come back.

What is ours there lies in `.cache/effvit-agent` of the user's home: files by content, and a folder for each kit.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from effvit.errors import CheckFailedError, EffvitError, ResultError, UnavailableError, UsageError
from effvit.export.base import pick_backend
from effvit.profiling.agent.archive import build
from effvit.profiling.agent.detached import Ended
from effvit.profiling.agent.kit import KIT, Kit, encode
from effvit.profiling.agent.measuring import AS_ASKED, INSTALL, Allowed
from effvit.profiling.agent.packing import BACKENDS, Packing, pack
from effvit.profiling.agent.ssh import Ssh
from effvit.profiling.records import Outcome
from effvit.profiling.results import append, decode, read_finished
from effvit.profiling.survey import Survey
from effvit.profiling.sweep import Listener
from effvit.progress import Progress, silent
from effvit.storage import sha256_of

ROOT = ".cache/effvit-agent"
PYTHON = "python3"
LEAST_PYTHON = (3, 10)
T = TypeVar("T")
_AT_ONCE = 2**20
# Distributions that give a runtime its name for `import`.
_DISTRIBUTIONS = {"ort-cpu": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",)}
# Both run on whatever Python there is, to tell what is missing. File names are made by us, of hexadecimal digits.
_PROBE = """\
import hashlib, json, os, sys
try:
    from importlib.metadata import version
except ImportError:
    version = None
def installed(name):
    try:
        return version(name)
    except Exception:
        return None
def intact(path, digest):
    found = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for part in iter(lambda: file.read(1 << 20), b""):
                found.update(part)
    except OSError:
        return False
    return found.hexdigest() == digest
asked = json.load(sys.stdin)
print(json.dumps({
    "python": list(sys.version_info[:3]),
    "packages": {name: installed(name) for name in asked["packages"]},
    "missing": [n for n, digest in asked["files"].items() if not intact(os.path.join(asked["root"], n), digest)],
}))
"""
_RECEIVE = """\
import hashlib, json, os, sys
source = sys.stdin.buffer
header = json.loads(source.readline().decode())
for name, size, digest in header["files"]:
    path = os.path.join(header["root"], name)
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        part, found = path + ".part", hashlib.sha256()
        with open(part, "wb") as file:
            while size:
                data = source.read(min(size, 1 << 20))
                if not data:
                    sys.exit("error: the copy broke off")
                size -= len(data)
                found.update(data)
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if found.hexdigest() != digest:
            sys.exit("error: a file changed on the way")
        os.replace(part, path)
    except OSError as error:
        sys.exit("error: %s cannot be written: %s" % (path, error.strerror))
"""
_STOP_ALL = """\
import glob, os, subprocess, sys
agents = sorted(glob.glob(os.path.join(sys.argv[1], "agents", "*.pyz")), key=os.path.getmtime)
for kit in glob.glob(os.path.join(sys.argv[1], "kits", "*")):
    for agent in agents[-1:]:
        subprocess.call([sys.executable, agent, "stop", kit])
"""
_CLEAN = "import shutil, sys; shutil.rmtree(sys.argv[1], ignore_errors=True)"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to be copied: where it lies here, where below ROOT it belongs there, and its sha256."""

    path: Path
    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Probe:
    """What a machine has: its Python, versions of packages (None: not installed), which files it lacks."""

    python: tuple[int, ...]
    packages: dict[str, str | None]
    missing: frozenset[str]


class _Event(msgspec.Struct):
    """A line that an agent tells; which fields mean something depends on `event`."""

    event: Literal["planned", "stage", "outcome", "ended"]
    cells: int = 0
    text: str = ""
    outcome: msgspec.Raw = msgspec.Raw(b"null")
    code: int = 0
    message: str = ""
    hint: str = ""


class RemoteSweep:
    """The cells of a plan on one host. `progress` counts bytes that are copied."""

    def __init__(self, ssh: Ssh, progress: Progress = silent) -> None:
        self._ssh, self._progress = ssh, progress
        self._agent = self._folder = ""

    def start(self, packing: Packing, allowed: Allowed = AS_ASKED) -> None:
        """Copy what the host lacks, and let it measure; backends that the plan does not name are those it has.

        Raises:
            UnavailableError: The host cannot be reached, or lacks Python or a runtime.
            CheckFailedError: Its disk is full, say.
            EffvitError: Whatever packing raises.
        """
        host = self._ssh.host
        packing.stage(f"asking {host} what it has")
        plan = replace(packing.plan, backends=self.backends(packing.plan.backends), devices=(host.device,))
        with tempfile.TemporaryDirectory(prefix="effvit-kit-") as temporary:
            folder = Path(temporary)
            kit = pack(replace(packing, plan=plan), folder / "blobs")
            files = _files(kit, folder)
            packing.stage(f"copying to {host}")
            self._copy(files)
        self._agent, self._folder = f"{ROOT}/{files[0].name}", f"{ROOT}/{Path(files[1].name).parent}"
        packing.stage(f"starting on {host}")
        flags = ["--retry-failed"] * allowed.retry_failed + ["--allow-fallback"] * allowed.fallback
        self._ssh.run([PYTHON, self._agent, "start", self._folder, "--blobs", f"{ROOT}/blobs", *flags])

    def backends(self, asked: Sequence[str]) -> tuple[str, ...]:
        """Return the backends to measure with on the host: those `asked` for, or all that both machines have.

        Raises:
            UnavailableError: The host cannot be reached, or lacks Python or a runtime.
        """
        host, probe = str(self._ssh.host), self._probe([])
        _require_python(host, probe)
        return _backends(host, asked, probe)

    def survey(self, backends: Sequence[str]) -> Survey:
        """Copy the agent, and nothing else, and let it tell what the host can do with these backends.

        Raises:
            UnavailableError: The host cannot be reached.
            CheckFailedError: Its disk is full, or it could not be surveyed.
        """
        with tempfile.TemporaryDirectory(prefix="effvit-agent-") as temporary:
            agent = _agent_file(Path(temporary))
            self._copy([agent])
        threads = self._ssh.host.device.threads
        words = [PYTHON, f"{ROOT}/{agent.name}", "survey", *(f"--backend={name}" for name in backends)]
        answer = self._ssh.run([*words, *([] if threads is None else [f"--threads={threads}"])])
        return self._decoded(answer, Survey)

    def follow(self, results: Path, listener: Listener) -> list[Outcome]:
        """Tell the listener what the host does until it is done; outcomes are on disk here before they are told.

        Raises:
            UnavailableError: The connection broke; the agent goes on.
            EffvitError: Of the kind that the agent ended with.
        """
        known = {_identity(outcome) for outcome in read_finished(results)}
        outcomes: dict[str, Outcome] = {}
        ended: Ended | None = None
        for event in self._events():
            if event.event == "planned":
                listener.planned(event.cells)
            elif event.event == "stage":
                listener.stage(f"{self._ssh.host}: {event.text}")
            elif event.event == "outcome":
                outcome = decode(bytes(event.outcome), f"an outcome from {self._ssh.host}")
                fresh = _identity(outcome) not in known
                if fresh:
                    append(results, outcome)
                outcomes[outcome.cell.key] = outcome
                listener.outcome(outcome, measured_now=fresh)
            else:
                ended = Ended(event.code, event.message, event.hint)
        if ended is None or ended.code:
            raise _error(str(self._ssh.host), ended)
        return list(outcomes.values())

    def _events(self) -> Iterator[_Event]:
        with self._ssh.running([PYTHON, self._agent, "follow", self._folder]) as process:
            assert process.stdout is not None
            for line in process.stdout:
                try:
                    yield msgspec.json.decode(line, type=_Event)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise ResultError(f"{self._ssh.host} answers what is no event: {error}", _TALKATIVE) from error

    def _probe(self, files: Sequence[RemoteFile]) -> Probe:
        packages = ["numpy", *(name for names in _DISTRIBUTIONS.values() for name in names)]
        asked = {"root": ROOT, "files": {file.name: file.sha256 for file in files}, "packages": packages}
        return self._decoded(self._ssh.run([PYTHON, "-c", _PROBE], json.dumps(asked).encode()), Probe)

    def _decoded(self, answer: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(answer, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CheckFailedError(f"{self._ssh.host} answers what is no JSON: {answer[:80]!r}", _TALKATIVE) from error

    def _copy(self, files: Sequence[RemoteFile]) -> None:
        missing = self._probe(files).missing
        wanted = [(file, file.path.stat().st_size) for file in files if file.name in missing]
        total, done = sum(size for _, size in wanted), 0
        header = {"root": ROOT, "files": [(file.name, size, file.sha256) for file, size in wanted]}
        with self._ssh.running([PYTHON, "-c", _RECEIVE]) as process:
            assert process.stdin is not None
            process.stdin.write(json.dumps(header).encode() + b"\n")
            for file, _ in wanted:
                with file.path.open("rb") as stream:
                    while part := stream.read(_AT_ONCE):
                        process.stdin.write(part)
                        done += len(part)
                        self._progress(done, total)
            process.stdin.close()


_TALKATIVE = "let its shell write nothing where it is not interactive: see .bashrc there"


def clean(ssh: Ssh) -> None:
    """End every agent on the host, and remove all that is ours there.

    Raises:
        UnavailableError: The host cannot be reached.
    """
    ssh.run([PYTHON, "-c", _STOP_ALL, ROOT])
    ssh.run([PYTHON, "-c", _CLEAN, ROOT])


def _files(kit: Kit, folder: Path) -> list[RemoteFile]:
    """Return the agent, the kit, and the kit's blobs, which lie in `folder`."""
    path = folder / KIT
    path.write_bytes(encode(kit))
    of_kit = hashlib.sha256(path.read_bytes()).hexdigest()
    blobs = [RemoteFile(folder / "blobs" / name, f"blobs/{name}", Path(name).stem) for name in kit.blobs]
    return [_agent_file(folder), RemoteFile(path, f"kits/{of_kit[:16]}/{KIT}", of_kit), *blobs]


def _agent_file(folder: Path) -> RemoteFile:
    agent = build(folder / "agent.pyz")
    digest = sha256_of(agent)
    return RemoteFile(agent, f"agents/{digest}.pyz", digest)


def _require_python(host: str, probe: Probe) -> None:
    if probe.python < LEAST_PYTHON:
        version = ".".join(map(str, probe.python))
        raise UnavailableError(f"{host} has Python {version}; the agent needs 3.10", "install a later Python there")
    if probe.packages["numpy"] is None:
        raise UnavailableError(f"{host} has no numpy", f"there: {PYTHON} -m pip install numpy")


def _backends(host: str, asked: Sequence[str], probe: Probe) -> tuple[str, ...]:
    """Return the backends to measure: those that were asked for, or all that both machines have.

    Raises:
        UnavailableError: The host lacks one, or has none.
    """
    there = [name for name, names in _DISTRIBUTIONS.items() if any(probe.packages[one] is not None for one in names)]
    for name in asked:
        if name in BACKENDS and name not in there:
            raise UnavailableError(f"{host} has no runtime for {name}", f"there: {INSTALL[name]}")
    both = tuple(name for name in there if pick_backend(name).unavailable() is None)
    if not asked and not both:
        raise UnavailableError(f"{host} has no runtime that is here, too", f"there: {INSTALL['ort-cpu']}")
    return tuple(asked) or both


def _identity(outcome: Outcome) -> tuple[str, str, str, str]:
    return outcome.cell.key, outcome.environment.key, outcome.run, outcome.finished


def _error(host: str, ended: Ended | None) -> EffvitError:
    if ended is None:
        return UnavailableError(f"{host} does not tell how its agent ended", "give the same command again: it goes on")
    kinds = {2: UsageError, 3: UnavailableError}
    return kinds.get(ended.code, CheckFailedError)(f"{host}: {ended.message}", ended.hint)
