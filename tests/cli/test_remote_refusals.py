"""What goes wrong between two machines, through the command line and a real ssh server: a sentence and an exit code."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agents import bare_environment, bare_python, run_agent, stand_in
from command_line import Answer, Effvit, refused
from ssh_server import SSHD, Server, running_server

from effvit.profiling.agent.remote import ROOT

pytest.importorskip("onnxruntime")
needs_sshd = pytest.mark.skipif(SSHD is None, reason="there is no sshd (Debian: openssh-server)")
Profile = Callable[..., Answer]
# The name of a file that must not come to be.
CANARY = "canary"
NASTY_HOSTS = (
    f"ssh://-oProxyCommand=touch {CANARY}/",
    f"ssh://-oProxyCommand=touch${{IFS}}{CANARY}",
    f"ssh://host;touch {CANARY}",
    f"ssh://$(touch {CANARY})",
    f"ssh://`touch {CANARY}`@host",
    f"ssh://host'; touch {CANARY}; '",
    f'ssh://host"; touch {CANARY}; "',
    f"ssh://host\ntouch {CANARY}",
    f"ssh://user@-oProxyCommand=touch {CANARY}",
    f"ssh://host | touch {CANARY}",
    f"ssh://host:22;touch {CANARY}",
    f"ssh://host/cpu:threads=$(touch {CANARY})",
)
# The last byte of every part that is copied arrives as another; the line before, which says what comes, is as it was.
_GARBLE = """\
import sys
source, target = sys.stdin.buffer, sys.stdout.buffer
target.write(source.readline())
target.flush()
for part in iter(lambda: source.read1(65536), b""):
    target.write(part[:-1] + bytes([part[-1] ^ 1]))
    target.flush()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with running_server(folder / "sshd", bare_python(folder)) as one:
        yield one


@pytest.fixture
def profile(
    effvit: Effvit, server: Server, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Profile]:
    """Return a function that measures one cell on a device, through what is given for ssh."""

    def run(*options: str, before: str = "", device: str = f"ssh://127.0.0.1:{server.port}") -> Answer:
        client = server.client(tmp_path / "client", before, *options)
        monkeypatch.setenv("PATH", f"{client}:{os.environ['PATH']}")
        cells = ("lin", "--batch", 1, "--backend", "ort-cpu", "--runs", trained / "runs", "--out", "results.jsonl")
        return effvit("profile", *cells, "--samples", 2, "--least-s", 0, "--eval-images", 2, "--device", device)

    yield run
    assert not (tmp_path / "results.jsonl").exists()


@needs_sshd
def test_a_host_that_is_not_there(profile: Profile) -> None:
    refused(profile(device="ssh://nowhere.invalid"), 3, "nowhere.invalid cannot be found", "check the name")


@needs_sshd
def test_a_port_on_which_nobody_listens(profile: Profile) -> None:
    refused(profile(device="ssh://127.0.0.1:1"), 3, "127.0.0.1 refuses connections", "name another port")


@needs_sshd
def test_a_key_that_is_refused(profile: Profile, server: Server) -> None:
    # The first key that is named is the one that is offered.
    stranger = profile("-o", f"IdentityFile={server.keys / 'stranger'}", "-F", _without_keys(server))
    refused(stranger, 3, "127.0.0.1 accepts none of your keys", "ssh-copy-id")


def _without_keys(server: Server) -> str:
    lines = server.config.read_text().splitlines()
    path = server.config.with_name("keyless")
    path.write_text("\n".join(line for line in lines if "IdentityFile" not in line) + "\n")
    return str(path)


@needs_sshd
def test_a_host_key_that_is_another_than_before(profile: Profile, server: Server, tmp_path: Path) -> None:
    kind, key = (server.keys / "stranger.pub").read_text().split()[:2]
    (tmp_path / "changed").write_text(f"[127.0.0.1]:{server.port} {kind} {key}\n")
    changed = profile("-o", f"UserKnownHostsFile={tmp_path / 'changed'}")
    refused(changed, 3, "127.0.0.1 shows another key than before", "ssh-keygen -R")


@needs_sshd
def test_a_host_key_that_nobody_has_seen_yet(profile: Profile, tmp_path: Path) -> None:
    unknown = profile("-o", f"UserKnownHostsFile={tmp_path / 'none'}")
    refused(unknown, 3, "127.0.0.1 is not known to ssh here", "connect to it once with ssh")


@pytest.mark.slow
@needs_sshd
def test_a_bundle_that_changes_on_the_way(profile: Profile, server: Server) -> None:
    code = shlex.quote(_GARBLE)
    answer = profile(before=f"{shlex.quote(sys.executable)} -c {code} |")
    refused(answer, 4, "127.0.0.1: a file changed on the way", "it is copied anew")
    copied = server.home / ROOT
    assert not [path for path in copied.rglob("*") if path.is_file()], "what was changed is kept"


@pytest.mark.slow
@needs_sshd
def test_an_agent_of_another_version_at_work(profile: Profile, server: Server) -> None:
    other = server.home / ROOT / "kits/0123456789abcdef"
    other.mkdir(parents=True)
    with (other / "running.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the one that measures it does
        answer = profile()
    refused(answer, 2, "another kit, 0123456789abcdef, is being measured on this machine", "another version")
    assert "end it and remove it with `effvit agent clean`" in answer.err


@pytest.mark.slow
def test_an_agent_and_a_kit_of_different_versions_by_hand(effvit: Effvit, trained: Path, tmp_path: Path) -> None:
    cells = ("lin", "--batch", 1, "--eval-images", 2, "--runs", trained / "runs")
    assert effvit("agent", "build", "--out", "agent.pyz").code == 0
    assert effvit("agent", "pack", *cells, "--out", "kit").code == 0
    kit = json.loads((tmp_path / "kit/kit.json").read_bytes())
    (tmp_path / "kit/kit.json").write_text(json.dumps({**kit, "code": "0123456789ab"}))
    ended = run_agent(tmp_path / "agent.pyz", bare_environment(tmp_path / "bare"), "run", tmp_path / "kit")
    refused(Answer(ended.returncode, ended.stdout, ended.stderr), 2, f"and this one is of {kit['code']}")


@pytest.mark.parametrize("host", NASTY_HOSTS)
def test_a_host_that_is_a_command_executes_nothing(effvit: Effvit, trained: Path, tmp_path: Path, host: str) -> None:
    for command in (("profile", "--device", host, "--runs", trained / "runs"), ("agent", "clean", "--", host)):
        refused(effvit(*command), 2)
    assert not list(tmp_path.iterdir())


def test_a_password_is_refused_and_not_repeated(effvit: Effvit) -> None:
    for url in ("ssh://pi:hunter2@board", "ssh://pi:hunter2@board:22/cpu", "ssh://pi:hun/ter2@board", "ssh://:x@y@z"):
        for command in (("profile", "--device", url), ("agent", "stop", url)):
            answer = effvit(*command)
            refused(answer, 2, "what looks like a password")
            assert "hun" not in answer.err


def test_an_agent_is_stopped_and_what_it_measured_stays(
    effvit: Effvit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, bare_python(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    kept = tmp_path / "home" / ROOT / "kits/0123456789abcdef/results.jsonl"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}\n")
    assert effvit("agent", "stop", "ssh://board").code == 0
    assert kept.read_text() == "{}\n"
    assert effvit("agent", "clean", "ssh://board").code == 0
    assert not kept.parent.exists()
