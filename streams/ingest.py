"""The ingest worker: events into user states, the only writer of histories.

A batch of all event topics: read -> fold -> one `encode` call -> compare-and-set of history and
hidden states as one value -> commit. State that was read and overtaken is read again; what a state
has applied before changes nothing.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from features.border import INTERNAL_ERROR, KEY_MISMATCH, Border, check_key
from features.clock import Clock
from features.encoding import HistoryArrays, encode_histories
from features.errors import MalformedEvent, ModelUnavailable, StateCorrupt, StoreUnavailable
from features.packed import UserState, pack, unpack
from features.records import MARKETING, Consent, Conversion, Interaction, Record, Transaction
from features.spec import DAY_MS, ENROLLMENTS, FM_WIDTH
from features.state import Delivery, Nightly, fold, with_nightly
from streams.feed import BATCH_BYTES
from streams.metrics import (
    DEAD_LETTERS,
    ENCODE_FAILURES,
    EVENT_TO_STATE,
    HOP_FAILURES,
    HOP_SECONDS,
    LOST_WRITES,
    REDELIVERED,
)
from streams.model_versions import ModelVersions
from streams.ports import StateStore, StateWrite, ViewRow, version_of
from streams.producer import Outgoing, Producer
from streams.refresh import RefreshSweep, refreshed_user
from streams.settings import Settings
from streams.topics import (
    CLICKSTREAM,
    CONSENTS,
    CONVERSIONS,
    EVENT_TOPICS,
    STATE_REFRESH,
    TOPICS,
    TRANSACTIONS,
)
from streams.wire import Received, dead_letter, decode, encode, letter_key

logger = logging.getLogger(__name__)

KINDS: Final[Mapping[str, type[Record]]] = {
    CLICKSTREAM: Interaction,
    TRANSACTIONS: Transaction,
    CONVERSIONS: Conversion,
    CONSENTS: Consent,
}
_VIEWS: Final = ("user_static", "user_fm")
_ATTEMPTS: Final = 4


class Encoder(Protocol):
    """Makes hidden states (`streams/triton.py`)."""

    def encode(self, arrays: HistoryArrays, version: int) -> npt.NDArray[np.float16]:
        """(B, width); raises ModelUnavailable."""


@dataclass(slots=True)
class Due:
    """What a user's state has to take in, and when the oldest of it was produced."""

    deliveries: list[Delivery]
    produced_ms: int
    wants_nightly: bool = False


