"""Several processes train as one: each takes its share of every batch, and the gradients are added.

A process has the sum and the count of its share. DistributedDataParallel averages gradients over
processes, so a process' loss is its sum, divided by the count of *all*, times the number of processes:
the average is then the gradient of the whole batch's mean, also where shares are unlike in size. A
batch with fewer rows than processes is computed whole by each, sum and count alike.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m streams train ...

Only the first process writes. An error in one ends all, torchrun sees to that; a loss that is no
number is in all at once, since it is the sum over all that is looked at.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

Kind = TypeVar("Kind", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a training, seen from one; alone, all of it is the identity."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def share(self, rows: npt.NDArray[Kind]) -> npt.NDArray[Kind]:
        """This process' rows of a batch."""
        return rows if len(rows) < self.size else rows[self.rank :: self.size]

    def wrapped(self, objective: nn.Module) -> nn.Module:
        """The objective, its gradients averaged over the processes; starts with the first's weights."""
        if self.size == 1:
            return objective
        return DistributedDataParallel(objective, broadcast_buffers=False)  # they never change

    def total(self, values: Tensor) -> Tensor:
        """The values added over the processes."""
        if self.size == 1:
            return values
        added = values.clone()
        distributed.all_reduce(added)
        return added

    def gathered(self, value: Any) -> list[Any]:
        """Every process' value, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value)
        return found


ALONE: Final = Group()


def local_rank() -> int:
    """Number of this process on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


@contextmanager
def processes(backend: str) -> Iterator[Group]:
    """The group that torchrun started, joined until the end; ALONE without torchrun."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield ALONE
        return
    distributed.init_process_group(backend)
    try:
        yield Group(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
