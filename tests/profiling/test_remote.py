"""Measuring on another machine: through a real ssh server on a loopback port, and through what stands in for ssh."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from agents import ABSENT, BRIEF, bare_python, stand_in
from ssh_server import SSHD, Server, cut_connections, running_server
from untrained_runs import make_run

from effvit.environment import capture_environment
from effvit.errors import CheckFailedError, UnavailableError, UsageError
from effvit.profiling.agent.packing import Packing
from effvit.profiling.agent.remote import ROOT, RemoteSweep, clean
from effvit.profiling.agent.ssh import Host, Ssh, host_from_text, names_host
from effvit.profiling.board import BoardMeter
from effvit.profiling.devices import Device
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Plan
from effvit.profiling.records import Outcome
from effvit.profiling.results import read
from effvit.run import Run
from effvit.spec import Precision
from effvit.storage import sha256_of

pytest.importorskip("onnxruntime")
NASTY = "$(touch pwned);`touch pwned`&"
needs_sshd = pytest.mark.skipif(SSHD is None, reason="there is no sshd (Debian: openssh-server)")


@dataclass
class Told:
    """What a listener was told."""

    outcomes: list[tuple[Outcome, bool]] = field(default_factory=list)
    copied: list[int] = field(default_factory=list)
    at_first_outcome: object = None

    def planned(self, cells: int) -> None: ...
    def stage(self, text: str) -> None: ...

    def outcome(self, outcome: Outcome, measured_now: bool) -> None:
        self.outcomes.append((outcome, measured_now))
        if callable(self.at_first_outcome) and len(self.outcomes) == 1:
            self.at_first_outcome()

    def progress(self, done: int, total: int) -> None:
        self.copied.append(done)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs"), "softmax", name=NASTY.replace("/", ""))


@pytest.fixture(scope="module")
def pixels() -> Iterator[PixelStore]:
    with PixelStore() as store:
        yield store


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Python that has numpy and ONNX Runtime, and nothing else that we use."""
    return bare_python(tmp_path_factory.mktemp("python"))


def packing(run: Run, pixels: PixelStore, *backends: str) -> Packing:
    plan = Plan((run,), ((32, 32),), (1, 2), (Precision.FP32,), backends)
    return Packing(plan, BRIEF, pixels, lambda _: None)


def host(server: Server) -> Host:
    return Host("127.0.0.1", port=server.port, device=Device(threads=1))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, python: Path) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server"), python) as one:
        yield one


@pytest.mark.slow
@needs_sshd
def test_what_was_started_goes_on_when_the_connection_breaks(
    run: Run, pixels: PixelStore, server: Server, tmp_path: Path
) -> None:
    results, first, second = tmp_path / "results.jsonl", Told(), Told()
    first.at_first_outcome = lambda: cut_connections(server)
    sweep = RemoteSweep(Ssh(host(server), server.program), first.progress)
    sweep.start(packing(run, pixels, "ort-cpu"))
    assert first.copied[-1] > 1_000_000
    with pytest.raises(UnavailableError, match=r"the connection to 127\.0\.0\.1 broke"):
        sweep.follow(results, first)
    (there,) = (server.home / ROOT / "kits").glob("*/results.jsonl")
    deadline = time.monotonic() + 100
    while there.read_bytes().count(b"\n") < 2:
        assert time.monotonic() < deadline, "nothing was measured without a connection"
        time.sleep(0.1)

    again = RemoteSweep(Ssh(host(server), server.program), second.progress)
    again.start(packing(run, pixels, "ort-cpu"))
    assert second.copied == []
    outcomes = again.follow(results, second)
    assert there.read_bytes().count(b"\n") == 2
    assert [one.cell.workload.batch for one in read(results)] == [1, 2]
    assert read(results) == outcomes
    assert [new for _, new in second.outcomes] == [False, True]
    assert {one.cell.device for one in outcomes} == {Device(threads=1)}
    assert {one.status for one in outcomes} == {"ok"}
    assert not list(server.home.rglob("pwned"))
    clean(Ssh(host(server), server.program))
    assert not (server.home / ROOT).exists()


@needs_sshd
def test_what_ssh_refuses_is_a_sentence_each(server: Server, tmp_path: Path) -> None:
    def refusal(host: Host, program: tuple[str, ...]) -> str:
        with pytest.raises(UnavailableError) as refused:
            Ssh(host, program).run(["true"])
        assert refused.value.hint
        return refused.value.message

    here = host(server)
    assert refusal(Host("nowhere.invalid"), server.program).startswith("nowhere.invalid cannot be found")
    stranger = (*server.program, "-o", f"IdentityFile={server.keys / 'stranger'}", "-F", "none")
    known = ("-o", f"UserKnownHostsFile={server.config.parent / 'known_hosts'}", "-o", "IdentitiesOnly=yes")
    assert "accepts none of your keys" in refusal(here, (*stranger, *known))
    unknown = (*server.program, "-o", f"UserKnownHostsFile={tmp_path / 'none'}")
    assert "is not known to ssh here" in refusal(here, unknown)
    other = (server.keys / "stranger.pub").read_text().split()
    (tmp_path / "changed").write_text(f"[127.0.0.1]:{server.port} {other[0]} {other[1]}\n")
    changed = (*server.program, "-o", f"UserKnownHostsFile={tmp_path / 'changed'}")
    assert "shows another key than before" in refusal(here, changed)
    assert "refuses connections" in refusal(replace(here, port=1), server.program)


