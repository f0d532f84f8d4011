"""Kafka as a foreign application sees it: kafka-python publishes, and one reader keeps every topic.

What the referee knows, it knows from here: the log of the topics, as JSON.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import orjson
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from streams.clients import kafka_python_config
from streams.settings import Settings
from streams.topics import EVENT_TOPICS, SLATE_AUDIT, SLATE_REQUESTS, SLATES, TOPICS


class Published(NamedTuple):
    """A record as the topic has it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    time_ms: int

    @property
    def at(self) -> str:
        """Its coordinates, as dead letters name them."""
        return f"{self.topic}[{self.partition}]@{self.offset}"


def until(what: str, check: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """The first true answer of `check`; fails with `what` when none came in time."""
    end = time.monotonic() + timeout_s
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.02)


class Wire:
    """A producer, and a thread that reads all topics from their beginning."""

    def __init__(self, settings: Settings) -> None:
        # The broker is killed by tests; by default kafka-python then waits up to 30 s to come back.
        config = kafka_python_config(settings) | {"reconnect_backoff_max_ms": 500}
        self._producer = KafkaProducer(
            **config, acks="all", linger_ms=1, delivery_timeout_ms=90_000
        )
        self._consumer = KafkaConsumer(**config, group_id=None, enable_auto_commit=False)
        self._lock = threading.Lock()
        self._sent: list[Any] = []
        self._seen: set[tuple[str, int, int]] = set()
        self._log: dict[str, list[Published]] = defaultdict(list)
        self._events: dict[bytes | None, list[Published]] = defaultdict(list)
        self._slates: dict[str, list[bytes]] = defaultdict(list)
        self._audits: dict[str, list[bytes]] = defaultdict(list)
        self._letters: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        partitions = [
            TopicPartition(topic, number)
            for topic in TOPICS
            for number in sorted(self._consumer.partitions_for_topic(topic) or set())
        ]
        self._consumer.assign(partitions)
        self._consumer.seek_to_beginning()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(30)
        self._producer.close()
        self._consumer.close()

    def publish(self, topic: str, user_id: str, record: Mapping[str, Any]) -> Any:
        """Send a record under its user's key; the future of its place."""
        return self.send(topic, user_id.encode(), orjson.dumps(record))

    def send(self, topic: str, key: bytes | None, value: bytes | None) -> Any:
        """Send bytes as they are; the future of their place."""
        future = self._producer.send(topic, key=key, value=value)
        with self._lock:
            self._sent.append(future)
        return future

    def settle(self, timeout_s: float = 60.0) -> None:
        """Return when everything sent so far is acknowledged and stands in the log read back."""
        with self._lock:
            sent, self._sent = self._sent, []
        places = {(m.topic, m.partition, m.offset) for m in (f.get(timeout_s) for f in sent)}
        until("the topics were read up to what was sent", lambda: places <= self._seen, timeout_s)

    def log(self, topic: str) -> list[Published]:
        """A topic's records, each partition in offset order."""
        self._check()
        return list(self._log[topic])

    def events(self, user_id: str) -> list[Published]:
        """A user's records on all topics that an ingest worker reads, as `log`."""
        self._check()
        return list(self._events[user_id.encode()])

    def slates(self, request_id: str) -> list[bytes]:
        """Every slate that answered a request."""
        self._check()
        return list(self._slates[request_id])

    def audits(self, slate_id: str) -> list[bytes]:
        """Every audit record of a slate."""
        self._check()
        return list(self._audits[slate_id])

    def letters(self, at: str) -> list[dict[str, Any]]:
        """Dead letters of a record."""
        self._check()
        return list(self._letters[at])

    def ask(self, request: Mapping[str, Any], timeout_s: float = 30.0) -> tuple[bytes, bytes]:
        """A request's slate and its audit record, as bytes."""
        self.publish(SLATE_REQUESTS, request["user_id"], request)
        return self.answer(request["request_id"], timeout_s)

    def answer(self, request_id: str, timeout_s: float = 30.0) -> tuple[bytes, bytes]:
        """The slate and audit record of a request that was sent."""
        slate = until(f"a slate for {request_id}", lambda: self.slates(request_id), timeout_s)[0]
        slate_id = orjson.loads(slate)["slate_id"]
        audit = until(f"an audit of {slate_id}", lambda: self.audits(slate_id), timeout_s)[0]
        return slate, audit

    def every_slate(self) -> list[bytes]:
        """Every record of slates.v1."""
        return [r.value for r in self.log(SLATES) if r.value is not None]

    def every_audit(self) -> list[bytes]:
        """Every record of slate_audit.v1."""
        return [r.value for r in self.log(SLATE_AUDIT) if r.value is not None]

    def _check(self) -> None:
        if self._failure is not None:
            raise AssertionError("the reader of the topics ended") from self._failure

    def _read(self) -> None:
        try:
            while not self._stop.is_set():
                for messages in self._consumer.poll(timeout_ms=200).values():
                    for message in messages:
                        self._keep(message)
        except BaseException as failure:  # noqa: BLE001 - told to the test by the next call
            self._failure = failure

    def _keep(self, m: Any) -> None:
        record = Published(m.topic, m.partition, m.offset, m.key, m.value, m.timestamp)
        self._log[m.topic].append(record)
        if m.topic in EVENT_TOPICS:
            self._events[m.key].append(record)
        if m.topic == SLATES:
            self._slates[orjson.loads(m.value)["request_id"]].append(m.value)
        elif m.topic == SLATE_AUDIT:
            self._audits[orjson.loads(m.value)["slate_id"]].append(m.value)
        elif m.topic.endswith(".dead_letter"):
            letter = orjson.loads(m.value)
            self._letters[letter["at"]].append(letter)
        self._seen.add((m.topic, m.partition, m.offset))
