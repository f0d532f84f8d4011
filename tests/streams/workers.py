"""Records and workers without a broker, for the tests of ingest and scoring."""

import base64
from typing import Any

import msgspec
import orjson

from features.records import Record, entity_of
from streams.settings import Settings
from streams.wire import Received

NOW_MS = 1_795_000_000_000
SETTINGS = Settings()


def received(
    topic: str,
    record: Record | dict[str, Any] | bytes | None,
    offset: int = 0,
    *,
    key: bytes | None = None,
    partition: int = 0,
    timestamp_ms: int = NOW_MS,
) -> Received:
    """A record as the consumer gets it, under its own key unless another is given."""
    if isinstance(record, Record):
        key = entity_of(record).encode() if key is None else key
        value: bytes | None = orjson.dumps(msgspec.to_builtins(record))
    else:
        value = orjson.dumps(record) if isinstance(record, dict) else record
    return Received(topic, partition, offset, key, value, timestamp_ms)


def letter_of(letter: dict[str, Any]) -> tuple[str, str, bytes | None]:
    """(coordinates, reason, refused bytes) of a dead letter."""
    value = letter["value_base64"]
    return letter["at"], letter["reason"], None if value is None else base64.b64decode(value)