@pytest.mark.parametrize(
    ("absent", "words"),
    [
        ((*ABSENT, "numpy"), ("has no numpy", "python3 -m pip install numpy")),
        ((*ABSENT, "onnxruntime"), ("has no runtime for ort-cpu", "python3 -m pip install onnxruntime")),
    ],
)
def test_what_the_device_lacks_is_a_sentence_with_the_command_that_installs_it(
    run: Run, pixels: PixelStore, tmp_path: Path, absent: tuple[str, ...], words: tuple[str, str]
) -> None:
    sweep = RemoteSweep(Ssh(Host("device"), stand_in(tmp_path, hidden_python(tmp_path, absent[-1]))))
    with pytest.raises(UnavailableError) as refused:
        sweep.start(packing(run, pixels, "ort-cpu"))
    assert words[0] in refused.value.message
    assert words[1] in refused.value.hint


def hidden_python(folder: Path, package: str) -> Path:
    """Return a Python whose packages do not list `package`."""
    hooks = folder / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(
        "import importlib.metadata as metadata\n"
        "known = metadata.version\n"
        "def version(name):\n"
        f"    if name == {package!r}:\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return known(name)\n"
        "metadata.version = version\n"
    )
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexport PYTHONPATH={shlex.quote(str(hooks))}\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path


def test_a_device_without_python_is_a_sentence(run: Run, pixels: PixelStore, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="device has no python3"):
        RemoteSweep(Ssh(Host("device"), stand_in(tmp_path, None))).start(packing(run, pixels))


def test_a_device_with_an_old_python_is_a_sentence(run: Run, pixels: PixelStore, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\necho \'{"python": [3, 9, 2], "packages": {}, "missing": []}\'\n')
    old.chmod(0o755)
    with pytest.raises(UnavailableError, match=r"has Python 3\.9\.2; the agent needs 3\.10"):
        RemoteSweep(Ssh(Host("device"), stand_in(tmp_path, old))).start(packing(run, pixels))


@pytest.mark.parametrize(
    ("pip", "managed", "command"),
    [
        (True, False, "python3 -m pip install numpy"),
        (True, True, "python3 -m pip install --user --break-system-packages numpy"),
        (False, False, "sudo apt install python3-pip && python3 -m pip install numpy"),
    ],
)
def test_the_command_that_installs_is_one_that_the_python_there_takes(
    run: Run, pixels: PixelStore, tmp_path: Path, pip: bool, managed: bool, command: str
) -> None:
    answer = {"python": [3, 11, 2], "packages": {"numpy": None}, "missing": [], "pip": pip, "managed": managed}
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {shlex.quote(json.dumps(answer))}\n")
    python.chmod(0o755)
    with pytest.raises(UnavailableError, match="device has no numpy") as refused:
        RemoteSweep(Ssh(Host("device"), stand_in(tmp_path, python))).start(packing(run, pixels))
    assert refused.value.hint == f"there: {command}"


@pytest.mark.parametrize("end", ["exit 255", "kill -KILL $$"])
def test_a_line_that_is_cut_through_is_a_connection_that_broke(tmp_path: Path, end: str) -> None:
    program = tmp_path / "ssh"
    program.write_text(f'#!/bin/sh\nprintf \'{{"event": "planned", "cells": 2}}\\n{{"event": "st\'\n{end}\n')
    program.chmod(0o755)
    with pytest.raises(UnavailableError, match="the connection to device broke"):
        RemoteSweep(Ssh(Host("device"), (str(program),))).follow(tmp_path / "results.jsonl", Told())


@pytest.mark.parametrize(
    ("ended", "kind", "message", "hint"),
    [
        ("echo 'error: a; $b\n\nhint: do c' >&2; exit 2", UsageError, "device: a; $b", "do c"),
        ("echo 'error: a\n\nhint: do c' >&2; exit 3", UnavailableError, "device: a", "do c"),
        ("echo 'error: a' >&2; exit 1", CheckFailedError, "device: a", "see what it lacks, and try again"),
        ("echo 'Traceback\n  b\nOSError: c' >&2; exit 2", CheckFailedError, "device: OSError: c", "see what it"),
        ("exit 9", CheckFailedError, "device: a command ended with exit code 9", "see what it"),
    ],
)
def test_how_a_command_failed_there_is_how_it_fails_here(
    tmp_path: Path, ended: str, kind: type[Exception], message: str, hint: str
) -> None:
    with pytest.raises(kind) as failed:
        Ssh(Host("device"), stand_in(tmp_path, None, ended)).run(["true"])
    assert type(failed.value) is kind
    assert str(failed.value) == message
    assert getattr(failed.value, "hint", "").startswith(hint)


