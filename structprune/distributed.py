"""Several processes that work on one training: what each does, and how they add up what they found."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from structprune.environment import device_named
from structprune.errors import UsageError, argument

Item = TypeVar("Item")
PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a ``torchrun``, seen from one of them; alone by default.

    Attributes:
        rank: of this process.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def deal(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this process's share, the same in every run."""
        return items[self.rank :: self.size]

    def total(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the sums over all processes; each must give tensors of the same names and shapes."""
        if self.size == 1:
            return dict(tensors)
        summed = {name: tensors[name].detach().clone().contiguous() for name in sorted(tensors)}
        for x in summed.values():
            distributed.all_reduce(x)
        return {name: summed[name] for name in tensors}

    def mean(self, value: float) -> float:
        """Return the mean of a number over all processes."""
        if self.size == 1:
            return value
        total = self.total({"value": torch.tensor(value, dtype=torch.float64, device=self._device())})
        return float(total["value"]) / self.size

    def agree(self, model: nn.Module) -> None:
        """Give every process the first one's buffers: batch norm takes statistics of its own share only."""
        if self.size > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)

    def wrapped(self, model: nn.Module) -> nn.Module:
        """Return a network whose gradients are the means over all processes; the model alone where alone."""
        if self.size == 1:
            return model
        place = next(model.parameters()).device
        return nn.parallel.DistributedDataParallel(model, [place] if place.type == "cuda" else None)

    def wait(self) -> None:
        """Return when all processes have come this far."""
        if self.size > 1:
            distributed.barrier()

    @staticmethod
    def _device() -> torch.device:
        nccl = distributed.get_backend() == "nccl"
        return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")


SINGLE_PROCESS = ProcessGroup()


@contextmanager
def process_group_of_torchrun(device: str) -> Iterator[tuple[ProcessGroup, str]]:
    """Join the processes that ``torchrun`` started, and part from them at the end.

    Args:
        device: ``cpu`` (gloo) or ``cuda`` (nccl, one GPU a process).

    Yields:
        The crew, and the device of this process; alone where no ``torchrun`` is at work.

    Raises:
        UsageError: a device that only one process can have.
    """
    size = os.environ.get("WORLD_SIZE", "1") if "RANK" in os.environ else "1"
    if size == "1":
        yield SINGLE_PROCESS, device
        return
    if ":" in device:
        raise UsageError(
            f"{argument('device', device)} with {size} processes; give cuda, each takes a GPU of its own"
        )
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device_named(device))
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)
    try:
        yield ProcessGroup(distributed.get_rank(), distributed.get_world_size()), device
    finally:
        distributed.destroy_process_group()
