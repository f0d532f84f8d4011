"""The scoring worker: slate requests into slates and audit records, nothing kept in between.

A batch: decode -> triage -> one store read -> one `head` call (with a bounded repair of hidden
states that are behind) -> calibration, eq. 1, eligibility, order -> slates and audit records ->
acknowledged -> commit. Overload: the newest `score_full_batch` requests in full, the rest, and any
too old, by the cheap tier, which touches neither the store nor Triton.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence

from aiokafka.errors import KafkaError

from features.border import INTERNAL_ERROR, Border, check_key
from features.clock import Clock
from features.errors import MalformedEvent, ModelUnavailable, StoreUnavailable
from features.records import SlateRequest
from features.spec import DAY_MS
from fintrec.slates import Decision, audit_bytes, slate_bytes
from streams.answered import AnsweredRequests
from streams.feed import BATCH_BYTES
from streams.hidden import HiddenStates, Models
from streams.metrics import DEAD_LETTERS, HOP_FAILURES, HOP_SECONDS, REDELIVERED, SLATES
from streams.model_versions import ModelVersions
from streams.ports import StateStore
from streams.producer import Outgoing, Producer
from streams.ranker import Ranker, Row
from streams.reference import ReferenceData
from streams.settings import Settings
from streams.topics import SLATE_AUDIT, SLATE_REQUESTS, TOPICS
from streams.topics import SLATES as SLATES_TOPIC
from streams.wire import Received, dead_letter, decode, encode, letter_key

logger = logging.getLogger(__name__)

OVERLOAD = "overload"
LATE = "deadline_passed"
STORE_DOWN = "store_unavailable"
TRITON_DOWN = "triton_unavailable"
# Below this many waiting requests nobody is in a hurry: a late one is still scored in full.
_PRESSURE = 16


class Scoring:
    """The work of a scoring worker, as `streams/feed.py` runs it."""

    name = "score"
    topics: tuple[str, ...] = (SLATE_REQUESTS,)

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        store: StateStore,
        triton: Models,
        models: ModelVersions,
        producer: Producer,
        reference: ReferenceData,
        answered: AnsweredRequests,
    ) -> None:
        self.pause_ms = settings.score_pause_ms
        self.gather_ms = 0
        self.max_batch = settings.score_max_batch
        self._full_batch = settings.score_full_batch
        self._max_age_ms = settings.score_max_age_ms
        self.max_batch_bytes = BATCH_BYTES
        self._clock = clock
        self._store = store
        self._models = models
        self._producer = producer
        self._reference = reference
        self._answered = answered
        self._hidden = HiddenStates(triton, models, settings.repair_rows)
        self._ranker = Ranker(settings, reference, models)
        self._border = Border(
            max_bytes=settings.max_event_bytes,
            max_skew_ms=settings.max_skew_ms,
            max_age_ms=settings.max_event_age_days * DAY_MS,
        )

    async def start(self) -> None:
        """Connect the producer, learn model versions, read catalogue and policies to their end."""
        await self._producer.start()
        self._reference.on_refused = self._refuse_reference
        await asyncio.gather(self._models.start(), self._reference.start())

    async def stop(self) -> None:
        """Disconnect."""
        await self._reference.stop()
        await self._models.stop()
        await self._producer.stop()

    async def assigned(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Learn which requests of these partitions a predecessor has answered already."""
        await self._answered.learn(number for topic, number in partitions)

    async def handle(self, records: Sequence[Received]) -> None:
        """Answer a batch; returns when every slate and audit record is acknowledged."""
        started = time.perf_counter()
        now_ms = self._clock.now_ms()
        rows: list[Row] = []
        outgoing: list[Outgoing] = []
        for record in records:
            try:
                row = self._admit(record, now_ms)
                if row.request in self._answered:
                    REDELIVERED.inc()
                else:
                    rows.append(row)
            except MalformedEvent as refused:
                message = str(refused)
                outgoing.append(self._letter(record, refused.reason, message, now_ms))
        full, cheap = self.triage(rows, now_ms)
        repaired = self._score(full, now_ms, started) if full else []
        for row in cheap:
            row.is_cheap = True
            if not row.flags:
                row.flags.append(OVERLOAD)
        decisions = self._ranker.decide([*full, *cheap], now_ms, started)
        for decision in decisions:
            outgoing += _records_of(decision)
            SLATES.labels(decision.tier).inc()
        with HOP_SECONDS.labels(self.name, "emit").time():
            await self._producer.emit(outgoing)
        self._observe([*full, *cheap])
        if repaired:
            self._keep(repaired)

    async def refuse(self, record: Received, error: Exception) -> None:
        """Dead letter of a request that broke the code."""
        message = f"{type(error).__name__}: {error}"
        letter = self._letter(record, INTERNAL_ERROR, message, self._clock.now_ms())
        await self._producer.emit([letter])

    def triage(self, rows: list[Row], now_ms: int) -> tuple[list[Row], list[Row]]:
        """(scored in full, answered by the cheap tier).

        A request past its own deadline is answered cheaply; under pressure the newest are scored
        in full, none that is too old.
        """
        for row in rows:
            deadline_ms = row.request.deadline_ms
            if deadline_ms is not None and now_ms - row.record.timestamp_ms > deadline_ms:
                row.flags.append(LATE)
        in_time = [row for row in rows if not row.flags]
        if len(rows) <= _PRESSURE:
            return in_time, [row for row in rows if row.flags]
        newest = sorted(in_time, key=lambda row: -row.record.timestamp_ms)
        full = [
            row
            for row in newest[: self._full_batch]
            if now_ms - row.record.timestamp_ms <= self._max_age_ms
        ]
        chosen = {id(row) for row in full}
        return full, [row for row in rows if id(row) not in chosen]

    def _admit(self, record: Received, now_ms: int) -> Row:
        raw = self._border.check_size(record.value, record.key)
        request = decode(raw, SlateRequest)
        check_key(record.key, request)
        self._border.check_time(request.event_time_ms, now_ms)
        return Row(record=record, request=request)

    def _score(self, rows: list[Row], now_ms: int, started: float) -> list[Row]:
        """Read the states and score the rows; what fails leaves them for the popularity tier.

        Returns the rows whose hidden states were recomputed.
        """
        before = time.perf_counter()
        try:
            packed = self._store.read_packed([row.request.user_id for row in rows])
        except StoreUnavailable as silent:
            HOP_FAILURES.labels("store").inc()
            logger.warning("scored without the store requests=%d reason=%s", len(rows), silent)
            for row in rows:
                row.flags.append(STORE_DOWN)
            return []
        read = time.perf_counter()
        HOP_SECONDS.labels(self.name, "store").observe(read - before)
        for row, value in zip(rows, packed, strict=True):
            row.take_state(value, now_ms)
            row.latency_ms["store"] = (read - before) * 1000
        try:
            repaired = self._hidden.score(rows)
        except ModelUnavailable as silent:
            HOP_FAILURES.labels("triton").inc()
            logger.warning("scored without Triton requests=%d reason=%s", len(rows), silent)
            for row in rows:
                if row.logits is None:
                    row.flags.append(TRITON_DOWN)
            repaired = []
        scored = time.perf_counter()
        HOP_SECONDS.labels(self.name, "head").observe(scored - read)
        for row in rows:
            row.latency_ms["head"] = (scored - read) * 1000
        return repaired

    def _observe(self, rows: list[Row]) -> None:
        """Time from each request's record to its acknowledged slate, and how long it waited."""
        done_ms = self._clock.now_ms()
        total, queue = (
            HOP_SECONDS.labels(self.name, "total"),
            HOP_SECONDS.labels(self.name, "queue"),
        )
        for row in rows:
            total.observe(max(0, done_ms - row.record.timestamp_ms) / 1000)
            queue.observe(row.latency_ms["queue"] / 1000)

    def _keep(self, rows: list[Row]) -> None:
        """Write recomputed hidden states; a fold that came in between wins, silently."""
        try:
            self._store.compare_and_set([row.repaired_write() for row in rows])
        except StoreUnavailable as silent:
            HOP_FAILURES.labels("store").inc()
            logger.warning("repaired states not kept states=%d reason=%s", len(rows), silent)

    async def _refuse_reference(self, record: Received, refused: MalformedEvent) -> None:
        letter = self._letter(record, refused.reason, str(refused), self._clock.now_ms())
        try:
            await self._producer.emit([letter])
        except KafkaError as lost:
            logger.error("dead letter not written at=%s reason=%s", record.at, lost)

    def _letter(self, record: Received, reason: str, message: str, now_ms: int) -> Outgoing:
        DEAD_LETTERS.labels(record.topic, reason).inc()
        logger.warning("refused at=%s reason=%s message=%s", record.at, reason, message)
        letter = encode(dead_letter(record, reason, message, now_ms))
        return Outgoing(TOPICS[record.topic].dead_letter, letter_key(record), letter)


def _records_of(decision: Decision) -> tuple[Outgoing, Outgoing]:
    key = decision.request.user_id.encode()
    slate = slate_bytes(decision)
    audit = audit_bytes(decision, slate)
    return Outgoing(SLATES_TOPIC, key, slate), Outgoing(SLATE_AUDIT, key, audit)
