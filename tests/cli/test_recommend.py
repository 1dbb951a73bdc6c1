import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Effvit
from outcomes import BATCHES, ENVIRONMENT, RESOLUTIONS, VARIANTS, make_outcome, make_sweep, without_evidence

from effvit.cli.options import bytes_from_text, seconds_from_text
from effvit.errors import UsageError
from effvit.profiling.results import encode


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"".join(encode(outcome) + b"\n" for outcome in make_sweep()))
    return path


def test_it_says_what_to_ship_and_what_binds(effvit: Effvit, sweep: Path) -> None:
    answer = effvit("recommend", sweep, "--max-latency-p50", "15ms", "--max-memory", "1GiB", "--max-drop", "3%")
    assert answer.code == 0, answer.err
    first, *rest = answer.out.splitlines()
    assert first.startswith("Ship ")
    assert "the best throughput within the limits." in " ".join(answer.out.split())
    assert any(line.startswith("  latency p50: ") and "of at most 15 ms" in line for line in rest)
    assert any(line.startswith("  top-1 drop: ") and "of at most 3 points" in line for line in rest)
    assert any(line.startswith("Binding: ") for line in rest)
    assert "left out: 3 not measured" in answer.out


def test_nothing_that_satisfies_is_exit_4_and_says_how_near(effvit: Effvit, sweep: Path) -> None:
    answer = effvit("recommend", sweep, "--max-latency-p50", "1ms")
    assert answer.code == 4
    assert "none of 57 cells keeps the limits; the nearest is" in answer.err
    assert "% too much" in answer.err
    assert "Nothing keeps the limits" in answer.out


@pytest.mark.parametrize(
    ("status", "sentence", "hint"),
    [
        ("unstable", "30 cells are unstable, because other processes ran during the measurement", "--retry-failed"),
        ("oom", "no cell was measured", "--retry-failed"),
        ("ok", "no cell has the number that is to be the best", "choose another --objective"),
    ],
)
def test_where_no_cell_can_be_considered_it_says_why(
    effvit: Effvit, tmp_path: Path, status: str, sentence: str, hint: str
) -> None:
    cells = [make_outcome(name, px, batch) for name in VARIANTS for px in RESOLUTIONS for batch in BATCHES]
    made = {
        "unstable": [replace(cell, status="unstable", stage="measure", reason="a neighbour") for cell in cells],
        "oom": [without_evidence(cell, "oom", "open", "too large") for cell in cells],
        "ok": cells,
    }
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"".join(encode(one) + b"\n" for one in made[status]))
    answer = effvit("recommend", path, "--objective", "energy" if status == "ok" else "throughput")
    assert answer.code == 4
    assert f"Nothing can be recommended: {sentence}." in " ".join(answer.out.split())
    assert sentence in answer.err
    assert hint in answer.err


def test_json_holds_the_choice_with_its_checks(effvit: Effvit, sweep: Path) -> None:
    answer = effvit("recommend", sweep, "--max-memory", "1GiB", "--objective", "latency", "--json")
    (found,) = json.loads(answer.out)
    assert found["choice"]["cell"]["workload"]["height"] == 224
    assert found["choice"]["checks"][0]["name"] == "memory"
    assert found["choice"]["checks"][0]["most"] == 2**30
    assert "seconds" not in answer.out


def test_filters_leave_what_is_asked_for(effvit: Effvit, sweep: Path) -> None:
    options = ("--res", "512", "--batch", "8", "--precision", "fp32", "--backend", "torch", "--device", "cpu")
    answer = effvit("recommend", sweep, *options, "--json")
    (found,) = json.loads(answer.out)
    assert found["considered"] == 5
    cell = found["choice"]["cell"]
    assert (cell["backend"], cell["workload"]) == ("torch", {"batch": 8, "height": 512, "width": 512})


def test_files_of_several_machines_have_a_recommendation_each(effvit: Effvit, tmp_path: Path, sweep: Path) -> None:
    other = replace(ENVIRONMENT, cpu="Small CPU")
    second = tmp_path / "small.jsonl"
    second.write_bytes(b"".join(encode(replace(one, environment=other)) + b"\n" for one in make_sweep()))
    answer = effvit("recommend", sweep, second)
    assert "Example CPU 9000, cpu, flowers:" in answer.out
    assert "Small CPU, cpu, flowers:" in answer.out
    alone = effvit("recommend", sweep, second, "--machine", "small", "--json")
    assert [one["machine"] for one in json.loads(alone.out)] == ["Small CPU"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-latency-p50", "10"], "'10' is not a time"),
        (["--max-latency-p50", "0ms"], "'0ms' is not a time"),
        (["--max-latency-p50", "fast"], "'fast' is not a time"),
        (["--max-memory", "2"], "'2' is not a size of memory"),
        (["--max-memory", "-2GiB"], "'-2GiB' is not a size of memory"),
        (["--max-drop", "-1%"], "'-1%' is not a percentage"),
        (["--objective", "beauty"], "beauty"),
        (["--device", "tpu"], "no device named 'tpu'"),
        (["--precision", "fp12"], "no precision named 'fp12'"),
        (["--batch", "64"], "none of the 60 cells is of the kind"),
        (["--machine", "mainframe"], "none of the 60 cells is of the kind"),
    ],
)
def test_what_cannot_be_asked(effvit: Effvit, sweep: Path, options: list[str], words: str) -> None:
    answer = effvit("recommend", sweep, *options)
    assert answer.code == 2
    assert words in answer.err
    assert "hint:" in answer.err
    assert answer.out == ""


def test_units() -> None:
    assert seconds_from_text("10ms", "--x") == pytest.approx(0.01)
    assert seconds_from_text(" 800 us", "--x") == pytest.approx(8e-4)
    assert seconds_from_text("0.5s", "--x") == 0.5
    assert bytes_from_text("2GiB", "--x") == 2**31
    assert bytes_from_text("2GB", "--x") == 2e9
    with pytest.raises(UsageError):
        bytes_from_text("2 gigs", "--x")
