"""What must not happen when another machine measures: names that are executed, keys that are read, clocks believed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agents import bare_environment, bare_python, run_agent, stand_in
from command_line import Effvit
from ssh_server import SSHD, Server, running_server
from untrained_runs import make_run

from effvit.profiling.results import read

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow
CANARY = "canary"
NASTY = f'-oProxyCommand=touch {CANARY} "$(touch {CANARY})";`touch {CANARY}`&\'\n|touch {CANARY}'
EFFORT = ("--samples", 2, "--least-s", 0, "--rounds", 2, "--warmup-ms", 1, "--max-noise", "inf", "--eval-images", 2)
CELLS = ("--res", 32, "--batch", 1, "--backend", "ort-cpu", *EFFORT)
_opened: list[str] | None = None


def _note_files(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event == "open":
        _opened.append(os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes, Path)) else "")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that this process opens from now on."""
    sys.addaudithook(_note_files)  # it stays for good, and does nothing after the test
    names: list[str] = []
    monkeypatch.setattr(sys.modules[__name__], "_opened", names)
    return names


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a device whose home has such a name, and whose PATH leads to python3 alone: neither scp nor sftp."""
    folder = tmp_path_factory.mktemp("server")
    with running_server(folder / "sshd", bare_python(folder), home=folder / NASTY, path="/nowhere") as one:
        yield one


@pytest.mark.skipif(SSHD is None, reason="there is no sshd (Debian: openssh-server)")
def test_names_execute_nothing_and_keys_are_left_to_ssh(
    effvit: Effvit, server: Server, opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{server.client(tmp_path / 'client')}:{os.environ['PATH']}")
    runs, results, kit = (tmp_path / f"{NASTY} {what}" for what in ("runs", "results.jsonl", "kit"))
    make_run(runs, "softmax", name=NASTY)
    where, url = ("--runs", runs), f"ssh://127.0.0.1:{server.port}/cpu:threads=1"
    measured = effvit("profile", *CELLS, *where, "--device", url, f"--out={results}", "--", NASTY)
    assert measured.code == 0, measured.err
    assert [one.run for one in read(results)] == [NASTY]
    reported = effvit("report", "--json", "--", results)
    assert reported.code == 0, reported.err

    assert effvit("agent", "pack", *CELLS, *where, "--out", kit, "--", NASTY).code == 0
    assert effvit("agent", "build", "--out", f"{NASTY}.pyz").code == 0
    by_hand = run_agent(tmp_path / f"{NASTY}.pyz", bare_environment(tmp_path / "bare"), "run", kit)
    assert by_hand.returncode == 0, by_hand.stderr
    opened_by_us = list(opened)
    assert [one.run for one in read(kit / "results.jsonl")] == [NASTY]

    places = (tmp_path, server.home.parent, Path("/"), Path.cwd())
    assert not [place / CANARY for place in places if list(place.glob(CANARY))]
    assert not [path for place in places[:2] for path in place.rglob(CANARY)]
    secrets = [line for line in (server.keys / "user").read_bytes().splitlines() if not line.startswith(b"---")]
    assert len(secrets) > 3
    said = f"{measured.out}{measured.err}{reported.out}{by_hand.stdout}{by_hand.stderr}".encode()
    written = [path for place in (tmp_path, server.home) for path in place.rglob("*") if path.is_file()]
    assert len(written) > 10
    for content in (said, *(path.read_bytes() for path in written)):
        assert not any(secret in content for secret in secrets)
    assert str(results) in opened_by_us
    assert not [name for name in opened_by_us if Path(name).is_relative_to(server.keys)]
    assert effvit("agent", "clean", url).code == 0
    assert not list(server.home.glob(".cache/*"))  # nor of a runtime's


_OTHER_CLOCK = """\
import datetime, time
real = time.time
time.time = lambda: real() + {away_s}
class datetime_(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)
datetime.datetime = datetime_
"""


@pytest.fixture
def set_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that lets a device, which is reached through a stand-in for ssh, be so many years off."""
    python = bare_python(tmp_path)
    hooks = tmp_path / "bare/sitecustomize.py"
    before = hooks.read_text()
    stand_in(tmp_path, python)  # its ssh
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def set_to(years: int) -> None:
        hooks.write_text(before + _OTHER_CLOCK.format(away_s=years * 365 * 86400))

    return set_to


def test_a_clock_that_is_years_off_loses_doubles_and_reorders_nothing(
    effvit: Effvit, trained: Path, set_clock: Callable[[int], None], tmp_path: Path
) -> None:
    def profile(*batches: int) -> None:
        cells = ("lin", *CELLS, "--batch", ",".join(map(str, batches)), "--runs", trained / "runs")
        answer = effvit("profile", *cells, "--device", "ssh://board", "--out", "results.jsonl")
        assert answer.code == 0, answer.err

    results = tmp_path / "results.jsonl"
    set_clock(-30)
    profile(1)
    (early,) = read(results)
    assert early.finished < "2000"
    set_clock(30)
    profile(1)
    assert read(results) == [early]
    set_clock(0)
    profile(1, 2)  # another kit, which measures all its cells
    later = read(results)
    assert [one.cell.workload.batch for one in later] == [1, 2]
    assert later[0].finished > early.finished
    for years in (-30, 30):
        set_clock(years)
        profile(1, 2)
        assert read(results) == later
    assert len(results.read_bytes().splitlines()) == 3
