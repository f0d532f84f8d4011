"""The player's line to the stack: records out, each acknowledged; slates and refusals in.

kafka-python, no group: the reader stands at the end of the topics before the first request is sent.
"""

import base64
from collections import deque
from collections.abc import Collection
from types import TracebackType
from typing import Any, Final, Self

import orjson
from kafka import KafkaProducer
from kafka.errors import KafkaError

from features.errors import FintrecError
from features.records import entity_of
from streams.clients import kafka_python_config
from streams.live.records import Outgoing
from streams.settings import Settings
from streams.topic_end import reader_at_end
from streams.topics import (
    CLICKSTREAM,
    CONVERSIONS,
    SLATE_REQUESTS,
    SLATES,
    TOPICS,
    TRANSACTIONS,
)
from streams.wire import encode

ACK_TIMEOUT_S: Final = 60.0
_SENT_TO: Final = (CLICKSTREAM, TRANSACTIONS, CONVERSIONS, SLATE_REQUESTS)


class KafkaExchange:
    """Sends records and hears slates, and which records of these entities were refused."""

    def __init__(self, settings: Settings, entities: Collection[str]) -> None:
        self.num_acknowledged = 0
        self.refused: dict[str, int] = {}
        self._entities = {entity.encode() for entity in entities}
        self._waiting: deque[tuple[Outgoing, Any]] = deque()
        refusals = [TOPICS[name].dead_letter for name in _SENT_TO]
        self._consumer = reader_at_end(settings, [SLATES, *refusals], fetch_max_wait_ms=10)
        self._producer = KafkaProducer(**kafka_python_config(settings), acks="all", linger_ms=2)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._producer.close(timeout=10)
        self._consumer.close()

    def send(self, outgoing: Outgoing) -> None:
        """Send a record; raises FintrecError where an earlier one was not acknowledged."""
        topic, record = outgoing
        try:
            sent = self._producer.send(topic, key=entity_of(record).encode(), value=encode(record))
        except KafkaError as refused:
            raise _lost(outgoing, refused) from refused
        self._waiting.append((outgoing, sent))
        while self._waiting and self._waiting[0][1].is_done:
            self._acknowledge()

    def settle(self) -> None:
        """Return when every record is acknowledged; raises FintrecError where one is not."""
        self._producer.flush(timeout=ACK_TIMEOUT_S)
        while self._waiting:
            self._acknowledge()

    def _acknowledge(self) -> None:
        outgoing, sent = self._waiting.popleft()
        try:
            sent.get(timeout=ACK_TIMEOUT_S)
        except KafkaError as refused:
            raise _lost(outgoing, refused) from refused
        self.num_acknowledged += 1

    def hear(self, timeout_ms: int) -> list[dict[str, Any]]:
        """Slates that have come, anybody's; waits at most this long for the first."""
        found = []
        for partition, messages in self._consumer.poll(timeout_ms=timeout_ms).items():
            for message in messages:
                if partition.topic == SLATES:
                    found.append(orjson.loads(message.value))
                else:
                    self._note_refusal(orjson.loads(message.value))
        return found

    def _note_refusal(self, letter: dict[str, Any]) -> None:
        if base64.b64decode(letter["key_base64"] or "") in self._entities:
            reason = str(letter["reason"])
            self.refused[reason] = self.refused.get(reason, 0) + 1


def _lost(outgoing: Outgoing, refused: Exception) -> FintrecError:
    topic, _ = outgoing
    return FintrecError(
        f"{topic}: a record was not acknowledged: {type(refused).__name__}: {refused}"
    )
