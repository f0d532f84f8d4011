import json
import shutil
from datetime import UTC, datetime

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from features.encoding import REQUEST_COLUMNS, encode_histories, encode_static, missing_static
from features.history import EMPTY, ROW, bounded, concatenated, merged, ordered
from features.rows import row_of
from features.spec import DAY_MS, ENROLLMENTS, MINUTE_MS
from features.vocabulary import code, fingerprint
from fintrec import datasets, logs
from fintrec.bank.simulate import BankSize, simulate
from fintrec.datasets import DatasetConfig, build_training_set, converted, histories, label_known

END_MS = 1_795_900_000_123
CONFIG = DatasetConfig(validation_days=3, test_days=4, label_days=5)
PERIODS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def ts(bank_log):
    return build_training_set(bank_log, CONFIG)


@pytest.fixture(scope="module")
def records(bank_log):
    """Every record of the log that becomes a row, by user, as the wire has it."""
    found = {}
    for name in (logs.CLICKSTREAM, logs.TRANSACTIONS, logs.CONVERSIONS):
        for row in logs.read_table(bank_log, name).to_pylist():
            given = {key: value for key, value in row.items() if value is not None}
            record = msgspec.convert(given, logs.RECORDS[name])
            found.setdefault(record.user_id, []).append(record)
    return found


def every(ts):
    for period in PERIODS:
        decisions = getattr(ts, period)
        for index in range(len(decisions)):
            yield decisions, index


def test_a_history_equals_folding_the_earlier_records_one_by_one_in_any_order(ts, records):
    rng = np.random.default_rng(0)
    picked = rng.choice(len(ts.test), 40, replace=False)
    for index, rows in zip(picked, histories(ts, ts.test, picked), strict=True):
        mine = records[ts.users[ts.test.user[index]]]
        earlier = [r for r in mine if r.event_time_ms < ts.test.time_ms[index]]
        state = EMPTY
        for place in rng.permutation(len(earlier)):
            state = merged(state, np.array([row_of(earlier[place])], ROW))
        assert rows.tobytes() == state.tobytes()


def test_the_log_of_a_user_holds_what_its_decisions_may_see_and_no_more(bank_log, records):
    # Training on a few days only, so that most of the log lies before what is decided on.
    ts = build_training_set(bank_log, DatasetConfig(train_days=3, validation_days=3, test_days=4))
    decided = {}
    for decisions, index in every(ts):
        decided.setdefault(ts.users[decisions.user[index]], []).append(decisions.time_ms[index])
    assert ts.users == tuple(sorted(decided))
    num_dropped = 0
    for user_id, log in zip(ts.users, ts.logs, strict=True):
        every_row = ordered(np.array([row_of(record) for record in records[user_id]], ROW))
        before = every_row["time_ms"] < min(decided[user_id])
        between = ~before & (every_row["time_ms"] < max(decided[user_id]))
        expected = concatenated((bounded(every_row[before]), every_row[between]))
        assert log.tobytes() == expected.tobytes()
        num_dropped += int(before.sum()) - len(bounded(every_row[before]))
    assert num_dropped > 300


def test_a_request_says_where_and_when_and_how_old_the_history_is(ts, records):
    pages = {}
    for user_id, mine in records.items():
        for record in mine:
            if getattr(record, "action", "") == "impression":
                pages[user_id, record.event_time_ms] = record
    for decisions, index in every(ts):
        time_ms = int(decisions.time_ms[index])
        user_id = ts.users[decisions.user[index]]
        record = pages[user_id, time_ms]
        earlier = [r.event_time_ms for r in records[user_id] if r.event_time_ms < time_ms]
        expected = [fingerprint(name, getattr(record, name)) for name in REQUEST_COLUMNS[:4]]
        expected += [code("channel", record.channel), code("device", record.device)]
        expected += [time_ms, max(earlier, default=0)]
        assert decisions.request[index].tolist() == expected


def test_static_features_are_the_newest_night_readable_before_the_page(ts, bank_log):
    table = logs.read_table(bank_log, logs.USER_STATIC_TABLE)
    readable = logs.milliseconds(table, "created_timestamp")
    nights = {}
    for row, ready in zip(table.to_pylist(), readable.tolist(), strict=True):
        nights.setdefault(row["user_id"], []).append((ready, row))
    for decisions, index in every(ts):
        mine = nights[ts.users[decisions.user[index]]]
        _, row = max((n for n in mine if n[0] < decisions.time_ms[index]), key=lambda n: n[0])
        tenures = [row[f"tenure_{name}"] for name in ENROLLMENTS]
        expected = encode_static(row["enrollments"], tenures, row["tenure_bank"])
        assert decisions.static[index].tobytes() == expected.tobytes()


