"""Tables for people: what artifacts are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from effvit.cli.programs import leftovers_text
from effvit.cli.tables import plain
from effvit.export.census import Count, GraphCensus, Port, ProductShare, Quantisation
from effvit.export.differences import Comparison
from effvit.export.engine_census import EngineCensus, LayerShare
from effvit.export.inspection import Inspection, Verdict
from effvit.export.pins import PinCost
from effvit.export.program_census import ProgramCensus
from effvit.profiling.report import quantities
from effvit.profiling.stats import agreement_of

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def inspection_parts(inspection: Inspection) -> list[RenderableType]:
    """Return what an artifact is, then its parts by type."""
    parts: list[RenderableType] = []
    if inspection.graph is not None:
        parts += _graph_parts(inspection.graph)
    if inspection.engine is not None:
        parts += _engine_parts(inspection.path, inspection.engine)
    if inspection.program is not None:
        parts += _program_parts(inspection.program)
    if inspection.verdicts:
        parts += ["", _verdicts_table(inspection.verdicts)]
    return parts


def comparison_table(comparison: Comparison) -> Table:
    """Return how far two artifacts lie apart behind every part of their model."""
    table = plain("behind", "relative error", "explained", "")
    for part in comparison.parts:
        remark = ""
        if part.parted:
            remark = "they part here" if part.part == comparison.parted else "beyond"
        table.add_row(part.part, f"{part.error:.1e}", f"{part.explained:.1e}", remark)
    return table


def cost_text(cost: PinCost) -> str:
    """Return what pins cost as part of a sentence: `1.04x the time (1.03x to 1.05x, batch 1, 2 threads)`."""
    interval = "" if cost.low is None or cost.high is None else f"{cost.low:.3f}x to {cost.high:.3f}x, "
    threads = f"{cost.threads} thread{'s' * (cost.threads != 1)}"
    unstable = f"; unstable: {cost.unstable}" if cost.unstable else ""
    return f"{cost.value:.3f}x the time ({interval}batch {cost.batch}, {threads}{unstable})"


def _graph_parts(graph: GraphCensus) -> list[RenderableType]:
    about = plain(graph.path, quantities.size(graph.size_bytes))
    for name, text in (
        ("made by", graph.producer or "unknown"),
        ("exported as", "" if graph.precision is None else str(graph.precision)),
        ("kept in fp32", ", ".join(graph.pins)),
        ("model", "" if graph.model is None else f"{graph.model.backbone}, {graph.model.attention} attention"),
        ("operator sets", ", ".join(f"{entry.name} {entry.count}" for entry in graph.opsets)),
        ("inputs", _ports(graph.inputs)),
        ("outputs", _ports(graph.outputs)),
        ("weights beside it", ", ".join(f"{file.name}, {quantities.size(file.size_bytes)}" for file in graph.external)),
        ("quantisation", _quantisation(graph.quantisation)),
        ("operators", f"{graph.nodes}: " + ", ".join(f"{entry.count} {entry.name}" for entry in graph.operators)),
    ):
        if text:
            about.add_row(name, text)
    about.columns[1].max_width = 100
    weights = plain("weights", "tensors", "numbers", "size")
    for share in graph.weights:
        weights.add_row(
            share.type, str(share.tensors), quantities.count(share.numbers), quantities.size(share.size_bytes)
        )
    return [about, "", _products_table(graph.products), "", _right(weights)]


def _products_table(products: Sequence[ProductShare]) -> Table:
    table = plain("products", "nodes", "with weights", "MACs of an image", "share")
    known = all(share.macs is not None for share in products)
    total = sum((share.macs or 0) if known else share.nodes for share in products)
    for share in products:
        part = (share.macs or 0) if known else share.nodes
        table.add_row(
            share.type,
            str(share.nodes),
            str(share.weighted),
            quantities.ABSENT if share.macs is None else quantities.count(share.macs),
            f"{part / total:.1%}" if total else quantities.ABSENT,
        )
    return _right(table)


def _engine_parts(path: str, engine: EngineCensus) -> list[RenderableType]:
    about = plain(path, f"TensorRT engine, {engine.layers} layers")
    of = "" if engine.attentions is None else f"/{engine.attentions}"
    for name, text in (
        ("inputs", _ports(engine.inputs)),
        ("outputs", _ports(engine.outputs)),
        ("fused attention", f"{engine.fused_attentions}{of}"),
        ("reformats", _reformats(engine)),
        ("detail", "" if engine.detailed else "names alone: build with --profilingVerbosity=detailed to see types"),
    ):
        if text:
            about.add_row(name, text)
    total_s = sum(share.seconds or 0.0 for share in engine.all_layers)
    return [
        about,
        "",
        _layers_table("products", engine.products, total_s),
        "",
        _layers_table("all layers", engine.all_layers, total_s),
    ]


def _program_parts(program: ProgramCensus) -> list[RenderableType]:
    about = plain(program.path, quantities.size(program.size_bytes))
    record = program.record
    share = "" if program.share is None else f"{program.share:.1%} of all nodes, in "
    for name, text in (
        ("exported as", "" if record is None else str(record.precision)),
        ("model", "" if record is None else f"{record.model.backbone}, {record.model.attention} attention"),
        ("inputs", _ports(program.inputs)),
        ("outputs", _ports(program.outputs)),
        ("delegated", share + ", ".join(f"{part.count} parts to {part.name}" for part in program.delegates)),
        ("run by XNNPACK", _counted(program.delegated)),
        ("left to kernels", _counted(program.left)),
        ("of the attention", "" if record is None else leftovers_text(record)),
    ):
        if text:
            about.add_row(name, text)
    about.columns[1].max_width = 100
    return [about, "", _products_table(program.products)]


def _layers_table(name: str, shares: Sequence[LayerShare], total_s: float) -> Table:
    table = plain(name, "layers", "share of time")
    for share in shares:
        timed = share.seconds is not None and total_s
        table.add_row(share.type, str(share.layers), f"{(share.seconds or 0.0) / total_s:.1%}" if timed else "-")
    return _right(table)


def _reformats(engine: EngineCensus) -> str:
    total_s = sum(share.seconds or 0.0 for share in engine.all_layers)
    share = f", {(engine.reformats.seconds or 0.0) / total_s:.1%} of the time" if total_s else ""
    return f"{engine.reformats.layers}{share}"


def _verdicts_table(verdicts: Sequence[Verdict]) -> Table:
    costs = [None if verdict.pinned is None else verdict.pinned.cost for verdict in verdicts]
    heads = ["verified with", "precision", "same top-1 as PyTorch", "95 % interval"]
    table = plain(*heads, *(["than with nothing kept in fp32"] if any(costs) else []))
    for verdict, cost in zip(verdicts, costs, strict=True):
        parity = verdict.parity
        agreement = agreement_of(parity)
        table.add_row(
            verdict.backend,
            str(verdict.precision),
            f"{agreement.value:.1%} of {parity.images}",
            f"{agreement.low:.1%} to {agreement.high:.1%}",
            *([] if cost is None else [cost_text(cost)]),
        )
    return table


def _quantisation(form: Quantisation | None) -> str:
    if form is None:
        return ""
    zero = {None: "zero points not known", 0: "symmetric"}.get(form.asymmetric, f"{form.asymmetric} not symmetric")
    return (
        f"{form.quantise} Q, {form.dequantise} DQ to {' and '.join(form.types) or 'unknown types'}, {zero}; "
        f"{form.per_channel} per channel, {form.blocked} in blocks, {form.weights} of weights"
    )


def _counted(counts: Sequence[Count]) -> str:
    total = sum(entry.count for entry in counts)
    return f"{total}: " + ", ".join(f"{entry.count} {entry.name}" for entry in counts) if counts else ""


def _ports(ports: Sequence[Port]) -> str:
    return ", ".join(f"{port.name} {port.type} ({', '.join(map(str, port.shape))})" for port in ports)


def _right(table: Table) -> Table:
    """Align every column but the first to the right."""
    for column in table.columns[1:]:
        column.justify = "right"
    return table
