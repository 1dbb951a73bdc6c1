"""How much energy an image takes, of the processors, of the GPUs, and of a board as a whole."""

from __future__ import annotations

from effvit.profiling.metrics.base import Metric, Reading
from effvit.profiling.records import Energy, Evidence

_DEVICES = ("cpu", "gpu", "board")


def measure(evidence: Evidence) -> tuple[Reading, ...]:
    """Return joules an image for each kind of device: gross, and without what the idle machine takes."""
    return tuple(reading for device in _DEVICES for reading in _readings(device, evidence.energy))


def _readings(device: str, energy: Energy | None) -> tuple[Reading, Reading]:
    gross, net = f"energy.{device}_gross_j", f"energy.{device}_net_j"
    if energy is None:
        note = "no pass with an energy counter was made"
        return Reading(gross, None, note=note), Reading(net, None, note=note)
    windows = [window for window in energy.windows if window.device == device]
    if not windows or not energy.images:
        note = energy.note or f"there is no energy counter of a {device}"
        return Reading(gross, None, note=note), Reading(net, None, note=note)
    sources = ", ".join(window.source for window in windows)
    joules = sum(window.joules for window in windows)
    idle_j = sum(window.idle_joules / window.idle_s * window.seconds for window in windows)
    seconds = windows[0].seconds
    note = f"{sources}, over {seconds:.1f} s; no interval: measured once"
    return (
        Reading(gross, joules / energy.images, note=note),
        Reading(net, (joules - idle_j) / energy.images, note=f"{note}; idle power subtracted"),
    )


METRIC = Metric("energy", "J", "lower", "Energy of one image: gross, and less what the idle machine takes", measure)
