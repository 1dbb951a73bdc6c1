"""`effvit list`: what can be named."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from effvit.cli.options import JsonOption
from effvit.cli.output import show, write_json


class Kind(StrEnum):
    """What there are lists of."""

    ATTENTION = "attention"
    BACKENDS = "backends"
    METRICS = "metrics"
    DATA = "data"
    MODELS = "models"


def listing(kind: Kind) -> list[tuple[str, str]]:
    """Return (name, one-line summary) of everything of this kind."""
    return _LISTINGS[kind]()


def _attention() -> list[tuple[str, str]]:
    from dataclasses import fields

    from effvit.surgery import attention_variants

    rows = []
    for variant in attention_variants().values():
        options = ", ".join(f"{field.name}={field.default}" for field in fields(variant.options))
        rows.append((variant.name, variant.summary + (f" (options: {options})" if options else "")))
    return rows


def _backends() -> list[tuple[str, str]]:
    from effvit.export.base import backends

    rows = []
    for backend in backends().values():
        reason = backend.unavailable()
        rows.append((backend.name, backend.summary + (f" (not here: {reason})" if reason else "")))
    return rows


def _metrics() -> list[tuple[str, str]]:
    from effvit.profiling.metrics.base import metrics

    return [
        (metric.name, f"{metric.summary}, in {metric.unit}, {metric.better} is better") for metric in metrics().values()
    ]


def _data() -> list[tuple[str, str]]:
    from effvit.data.base import data_sources

    return [(source.form, source.summary) for source in data_sources().values()]


def _models() -> list[tuple[str, str]]:
    from effvit.models import supported_models

    return supported_models()


_LISTINGS = {
    Kind.ATTENTION: _attention,
    Kind.BACKENDS: _backends,
    Kind.METRICS: _metrics,
    Kind.DATA: _data,
    Kind.MODELS: _models,
}


def list_names(kind: Annotated[Kind, typer.Argument(help="what to list")], json: JsonOption = False) -> None:
    """List what can be named: attention, backends, metrics, data or models."""
    rows = listing(kind)
    if json:
        import msgspec

        write_json(msgspec.json.encode([{"name": name, "summary": summary} for name, summary in rows]))
        return
    from effvit.cli.render import names_table

    show(names_table(rows))
