"""What a report says where there are several devices: trade-offs side by side, and how mechanisms rank on each."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert

from effvit.profiling.ranking import Agreement, Comparison, Place, Ranking, Spot, comparisons
from effvit.profiling.report import display, points, quantities, summary
from effvit.profiling.report.figures import FIGURES, Points
from effvit.profiling.report.palette import colour
from effvit.profiling.report.rows import Context, Row, contexts, variant_order
from effvit.profiling.report.table import escaped
from effvit.spec import Workload

AGREEMENT_TITLES = ("where", "devices", "Kendall's tau", "pairs told apart on both", "of these reversed")
TIES = "Mechanisms that cannot be told apart share a rank, which is marked with =."
_PANEL_PX, _LINE_PX, _PANELS_ACROSS, _MOST_NAMED = 320, 34, 2, 3
_OF_THE_WHOLE = ("$schema", "config")


@dataclass(frozen=True, slots=True)
class Drawing:
    """A still figure: a Vega-Lite specification with its data."""

    name: str
    title: str
    caption: str
    spec: dict[str, Any]

    @property
    def svg(self) -> str:
        """The figure as SVG."""
        text: str = vl_convert.vegalite_to_svg(self.spec)
        return text

    @property
    def address(self) -> str:
        """The figure as a data URI, which a page shows without running or loading anything."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg.encode()).decode()}"


@dataclass(frozen=True, slots=True)
class Devices:
    """What the rows of a report tell of several devices; nothing where they were all measured on one.

    `ranks` are lines under `rank_titles`, `agreements` under `AGREEMENT_TITLES`.
    """

    sentences: tuple[str, ...]
    drawings: tuple[Drawing, ...]
    rank_titles: tuple[str, ...]
    ranks: tuple[tuple[str, ...], ...]
    agreements: tuple[tuple[str, ...], ...]


def devices_of(rows: Sequence[Row]) -> Devices:
    """Return what `rows` tell of several devices."""
    found = comparisons(rows)
    names = spot_names([ranking.spot for one in found for ranking in one.rankings])
    drawings = [drawing for drawing in (_trade_offs(rows), _ranks(rows, found, names)) if drawing is not None]
    return Devices(
        sentences=sentences(found),
        drawings=tuple(drawings),
        rank_titles=("where", "attention", *names.values()),
        ranks=tuple(line for one in found for line in _rank_lines(one, found, names)),
        agreements=tuple(_agreement_line(pair, one, found, names) for one in found for pair in one.agreements),
    )


def sentences(found: Sequence[Comparison]) -> tuple[str, ...]:
    """Return how the order of the mechanisms changes, one sentence for each two devices."""
    names = spot_names([ranking.spot for one in found for ranking in one.rankings])
    pairs = dict.fromkeys((pair.first, pair.second) for one in found for pair in one.agreements)
    return tuple(_sentence(first, second, found, names) for first, second in pairs)


