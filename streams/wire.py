"""JSON on the wire: orjson out, orjson and the border's validation in."""

import base64
from typing import Any, NamedTuple, TypeVar

import msgspec
import orjson

from features.border import NOT_JSON, to_record
from features.errors import MalformedEvent
from features.records import DeadLetter, Record

R = TypeVar("R", bound=Record)
MAX_DEAD_LETTER_BYTES = 262_144
MAX_DEAD_LETTER_KEY_BYTES = 1_024
MAX_MESSAGE_CHARACTERS = 2_000


class Received(NamedTuple):
    """A record as the consumer got it; `timestamp_ms` is Kafka's, set by the producer."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int

    @property
    def at(self) -> str:
        """Coordinates, `topic[partition]@offset`."""
        return f"{self.topic}[{self.partition}]@{self.offset}"


def loads(raw: bytes) -> Any:
    """JSON of a record; raises MalformedEvent when it is none."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as refused:
        raise MalformedEvent(NOT_JSON, f"got no JSON: {refused}") from refused


def decode(raw: bytes, kind: type[R]) -> R:
    """A record of a topic; raises MalformedEvent with the path of what is wrong."""
    return to_record(loads(raw), kind)


def encode(record: Record) -> bytes:
    """JSON of a record."""
    return orjson.dumps(msgspec.to_builtins(record))


def dead_letter(received: Received, reason: str, message: str, now_ms: int) -> DeadLetter:
    """The dead letter of a refused record: whole up to 256 KiB, and said where it was cut.

    Bounded in every part, so that the letter itself is never too large for its topic.
    """

    def text(raw: bytes | None, limit: int) -> str | None:
        return None if raw is None else base64.b64encode(raw[:limit]).decode()

    return DeadLetter(
        at=received.at,
        reason=reason,
        message=message[:MAX_MESSAGE_CHARACTERS],
        key_base64=text(received.key, MAX_DEAD_LETTER_KEY_BYTES),
        value_base64=text(received.value, MAX_DEAD_LETTER_BYTES),
        truncated=len(received.value or b"") > MAX_DEAD_LETTER_BYTES
        or len(received.key or b"") > MAX_DEAD_LETTER_KEY_BYTES,
        refused_at_ms=now_ms,
    )


def letter_key(received: Received) -> bytes:
    """Kafka key of a dead letter: the record's own, cut like the letter."""
    return (received.key or b"")[:MAX_DEAD_LETTER_KEY_BYTES]
