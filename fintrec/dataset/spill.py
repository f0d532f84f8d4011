"""Files of a log, folded into rows and split by users, so that a shard fits in memory.

A spilled record is one user's rows of one file: `shard`, `kind`, `user_id` and the rows' bytes in
the layout of `features/history.py` (events), CONSENT or NIGHT. A shard is the users whose id has
the same remainder of a stable hash.

What must be known of the whole log before any shard can be built (its period, when a name first
occurred, what was counted) are Facts; they merge in any order.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.history import ROW, Rows
from features.packed import CONSENT
from features.records import MARKETING
from features.rows import (
    Coded,
    ConversionColumns,
    InteractionColumns,
    TransactionColumns,
    conversion_rows,
    interaction_rows,
    transaction_rows,
)
from features.spec import DAY_MS, ENROLLMENTS
from features.vocabulary import OPEN_FIELDS
from fintrec import logs
from fintrec.log_files import check_files

IntArray = npt.NDArray[np.int64]

EVENTS: Final = 0
CONSENTS: Final = 1
NIGHTS: Final = 2
KINDS: Final = {
    logs.CLICKSTREAM: EVENTS,
    logs.TRANSACTIONS: EVENTS,
    logs.CONVERSIONS: EVENTS,
    logs.CONSENTS: CONSENTS,
    logs.USER_STATIC_TABLE: NIGHTS,
}
# One nightly row: when it could be read, its cut-off, a bit for each of ENROLLMENTS, tenures in days.
NIGHT: Final = np.dtype(
    [
        ("readable_ms", "<i8"),
        ("as_of_ms", "<i8"),
        ("owned", "<u4"),
        ("tenures", "<i4", (len(ENROLLMENTS) + 1,)),
    ]
)
LAYOUTS: Final = {EVENTS: ROW, CONSENTS: CONSENT, NIGHTS: NIGHT}
SPILL: Final = pa.schema(
    [("shard", pa.int32()), ("kind", pa.int8()), ("user_id", pa.string()), ("rows", pa.binary())]
)
_REQUEST_FIELDS: Final = ("product", "page", "placement", "layout", "channel", "device")
_NEVER_MS: Final = 1 << 62


def shard_of(user_id: str, num_shards: int) -> int:
    """A user's shard; the same on every machine."""
    return zlib.crc32(user_id.encode()) % num_shards


@dataclass(slots=True)
class Facts:
    """What is known of files: events and their first and last instant, names, counts.

    `num_of_day[day]`: events of a day of UTC, counted from the epoch.
    `first_seen_ms[field][name]`: when a name of an open field (items apart) first occurred.
    """

    num_events: int = 0
    first_ms: int = _NEVER_MS
    last_ms: int = -1
    first_seen_ms: dict[str, dict[str, int]] = field(
        default_factory=lambda: {name: {} for name in OPEN_FIELDS if name != "item"}
    )
    counts: Counter[str] = field(default_factory=Counter)
    num_of_day: Counter[int] = field(default_factory=Counter)

    def events_from(self, time_ms: int) -> int:
        """Events of the days that begin at an instant or later."""
        return sum(num for day, num in self.num_of_day.items() if day * DAY_MS >= time_ms)

    def add(self, other: "Facts") -> None:
        """Fold in the facts of other files."""
        self.num_events += other.num_events
        self.first_ms = min(self.first_ms, other.first_ms)
        self.last_ms = max(self.last_ms, other.last_ms)
        self.counts.update(other.counts)
        self.num_of_day.update(other.num_of_day)
        for name, seen in other.first_seen_ms.items():
            mine = self.first_seen_ms[name]
            for value, time_ms in seen.items():
                mine[value] = min(time_ms, mine.get(value, time_ms))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "num_events": self.num_events,
            "first_ms": self.first_ms,
            "last_ms": self.last_ms,
            "first_seen_ms": self.first_seen_ms,
            "counts": dict(self.counts),
            "num_of_day": sorted(self.num_of_day.items()),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Facts":
        """Inverse of `to_dict`."""
        return cls(
            data["num_events"],
            data["first_ms"],
            data["last_ms"],
            {name: dict(seen) for name, seen in data["first_seen_ms"].items()},
            Counter(data["counts"]),
            Counter(dict(data["num_of_day"])),
        )