def markdown_text(devices: Devices) -> str:
    """Return the sentences and the ranks as Markdown; nothing where there is one device."""
    if not devices.sentences:
        return ""
    titles = [escaped(title) for title in devices.rank_titles]
    lines = [titles, ["---"] * len(titles), *([escaped(text) for text in line] for line in devices.ranks)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    said = "\n\n".join(escaped(sentence) for sentence in devices.sentences)
    return f"\n## From device to device\n\n{said}\n\n{table}\n\n{TIES}\n"


def spot_names(spots: Sequence[Spot]) -> dict[Spot, str]:
    """Return what tells each device from the others: its name, its machine's, or both."""
    distinct = list(dict.fromkeys(spots))
    if len({spot.machine for spot in distinct}) == 1:
        return {spot: spot.device for spot in distinct}
    if len({spot.device for spot in distinct}) == 1:
        return {spot: spot.machine for spot in distinct}
    return {spot: f"{spot.machine}, {spot.device}" for spot in distinct}


def _sentence(first: Spot, second: Spot, found: Sequence[Comparison], names: dict[Spot, str]) -> str:
    here = [(one, pair) for one in found for pair in one.agreements if (pair.first, pair.second) == (first, second)]
    taus = sorted(pair.tau for _, pair in here if pair.tau is not None)
    decided = sum(pair.decided for _, pair in here)
    reversed_ = [(one, reversal) for one, pair in here for reversal in pair.reversals]
    if not decided:
        order = "no two mechanisms are told apart on both"
    elif not reversed_:
        order = f"none of the {decided} pairs of mechanisms that are told apart on both is the other way round"
    else:
        named = [
            f"{reversal.faster_on_first} before {reversal.faster_on_second} ({_where(one, found)})"
            for one, reversal in reversed_[:_MOST_NAMED]
        ]
        more = len(reversed_) - len(named)
        listed = "; ".join(named) + (f"; and {more} more" if more else "")
        are = "is" if len(reversed_) == 1 else "are"
        order = f"of {decided} pairs that are told apart on both, {len(reversed_)} {are} the other way round: {listed}"
    return f"From {names[first]} to {names[second]}: {_taus(taus)}{order}."


def _taus(taus: Sequence[float]) -> str:
    if not taus:
        return ""
    low, high = f"{taus[0]:.2f}", f"{taus[-1]:.2f}"
    span = low if low == high else f"{low} to {high}"
    return f"Kendall's tau of the latency ranks is {span}; "


def _where(one: Comparison, found: Sequence[Comparison]) -> str:
    """Return resolution, batch, precision and backend, and before them what else tells a ground from the others."""
    ground, among = one.ground, [other.ground for other in found]
    parts = [
        str(getattr(ground, field))
        for field in ("backbone", "data")
        if len({getattr(other, field) for other in among}) > 1
    ]
    work = Workload(ground.batch, ground.height, ground.width)
    return ", ".join([*parts, f"{work.resolution} px", f"batch {work.batch}", str(ground.precision), ground.backend])


def _rank_lines(one: Comparison, found: Sequence[Comparison], names: dict[Spot, str]) -> list[tuple[str, ...]]:
    where, by_spot = _where(one, found), {ranking.spot: ranking for ranking in one.rankings}
    lines = []
    for label in (place.label for place in one.rankings[0].places):
        shown = [_shown(by_spot[spot], label) if spot in by_spot else quantities.ABSENT for spot in names]
        lines.append((where, label, *shown))
    return lines


def _shown(ranking: Ranking, label: str) -> str:
    place = ranking.place(label)
    latency = place.latency_s
    return f"{_rank(place)} ({quantities.si(latency.value, 's', latency.low, latency.high)})"


def _rank(place: Place) -> str:
    return f"{place.rank}{'=' if place.tied else ''}"


def _agreement_line(
    pair: Agreement, one: Comparison, found: Sequence[Comparison], names: dict[Spot, str]
) -> tuple[str, ...]:
    tau = quantities.ABSENT if pair.tau is None else f"{pair.tau:.2f}"
    devices = f"{names[pair.first]} / {names[pair.second]}"
    return (_where(one, found), devices, tau, str(pair.decided), str(len(pair.reversals)))


def _trade_offs(rows: Sequence[Row]) -> Drawing | None:
    """Return accuracy against latency on every device, of what a reader sees first."""
    figure, first = FIGURES[0], summary.default_context(rows)
    alike = [context for context in contexts(rows) if _same_but_device(context, first)]
    variants = variant_order(rows)
    panels = []
    for context in alike:
        drawn = Points(points.cells([row for row in rows if row.context == context]))
        if figure.drawable(drawn):
            titled = figure.chart(drawn, variants).properties(
                width=_PANEL_PX, title=display.context_name(context, alike)
            )
            panels.append({**titled.to_dict(), "data": {"values": list(drawn.cells)}})
    if len(panels) < 2:
        return None
    spec = _side_by_side(panels) | {"resolve": {"scale": {"x": "shared", "y": "shared"}}}
    return Drawing("devices-accuracy-latency", f"{figure.title}, device by device", figure.caption, spec)


def _same_but_device(context: Context, first: Context) -> bool:
    return all(
        getattr(context, field) == getattr(first, field)
        for field in ("backbone", "data", "backend", "precision", "batch")
    )


def _ranks(rows: Sequence[Row], found: Sequence[Comparison], names: dict[Spot, str]) -> Drawing | None:
    """Return who is before whom on each device, one panel for each ground."""
    if not found:
        return None
    variants = variant_order(rows)
    panels = [_bump_chart(one, variants, names).properties(title=_where(one, found)).to_dict() for one in found]
    caption = f"1 is the fastest. Open circles: {TIES[0].lower()}{TIES[1:]}"
    return Drawing("devices-ranks", "Latency ranks from device to device", caption, _side_by_side(panels))


def _bump_chart(one: Comparison, variants: Sequence[str], names: dict[Spot, str]) -> alt.LayerChart:
    data = [
        {"label": place.label, "device": names[ranking.spot], "order": order, "rank": _rank(place), "tied": place.tied}
        for ranking in one.rankings
        for order, place in enumerate(ranking.places, start=1)
    ]
    base = alt.Chart(alt.InlineData(values=data)).encode(
        x=alt.X("device:N", sort=None, title=None, axis=alt.Axis(labelAngle=0, labelLimit=150), scale=alt.Scale()),
        y=alt.Y("order:Q", title="latency rank", axis=None, scale=alt.Scale(reverse=True, nice=False, padding=14)),
        color=colour(variants),
    )
    lines = base.mark_line(strokeWidth=2, opacity=0.7)
    sure = base.transform_filter("!datum.tied").mark_point(filled=True, size=260, opacity=1)
    unsure = base.transform_filter("datum.tied").mark_point(fill="white", size=260, strokeWidth=2, opacity=1)
    ranks = base.mark_text(fontSize=10, fontWeight="bold").encode(
        text="rank:N", color=alt.condition("datum.tied", alt.value("#202020"), alt.value("white"))
    )
    height = _LINE_PX * len(one.rankings[0].places)
    return alt.layer(lines, sure, unsure, ranks).properties(width=_PANEL_PX, height=height)


def _side_by_side(panels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "$schema": panels[0]["$schema"],
        "background": "white",
        "columns": _PANELS_ACROSS,
        "concat": [{key: value for key, value in one.items() if key not in _OF_THE_WHOLE} for one in panels],
    }
