"""Records to history rows (FinTRec section 3.1: one timeline of everything a user did).

`row_of` serves the ingest worker, one record at a time; `interaction_rows`, `transaction_rows`
and `conversion_rows` are its vectorised twins for columns of a log. A test holds them equal.

| row field | interaction | transaction | conversion |
|---|---|---|---|
| item | item_id | merchant category | item_id |
| product, page, placement, layout | as recorded | account, -, -, - | - |
| action | action | kind | conversion |
| cents, category | 0 | amount, merchant category | 0 |
| source | INTERACTION | TRANSACTION | INTERACTION |
"""

from collections.abc import Callable, Iterable, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from features.categories import CATEGORY_CODES, category_of
from features.history import INTERACTION, ROW, TRANSACTION, Rows
from features.records import Conversion, Interaction, Transaction
from features.vocabulary import category_token, code, fingerprint

RowTuple: TypeAlias = tuple[int, ...]  # one ROW, in field order

_INT32_MAX: Final = 2**31 - 1
_NEAR_HALF: Final = 1e-4  # above the error of amount * 100 for any amount the border lets in
_CONVERSION: Final = code("action", "conversion")

# Ids come from the wire, so the caches are bounded.
_fingerprint = lru_cache(maxsize=1 << 16)(fingerprint)
_code = lru_cache(maxsize=1 << 10)(code)


@lru_cache(maxsize=1 << 14)
def _merchant(mcc: str) -> tuple[int, int]:
    """(item token, category code) of a merchant category code."""
    category = category_of(mcc)
    return category_token(category), CATEGORY_CODES[category]


def event_fingerprint(event_id: str) -> int:
    """Stable 64-bit fingerprint of an event id."""
    return int.from_bytes(blake2b(event_id.encode(), digest_size=8).digest(), "little")


def cents_of(amount_usd: float) -> int:
    """An amount in cents: its decimal form rounded half even, saturated to 32 bits."""
    scaled = amount_usd * 100
    if abs(abs(scaled) % 1 - 0.5) < _NEAR_HALF:
        scaled = float((Decimal(repr(amount_usd)) * 100).quantize(Decimal(1), ROUND_HALF_EVEN))
    return round(max(-_INT32_MAX, min(_INT32_MAX, scaled)))


def row_of(record: Interaction | Transaction | Conversion) -> RowTuple:
    """The history row of a record; `np.array([...], ROW)` makes rows of many."""
    if isinstance(record, Interaction):
        return _interaction_row(record)
    if isinstance(record, Transaction):
        return _transaction_row(record)
    return (
        record.event_time_ms,
        event_fingerprint(record.event_id),
        _fingerprint("item", record.item_id),
        *(0,) * 5,
        _CONVERSION,
        *(0,) * 4,
        INTERACTION,
        0,
    )


def _interaction_row(record: Interaction) -> RowTuple:
    return (
        record.event_time_ms,
        event_fingerprint(record.event_id),
        _fingerprint("item", record.item_id),
        _fingerprint("product", record.product),
        _fingerprint("page", record.page),
        _fingerprint("placement", record.placement),
        _fingerprint("layout", record.layout),
        0,
        _code("action", record.action),
        _code("channel", record.channel),
        _code("device", record.device),
        min(record.position, 255),
        0,
        INTERACTION,
        0,
    )


def _transaction_row(record: Transaction) -> RowTuple:
    token, category = _merchant(record.mcc)
    return (
        record.event_time_ms,
        event_fingerprint(record.event_id),
        token,
        _fingerprint("product", record.account),
        0,
        0,
        0,
        cents_of(record.amount_usd),
        _code("action", record.kind),
        _code("channel", record.channel),
        0,
        0,
        category,
        TRANSACTION,
        0,
    )


