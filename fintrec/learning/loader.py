"""Batches encoded ahead of the training, by worker processes beside it.

Encoded in between, batches are a fifth to a quarter of a step of recipe `paper` on an H100, and half
of it with larger ones (`docs/performance.md`). Encoding draws nothing, and the loader draws from a generator of its own: order, batches and the trainer's
random state are the same with any number of workers.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

Plan = TypeVar("Plan")
Batch = TypeVar("Batch")
_AHEAD: Final = 4  # batches of each worker


class _Encoded(Dataset[Any]):
    """A plan's batches by their places."""

    def __init__(self, encode: Callable[[Any], Any], plan: Sequence[Any]) -> None:
        self._encode = encode
        self._plan = plan

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, place: int) -> Any:
        return self._encode(self._plan[place])


def loaded(
    encode: Callable[[Plan], Batch], plan: Sequence[Plan], num_workers: int, pinned: bool
) -> Iterator[Batch]:
    """The batches in the plan's order; `pinned` into memory that a GPU reads by itself.

    An error of `encode` is raised here, as its own kind with the place in the worker.
    """
    if not num_workers or not plan:
        yield from map(encode, plan)
        return
    yield from DataLoader(
        _Encoded(encode, plan),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        prefetch_factor=_AHEAD,
        pin_memory=pinned,
        multiprocessing_context="fork",  # the training set is shared, not copied
        generator=torch.Generator(),
    )


def _as_it_is(batch: Any) -> Any:
    return batch
