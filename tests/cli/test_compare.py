import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Effvit
from outcomes import ENVIRONMENT, make_outcome, make_samples, without_evidence

from effvit.profiling.records import Outcome
from effvit.profiling.results import encode

HOSTILE = '</td><img src=x onerror="alert(1)">|`*'


def written(path: Path, outcomes: Sequence[Outcome]) -> Path:
    path.write_bytes(b"".join(encode(outcome) + b"\n" for outcome in outcomes))
    return path


def timed(outcome: Outcome, seconds: float) -> Outcome:
    assert outcome.evidence is not None
    rounds = tuple((seconds * factor,) for factor in (0.999, 1, 1.001, 0.999, 1, 1.001))
    return replace(outcome, evidence=replace(outcome.evidence, samples=make_samples(*rounds)))


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    return written(tmp_path / "a.jsonl", [timed(make_outcome("softmax"), 0.01), timed(make_outcome("linformer"), 0.01)])


@pytest.fixture
def slower(tmp_path: Path) -> Path:
    return written(
        tmp_path / "b.jsonl", [timed(make_outcome("softmax"), 0.01), timed(make_outcome("linformer"), 0.011)]
    )


def test_equal_files_pass(effvit: Effvit, baseline: Path) -> None:
    answer = effvit("compare", baseline, baseline)
    assert answer.code == 0
    assert "Passed: of 2 cells 2 same." in answer.out
    assert "No noise floor is known" in answer.out
    assert "limits: latency_p50>+3%, throughput<-3%, memory>+5%, top1<-0.5" in answer.out


def test_a_regression_is_exit_4_and_names_its_cell(effvit: Effvit, baseline: Path, slower: Path) -> None:
    answer = effvit("compare", baseline, slower)
    assert answer.code == 4
    assert "Regressed: of 2 cells" in answer.out
    sentence = "1 of 2 cells regressed; the first, linformer, 224 px, batch 1, fp32, torch, regressed: latency_p50 +10"
    assert sentence in " ".join(answer.err.split())
    assert "hint:" in answer.err


def test_limits_and_a_noise_floor_are_heard(effvit: Effvit, baseline: Path, slower: Path) -> None:
    assert effvit("compare", baseline, slower, "--fail-on", "latency_p50>+20%").code == 0
    assert effvit("compare", baseline, slower, "--fail-on", "memory>+5%").code == 0
    hidden = effvit("compare", baseline, slower, "--noise-floor", "15%")
    assert hidden.code == 0
    assert "noise floor of latency_p50 on cpu: 15 %, given" in hidden.out


def test_several_files_of_a_baseline_show_its_noise_floor(effvit: Effvit, tmp_path: Path, baseline: Path) -> None:
    second = written(
        tmp_path / "second.jsonl", [timed(make_outcome("softmax"), 0.0103), timed(make_outcome("linformer"), 0.0099)]
    )
    answer = effvit("compare", baseline, second, baseline)
    assert answer.code == 0
    assert "estimated from 2 sittings of 2 cells" in answer.out


def test_json_holds_every_number(effvit: Effvit, baseline: Path, slower: Path) -> None:
    answer = effvit("compare", baseline, slower, "--json")
    assert answer.code == 4
    data = json.loads(answer.out)
    assert data["verdict"] == "regressed"
    assert [cell["verdict"] for cell in data["cells"]] == ["same", "regressed"]
    latency = data["cells"][1]["changes"][0]
    assert latency["name"] == "latency_s.p50"
    assert latency["change"]["value"] == pytest.approx(0.1)
    assert latency["change"]["low"] < 0.1 < latency["change"]["high"]


def test_markdown_begins_with_the_verdict_and_goes_on_with_the_environment(
    effvit: Effvit, tmp_path: Path, baseline: Path
) -> None:
    renewed = replace(ENVIRONMENT, python="3.12.0")
    now = written(
        tmp_path / "b.jsonl",
        [
            replace(timed(make_outcome("softmax"), 0.01), environment=renewed),
            replace(without_evidence(make_outcome("linformer"), "oom", "open", "too large"), environment=renewed),
        ],
    )
    assert effvit("compare", baseline, now, "--markdown", tmp_path / "pull.md").code == 4
    text = (tmp_path / "pull.md").read_text()
    assert text.startswith("**Regressed: of 2 cells ")
    assert text.index("Python: 3.11.9 -> 3.12.0") < text.index("| --- |")
    assert "| linformer | 1 | 224 | - | - | - | - | failed now, oom: too large |" in text
    to_stdout = effvit("compare", baseline, now, "--markdown", "-")
    assert to_stdout.out == text


