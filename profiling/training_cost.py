"""What the fine-tuning of a run took."""

from __future__ import annotations

from effvit.energy import EnergyTaken, together
from effvit.errors import CheckpointError
from effvit.profiling.records import Training
from effvit.run import Run


def training_cost(run: Run) -> Training | None:
    """Return what the history of `run` tells, or None for a run without an epoch or with a damaged history."""
    try:
        epochs = run.history()
    except CheckpointError:
        return None  # the weights are what is measured; they are checked elsewhere
    if not epochs:
        return None
    transfer = run.record.transfer
    before_s = sum(epoch.train_s for epoch in transfer.epochs) if transfer else 0.0
    energy = together(EnergyTaken(epoch.cpu_joules, epoch.gpu_joules, epoch.energy_note) for epoch in epochs)
    return Training(
        epochs=len(epochs),
        seconds=before_s + sum(epoch.train_s for epoch in epochs),
        images_per_s=epochs[-1].images_per_s,
        top1=max(epoch.top1 for epoch in epochs),
        host_peak_bytes=epochs[-1].host_peak_bytes,
        device_peak_bytes=epochs[-1].device_peak_bytes,
        cpu_joules=energy.cpu_joules,
        gpu_joules=energy.gpu_joules,
        energy_note=energy.note,
    )
