"""Working twins of the outside world, small enough to trust by reading.

Each keeps the same contract as its real adapter; `tests/streams/test_state_store.py` runs one
contract against both.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from features.errors import StoreUnavailable
from features.freshness import Freshness, freshness
from features.spec import USER_CONSENT, USER_INTRADAY, USER_STATE, VIEWS
from streams.ports import FeatureValue, StateWrite, ViewRow, version_of

_USER_VIEWS = {view.name: view for view in VIEWS if view.entity == "user"}


@dataclass
class _Row:
    event_time_ms: int
    values: dict[str, FeatureValue] = field(default_factory=dict)


class InMemoryStateStore:
    """`StateStore` in a dict, with a lock around each user's check and write.

    `fail` makes every later call raise `StoreUnavailable` until it is set back to None;
    `num_calls` counts the round trips by method.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], _Row] = {}
        self._lock = threading.Lock()
        self.fail: str | None = None
        self.num_calls = {"read_packed": 0, "compare_and_set": 0, "read_views": 0}

    def read_packed(self, user_ids: Sequence[str]) -> list[bytes | None]:
        """See `StateStore.read_packed`."""
        self._called("read_packed")
        return [self._packed(user_id) for user_id in user_ids]

    def compare_and_set(self, writes: Sequence[StateWrite]) -> list[bool]:
        """See `StateStore.compare_and_set`."""
        self._called("compare_and_set")
        for write in writes:
            if write.intraday is not None and len(write.intraday) != len(USER_INTRADAY.features):
                raise ValueError(
                    f"got {len(write.intraday)} intraday values of {write.user_id!r}, "
                    f"expected {len(USER_INTRADAY.features)}"
                )
        return [self._take(write) for write in writes]

    def read_views(
        self, user_ids: Sequence[str], view_names: Sequence[str], now_ms: int
    ) -> list[dict[str, ViewRow]]:
        """See `StateStore.read_views`."""
        self._called("read_views")
        for name in view_names:
            if name not in _USER_VIEWS:
                raise ValueError(f"got view {name!r}, expected one of {sorted(_USER_VIEWS)}")
        return [
            {name: self._view(user_id, name, now_ms) for name in view_names} for user_id in user_ids
        ]

    def put_view(
        self, user_id: str, view: str, event_time_ms: int, values: Mapping[str, FeatureValue]
    ) -> None:
        """What Feast's writers do: a row no newer than the stored one is dropped."""
        row = self._rows.get((user_id, view))
        if row is None or event_time_ms > row.event_time_ms:
            merged = (row.values if row else {}) | dict(values)
            self._rows[user_id, view] = _Row(event_time_ms, merged)

    def _called(self, method: str) -> None:
        self.num_calls[method] += 1
        if self.fail is not None:
            raise StoreUnavailable(self.fail)

    def _packed(self, user_id: str) -> bytes | None:
        row = self._rows.get((user_id, USER_STATE.name))
        value = row.values.get("packed") if row else None
        assert value is None or isinstance(value, bytes)
        return value

    def _take(self, write: StateWrite) -> bool:
        with self._lock:
            if version_of(self._packed(write.user_id)) != write.expected_version:
                return False
            self._write(write, USER_STATE.name, {"packed": write.packed})
            if write.intraday is not None:
                names = USER_INTRADAY.feature_names
                self._write(
                    write, USER_INTRADAY.name, dict(zip(names, write.intraday, strict=True))
                )
            if write.consent is not None:
                names = USER_CONSENT.feature_names
                self._write(write, USER_CONSENT.name, dict(zip(names, write.consent, strict=True)))
            return True

    def _write(self, write: StateWrite, view: str, values: Mapping[str, FeatureValue]) -> None:
        row = self._rows.setdefault((write.user_id, view), _Row(write.event_time_ms))
        row.event_time_ms = max(row.event_time_ms, write.event_time_ms)
        row.values.update(values)

    def _view(self, user_id: str, name: str, now_ms: int) -> ViewRow:
        row = self._rows.get((user_id, name))
        if row is None:
            return ViewRow(Freshness.MISSING)
        verdict = freshness(row.event_time_ms, now_ms, _USER_VIEWS[name].ttl_ms)
        return ViewRow(verdict, row.event_time_ms, dict(row.values))
