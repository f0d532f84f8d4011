"""Working twins of the outside world, small enough to trust by reading.

Each keeps the same contract as its real adapter; `tests/streams/test_state_store.py` runs one
contract against both.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from features.encoding import BUCKETS, HistoryArrays
from features.errors import ModelUnavailable, StoreUnavailable
from features.freshness import Freshness, freshness
from features.history import WINDOW
from features.records import CONTENT_TYPES, SlateRequest
from features.spec import USER_CONSENT, USER_INTRADAY, USER_STATE, VIEWS, registry_fingerprint
from features.vocabulary import OPEN_FIELDS, Vocabulary
from fintrec.calibration import Calibration
from fintrec.manifest import Manifest
from fintrec.popularity import Popularity
from fintrec.slates import slate_id
from streams.model_versions import ModelVersions, ServedModel
from streams.ports import FeatureValue, StateWrite, ViewRow, version_of
from streams.producer import Outgoing

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


@dataclass
class FakeClock:
    """`Clock` that stands still until it is told otherwise."""

    time_ms: int = 1_795_000_000_000

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return self.time_ms

    def advance(self, ms: int) -> None:
        """Let time pass."""
        self.time_ms += ms


class RecordingProducer:
    """`Producer` that keeps what was emitted; `fail` is raised by every later `emit`."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.fail: Exception | None = None

    async def start(self) -> None:
        """Nothing to connect."""

    async def stop(self) -> None:
        """Nothing to disconnect."""

    async def emit(self, outgoing: Iterable[Outgoing]) -> None:
        """Keep the records, or fail with none of them."""
        if self.fail is not None:
            raise self.fail
        self.sent += outgoing

    def values(self, topic: str) -> list[dict[str, Any]]:
        """Decoded records of a topic, in order."""
        return [orjson.loads(record.value) for record in self.sent if record.topic == topic]


class LocalModels:
    """Triton in a few lines of NumPy: hidden states that tell what was seen, logits made of them.

    `hidden[0]` is the number of rows, `hidden[1]` the version. `fail` makes every call of
    these names, or of a name's version (`head 1`), raise ModelUnavailable; `spoil` may change what `encode` or `head` answers. `calls` are the names and
    row counts of the calls.
    """

    def __init__(self, num_items: int, width: int = 4, ready: Sequence[int] = (1,)) -> None:
        self.num_items, self.width, self.ready = num_items, width, list(ready)
        self.fail: set[str] = set()
        self.spoil: dict[str, Callable[[Any], Any]] = {}
        self.calls: list[tuple[str, int, int]] = []

    def encode(self, arrays: HistoryArrays, version: int) -> Any:
        """Hidden states, (B, width) float16."""
        return self._encode("encode", arrays, version)

    def repair(self, arrays: HistoryArrays, version: int) -> Any:
        """Hidden states, (B, width) float16."""
        return self._encode("repair", arrays, version)

    def _encode(self, name: str, arrays: HistoryArrays, version: int) -> Any:
        hidden = np.zeros((len(arrays.times_BT), self.width), np.float16)
        hidden[:, 0] = (arrays.visits_BT >= 0).sum(axis=1)
        hidden[:, 1] = version
        return self._answer(name, version, len(hidden), hidden)

    def head(self, hidden_BW: Any, context_BX: Any, request_BR: Any, version: int) -> Any:
        """Logits, each (B, K) float32; items differ, and so do users with other hidden states."""
        per_item = np.arange(self.num_items, dtype=np.float32)
        logits = per_item[None] / 4 + hidden_BW[:, :1].astype(np.float32) / 8
        answer = (logits, -logits - context_BX[:, :1].astype(np.float32))
        return self._answer("head", version, len(request_BR), answer)

    def ready_versions(self) -> list[int]:
        """Ascending."""
        return self._answer("ready", 0, 0, sorted(self.ready))

    def _answer(self, name: str, version: int, rows: int, answer: Any) -> Any:
        self.calls.append((name, version, rows))
        if {name, f"{name} {version}"} & self.fail:
            raise ModelUnavailable(f"triton: {name} {version}: connection refused")
        return self.spoil.get(name, lambda same: same)(answer)


class Answered:
    """`AnsweredRequests` that knows the given slate ids."""

    def __init__(self, *slate_ids: str) -> None:
        self.slate_ids = set(slate_ids)

    def __contains__(self, request: SlateRequest) -> bool:
        return slate_id(request) in self.slate_ids

    async def learn(self, partitions: Iterable[int]) -> None:
        """Knows already."""


def served_model(version: int, items: Sequence[str], width: int = 4) -> ServedModel:
    """A model version with its manifest, that scores `items`."""
    shares = tuple(0.01 * (place + 1) for place in range(len(items)))
    kinds = dict.fromkeys((*CONTENT_TYPES, ""), 0.05)
    manifest = Manifest(
        version=version,
        registry=registry_fingerprint(),
        vocabulary=Vocabulary({f: tuple(items) if f == "item" else () for f in OPEN_FIELDS}, items),
        content_types=("marketing",) * len(items),
        calibration=Calibration(f"platt-{version}", 1.0, float(version)),
        popularity=Popularity(shares, shares, kinds, kinds),
        d_model=width // 2,
        state_width=width,
        window=WINDOW,
        buckets=BUCKETS,
        recipe={},
        metrics={},
        code="test",
        torch="none",
        sha256={f"{name}/{version}/model.pt": "0" * 64 for name in ("encode", "head")},
    )
    return ServedModel(version, manifest)


def served(triton: LocalModels, *models: ServedModel) -> ModelVersions:
    """The versions, as if they had been found ready."""
    versions = ModelVersions(triton, Path("no repository"))
    versions.served = {model.version: model for model in models}
    triton.ready = sorted(versions.served)
    return versions
