from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from models_for_tests import finished_run, record_of

from effvit.errors import CheckpointError
from effvit.overview import Overview, overview_of, overviews
from effvit.run import HISTORY, RECORD, EpochRecord, Run, TransferEpoch, TransferRecord, create_run
from effvit.state import STATE

EPOCH = EpochRecord(1, 2.0, 2.5, 0.5, None, 0.25, 1.5, 0.5, 40.0, 1e-3, None, None)
TRANSFER = TransferRecord((0,), (1.0,), (0.5,), 0.1, 0.4, (TransferEpoch(1, "layers", 0.5, 3.0, 10.0, 1e-3),))


def unfinished(root: Path, name: str = "cut", **changes: object) -> Run:
    return create_run(root, name, replace(record_of("linformer", options=(("pool", 2),)), **changes))


def test_a_finished_run_is_summed_up(tmp_path: Path) -> None:
    record = replace(record_of(trained=(64, 48)), best=EPOCH, transfer=TRANSFER)
    run, _ = finished_run(tmp_path, "soft", record)
    run.append_epoch(EPOCH)
    run.append_epoch(replace(EPOCH, epoch=2))
    assert overview_of(run) == Overview(
        name="soft",
        status="done",
        resumable=False,
        model="test_vit",
        attention="softmax",
        data="digits",
        resolution=(64, 48),
        started="2026-01-01T00:00:00+00:00",
        epochs=2,
        of_epochs=20,
        top1=0.5,
        balanced_top1=0.25,
        seconds=2 * (1.5 + 0.5) + 3.0,
    )


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_what_was_cut_short_is_resumable_if_its_state_is_there(status: str, tmp_path: Path) -> None:
    run = unfinished(tmp_path, status=status)
    assert (overview_of(run).status, overview_of(run).resumable) == (status, False)
    (run.folder / STATE).touch()
    assert overview_of(run).resumable
    assert (overview_of(run).top1, overview_of(run).note) == (None, "no epoch is finished")


def test_a_run_that_no_process_trains_was_killed(tmp_path: Path) -> None:
    run = unfinished(tmp_path)
    (run.folder / STATE).touch()
    assert (overview_of(run).status, overview_of(run).resumable) == ("killed", True)
    holding = (
        "import sys; from pathlib import Path; from effvit.claim import claimed\n"
        "with claimed(Path(sys.argv[1])): print(flush=True); input()"
    )
    command = [sys.executable, "-c", holding, str(run.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert (overview_of(run).status, overview_of(run).resumable) == ("running", False)
        other.kill()
        other.wait()
        assert overview_of(run).status == "killed"


def test_damaged_runs_come_last_and_the_others_by_age(tmp_path: Path) -> None:
    for name, day in (("b", 2), ("a", 3), ("c", 1)):
        unfinished(tmp_path, name, started=f"2026-01-0{day}T00:00:00+00:00")
    torn, mixed = unfinished(tmp_path, "0"), unfinished(tmp_path, "1")
    (torn.folder / RECORD).write_bytes(b"{")
    (mixed.folder / HISTORY).write_bytes(b"{}\n")
    (tmp_path / "no_run").mkdir()
    found = overviews(tmp_path)
    assert [run.name for run in found] == ["c", "b", "a", "0", "1"]
    assert [run.status for run in found[3:]] == ["damaged", "damaged"]
    assert "run.json is damaged" in found[3].note
    with pytest.raises(CheckpointError):
        overview_of(mixed)
    assert overviews(tmp_path / "nowhere") == []
