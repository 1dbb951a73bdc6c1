"""What is no result file, and what cannot be asked of one: a sentence, a hint, exit code 2, and nothing written."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import Effvit, refused
from outcomes import make_outcome, without_evidence

from effvit.profiling.results import encode
from effvit.spec import Swap

GOOD = encode(make_outcome("softmax"))


def changed(change: Callable[[Any], object]) -> bytes:
    """Return a line with a change."""
    data = json.loads(GOOD)
    change(data)
    return json.dumps(data).encode() + b"\n"


def evidence(**parts: object) -> bytes:
    return changed(lambda data: data["evidence"].update(parts))


def commands(path: object, good: Path) -> list[list[object]]:
    """Return every command that reads result files, with `path` where one is expected."""
    return [["report", path, "--out", "out"], ["recommend", path], ["compare", good, path], ["compare", path, good]]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.jsonl"
    path.write_bytes(GOOD + b"\n")
    return path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD[:-20], "holds no outcomes"),  # torn
        (GOOD + b"\n" + GOOD[:-20] + b"\n" + GOOD + b"\n", "line 2: not a line of a result file"),
        (b"\xef\xbb\xbf" + GOOD + b"\n", "line 1: not a line"),  # a byte order mark
        (GOOD.decode().encode("utf-16"), "holds no outcomes"),
        (b"[1, 2]\n", "line 1: not a line of a result file"),
        (b"null\n", "line 1: not a line of a result file"),
        (b'{"schema": 3}\n', "line 1: not a line of a result file"),
        (b"[" * 200_000 + b"\n", "line 1: not a line of a result file"),
        (b'{"schema": "effvit.result/3", "cell": ' + b"[" * 200_000 + b"\n", "line 1"),
        (b"\x00" * 4096 + b"\n", "line 1: not a line of a result file"),
        (b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"\n", "line 1: not a line"),
        (b'{"schema": "effvit.frontier/1", "cell": {}}\n', "the schema is 'effvit.frontier/1'"),
        (b'{"schema": "effvit.result/0"}\n', "the schema is 'effvit.result/0'"),
        (b'{"schema": "effvit.result/4", "cell": {}}\n', "newer than 'effvit.result/3'"),
        (b'{"schema": "effvit.result/2", "cell": {}, "evidence": 7}\n', "line 1"),
        (changed(lambda data: data.pop("environment")), "line 1: Object missing required field `environment`"),
        (changed(lambda data: data["cell"]["workload"].update(batch=-1)), "line 1"),
        (changed(lambda data: data["cell"]["workload"].update(batch="8")), "line 1"),
        (changed(lambda data: data.update(status="fine")), "line 1: Invalid enum value 'fine'"),
        (changed(lambda data: data.update(evidence=None)), "the status is 'ok', but there is no evidence"),
        (GOOD.replace(b'"seconds":[', b'"seconds":[NaN,') + b"\n", "line 1: not a line"),
        (GOOD.replace(b'"seconds":[', b'"seconds":[1e999,') + b"\n", "line 1"),
        (evidence(samples={**json.loads(GOOD)["evidence"]["samples"], "seconds": [0.1]}), "1 seconds for 36 rounds"),
        (evidence(throughput={"blocks": [[8, -1.0]], "left_out": []}), "a launch took no time"),
        (evidence(throughput={"blocks": [[8, 5e-324]], "left_out": []}), "a launch took no time"),
        (evidence(work={"images": 0, "least_bytes": 7}), "a call has no image"),
        (evidence(work={"images": 1, "least_bytes": 0}), "a call has no image"),
        (evidence(open_s=1e300), "a number is larger than 1e+18"),
        (changed(lambda data: data["cell"]["workload"].update(batch=10**400)), "a number is larger than"),
        (changed(lambda data: data["environment"].update(ram_bytes=-(10**30))), "a number is larger than"),
    ],
)
def test_content_that_is_no_result_file(effvit: Effvit, tmp_path: Path, good: Path, content: bytes, words: str) -> None:
    (tmp_path / "bad.jsonl").write_bytes(content)
    for command in commands("bad.jsonl", good):
        refused(effvit(*command), 2, "bad.jsonl", words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "good.jsonl"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing.jsonl", "there is no result file missing.jsonl"),
        ("folder", "folder cannot be read: Is a directory"),
        ("good.jsonl/results.jsonl", "cannot be read: Not a directory"),
        ("long" * 100, "cannot be read: File name too long"),
        ("", "cannot be read: Is a directory"),
    ],
)
def test_paths_that_lead_to_no_result_file(effvit: Effvit, tmp_path: Path, good: Path, path: str, words: str) -> None:
    (tmp_path / "folder").mkdir()
    for command in commands(path, good):
        refused(effvit(*command), 2, words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "good.jsonl"]


@pytest.mark.skipif(os.geteuid() == 0, reason="who is root may read everything")
def test_a_file_that_may_not_be_read(effvit: Effvit, tmp_path: Path, good: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder/bad.jsonl", tmp_path / "locked.jsonl"):
        path.write_bytes(GOOD)
        path.chmod(0)
    (tmp_path / "folder").chmod(0)
    for path in ("folder/bad.jsonl", "locked.jsonl"):
        for command in commands(path, good):
            refused(effvit(*command), 2, f"{path} cannot be read: Permission denied")
    (tmp_path / "folder").chmod(0o700)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recommend", "--max-latency-p95", "10ms"], "no such option: --max-latency-p95"),
        (["recommend", "--max-latency", "10ms"], "no such option: --max-latency"),
        (["recommend", "--objective", "speed"], "throughput"),
        (["recommend", "--max-latency-p50", "-5ms"], "'-5ms' is not a time"),
        (["recommend", "--max-latency-p50", "10msec"], "'10msec' is not a time"),
        (["recommend", "--max-latency-p50", "10 MS"], "write --max-latency-p50 10ms, in us, ms, s"),
        (["recommend", "--max-latency-p50", "1e-3s"], "'1e-3s' is not a time"),
        (["recommend", "--max-latency-p50", "inf"], "'inf' is not a time"),
        (["recommend", "--max-latency-p50", ""], "'' is not a time"),
        (["recommend", "--max-memory", "2gib"], "in KiB, MiB, GiB, KB, MB, GB"),
        (["recommend", "--max-memory", "2GiB/s"], "'2GiB/s' is not a size of memory"),
        (["recommend", "--max-drop", "150%"], "'150%' is not a percentage below 100"),
        (["recommend", "--max-drop", "nan"], "'nan' is not a percentage"),
        (["recommend", "--max-drop", "1 point"], "'1 point' is not a percentage"),
        (["recommend", "--res", "0"], "an image cannot be 0 px"),
        (["recommend", "--res", "224", "--batch", "8"], "none of the 1 cells is of the kind"),
        (["recommend", "--backend", "tort"], "none of the 1 cells is of the kind"),
        (["recommend", "--batch", ","], "','"),
        (["compare", "good.jsonl", "--fail-on", "latncy_p50>+3%"], "did you mean latency_p50"),
        (["compare", "good.jsonl", "--fail-on", ">+3%"], "'>+3%' is not a limit"),
        (["compare", "good.jsonl", "--fail-on", "latency_p50>-3%"], "does not limit a change of latency_p50"),
        (["compare", "good.jsonl", "--fail-on", "latency_p50<-3%"], "would fail where latency_p50 becomes better"),
        (["compare", "good.jsonl", "--fail-on", "latency_p50>+3 percent"], "is not a limit"),
        (["compare", "good.jsonl", "--fail-on", "latency_p50>+3ms"], "is not a limit"),
        (["compare", "good.jsonl", "--fail-on", "latency_p50>+3"], "does not say per cent"),
        (["compare", "good.jsonl", "--fail-on", "top1<-0.5%"], "changes by points, not by per cent"),
        (["compare", "good.jsonl", "--fail-on", ""], "'' is not a limit"),
        (["compare", "good.jsonl", "--noise-floor", "-1%"], "'-1%' is not a percentage"),
        (["compare", "good.jsonl", "--fail-on", "memory>+1%", "--fail-on", "memory>+2%"], "limits a metric twice"),
        (["report", "--out", "good.jsonl"], "good.jsonl"),
        (["report", "--out", "good.jsonl/report"], "good.jsonl"),
        (["report", "--format", "pdf"], "no such option: --format"),
    ],
)
def test_what_cannot_be_asked_of_a_result_file(
    effvit: Effvit, tmp_path: Path, good: Path, arguments: list[str], words: str
) -> None:
    command, *rest = arguments
    refused(effvit(command, good, *rest), 2, words)
    assert list(tmp_path.iterdir()) == [good]
    assert good.read_bytes() == GOOD + b"\n"


def test_names_cannot_command_a_terminal(effvit: Effvit, tmp_path: Path) -> None:
    """To clear it, set its title, or write over the lines before; nor to turn the letters of a line around."""
    hostile = "\x1b[2J\x1b]0;title\x07\rreally\u202egnp"
    outcome = make_outcome("softmax")
    model = replace(outcome.cell.model, backbone=hostile, swaps=(Swap(hostile),))
    machine = replace(outcome.environment, cpu=hostile)
    cell = replace(outcome.cell, model=model, backend=hostile)
    named = replace(outcome, cell=cell, run=hostile, data=hostile, environment=machine, notes=(hostile,))
    other = without_evidence(replace(named, cell=replace(cell, backend=hostile * 2)), "failed", "open", hostile)
    for name, outcomes in (("a.jsonl", [named, other]), ("b.jsonl", [named])):
        (tmp_path / name).write_bytes(b"".join(encode(one) + b"\n" for one in outcomes))
    for command in (["report", "a.jsonl"], ["recommend", "a.jsonl"], ["compare", "a.jsonl", "b.jsonl"]):
        answer = effvit(*command)
        assert answer.code == 0, answer.err
        assert "really" in answer.out
        assert not set(answer.out + answer.err) & set("\x1b\x07\r\u202e")


@pytest.mark.parametrize("arguments", [["extra"], ["--all"]])
def test_the_schema_takes_nothing(effvit: Effvit, arguments: list[str]) -> None:
    refused(effvit("schema", *arguments), 2, arguments[0])


def test_files_without_a_cell_in_common_cannot_be_compared(effvit: Effvit, tmp_path: Path, good: Path) -> None:
    (tmp_path / "other.jsonl").write_bytes(encode(make_outcome("softmax", 384)) + b"\n")
    refused(effvit("compare", good, "other.jsonl"), 2, "no cell is in both files")


AXES = ("--attn", "softmax", "--res", "32", "--backend", "ort-cpu", "--batch", "1", "--out", "s")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("study.json", b"{torn", "study.json is damaged"),
        ("study.json", b"\xff\xfe", "study.json is damaged"),
        ("study.json", b"[" * 200_000, "study.json is damaged"),
        ("study.json", b"{}", "study.json is damaged"),
        ("study.json", None, "study.json is damaged"),  # a folder
        ("results.jsonl", b"a,b\n1,2\n", "results.jsonl"),
        ("results.jsonl", None, "results.jsonl"),
        ("", b"a file", "s cannot be written"),
    ],
)
def test_a_study_leaves_a_folder_alone_that_is_not_its_own(
    effvit: Effvit, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    path = tmp_path / "s" / name
    path.parent.mkdir(exist_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    refused(effvit("study", *AXES), 2, words)
    assert content is None or path.read_bytes() == content
    assert not list(tmp_path.rglob("model.safetensors"))