class Ingest:
    """The work of an ingest worker, as `streams/feed.py` runs it."""

    name = "ingest"
    topics: tuple[str, ...] = EVENT_TOPICS

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        store: StateStore,
        encoder: Encoder,
        models: ModelVersions,
        producer: Producer,
        sweep: RefreshSweep | None = None,
    ) -> None:
        self.pause_ms = settings.ingest_pause_ms
        self.gather_ms = 0
        self.max_batch = settings.ingest_max_batch
        self.max_batch_bytes = BATCH_BYTES
        self._clock = clock
        self._store = store
        self._encoder = encoder
        self._models = models
        self._producer = producer
        self._sweep = sweep
        self._border = Border(
            max_bytes=settings.max_event_bytes,
            max_skew_ms=settings.max_skew_ms,
            max_age_ms=settings.max_event_age_days * DAY_MS,
        )

    async def start(self) -> None:
        """Connect the producer and learn the model versions."""
        await self._producer.start()
        await self._models.start()
        if self._sweep is not None:
            await self._sweep.start()

    async def stop(self) -> None:
        """Disconnect."""
        if self._sweep is not None:
            await self._sweep.stop()
        await self._models.stop()
        await self._producer.stop()

    async def assigned(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Whoever owns partition 0 of the refresh topic sweeps the store."""
        if self._sweep is not None:
            self._sweep.set_owner((STATE_REFRESH, 0) in set(partitions))

    async def handle(self, records: Sequence[Received]) -> None:
        """Fold a batch; raises StoreUnavailable while the store is down, and nothing is lost."""
        now_ms = self._clock.now_ms()
        due: dict[str, Due] = {}
        letters: list[Outgoing] = []
        for record in records:
            try:
                user_id, delivery = self._admit(record, now_ms)
            except MalformedEvent as refused:
                letters.append(_letter(record, refused.reason, str(refused), now_ms))
                continue
            found = due.setdefault(user_id, Due([], record.timestamp_ms))
            found.deliveries.append(delivery)
            found.wants_nightly |= delivery.event is None
        # States first: while the store is down the batch is repeated, and letters would be as well.
        if due:
            self._apply(due, now_ms)
        if letters:
            await self._producer.emit(letters)

    async def refuse(self, record: Received, error: Exception) -> None:
        """Dead letter of a record that broke the code."""
        message = f"{type(error).__name__}: {error}"
        await self._producer.emit([_letter(record, INTERNAL_ERROR, message, self._clock.now_ms())])

    def _admit(self, record: Received, now_ms: int) -> tuple[str, Delivery]:
        place = (EVENT_TOPICS.index(record.topic), record.partition, record.offset)
        raw = self._border.check_size(record.value, record.key)
        if record.topic == STATE_REFRESH:
            user_id = refreshed_user(raw)
            if record.key != user_id.encode():
                raise MalformedEvent(KEY_MISMATCH, "got another key, expected the user's")
            return user_id, Delivery(None, *place)
        event = decode(raw, KINDS[record.topic])
        assert isinstance(event, Interaction | Transaction | Conversion | Consent)
        check_key(record.key, event)
        self._border.check_time(event.event_time_ms, now_ms)
        return (record.key or b"").decode(), Delivery(event, *place)

    def _apply(self, due: Mapping[str, Due], now_ms: int) -> None:
        left = list(due)
        for attempt in count():
            left = self._write(left, due, now_ms)
            if not left:
                return
            LOST_WRITES.inc(len(left))
            if attempt + 1 >= _ATTEMPTS:
                raise StoreUnavailable(
                    f"{len(left)} states were overtaken {_ATTEMPTS} times, the batch is repeated"
                )

    def _write(self, user_ids: list[str], due: Mapping[str, Due], now_ms: int) -> list[str]:
        """One round of read, fold, encode, compare-and-set; the users that were overtaken."""
        with HOP_SECONDS.labels(self.name, "store").time():
            before = self._store.read_packed(user_ids)
        states = self._with_context(user_ids, before, due, now_ms)
        grown: list[tuple[str, int, UserState]] = []
        for user_id, packed, state in zip(user_ids, before, states, strict=True):
            folded = fold(state, due[user_id].deliveries)
            REDELIVERED.inc(folded.num_redelivered)
            if folded.num_applied:
                grown.append((user_id, version_of(packed), folded.state))
        if not grown:
            return []
        encoded = encode_histories([state.history for _, _, state in grown])
        new = self._with_hidden([state for _, _, state in grown], encoded.arrays)
        writes = [
            state_write(user_id, expected, state, latest)
            for (user_id, expected, _), state, latest in zip(
                grown, new, encoded.latest_BF.tolist(), strict=True
            )
        ]
        with HOP_SECONDS.labels(self.name, "write").time():
            taken = self._store.compare_and_set(writes)
        done_ms = time.time() * 1000
        for write, ok in zip(writes, taken, strict=True):
            if ok:
                EVENT_TO_STATE.observe(max(0.0, done_ms - due[write.user_id].produced_ms) / 1000)
        return [write.user_id for write, ok in zip(writes, taken, strict=True) if not ok]

    def _with_context(
        self,
        user_ids: list[str],
        before: list[bytes | None],
        due: Mapping[str, Due],
        now_ms: int,
    ) -> list[UserState]:
        """Unpacked states; a new one, and one that asked for it, gets its nightly features."""
        states = [_unpacked(user, packed) for user, packed in zip(user_ids, before, strict=True)]
        wanted = [
            place
            for place, user_id in enumerate(user_ids)
            if before[place] is None or due[user_id].wants_nightly
        ]
        if wanted:
            rows = self._store.read_views([user_ids[place] for place in wanted], _VIEWS, now_ms)
            for place, views in zip(wanted, rows, strict=True):
                states[place] = with_nightly(states[place], nightly_of(views))
        return states

    def _with_hidden(self, states: list[UserState], arrays: HistoryArrays) -> list[UserState]:
        """States with new hidden states, or as they were when Triton does not answer."""
        model = self._models.active
        if model is None:
            ENCODE_FAILURES.inc()
            return states
        try:
            with HOP_SECONDS.labels(self.name, "encode").time():
                hidden = self._encoder.encode(arrays, model.version)
            expected = (len(states), model.manifest.state_width)
            if hidden.shape != expected:
                raise ModelUnavailable(
                    f"triton: encode {model.version} gave {hidden.shape}, expected {expected}"
                )
        except ModelUnavailable as silent:
            HOP_FAILURES.labels("triton").inc()
            ENCODE_FAILURES.inc()
            logger.warning("states written without hidden states reason=%s", silent)
            if self._sweep is not None:
                self._sweep.request()
            return states
        finite = np.logical_and.reduce(np.isfinite(hidden), axis=1)
        if not finite.all():
            ENCODE_FAILURES.inc()
            logger.error("hidden states are not finite states=%d", (~finite).sum())
        return [
            state.with_hidden(row, model.version) if usable else state
            for state, row, usable in zip(states, hidden, finite, strict=True)
        ]


def nightly_of(views: Mapping[str, ViewRow]) -> Nightly | None:
    """Nightly features of a user as the store has them; None without a static row."""
    static, fm = views["user_static"], views["user_fm"]
    if static.event_time_ms is None:
        return None
    values = static.values
    owned = values.get("enrollments") or []
    assert isinstance(owned, list)
    vector = fm.values.get("fm_embedding")
    has_fm = isinstance(vector, np.ndarray) and len(vector) == FM_WIDTH
    return Nightly(
        enrollments=owned,
        tenure_days=[_whole(values.get(f"tenure_{name}")) for name in ENROLLMENTS],
        tenure_bank_days=_whole(values.get("tenure_bank")),
        static_ms=static.event_time_ms,
        fm=np.asarray(vector, np.float16) if has_fm else None,
        night_ms=(fm.event_time_ms or 0) if has_fm else 0,
    )


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _unpacked(user_id: str, packed: bytes | None) -> UserState:
    if packed is None:
        return UserState()
    try:
        return unpack(packed)
    except StateCorrupt as broken:
        # Its version still stands where the store compares it, so the new state follows on it.
        logger.error("state is built anew from here on bytes=%d reason=%s", len(packed), broken)
        return UserState(version=version_of(packed))


def state_write(
    user_id: str, expected_version: int, state: UserState, latest: list[int]
) -> StateWrite:
    consent = None
    newest_ms = state.last_event_ms
    if len(state.consents):
        last = max(state.consents, key=lambda c: (int(c["event_time_ms"]), int(c["marketing"])))
        consent = (MARKETING[int(last["marketing"])], int(last["effective_from_ms"]))
        newest_ms = max(newest_ms, int(last["event_time_ms"]))
    return StateWrite(
        user_id=user_id,
        expected_version=expected_version,
        packed=pack(state),
        event_time_ms=newest_ms,
        intraday=[*latest, state.version] if len(state.history) else None,
        consent=consent,
    )


def _letter(record: Received, reason: str, message: str, now_ms: int) -> Outgoing:
    DEAD_LETTERS.labels(record.topic, reason).inc()
    logger.warning("refused at=%s reason=%s message=%s", record.at, reason, message)
    letter = encode(dead_letter(record, reason, message, now_ms))
    return Outgoing(TOPICS[record.topic].dead_letter, letter_key(record), letter)
