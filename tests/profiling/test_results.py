import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from outcomes import ENVIRONMENT, make_outcome, make_sweep, without_evidence

from effvit.errors import ResultError, StorageError
from effvit.hardware import Cluster, Hardware
from effvit.profiling import results
from effvit.profiling.board import BoardConditions
from effvit.profiling.devices import Device
from effvit.profiling.disturbance import Conditions, Turn
from effvit.profiling.gpu import GpuConditions
from effvit.profiling.records import DeviceTimes
from effvit.spec import Swap

BOARD = Hardware("A board", "01234567", (Cluster((0, 1), "Cortex-A76", 1024, 1.5e9, 2.4e9, "ondemand"),), 0, 0, "15W")
FIRST = make_outcome("softmax")
SECOND = make_outcome("linformer")


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    sweep = make_sweep()
    for outcome in sweep:
        results.append(path, outcome)
    assert results.read(path) == sweep
    assert len(path.read_text().splitlines()) == len(sweep)


def test_options_keep_their_types_and_so_the_cell_its_key(tmp_path: Path) -> None:
    options = (("causal", False), ("kernel", "relu"), ("ratio", 1.0), ("rank", 64), ("seed", None))
    outcome = replace(
        FIRST, cell=replace(FIRST.cell, model=replace(FIRST.cell.model, swaps=(Swap("softmax", options),)))
    )
    results.append(tmp_path / "r", outcome)
    assert results.read(tmp_path / "r")[0].cell.key == outcome.cell.key


def test_lines_from_before_gpus_were_devices_are_read_as_they_were(tmp_path: Path) -> None:
    """Without the number of a GPU, what it did beside a round, and the times of its transfers."""
    quiet = Conditions(1.0, 1.0, 2, 0.0, 0.0, 0, None, None)
    assert FIRST.evidence is not None
    outcome = replace(FIRST, evidence=replace(FIRST.evidence, turns=(Turn(0, quiet),)))
    old = json.loads(results.encode(outcome))
    del old["cell"]["device"]["index"]
    del old["evidence"]["device_times"]
    del old["evidence"]["turns"][0]["conditions"]["gpu"]
    (tmp_path / "old").write_text(json.dumps(old) + "\n")
    assert results.read(tmp_path / "old") == [outcome]


def test_what_a_gpu_did_is_read_as_it_was_written(tmp_path: Path) -> None:
    gpu = GpuConditions(1.9e9, 2.6e9, ("power cap",), 0.0, 61.0, 640.5, 0, None, "shares: Not Found")
    turn = Turn(0, Conditions(1.0, 1.0, 2, 0.0, 0.0, 0, None, None, gpu=gpu))
    times = DeviceTimes((1e-5,), (2e-5,), (3e-3,), (4e-6,), (3.1e-3,), 1, "events")
    assert FIRST.evidence is not None
    evidence = replace(FIRST.evidence, turns=(turn,), device_times=times)
    outcome = replace(FIRST, cell=replace(FIRST.cell, device=Device("cuda", index=1)), evidence=evidence)
    results.append(tmp_path / "r", outcome)
    assert results.read(tmp_path / "r") == [outcome]


def test_what_a_board_told_and_which_machine_it_was_is_read_as_it_was_written(tmp_path: Path) -> None:
    board = BoardConditions(61.2, 84.0, ("the supply voltage was too low",), 9.5, "cpu-thermal", "ina3221 VDD_IN")
    turn = Turn(0, Conditions(1.0, 1.0, 2, 0.0, 0.0, 0, None, None, lowest_hz=1.5e9, board=board))
    assert FIRST.evidence is not None
    evidence = replace(FIRST.evidence, turns=(turn,))
    outcome = replace(FIRST, evidence=evidence, environment=replace(ENVIRONMENT, hardware=BOARD))
    results.append(tmp_path / "r", outcome)
    assert results.read(tmp_path / "r") == [outcome]


