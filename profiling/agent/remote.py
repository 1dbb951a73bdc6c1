"""Cells measured on another machine: files are copied there once, an agent is started, and its outcomes come back.

What is ours there lies in `.cache/effvit-agent` of the user's home: files by content, and a folder for each kit.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from effvit.environment import Environment
from effvit.errors import CheckFailedError, ResultError, UnavailableError
from effvit.profiling.agent.archive import build
from effvit.profiling.agent.detached import Ended, error_of
from effvit.profiling.agent.kit import KIT, Kit, encode
from effvit.profiling.agent.measuring import AS_ASKED, Allowed
from effvit.profiling.agent.packing import Packing, pack
from effvit.profiling.agent.probing import PROBE, PROBED, PYTHON, Probe, backends_there, require_python, require_version
from effvit.profiling.agent.ssh import Ssh
from effvit.profiling.board import BoardConditions
from effvit.profiling.records import Outcome
from effvit.profiling.results import append, decode, read_finished
from effvit.profiling.survey import Survey
from effvit.profiling.sweep import Listener
from effvit.progress import Progress, silent
from effvit.storage import sha256_of

T = TypeVar("T")
ROOT = ".cache/effvit-agent"
_AT_ONCE = 2**20
# These run on whatever Python there is. File names are made by us, of hexadecimal digits.
_RECEIVE = """\
import hashlib, json, os, sys
source = sys.stdin.buffer
header = json.loads(source.readline().decode())
for name, size, digest in header["files"]:
    path = os.path.join(header["root"], name)
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        part, found = path + ".part", hashlib.sha256()
        try:
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
                sys.exit("error: a file changed on the way\\n\\nhint: give the same command again: it is copied anew")
            os.replace(part, path)
        finally:
            if os.path.exists(part):
                os.remove(part)
    except OSError as error:
        sys.stderr.write("error: %s cannot be written: %s\\n\\n" % (path, (error.strerror or "it failed").lower()))
        sys.stderr.write("hint: free some space there, and give the same command again\\n")
        sys.exit(2)
"""
_STOP_ALL = """\
import glob, os, subprocess, sys
agents = sorted(glob.glob(os.path.join(sys.argv[1], "agents", "*.pyz")), key=os.path.getmtime)
for kit in glob.glob(os.path.join(sys.argv[1], "kits", "*")):
    for agent in agents[-1:]:
        code = subprocess.call([sys.executable, agent, "stop", kit])
        if code:
            sys.exit(code)
"""
_CLEAN = """\
import os, shutil, sys
shutil.rmtree(sys.argv[1], ignore_errors=True)
if os.path.lexists(sys.argv[1]):
    sys.exit("error: %s cannot be removed\\n\\nhint: see whom it belongs to" % os.path.abspath(sys.argv[1]))
"""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to be copied: where it lies here, where below ROOT it belongs there, and its sha256."""

    path: Path
    name: str
    sha256: str


class Event(msgspec.Struct):
    """A line that an agent tells; which fields mean something depends on `event`."""

    event: Literal["planned", "stage", "outcome", "ended"]
    cells: int = 0
    text: str = ""
    outcome: msgspec.Raw = msgspec.Raw(b"null")
    code: int = 0
    message: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class RemoteFacts:
    """What a machine is, and what its sensors tell now."""

    environment: Environment
    board: BoardConditions


