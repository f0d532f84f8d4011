"""The hidden truth of a simulated log, in a folder beside it: `<LOG_DIR>.truth`.

    impressions/day=…/part-N.parquet   how likely each click and conversion was
    pages/day=…/part-N.parquet         the needs behind each page
    conversions/day=…/part-N.parquet   what caused each conversion
    users/part-N.parquet               who the users are; one row a user
    items.parquet                      the mechanism's columns of the catalogue

It judges calibration, policies and explanations, and lets a live player go on. Nothing that
trains or serves may read it: an import contract and a test see to that.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from features.records import Item
from features.spec import DAY_MS, ENROLLMENTS
from fintrec import logs
from fintrec.bank import needs
from fintrec.bank.catalogue import Catalogue
from fintrec.bank.chunk import Chunk
from fintrec.bank.goals import CAUSES
from fintrec.bank.mechanism import Mechanism
from fintrec.bank.population import Population, user_ids
from fintrec.bank.tables import ACTIONS, Clickstream, named, numbered

IMPRESSIONS, PAGES, CONVERSIONS, USERS, ITEMS = (
    "impressions",
    "pages",
    "conversions",
    "users",
    "items.parquet",
)
_MATRICES: Final = {
    "levels_UN": ("level", needs.NEEDS),
    "policy_UN": ("policy", needs.NEEDS),
    "owned_since_UE": ("owned_since_ms", ENROLLMENTS),
}
_ITEM_COLUMNS: Final = (
    "offers",
    "need",
    "requires",
    "enrolls",
    "lag_days",
    "goal_rate",
    "quality",
    "prior",
)


def truth_dir(log_dir: Path) -> Path:
    """Where the hidden truth of a LOG_DIR lies."""
    return log_dir.with_name(log_dir.name + ".truth")


def write_events(folder: Path, chunk: Chunk, rows: Clickstream, first_number: int) -> None:
    """The truth of a block of whole days of a chunk's clickstream, numbered as in the log."""
    users = user_ids(chunk.first_user, chunk.people.num_users)
    for name, action, make in (
        (IMPRESSIONS, "impression", _impressions),
        (PAGES, "page_view", _pages),
    ):
        at = np.flatnonzero((rows.action == ACTIONS.index(action)) & (rows.page >= 0))
        some = rows.of(at)
        table = make(chunk, some, users, first_number + at)
        write_days(folder / name, table, some.time_ms, chunk.number)


def _impressions(
    chunk: Chunk, rows: Clickstream, users: list[str], numbers: npt.NDArray[np.int64]
) -> pa.Table:
    exposure, spot = chunk.exposure, (rows.page, rows.slot)
    item = exposure.shown_PK[spot]
    within = Mechanism(chunk.catalogue).within_window().astype(np.float32)[item]
    return pa.table(
        {
            "event_id": numbered(chunk.name("clk"), numbers),
            "slate_id": numbered(chunk.name("sla"), rows.page),
            "user_id": named(users, rows.user),
            "item_id": named([i.item_id for i in chunk.catalogue.items], item),
            "event_time_ms": pa.array(rows.time_ms),
            "place": pa.array(chunk.pages.place[rows.page].astype(np.int8)),
            "position": pa.array(rows.slot.astype(np.int64) + 1),
            "click_probability": pa.array(exposure.click_probability_PK[spot]),
            "conversion_probability_if_clicked": pa.array(
                exposure.goal_if_clicked_PK[spot] * within
            ),
            "conversion_probability_if_not": pa.array(exposure.goal_if_not_PK[spot] * within),
            "propensity": pa.array(exposure.propensity_PK[spot]),
            "clicked": pa.array(exposure.clicked_PK[spot]),
        }
    )


