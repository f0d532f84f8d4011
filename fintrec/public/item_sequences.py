"""Item sequences in the text form of S3-Rec: one user a line, `user item item ...`, oldest first.

Leave one out: a user's last item is the test target, the one before it the validation target, the
rest is for training. A history is all that precedes its target; models see its newest items.

Items are renumbered 1..N without gaps; 0 is padding.

Shapes: U users, B batch, T history, N items
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from features.errors import FintrecError

WINDOW: Final = 50  # newest items of a history that a model sees
HELD_OUT: Final = {"validation": 2, "test": 1}  # items from the end that a part's target is
MIN_ITEMS: Final = 3  # one to learn from, one to validate on, one to test on
MAX_ID: Final = 2**62
Part = Literal["validation", "test"]
IntArray = npt.NDArray[np.int64]


class SequenceFileError(FintrecError):
    """A file is not item sequences; the message names the line."""


@dataclass(frozen=True, slots=True)
class ItemSequences:
    """Users' items one after the other; user u owns `items[offsets[u]:offsets[u + 1]]`."""

    user_ids: tuple[str, ...]
    item_ids: IntArray  # (N,) the file's id of item 1, 2, ...
    items: IntArray
    offsets: IntArray  # (U + 1,)

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.item_ids)

    def training(self) -> list[IntArray]:
        """Each user's items before both targets, at least one."""
        return self._until(HELD_OUT["validation"])

    def histories(self, part: Part) -> list[IntArray]:
        """Each user's items before the part's target; the test's hold the validation target."""
        return self._until(HELD_OUT[part])

    def targets(self, part: Part) -> IntArray:
        """Each user's item to predict, (U,)."""
        return self.items[self.offsets[1:] - HELD_OUT[part]]

    def _until(self, held_out: int) -> list[IntArray]:
        ends = self.offsets[1:] - held_out
        return [self.items[start:end] for start, end in zip(self.offsets[:-1], ends, strict=True)]


def from_lists(sequences: Sequence[Sequence[int]]) -> ItemSequences:
    """Sequences of positive ids as ItemSequences; users are numbered from 1."""
    lengths = [len(sequence) for sequence in sequences]
    flat = np.array([item for sequence in sequences for item in sequence], dtype=np.int64)
    item_ids, places = np.unique(flat, return_inverse=True)
    return ItemSequences(
        tuple(str(number) for number in range(1, len(sequences) + 1)),
        item_ids,
        places.astype(np.int64).reshape(-1) + 1,
        np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
    )


def read(path: Path) -> ItemSequences:
    """Read a file of item sequences.

    Raises SequenceFileError that names the line: for a file that is missing, empty or no text, an
    id that is not a positive integer, a user seen twice, a user with fewer than MIN_ITEMS items.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as missing:
        raise SequenceFileError(f"{path}: no such file, expected item sequences") from missing
    except (UnicodeDecodeError, IsADirectoryError) as broken:
        raise SequenceFileError(f"{path}: not a text file ({broken})") from broken
    user_lines: dict[str, int] = {}
    sequences = []
    for number, line in enumerate(text.rstrip().split("\n") if text.strip() else [], start=1):
        where = f"{path}, line {number}"
        user_id, *items = line.split() or [""]
        if not user_id:
            raise SequenceFileError(f"{where}: blank, expected 'user item item ...'")
        if user_id in user_lines:
            raise SequenceFileError(
                f"{where}: user {user_id} again, after line {user_lines[user_id]}; expected all "
                "items of a user on one line"
            )
        user_lines[user_id] = number
        sequences.append(_items(items, user_id, where))
    if not sequences:
        raise SequenceFileError(f"{path}: no users, expected lines 'user item item ...'")
    found = from_lists(sequences)
    return ItemSequences(tuple(user_lines), found.item_ids, found.items, found.offsets)


def _items(texts: Sequence[str], user_id: str, where: str) -> list[int]:
    if len(texts) < MIN_ITEMS:
        raise SequenceFileError(
            f"{where}: user {user_id} has {len(texts)} items, expected at least {MIN_ITEMS}: one "
            "to learn from, one to validate on, one to test on"
        )
    for place, text in enumerate(texts, start=1):
        if not (text.isascii() and text.isdigit() and 0 < int(text[:20]) <= MAX_ID):
            raise SequenceFileError(
                f"{where}: item {place} of user {user_id} is {text[:40]!r}, expected an integer "
                "from 1 (0 is padding)"
            )
    return [int(text) for text in texts]


def padded(histories: Sequence[IntArray], width: int = WINDOW) -> IntArray:
    """The newest items of each history, the newest last, 0 before the oldest, (B, T).

    T is the longest history's length, `width` at most, 1 at least.
    """
    size = min(width, max((len(history) for history in histories), default=0))
    rows_BT = np.zeros((len(histories), max(size, 1)), dtype=np.int64)
    for row, history in enumerate(histories):
        if len(history):
            rows_BT[row, -min(size, len(history)) :] = history[-size:]
    return rows_BT