def test_shown_items_and_clicks_are_those_of_the_slate(ts, records):
    shown, clicked = {}, set()
    for user_id, mine in records.items():
        for record in mine:
            action = getattr(record, "action", "")
            if action == "impression":
                page = shown.setdefault((user_id, record.event_time_ms), [])
                page.append((record.position, record.item_id, record.slate_id))
            elif action == "click":
                clicked.add((record.slate_id, record.item_id))
    num_clicks = 0
    for decisions, index in every(ts):
        page = shown[ts.users[decisions.user[index]], int(decisions.time_ms[index])]
        page = sorted(page) + [(0, None, None)] * (5 - len(page))
        for slot, (_, item_id, slate_id) in enumerate(page):
            item = decisions.shown[index, slot]
            assert (None if item < 0 else ts.items[item]) == item_id
            assert decisions.clicked[index, slot] == ((slate_id, item_id) in clicked)
            num_clicks += (slate_id, item_id) in clicked
    assert num_clicks > 50


def test_conversions_are_those_within_a_complete_window(ts, records):
    num_positives = 0
    for period, until in zip(PERIODS, (END_MS - 7 * DAY_MS, END_MS, END_MS), strict=True):
        decisions = getattr(ts, period)
        known = label_known(ts, decisions)
        dense = converted(ts, decisions, np.arange(len(decisions)))
        for index in range(len(decisions)):
            time_ms = int(decisions.time_ms[index])
            expected = set()
            for record in records[ts.users[decisions.user[index]]]:
                if hasattr(record, "value_usd"):
                    item = ts.items.index(record.item_id)
                    end_ms = time_ms + int(ts.window_ms[item])
                    if time_ms < record.event_time_ms <= end_ms <= until:
                        expected.add(item)
            assert set(np.flatnonzero(dense[index])) == expected
            num_positives += len(expected)
        assert (known == (decisions.time_ms[:, None] + ts.window_ms <= until)).all()
        assert not (dense & ~known).any()
    assert num_positives > 50
    assert ts.exclusions["censored_conversions"] > 0
    assert ts.exclusions["censored_labels"] == sum(
        int((~label_known(ts, getattr(ts, period))).sum()) for period in PERIODS
    )


