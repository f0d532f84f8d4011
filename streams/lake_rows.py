"""Records of a topic as rows of the lake: decoded by the workers' own border, places kept.

What the ingest and scoring workers refuse is no row either and is counted; it stands whole in the
dead letters. Only the clock does not judge here: a row says when it was produced, so that a reader
can, and a topic that is read again gives the same rows.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from features.border import INVALID, NOT_JSON, Border, check_key
from features.errors import MalformedEvent
from features.records import SlateRequest
from features.spec import DAY_MS
from fintrec import lake, logs
from fintrec.slates import slate_id
from streams.topics import ITEMS, SLATE_AUDIT, SLATE_REQUESTS, SLATES
from streams.wire import Received, decode, loads

TOMBSTONE: Final = "tombstone"  # an item that was withdrawn: a lake only grows


def decode_rows(
    records: Sequence[Received], border: Border
) -> tuple[pa.Table, Counter[str], list[tuple[Received, MalformedEvent]]]:
    """Rows of one partition's records, how many were left out by reason, and which."""
    rows: list[Sequence[Any]] = []
    skipped: Counter[str] = Counter()
    refused: list[tuple[Received, MalformedEvent]] = []
    topic = records[0].topic
    for record in records:
        if topic == ITEMS and record.value is None:
            skipped[TOMBSTONE] += 1
            continue
        try:
            values = _values(record, border)
        except MalformedEvent as error:
            skipped[error.reason] += 1
            refused.append((record, error))
            continue
        rows.append((*values, record.partition, record.offset, record.timestamp_ms))
    schema = lake.SCHEMAS[topic]
    columns = zip(*rows, strict=True) if rows else ((),) * len(schema)
    arrays = [pa.array(c, field.type) for c, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema), skipped, refused


def by_day(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """(day, its rows) of a table with event times; order is kept."""
    days = table["event_time_ms"].to_numpy() // DAY_MS
    for day in np.unique(days).tolist():
        yield logs.day_of(day * DAY_MS), table.filter(pa.array(days == day))


def _values(record: Received, border: Border) -> Sequence[Any]:
    topic = record.topic
    if topic in (SLATES, SLATE_AUDIT):
        return _answer(record)
    raw = border.check_size(record.value, record.key)
    if topic == SLATE_REQUESTS:
        request = decode(raw, SlateRequest)
        check_key(record.key, request)
        return _serving(slate_id(request), request.request_id, request, raw)
    event = decode(raw, logs.RECORDS[topic])
    if topic != ITEMS:
        check_key(record.key, event)
        return msgspec.structs.astuple(event)
    return [msgspec.to_builtins(value) for value in msgspec.structs.astuple(event)]


def _answer(record: Received) -> Sequence[Any]:
    """A slate, or an audit record, which holds its request as text."""
    if record.value is None:
        raise MalformedEvent(NOT_JSON, "got a record without a value, expected a JSON object")
    answer = loads(record.value)
    try:
        asked = answer
        if record.topic == SLATE_AUDIT:
            asked = loads(answer["request"].encode())
        request = msgspec.convert(asked, SlateRequest)
        return _serving(str(answer["slate_id"]), request.request_id, request, record.value)
    except (KeyError, TypeError, AttributeError, msgspec.ValidationError) as other:
        raise MalformedEvent(INVALID, f"{type(other).__name__}: {other}") from other


def _serving(slate: str, request_id: str, request: SlateRequest, raw: bytes) -> Sequence[Any]:
    return slate, request_id, request.user_id, request.event_time_ms, raw.decode()