def test_what_is_missing_does_not_have_the_reason_of_what_is_there(effvit: Effvit, tmp_path: Path) -> None:
    shaken = replace(make_outcome("linformer"), status="unstable", stage="measure", reason="a neighbour")
    before = written(tmp_path / "a.jsonl", [make_outcome("softmax"), shaken])
    answer = effvit("compare", before, written(tmp_path / "b.jsonl", [make_outcome("softmax")]))
    assert answer.code == 0
    assert any(line.rstrip().endswith("missing in B") for line in answer.out.splitlines())
    assert "a neighbour" not in answer.out


def test_hostile_names_stay_text(effvit: Effvit, tmp_path: Path) -> None:
    hostile = replace(make_outcome("softmax"), run=HOSTILE, data=HOSTILE, reason=HOSTILE)
    other = replace(make_outcome("linformer"), data=HOSTILE + "2", run=HOSTILE, notes=(HOSTILE,))
    model = replace(other.cell.model, backbone=HOSTILE)
    other = replace(other, cell=replace(other.cell, model=model, backend=HOSTILE))
    before = written(tmp_path / "a.jsonl", [hostile, other])
    failed = without_evidence(other, "failed", "open", HOSTILE)
    answer = effvit("compare", before, written(tmp_path / "b.jsonl", [hostile, failed]), "--markdown", "-")
    assert answer.code == 4
    assert "<img" not in answer.out
    assert "</td>" not in answer.out
    lines = [line.replace("\\|", "") for line in answer.out.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1, "no name opens a cell"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no result file"),
        (b"", "holds no outcomes"),
        (b'{"schema": "effvit.res', "holds no outcomes"),
        (b'{"schema": "effvit.result/9"}\n', "newer than 'effvit.result/3'"),
        (b'{"schema": "mlperf.result/1"}\n', "the schema is 'mlperf.result/1', not"),
        (b'{"schema": "effvit.result/1"}\n', "line 1: cell is not an object"),
        (b'{"schema": "effvit.result/3", "cell": 3}\n', "line 1"),
        (b'{"a": 1}\n', "not a line of a result file"),
        (b"PK\x03\x04\xff\xfe\n\n", "not a line of a result file"),
        (b"<html><script>alert(1)</script>\n", "not a line of a result file"),
    ],
)
@pytest.mark.parametrize("command", ["compare", "recommend", "report"])
def test_files_that_are_none_are_refused_in_a_sentence(
    effvit: Effvit, tmp_path: Path, baseline: Path, command: str, content: bytes | None, words: str
) -> None:
    broken = tmp_path / "broken.jsonl"
    if content is not None:
        broken.write_bytes(content)
    arguments = [baseline, broken] if command == "compare" else [broken]
    answer = effvit(command, *arguments)
    assert answer.code == 2
    assert answer.out == ""
    assert words in answer.err
    assert "hint:" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "one result file cannot be compared"),
        (["a.jsonl", "--fail-on", "speed>+3%"], "there is no metric named 'speed'"),
        (["a.jsonl", "--fail-on", "latency_p50"], "is not a limit"),
        (["a.jsonl", "--fail-on", "top1<-1", "--fail-on", "top1<-2"], "limits a metric twice"),
        (["a.jsonl", "--noise-floor", "much"], "'much' is not a percentage"),
        (["a.jsonl", "--json", "--markdown", "-"], "both write to stdout"),
    ],
)
def test_what_cannot_be_compared(effvit: Effvit, baseline: Path, arguments: list[str], words: str) -> None:
    answer = effvit("compare", baseline, *arguments)
    assert answer.code == 2
    assert words in answer.err
    assert answer.out == ""
