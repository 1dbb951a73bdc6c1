"""The columns that every rendering of the table shares, so that no two of them show different digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from effvit.profiling.records import Training
from effvit.profiling.report import quantities
from effvit.profiling.report.quantities import ABSENT
from effvit.profiling.report.rows import ENERGY, PRICES, Context, Row
from effvit.spec import BASELINE

LEDGER = ("Python", "runtime", "weights", "images", "activations", "residual")
LATENCY_SIGN = "*"
MEMORY_SIGN = "+"
UNSTABLE_SIGN = "!"
SLOWED_SIGN = "°"
SIGNS = (
    f"{LATENCY_SIGN} nothing here is both faster and more accurate\n"
    f"{MEMORY_SIGN} nothing here needs less memory and is more accurate\n"
    f"{UNSTABLE_SIGN} the machine was not ours while this was measured: not to be relied on\n"
    f"{SLOWED_SIGN} heat, or want of power, slowed the machine down in some of its rounds"
)
CEILING = (
    "The ceiling is the speed-up that softmax would reach if its attention core took no time at all: its MACs over its "
    "MACs without the core. Below it lies what a cheaper core can win; a mechanism that compresses tokens before the "
    "key and value projections also saves outside the core and may exceed it."
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of text; `numeric` ones are aligned to the right."""

    title: str
    text: Callable[[Row], str]
    numeric: bool = True


def latency(row: Row) -> str:
    """Return the median with its spread: `1.21 ms ±1 %`."""
    reading = row.reading("latency_s.p50")
    if reading.value is None:
        return ABSENT
    wide = quantities.spread(reading.value, reading.low, reading.high)
    return f"{quantities.si(reading.value, 's', reading.low, reading.high)} {wide}".rstrip()


def throughput(row: Row) -> str:
    """Return images a second: `6.6 k`."""
    reading = row.reading("throughput.images_per_s")
    return ABSENT if reading.value is None else quantities.si(reading.value, "", reading.low, reading.high)


def memory(row: Row) -> str:
    """Return the peak of the process: `112 MiB`."""
    value = row.reading("memory.host_peak_bytes").value
    return ABSENT if value is None else quantities.size(value)


def top1(row: Row) -> str:
    """Return top-1 with the half-width of its interval in points: `84 % (±2)`."""
    reading = row.reading("accuracy.top1")
    return ABSENT if reading.value is None else quantities.percent(reading.value, reading.low, reading.high)


def balanced_top1(row: Row) -> str:
    """Return the mean over classes of each class's top-1, with as many digits as top-1 itself has."""
    balanced, plain = row.reading("accuracy.balanced_top1"), row.reading("accuracy.top1")
    if balanced.value is None:
        return ABSENT
    return f"{100 * balanced.value:.{quantities.point_decimals(plain.low, plain.high)}f} %"


def speedup(row: Row) -> str:
    """Return the measured speed-up with its spread: `1.12x ±1 %`."""
    if row.is_baseline and row.baseline is None and row.outcome.evidence:
        return "baseline"
    ratio = row.speedup
    if ratio is None:
        return ABSENT
    wide = quantities.spread(ratio.value, ratio.low, ratio.high)
    return f"{quantities.ratio(ratio.value, ratio.low, ratio.high)} {wide}".rstrip()


def top1_gap(row: Row) -> str:
    """Return the difference of top-1 in points: `-2 (±1)`."""
    gap = row.top1_gap
    return ABSENT if gap is None else quantities.points(gap.value, gap.low, gap.high)


def fate(row: Row) -> str:
    """Return the status in words: `build failed`."""
    return "out of memory" if row.outcome.status == "oom" else row.outcome.status.replace("_", " ")


def status(row: Row) -> str:
    """Return the status, with the stage and the reason where the cell was not simply measured."""
    outcome = row.outcome
    stage = f" at {outcome.stage}" if outcome.stage else ""
    reason = f": {outcome.reason}" if outcome.reason else ""
    return f"{fate(row)}{stage}{reason}"


def signs(row: Row) -> str:
    """Return the marks of the fronts that the row lies on, or that of a row that cannot be relied on; and of heat."""
    slowed = SLOWED_SIGN * bool(row.reading("slowed.rounds").value)
    if row.unstable:
        return UNSTABLE_SIGN + slowed
    return LATENCY_SIGN * row.pareto_latency + MEMORY_SIGN * row.pareto_memory + slowed


def context_name(context: Context, among: Sequence[Context]) -> str:
    """Return backend, precision and batch, and before them whatever else tells `context` from the others."""
    parts = []
    for field in ("backbone", "data", "machine", "device"):
        if len({getattr(other, field) for other in among}) > 1:
            parts.append(str(getattr(context, field)))
    return ", ".join([*parts, context.backend, str(context.precision), f"batch {context.batch}"])


def accuracy_basis(rows: Sequence[Row]) -> str:
    """Return on how many held-out images accuracy was measured, as a sentence; nothing where none was."""
    measured = [row.outcome.evidence.accuracy for row in rows if row.outcome.evidence is not None]
    counts = sorted({(accuracy.images, accuracy.of_images) for accuracy in measured if accuracy is not None})
    parts = [f"{images:,}" if images == whole else f"{images:,} of {whole:,}" for images, whole in counts]
    return f"Accuracy was measured on {' and '.join(parts)} held-out images." if parts else ""


