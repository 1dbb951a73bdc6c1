"""Tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from effvit.accuracy import Accuracy, balanced_top1, top1, top5
from effvit.cli.cmd_doctor import Diagnosis
from effvit.cli.tables import plain as _plain
from effvit.environment import hardware_facts
from effvit.export.base import Artifact, Parity
from effvit.export.decisions import change_of
from effvit.profiling.devices import Device
from effvit.profiling.report import quantities
from effvit.profiling.stats import agreement_of
from effvit.spec import Workload

if TYPE_CHECKING:
    from rich.console import RenderableType

    from effvit.environment import Environment
    from effvit.profiling.board import BoardConditions
    from effvit.profiling.frontier import Frontier
    from effvit.prospect import Prospect

_MOST_FLIPS_SHOWN = 10
_PROSE_WIDTH = 88  # what reads well where there is no terminal to fit into
_MACS_LEGEND = (
    "MACs ratio: MACs with softmax over these, the speed-up if time followed MACs\n"
    "ceiling: the MACs ratio of softmax attention whose core cost nothing; what saves\n"
    "         outside the core as well may exceed it"
)
_BYTES_LEGEND = "bytes: what the operators of the first attention layer read and write in fp32,\n       run one by one"


def diagnosis_tables(diagnosis: Diagnosis) -> list[Table]:
    """Return the machine, then the backends, then what they need to reach GPUs."""
    machine = machine_table("this machine", diagnosis.environment, diagnosis.board)
    backends = _plain("backend", "version", "devices", "precisions", "state")
    for status in diagnosis.backends:
        state = _state(status.unavailable, status.install)
        kinds, types = ", ".join(status.devices), ", ".join(status.precisions)
        backends.add_row(status.name, status.version or "-", kinds, types, state)
    libraries = _plain("for TensorRT", "version", "what for", "state")
    for library in diagnosis.libraries:
        state = _state(library.unavailable, library.install)
        libraries.add_row(library.name, library.version or "-", library.summary, state)
    return [machine, backends, libraries]


def machine_table(title: str, environment: Environment, board: BoardConditions | None) -> Table:
    """Return what a machine is, and what its sensors tell now."""
    machine = _plain(title, "")
    ram = environment.ram_bytes
    for name, value in (
        ("processor", f"{environment.cpu}, {environment.cores} usable cores"),
        ("memory", "unknown" if ram is None else f"{ram / 2**30:.0f} GiB"),
        ("GPUs", ", ".join(_numbered(environment.gpus)) or "none that an NVIDIA driver knows of"),
        ("system", f"{environment.os}, Python {environment.python}"),
        *((name, text or "unknown") for name, text in hardware_facts(environment.hardware)),
        *_sensed(board),
        ("packages", ", ".join(f"{package} {version}" for package, version in environment.packages)),
    ):
        machine.add_row(name, value)
    return machine


def _sensed(board: BoardConditions | None) -> list[tuple[str, str]]:
    """Return the temperature, what slows the processor down, and the power of a board now."""
    if board is None:
        return []
    hot = "unknown" if board.end_c is None else f"{board.end_c:.0f} °C ({board.sensor})"
    held = "unknown" if board.held_back is None else ", ".join(board.held_back) or "nothing"
    watts = "unknown" if board.power_w is None else f"{board.power_w:.1f} W ({board.rail})"
    return [("temperature", hot), ("slowed down by", held), ("power", watts)]


def _state(unavailable: str | None, install: str) -> str:
    return "ready" if unavailable is None else f"not here: {unavailable}; to get it: {install}"


def names_table(rows: Sequence[tuple[str, str]]) -> Table:
    """Return names with their summaries."""
    table = _plain("name", "summary")
    for row in rows:
        table.add_row(*row)
    return table


def accuracy_table(rows: Sequence[tuple[str, Artifact, str, Accuracy]]) -> Table:
    """Return accuracies of (run, artifact, backend, counts)."""
    table = _plain("run", "px", "runtime", "precision", "top-1", "top-5", "class-balanced top-1", "images")
    for run, artifact, backend, accuracy in rows:
        rates = (top1(accuracy), top5(accuracy), balanced_top1(accuracy))
        shown = ["-" if rate is None else f"{rate:.1%}" for rate in rates]
        made = (f"{artifact.height}x{artifact.width}", backend, _precision(artifact))
        table.add_row(run, *made, *shown, f"{accuracy.images} of {accuracy.of_images}")
    return table


def artifacts_table(artifacts: Sequence[Artifact]) -> Table:
    """Return artifacts with their agreement with PyTorch: decisions first, numbers for information."""
    table = _plain(
        "file", "attention", "px", "precision", "size", "same top-1", "top-1 change", "KL", "cosine", "logits differ by"
    )
    for artifact in artifacts:
        table.add_row(
            _relative(Path(artifact.path)),
            artifact.model.attention,
            f"{artifact.height}x{artifact.width}",
            _precision(artifact),
            f"{artifact.size_bytes / 2**20:.1f} MiB",
            *_parity_columns(artifact.parity),
        )
    return table


def _precision(artifact: Artifact) -> str:
    wide = "" if artifact.pinned is None else f", {', '.join(artifact.pinned.modules)} in fp32"
    return f"{artifact.precision}{wide}"


def _parity_columns(parity: Parity | None) -> tuple[str, ...]:
    if parity is None:
        return (quantities.ABSENT,) * 5
    same, change = agreement_of(parity), change_of(parity)
    changed = quantities.ABSENT
    if change is not None:
        low, high = 100 * change.low, 100 * change.high
        changed = f"{100 * change.value:+.1f} points ({low:+.1f} to {high:+.1f}), p = {change.p:.2g}"
    return (
        f"{same.value:.1%} of {parity.images} ({same.low:.1%} to {same.high:.1%})",
        changed,
        quantities.ABSENT if parity.divergence is None else f"{parity.divergence:.1e}",
        f"{parity.cosine:.5f}",
        f"{parity.max_abs:.2g}",
    )


def flips_table(artifacts: Sequence[Artifact]) -> Table:
    """Return the images that artifacts decide otherwise than PyTorch, the clearest decisions first."""
    table = _plain("flipped in", "image", "label", "PyTorch", "margin", "here", "lead")
    for artifact in artifacts:
        flips = artifact.parity.flips if artifact.parity is not None else ()
        for flip in flips[:_MOST_FLIPS_SHOWN]:
            table.add_row(
                Path(artifact.path).stem,
                _relative(Path(flip.image)),
                quantities.ABSENT if flip.label is None else artifact.classes[flip.label],
                artifact.classes[flip.reference],
                f"{flip.margin:.2g}",
                artifact.classes[flip.predicted],
                f"{flip.lead:.2g}",
            )
        if len(flips) > _MOST_FLIPS_SHOWN:
            table.add_row(Path(artifact.path).stem, f"and {len(flips) - _MOST_FLIPS_SHOWN} more, see --json")
    return table


def prospect_parts(prospect: Prospect) -> list[RenderableType]:
    """Return what an attention variant is, and what it costs beside exact attention."""
    about = _plain(prospect.name, prospect.summary)
    about.columns[1].max_width = _PROSE_WIDTH
    settings = [f"{option.name} = {option.resolved} (default {option.default})" for option in prospect.options]
    for name, text in (
        ("mechanism", prospect.mechanism),
        ("options", "\n".join([*settings, prospect.options_meaning]) if settings else "none"),
        ("source", prospect.source),
    ):
        if text:
            about.add_row(name, text)
    costs = _plain("px", "tokens", "MACs", "of softmax", "MACs ratio", "ceiling", "bytes", "of softmax")
    for promise in prospect.promises:
        ours, theirs = promise.bill, promise.exact
        costs.add_row(
            Workload(1, ours.height, ours.width).resolution,
            str(ours.cost.tokens),
            quantities.count(ours.cost.macs),
            quantities.count(theirs.cost.macs),
            _times(promise.macs_ratio),
            _times(promise.ceiling),
            quantities.size(ours.layer_bytes),
            quantities.size(theirs.layer_bytes),
        )
    return [about, f"\n{prospect.model}, one image:", _of_numbers(costs), f"\n{_MACS_LEGEND}", _BYTES_LEGEND]


def comparison_parts(prospects: Sequence[Prospect]) -> list[RenderableType]:
    """Return the MACs ratios of attention variants in one model, with the ceiling, and the bytes of a layer."""
    model = prospects[0].model
    promises = prospects[0].promises
    sizes = [f"{Workload(1, promise.bill.height, promise.bill.width).resolution} px" for promise in promises]
    ratios, moved = _plain("MACs ratio", *sizes), _plain("bytes", *sizes)
    for prospect in prospects:
        ratios.add_row(prospect.name, *(_times(promise.macs_ratio) for promise in prospect.promises))
        moved.add_row(prospect.name, *(quantities.size(promise.bill.layer_bytes) for promise in prospect.promises))
    ratios.add_row("(ceiling)", *(_times(promise.ceiling) for promise in promises))
    tables = (_of_numbers(ratios), "", _of_numbers(moved))
    return [f"{model}, one image:", *tables, f"\n{_MACS_LEGEND}", _BYTES_LEGEND]


def batches_table(frontiers: Sequence[Frontier]) -> Table:
    """Return the largest batch that fitted of every search, and what ended it."""
    table = _plain("attention", "backend", "precision", "px", "largest batch", "peak memory", "limit", "ended by")
    for column in table.columns[3:7]:
        column.justify = "right"
    for frontier in frontiers:
        cell, largest = frontier.cell, frontier.largest
        peak = None if largest is None else largest.peak_bytes
        limit = frontier.tries[-1].limit_bytes if frontier.tries else None
        table.add_row(
            cell.model.attention,
            cell.backend,
            str(cell.precision),
            cell.workload.resolution,
            _fitting(frontier),
            quantities.ABSENT if peak is None else quantities.size(peak),
            "none" if limit is None else quantities.size(limit),
            _ending(frontier),
        )
    return table


def _fitting(frontier: Frontier) -> str:
    """Return the largest batch as far as it is known: `96`, `96-127`, `≥ 96`."""
    largest, too_large = frontier.largest, frontier.too_large
    if largest is None:
        return "0" if too_large is not None and too_large.batch == 1 else quantities.ABSENT
    if too_large is None:
        return f"≥ {largest.batch}"
    most = too_large.batch - 1
    return str(largest.batch) if largest.batch == most else f"{largest.batch}-{most}"


def _ending(frontier: Frontier) -> str:
    """Return what ended a search: `no memory for 97`, `time limit`."""
    if frontier.stopped == "found" and frontier.too_large is not None:
        return f"no memory for {frontier.too_large.batch}"
    return frontier.reason or frontier.stopped


def _numbered(gpus: Sequence[str]) -> list[str]:
    """Return GPUs behind the names that --device knows them by: `cuda:0 NVIDIA H200, 570.86`."""
    return [f"{Device('cuda', index=number)} {gpu}" for number, gpu in enumerate(gpus)]


def _times(ratio: float | None) -> str:
    return quantities.ABSENT if ratio is None else f"{ratio:.2f}x"


def _of_numbers(table: Table) -> Table:
    """Align every column but the first to the right."""
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _relative(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
