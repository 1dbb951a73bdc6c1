"""Another machine, reached by the system's own ssh, with the user's keys and configuration. Nothing of ours listens.

ssh gives the words of a remote command to a shell there: they are quoted, and of what a user names there is only the
machine's name among them, which is plain.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO

from effvit.errors import CheckFailedError, EffvitError, UnavailableError, UsageError
from effvit.hardware import machine_name
from effvit.profiling.agent.detached import Ended, complaint, error_of
from effvit.profiling.devices import Device, device_from_text

_HOST = re.compile(r"(?:([^=:/]*)=)?ssh://")
EXAMPLE = "write --device ssh://user@host:22, or ssh://user@host/cpu:threads=1 for a part of its processor"
OPTIONS = (
    "-T",
    *("-o", "BatchMode=yes"),  # nobody is asked for a password, and no unknown host is trusted
    *("-o", "ConnectTimeout=15"),
    *("-o", "ServerAliveInterval=15"),
    *("-o", "ServerAliveCountMax=4"),
)
# What ssh itself ends with where it, and not the command, failed.
FAILED = 255
NOT_FOUND = 127
_TRY_AGAIN = "see what it lacks, and try again"
# What OpenSSH says, and what that means: a sentence about the host, and a hint.
_MEANINGS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "shows another key than before: it was set up anew, or another machine answers for it",
        "check that, then remove the old key with `ssh-keygen -R`, and connect once with ssh",
    ),
    ("Host key verification failed", "is not known to ssh here", "connect to it once with ssh, and check its key"),
    ("Could not resolve hostname", "cannot be found: no address belongs to this name", "check the name"),
    (
        "Permission denied",
        "accepts none of your keys",
        "let it in with `ssh-copy-id`, or name the user: ssh://user@host",
    ),
    ("Connection refused", "refuses connections: no ssh server listens there", "start one there, or name another port"),
    ("timed out", "does not answer", "check that it is switched on and reachable"),
    ("No route to host", "cannot be reached from here", "check that it is switched on and reachable"),
    ("Network is unreachable", "cannot be reached from here", "check the network"),
)


@dataclass(frozen=True, slots=True)
class Host:
    """A machine by its name for ssh, what of it is measured on, and what it is called beside others alike.

    Raises:
        UsageError: A name, a user or a port that cannot be one.
    """

    name: str
    user: str | None = None
    port: int | None = None
    device: Device = field(default_factory=Device)
    called: str = ""

    def __post_init__(self) -> None:
        for text in (self.name, self.user):
            # Also keeps out what ssh would take for an option.
            if text is not None and re.fullmatch(r"[A-Za-z0-9_\[][A-Za-z0-9_.:%\[\]-]*", text) is None:
                raise UsageError(f"{text!r} is not the name of a host or a user", EXAMPLE)
        if self.port is not None and not 0 < self.port < 2**16:
            raise UsageError(f"{self.port} is not the number of a port", EXAMPLE)
        if self.called:
            machine_name(self.called)

    @property
    def address(self) -> str:
        """The host as ssh names it, without the device."""
        return self.name if self.user is None else f"{self.user}@{self.name}"

    def __str__(self) -> str:
        """Return what it is called, or else its address."""
        return self.called or self.address

    @property
    def text(self) -> str:
        """What `host_from_text` reads: `kitchen=ssh://pi@raspberry:22/cpu:threads=1`."""
        called = f"{self.called}=" if self.called else ""
        user = "" if self.user is None else f"{self.user}@"
        name = f"[{self.name}]" if ":" in self.name else self.name
        port = "" if self.port is None else f":{self.port}"
        device = "" if self.device == Device() else f"/{self.device}"
        return f"{called}ssh://{user}{name}{port}{device}"


def names_host(text: str) -> bool:
    """Return whether `--device` means another machine."""
    return _HOST.match(text) is not None


def host_from_text(text: str) -> Host:
    """Return the host that `[name=]ssh://[user@]host[:port][/cpu:threads=1]` names; IPv6 addresses are in brackets.

    Raises:
        UsageError: It names none, or holds a password, which is not repeated.
    """
    begin = _HOST.match(text)
    place, _, device = text[begin.end() :].partition("/") if begin is not None else ("", "", "")
    match = re.fullmatch(r"(?:([^@]*)@)?(\[[^\]]*\]|[^:@]*)(?::([0-9]{1,5}))?", place)
    user, _, name = (text[begin.end() :] if begin is not None else text).rpartition("@")
    if ":" in user:
        raise UsageError(
            f"before {name!r} stands what looks like a password, and ssh takes none there",
            "name the user alone, and let your key in with `ssh-copy-id`",
        )
    if begin is None or match is None:
        raise UsageError(f"{text!r} names no host", EXAMPLE)
    port, part = int(match[3]) if match[3] else None, device_from_text(device or "cpu")
    return Host(match[2].strip("[]"), match[1], port, part, begin[1] or "")


class Ssh:
    """Runs commands on a host."""

    def __init__(self, host: Host, program: Sequence[str] = ("ssh", *OPTIONS)) -> None:
        self.host, self._program = host, tuple(program)

    def run(self, words: Sequence[str], stdin: bytes = b"") -> bytes:
        """Run a command there and return what it wrote to stdout.

        Raises:
            UnavailableError: The host cannot be reached or used, or has no Python.
            CheckFailedError: The command failed.
        """
        with self.running(words) as process:
            answer: bytes = process.communicate(stdin)[0]
        return answer

    @contextmanager
    def running(self, words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        """Yield a command that runs there, with pipes to it; wait for its end if the block was left without an error.

        Raises:
            As `run`, on leaving the block, in which broken pipes mean that the command has ended.
        """
        port = [] if self.host.port is None else ["-p", str(self.host.port)]
        command = [*self._program, *port, "--", self.host.address, shlex.join(words)]
        with tempfile.TemporaryFile() as complaints:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=complaints,
                    start_new_session=True,  # Ctrl-C is ours alone
                )
            except FileNotFoundError as error:
                raise UnavailableError("there is no ssh on this machine", "install the client of OpenSSH") from error
            left = False
            try:
                with suppress(BrokenPipeError):  # it ended, and says why
                    yield process
                left = True
            finally:
                if not left:
                    process.kill()
                _close(process)
            if process.returncode:
                raise self._failure(process.returncode, complaints)

    def _failure(self, code: int, complaints: IO[bytes]) -> EffvitError:
        complaints.seek(0)
        text = complaints.read().decode(errors="replace").strip()
        if code == NOT_FOUND:
            return UnavailableError(f"{self.host} has no python3", "install it there: sudo apt install python3")
        for phrase, meaning, hint in _MEANINGS:
            if code == FAILED and phrase in text:
                return UnavailableError(f"{self.host} {meaning}", hint)
        said = complaint(text)
        if code == FAILED or code < 0:  # ssh itself was killed
            return UnavailableError(
                f"the connection to {self.host} broke: {said.message or f'ssh ended with exit code {code}'}",
                "give the same command again: what was started there goes on, and is found again",
            )
        if said.ours:
            return error_of(str(self.host), Ended(code, said.message, said.hint or _TRY_AGAIN))
        message = said.message or f"a command ended with exit code {code}"
        return CheckFailedError(f"{self.host}: {message}", _TRY_AGAIN)


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
    process.wait()