def _optional(value: float | None, render: Callable[[float], str]) -> str:
    return ABSENT if value is None else render(value)


def energy(row: Row) -> str:
    """Return what an image takes of the processors and GPUs that were metered: `41 mJ`."""
    value = row.total(ENERGY).value
    return ABSENT if value is None else quantities.si(value, "J")


def _seconds(value: float) -> str:
    return quantities.si(value, "s")


def _plain(row: Row, name: str, render: Callable[[float], str]) -> str:
    return _optional(row.reading(name).value, render)


def _size_of(name: str) -> Callable[[Row], str]:
    return lambda row: _plain(row, name, quantities.size)


def _trained(row: Row, render: Callable[[Training], str]) -> str:
    return ABSENT if row.outcome.training is None else render(row.outcome.training)


def _training_memory(training: Training) -> str:
    """Return the peak on the device that trained, or of the process where it was the processor."""
    return _optional(training.device_peak_bytes or training.host_peak_bytes, quantities.size)


def _training_energy(training: Training) -> str:
    """Return what processors and GPUs took, as far as they tell."""
    parts = (("processors", training.cpu_joules), ("GPUs", training.gpu_joules))
    told = [f"{name} {quantities.si(joules, 'J')}" for name, joules in parts if joules is not None]
    return ", ".join(told) or ABSENT


def _standing(price: str) -> Callable[[Row], str]:
    words = {"front": "on the front", "near": "not distinguishable", "beaten": "beaten", None: ABSENT}
    return lambda row: words[row.standing(price)]


_IF_SEVERAL = ("machine", "device")
# What names a cell, measured or not.
NAMING = (
    Column("", signs, numeric=False),
    Column("machine", lambda row: row.machine, numeric=False),
    Column("attention", lambda row: row.label, numeric=False),
    Column("backend", lambda row: row.outcome.cell.backend, numeric=False),
    Column("precision", lambda row: str(row.outcome.cell.precision), numeric=False),
    Column("device", lambda row: str(row.outcome.cell.device), numeric=False),
    Column("batch", lambda row: str(row.workload.batch)),
    Column("px", lambda row: row.workload.resolution),
)
COLUMNS = (
    *NAMING,
    Column("tokens", lambda row: _optional(row.tokens, lambda tokens: str(int(tokens)))),
    Column("latency p50", latency),
    Column(f"vs. {BASELINE}", speedup),
    Column("ceiling", lambda row: _optional(row.ceiling, lambda value: f"{value:.2f}x")),
    Column("images/s", throughput),
    Column("peak memory", memory),
    Column("top-1", top1),
    Column("balanced top-1", balanced_top1),
    Column("top-1 points", top1_gap),
    Column("MACs", lambda row: _optional(row.reading("cost.macs").value, quantities.count)),
    Column("MACs ratio", lambda row: _optional(row.macs_ratio, lambda value: f"{value:.2f}x")),
    Column("status", status, numeric=False),
)


# What the tables behind single figures and the facts of one cell show beside that.
MORE = (
    Column("latency p90", lambda row: _plain(row, "latency_s.p90", _seconds)),
    Column("latency p99", lambda row: _plain(row, "latency_s.p99", _seconds)),
    Column("first call", lambda row: _plain(row, "load_s.first", _seconds)),
    Column("size", lambda row: _plain(row, "artifact.size_bytes", quantities.size)),
    Column("energy an image", energy),
    Column("top-5", lambda row: _plain(row, "accuracy.top5", lambda share: f"{100 * share:.1f} %")),
    Column("parameters", lambda row: _plain(row, "cost.parameters", quantities.count)),
    Column("model", lambda row: row.outcome.cell.model.backbone, numeric=False),
    Column("data", lambda row: row.outcome.data, numeric=False),
    Column("run", lambda row: row.outcome.run, numeric=False),
    Column("trained", lambda row: _trained(row, lambda training: quantities.si(training.seconds, "s"))),
    Column("epochs", lambda row: _trained(row, lambda training: str(training.epochs))),
    Column("training images/s", lambda row: _trained(row, lambda training: quantities.si(training.images_per_s, ""))),
    Column("training memory", lambda row: _trained(row, _training_memory)),
    Column("training energy", lambda row: _trained(row, _training_energy), numeric=False),
    Column("top-1 after training", lambda row: _trained(row, lambda training: f"{100 * training.top1:.1f} %")),
    *(Column(title, _size_of(f"memory.{title.lower()}_bytes")) for title in LEDGER),
    *(Column(f"front by {price.name}", _standing(price.name), numeric=False) for price in PRICES),
)


def columns_of(rows: Sequence[Row], among: Sequence[Column] = COLUMNS) -> list[Column]:
    """Return the columns `among` these that `rows` need: machine and device are named only where there are several."""
    unneeded = {column.title for column in among if column.title in _IF_SEVERAL and not _several(column, rows)}
    return [column for column in among if column.title not in unneeded]


def _several(column: Column, rows: Sequence[Row]) -> bool:
    return len({column.text(row) for row in rows}) > 1


def columns(*titles: str) -> tuple[Column, ...]:
    """Return the columns with these titles, in the order asked for."""
    by_title = {column.title: column for column in (*COLUMNS, *MORE)}
    return tuple(by_title[title] for title in titles)