class Following:
    """What a host has told so far: its outcomes are in the file `results` before the listener hears of them."""

    def __init__(self, host: str, results: Path, listener: Listener) -> None:
        self._host, self._results, self._listener = host, results, listener
        self._known = {_identity(outcome) for outcome in read_finished(results)}
        self._outcomes: dict[str, Outcome] = {}
        self._ended: Ended | None = None

    def take(self, event: Event) -> None:
        """Take the next event of the host.

        Raises:
            ResultError: It has an outcome that is none.
            StorageError: The disk here is full.
        """
        if event.event == "planned":
            self._listener.planned(event.cells)
        elif event.event == "stage":
            self._listener.stage(f"{self._host}: {event.text}")
        elif event.event == "outcome":
            outcome = decode(bytes(event.outcome), f"an outcome from {self._host}")
            fresh = _identity(outcome) not in self._known
            if fresh:
                append(self._results, outcome)
            self._outcomes[outcome.cell.key] = outcome
            self._listener.outcome(outcome, measured_now=fresh)
        else:
            self._ended = Ended(event.code, event.message, event.hint)

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes of a host that has ended.

        Raises:
            EffvitError: Of the kind that the agent ended with.
        """
        if self._ended is None:
            hint = "give the same command again: it goes on"
            raise UnavailableError(f"{self._host} does not tell how its agent ended", hint)
        if self._ended.code:
            raise error_of(self._host, self._ended)
        return list(self._outcomes.values())


class RemoteSweep:
    """The cells of a plan on one host. `progress` counts bytes that are copied."""

    def __init__(self, ssh: Ssh, progress: Progress = silent) -> None:
        self._ssh, self._progress = ssh, progress
        self._agent = self._folder = ""
        self._followed: subprocess.Popen[bytes] | None = None

    def start(self, packing: Packing, allowed: Allowed = AS_ASKED) -> None:
        """Copy what the host lacks, and let it measure.

        Raises:
            As `pack` and `send`.
        """
        with tempfile.TemporaryDirectory(prefix="effvit-kit-") as temporary:
            self.send(self.pack(packing, Path(temporary)), packing.stage, allowed)

    def pack(self, packing: Packing, folder: Path) -> list[RemoteFile]:
        """Return what the host needs to measure; backends that the plan does not name are those it has.

        Files that were not there before lie in `folder`.

        Raises:
            UnavailableError: The host cannot be reached, or lacks Python or a runtime.
            CheckFailedError: A file changed on the way.
            UsageError: Another kit is being measured there, or its disk is full.
            EffvitError: Whatever packing raises.
        """
        host = self._ssh.host
        packing.stage(f"asking {host} what it has")
        plan = replace(packing.plan, backends=self.backends(packing.plan.backends), devices=(host.device,))
        return _files(pack(replace(packing, plan=plan), folder / "blobs"), folder)

    def send(self, files: Sequence[RemoteFile], stage: Callable[[str], None], allowed: Allowed = AS_ASKED) -> None:
        """Copy what of `files` the host lacks, and let it measure; `stage` is told what takes a while.

        Raises:
            UnavailableError: The host cannot be reached.
            CheckFailedError: Its disk is full, say.
        """
        stage(f"copying to {self._ssh.host}")
        self._copy(files)
        self._agent, self._folder = f"{ROOT}/{files[0].name}", f"{ROOT}/{Path(files[1].name).parent}"
        stage(f"starting on {self._ssh.host}")
        flags = ["--retry-failed"] * allowed.retry_failed + ["--allow-fallback"] * allowed.fallback
        flags += ["--name", self._ssh.host.called] if self._ssh.host.called else []
        self._ssh.run([PYTHON, self._agent, "start", self._folder, "--blobs", f"{ROOT}/blobs", *flags])

    def facts(self) -> RemoteFacts:
        """Return what the host is, and what its sensors tell now; the agent is copied there if it is not.

        Raises:
            UnavailableError: The host cannot be reached, or has no Python that is new enough.
            CheckFailedError: Its disk is full, say, or it answers something else.
        """
        require_version(str(self._ssh.host), self._probe([]))
        return self._answer(RemoteFacts, [self._copied_agent(), "facts"])

    def backends(self, asked: Sequence[str]) -> tuple[str, ...]:
        """Return the backends to measure with on the host: those `asked` for, or all that both machines have.

        Raises:
            UnavailableError: The host cannot be reached, or lacks Python or a runtime.
        """
        host, probe = str(self._ssh.host), self._probe([])
        require_python(host, probe)
        return backends_there(host, asked, probe)

    def survey(self, backends: Sequence[str]) -> Survey:
        """Copy the agent, and nothing else, and let it tell what the host can do with these backends.

        Raises:
            UnavailableError: The host cannot be reached.
            CheckFailedError: Its disk is full, or it could not be surveyed.
        """
        threads = self._ssh.host.device.threads
        words = [self._copied_agent(), "survey", *(f"--backend={name}" for name in backends)]
        return self._answer(Survey, [*words, *([] if threads is None else [f"--threads={threads}"])])

    def _copied_agent(self) -> str:
        """Copy the agent unless it is there, and return where it lies."""
        with tempfile.TemporaryDirectory(prefix="effvit-agent-") as temporary:
            agent = _agent(Path(temporary))
            self._copy([agent])
        return f"{ROOT}/{agent.name}"

    def follow(self, results: Path, listener: Listener) -> list[Outcome]:
        """Tell the listener what the host does until it is done; outcomes are on disk here before they are told.

        Raises:
            UnavailableError: The connection broke; the agent goes on.
            EffvitError: Of the kind that the agent ended with.
        """
        following = self.following(results, listener)
        for event in self.events():
            following.take(event)
        return following.outcomes()

    def following(self, results: Path, listener: Listener) -> Following:
        """Return what takes the events of this host."""
        return Following(str(self._ssh.host), results, listener)

    def events(self) -> Iterator[Event]:
        """Yield what the agent tells, until it ends.

        Raises:
            UnavailableError: The connection broke; the agent goes on.
            ResultError: The host says something else.
        """
        with self._ssh.running([PYTHON, self._agent, "follow", self._folder]) as process:
            self._followed = process
            assert process.stdout is not None
            for line in process.stdout:
                if not line.endswith(b"\n"):  # the connection broke in the middle of it
                    break
                try:
                    yield msgspec.json.decode(line, type=Event)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise ResultError(f"{self._ssh.host} answers what is no event: {error}", _TALKATIVE) from error

    def leave(self) -> None:
        """Follow no longer; whoever waits for events has a broken connection. The agent goes on."""
        if self._followed is not None:
            self._followed.kill()

    def _probe(self, files: Sequence[RemoteFile]) -> Probe:
        asked = {"root": ROOT, "files": {file.name: file.sha256 for file in files}, "packages": PROBED}
        return self._answer(Probe, ["-c", PROBE], json.dumps(asked).encode())

    def _answer(self, kind: type[T], words: Sequence[str], stdin: bytes = b"") -> T:
        """Return what Python says there, as JSON of such a value."""
        answer = self._ssh.run([PYTHON, *words], stdin)
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


def stop(ssh: Ssh) -> None:
    """End every agent on the host; what was measured stays there, and the same sweep goes on with the rest.

    Raises:
        UnavailableError: The host cannot be reached.
    """
    ssh.run([PYTHON, "-c", _STOP_ALL, ROOT])


def clean(ssh: Ssh) -> None:
    """End every agent on the host, and remove all that is ours there.

    Raises:
        UnavailableError: The host cannot be reached.
        CheckFailedError: Something cannot be removed.
    """
    stop(ssh)
    ssh.run([PYTHON, "-c", _CLEAN, ROOT])


def _files(kit: Kit, folder: Path) -> list[RemoteFile]:
    """Return the agent, the kit, and the kit's blobs, which lie in `folder`."""
    path = folder / KIT
    path.write_bytes(encode(kit))
    of_kit = hashlib.sha256(path.read_bytes()).hexdigest()
    blobs = [RemoteFile(folder / "blobs" / name, f"blobs/{name}", Path(name).stem) for name in kit.blobs]
    return [_agent(folder), RemoteFile(path, f"kits/{of_kit[:16]}/{KIT}", of_kit), *blobs]


def _agent(folder: Path) -> RemoteFile:
    agent = build(folder / "agent.pyz")
    digest = sha256_of(agent)
    return RemoteFile(agent, f"agents/{digest}.pyz", digest)


def _identity(outcome: Outcome) -> tuple[str, str, str, str]:
    return outcome.cell.key, outcome.environment.key, outcome.run, outcome.finished