def test_machines_alike_keep_outcomes_of_their_own(tmp_path: Path) -> None:
    here = replace(FIRST, environment=replace(ENVIRONMENT, hardware=BOARD))
    there = replace(FIRST, environment=replace(ENVIRONMENT, hardware=replace(BOARD, identity="89abcdef")))
    for outcome in (here, there):
        results.append(tmp_path / "r", outcome)
    assert results.read(tmp_path / "r") == [here, there]


def test_what_an_older_version_wrote_is_of_the_one_machine_that_it_fits(tmp_path: Path) -> None:
    here = replace(SECOND, environment=replace(ENVIRONMENT, hardware=BOARD))
    for outcome in (FIRST, here):
        results.append(tmp_path / "r", outcome)
    assert results.read(tmp_path / "r") == [replace(FIRST, environment=here.environment), here]
    # Measured again, it is one outcome and not two.
    again = replace(FIRST, environment=here.environment, finished="2026-02-01T00:00:00Z")
    results.append(tmp_path / "r", again)
    assert results.read(tmp_path / "r") == [again, here]
    # Of two machines that it fits nobody knows which.
    other = replace(SECOND, environment=replace(ENVIRONMENT, hardware=replace(BOARD, identity="89abcdef")))
    results.append(tmp_path / "r", other)
    assert results.read(tmp_path / "r")[0] == FIRST


@pytest.mark.parametrize("cut", [1, 20, 1000])
def test_a_torn_last_line_is_dropped_and_cut_off_before_appending(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "results.jsonl"
    results.append(path, FIRST)
    whole = path.read_bytes()
    path.write_bytes(whole + results.encode(SECOND)[:-cut])
    assert results.read(path) == [FIRST]
    results.append(path, SECOND)
    assert path.read_bytes() == whole + results.encode(SECOND) + b"\n"


def test_a_torn_line_longer_than_one_block_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    results.append(path, FIRST)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"notes": "' + b"x" * 200_000)
    results.append(path, SECOND)
    assert path.read_bytes() == whole + results.encode(SECOND) + b"\n"


def test_a_whole_last_line_without_a_line_break_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(results.encode(FIRST))
    assert results.read(path) == [FIRST]
    results.append(path, SECOND)
    assert results.read(path) == [FIRST, SECOND]


def test_a_cell_measured_again_replaces_its_earlier_outcome(tmp_path: Path) -> None:
    failed = without_evidence(FIRST, "failed", "measure", "it ended")
    elsewhere = replace(FIRST, environment=replace(ENVIRONMENT, cores=64))
    for outcome in (failed, SECOND, elsewhere, FIRST):
        results.append(tmp_path / "r", outcome)
    assert results.read(tmp_path / "r") == [FIRST, SECOND, elsewhere]


def _changed(**changes: object) -> bytes:
    return json.dumps(json.loads(results.encode(FIRST)) | changes).encode()


EVIDENCE = json.loads(results.encode(FIRST))["evidence"]
BROKEN = {
    "not JSON": (b"hello", "not a line of a result file"),
    "not text": (b'{"schema": "\xff"}', "not a line of a result file"),
    "an array": (b"[1]", "not a line of a result file"),
    "no schema": (b"{}", "not a line of a result file"),
    "a newer schema": (_changed(schema="effvit.result/9"), "is 'effvit.result/9', newer than 'effvit.result/3'"),
    "a foreign schema": (_changed(schema="other.result/1"), "is 'other.result/1', not 'effvit.result/3'"),
    "a text for a number": (_changed(cell={**json.loads(results.encode(FIRST))["cell"], "workload": "8"}), "workload"),
    "batch 0": (
        _changed(cell={**json.loads(results.encode(FIRST))["cell"], "workload": {"batch": 0, "height": 1, "width": 1}}),
        "batch must be at least 1",
    ),
    "unknown status": (_changed(status="fine"), "status"),
    "ok without evidence": (_changed(evidence=None), "the status is 'ok', but there is no evidence"),
    "no samples": (_changed(evidence=EVIDENCE | {"samples": EVIDENCE["samples"] | {"seconds": []}}), "0 seconds for"),
    "no round that counts": (
        _changed(evidence=EVIDENCE | {"samples": EVIDENCE["samples"] | {"left_out": [0, 1, 2, 3, 4, 5]}}),
        "all rounds are left out",
    ),
    "more hits than images": (
        _changed(evidence=EVIDENCE | {"accuracy": EVIDENCE["accuracy"] | {"top1_correct": 99_999}}),
        "the accuracy counts contradict one another",
    ),
    "classes of two lengths": (
        _changed(evidence=EVIDENCE | {"accuracy": EVIDENCE["accuracy"] | {"class_top1": [1]}}),
        "the accuracy counts contradict one another",
    ),
    "hits that do not add up": (
        _changed(evidence=EVIDENCE | {"accuracy": EVIDENCE["accuracy"] | {"hits": "gA=="}}),
        "the accuracy counts contradict one another",
    ),
    "no time": (_changed(evidence=EVIDENCE | {"throughput": {"blocks": [[8, 0.0]]}}), "took no time"),
}


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_line_is_named_with_its_number(tmp_path: Path, line: str) -> None:
    content, message = BROKEN[line]
    path = tmp_path / "results.jsonl"
    path.write_bytes(results.encode(FIRST) + b"\n" + content + b"\n" + results.encode(SECOND) + b"\n")
    with pytest.raises(ResultError, match=message) as caught:
        results.read(path)
    assert "results.jsonl, line 2" in caught.value.message
    assert caught.value.hint


def test_a_missing_file_is_an_error_to_read_and_an_empty_start_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="there is no result file"):
        results.read(tmp_path / "none")
    assert results.read_finished(tmp_path / "none") == []


