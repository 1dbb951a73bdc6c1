import base64
import csv
import gzip
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from outcomes import ENVIRONMENT, VARIANTS, make_accuracy, make_outcome, make_sweep, without_evidence
from rich.console import Console

from effvit.errors import ResultError, StorageError
from effvit.export.settings import Placement, RuntimeSettings
from effvit.profiling import results
from effvit.profiling.confinement import Confinement
from effvit.profiling.devices import CPU, Device
from effvit.profiling.records import Outcome, Training
from effvit.profiling.report import display, figures, points, raw, summary, table, terminal
from effvit.profiling.report.html import html_text
from effvit.profiling.report.page import content_of
from effvit.profiling.report.rows import Row, make_rows
from effvit.profiling.report.writer import write_report
from effvit.spec import Precision, Swap

ROWS = make_rows(make_sweep())
HOSTILE = '</script><img src=x onerror="alert(1)">|`*'


def page_of(rows: Sequence[Row]) -> str:
    return html_text(content_of(rows))


def _shown(outcomes: list[Outcome], width: int = 160) -> str:
    console = Console(width=width, color_system=None, file=io.StringIO())
    console.print(terminal.render(make_rows(outcomes)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class _Page(HTMLParser):
    """Collects the tags and the content of script elements by id."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.scripts: dict[str | None, str] = {}
        self.downloads: dict[str, str] = {}
        self._script: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        links = ("src",) if tag == "a" else ("src", "href")
        self.loaded += [value or "" for name, value in attrs if name in links]
        if tag == "a" and "download" in dict(attrs):
            self.downloads[dict(attrs)["download"] or ""] = dict(attrs)["href"] or ""
        if tag == "script":
            self._script = dict(attrs).get("id")

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["script"]:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data


def _page(outcomes: list[Outcome]) -> _Page:
    page = _Page()
    page.feed(page_of(make_rows(outcomes)))
    return page


SWEEP_PAGE = _page(make_sweep())
SWEPT = json.loads(SWEEP_PAGE.scripts["page"])


def _hostile() -> list[Outcome]:
    outcome = make_outcome("linformer")
    model = replace(outcome.cell.model, backbone=HOSTILE, swaps=(Swap("softmax", ((HOSTILE, HOSTILE),)),))
    named = replace(outcome, cell=replace(outcome.cell, model=model), run=HOSTILE, data=HOSTILE, notes=(HOSTILE,))
    twin = replace(named, run="twin")
    return [named, twin, without_evidence(replace(named, run="third"), "failed", "open", HOSTILE)]


def test_the_terminal_names_what_all_rows_share_once() -> None:
    first = _shown([make_outcome("softmax"), make_outcome("linformer")]).splitlines()[0]
    assert first == "vit_tiny_patch16_224, torch, fp32, Example CPU 9000, 4 threads      baseline: softmax"


def _on(device: Device, *attentions: str) -> list[Outcome]:
    return [replace(outcome, cell=replace(outcome.cell, device=device)) for outcome in map(make_outcome, attentions)]


def test_devices_have_a_column_where_there_are_several_and_a_baseline_each() -> None:
    outcomes = [*_on(CPU, "softmax", "linformer"), *_on(Device(threads=1, memory_bytes=2**29), "softmax", "linformer")]
    rows = make_rows(outcomes)
    text = _shown(outcomes)
    assert re.search(r"attention +device +batch", text)
    assert text.count("cpu:threads=1,memory=512MiB") == 2
    assert " threads" not in text.splitlines()[0], "devices differ in their threads"
    assert [row.baseline.cell.device for row in rows if row.baseline] == [CPU, Device(threads=1, memory_bytes=2**29)]
    assert "| device |" in table.markdown_text(rows)
    assert len({row.context for row in rows}) == 2


def test_one_device_has_no_column_and_its_threads_are_named() -> None:
    outcomes = _on(Device(threads=1), "softmax", "linformer")
    assert "device" not in _shown(outcomes)
    assert ", 1 thread " in _shown(outcomes).splitlines()[0]
    assert "| device |" not in table.markdown_text(make_rows(outcomes))


def test_machines_have_a_column_where_there_are_several_and_their_names_in_every_part() -> None:
    small = replace(ENVIRONMENT, cpu="Small <b>CPU</b>")
    outcomes = [make_outcome("softmax"), replace(make_outcome("softmax"), environment=small)]
    rows = make_rows(outcomes)
    text = _shown(outcomes, width=200)
    assert re.search(r"machine +attention", text)
    assert "several machines" in text.splitlines()[0]
    assert text.count("Small <b>CPU</b>") == 1
    assert "| machine |" in table.markdown_text(rows)
    assert {line["machine"] for line in csv.DictReader(io.StringIO(table.csv_text(rows)))} == {
        "Example CPU 9000", "Small <b>CPU</b>",
    }  # fmt: skip
    page = page_of(rows)
    assert "<h3>Example CPU 9000</h3>" in page
    assert "<b>CPU</b>" not in page
    titles = [paragraph.title for paragraph in summary.paragraphs(rows)]
    assert titles == ["Example CPU 9000, torch, fp32, batch 1", "Small <b>CPU</b>, torch, fp32, batch 1"]


def test_one_machine_has_no_column() -> None:
    outcomes = [make_outcome("softmax"), make_outcome("linformer")]
    assert not re.search(r"machine +attention", _shown(outcomes))
    assert "| machine |" not in table.markdown_text(make_rows(outcomes))


def test_the_page_tells_what_a_runtime_really_used() -> None:
    settings = RuntimeSettings(
        "onnxruntime 1.23.0", "cpu", Precision.FP32, 1, (Placement("CPUExecutionProvider", 214),)
    )
    outcome = make_outcome("softmax")
    assert outcome.evidence is not None
    evidence = replace(outcome.evidence, settings=settings, confinement=Confinement((3,), 2**29, "RLIMIT_DATA"))
    fallen = replace(outcome, status="fallback", reason="asked for fp16, computes in fp32", evidence=evidence)
    page = page_of(make_rows([fallen]))
    for text in ("onnxruntime 1.23.0", "CPUExecutionProvider 214", "512 MiB by RLIMIT_DATA"):
        assert f"<td>{text}</td>" in page
    assert "fallback: asked for fp16, computes in fp32" in page
    assert "What the runtimes really used" not in page_of(make_rows([make_outcome("softmax")]))


def test_the_terminal_shows_a_failed_cell_in_its_place_with_its_reason() -> None:
    reason = "pinv has no ONNX operator"
    text = _shown([make_outcome("softmax"), without_evidence(make_outcome("atrous"), "unsupported", "export", reason)])
    (line,) = (line for line in text.splitlines() if "atrous" in line)
    assert re.fullmatch(r" +atrous +1 +224 +unsupported at export: pinv has no ONNX operator", line.rstrip())


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_terminal_table_is_no_wider_than_the_window_and_says_what_is_left_out(width: int) -> None:
    outcomes = [make_outcome(attention) for attention in VARIANTS]
    lines = _shown(outcomes, width).splitlines()
    assert max(map(len, lines)) <= width
    assert sum("±" in line and "%" in line for line in lines) >= len(VARIANTS)
    assert any(line.startswith("left out at this width") for line in lines) == (width < 120)


def test_the_terminal_explains_the_signs_it_shows() -> None:
    text = _shown([make_outcome("softmax")])
    assert "*+   softmax" in text
    assert "* nothing here is both faster and more accurate" in text


UNSTABLE = replace(
    make_outcome("linformer"), status="unstable", stage="measure", reason="12 of 14 rounds were disturbed"
)


def test_an_unstable_cell_keeps_its_numbers_with_a_sign_and_its_reason() -> None:
    text = _shown([make_outcome("softmax"), UNSTABLE])
    (line,) = (line for line in text.splitlines() if line.lstrip("! ").startswith("linformer "))
    assert line.startswith("!")
    assert " ms ±" in line
    assert "! the machine was not ours" in text
    assert (
        "linformer, 224 px, batch 1, fp32, torch: unstable at measure: 12 of 14 rounds were disturbed"
        in text.splitlines()
    )
    for page in (table.markdown_text(make_rows([UNSTABLE])), page_of(make_rows([UNSTABLE]))):
        assert "unstable at measure: 12 of 14 rounds were disturbed" in page


def test_of_many_unstable_cells_the_terminal_gives_the_reasons_of_three() -> None:
    outcomes = [replace(UNSTABLE, cell=make_outcome(name).cell) for name in VARIANTS]
    text = _shown(outcomes)
    assert text.count("rounds were disturbed") == 3
    assert "... and 2 more" in text


def test_the_summary_builds_nothing_on_unstable_cells() -> None:
    softmax = make_outcome("softmax")
    for outcomes in ([softmax, UNSTABLE], [replace(softmax, status="unstable"), make_outcome("linformer")]):
        (paragraph,) = summary.paragraphs(make_rows(outcomes))
        assert paragraph.sentences[0].startswith("Nothing is faster than softmax beyond doubt")
        assert paragraph.sentences[-1].startswith("No latency could be compared")


def test_the_page_begins_with_what_to_ship() -> None:
    page = page_of(ROWS)
    assert page.index("<h1>") < page.index("Ship ") < page.index("What was found") < page.index("<form")
    (answer,) = re.findall(r'<p class="answer">(.*)</p>', page)
    assert answer.startswith("Ship ")
    assert answer.endswith("the best throughput within the limits.")


def test_each_machine_has_its_own_answer_under_its_name() -> None:
    elsewhere = [replace(one, environment=replace(ENVIRONMENT, cpu="Small CPU")) for one in make_sweep()]
    page = page_of(make_rows([*make_sweep(), *elsewhere]))
    for machine in ("Example CPU 9000", "Small CPU"):
        assert f"<h3>{machine}, cpu, flowers</h3>" in page
    assert page.count('<p class="answer">') == 2


def test_without_accuracy_or_a_stable_cell_nothing_is_said_to_be_shipped() -> None:
    outcome = make_outcome("softmax")
    assert outcome.evidence is not None
    blind = replace(outcome, evidence=replace(outcome.evidence, accuracy=None))
    assert "What to ship" not in page_of(make_rows([blind]))
    assert "Nothing can be recommended: 1 cell is unstable" in page_of(make_rows([replace(outcome, status="unstable")]))


def test_every_rendering_says_on_how_many_images_accuracy_was_measured() -> None:
    outcome = make_outcome("softmax", 224)
    assert outcome.evidence is not None
    assert outcome.evidence.accuracy is not None
    some = replace(outcome.evidence.accuracy, of_images=5000)
    sampled = replace(outcome, evidence=replace(outcome.evidence, accuracy=some))
    for one, counts in ((sampled, "2,000 of 5,000"), (outcome, "2,000")):
        sentence = f"Accuracy was measured on {counts} held-out images."
        rows = make_rows([one])
        assert sentence in _shown([one])
        assert sentence in table.markdown_text(rows)
        assert sentence in page_of(rows)
    failed = without_evidence(outcome, "oom", "open", "too big")
    assert "held-out" not in _shown([failed])


def test_csv_has_one_line_a_cell_in_full_precision() -> None:
    lines = list(csv.DictReader(io.StringIO(table.csv_text(ROWS))))
    assert len(lines) == len(ROWS)
    for line, row in zip(lines, ROWS, strict=True):
        value = row.reading("latency_s.p50").value
        assert line["latency_s.p50"] == ("" if value is None else repr(value))
        assert line["pareto_latency"] == (row.standing("latency") or "")
    assert {"memory.host_peak_bytes", "throughput.images_per_s.low", "height_px", "ceiling_speedup"} <= set(lines[0])


def test_markdown_keeps_hostile_names_in_their_cell() -> None:
    lines = table.markdown_text(make_rows(_hostile())).splitlines()
    bars = {len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")}
    assert len(bars) == 1
    assert not any("<img" in line for line in lines)


def test_hostile_names_stay_text_in_html() -> None:
    page = _page(_hostile())
    assert "img" not in page.tags
    assert page.tags.count("script") == 3
    assert page.tags.count("button") == 1  # that of the filters


def test_the_library_is_embedded_once_and_nothing_is_loaded() -> None:
    text = page_of(ROWS)
    assert text.count("window.vegaEmbed=") == 1
    page = _Page()
    page.feed(text)
    assert page.loaded == ["data:,"]  # the icon, which a browser would look for elsewhere
    assert "http://" not in text.replace("http://www.w3.org/", "")[: text.index('id="page"')]


def _downloads(page: _Page) -> dict[str, bytes]:
    return {
        name.removesuffix(".gz"): gzip.decompress(base64.b64decode(href.split(",")[1]))
        for name, href in page.downloads.items()
    }


def test_the_raw_data_in_html_is_a_result_file_and_the_table() -> None:
    files = _downloads(_page(_hostile()))
    lines = files["results.jsonl"].splitlines()
    assert [results.decode(line, "raw") for line in lines] == [row.outcome for row in make_rows(_hostile())]
    assert files["report.csv"].decode() == table.csv_text(make_rows(_hostile()))


def test_raw_data_that_a_page_cannot_hold_are_reduced_to_the_medians_of_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [make_outcome("softmax"), make_outcome("linformer")]
    monkeypatch.setattr(raw, "MOST_BYTES", 1000)
    page = page_of(make_rows(outcomes))
    assert "the median of each round stands for them" in page
    parsed = _Page()
    parsed.feed(page)
    lines = _downloads(parsed)["results-reduced.jsonl"].splitlines()
    less = [results.decode(line, "raw") for line in lines]
    assert [len(one.evidence.samples.seconds) for one in less if one.evidence] == [6, 6]
    assert all(raw.REDUCED in one.notes for one in less)
    whole, thin = make_rows(outcomes), make_rows(less)
    assert [row.speedup for row in thin] == [row.speedup for row in whole]


def test_every_figure_of_a_context_is_drawn_from_the_cells_of_it_and_has_a_table() -> None:
    page, data = SWEEP_PAGE, SWEPT
    assert [one["title"] for one in data["contexts"]] == [
        f"{backend}, fp32, batch {batch}" for backend in ("ort-cpu", "torch") for batch in (1, 8)
    ]
    assert [len(one["cells"]) for one in data["contexts"]] == [15] * 4  # 5 variants at 3 resolutions
    # There is neither energy nor training in these.
    drawn = [
        figure["name"]
        for figure, spec in zip(data["figures"], data["contexts"][0]["specs"], strict=True)
        if spec is not None
    ]
    assert drawn == [one.name for one in figures.FIGURES if one.name not in ("accuracy-energy", "training-cost")]
    assert page.tags.count("figure") == page.tags.count("figcaption") == len(figures.FIGURES)
    # A table behind each; the efficiency, and the data and runs.
    assert page.tags.count("details") == len(figures.FIGURES) + 1 + 1
    assert all(figure["columns"] or figure["name"] == "crossover" for figure in data["figures"])


def test_contexts_with_the_same_resolutions_share_their_drawings() -> None:
    data = SWEPT
    assert len(data["specs"]) < 2 * len(figures.FIGURES)
    assert '"values": [' not in json.dumps(data["specs"]).replace('"values": [197', "")


def test_filters_are_what_cells_differ_in() -> None:
    data = SWEPT
    assert [name for name, _ in data["dimensions"]] == ["backend", "batch", "px", "attention"]


def test_every_fact_of_a_cell_is_in_its_hover() -> None:
    data = SWEPT
    row = data["texts"][0]
    facts = {data["columns"][place]: data["strings"][row[place]] for place in data["facts"]}
    assert facts["attention"] == "softmax"
    assert facts["latency p50"] == display.latency(ROWS[0])
    assert {"peak memory", "size", "top-1", "MACs", "run", "status", "trained", "energy an image"} <= set(facts)


def test_remarks_are_told_once_with_the_cells_they_are_on() -> None:
    outcomes = [make_outcome(attention, px) for attention in ("softmax", "linformer") for px in (224, 384)]
    noted = [replace(one, notes=("resampled",)) if one.cell.workload.height == 384 else one for one in outcomes]
    assert summary.remarks(make_rows(noted)) == ["resampled: 2 of 4 cells (384 px)"]
    assert summary.remarks(make_rows([replace(one, notes=("<b>",)) for one in outcomes])) == ["<b>: all cells"]


def test_what_training_took_is_drawn_once_a_run() -> None:
    training = Training(30, 1800.0, 410.0, 0.81, 2**31, None)
    outcomes = [replace(make_outcome("softmax", px), training=training) for px in (224, 384)]
    data = json.loads(_page(outcomes).scripts["page"])
    place = data["fields"].index("of_run")
    assert [cell[place] for cell in data["contexts"][0]["cells"]] == [True, None]
    names = [figure["name"] for figure in data["figures"]]
    assert data["contexts"][0]["specs"][names.index("training-cost")] is not None
    assert {"30 min", "1.8 ks"} & set(data["strings"])


def test_the_efficiency_of_a_cell_is_in_html_and_csv() -> None:
    rows = make_rows([make_outcome("softmax")])
    # 2e11 MAC/s and 2e10 bytes/s were calibrated; 1.2246 GMACs and 27.34 MB a call are 6.123 ms and 1.367 ms.
    assert rows[0].reading("efficiency.compute_to_memory").value == pytest.approx(4.48, abs=0.01)
    (line,) = csv.DictReader(io.StringIO(table.csv_text(rows)))
    assert line["bound_by"] == "compute"
    assert 0.3 < float(line["efficiency.gemm_share"]) < 0.6  # invented at 9e10 MAC/s and a constant
    text = page_of(rows)
    assert "of the GEMM rate" in text
    page = _page([make_outcome("softmax")])
    assert "compute" in json.loads(page.scripts["page"])["strings"]


def test_a_machine_that_was_not_calibrated_bounds_nothing() -> None:
    outcome = make_outcome("softmax")
    assert outcome.evidence is not None
    rows = make_rows([replace(outcome, evidence=replace(outcome.evidence, calibration=None))])
    (line,) = csv.DictReader(io.StringIO(table.csv_text(rows)))
    assert (line["bound_by"], line["efficiency.gemm_share"]) == ("", "")


def test_the_reason_of_an_unmeasured_cell_runs_over_the_columns_of_its_numbers() -> None:
    outcome = without_evidence(make_outcome("atrous"), "timeout", "measure", "no answer in 60 s")
    text = page_of(make_rows([outcome, make_outcome("softmax")]))
    assert '<td class="reason" colspan="12">timeout at measure: no answer in 60 s</td>' in text


def test_a_variant_keeps_its_colour_and_shape_where_others_are_missing() -> None:
    variants = [*VARIANTS]
    scales = []
    for count in (1, len(VARIANTS)):
        rows = make_rows([make_outcome(attention) for attention in VARIANTS[:count]])
        spec = figures.FIGURES[0].chart(figures.Points(points.cells(rows)), variants).to_dict()
        scales.append([layer["encoding"]["shape"]["scale"] for layer in spec["layer"] if "shape" in layer["encoding"]])
    assert scales[0] == scales[1]


def test_no_figure_is_made_without_its_numbers() -> None:
    rows = make_rows([without_evidence(make_outcome(), "oom", "measure", "too large")])
    assert not any(figure.drawable(figures.Points(points.cells(rows))) for figure in figures.FIGURES)
    assert "No cell was measured" in page_of(rows)


def test_the_summary_calls_overlapping_intervals_undecided() -> None:
    softmax = make_outcome("softmax")
    assert softmax.evidence is not None
    twin = make_outcome("atrous")
    twin = replace(twin, evidence=softmax.evidence)
    (paragraph,) = summary.paragraphs(make_rows([softmax, twin]))
    assert paragraph.sentences[0].startswith("Nothing is faster than softmax beyond doubt")
    assert "1 undecided" in paragraph.sentences[-1]
    assert "these images cannot tell it from 1 other cell" in paragraph.sentences[-2]


def test_the_summary_names_the_winner_and_its_price() -> None:
    rows = make_rows([outcome for outcome in make_sweep() if outcome.cell.backend == "torch"])
    first = summary.paragraphs(rows)[0]
    assert first.title == "torch, fp32, batch 1"
    assert "nystromformer at 512 px" in first.sentences[0]
    assert "linformer at 512 px" in first.sentences[1]
    assert summary.overview(rows) == "5 attention mechanisms at 3 resolutions, 30 cells: 30 measured."


def test_the_summary_tells_a_certain_gain_of_accuracy_from_a_possible_one() -> None:
    outcomes = [one for one in make_sweep() if one.cell.backend == "torch"]
    assert "points, an interval that includes 0)" in summary.paragraphs(make_rows(outcomes))[0].sentences[0]
    for place, one in enumerate(outcomes):
        if one.cell.model.attention == "softmax" and one.evidence is not None:
            outcomes[place] = replace(one, evidence=replace(one.evidence, accuracy=make_accuracy(0.5)))
    assert "points, all above 0)" in summary.paragraphs(make_rows(outcomes))[0].sentences[0]


def test_where_all_is_unstable_times_are_not_compared() -> None:
    outcomes = [replace(make_outcome(name), status="unstable") for name in ("softmax", "linformer")]
    (paragraph,) = summary.paragraphs(make_rows(outcomes))
    first, second = paragraph.sentences
    assert first.startswith("Every measured cell is unstable")
    assert second.startswith("The highest top-1: softmax")


def test_the_summary_does_not_call_unstable_cells_measured() -> None:
    unstable = replace(make_outcome("atrous"), status="unstable", stage="measure", reason="rounds differ by 12 %")
    assert summary.overview(make_rows([make_outcome(), unstable])).endswith("2 cells: 1 measured, 1 unstable.")


def test_a_report_is_html_csv_markdown_and_every_figure_twice(tmp_path: Path) -> None:
    written = write_report(make_rows([make_outcome("softmax"), make_outcome("linformer")]), tmp_path / "report")
    assert written.html.read_text().startswith("<!DOCTYPE html>")
    assert written.csv.exists()
    assert written.markdown.exists()
    # One resolution crosses nothing, and there is neither energy nor training in these.
    drawn = [one.name for one in figures.FIGURES if one.name not in ("crossover", "accuracy-energy", "training-cost")]
    assert [path.name for path in written.figures] == [f"{name}.{kind}" for name in drawn for kind in ("png", "svg")]
    for path in written.figures:
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"<svg")


def test_no_outcomes_make_no_report(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="no outcomes"):
        write_report([], tmp_path)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    outcome = without_evidence(make_outcome(), "oom", "measure", "too large")
    with pytest.raises(StorageError, match="cannot be written"):
        write_report(make_rows([outcome]), tmp_path / "taken")