def tables_of(log_dir: Path) -> list[tuple[str, Path]]:
    """Every file of the log that a data set reads, with its table, by day.

    Raises LogError, also where a file looks like one of these and would not be read.
    """
    found = [(name, path) for name in KINDS for path in logs.part_paths(log_dir, name)]
    check_files(log_dir)
    return found


def spilled(name: str, path: Path, num_shards: int) -> tuple[pa.Table, Facts]:
    """One file's records in the layout of SPILL, by user, and its facts; raises LogError."""
    table = logs.read_part(path, name).unify_dictionaries()
    facts = Facts(counts=Counter({f"rows_{name}": table.num_rows}))
    if name == logs.CLICKSTREAM:
        known = np.array(logs.coded(table, "user_id").mapped(bool), bool)
        facts.counts["anonymous_events"] = int((~known).sum())
        if not known.all():
            table = table.filter(pa.array(known))
    rows = _rows(name, table)
    if KINDS[name] == EVENTS and len(rows):
        facts.num_events = len(rows)
        days, nums = np.unique(rows["time_ms"] // DAY_MS, return_counts=True)
        facts.num_of_day = Counter(dict(zip(days.tolist(), nums.tolist(), strict=True)))
        facts.first_ms, facts.last_ms = int(rows["time_ms"].min()), int(rows["time_ms"].max())
        _see(name, table, facts)
    return _by_user(KINDS[name], rows, logs.coded(table, "user_id"), num_shards), facts


def _rows(name: str, table: pa.Table) -> Rows:
    if name == logs.CLICKSTREAM:
        coded = _columns(table, ("action", *_REQUEST_FIELDS, "item_id"), ("position",))
        return interaction_rows(InteractionColumns(**coded))
    if name == logs.TRANSACTIONS:
        coded = _columns(table, ("kind", "mcc", "account", "channel"), ("amount_usd",))
        return transaction_rows(TransactionColumns(**coded))
    if name == logs.CONVERSIONS:
        return conversion_rows(ConversionColumns(**_columns(table, ("item_id",), ())))
    return _consents(table) if name == logs.CONSENTS else _nights(table)


def _columns(table: pa.Table, coded: Iterable[str], numbers: Iterable[str]) -> dict[str, Any]:
    return {
        "event_id": table["event_id"].to_pylist(),
        **{name: logs.coded(table, name) for name in coded},
        **{name: table[name].to_numpy() for name in ("event_time_ms", *numbers)},
    }


def _consents(table: pa.Table) -> Rows:
    out = np.zeros(table.num_rows, CONSENT)
    out["event_time_ms"] = logs.integers(table, "event_time_ms")
    out["effective_from_ms"] = logs.integers(table, "effective_from_ms")
    out["marketing"] = logs.coded(table, "marketing").mapped(MARKETING.index)
    return out


def _nights(table: pa.Table) -> Rows:
    out = np.zeros(table.num_rows, NIGHT)
    out["readable_ms"] = logs.milliseconds(table, "created_timestamp")
    out["as_of_ms"] = logs.milliseconds(table, "event_timestamp")
    for place, name in enumerate((*ENROLLMENTS, "bank")):
        out["tenures"][:, place] = logs.integers(table, f"tenure_{name}")
    lists = table["enrollments"].combine_chunks()
    if isinstance(lists, pa.ChunkedArray):  # an empty column stays chunked
        return out
    bits = {name: 1 << place for place, name in enumerate(ENROLLMENTS)}
    # An enrollment outside ENROLLMENTS has no bit, as in `features.encoding.encode_static`.
    owned = np.array([bits.get(name, 0) for name in lists.flatten().to_pylist()], np.uint32)
    parents = pc.list_parent_indices(lists).to_numpy()
    np.bitwise_or.at(out["owned"], parents, owned)
    return out


def _see(name: str, table: pa.Table, facts: Facts) -> None:
    """When each name of an open field (items apart) first occurred in a file."""
    if name == logs.CLICKSTREAM:
        sources = [(field, field) for field in OPEN_FIELDS if field != "item"]
    else:
        sources = [("account", "product")] if name == logs.TRANSACTIONS else []
    for column, field_name in sources:
        names = logs.coded(table, column)
        first = np.full(len(names.names), _NEVER_MS)
        np.minimum.at(first, names.codes, logs.integers(table, "event_time_ms"))
        for value, time_ms in zip(names.names, first.tolist(), strict=True):
            if value and time_ms < _NEVER_MS:
                facts.first_seen_ms[field_name][value] = time_ms


def _by_user(kind: int, rows: Rows, users: Coded, num_shards: int) -> pa.Table:
    """Rows as one record a user, in the order of the shards."""
    if not len(rows):
        return SPILL.empty_table()
    shards = np.array([shard_of(name, num_shards) for name in users.names], np.int32)
    order = np.lexsort((users.codes, shards[users.codes]))
    code = users.codes[order]
    first = np.flatnonzero(np.concatenate(([True], code[1:] != code[:-1])))
    data = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.itemsize))).take(order)
    offsets = np.append(first, len(rows)) * rows.itemsize
    blobs = pa.Array.from_buffers(
        pa.large_binary(),
        len(first),
        [None, pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(data)],
    )
    mine = code[first]
    return pa.Table.from_arrays(
        [
            pa.array(shards[mine]),
            pa.array(np.full(len(first), kind, np.int8)),
            pa.array(users.names, pa.string()).take(pa.array(mine)),
            blobs.cast(pa.binary()),
        ],
        schema=SPILL,
    )


