"""What an epoch of training takes, by counters that are told what to read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from models_for_tests import digits, model_of, record_of

from effvit.counters import Instruments
from effvit.energy import READ_EVERY_S, EnergyMeter, EnergyTaken, together
from effvit.optimisation import Begun
from effvit.recipe import Recipe
from effvit.run import create_run
from effvit.state import Position, State
from effvit.training import train

RECIPE = Recipe(epochs=2, batch=10, warmup_epochs=0, crop_scale=(1.0, 1.0))
NO_GPU = "pynvml is not installed"


@dataclass(eq=False)
class Scripted:
    """A counter whose readings are given."""

    device: Literal["cpu", "gpu"]
    readings: Iterator[float]
    source: str = "scripted"
    taken: list[float] = field(default_factory=list)

    def joules(self) -> float:
        self.taken.append(next(self.readings))
        return self.taken[-1]


def test_the_energy_of_a_kind_of_device_is_that_of_all_of_them() -> None:
    counters = (Scripted("cpu", iter((1.0, 4.0))), Scripted("cpu", iter((10.0, 12.0))), Scripted("gpu", iter((0, 7.0))))
    meter = EnergyMeter(Instruments(counters, ()))
    meter.begin()
    assert meter.end() == EnergyTaken(3.0 + 2.0, 7.0)


def test_counters_are_read_meanwhile_but_not_at_every_look() -> None:
    clock_s, counter = [0.0], Scripted("cpu", iter((0.0, 5.0, 9.0)))
    meter = EnergyMeter(Instruments((counter,), (NO_GPU,)), clock=lambda: clock_s[0])
    meter.begin()
    for now_s in (1.0, READ_EVERY_S - 1, READ_EVERY_S, READ_EVERY_S + 1):
        clock_s[0] = now_s
        meter.look()
    assert counter.taken == [0.0, 5.0]
    assert meter.end() == EnergyTaken(9.0, None, NO_GPU)


def test_machines_of_which_one_does_not_tell_have_no_sum() -> None:
    first, second = EnergyTaken(3.0, 10.0, None), EnergyTaken(None, 5.0, "no RAPL counter")
    assert together([first, second]) == EnergyTaken(None, 15.0, "no RAPL counter")
    assert together([first, first]) == EnergyTaken(6.0, 20.0, None)


Told = tuple[float | None, float | None, str | None]


def trained(root: Path, here: Instruments, state: State | None = None) -> list[Told]:
    """Return the energy of each epoch of a small training."""
    run = create_run(root, "run", record_of(trained=(32, 32), recipe=RECIPE))
    ignore = {"on_step": lambda _: None, "on_epoch": lambda _: None}
    done = train(
        run,
        model_of(resolution=(32, 32)),
        digits(),
        device=torch.device("cpu"),
        state=state,
        counters=lambda: here,
        **ignore,
    )
    return [(epoch.cpu_joules, epoch.gpu_joules, epoch.energy_note) for epoch in done.history()]


def test_every_epoch_tells_what_its_training_took(tmp_path: Path) -> None:
    here = Instruments((Scripted("cpu", iter((100.0, 130.0, 135.0, 175.0))),), (NO_GPU,))
    assert trained(tmp_path, here) == [(30.0, None, NO_GPU), (40.0, None, NO_GPU)]


def test_without_a_counter_the_reason_is_told(tmp_path: Path) -> None:
    told = trained(tmp_path, Instruments((), ("no RAPL counter", NO_GPU)))
    assert told == [(None, None, "no RAPL counter; pynvml is not installed")] * 2


def test_an_epoch_of_which_a_part_was_not_counted_has_no_energy(tmp_path: Path) -> None:
    here = Instruments((Scripted("cpu", iter((0.0, 1.0, 1.0, 2.0))),), (NO_GPU,))
    begun = State(Position("training", 0, Begun(steps=2, loss_sum=1.0, images=20, seconds=1.0)))
    first, second = trained(tmp_path, here, begun)
    assert first == (None, None, "the epoch was cut short, and its first part was not counted")
    assert second == (1.0, None, NO_GPU)
