"""What runtimes really used, as they tell it themselves: the columns of a table."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from effvit.export.settings import RuntimeSettings
from effvit.profiling.report import display, quantities
from effvit.profiling.report.display import Column
from effvit.profiling.report.quantities import ABSENT
from effvit.profiling.report.rows import Row


def distinct(rows: Sequence[Row]) -> list[Row]:
    """Return one measured row for each different set of settings of a mechanism on a device of a machine."""
    found: dict[Hashable, Row] = {}
    for row in rows:
        evidence, cell = row.outcome.evidence, row.outcome.cell
        if evidence is not None and evidence.settings is not None:
            asked = (row.machine, row.label, cell.backend, cell.precision, cell.device)
            found.setdefault((asked, evidence.settings, evidence.confinement), row)
    return list(found.values())


def _setting(title: str, text: Callable[[RuntimeSettings], str | None], *, numeric: bool = False) -> Column:
    def shown(row: Row) -> str:
        evidence = row.outcome.evidence
        return ABSENT if evidence is None or evidence.settings is None else text(evidence.settings) or ABSENT

    return Column(title, shown, numeric)


def _placement(settings: RuntimeSettings) -> str:
    parts = [(one.provider, one.type, None if one.nodes is None else str(one.nodes)) for one in settings.placement]
    return ", ".join(" ".join(filter(None, part)) for part in parts)


def _attention_kernels(settings: RuntimeSettings) -> str | None:
    kernels = settings.attention_kernels
    return None if kernels is None else ", ".join(f"{name} {count}" for name, count in kernels) or "none"


def _switch(on: bool | None) -> str | None:
    return None if on is None else "on" if on else "off"


def _cores(row: Row) -> str:
    evidence = row.outcome.evidence
    held = None if evidence is None else evidence.confinement
    return ABSENT if held is None or held.cores is None else ", ".join(map(str, held.cores))


def _memory_limit(row: Row) -> str:
    evidence = row.outcome.evidence
    held = None if evidence is None else evidence.confinement
    if held is None or held.memory_bytes is None:
        return "none"
    return f"{quantities.size(held.memory_bytes)} by {held.memory_by}"


COLUMNS = (
    *display.columns("machine", "attention", "backend", "precision", "device"),
    _setting("runtime", lambda settings: settings.runtime),
    _setting("runs on", lambda settings: settings.device),
    _setting("computes in", lambda settings: settings.precision),
    _setting("threads", lambda settings: None if settings.threads is None else str(settings.threads), numeric=True),
    Column("cores", _cores, numeric=False),
    Column("memory limit", _memory_limit, numeric=False),
    _setting("nodes", _placement),
    _setting("attention kernels", _attention_kernels),
    _setting("TF32", lambda settings: _switch(settings.tf32)),
    _setting("CUDA graph", lambda settings: _switch(settings.cuda_graph)),
)
