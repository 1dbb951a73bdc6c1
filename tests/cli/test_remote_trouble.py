"""A device with a real ssh server, a user of its own and a bare Python, to which everything happens that can."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from bare_venv import make_bare_venv
from command_line import Answer, Effvit
from ssh_server import SSHD, Server, cut_connections, own_user, processes_of, running_server
from untrained_runs import make_run

from effvit.errors import UnavailableError
from effvit.profiling.agent.remote import ROOT
from effvit.profiling.records import Outcome
from effvit.profiling.results import read
from effvit.surgery import attention_variants

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SSHD is None, reason="there is no sshd (Debian: openssh-server)"),
    pytest.mark.skipif(os.getuid() != 0, reason="only root makes users, and small disks"),
]
DISK_BYTES = 512 * 2**20
RESOLUTIONS, PRECISIONS = (32, 64), ("fp32", "int8")
CELLS = len(attention_variants()) * len(RESOLUTIONS) * len(PRECISIONS)
CUTS, KILLS = 10, 3
# Nothing is waited for longer than a sweep takes; a command that hangs is told from one that works.
PATIENCE_S = 300.0
LONGEST_S = 12.0
BROKE, KILLED, FULL = "broke", "the agent was killed", ("no space left on device", "the disk is full")


@dataclass(frozen=True, slots=True)
class Board:
    """The device: its server, its user, and its disk, which holds the home."""

    server: Server
    user: str

    @property
    def disk(self) -> Path:
        return self.server.home

    @property
    def url(self) -> str:
        return f"ssh://127.0.0.1:{self.server.port}/cpu:threads=1"

    def agents(self) -> list[psutil.Process]:
        """Return the processes that measure kits."""
        return processes_of(self.user, "--ended")


@pytest.fixture(scope="module")
def board() -> Iterator[Board]:
    """Return a device whose python3 has numpy and ONNX Runtime alone, with a small disk and neither scp nor sftp."""
    folder = Path(tempfile.mkdtemp(prefix="effvit-board-"))
    folder.chmod(0o755)  # another user works in it
    disk = folder / "disk"
    disk.mkdir()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        user = stack.enter_context(own_user(disk))
        options = f"size={DISK_BYTES},uid={pwd.getpwnam(user).pw_uid}"
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "board", str(disk)], check=False)
        if mounted.returncode:
            pytest.skip("no small disk can be mounted here")
        stack.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=True)
        python = _bare_python(folder / "venv", user)
        yield Board(
            stack.enter_context(running_server(folder / "sshd", python, home=disk, user=user, path="/nowhere")), user
        )


def _bare_python(folder: Path, user: str) -> Path:
    """Return a Python that `user` may run, with numpy and ONNX Runtime; the present one may lie in another's home."""
    try:
        python = make_bare_venv(folder, "/usr/bin/python3")
        subprocess.run([python, "-c", "import onnxruntime"], check=True, capture_output=True, user=user, cwd="/")
    except (UnavailableError, subprocess.CalledProcessError) as error:
        pytest.skip(f"there is no bare Python for a user: {error}")
    assert subprocess.run([python, "-c", "import torch"], check=False, capture_output=True).returncode
    return python


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run of every variant."""
    root = tmp_path_factory.mktemp("runs")
    for attention in attention_variants():
        make_run(root, attention)
    return root


class Trouble(threading.Thread):
    """Does something bad at a random moment, as soon as it can be done from then on; until it is called off."""

    def __init__(self, do: Callable[[], bool], after_s: float) -> None:
        super().__init__(daemon=True)
        self._do, self._after_s = do, after_s
        self._called_off = threading.Event()
        self.done = False

    def run(self) -> None:
        self._called_off.wait(self._after_s)
        while not self._called_off.is_set() and not self.done:
            self.done = self._do()
            self._called_off.wait(0.02)

    def call_off(self) -> None:
        self._called_off.set()
        self.join()


def cut_at_the_server(board: Board) -> bool:
    before = psutil.Process(board.server.process).children()
    cut_connections(board.server)
    return bool(before)


def cut_at_the_client(board: Board) -> bool:
    clients = [one for one in psutil.Process().children() if one.name() == "ssh"]
    for client in clients:
        client.kill()
    return bool(clients)


def kill_the_agent(board: Board) -> bool:
    agents = board.agents()
    for agent in agents:
        agent.kill()
    return bool(agents)


def fill_the_disk(board: Board) -> bool:
    """Fill the disk while the agent works."""
    if not board.agents():
        return False
    try:
        with (board.disk / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(2**20)):
                pass
    except OSError:
        return True
    return False


def troubles(moments: random.Random) -> list[tuple[Callable[[Board], bool], int, Sequence[str]]]:
    """Return what happens in which order, with the exit code and the words it ends a command with.

    What happens to an agent comes while there is one for certain; connections there are to the end.
    """
    cuts = [(moments.choice((cut_at_the_server, cut_at_the_client)), 3, (BROKE,)) for _ in range(CUTS)]
    others = [*((kill_the_agent, 4, (KILLED,)) for _ in range(KILLS)), (fill_the_disk, 2, FULL)]
    early = [*others, *cuts[: CUTS // 2]]
    moments.shuffle(early)
    return [*early, *cuts[CUTS // 2 :]]


@pytest.mark.timeout(3600)
def test_cuts_kills_and_a_full_disk_lose_nothing_and_double_nothing(
    effvit: Effvit,
    board: Board,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", f"{board.server.client(tmp_path / 'client')}:{os.environ['PATH']}")
    seed = random.randrange(2**32)
    moments, started = random.Random(seed), time.monotonic()

    def profile(results: str) -> Answer:
        axes = ("--res", ",".join(map(str, RESOLUTIONS)), "--precision", ",".join(PRECISIONS), "--batch", 1)
        effort = ("--samples", 5, "--least-s", 0, "--warmup-ms", 1, "--max-noise", "inf", "--eval-images", 40)
        names = sorted(attention_variants())
        return effvit("profile", *names, *axes, *effort, "--runs", runs, "--device", board.url, "--out", results)

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n{time.monotonic() - started:6.1f} s  {text}", end="")

    for do, code, words in troubles(moments):
        hit = False
        while not hit:
            trouble = Trouble(lambda do=do: do(board), moments.uniform(0, LONGEST_S))
            trouble.start()
            answer = profile("troubled.jsonl")
            trouble.call_off()
            (board.disk / "filler").unlink(missing_ok=True)
            finished = len(read(tmp_path / "troubled.jsonl")) if (tmp_path / "troubled.jsonl").exists() else 0
            said = answer.err.partition("error: ")[2].partition("\n")[0]
            say(f"{do.__name__}: exit code {answer.code}, {finished} outcomes: {said}")
            assert "Traceback" not in answer.err, f"seed {seed}: {answer.err}"
            hit = trouble.done and answer.code not in (0, 5)
            if hit:
                assert answer.code == code, f"seed {seed}: {answer.err}"
                assert any(word in answer.err for word in words), f"seed {seed}: {answer.err}"
    last = profile("troubled.jsonl")
    say(f"at last: {last.code}")
    troubled = read(tmp_path / "troubled.jsonl")
    (there,) = (board.disk / ROOT / "kits").glob("*/results.jsonl")
    for file in (tmp_path / "troubled.jsonl", there):
        assert len(file.read_bytes().splitlines()) == CELLS, f"seed {seed}"
        assert len({one.cell.key for one in read(file)}) == CELLS, f"seed {seed}"
    assert sorted(map(repr, read(there))) == sorted(map(repr, troubled)), f"seed {seed}"
    assert effvit("agent", "clean", board.url).code == 0
    assert not (board.disk / ROOT).exists()
    assert processes_of(board.user) == []

    undisturbed = profile("undisturbed.jsonl")
    say(f"undisturbed: {undisturbed.code}")
    assert last.code == undisturbed.code, undisturbed.err
    assert identities(troubled) == identities(read(tmp_path / "undisturbed.jsonl")), f"seed {seed}"


def identities(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Return by cell all that is the same whenever it is measured: what was measured, where, and what it computed."""
    found: dict[str, object] = {}
    for one in outcomes:
        fate = "measured" if one.status in ("ok", "unstable") else f"{one.status} {one.stage} {one.reason}"
        evidence = one.evidence
        facts = (evidence.artifact.sha256, evidence.parity, evidence.accuracy, evidence.settings) if evidence else None
        found[one.cell.key] = one.run, one.environment, fate, facts
    return found