def test_label_windows_are_the_items_own_unless_capped(ts, bank_log):
    own = build_training_set(bank_log, DatasetConfig(validation_days=3, test_days=4))
    assert set((own.window_ms // DAY_MS).tolist()) == {15, 30, 60}
    assert set((ts.window_ms // DAY_MS).tolist()) == {5}


def test_periods_follow_each_other_without_overlap(ts):
    bounds = [END_MS - days * DAY_MS for days in (24, 7, 4, 0)]
    for period, start_ms, end_ms in zip(PERIODS, bounds[:-1], bounds[1:], strict=True):
        times = getattr(ts, period).time_ms
        assert len(times) > 50
        assert (np.diff(times) >= 0).all()
        assert start_ms <= times[0]
        assert times[-1] < end_ms


def test_no_decision_of_an_opted_out_user_and_no_page_whose_clicks_may_come(ts, bank_log):
    consents = logs.read_table(bank_log, logs.CONSENTS).to_pylist()
    consents.sort(key=lambda row: row["event_time_ms"])
    for decisions, index in every(ts):
        user_id, time_ms = ts.users[decisions.user[index]], decisions.time_ms[index]
        told = [r for r in consents if r["user_id"] == user_id and r["event_time_ms"] <= time_ms]
        assert not told or told[-1]["marketing"] != "opted_out"
        assert time_ms + 30 * MINUTE_MS <= END_MS
    assert ts.exclusions["opted_out_decisions"] > 0


def test_vocabulary_covers_items_categories_and_names_of_the_training_period(ts):
    assert ts.vocabulary.items == ts.items
    assert "category/travel" in ts.vocabulary.names["item"]
    assert {"mobile_home", "credit_card"} <= set(ts.vocabulary.names["product"])
    assert len(ts.content_types) == len(ts.items) == 200


def test_histories_feed_the_encoder(ts):
    encoded = encode_histories(histories(ts, ts.train, np.arange(8)))
    assert encoded.arrays.tokens_BTC.shape[0] == 8


def seen_by(ts, before_ms):
    """What each decision before an instant saw, by user, time and place."""
    found = {}
    for period in PERIODS:
        decisions = getattr(ts, period)
        chosen = np.flatnonzero(decisions.time_ms < before_ms)
        for index, rows in zip(chosen, histories(ts, decisions, chosen), strict=True):
            key = (ts.users[decisions.user[index]], *decisions.request[index].tolist())
            found[key] = (
                rows.tobytes(),
                decisions.static[index].tobytes(),
                decisions.shown[index].tobytes(),
            )
    return found


# Small logs by hand.


def made(log_dir, tables, end_ms=END_MS, **config):
    items = [{"item_id": name, "version": 1, "content_type": "servicing"} for name in ("a", "b")]
    for name, rows in {logs.ITEMS: items, **tables}.items():
        logs.write_table(log_dir, name, pa.Table.from_pylist(rows, logs.SCHEMAS[name]))
    manifest = {"start_ms": end_ms - 20 * DAY_MS, "end_ms": end_ms}
    (log_dir / logs.MANIFEST).write_text(json.dumps(manifest))
    return build_training_set(log_dir, DatasetConfig(validation_days=1, test_days=1, **config))


def seen(event_id, time_ms, action="impression", item_id="a", user_id="u", **fields):
    blank = dict.fromkeys(logs.SCHEMAS[logs.CLICKSTREAM].names, "")
    given = {"event_id": event_id, "event_time_ms": time_ms, "action": action, "user_id": user_id}
    return {**blank, "position": 1, "propensity": None, "item_id": item_id, **given, **fields}


EARLY = END_MS - 10 * DAY_MS


def test_a_click_belongs_to_the_newest_impression_within_half_an_hour(tmp_path):
    ts = made(
        tmp_path,
        {
            logs.CLICKSTREAM: [
                seen("1", EARLY),
                seen("2", EARLY + MINUTE_MS),
                seen("3", EARLY + 2 * MINUTE_MS, "click"),
                seen("4", EARLY + 2 * MINUTE_MS, "click", item_id="b"),
                seen("5", EARLY + 32 * MINUTE_MS, "click"),
                seen("6", EARLY + MINUTE_MS, user_id="v"),
            ]
        },
    )
    clicked = {
        (ts.users[u], int(t)): c.any()
        for u, t, c in zip(ts.train.user, ts.train.time_ms, ts.train.clicked, strict=True)
    }
    assert clicked == {
        ("u", EARLY): False,
        ("u", EARLY + MINUTE_MS): True,
        ("v", EARLY + MINUTE_MS): False,
    }
    assert ts.exclusions["unmatched_clicks"] == 2


def test_unknown_items_duplicates_and_crowded_pages_are_counted(tmp_path):
    page = [seen(f"p{n}", EARLY, item_id="ab"[n % 2], position=n) for n in range(1, 8)]
    ts = made(
        tmp_path,
        {
            logs.CLICKSTREAM: [
                *page,
                page[0],
                seen("x", EARLY + 1, item_id="gone"),
                seen("y", END_MS - 5),
            ],
            logs.CONVERSIONS: [
                {
                    "event_id": "c",
                    "user_id": "u",
                    "event_time_ms": EARLY,
                    "item_id": "gone",
                    "value_usd": 0,
                }
            ],
        },
    )
    assert len(ts.train) == 1
    assert len(ts.test) == 0
    found = {name: number for name, number in ts.exclusions.items() if number}
    assert found.pop("censored_labels") == 2
    assert found == {
        "duplicate_events": 1,
        "slots_beyond_page": 2,
        "unknown_items": 1,
        "pages_without_known_item": 1,
        "conversions_of_unknown_items": 1,
        "censored_click_windows": 1,
        "decisions_without_static": 1,
    }
    assert ts.train.static[0].tobytes() == missing_static().tobytes()


def test_rows_at_the_instant_of_a_page_are_not_in_its_history(tmp_path):
    ts = made(
        tmp_path,
        {
            logs.CLICKSTREAM: [
                seen("0", EARLY - 1, "login", item_id=""),
                seen("1", EARLY, "page_view", item_id=""),
                seen("2", EARLY),
            ]
        },
    )
    (rows,) = histories(ts, ts.train, [0])
    assert rows["time_ms"].tolist() == [EARLY - 1]
    assert ts.train.request[0, -1] == EARLY - 1


@pytest.mark.parametrize(
    ("decisions", "in_force", "in_notice"),
    [
        ([("opted_out", -5, -5)], True, False),
        ([("opted_out", -5, 5)], False, True),  # the wish is known, the notice has not run out
        ([("opted_out", -5, 40)], False, False),  # further away than any notice
        ([("opted_out", 5, 5)], False, False),
        ([("opted_out", 5, -5)], False, False),  # backdated: not told before the page
        ([("opted_out", -2, -5)], True, False),
        ([("opted_out", -5, -5), ("granted", -2, -2)], False, False),
        ([("granted", -5, -5), ("opted_out", -2, -2)], True, False),
        ([("opted_out", -5, 5), ("granted", -2, -2)], False, True),  # takes effect nevertheless
        ([("opted_out", -5, 5), ("granted", -2, 6)], False, True),
        ([("opted_out", -5, 40), ("granted", -2, -2)], False, False),
        ([("opted_out", -5, -1), ("granted", -4, -4)], True, False),
        ([("granted", -5, -3), ("opted_out", -2, -4)], False, False),  # overtaken before told
    ],
)
def test_an_opt_out_counts_from_its_effect_or_from_its_notice(
    tmp_path, decisions, in_force, in_notice
):
    consents = [
        {
            "user_id": "u",
            "event_time_ms": EARLY + told * DAY_MS,
            "marketing": marketing,
            "effective_from_ms": EARLY + effective * DAY_MS,
        }
        for marketing, told, effective in decisions
    ]
    page = [seen("1", EARLY), seen("2", EARLY, user_id="other")]
    tables = {logs.CLICKSTREAM: page, logs.CONSENTS: consents}
    ts = made(tmp_path, tables)
    assert ("u" in ts.users) == (not in_force and not in_notice)
    assert ts.exclusions["opted_out_decisions"] == in_force
    assert ts.exclusions["opt_out_notice_decisions"] == in_notice
    served = made(tmp_path, tables, notice_days=0)
    assert ("u" in served.users) == (not in_force)


def test_a_decision_on_consent_that_is_none_is_refused(tmp_path):
    told = {"user_id": "u", "event_time_ms": EARLY, "effective_from_ms": EARLY}
    consents = [{**told, "marketing": "maybe"}]
    with pytest.raises(logs.LogError, match="row 0, column 'marketing' is 'maybe', exp"):
        made(tmp_path, {logs.CLICKSTREAM: [seen("1", EARLY)], logs.CONSENTS: consents})


def test_a_nightly_row_older_than_its_time_to_live_is_missing(tmp_path):
    night = datetime.fromtimestamp((EARLY - 4 * DAY_MS) / 1000, UTC)
    row = {name: 0 for name in logs.SCHEMAS[logs.USER_STATIC_TABLE].names}
    row |= {"user_id": "u", "event_timestamp": night, "created_timestamp": night}
    page = [seen("1", EARLY), seen("2", EARLY - 2 * DAY_MS)]
    ts = made(
        tmp_path,
        {logs.CLICKSTREAM: page, logs.USER_STATIC_TABLE: [{**row, "enrollments": ["savings"]}]},
    )
    assert ts.train.static[:, -1].tolist() == [0.0, 1.0]
    assert ts.train.static[0, ENROLLMENTS.index("savings")] == 1


def test_a_log_shorter_than_the_held_out_days_is_refused(bank_log):
    with pytest.raises(ValueError, match=r"covers 24\.0 days"):
        build_training_set(bank_log, datasets.DatasetConfig(validation_days=20, test_days=4))


def test_a_log_without_events_is_refused(tmp_path):
    with pytest.raises(logs.LogError, match="no events"):
        build_training_set(tmp_path, CONFIG)


def test_the_order_and_split_of_files_do_not_matter(bank_log, tmp_path, ts):
    shutil.copytree(bank_log, tmp_path / "log")
    for path in (tmp_path / "log" / logs.CLICKSTREAM).rglob("part-0.parquet"):
        table = logs.pq.read_table(path, partitioning=None)
        half = table.num_rows // 2
        logs.pq.write_table(table.slice(half).take(list(range(table.num_rows - half))[::-1]), path)
        logs.pq.write_table(table.slice(0, half), path.with_name("part-1.parquet"))
    again = build_training_set(tmp_path / "log", CONFIG)
    assert seen_by(again, END_MS) == seen_by(ts, END_MS)
    assert again.exclusions == ts.exclusions


def test_tiny_bank_is_large_enough_for_its_split(tmp_path):
    simulate(BankSize("test", 5, 20), 0, END_MS, tmp_path)
    ts = build_training_set(tmp_path, DatasetConfig())
    assert len(ts.train) > 0
