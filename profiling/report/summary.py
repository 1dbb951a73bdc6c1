"""What a report says in plain sentences: what won, at which cost, and what the data cannot decide."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from effvit.profiling import stats
from effvit.profiling.crossover import Crossover
from effvit.profiling.heat import heat_of
from effvit.profiling.report import crossings, display
from effvit.profiling.report.rows import Context, Row, contexts
from effvit.spec import BASELINE

_SHAKEN = "Every measured cell is unstable: other processes ran meanwhile, so these times decide nothing."


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Sentences about one context."""

    title: str
    sentences: tuple[str, ...]


def overview(rows: Sequence[Row]) -> str:
    """Return one sentence on what was asked and what became of it."""
    variants = len({row.label for row in rows})
    resolutions = len({(row.workload.height, row.workload.width) for row in rows})
    fates = Counter("measured" if row.outcome.status == "ok" else display.fate(row) for row in rows)
    parts = ", ".join(f"{count} {fate}" for fate, count in fates.most_common())
    return (
        f"{_counted(variants, 'attention mechanism')} at {_counted(resolutions, 'resolution')}, "
        f"{_counted(len(rows), 'cell')}: {parts}."
    )


def paragraphs(rows: Sequence[Row], crossed: Sequence[Crossover] = ()) -> list[Paragraph]:
    """Return what each context shows, in the order of the rows; `crossed` are the crossovers of all of them."""
    among = contexts(rows)
    found = []
    for context in among:
        said = _sentences([row for row in rows if row.context == context])
        where = crossings.sentences([one for one in crossed if one.context == context])
        found.append(Paragraph(display.context_name(context, among), (*said, *where)))
    return found


def remarks(rows: Sequence[Row]) -> list[str]:
    """Return each remark on cells once, with how many it is on, and which where that says less than all."""
    noted: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for note in row.outcome.notes:
            noted[note].append(row)
    return [f"{note}: {_which(some, rows)}" for note, some in noted.items()]


def _which(some: Sequence[Row], rows: Sequence[Row]) -> str:
    """Return `54 of 72 cells (384, 512 px)`: what tells these from the others, in attention or in resolution."""
    if len(some) == len(rows):
        return "all cells"
    count = f"{len(some)} of {_counted(len(rows), 'cell')}"
    told = []
    for texts in (lambda row: row.label, lambda row: f"{row.workload.resolution} px"):
        few = dict.fromkeys(map(texts, some))
        if len(few) < len(set(map(texts, rows))):
            told.append(", ".join(few))
    return f"{count} ({'; '.join(told)})" if told else count


def default_context(rows: Sequence[Row]) -> Context:
    """Return the context with the most measured cells, the first of equals: the one a reader should see first."""
    counts = Counter(row.context for row in rows if row.outcome.evidence)
    return max(contexts(rows), key=lambda context: counts[context])


def _sentences(rows: Sequence[Row]) -> tuple[str, ...]:
    if not any(row.outcome.evidence for row in rows):
        return ("No cell was measured.",)
    if rows[0].emulated:  # and with it the whole context
        return ("It was emulated: its times and its memory are those of the emulator, and rank nothing.",)
    if all(row.unstable for row in rows if row.outcome.evidence):
        return tuple(sentence for sentence in (_SHAKEN, _most_accurate(rows), heat(rows)) if sentence)
    sentences = [_safest(rows), _fastest(rows), _front(rows), _most_accurate(rows), _decided(rows), heat(rows)]
    return tuple(sentence for sentence in sentences if sentence)


def _safest(rows: Sequence[Row]) -> str:
    """Name the largest speed-up that is certain and costs no accuracy that the data can show."""
    free = [row for row in rows if _certainly_faster(row) and _no_visible_loss(row)]
    if not free:
        return f"Nothing is faster than {BASELINE} beyond doubt without a loss of accuracy that the data can show."
    best = max(free, key=lambda row: row.speedup.value if row.speedup else 0)
    gap = ""
    if best.top1_gap is not None:
        certain = best.top1_gap.low is not None and best.top1_gap.low > 0
        gap = f" ({display.top1_gap(best)} points, {'all above 0' if certain else 'an interval that includes 0'})"
    return (
        f"The largest certain speed-up without a loss of accuracy that these images can show: {_named(best)}, "
        f"{display.speedup(best)} against {BASELINE}{gap}."
    )


