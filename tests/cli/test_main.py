from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import Effvit

from effvit import __version__
from effvit.cli import main as main_module
from effvit.cli.main import app

COMMANDS = (
    "doctor",
    "list",
    "attention",
    "finetune",
    "evaluate",
    "export",
    "refit",
    "inspect",
    "diff",
    "profile",
    "report",
    "study",
    "runs",
)


def python(*arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, **kwargs)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option_and_says_what_it_does(effvit: Effvit, command: str) -> None:
    answer = effvit(command, "--help")
    assert (answer.code, answer.err) == (0, "")
    group: Any = typer.main.get_command(app)
    for parameter in group.commands[command].params:
        assert parameter.help, parameter.name
        if parameter.param_type_name == "option":
            assert parameter.opts[0] in answer.out
    assert "<" not in answer.out.partition("Options:")[2]  # every value has a name, not a Python type


def test_help_lists_every_command_whole(effvit: Effvit) -> None:
    answer = effvit("--help")
    assert answer.code == 0
    assert all(f"\n  {command} " in answer.out for command in COMMANDS)
    assert "..." not in answer.out.partition("Commands:")[2]


def test_without_a_command_there_is_help(effvit: Effvit) -> None:
    assert effvit() == effvit("--help")


def test_version_is_data(effvit: Effvit) -> None:
    answer = effvit("--version")
    assert (answer.code, answer.out, answer.err) == (0, f"effvit {__version__}\n", "")


HELP = "import sys; sys.argv[1:] = ['--help']\nfrom effvit.cli.main import main\ntry: main()\nexcept SystemExit: pass"


@pytest.mark.parametrize("code", ["import effvit", HELP])
def test_importing_and_helping_need_nothing_heavy(code: str) -> None:
    heavy = "{'torch', 'timm', 'numpy', 'rich', 'PIL', 'onnx', 'pandas', 'email', 'msgspec'}"
    ended = python("-c", f"{code}\nimport sys; print(sorted({heavy} & set(sys.modules)), file=sys.stderr)")
    assert ended.stderr.strip() == "[]"


@pytest.mark.parametrize("kind", ["attention", "backends", "metrics", "data", "models"])
def test_lists_are_data_in_both_forms(effvit: Effvit, kind: str) -> None:
    table, answer = effvit("list", kind), effvit("list", kind, "--json")
    rows = json.loads(answer.out)
    assert table.code == answer.code == 0
    assert table.err == answer.err == ""
    assert rows
    assert all(row["name"] in table.out and row["summary"] for row in rows)


def test_doctor_says_how_to_get_what_is_missing(effvit: Effvit) -> None:
    diagnosis = json.loads(effvit("doctor", "--json").out)
    text = " ".join(effvit("doctor").out.split())
    assert {backend["name"] for backend in diagnosis["backends"]} >= {"torch", "ort-cpu", "tensorrt"}
    for backend in diagnosis["backends"]:
        assert backend["name"] in text
        if backend["unavailable"]:
            assert backend["install"]
    computes_on = {backend["name"]: backend["devices"] for backend in diagnosis["backends"]}
    assert computes_on["torch"] == ["cpu", "cuda"]
    assert computes_on["ort-cpu"] == ["cpu"]


def test_doctor_says_what_reaches_gpus_and_how_to_get_it(effvit: Effvit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    libraries = json.loads(effvit("doctor", "--json").out)["libraries"]
    assert [library["name"] for library in libraries] == ["PyCUDA", "cuda-bindings"]
    text = " ".join(effvit("doctor").out.split())
    for library in libraries:
        assert "cannot be imported" in library["unavailable"]
        assert library["install"].startswith("pip install ")
        assert library["name"] in text
    assert "pip install 'effvit[tensorrt]'" in text


def test_doctor_names_gpus_as_profile_takes_them(
    effvit: Effvit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Some GPU, 1.2'; echo 'Other GPU, 1.2'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert "cuda:0 Some GPU, 1.2, cuda:1 Other GPU, 1.2" in " ".join(effvit("doctor").out.split())


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["profle"], "no such command 'profle'", "did you mean profile?"),
        (["profile", "--bach", "3"], "no such option: --bach", "did you mean --backend or --batch or --max-batch?"),
        (["finetune", "--epochs", "0"], "--epochs must be greater than or equal to 1", "see `effvit finetune --help`"),
        (["finetune", "--epochs", "x"], "--epochs must be a valid integer", "see `effvit finetune --help`"),
        (["list"], "missing argument", "see `effvit list --help`"),
        (["list", "pets"], "'pets' is not one of 'attention'", "see `effvit list --help`"),
        (["finetune", "a", "b"], "got unexpected extra argument", "see `effvit finetune --help`"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_a_hint(
    effvit: Effvit, arguments: list[str], message: str, hint: str
) -> None:
    answer = effvit(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert message in answer.err
    assert answer.err.endswith(f"\n\nhint: {hint}\n")


def test_ctrl_c_is_one_line_and_130(effvit: Effvit, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("effvit.cli.cmd_doctor.diagnose", interrupt)
    answer = effvit("doctor")
    assert (answer.code, answer.out) == (main_module.INTERRUPTED, "")
    assert answer.err == "interrupted; what was finished is on disk\n"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        ended = subprocess.run(
            [sys.executable, "-m", "effvit.cli.main", "list", "data"], stdout=gone, stderr=subprocess.PIPE, check=False
        )
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a Linux device")
@pytest.mark.parametrize("arguments", [["list", "data"], ["list", "data", "--json"], ["--version"]])
def test_a_full_disk_behind_stdout_is_one_sentence(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "effvit.cli.main", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: the result cannot be written to stdout: no space left on device\n\nhint: ")
