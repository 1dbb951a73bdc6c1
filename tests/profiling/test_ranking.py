"""How mechanisms rank on several devices, from rounds that are made up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from outcomes import ENVIRONMENT, make_outcome, make_samples, without_evidence
from scipy import stats as scipy_stats

from effvit.profiling.devices import Device
from effvit.profiling.ranking import Comparison, Reversal, comparisons
from effvit.profiling.records import Outcome
from effvit.profiling.report import html
from effvit.profiling.report.devices import devices_of, markdown_text, sentences
from effvit.profiling.report.page import content_of
from effvit.profiling.report.rows import make_rows
from effvit.profiling.report.writer import _write_drawings

ONE, TWO, PI = Device(threads=1), Device(threads=2), replace(ENVIRONMENT, cpu="Small CPU")
# Rounds of three calls each that differ by a thousandth; what differs by more is told apart.
NOISE = (1.000, 1.001, 0.999, 1.0005, 0.9995)


def measured(label: str, seconds: float, device: Device = ONE, px: int = 224, *, wobble: float = 0.0) -> Outcome:
    """Return a cell of rounds around so many seconds; `wobble` makes each second round slower by that share."""
    outcome = make_outcome(label, px)
    assert outcome.evidence is not None
    rounds = [(seconds * factor * (1 + wobble * (number % 2)),) * 3 for number, factor in enumerate(NOISE)]
    evidence = replace(outcome.evidence, samples=make_samples(*rounds), comparison=f"{device} {px}")
    return replace(outcome, cell=replace(outcome.cell, device=device), evidence=evidence)


def compared(*devices: Mapping[str, float] | tuple[Outcome, ...]) -> Comparison:
    (found,) = comparisons(make_rows(outcomes(*devices)))
    return found


def outcomes(*devices: Mapping[str, float] | tuple[Outcome, ...]) -> list[Outcome]:
    """Return the cells of each device: by their seconds, or as they are."""
    found: list[Outcome] = []
    for device, cells in zip((ONE, TWO), devices, strict=True):
        found += cells if isinstance(cells, tuple) else (measured(*cell, device=device) for cell in cells.items())
    return found


def places(found: Comparison, device: int) -> list[tuple[str, int, bool]]:
    return [(place.label, place.rank, place.tied) for place in found.rankings[device].places]


def test_the_fastest_is_first_and_what_cannot_be_told_apart_shares_a_rank() -> None:
    shaky = tuple(
        measured(name, seconds, wobble=0.2 * (name == "atrous"))
        for name, seconds in (("softmax", 0.020), ("atrous", 0.0195), ("linformer", 0.010), ("performer", 0.030))
    )
    found = compared(shaky, {"softmax": 0.1, "atrous": 0.2, "linformer": 0.3, "performer": 0.4})
    assert places(found, 0) == [
        ("linformer", 1, False),
        ("atrous", 2, True),
        ("softmax", 2, True),
        ("performer", 4, False),
    ]
    assert [rank for _, rank, _ in places(found, 1)] == [1, 2, 3, 4]
    assert [ranking.spot.device for ranking in found.rankings] == ["cpu:threads=1", "cpu:threads=2"]


def test_kendalls_tau_counts_the_pairs_that_change_places() -> None:
    """By hand: of 6 pairs, one is the other way round: (5 - 1) / 6."""
    found = compared(
        {"softmax": 0.04, "atrous": 0.03, "linformer": 0.02, "performer": 0.01},
        {"softmax": 0.04, "atrous": 0.03, "linformer": 0.01, "performer": 0.02},
    )
    (agreement,) = found.agreements
    assert agreement.tau == pytest.approx(4 / 6)
    assert agreement.decided == 6
    assert agreement.reversals == (Reversal("performer", "linformer"),)


def test_ties_count_as_ties() -> None:
    """By hand, tau-b: 3 pairs, of which one is tied on the first device: (2 - 0) / sqrt(2 * 3)."""
    tied = {"softmax": 0.02, "atrous": 0.02, "linformer": 0.01}
    (agreement,) = compared(tied, {"softmax": 0.04, "atrous": 0.03, "linformer": 0.02}).agreements
    assert agreement.tau == pytest.approx(2 / 6**0.5)
    assert agreement.tau == pytest.approx(scipy_stats.kendalltau([2, 2, 1], [3, 2, 1]).statistic)
    assert agreement.decided == 2
    (flat,) = compared(dict.fromkeys(tied, 0.02), tied).agreements
    assert (flat.tau, flat.decided) == (None, 0)


def test_only_what_all_devices_measured_reliably_is_ranked() -> None:
    whole = {"softmax": 0.04, "atrous": 0.03, "linformer": 0.02}
    there = [measured(label, seconds, TWO) for label, seconds in whole.items()]
    there[1] = without_evidence(there[1], "oom", "measure", "memory")
    assert [label for label, _, _ in places(compared(whole, tuple(there)), 0)] == ["linformer", "softmax"]
    there[2] = replace(there[2], status="unstable", reason="busy")
    rows = make_rows(outcomes(whole, tuple(there)))
    assert comparisons(rows) == []
    assert devices_of(rows).sentences == ()


def test_what_an_emulator_measured_ranks_nothing() -> None:
    whole = {"softmax": 0.04, "linformer": 0.02}
    there = [measured(label, seconds, TWO) for label, seconds in whole.items()]
    emulated = tuple(replace(one, environment=replace(one.environment, emulated=True)) for one in there)
    assert comparisons(make_rows(outcomes(whole, tuple(there))))
    assert comparisons(make_rows(outcomes(whole, emulated))) == []


def test_one_device_is_compared_with_nothing() -> None:
    rows = make_rows([measured("softmax", 0.04), measured("linformer", 0.02)])
    assert comparisons(rows) == []
    assert markdown_text(devices_of(rows)) == ""


def test_cells_of_different_rounds_are_told_apart_by_their_intervals() -> None:
    apart = tuple(
        replace(one, evidence=replace(one.evidence, comparison=one.cell.model.attention))
        for one in (measured("softmax", 0.02), measured("atrous", 0.02005, wobble=0.2), measured("linformer", 0.01))
        if one.evidence is not None
    )
    found = compared(apart, {"softmax": 0.1, "atrous": 0.2, "linformer": 0.3})
    assert places(found, 0) == [("linformer", 1, False), ("softmax", 2, True), ("atrous", 2, True)]


def test_a_sentence_says_how_the_order_changes_and_what_is_reversed() -> None:
    one = outcomes(
        {"softmax": 0.03, "atrous": 0.02, "linformer": 0.01}, {"softmax": 0.03, "atrous": 0.01, "linformer": 0.02}
    )
    two = [
        measured(label, seconds, device, 384)
        for device in (ONE, TWO)
        for label, seconds in (("softmax", 0.3), ("atrous", 0.2), ("linformer", 0.1))
    ]
    assert sentences(comparisons(make_rows([*one, *two]))) == (
        "From cpu:threads=1 to cpu:threads=2: Kendall's tau of the latency ranks is 0.33 to 1.00; of 6 pairs that are "
        "told apart on both, 1 is the other way round: linformer before atrous (224 px, batch 1, fp32, torch).",
    )
    (same,) = sentences(comparisons(make_rows(two)))
    assert same == (
        "From cpu:threads=1 to cpu:threads=2: Kendall's tau of the latency ranks is 1.00; none of the 3 pairs of "
        "mechanisms that are told apart on both is the other way round."
    )


def test_devices_are_called_by_what_tells_them_apart() -> None:
    here = [measured(label, seconds) for label, seconds in (("softmax", 0.03), ("linformer", 0.01))]
    there = [replace(one, environment=PI) for one in here]
    found = devices_of(make_rows([*here, *there]))
    assert found.rank_titles == ("where", "attention", "Example CPU 9000", "Small CPU")
    assert found.ranks[0] == ("224 px, batch 1, fp32, torch", "linformer", "1 (10.00 ms)", "1 (10.00 ms)")
    assert found.agreements == (("224 px, batch 1, fp32, torch", "Example CPU 9000 / Small CPU", "1.00", "1", "0"),)
    third = [replace(one, cell=replace(one.cell, device=TWO)) for one in there]
    titles = devices_of(make_rows([*here, *third])).rank_titles
    assert titles[2:] == ("Example CPU 9000, cpu:threads=1", "Small CPU, cpu:threads=2")


def test_a_report_has_it_in_its_page_and_its_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(html, "_library", str)  # it takes seconds to make, and draws other figures
    rows = make_rows(outcomes({"softmax": 0.03, "linformer": 0.01}, {"softmax": 0.02, "linformer": 0.03}))
    page = html.html_text(content_of(rows))
    assert page.count("From cpu:threads=1 to cpu:threads=2: Kendall&#39;s tau") == 2  # at its top, and by the figures
    assert page.count('<img class="still" src="data:image/svg+xml;base64,') == 2
    assert "<td>1 (10.00 ms)</td>" in page
    alone = [row for row in rows if row.context.device == "cpu:threads=1"]
    assert 'id="devices"' not in html.html_text(content_of(alone))
    written = _write_drawings(devices_of(rows).drawings, tmp_path)
    kinds = [f"devices-{name}.{kind}" for name in ("accuracy-latency", "ranks") for kind in ("png", "svg")]
    assert [path.name for path in written] == kinds
    assert all(path.stat().st_size > 1000 for path in written)


def test_a_report_of_several_devices_draws_them_side_by_side() -> None:
    found = devices_of(make_rows(outcomes({"softmax": 0.03, "linformer": 0.01}, {"softmax": 0.02, "linformer": 0.03})))
    trade_offs, ranks = found.drawings
    assert [panel["title"] for panel in trade_offs.spec["concat"]] == [
        "cpu:threads=1, torch, fp32, batch 1",
        "cpu:threads=2, torch, fp32, batch 1",
    ]
    assert trade_offs.spec["resolve"]["scale"] == {"x": "shared", "y": "shared"}
    assert ranks.svg.count("linformer") >= 1
    assert ranks.address.startswith("data:image/svg+xml;base64,")
    text = markdown_text(found)
    assert "## From device to device" in text
    assert "| linformer | 1 (10.00 ms) | 2 (30.00 ms) |" in text
