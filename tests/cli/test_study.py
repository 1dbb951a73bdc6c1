"""What `effvit study` says before it begins and at its end; that it goes on, test_commands.py sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Effvit, refused
from outcomes import make_sweep

from effvit.cli import forecasting
from effvit.cli.studying import show_choice
from effvit.profiling.forecast import Forecast, Span
from effvit.profiling.report.rows import make_rows

AXES = ("--attn", "softmax,linformer", "--res", "32,64", "--batch", "1,8", "--backend", "ort-cpu", "--out", "s")


@pytest.fixture
def foretold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Foretell what no probe has found out."""
    found = Forecast((("softmax", Span(240, 600)), ("linformer", Span(45, 45))), Span(300, 900), 8, 12.0)
    monkeypatch.setattr(forecasting, "forecast", lambda *_: found)


@pytest.mark.usefixtures("foretold")
def test_a_dry_run_prints_every_cell_and_the_time(effvit: Effvit, tmp_path: Path) -> None:
    answer = effvit("study", *AXES, "--precision", "fp32,fp8", "--dry-run")
    assert answer.code == 0, answer.err
    rows = [line.split() for line in answer.out.splitlines() if line.startswith(("softmax", "linformer"))]
    assert len(rows) == 2 * 2 * 2 * 2
    assert rows[0] == ["softmax", "32", "1", "fp32", "ort-cpu", "cpu"]
    assert all("skipped:" in row for row in rows if row[3] == "fp8")
    assert "8 of 16 cells are left to be measured" in answer.out
    assert "training softmax: 4 min to 10 min" in answer.out
    assert "training linformer: 45 s\n" in answer.out
    assert "altogether: 10 min to 26 min (finding this out took 12 s)" in answer.out
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["time.json"]


@pytest.mark.usefixtures("foretold")
def test_a_dry_run_as_json_holds_cells_and_seconds(effvit: Effvit) -> None:
    found = json.loads(effvit("study", *AXES, "--dry-run", "--json").out)
    assert len(found["cells"]) == 8
    assert found["cells"][0]["attention"] == "softmax"
    assert found["total"] == {"low_s": 585, "high_s": 1545}


def test_the_choice_is_the_one_of_recommend(capsys: pytest.CaptureFixture[str], effvit: Effvit, tmp_path: Path) -> None:
    from effvit.profiling.results import append

    for outcome in make_sweep():
        append(tmp_path / "r.jsonl", outcome)
    show_choice(make_rows(make_sweep()), tmp_path / "r.jsonl")
    out, err = capsys.readouterr()
    assert "where top-1 may be 1 point below softmax at the same size" in out
    assert "effvit recommend" in err
    recommended = effvit("recommend", tmp_path / "r.jsonl", "--max-drop", "1%").out.splitlines()
    assert [line.strip() for line in recommended] == [line.strip() for line in out.splitlines()[2:]]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--attn", ","], 2, "names no attention"),
        (["--attn", "softmaks"], 2, "did you mean softmax?"),
        (["--attn", "0-3:atrous+2:performer"], 2, "hint"),
        (["--res", "30"], 2, "30"),
        (["--res", "0"], 2, "an image cannot be 0 px"),
        (["--train-res", "32,64"], 2, "a study trains at one size"),
        (["--batch", "none"], 2, "'none' is not a batch"),
        (["--precision", "fp31"], 2, "did you mean fp32"),
        (["--backend", "ort-cpo"], 2, "did you mean ort-cpu"),
        (["--backend", "tensorrt"], 3, "tensorrt"),
        (["--device", "cuda:0"], 3, "GPU"),
        (["--device", "cpu:threads=100000"], 2, "is more than"),
        (["--data", "digit"], 2, "name digits"),
        (["--transfer-epochs", "1", "--attn", "linformer"], 2, "needs softmax, the teacher"),
        (["--epochs", "0"], 2, "epochs"),
        (["--lr", "fast"], 2, "lr"),
        (["--max-noise", "0"], 2, "max_noise must be positive"),
        (["not_a_model"], 2, "not_a_model"),
    ],
)  # fmt: skip
def test_what_cannot_be_studied_is_refused_before_anything_is_trained(
    effvit: Effvit, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    refused(effvit("study", *arguments, "--out", "s"), code, words)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_refuses_the_same(effvit: Effvit, tmp_path: Path) -> None:
    refused(effvit("study", "--dry-run", "--res", "30", "--out", "s"), 2, "30 px cannot be cut into")
    refused(effvit("study", "--dry-run", "--backend", "ort-cpo", "--out", "s"), 2, "did you mean ort-cpu")
    assert list(tmp_path.iterdir()) == []
