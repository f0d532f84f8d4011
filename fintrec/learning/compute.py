"""What a training runs on: device, precision, processes."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import torch
from torch import Tensor

from features.errors import ConfigurationError
from fintrec.learning.distributed import ALONE, Group, local_rank
from fintrec.learning.loader import loaded

Precision = Literal["fp32", "bf16"]
_BF16_SINCE: Final = (8, 0)  # CUDA capability
_GPU_WORKERS: Final = 4  # keep one GPU busy with recipe `paper` (docs/performance.md)
Plan = TypeVar("Plan")
Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class Compute:
    """Weights and losses are float32 always; with bf16 what autocast knows to be safe is not.

    `loader_workers` processes encode batches ahead of the training; with 0 it encodes them itself.
    Numbers do not depend on it.
    """

    device: torch.device = torch.device("cpu")
    precision: Precision = "fp32"
    group: Group = ALONE
    loader_workers: int = 0

    def batches(self, encode: Callable[[Plan], Batch], plan: Sequence[Plan]) -> Iterator[Batch]:
        """The batches of a plan in its order, in the memory of the CPU."""
        return loaded(encode, plan, self.loader_workers, pinned=self.device.type == "cuda")

    def placed(self, batch: Batch) -> Batch:
        """A named tuple on the device: of tensors, of such tuples, and of whatever stays as it is."""
        if self.device.type == "cpu":
            return batch
        return self._placed(batch)

    def _placed(self, part: Any) -> Any:
        if isinstance(part, Tensor):
            return part.to(self.device, non_blocking=True)
        if isinstance(part, tuple):
            make: Callable[..., Any] = type(part)
            return make(*map(self._placed, part))
        return part

    def autocast(self) -> AbstractContextManager[Any]:
        """In which the objective is computed."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def random_states(self) -> list[Any]:
        """Of torch's generators in every process, by rank."""
        on_device = self.device.type == "cuda"
        state = torch.cuda.get_rng_state(self.device) if on_device else torch.empty(0)
        return self.group.gathered([torch.get_rng_state(), state])

    def set_random_states(self, states: list[Any]) -> None:
        """Go on drawing where they were taken."""
        state, on_device = states[self.group.rank]
        torch.set_rng_state(state)
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(on_device, self.device)

    def to_dict(self) -> dict[str, Any]:
        """What of it a training's numbers depend on."""
        return {
            "device": self.device.type,
            "precision": self.precision,
            "processes": self.group.size,
        }


CPU: Final = Compute()


def device_of(asked: str) -> torch.device:
    """`cpu`, `cuda` or `auto` as a device; ConfigurationError for a GPU that is not there."""
    has_gpu = torch.cuda.is_available()
    if asked == "cuda" and not has_gpu:
        raise ConfigurationError("device is cuda, but torch finds no GPU: expected cpu or auto")
    if asked == "cpu" or not has_gpu:
        return torch.device("cpu")
    return torch.device("cuda", local_rank())


def precision_of(asked: str, device: torch.device) -> Precision:
    """`fp32`, `bf16` or `auto`, which is bf16 where the device computes with it."""
    if asked == "auto":
        on_gpu = device.type == "cuda"
        fast = on_gpu and torch.cuda.get_device_capability(device) >= _BF16_SINCE
        return "bf16" if fast else "fp32"
    return "bf16" if asked == "bf16" else "fp32"


def loader_workers_of(asked: int | None, device: torch.device) -> int:
    """How many processes encode; by default none beside a CPU's training, whose cores they share."""
    if asked is not None:
        return asked
    return min(_GPU_WORKERS, os.cpu_count() or 1) if device.type == "cuda" else 0


def auto() -> Compute:
    """What this machine does best: its GPU and bf16 where it has them."""
    device = device_of("auto")
    workers = loader_workers_of(None, device)
    return Compute(device, precision_of("auto", device), loader_workers=workers)
