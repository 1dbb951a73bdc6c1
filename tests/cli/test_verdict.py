"""What a sweep's outcomes mean for the exit code."""

from __future__ import annotations

from dataclasses import replace

import pytest
from outcomes import make_outcome, without_evidence

from effvit.cli.cmd_profile import raise_if_unfinished
from effvit.errors import CellsFailedError, FallbackError
from effvit.profiling.records import Outcome

MEASURED = make_outcome("softmax")
FALLEN = replace(make_outcome("atrous"), status="fallback", reason="asked for fp16, computes in fp32")


def test_measured_cells_are_fine_and_so_are_unsupported_ones_beside_them() -> None:
    raise_if_unfinished([MEASURED, without_evidence(make_outcome("atrous"), "unsupported", "export", "no int8")])


@pytest.mark.parametrize("status", ["failed", "oom", "timeout", "build_failed"])
def test_a_failed_cell_is_exit_5_with_its_reason(status: str) -> None:
    failed = without_evidence(make_outcome("atrous"), status, "measure", "the reason")
    with pytest.raises(CellsFailedError, match="1 of 2 cells failed; the first: the reason") as caught:
        raise_if_unfinished([MEASURED, failed])
    assert caught.value.exit_code == 5
    assert "--retry-failed" in caught.value.hint


def test_nothing_measured_at_all_is_exit_5() -> None:
    skipped = without_evidence(make_outcome("atrous"), "unsupported", "export", "torch does not run int8")
    with pytest.raises(CellsFailedError, match="nothing could be measured: torch does not run int8"):
        raise_if_unfinished([skipped])


@pytest.mark.parametrize("fallen", [FALLEN, replace(FALLEN, evidence=None, stage="open")])
def test_something_else_than_asked_for_is_exit_4_with_what_it_was(fallen: Outcome) -> None:
    with pytest.raises(FallbackError, match=r"1 of 2 cells .* torch: asked for fp16, computes in fp32") as caught:
        raise_if_unfinished([MEASURED, fallen])
    assert caught.value.exit_code == 4
    assert "--allow-fallback" in caught.value.hint


def test_something_else_than_asked_for_is_fine_where_it_is_allowed() -> None:
    raise_if_unfinished([MEASURED, FALLEN], allow_fallback=True)
