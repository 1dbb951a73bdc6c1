"""A whole study on this machine and on one behind ssh, with a server on a loopback port and a Python without torch."""

from __future__ import annotations

import os
import shlex
import shutil
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import bare_python
from command_line import Effvit, refused
from pictures import write_folder
from ssh_server import SSHD, Server, running_server

from effvit.profiling.results import read

pytest.importorskip("onnxruntime")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SSHD is None, reason="there is no sshd (Debian: openssh-server)"),
]


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("device")
    with running_server(folder / "server", bare_python(folder)) as one:
        yield one


@pytest.fixture
def address(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what --device calls the server; the ssh on the path knows it, and its keys."""
    program = tmp_path / "programs/ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {shlex.quote(str(server.config))} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return f"ssh://127.0.0.1:{server.port}"


@pytest.mark.timeout(900)
def test_a_study_ranks_mechanisms_on_both_machines(
    effvit: Effvit, address: str, server: Server, tmp_path: Path
) -> None:
    write_folder(tmp_path / "pictures", {"cat": 6, "dog": 6})
    study = (
        "study", "test_vit", "--data", tmp_path / "pictures", "--attn", "softmax,linformer,sra", "--weights", "none",
        "--epochs", 1, "--train-batch", 4, "--train-res", 32, "--res", "32,64", "--batch", 1, "--threads", 1,
        "--backend", "ort-cpu", "--device", "cpu:threads=1", "--device", address, "--max-noise", "inf", "--out", "s",
    )  # fmt: skip
    foretold = effvit(*study, "--dry-run")
    assert foretold.code == 0, foretold.err
    assert "12 cells" in foretold.out
    assert "not in this: 6 cells on other machines" in foretold.out
    assert sum(line.split()[5:6] == [address] for line in foretold.out.splitlines()) == 6

    answer = effvit(*study)
    assert answer.code in (0, 5), answer.err  # on a busy machine cells are unstable
    outcomes = read(tmp_path / "s/results.jsonl")
    assert len(outcomes) == 12
    assert Counter(str(one.cell.device) for one in outcomes) == {"cpu:threads=1": 6, "cpu": 6}
    assert {one.status for one in outcomes} <= {"ok", "unstable"}
    page = (tmp_path / "s/report/report.html").read_text()
    if {one.status for one in outcomes} == {"ok"}:
        assert "Kendall&#39;s tau" in page
        assert "From device to device" in (tmp_path / "s/report/report.md").read_text()
    described = tomllib.loads((tmp_path / "s/study.toml").read_text())
    assert described["device"] == ["cpu:threads=1", address]

    before = (tmp_path / "s/results.jsonl").read_bytes()
    again = effvit("study", "s/study.toml", "--out", "s")
    assert again.code == answer.code, again.err
    assert (tmp_path / "s/results.jsonl").read_bytes() == before
    cleaned = effvit("agent", "clean", address)
    assert cleaned.code == 0, cleaned.err


def test_fit_asks_the_device_and_copies_nothing_but_the_agent(effvit: Effvit, address: str, server: Server) -> None:
    answer = effvit(
        "fit", "test_vit", "--attn", "softmax,linformer", "--res", 160, "--device", address, "--max-memory", "1GiB"
    )
    assert answer.code == 0, answer.err
    assert answer.out.startswith(f"{address}: ")
    assert "Of 2 cells 2 fit" in answer.out
    copied = [path.suffix for path in server.home.rglob("*") if path.is_file() and ".cache/effvit-agent" in str(path)]
    assert copied == [".pyz"]
    part = f"{address}/cpu:threads=999"
    refused(effvit("fit", "test_vit", "--device", part, "--max-memory", "1GiB"), 4, "are more than the")


def test_a_host_that_is_gone_is_a_sentence_before_anything_is_trained(effvit: Effvit, tmp_path: Path) -> None:
    refused(effvit("study", "--device", "ssh://nowhere.invalid", "--out", "s"), 3, "nowhere.invalid cannot be found")
    refused(effvit("study", "--device", "ssh://a b", "--out", "s"), 2, "is not the name of a host")
    assert not (tmp_path / "s").exists()