class Coded(NamedTuple):
    """A column of names, dictionary encoded: row i holds `names[codes[i]]`."""

    names: Sequence[str]
    codes: npt.NDArray[np.integer[Any]]

    @classmethod
    def of(cls, values: Iterable[str]) -> "Coded":
        """Encode plain values."""
        places: dict[str, int] = {}
        codes = [places.setdefault(value, len(places)) for value in values]
        return cls(tuple(places), np.array(codes, np.int64))

    def mapped(self, function: Callable[[str], int]) -> npt.NDArray[np.int64]:
        """`function` of every row's name, computed once a distinct name."""
        table = np.array([function(name) for name in self.names], np.int64)
        return table[self.codes] if len(table) else np.empty(0, np.int64)


class InteractionColumns(NamedTuple):
    """Columns of clickstream.v1 that reach a row, n rows each."""

    event_id: Sequence[str]
    event_time_ms: npt.NDArray[np.int64]
    action: Coded
    channel: Coded
    product: Coded
    page: Coded
    placement: Coded
    layout: Coded
    position: npt.NDArray[np.int64]
    item_id: Coded
    device: Coded


class TransactionColumns(NamedTuple):
    """Columns of transactions.v1 that reach a row, n rows each."""

    event_id: Sequence[str]
    event_time_ms: npt.NDArray[np.int64]
    kind: Coded
    amount_usd: npt.NDArray[np.float64]
    mcc: Coded
    account: Coded
    channel: Coded


class ConversionColumns(NamedTuple):
    """Columns of conversions.v1 that reach a row, n rows each."""

    event_id: Sequence[str]
    event_time_ms: npt.NDArray[np.int64]
    item_id: Coded


def interaction_rows(columns: InteractionColumns) -> Rows:
    """Rows of interactions, in the order given."""
    rows = _blank(columns.event_id, columns.event_time_ms, INTERACTION)
    rows["item"] = columns.item_id.mapped(lambda name: fingerprint("item", name))
    for field in ("product", "page", "placement", "layout"):
        rows[field] = getattr(columns, field).mapped(lambda name, f=field: fingerprint(f, name))
    for field in ("action", "channel", "device"):
        rows[field] = getattr(columns, field).mapped(lambda name, f=field: code(f, name))
    rows["position"] = np.minimum(columns.position, 255)
    return rows


def transaction_rows(columns: TransactionColumns) -> Rows:
    """Rows of transactions, in the order given."""
    rows = _blank(columns.event_id, columns.event_time_ms, TRANSACTION)
    rows["item"] = columns.mcc.mapped(lambda mcc: _merchant(mcc)[0])
    rows["category"] = columns.mcc.mapped(lambda mcc: _merchant(mcc)[1])
    rows["product"] = columns.account.mapped(lambda name: fingerprint("product", name))
    rows["action"] = columns.kind.mapped(lambda name: code("action", name))
    rows["channel"] = columns.channel.mapped(lambda name: code("channel", name))
    rows["cents"] = _cents(columns.amount_usd)
    return rows


def conversion_rows(columns: ConversionColumns) -> Rows:
    """Rows of conversions, in the order given."""
    rows = _blank(columns.event_id, columns.event_time_ms, INTERACTION)
    rows["item"] = columns.item_id.mapped(lambda name: fingerprint("item", name))
    rows["action"] = _CONVERSION
    return rows


def _blank(event_id: Sequence[str], time_ms: npt.NDArray[np.int64], source: int) -> Rows:
    rows = np.zeros(len(time_ms), ROW)
    rows["time_ms"] = time_ms
    digests = b"".join(blake2b(e.encode(), digest_size=8).digest() for e in event_id)
    rows["event"] = np.frombuffer(digests, "<u8")
    rows["source"] = source
    return rows


def _cents(amount_usd: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    scaled = amount_usd * 100
    for place in np.flatnonzero(np.abs(np.abs(scaled) % 1 - 0.5) < _NEAR_HALF):
        scaled[place] = cents_of(float(amount_usd[place]))
    return np.rint(np.clip(scaled, -_INT32_MAX, _INT32_MAX))
