"""Ask for slates as an application does: a request onto its topic, the slate back from another.

kafka-python, no group: the reader stands at the end of `slates.v1` before the request is sent.
"""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import orjson
from kafka import KafkaProducer

from features.errors import FintrecError
from features.records import SlateRequest
from streams.clients import kafka_python_config
from streams.settings import Settings
from streams.topic_end import reader_at_end
from streams.topics import SLATE_REQUESTS, SLATES, TOPICS
from streams.wire import encode


class NoSlate(FintrecError):
    """No slate came back in time."""


class SlateClient:
    """Sends slate requests and waits for their slates."""

    def __init__(self, settings: Settings) -> None:
        self._consumer = reader_at_end(settings, [SLATES], fetch_max_wait_ms=50)
        self._producer = KafkaProducer(**kafka_python_config(settings), linger_ms=0, acks="all")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect."""
        self._producer.close()
        self._consumer.close()

    def ask(self, request: SlateRequest, timeout_s: float = 10.0) -> dict[str, Any]:
        """The slate that answers a request.

        Raises:
            NoSlate: none came in time; a dead letter may say why.
        """
        self._producer.send(
            SLATE_REQUESTS, key=request.user_id.encode(), value=encode(request)
        ).get(timeout=timeout_s)
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            for messages in self._consumer.poll(timeout_ms=100).values():
                for message in messages:
                    slate: Mapping[str, Any] = orjson.loads(message.value)
                    if slate["request_id"] == request.request_id:
                        return dict(slate)
        raise NoSlate(
            f"request {request.request_id} had no slate within {timeout_s:g} s: is a scoring "
            f"worker running (`fintrec worker score`)? Refused requests are on "
            f"{TOPICS[SLATE_REQUESTS].dead_letter}"
        )