def _fastest(rows: Sequence[Row]) -> str:
    """Name the largest speed-up, and what it costs."""
    faster = [row for row in rows if _certainly_faster(row)]
    if not faster:
        return ""
    best = max(faster, key=lambda row: row.speedup.value if row.speedup else 0)
    cost = "its accuracy was not compared" if best.top1_gap is None else f"for {display.top1_gap(best)} points of top-1"
    ceiling = f"; the ceiling is {best.ceiling:.2f}x" if best.ceiling else ""
    return f"The largest speed-up of all: {_named(best)}, {display.speedup(best)}, {cost}{ceiling}."


def _most_accurate(rows: Sequence[Row]) -> str:
    """Name the highest top-1, and how many others it cannot be told from."""
    known = [row for row in rows if row.reading("accuracy.top1").value is not None]
    if not known:
        return "No accuracy was measured."
    best = max(known, key=lambda row: row.reading("accuracy.top1").value or 0)
    rivals = [row for row in known if row is not best and _may_be_as_accurate(row, best)]
    doubt = ""
    if rivals:
        doubt = f"; these images cannot tell it from {_counted(len(rivals), 'other cell')}"
    return f"The highest top-1: {_named(best)}, {display.top1(best)} at {display.latency(best)}{doubt}."


def _may_be_as_accurate(row: Row, best: Row) -> bool:
    ours, theirs = (one.outcome.evidence.accuracy if one.outcome.evidence else None for one in (row, best))
    gap = None if ours is None or theirs is None else stats.top1_gap(ours, theirs)
    return gap is not None and gap.high is not None and gap.high >= 0


def _front(rows: Sequence[Row]) -> str:
    """Count what nothing beats in accuracy and latency, and what cannot be told from it."""
    counts = Counter(row.standing("latency") for row in rows)
    if not counts["front"]:
        return ""
    alike = (
        f"{_counted(counts['near'], 'other')} cannot be told from these, and {counts['beaten']} are beaten beyond doubt"
    )
    return f"By accuracy and latency {_counted(counts['front'], 'cell')} on the front; {alike}."


def _decided(rows: Sequence[Row]) -> str:
    """Count the comparisons that are certain in either direction, and those that are not."""
    ratios = [row.speedup for row in rows if row.speedup and row.speedup.low is not None and _stable(row)]
    if not ratios:
        return f"No latency could be compared with {BASELINE} round by round."
    faster = sum(1 for ratio in ratios if ratio.low is not None and ratio.low > 1)
    slower = sum(1 for ratio in ratios if ratio.high is not None and ratio.high < 1)
    undecided = len(ratios) - faster - slower
    doubt = ", where the 95 % interval includes 1" if undecided else ""
    return (
        f"Of {_counted(len(ratios), 'comparison')} with {BASELINE}: {faster} faster beyond doubt, {slower} slower, "
        f"{undecided} undecided{doubt}."
    )


def heat(rows: Sequence[Row]) -> str:
    """Say in how many rounds and cells heat, or want of power, slowed the machine down, and how; nothing for none."""
    known = [heat_of(row.outcome.evidence) for row in rows if row.outcome.evidence is not None]
    slowed = [one for one in known if one.slowed]
    if not slowed:
        return ""
    peak_c = max((one.peak_c for one in slowed if one.peak_c is not None), default=None)
    hot = "" if peak_c is None else f", at up to {peak_c:.0f} °C"
    reasons = dict.fromkeys(reason for one in slowed for reason in one.reasons)
    return (
        f"The machine was slowed down in {_counted(sum(one.slowed or 0 for one in slowed), 'round')} of "
        f"{_counted(len(slowed), 'cell')}{hot}: {'; '.join(reasons)}. Such rounds are left out where enough others "
        "are there."
    )


def _certainly_faster(row: Row) -> bool:
    return _stable(row) and row.speedup is not None and row.speedup.low is not None and row.speedup.low > 1


def _stable(row: Row) -> bool:
    """Return whether the row and what it is compared with can be relied on."""
    return not row.unstable and (row.baseline is None or row.baseline.status != "unstable")


def _no_visible_loss(row: Row) -> bool:
    return row.top1_gap is not None and row.top1_gap.high is not None and row.top1_gap.high >= 0


def _named(row: Row) -> str:
    return f"{row.label} at {row.workload.resolution} px"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
