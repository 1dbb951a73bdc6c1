"""A team of several processes, through Hugging Face Accelerate: data parallel, a replica of the model in each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from importlib.util import find_spec
from typing import TypeVar

import torch
from torch import Tensor, nn

from effvit.environment import usable_cores
from effvit.errors import EffvitError, PeerError, UnavailableError, UsageError, first_line
from effvit.team import Place, Team

T = TypeVar("T")
FINE, STOP, FAILED = range(3)
PATIENCE = timedelta(hours=1)
"""How long processes wait for one another: checking images takes one machine much longer than its neighbour."""
# What gloo and NCCL say when the other end of a connection is gone; they have no error type for that in common.
BROKEN = ("onnection", "ncclRemoteError", "NCCL communicator was aborted", "Broken pipe", "Socket Timeout")


class AcceleratedTeam(Team):
    """The processes of one launch.

    Raises:
        UnavailableError: `accelerate` is not installed, or there are fewer GPUs than processes.
        UsageError: The device is that of one process alone.
        PeerError: While anything is agreed on: another process has ended.
    """

    def __init__(self, place: Place, device: str | None) -> None:
        super().__init__(place)
        cpu = _on_cpu(place, device)
        if find_spec("accelerate") is None:
            raise UnavailableError(
                "training in several processes needs Accelerate", "install it: pip install 'effvit[distributed]'"
            )
        from accelerate import Accelerator, InitProcessGroupKwargs

        # Accelerate narrates how many threads it would choose; we choose them.
        torch.set_num_threads(max(1, usable_cores() // place.local_size))
        with _peers_missed():
            waiting = InitProcessGroupKwargs(timeout=PATIENCE)
            self._accelerator = Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=[waiting])
        self._asked = False

    def ask_to_stop(self) -> None:
        self._asked = True

    @contextmanager
    def together(self) -> Iterator[None]:
        failure: EffvitError | None = None
        try:
            yield
        except EffvitError as error:
            failure = error
        state = FAILED if failure is not None else STOP if self._asked else FINE
        worst = self._most(state)
        self._stopping = worst >= STOP
        if worst == FAILED:
            raise next(error for error in self.gathered(failure) if error is not None) from failure

    def synchronised(self, model: nn.Module) -> nn.Module:
        with _peers_missed():
            prepared: nn.Module = self._accelerator.prepare_model(model)
        return prepared

    def unsynchronised(self, module: nn.Module) -> AbstractContextManager[object]:
        context: AbstractContextManager[object] = self._accelerator.no_sync(module)
        return context

    def noticing(self) -> AbstractContextManager[object]:
        return _peers_missed()

    def mean(self, value: Tensor) -> Tensor:
        with _peers_missed():
            mean: Tensor = self._accelerator.reduce(value.detach(), "mean")
        return mean

    def gathered(self, value: T) -> list[T]:
        from accelerate.utils import gather_object

        with _peers_missed():
            values: list[T] = gather_object([value])
        return values

    def device(self, chosen: torch.device) -> torch.device:
        device: torch.device = self._accelerator.device
        return device

    def close(self) -> None:
        self._accelerator.end_training()

    def _most(self, state: int) -> int:
        """Return the highest state of all processes: one small reduction, which every step can afford."""
        with _peers_missed():
            return int(self._accelerator.reduce(torch.tensor(state, device=self._accelerator.device), "max"))


def _on_cpu(place: Place, device: str | None) -> bool:
    gpus = torch.cuda.device_count()
    if device == "cpu" or (device is None and not gpus):
        return True
    if device not in (None, "cuda"):
        raise UsageError(f"{place.size} processes cannot all train on {device}", "use --device cuda, or cpu")
    if gpus < place.local_size:
        raise UnavailableError(
            f"{place.local_size} processes were started on a machine with {gpus} CUDA GPUs",
            "start one process for each GPU, or use --device cpu",
        )
    return False


@contextmanager
def _peers_missed() -> Iterator[None]:
    """Tell of a process that has ended, where the library tells of a connection."""
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error) for word in BROKEN):
            raise
        raise PeerError(
            f"another process of this training has ended: {first_line(error)}",
            "see what it said, and go on with --resume and as many processes",
        ) from error