@dataclass(frozen=True, slots=True)
class ShardRows:
    """Everything that a shard's users left in the log, in no promised order within a user.

    `users` are sorted; `owner[kind]` is the place in them of each of `rows[kind]`.
    """

    users: tuple[str, ...]
    rows: dict[int, Rows]
    owner: dict[int, IntArray]


def gathered(records: pa.Table) -> ShardRows:
    """Spilled records of a shard as arrays."""
    ids = records["user_id"].to_pylist()
    users = tuple(sorted(set(ids)))
    places = {name: place for place, name in enumerate(users)}
    place = np.array([places[name] for name in ids], np.int64)
    kinds = records["kind"].to_numpy()
    blobs = records["rows"]
    rows, owner = {}, {}
    for kind, layout in LAYOUTS.items():
        mine = np.flatnonzero(kinds == kind)
        taken = blobs.filter(pa.array(kinds == kind))
        data = b"".join(_bytes_of(chunk) for chunk in taken.chunks)
        rows[kind] = np.frombuffer(data, layout)
        lengths = pc.binary_length(taken).to_numpy() // layout.itemsize
        owner[kind] = np.repeat(place[mine], lengths)
    return ShardRows(users, rows, owner)


def read_log(log_dir: Path) -> tuple[ShardRows, Facts]:
    """A whole log in memory, as one shard; raises LogError."""
    facts, records = Facts(), [SPILL.empty_table()]
    for name, path in tables_of(log_dir):
        table, found = spilled(name, path, 1)
        facts.add(found)
        records.append(table)
    return gathered(pa.concat_tables(records)), facts


def _bytes_of(chunk: pa.Array) -> bytes:
    """The values of a binary array, one behind the other."""
    if not len(chunk):
        return b""
    _, offsets, data = chunk.buffers()
    places = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
    return data[int(places[0]) : int(places[-1])].to_pybytes()