def _pages(
    chunk: Chunk, rows: Clickstream, users: list[str], numbers: npt.NDArray[np.int64]
) -> pa.Table:
    pages = chunk.pages
    return pa.table(
        {
            "slate_id": numbered(chunk.name("sla"), rows.page),
            "user_id": named(users, rows.user),
            "event_time_ms": pa.array(rows.time_ms),
            **{f"slow_{n}": pages.slow_PN[rows.page, i] for i, n in enumerate(needs.NEEDS)},
            **{f"fast_{n}": pages.fast_PN[rows.page, i] for i, n in enumerate(needs.NEEDS)},
        }
    )


def write_chunk(folder: Path, chunk: Chunk) -> None:
    """The truth of a chunk's conversions and users."""
    goals = chunk.goals
    table = pa.table(
        {
            "event_id": numbered(chunk.name("cnv"), np.arange(len(goals.user))),
            "item_id": named([i.item_id for i in chunk.catalogue.items], goals.item),
            "event_time_ms": pa.array(goals.time_ms),
            "cause": named(CAUSES, goals.cause),
            "slate_id": numbered(chunk.name("sla"), goals.page),
        }
    )
    write_days(folder / CONVERSIONS, table, goals.time_ms, chunk.number)
    _write(folder / USERS / f"part-{chunk.number}.parquet", _users(chunk))


def _users(chunk: Chunk) -> pa.Table:
    people = chunk.people
    columns: dict[str, Any] = {
        "user_id": pa.array(user_ids(chunk.first_user, people.num_users)),
    }
    for field in Population.__dataclass_fields__:
        value = getattr(people, field)
        if field in _MATRICES:
            prefix, names = _MATRICES[field]
            columns |= {f"{prefix}_{name}": value[:, i] for i, name in enumerate(names)}
        elif field == "life_ULR":
            columns |= {name: value[:, k, r] for name, k, r in _life_columns()}
        else:
            columns[field] = value
    opened = {
        f"owned_since_end_ms_{name}": chunk.owned_since_UE[:, i]
        for i, name in enumerate(ENROLLMENTS)
    }
    return pa.table(columns | opened | {"device": people.device + chunk.first_user})


def _life_columns() -> list[tuple[str, int, int]]:
    return [
        (f"life_{event.name}_{repeat}_ms", kind, repeat)
        for kind, event in enumerate(needs.LIFE_EVENTS)
        for repeat in range(needs.LIFE_REPEATS)
    ]


def write_items(folder: Path, catalogue: Catalogue) -> None:
    """The mechanism's columns of the catalogue, one row an item."""
    columns = {name: getattr(catalogue, name) for name in _ITEM_COLUMNS}
    columns["offers"] = pa.array(catalogue.offers)
    ids = pa.array([item.item_id for item in catalogue.items])
    _write(folder / ITEMS, pa.table({"item_id": ids, **columns}))


def write_days(folder: Path, table: pa.Table, time_ms: npt.NDArray[np.int64], part: int) -> None:
    """Write rows in order of time, a file a day."""
    days = time_ms // DAY_MS
    bounds = np.flatnonzero(np.diff(days)) + 1
    for start, end in zip([0, *bounds], [*bounds, len(days)], strict=True):
        if end > start:
            day = logs.day_of(int(days[start]) * DAY_MS)
            rows = table.slice(start, end - start)
            _write(folder / f"day={day}" / f"part-{part}.parquet", rows)


def _write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, unfinished, compression="zstd")
    unfinished.rename(path)


def read_days(log_dir: Path, name: str, days: Sequence[str] | None = None) -> pa.Table:
    """IMPRESSIONS, PAGES or CONVERSIONS of some days (YYYY-MM-DD), by default of all."""
    folder = truth_dir(log_dir) / name
    chosen = None if days is None else set(days)
    paths = [
        path
        for path in sorted(folder.glob("day=*/part-*.parquet"))
        if chosen is None or path.parent.name.removeprefix("day=") in chosen
    ]
    if not paths:
        raise _no_truth(log_dir, folder, "parts of the hidden truth")
    return _joined([_read(path) for path in paths], folder)


