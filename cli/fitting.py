"""What `effvit fit` asks of devices and result files, and how it shows what it found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from effvit.cli.output import progress_bars
from effvit.cli.remote_sweeping import remote_sweep
from effvit.cli.tables import plain
from effvit.demand import demand_of
from effvit.export.base import pick_backend
from effvit.profiling.agent.ssh import Host
from effvit.profiling.devices import Device
from effvit.profiling.fit import Errors, FitCell, History, Place, PlaceFit, Quantity, history_of
from effvit.profiling.records import Calibration
from effvit.profiling.report import quantities
from effvit.profiling.report.advice import TITLES, missed, named
from effvit.profiling.results import latest, read
from effvit.profiling.survey import survey

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_LEGEND = (
    "Predicted, with the 95 % interval in brackets; uncertain: the interval reaches beyond a limit; !: the measurement "
    "lies off it."
)


def surveyed(devices: Sequence[Device], hosts: Sequence[Host], backends: Sequence[str]) -> list[Place]:
    """Return every device with the survey of its machine, which takes some seconds the first time.

    Raises:
        BackendUnavailableError: A runtime is not on this machine, and a device of it is asked about.
        EffvitError: Whatever a survey raises.
    """
    for name in backends if devices else ():
        pick_backend(name).require()
    with progress_bars() as progress:
        task = progress.add_task("surveying", total=None, detail="")

        def stage(text: str) -> None:
            progress.update(task, detail=text)

        places = [Place(str(device), device, survey(device.threads, backends, stage)) for device in devices]
        for host in hosts:
            stage(str(host))
            there = remote_sweep(progress, host)
            there.backends(backends)
            places.append(Place(host.text, host.device, there.survey(backends)))
    return places


def history(files: Sequence[Path]) -> History:
    """Return what the result files have, of any model and machine.

    Raises:
        ResultError: A file that is none.
    """
    outcomes = latest(outcome for file in files for outcome in read(file))
    with progress_bars() as progress:
        progress.add_task("counting what measured models demand", total=None, detail="")
        return history_of(outcomes, cache(demand_of))


def parts(found: PlaceFit) -> Iterator[RenderableType]:
    """Yield what is known of one device: its rates, its cells, how many fit, and how far predictions were off."""
    calibration, environment = found.place.survey.calibration, found.place.survey.environment
    threads = "1 thread" if calibration.threads == 1 else f"{calibration.threads} threads"
    products, moved = (quantities.si(rate, unit) for rate, unit in _rates(calibration))
    yield f"{found.place.name}: {environment.cpu}, {threads}, {products}, {moved}\n"
    yield _table(found.cells)
    yield f"\n{_verdict(found)}"
    for errors in found.errors:
        yield _off(errors)
    yield f"{_LEGEND}\n"


def _rates(calibration: Calibration) -> tuple[tuple[float, str], tuple[float, str]]:
    return (calibration.macs_per_s, "MACs/s"), (calibration.bytes_per_s, "bytes/s")


def _table(cells: Sequence[FitCell]) -> Table:
    """Return every cell; without a measured one there are no columns for measurements."""
    shown = 3 if any(one.latency_s.measured for one in cells) else 1
    numbers = [title for name in ("latency p50", "peak memory") for title in (name, "measured", "off by")[:shown]]
    table = plain("attention", "px", "batch", "precision", "backend", *numbers, "fits")
    for column in [*table.columns[1:3], *table.columns[5:-1]]:
        column.justify = "right"
    for one in cells:
        cell, work = one.cell, one.cell.workload
        names = (cell.model.attention, work.resolution, str(work.batch), str(cell.precision), cell.backend)
        texts = (*_texts(one.latency_s, _time)[:shown], *_texts(one.memory_bytes, _size)[:shown])
        table.add_row(*names, *texts, _answer(one))
    return table


def _texts(quantity: Quantity | None, text: Callable[[float], str]) -> tuple[str, str, str]:
    """Return the prediction with its interval, the measurement, and by how much the prediction is off."""
    if quantity is None:
        return (quantities.ABSENT,) * 3
    value = quantity.predicted
    assert value.low is not None
    assert value.high is not None
    predicted = f"{text(value.value)} ({text(value.low)} to {text(value.high)})"
    if quantity.measured is None or quantity.error is None:
        return predicted, quantities.ABSENT, quantities.ABSENT
    mark = "" if quantity.covered else " !"
    return predicted, text(quantity.measured.value), f"{100 * quantity.error:+.0f} %{mark}"


def _time(seconds: float) -> str:
    return quantities.si(seconds, "s")


def _size(size_bytes: float) -> str:
    return quantities.size(size_bytes)


def _answer(one: FitCell) -> str:
    return f"{one.fits}, {'measured' if one.measured else 'predicted'}"


def _verdict(found: PlaceFit) -> str:
    counts = Counter(one.fits for one in found.cells)
    text = f"Of {len(found.cells)} cells {counts['yes']} fit, {counts['uncertain']} perhaps, {counts['no']} do not."
    if any(one.met for one in found.cells) or found.nearest is None:
        return text
    return f"{text} The nearest is {named(found.nearest)}: {missed(found.nearest)}."


def _off(errors: Errors) -> str:
    cells = "1 measured cell" if errors.cells == 1 else f"{errors.cells} measured cells"
    return (
        f"{TITLES[errors.quantity]}: predictions of {cells}, each from all others, were off by "
        f"{100 * errors.median:.0f} % in the median and {100 * errors.largest:.0f} % at most; the measurements of "
        f"{errors.within} lie in their interval."
    )
