"""The event lake as its readers see it: a LOG_DIR that also says where every row came from.

    LAKE_DIR/<topic>/day=…/part-<partition>-<first>-<last>.parquet
    LAKE_DIR/_offsets/<topic>/<partition>/<sequence>.json           the newest one counts

Event tables have the columns of `fintrec/logs.py` and those of PLACE; slate requests, slates and
audit records are kept as the JSON that was on the topic, beside what one looks them up by.
`streams/lake.py` is the writer.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import FintrecError
from fintrec import logs
from fintrec.parts import visible_parts

# The same names as streams/topics.py, which this package may not import; a test compares them.
SLATE_REQUESTS: Final = "slate_requests.v1"
SLATES: Final = "slates.v1"
SLATE_AUDIT: Final = "slate_audit.v1"
SERVING_TABLES: Final = (SLATE_REQUESTS, SLATES, SLATE_AUDIT)
OFFSETS: Final = "_offsets"

# Where a record stood, and when it was produced by the clock that stamped it for Kafka.
PLACE: Final = pa.schema(
    [("partition", pa.int32()), ("offset", pa.int64()), ("timestamp_ms", pa.int64())]
)
_SERVING: Final = pa.schema(
    [
        ("slate_id", pa.string()),
        ("request_id", pa.string()),
        ("user_id", pa.string()),
        ("event_time_ms", pa.int64()),
        ("json", pa.string()),
    ]
)
SCHEMAS: Final[Mapping[str, pa.Schema]] = {
    **{name: pa.schema([*logs.SCHEMAS[name], *PLACE]) for name in logs.RECORDS},
    **dict.fromkeys(SERVING_TABLES, pa.schema([*_SERVING, *PLACE])),
}


class LakeError(FintrecError):
    """A lake's folder is not what docs/data_layout.md says."""


class Offsets(msgspec.Struct, frozen=True, kw_only=True):
    """How far a topic's partition is in the lake: the manifest of offsets.

    Every offset below `next_offset` is in a part, in `skipped` (refused at the border, counted by
    reason) or in `missing` (gone from Kafka before it was read; pairs of first and one past last).
    `pending` are (hidden name, name) of parts that belong to the lake but are not yet renamed,
    relative to the topic's folder; until they are, all below `from_offset` is there to be read.
    """

    topic: str
    partition: int
    next_offset: int = 0
    from_offset: int = 0
    num_rows: int = 0
    skipped: dict[str, int] = {}
    missing: list[tuple[int, int]] = []
    pending: list[tuple[str, str]] = []
    writer: str = ""


def offsets_of(lake_dir: Path) -> Iterator[Offsets]:
    """Manifests of all partitions, by topic and partition."""
    for folder in sorted((lake_dir / OFFSETS).glob("*/*"), key=_by_partition):
        _, found = newest_offsets(folder)
        if found is not None:
            yield found


def _by_partition(folder: Path) -> tuple[str, int]:
    return folder.parent.name, int(folder.name)


def sequences(folder: Path) -> list[int]:
    """Sequence numbers of the manifests in a partition's folder, ascending."""
    return sorted(int(path.stem) for path in folder.glob("[0-9]*.json"))


def newest_offsets(folder: Path) -> tuple[int, Offsets | None]:
    """The manifest that counts and its sequence number; (0, None) for a partition without one."""
    while True:
        found = sequences(folder)
        if not found:
            return 0, None
        path = folder / manifest_name(found[-1])
        try:
            return found[-1], msgspec.json.decode(path.read_bytes(), type=Offsets)
        except FileNotFoundError:
            continue  # a newer one has come and this one was tidied away
        except msgspec.DecodeError as broken:
            raise LakeError(f"{path}: not a manifest of offsets ({broken})") from broken


def manifest_name(sequence: int) -> str:
    """File name of a manifest."""
    return f"{sequence:012d}.json"


def watermark(lake_dir: Path) -> dict[tuple[str, int], int]:
    """For each (topic, partition) the offset below which everything can be read."""
    return {
        (o.topic, o.partition): o.from_offset if _is_unfinished(lake_dir, o) else o.next_offset
        for o in offsets_of(lake_dir)
    }


def _is_unfinished(lake_dir: Path, offsets: Offsets) -> bool:
    return any((lake_dir / offsets.topic / hidden).exists() for hidden, _ in offsets.pending)


def read_rows(
    lake_dir: Path,
    name: str,
    days: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    filters: Any = None,
) -> pa.Table:
    """A table of SCHEMAS with the columns of PLACE, by partition and offset.

    `filters` is what `pyarrow.parquet.read_table` takes. Raises LakeError for a table that is not
    in a lake.
    """
    if name not in SCHEMAS:
        raise LakeError(f"got table {name!r}, expected one of {', '.join(SCHEMAS)}")
    schema = (
        SCHEMAS[name] if columns is None else pa.schema([SCHEMAS[name].field(c) for c in columns])
    )
    folders = [lake_dir / name]
    if name != logs.ITEMS:
        wanted = logs.days_of(lake_dir, name) if days is None else days
        folders = [lake_dir / name / f"day={day}" for day in wanted]
    tables = [
        pq.read_table(path, columns=schema.names, filters=filters, partitioning=None)
        for folder in folders
        for path in visible_parts(folder)
    ]
    if not tables:
        return schema.empty_table()
    table = pa.concat_tables(tables)
    keys = [(key, "ascending") for key in ("partition", "offset") if key in schema.names]
    return table.sort_by(keys) if keys else table
