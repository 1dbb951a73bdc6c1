"""Result files of older versions, which the code of their time wrote, read as those of today.

`versions/N.jsonl` was written by the last commit before version N + 1; in 2.jsonl the third line knows devices already.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from outcomes import make_outcome
from schemas import validator

from effvit.errors import ResultError
from effvit.profiling.devices import CPU
from effvit.profiling.metrics.base import readings_of
from effvit.profiling.records import SCHEMA, Evidence, Outcome
from effvit.profiling.results import encode, read_sittings
from effvit.profiling.upgrades import upgraded
from effvit.spec import Swap

VERSIONS = Path(__file__).parent / "versions"
FILES = sorted(VERSIONS.glob("*.jsonl"))


def evidence_of(outcome: Outcome) -> Evidence:
    assert outcome.evidence is not None
    return outcome.evidence


def test_there_is_a_file_of_every_version() -> None:
    newest = int(SCHEMA.rpartition("/")[2])
    assert [file.stem for file in FILES] == [str(version) for version in range(1, newest + 1)]
    for file in FILES:
        for line in file.read_text().splitlines():
            assert json.loads(line)["schema"] == f"effvit.result/{file.stem}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"version {file.stem}")
def test_every_line_is_read_and_written_again_as_one_of_the_published_schema(file: Path) -> None:
    outcomes = read_sittings(file)
    assert len(outcomes) == len(file.read_text().splitlines())
    for outcome in outcomes:
        assert outcome.schema == SCHEMA
        validator().validate(json.loads(encode(outcome)))


def test_the_one_attention_of_version_1_is_a_swap() -> None:
    whole, some, failed = read_sittings(VERSIONS / "1.jsonl")
    assert whole.cell.model.swaps == (Swap("linformer", (), None),)
    assert some.cell.model.swaps == (Swap("linformer", (("rank", 64), ("share", "none")), (0, 1, 2, 3)),)
    assert some.cell.model.attention == "0-3:linformer"
    assert (failed.cell.model.attention, failed.status, failed.evidence) == ("performer", "oom", None)


@pytest.mark.parametrize("version", [1, 2])
def test_a_cell_that_says_nothing_of_a_device_is_that_of_the_whole_processor(version: int) -> None:
    outcome = read_sittings(VERSIONS / f"{version}.jsonl")[0]
    assert outcome.cell.device == CPU
    assert outcome.cell.key == make_outcome("linformer").cell.key


@pytest.mark.parametrize("version", [1, 2])
def test_numbers_stay_as_they_were_written(version: int) -> None:
    file = VERSIONS / f"{version}.jsonl"
    written = json.loads(file.read_text().splitlines()[0])["evidence"]
    evidence = evidence_of(read_sittings(file)[0])
    assert list(evidence.samples.seconds) == written["samples"]["seconds"]
    assert [list(block) for block in evidence.throughput.blocks] == written["throughput"]["blocks"]
    assert evidence.accuracy is not None
    assert evidence.accuracy.top1_correct == written["accuracy"]["top1_correct"]


def test_memory_that_was_read_while_timing_says_so_and_has_no_ledger() -> None:
    early, ledger, _ = read_sittings(VERSIONS / "2.jsonl")
    peak, *_, virtual = readings_of(evidence_of(early), "memory")
    assert (peak.value is not None, peak.note) == (True, "read in the process that was timed")
    assert (virtual.name, virtual.value) == ("memory.virtual_peak_bytes", None)
    assert readings_of(evidence_of(ledger), "memory")[0].note == "read from VmHWM"


def line_of(version: int) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((VERSIONS / f"{version}.jsonl").read_text().splitlines()[0])
    return data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (line_of(1) | {"cell": [1]}, "cell is not an object"),
        (line_of(1) | {"cell": {"model": "vit"}}, "model is not an object"),
        (line_of(2) | {"evidence": {"memory": 5}}, "memory is not an object"),
        (line_of(2) | {"evidence": "none"}, "evidence is not an object"),
        (line_of(1) | {"schema": "effvit.result/4"}, "newer than 'effvit.result/3'"),
        (line_of(1) | {"schema": "effvit.result/0"}, "the schema is 'effvit.result/0', not"),
        (line_of(1) | {"schema": "effvit.result/" + "9" * 5000}, "not 'effvit.result/3'"),
    ],
)
def test_what_has_not_the_form_of_its_version_is_one_sentence(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ResultError, match=words) as caught:
        upgraded(json.dumps(data).encode(), data["schema"], "old.jsonl, line 1")
    assert caught.value.message.startswith("old.jsonl, line 1: ")
    assert len(caught.value.message) < 150
    assert caught.value.hint
