"""`effvit export --executorch`, `effvit inspect` of a program, and where there is no ExecuTorch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Effvit, refused
from untrained_runs import make_run

from effvit.export.base import backends, pick_backend

MISSING = pick_backend("executorch").unavailable()
needs_executorch = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return a folder of runs with one, `soft`."""
    make_run(tmp_path / "runs", "softmax", name="soft")
    return tmp_path / "runs"


@pytest.fixture
def no_executorch(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = replace(pick_backend("executorch"), unavailable=lambda: "it is not here")
    monkeypatch.setitem(backends(), "executorch", missing)  # type: ignore[arg-type]  # discovery returns a dict


@needs_executorch
@pytest.mark.slow  # lowering takes half a minute of one core
def test_a_program_is_exported_and_shown(effvit: Effvit, runs: Path) -> None:
    exported = effvit(
        "export", "soft", "--runs", runs, "--executorch", "fp32", "--batch", "2", "--verify-images", "5", "--threads",
        "1", "--json",
    )  # fmt: skip
    assert exported.code == 0, exported.err
    (artifact,) = json.loads(exported.out)
    assert (artifact["format"], artifact["batch"], artifact["precision"]) == ("executorch", 2, "fp32")
    assert artifact["parity"]["images"] == 5
    assert dict(artifact["built_with"]).keys() >= {"executorch", "torchao", "torch"}
    assert "XNNPACK runs " in exported.err
    shown = effvit("inspect", artifact["path"])
    assert (shown.code, shown.err) == (0, "")
    for words in ("fp32 (2, 3, 32, 32)", "test_vit, softmax attention", "to XnnpackBackend", "native_layer_norm"):
        assert words in shown.out
    (newest,) = json.loads(effvit("inspect", "--runs", runs, "--json").out)["verdicts"]
    assert newest["backend"] == "executorch"


@needs_executorch
def test_precisions_that_xnnpack_has_not_are_exit_3(effvit: Effvit, runs: Path) -> None:
    refused(
        effvit("export", "soft", "--runs", runs, "--executorch", "bf16"), 3, "executorch does not run bf16",
        "fp32, int8",
    )  # fmt: skip


def test_files_that_are_no_programs_are_exit_2(effvit: Effvit, tmp_path: Path) -> None:
    (tmp_path / "empty.pte").touch()
    (tmp_path / "picture.pte").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (tmp_path / "torn.pte").write_bytes(b"\x10\0\0\0ET12eh00")
    refused(effvit("inspect", tmp_path / "empty.pte"), 4, "empty.pte is empty")
    refused(effvit("inspect", tmp_path / "picture.pte"), 4, "picture.pte is not an ExecuTorch program")
    refused(effvit("inspect", tmp_path / "torn.pte"), 4, "torn.pte is damaged: it breaks off")
    refused(effvit("inspect", "nowhere.pte"), 2, "there is no file nowhere.pte")


@pytest.mark.usefixtures("no_executorch")
def test_where_there_is_no_executorch_is_exit_3(effvit: Effvit, runs: Path, tmp_path: Path) -> None:
    hint = "pip install 'effvit[executorch]'"
    refused(effvit("export", "soft", "--runs", runs, "--executorch", "fp32"), 3, "executorch cannot run here", hint)
    header = (0).to_bytes(4, "little") + b"ET12eh00" + (32).to_bytes(4, "little") + bytes(24)
    (tmp_path / "some.pte").write_bytes(header)
    refused(effvit("inspect", tmp_path / "some.pte"), 3, "executorch cannot run here", hint)
