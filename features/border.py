"""The border: which decoded JSON becomes a record, and why the rest does not.

Pure: takes the object that the JSON decoder made and the present instant. A refused record names
the reason (a stable word for counting), the JSON path and what was expected.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from features.errors import MalformedEvent
from features.records import Record, entity_of
from features.spec import DAY_MS, MINUTE_MS

R = TypeVar("R", bound=Record)

NOT_JSON: Final = "not_json"
INVALID: Final = "invalid"
OVERSIZE: Final = "oversize"
FUTURE: Final = "future"
ANCIENT: Final = "ancient"
KEY_MISMATCH: Final = "key_mismatch"
UNKNOWN_VERSION: Final = "unknown_version"
INTERNAL_ERROR: Final = "internal_error"  # the code broke on it; the log has the trace
REASONS: Final = (
    NOT_JSON,
    INVALID,
    OVERSIZE,
    FUTURE,
    ANCIENT,
    KEY_MISMATCH,
    UNKNOWN_VERSION,
    INTERNAL_ERROR,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Border:
    """Limits of what is let in."""

    max_bytes: int = 65_536
    max_key_bytes: int = 512
    max_skew_ms: int = 5 * MINUTE_MS
    max_age_ms: int = 1_100 * DAY_MS

    def check_size(self, raw: bytes | None, key: bytes | None) -> bytes:
        """The bytes of a record; refuses an empty (tombstone) or oversize one, key included."""
        if key is not None and len(key) > self.max_key_bytes:
            raise MalformedEvent(
                OVERSIZE, f"got a key of {len(key)} bytes, expected at most {self.max_key_bytes}"
            )
        if raw is None:
            raise MalformedEvent(NOT_JSON, "got a record without a value, expected a JSON object")
        if len(raw) > self.max_bytes:
            raise MalformedEvent(
                OVERSIZE, f"got {len(raw)} bytes, expected at most {self.max_bytes}"
            )
        return raw

    def check_time(self, event_time_ms: int, now_ms: int) -> None:
        """Refuse an instant beyond the allowed skew, or older than any history may reach."""
        if event_time_ms > now_ms + self.max_skew_ms:
            raise MalformedEvent(
                FUTURE,
                f"event_time_ms={event_time_ms} is {event_time_ms - now_ms} ms ahead of the clock, "
                f"expected at most {self.max_skew_ms}",
            )
        if event_time_ms < now_ms - self.max_age_ms:
            raise MalformedEvent(
                ANCIENT,
                f"event_time_ms={event_time_ms} is {now_ms - event_time_ms} ms old, "
                f"expected at most {self.max_age_ms}",
            )


def to_record(decoded: Any, kind: type[R]) -> R:
    """Validate decoded JSON as a record; raises MalformedEvent with the path of what is wrong."""
    if isinstance(decoded, dict) and decoded.get("schema_version", 1) != 1:
        version = decoded["schema_version"]
        # Only a number is shown: the message goes into logs, and anything may stand there.
        shown = version if isinstance(version, int) else f"a {type(version).__name__}"
        raise MalformedEvent(
            UNKNOWN_VERSION,
            f"schema_version={shown}, expected 1 for {kind.__name__} - at `$.schema_version`",
        )
    try:
        record = msgspec.convert(decoded, kind)
    except msgspec.ValidationError as refused:
        raise MalformedEvent(INVALID, f"{kind.__name__}: {refused}") from refused
    _refuse_non_finite(record)
    return record


def _refuse_non_finite(record: Record) -> None:
    for name in record.__struct_fields__:
        value = getattr(record, name)
        numbers = value.values() if isinstance(value, dict) else (value,)
        for number in numbers:
            if isinstance(number, float) and not math.isfinite(number):
                raise MalformedEvent(
                    INVALID, f"{type(record).__name__}: {number} is not finite - at `$.{name}`"
                )


def check_key(key: bytes | None, record: Record) -> None:
    """Refuse a record whose Kafka key is not its user: it would reach a foreign partition."""
    if key != entity_of(record).encode():
        shown = "no key" if key is None else f"a key of {len(key)} bytes that differs"
        raise MalformedEvent(KEY_MISMATCH, f"got {shown}, expected the record's user_id")