def _no_truth(log_dir: Path, missing: Path, what: str) -> logs.LogError:
    folder = truth_dir(log_dir)
    if not folder.is_dir():
        missing, what = folder, "hidden truth"
    return logs.LogError(
        f"{missing}: no {what}, expected a log of `fintrec simulate` with its truth beside it"
    )


def _read(path: Path, columns: Sequence[str] = ()) -> pa.Table:
    """A file of the truth; raises LogError where it is broken or lacks a column."""
    try:
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError) as broken:
        raise logs.LogError(f"{path}: not a readable Parquet file ({broken})") from broken
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise logs.LogError(
            f"{path}: column {missing[0]!r} is missing, expected it in the truth of "
            "`fintrec simulate`: simulate the bank again"
        )
    return table


def _joined(parts: list[pa.Table], folder: Path) -> pa.Table:
    try:
        return pa.concat_tables(parts)
    except pa.ArrowException as refused:
        raise logs.LogError(f"{folder}: parts of different columns ({refused})") from refused


def _user_columns() -> list[str]:
    columns = ["user_id"]
    for field in Population.__dataclass_fields__:
        if field in _MATRICES:
            prefix, names = _MATRICES[field]
            columns += [f"{prefix}_{name}" for name in names]
        elif field == "life_ULR":
            columns += [name for name, _, _ in _life_columns()]
        else:
            columns.append(field)
    return columns + [f"owned_since_end_ms_{name}" for name in ENROLLMENTS]


def read_users(log_dir: Path, as_of_end: bool = False) -> tuple[tuple[str, ...], Population]:
    """Ids and truth of all users; with `as_of_end`, owning what they own at the log's end.

    Raises LogError where the truth is not there, or not whole.
    """
    folder = truth_dir(log_dir) / USERS
    paths = sorted(folder.glob("part-*.parquet"))
    if not paths:
        raise _no_truth(log_dir, folder, "users")
    table = _joined([_read(path, _user_columns()) for path in paths], folder)
    num_users = logs.read_manifest(log_dir).get("num_users", table.num_rows)
    if table.num_rows != num_users:
        raise logs.LogError(
            f"{folder}: {table.num_rows:,} users, expected {num_users} as in "
            f"{log_dir / logs.MANIFEST}"
        )
    table = table.sort_by("user_id")
    found: dict[str, Any] = {}
    for field in Population.__dataclass_fields__:
        if field in _MATRICES:
            prefix, names = _MATRICES[field]
            if field == "owned_since_UE" and as_of_end:
                prefix = "owned_since_end_ms"
            columns = [table[f"{prefix}_{name}"].to_numpy() for name in names]
            found[field] = np.column_stack(columns)
        elif field == "life_ULR":
            columns = [table[name].to_numpy() for name, _, _ in _life_columns()]
            shape = (table.num_rows, len(needs.LIFE_EVENTS), needs.LIFE_REPEATS)
            found[field] = np.column_stack(columns).reshape(shape)
        else:
            found[field] = table[field].to_numpy()
    return tuple(table["user_id"].to_pylist()), Population(**found)


def read_catalogue(log_dir: Path) -> Catalogue:
    """The catalogue of a LOG_DIR with the mechanism's columns; raises LogError as `read_users`."""
    path = truth_dir(log_dir) / ITEMS
    if not path.exists():
        raise _no_truth(log_dir, path, "items")
    table = _read(path, ("item_id", *_ITEM_COLUMNS))
    items: dict[str, Item] = {item.item_id: item for item in logs.read_items(log_dir)}
    names = table["item_id"].to_pylist()
    unknown = [name for name in names if name not in items]
    if unknown:
        raise logs.LogError(
            f"{path}: item {unknown[0]!r} is not in {log_dir / logs.ITEMS}, expected the truth of "
            "this log's items"
        )
    columns = {name: table[name].to_numpy() for name in _ITEM_COLUMNS}
    columns["offers"] = tuple(table["offers"].to_pylist())
    return Catalogue(items=tuple(items[name] for name in names), **columns)