def test_an_empty_file_is_an_error_to_read_and_an_empty_start_to_resume(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.write_bytes(b"")
    with pytest.raises(ResultError, match="holds no outcomes"):
        results.read(path)
    assert results.read_finished(path) == []
    results.append(path, FIRST)
    assert results.read(path) == [FIRST]


def test_a_folder_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="cannot be read"):
        results.read(tmp_path)


def test_a_file_of_another_kind_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("years of work")
    with pytest.raises(ResultError, match="is not a result file"):
        results.append(path, FIRST)
    assert path.read_text() == "years of work"


def test_a_value_that_json_cannot_carry_never_reaches_the_file(tmp_path: Path) -> None:
    assert FIRST.evidence is not None
    outcome = replace(FIRST, evidence=replace(FIRST.evidence, open_s=float("nan")))
    with pytest.raises(ResultError, match="open_s"):
        results.append(tmp_path / "r", outcome)
    assert not (tmp_path / "r").exists()


def test_an_option_that_changes_on_its_way_never_reaches_the_file(tmp_path: Path) -> None:
    model = replace(FIRST.cell.model, swaps=(Swap("softmax", (("ratio", float("inf")),)),))
    outcome = replace(FIRST, cell=replace(FIRST.cell, model=model))
    with pytest.raises(ResultError, match="does not read back as it was"):
        results.append(tmp_path / "r", outcome)


def test_a_name_that_is_not_text_is_refused(tmp_path: Path) -> None:
    # What os.listdir returns for the byte 0xff in a file name.
    with pytest.raises(ResultError, match="is not valid text"):
        results.append(tmp_path / "r", replace(FIRST, run="run-\udcff"))


def test_reading_results_loads_no_plotting_and_no_torch() -> None:
    heavy = "{'altair', 'vl_convert', 'pandas', 'torch', 'jinja2'}"
    code = f"import sys, effvit.profiling.results, effvit.profiling.stats; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(StorageError, match="no space left") as caught:
        results.append(tmp_path / "results.jsonl", FIRST)
    assert "free some space" in caught.value.hint