def test_a_shell_that_talks_is_a_sentence(run: Run, pixels: PixelStore, python: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError, match="answers what is no JSON: b'welcome"):
        RemoteSweep(Ssh(Host("device"), stand_in(tmp_path, python, "echo welcome"))).start(packing(run, pixels))


def test_a_full_disk_is_a_sentence_and_nothing_stays_half_copied(
    run: Run, pixels: PixelStore, python: Path, tmp_path: Path
) -> None:
    limited = stand_in(tmp_path, python, "ulimit -f 200")  # blocks of 1 kB
    with pytest.raises(UsageError, match="cannot be written: file too large"):
        RemoteSweep(Ssh(Host("device"), limited)).start(packing(run, pixels, "ort-cpu"))
    there = tmp_path / "home" / ROOT
    assert {path.suffix for path in there.rglob("*") if path.is_file()} >= {".pyz", ".json"}
    assert not [path for path in there.rglob("*") if path.suffix in (".onnx", ".part")]
    assert all(sha256_of(path) == path.stem for path in (there / "blobs").iterdir())


def test_a_file_that_changed_there_is_copied_again(run: Run, pixels: PixelStore, python: Path, tmp_path: Path) -> None:
    told = Told()
    ssh = Ssh(Host("device", device=Device(threads=1)), stand_in(tmp_path, python))
    RemoteSweep(ssh).start(packing(run, pixels, "ort-cpu"))
    blob = max((tmp_path / "home" / ROOT / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + b"?")
    sweep = RemoteSweep(ssh, told.progress)
    sweep.start(packing(run, pixels, "ort-cpu"))
    assert told.copied[-1] == len(content)
    assert blob.read_bytes() == content
    clean(ssh)
    assert not (tmp_path / "home" / ROOT).exists()


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("ssh://pi", Host("pi")),
        ("ssh://pi@raspberry.local:2222", Host("raspberry.local", "pi", 2222)),
        ("ssh://[fe80::1%eth0]:22/cpu:threads=2", Host("fe80::1%eth0", None, 22, Device(threads=2))),
        ("ssh://a@b/cpu:threads=1,memory=512MiB", Host("b", "a", None, Device("cpu", 1, 2**29))),
        ("kitchen=ssh://a@b:22", Host("b", "a", 22, Device(), "kitchen")),
    ],
)
def test_hosts_are_named_as_ssh_names_them(text: str, host: Host) -> None:
    assert host_from_text(text) == host
    assert host_from_text(host.text) == host


@pytest.mark.parametrize(
    "text",
    [
        "ssh://", "ssh://-oProxyCommand=touch pwned", "ssh://a;touch pwned", "ssh://$(touch pwned)", "ssh://a b",
        "ssh://`touch pwned`@host", "ssh://-l@host", "ssh://host:0", "ssh://host:99999", "ssh://host:2x", "ssh://a@b@c",
        "ssh://host\nother", "ssh://host/tpu", "ssh://host/cpu:threads=0", "a b=ssh://host", "-x=ssh://host",
        "$(touch pwned)=ssh://host", "cpu",
    ],
)  # fmt: skip
def test_what_is_no_host_reaches_no_shell(text: str) -> None:
    with pytest.raises(UsageError):
        host_from_text(text)


def test_a_host_is_called_by_its_name_and_reached_by_its_address() -> None:
    called = host_from_text("kitchen=ssh://pi@board")
    assert (str(called), called.address) == ("kitchen", "pi@board")
    assert names_host("kitchen=ssh://pi@board")
    assert names_host("ssh://pi")
    assert not names_host("cpu:threads=1")


def test_a_device_says_what_it_is_and_how_hot_without_numpy(tmp_path: Path, python: Path) -> None:
    sweep = RemoteSweep(Ssh(Host("device"), stand_in(tmp_path, python)))
    found = sweep.facts()
    # The stand-in is this machine.
    here = capture_environment()
    assert found.environment.hardware == here.hardware
    assert (found.environment.cpu, found.environment.ram_bytes) == (here.cpu, here.ram_bytes)
    assert found.board.note == BoardMeter().conditions().note


def test_words_reach_the_other_side_as_they_are(tmp_path: Path, python: Path) -> None:
    words = ["python3", "-c", "import sys; print(sys.argv[1:])", NASTY, "a b", "'\"\\", ""]
    answer = Ssh(Host("device"), stand_in(tmp_path, python)).run(words)
    assert answer.decode().strip() == repr(words[3:])
    assert not list(tmp_path.rglob("pwned"))


def test_without_ssh_there_is_a_sentence() -> None:
    with pytest.raises(UnavailableError, match="there is no ssh on this machine"):
        Ssh(Host("device"), (f"/nowhere/{os.getpid()}",)).run(["true"])
