"""The agent measures the cells of a kit, and tells how that goes in JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from effvit.claim import exclusively
from effvit.errors import BackendUnavailableError
from effvit.export.base import pick_backend
from effvit.profiling.agent.kit import Kit, KitPixels, KitPreparation, effort_here
from effvit.profiling.plan import check_devices
from effvit.profiling.records import Outcome
from effvit.profiling.sweep import run_sweep

LOCK = "kit.lock"
# How runtimes are installed where there is no effvit.
INSTALL = {"ort-cpu": "python3 -m pip install onnxruntime", "openvino": "python3 -m pip install openvino"}
Say = Callable[[str], None]


class JsonLines:
    """A listener that tells every event as a line of JSON."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def planned(self, cells: int) -> None:
        self._say(json.dumps({"event": "planned", "cells": cells}))

    def stage(self, text: str) -> None:
        self._say(json.dumps({"event": "stage", "text": text}))

    def outcome(self, outcome: Outcome, measured_now: bool) -> None:
        line = msgspec.json.encode(outcome).decode()
        self._say(f'{{"event": "outcome", "measured_now": {json.dumps(measured_now)}, "outcome": {line}}}')


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a sweep may do: measure failed cells again, and runtimes that do something else than they were asked for."""

    retry_failed: bool = False
    fallback: bool = False


AS_ASKED = Allowed()


def measure_kit(
    kit: Kit, folder: Path, blobs: Path, results: Path, say: Say, allowed: Allowed = AS_ASKED, name: str = ""
) -> None:
    """Measure what of the kit in `folder` the file `results` does not hold yet, on a machine that is called `name`.

    Every outcome is on disk before it is told.

    Raises:
        BackendUnavailableError: A runtime is missing here.
        UsageError: A device with more cores than there are, or another agent measures the kit.
        EffvitError: Whatever a sweep raises.
    """
    for backend in kit.backends:
        reason = pick_backend(backend).unavailable()
        if reason is not None:
            raise BackendUnavailableError(f"{backend} cannot run here: {reason}", INSTALL[backend])
    check_devices(kit.devices)
    busy = f"the kit {folder} is being measured by another agent"
    with exclusively(folder / LOCK, busy), KitPixels(kit, blobs) as pixels:
        run_sweep(
            kit.plan(folder),
            effort_here(kit),
            results,
            pixels,
            JsonLines(say),
            retry_failed=allowed.retry_failed,
            allow_fallback=allowed.fallback,
            prepare=partial(KitPreparation, kit, blobs),
            name=name,
        )
