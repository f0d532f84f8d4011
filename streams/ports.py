"""What the workers need from the outside world, as protocols: real adapters and fakes fit both.

The online store's promise: a state is replaced only by someone who has seen its present version,
and the version lives inside the packed value, so no other writer can make the two disagree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from features.freshness import Freshness

VERSION_OFFSET: Final = 8  # of the u64, little endian, inside a packed state
VERSION_END: Final = VERSION_OFFSET + 8
ABSENT: Final = 0  # the version of a state that is not there, or too short to have one

FeatureValue: TypeAlias = int | float | str | bytes | list[str] | npt.NDArray[np.float32] | None


def version_of(packed: bytes | None) -> int:
    """The version inside a packed state; `ABSENT` for none and for a value too short to hold one."""
    if packed is None or len(packed) < VERSION_END:
        return ABSENT
    return int.from_bytes(packed[VERSION_OFFSET:VERSION_END], "little")


@dataclass(frozen=True, slots=True)
class StateWrite:
    """A user's next state, valid only on top of the version that was read.

    `packed` carries its own version: above `expected_version` for a fold, equal to it when only
    the hidden states are new (the scorer's repair). `intraday` are the features of `user_intraday`
    in registry order; `consent` is (marketing, effective_from_ms); `None` leaves a view as it is.
    """

    user_id: str
    expected_version: int
    packed: bytes
    event_time_ms: int
    intraday: Sequence[int] | None = None
    consent: tuple[str, int] | None = None

    def __post_init__(self) -> None:
        version = version_of(self.packed)
        if version == ABSENT or version < self.expected_version:
            raise ValueError(
                f"state of {self.user_id!r}: version {version} in {len(self.packed)} bytes cannot "
                f"follow version {self.expected_version}"
            )


@dataclass(frozen=True, slots=True)
class ViewRow:
    """One view's row of one user: values by feature name (absent ones left out), age and verdict."""

    freshness: Freshness
    event_time_ms: int | None = None
    values: Mapping[str, FeatureValue] = field(default_factory=dict)


class StateStore(Protocol):
    """The online store as the hot path sees it. Every method raises `StoreUnavailable` in bounded
    time when the store is down, frozen or talks nonsense, and never retries by itself.
    """

    def read_packed(self, user_ids: Sequence[str]) -> list[bytes | None]:
        """The packed state of each user, in order; `None` where there is none. One round trip."""

    def compare_and_set(self, writes: Sequence[StateWrite]) -> list[bool]:
        """Take each write whose `expected_version` is still stored; True where it was taken.

        Atomic per user, not across users. The event timestamps of the views never go back.
        """

    def read_views(
        self, user_ids: Sequence[str], view_names: Sequence[str], now_ms: int
    ) -> list[dict[str, ViewRow]]:
        """Typed rows of the named user views for each user, in order. One round trip.

        Raises `ValueError` for a name that is not a user view, `StateCorrupt` for a stored value
        whose type is not the registry's.
        """
