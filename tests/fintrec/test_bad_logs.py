"""Logs that are not as documented: one line that names file, row and expectation, or a count."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.spec import DAY_MS
from fintrec import logs
from fintrec.datasets import DatasetConfig, build_dataset, build_training_set
from fintrec.parts import Span
from streams.__main__ import main

DAY = 20_000 * DAY_MS
END_MS = DAY + 20 * DAY_MS


def seen(event_id, time_ms=DAY + 5, **fields):
    blank = dict.fromkeys(logs.SCHEMAS[logs.CLICKSTREAM].names, "")
    given = {"event_id": event_id, "event_time_ms": time_ms, "action": "impression"}
    return {**blank, "position": 1, "propensity": 0.5, "item_id": "a", "user_id": "u", **given} | (
        fields
    )


def paid(event_id, time_ms=DAY + 7, **fields):
    row = {"event_id": event_id, "user_id": "u", "event_time_ms": time_ms}
    return {**row, "kind": "purchase", "amount_usd": 3.0, **fields}


def reached(event_id, time_ms=DAY + 9, **fields):
    return {"event_id": event_id, "user_id": "u", "event_time_ms": time_ms, "item_id": "a"} | fields


def told(**fields):
    row = {"user_id": "u", "event_time_ms": DAY, "marketing": "granted"}
    return {**row, "effective_from_ms": DAY, **fields}


def item(item_id="a", **fields):
    return {"item_id": item_id, "version": 1, "content_type": "servicing", **fields}


GOOD = {
    logs.CLICKSTREAM: [seen("1"), seen("2", item_id="b")],
    logs.TRANSACTIONS: [paid("3"), paid("4")],
    logs.CONVERSIONS: [reached("5")],
    logs.CONSENTS: [told()],
    logs.ITEMS: [item("a"), item("b")],
}


def write(log_dir, tables, day="2024-10-04"):
    """A log as any tool would write it: plain Parquet, one file a table, nothing checked."""
    for name, rows in tables.items():
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
        folder = log_dir / name if name == logs.ITEMS else log_dir / name / f"day={day}"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / "part-0.parquet")
    logs.write_manifest(log_dir, {"start_ms": DAY, "end_ms": END_MS})
    return log_dir


CONFIG = DatasetConfig(validation_days=1, test_days=1)


def test_the_log_that_the_others_are_made_of_is_good(tmp_path):
    ts = build_training_set(write(tmp_path, GOOD), CONFIG)
    assert len(ts.train) == 1
    assert not [name for name in ("duplicate_events", "unknown_items") if ts.exclusions[name]]


def night(user_id="u", **fields):
    row = {name: 0 for name in logs.SCHEMAS[logs.USER_STATIC_TABLE].names}
    instant = datetime.fromtimestamp(DAY / 1000, UTC)
    row |= {"event_timestamp": instant, "created_timestamp": instant, "enrollments": ["savings"]}
    return {**row, "user_id": user_id, **fields}


BAD = {
    "a night of nobody": (
        {logs.USER_STATIC_TABLE: [night(), night("")]},
        "row 1, column 'user_id' is '', expected an identifier",
    ),
    "a tenure before the first day": (
        {logs.USER_STATIC_TABLE: [night(tenure_bank=-1)]},
        "row 0, column 'tenure_bank' is -1, expected 0 to 100000 days",
    ),
    "a night of another day": (
        {logs.USER_STATIC_TABLE: [night(event_timestamp=datetime(2024, 10, 5, tzinfo=UTC))]},
        "row 0, column 'event_timestamp' is 1728086400000 (2024-10-05 00:00), expected an instant",
    ),
    "a column is missing": (
        {logs.TRANSACTIONS: [{k: v for k, v in paid("3").items() if k != "kind"}]},
        "column 'kind' is missing, expected dictionary",
    ),
    "a wrong type": (
        {logs.TRANSACTIONS: [paid("3", amount_usd="much")]},
        "column 'amount_usd' is string, expected double",
    ),
    "an instant as text": (
        {logs.CLICKSTREAM: [seen("1", "noon")]},
        "column 'event_time_ms' is string, expected int64",
    ),
    "a null id": (
        {logs.CONVERSIONS: [reached("5"), reached(None)]},
        "row 1, column 'event_id' is null, expected a value",
    ),
    "an empty id": (
        {logs.CONVERSIONS: [reached("5"), reached("")]},
        "row 1, column 'event_id' is '', expected 1 to 128 characters",
    ),
    "an empty user": (
        {logs.TRANSACTIONS: [paid("3", user_id="")]},
        "row 0, column 'user_id' is '', expected 1 to 128 characters",
    ),
    "nobody": (
        {logs.CLICKSTREAM: [seen("1"), seen("2", user_id="")]},
        "row 1, columns 'user_id' and 'anonymous_id' are both empty, expected one of them",
    ),
    "not finite": (
        {logs.TRANSACTIONS: [paid("3"), paid("4", amount_usd=float("inf"))]},
        "row 1, column 'amount_usd' is inf, expected a finite number",
    ),
    "more money than there is": (
        {logs.TRANSACTIONS: [paid("3", amount_usd=-3e7)]},
        "row 0, column 'amount_usd' is -30000000.0, expected -20000000 to 20000000",
    ),
    "no probability": (
        {logs.CLICKSTREAM: [seen("1", propensity=1.5)]},
        "row 0, column 'propensity' is 1.5, expected 0 to 1",
    ),
    "a negative position": (
        {logs.CLICKSTREAM: [seen("1"), seen("2", position=-1)]},
        "row 1, column 'position' is -1, expected 0 to 200",
    ),
    "a name without end": (
        {logs.CLICKSTREAM: [seen("1", page="p" * 65)]},
        "row 0, column 'page' is 'ppp",
    ),
    "another day": (
        {logs.TRANSACTIONS: [paid("3"), paid("4", DAY + DAY_MS)]},
        "row 1, column 'event_time_ms' is 1728086400000 (2024-10-05 00:00), expected an instant "
        "of the folder's day 2024-10-04 (UTC)",
    ),
    "seconds for milliseconds": (
        {logs.TRANSACTIONS: [paid("3", DAY // 1000)]},
        "expected an instant of the folder's day 2024-10-04 (UTC)",
    ),
    "an unknown decision": (
        {logs.CONSENTS: [told(), told(marketing="maybe")]},
        "row 1, column 'marketing' is 'maybe', expected granted, opted_out, unknown",
    ),
    "an unknown content type": (
        {logs.ITEMS: [item("a"), item("b", content_type="billboard")]},
        "row 1, column 'content_type' is 'billboard', expected marketing, servicing, third_party",
    ),
    "a window of no days": (
        {logs.ITEMS: [item("a", attribution_window_days=0)]},
        "row 0, column 'attribution_window_days' is 0, expected 1 to 365",
    ),
    "no events": (
        {logs.CLICKSTREAM: [], logs.TRANSACTIONS: [], logs.CONVERSIONS: []},
        "no events of users in clickstream.v1, transactions.v1, conversions.v1",
    ),
    "no clickstream": (
        {logs.CLICKSTREAM: []},
        "clickstream.v1: no events of users, expected impressions: decisions are made of them",
    ),
    "a clickstream of visitors": (
        {logs.CLICKSTREAM: [seen("1", user_id="", anonymous_id="cookie")]},
        "clickstream.v1: no events of users, expected impressions: decisions are made of them",
    ),
    "no catalogue": ({logs.ITEMS: []}, "no items in items.v1, expected a catalogue"),
}


def changed(log_dir, tables):
    """The good log with some tables changed; one without rows is left out."""
    return write(log_dir, {name: rows for name, rows in {**GOOD, **tables}.items() if rows})


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_as_documented_is_one_line_and_exit_code_1(case, tmp_path, monkeypatch, capsys):
    tables, said = BAD[case]
    log_dir = changed(tmp_path / "log", tables)
    command = ["fintrec", "dataset", "build", str(log_dir), "--out", str(tmp_path / "set")]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fintrec:")]
    assert len(errors) == 1
    assert said in errors[0]
    assert str(log_dir) in errors[0]
    if case != "a clickstream of visitors" and "no " not in case:
        assert "part-0.parquet: " in errors[0]
    assert not (tmp_path / "set").exists()
    with pytest.raises(logs.LogError):
        build_training_set(log_dir, CONFIG)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"a,b\n1,2\n", None])
def test_a_file_that_is_no_whole_parquet_is_named(tmp_path, content):
    log_dir = write(tmp_path / "log", GOOD)
    path = log_dir / logs.CONVERSIONS / "day=2024-10-04" / "part-0.parquet"
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    for build in (
        lambda: build_training_set(log_dir, CONFIG),
        lambda: build_dataset(log_dir, tmp_path / "set", CONFIG),
    ):
        with pytest.raises(logs.LogError, match="not a readable Parquet file") as refused:
            build()
        assert str(path) in str(refused.value)


def test_a_folder_that_is_no_day_is_named(tmp_path):
    log_dir = write(tmp_path / "log", {logs.TRANSACTIONS: [paid("3")]}, day="yesterday")
    write(log_dir, {logs.ITEMS: [item()]})
    with pytest.raises(logs.LogError, match="folder 'day=yesterday', expected day=YYYY-MM-DD"):
        build_training_set(log_dir, CONFIG)


UNREAD = {
    "clickstream.v1/date=2026-10-31/part-0.parquet": "expected clickstream.v1/day=YYYY-MM-DD/part-",
    "clickstream.v1/part-0.parquet": "expected clickstream.v1/day=YYYY-MM-DD/part-*.parquet",
    "clickstream.v1/day=2024-10-04/data-0.parquet": "/part-*.parquet",
    "clickstream.v1/day=2024-10-04/part-0.PARQUET": "/part-*.parquet",
    "clickstream.v1/day=2024-10-04/hour=3/part-0.parquet": "/part-*.parquet",
    "user_static/part-0.parquet": "expected user_static/day=YYYY-MM-DD/part-*.parquet",
    "items.v1/day=2024-10-04/part-0.parquet": "expected items.v1/part-*.parquet",
    "items.v1/items.parquet": "expected items.v1/part-*.parquet",
    "transaction.v1/day=2024-10-04/part-0.parquet": "folder 'transaction.v1' is no table of a log, "
    "expected one of clickstream.v1, transactions.v1, ",
    "events.parquet": "a Parquet file outside any table, expected <table>/part-*.parquet with",
}


@pytest.mark.parametrize("name", UNREAD)
def test_a_parquet_file_that_would_not_be_read_is_named(tmp_path, name):
    log_dir = write(tmp_path / "log", GOOD)
    path = log_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((log_dir / logs.ITEMS / "part-0.parquet").read_bytes())
    for build in (
        lambda: build_training_set(log_dir, CONFIG),
        lambda: build_dataset(log_dir, tmp_path / "set", CONFIG),
    ):
        with pytest.raises(logs.LogError) as refused:
            build()
        assert str(refused.value).startswith(f"{path}: ")
        assert UNREAD[name] in str(refused.value)


def test_what_is_hidden_or_covered_or_of_a_lake_or_no_parquet_may_lie_in_a_log(tmp_path):
    log_dir = write(tmp_path / "log", GOOD)
    expected = build_training_set(log_dir, CONFIG)
    day = log_dir / logs.CLICKSTREAM / "day=2024-10-04"
    whole, half = Span(0, 0, 1), Span(0, 0, 0)
    part = day / "part-0.parquet"
    (day / half.file_name).write_bytes(part.read_bytes())
    part.rename(day / whole.file_name)
    for name in (
        "README.md",
        "notes/plan.csv",
        "clickstream.v1/_SUCCESS",
        "clickstream.v1/day=2024-10-04/.part-9.parquet",
        "clickstream.v1/.staging/part-0.parquet",
        "_offsets/clickstream.v1/0/000000000001.json",
        "_old/clickstream.v1/part-0.parquet",
        "slates.v1/day=2024-10-04/part-0.parquet",
        "slate_audit.v1/day=2024-10-04/part-0.parquet",
        "slate_requests.v1/day=2024-10-04/part-0.parquet",
    ):
        path = log_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"unread")
    found = build_training_set(log_dir, CONFIG)
    assert [log.tobytes() for log in found.logs] == [log.tobytes() for log in expected.logs]
    assert found.exclusions == expected.exclusions


def test_a_manifest_of_another_form_is_named(tmp_path):
    log_dir = write(tmp_path / "log", GOOD)
    logs.write_manifest(log_dir, {"start_ms": "yesterday", "end_ms": END_MS})
    with pytest.raises(logs.LogError, match=r"manifest\.json: start_ms is 'yesterday', expected"):
        build_training_set(log_dir, CONFIG)


@pytest.mark.parametrize(
    ("start_ms", "end_ms", "said"),
    [
        (END_MS, END_MS, f"end_ms is {END_MS} and start_ms is {END_MS}, expected an end after"),
        (END_MS, DAY, f"end_ms is {DAY} and start_ms is {END_MS}, expected an end after the start"),
        (
            DAY - 30 * DAY_MS,
            DAY - DAY_MS,
            "end_ms is 1727913600000 (2024-10-03 00:00), but 5 of 5 events are of later days "
            "(first 1728000000005 (2024-10-04 00:00), last 1728000000009 (2024-10-04 00:00)), exp",
        ),
        (
            DAY // 1000 - 86_400,
            DAY // 1000,
            "end_ms is 1728000000 (1970-01-21 00:00), but 5 of 5 events are of later days",
        ),
        (
            DAY + DAY_MS,
            END_MS,
            "start_ms is 1728086400000 (2024-10-05 00:00), after the last event (1728000000009",
        ),
    ],
)
def test_a_manifest_of_another_period_is_named(tmp_path, start_ms, end_ms, said):
    log_dir = write(tmp_path / "log", GOOD)
    logs.write_manifest(log_dir, {"start_ms": start_ms, "end_ms": end_ms})
    with pytest.raises(logs.LogError) as refused:
        build_training_set(log_dir, CONFIG)
    assert str(refused.value).startswith(f"{log_dir / logs.MANIFEST}: ")
    assert said in str(refused.value)


def test_a_manifest_may_end_before_some_of_the_events(tmp_path):
    pages = [seen("p1", DAY + DAY_MS + 5), seen("p2", DAY + 2 * DAY_MS + 5)]
    log_dir = write(tmp_path, GOOD)
    for day, page in zip(("2024-10-05", "2024-10-06"), pages, strict=True):
        write(log_dir, {logs.CLICKSTREAM: [page]}, day)
    logs.write_manifest(log_dir, {"start_ms": DAY - 9 * DAY_MS, "end_ms": DAY + 2 * DAY_MS})
    found = build_training_set(log_dir, DatasetConfig(validation_days=0.5, test_days=0.5))
    assert [len(part) for part in (found.train, found.validation, found.test)] == [1, 1, 0]


def test_rows_of_a_day_may_stand_in_any_order(tmp_path):
    page = [seen(str(n), DAY + n * 1000, item_id="ab"[n % 2]) for n in range(9)]
    forward = build_training_set(write(tmp_path / "a", {**GOOD, logs.CLICKSTREAM: page}), CONFIG)
    back = build_training_set(write(tmp_path / "b", {**GOOD, logs.CLICKSTREAM: page[::-1]}), CONFIG)
    assert forward.train.request.tolist() == back.train.request.tolist()
    assert [log.tobytes() for log in forward.logs] == [log.tobytes() for log in back.logs]


def test_repeated_ids_are_counted_by_what_they_repeat(tmp_path):
    last = seen("p", DAY + DAY_MS - 1)
    tables = {
        **GOOD,
        logs.CLICKSTREAM: [seen("1"), seen("2", item_id="b"), last],
        logs.TRANSACTIONS: [
            paid("3"),
            paid("3"),
            paid("3"),
            paid("4"),
            paid("4", amount_usd=9.0),
            paid("6"),
            paid("6", DAY + 8),
            paid("1", DAY + 5),  # an id names an event within its source
            paid("6", DAY + 8, user_id="v"),
        ],
    }
    ts = build_training_set(write(tmp_path, tables), CONFIG)
    assert ts.exclusions["duplicate_events"] == 2
    assert ts.exclusions["contradicting_events"] == 1
    assert ts.exclusions["reused_event_ids"] == 1
    cents = [int(row["cents"]) for row in ts.logs[0] if row["source"] == 1]
    assert sorted(cents) == [300, 300, 300, 300, 300]


def test_anonymous_events_are_counted_and_are_nobodys(tmp_path):
    visitor = [
        seen(f"v{n}", DAY + n, user_id="", anonymous_id="cookie", page="landing") for n in range(3)
    ]
    both = seen("l", action="login", item_id="", anonymous_id="cookie")
    tables = {**GOOD, logs.CLICKSTREAM: [*GOOD[logs.CLICKSTREAM], *visitor, both]}
    ts = build_training_set(write(tmp_path, tables), CONFIG)
    assert ts.exclusions["anonymous_events"] == 3
    assert ts.users == ("u",)
    assert len(ts.train) == 1
    assert "landing" not in ts.vocabulary.names["page"]


def test_events_of_unknown_items_are_counted(tmp_path):
    tables = {
        **GOOD,
        logs.CLICKSTREAM: [
            seen("1"),
            seen("2", item_id="gone"),
            seen("7", DAY + 9, item_id="gone"),
        ],
        logs.CONVERSIONS: [reached("5", item_id="gone")],
    }
    ts = build_training_set(write(tmp_path, tables), CONFIG)
    assert ts.exclusions["unknown_items"] == 2
    assert ts.exclusions["pages_without_known_item"] == 1
    assert ts.exclusions["conversions_of_unknown_items"] == 1
