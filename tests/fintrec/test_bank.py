from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from features.border import to_record
from features.categories import category_of
from features.spec import DAY_MS, HOUR_MS
from fintrec import logs
from fintrec.bank import needs
from fintrec.bank.chunk import Span, simulate_chunk
from fintrec.bank.money import MCC_NAMES
from fintrec.bank.simulate import BankSize, simulate
from fintrec.bank.visits import Triggers, fast_needs

END_MS = 1_795_900_000_123


@pytest.fixture(scope="module")
def tables(bank_log):
    found = {name: logs.read_table(bank_log, name).to_pylist() for name in logs.RECORDS}
    return {**found, logs.USER_STATIC_TABLE: logs.read_table(bank_log, logs.USER_STATIC_TABLE)}


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(tmp_path):
    size = BankSize("test", 8, 14)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        simulate(size, seed, END_MS, tmp_path / name)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert files_of(tmp_path / "a") != files_of(tmp_path / "c")


def test_a_log_directory_with_files_is_refused(tmp_path):
    (tmp_path / "kept").write_text("")
    with pytest.raises(ValueError, match="not empty"):
        simulate(BankSize("test", 2, 2), 0, END_MS, tmp_path)


def test_every_row_is_a_record_that_the_border_lets_in(tables):
    for name, kind in logs.RECORDS.items():
        for row in tables[name]:
            given = {k: v for k, v in row.items() if v is not None}
            assert isinstance(to_record(given, kind), kind)


def test_events_lie_within_the_period_and_have_ids_of_their_own(tables):
    ids = Counter(row["event_id"] for name in logs.EVENT_TABLES[:3] for row in tables[name])
    assert max(ids.values()) == 1
    times = [row["event_time_ms"] for name in logs.EVENT_TABLES for row in tables[name]]
    assert min(times) >= END_MS - 24 * DAY_MS
    assert max(times) < END_MS


def test_catalogue_has_200_items_of_three_content_types_on_four_products(tables):
    items = tables[logs.ITEMS]
    assert len({item["item_id"] for item in items}) == 200
    assert {item["content_type"] for item in items} == {"marketing", "servicing", "third_party"}
    assert {product for item in items for product in item["products"]} == {
        "pgc_marketing",
        "pgc_servicing",
        "mobile_home",
        "third_party",
    }
    assert {item["attribution_window_days"] for item in items} == {15, 30, 60}
    assert any(item["pinned_position"] for item in items)
    assert any(item["valid_until_ms"] for item in items)


def impressions_by_page(tables):
    pages = {}
    for row in tables[logs.CLICKSTREAM]:
        if row["action"] == "impression":
            pages.setdefault((row["user_id"], row["event_time_ms"]), []).append(row)
    return pages


def test_a_page_shows_at_most_five_different_items_in_positions_from_one(tables):
    for page in impressions_by_page(tables).values():
        assert len({row["item_id"] for row in page}) == len(page) <= 5
        assert sorted(row["position"] for row in page) == list(range(1, len(page) + 1))
        assert len({row["slate_id"] for row in page}) == 1


def test_marketing_is_shown_to_users_who_granted_it_only(tables):
    items = {item["item_id"]: item for item in tables[logs.ITEMS]}
    decisions = {}
    for row in tables[logs.CONSENTS]:
        decisions.setdefault(row["user_id"], []).append((row["event_time_ms"], row["marketing"]))
    num_shown = 0
    for (user_id, time_ms), page in impressions_by_page(tables).items():
        known = [told for told in sorted(decisions.get(user_id, ())) if told[0] <= time_ms]
        granted = bool(known) and known[-1][1] == "granted"
        for row in page:
            if items[row["item_id"]]["content_type"] != "servicing":
                assert granted
                num_shown += 1
    assert num_shown > 100


def test_items_are_shown_on_their_products_and_while_valid_only(tables):
    items = {item["item_id"]: item for item in tables[logs.ITEMS]}
    for (_, time_ms), page in impressions_by_page(tables).items():
        for row in page:
            item = items[row["item_id"]]
            assert row["product"] in item["products"]
            assert item["valid_from_ms"] <= time_ms < (item["valid_until_ms"] or END_MS)


def test_owners_of_a_product_are_not_offered_it(tables):
    items = {item["item_id"]: item["eligibility"] for item in tables[logs.ITEMS]}
    static = tables[logs.USER_STATIC_TABLE]
    nights = logs.milliseconds(static, "event_timestamp")
    first = nights == nights.min()
    owned = {
        row["user_id"]: set(row["enrollments"]) for row in static.filter(first.tolist()).to_pylist()
    }
    for (user_id, _), page in impressions_by_page(tables).items():
        for row in page:
            assert not owned[user_id] & set(items[row["item_id"]]["excludes_enrollments"])


def test_every_click_and_dismissal_follows_its_impression_on_the_same_slate(tables):
    shown = {
        (row["slate_id"], row["item_id"]): row["event_time_ms"]
        for row in tables[logs.CLICKSTREAM]
        if row["action"] == "impression"
    }
    reactions = [r for r in tables[logs.CLICKSTREAM] if r["action"] in ("click", "dismiss")]
    assert len(reactions) > 50
    for row in reactions:
        waited = row["event_time_ms"] - shown[row["slate_id"], row["item_id"]]
        assert 0 < waited < 60_000


def test_a_bank_product_is_opened_once_and_stands_in_the_next_nightly_row(tables):
    items = {item["item_id"]: item["eligibility"] for item in tables[logs.ITEMS]}
    opened = Counter()
    static = tables[logs.USER_STATIC_TABLE]
    nights = logs.milliseconds(static, "event_timestamp")
    rows = static.to_pylist()
    for row in tables[logs.CONVERSIONS]:
        for name in items[row["item_id"]]["excludes_enrollments"]:
            opened[row["user_id"], name] += 1
            later = [
                rows[place]["enrollments"]
                for place in np.flatnonzero(nights >= row["event_time_ms"])
                if rows[place]["user_id"] == row["user_id"]
            ]
            assert all(name in enrollments for enrollments in later)
    assert max(opened.values(), default=1) == 1


def test_nightly_rows_become_readable_after_their_cutoff_and_cover_every_user(tables):
    static = tables[logs.USER_STATIC_TABLE]
    lag = logs.milliseconds(static, "created_timestamp") - logs.milliseconds(
        static, "event_timestamp"
    )
    assert set(lag.tolist()) == {2 * HOUR_MS}
    assert logs.milliseconds(static, "created_timestamp").min() < END_MS - 24 * DAY_MS
    assert static.num_rows % 60 == 0


def test_fast_needs_are_lifted_by_the_newest_earlier_trigger_and_halve():
    travel = needs.TRIGGER_INDEX["travel_purchase"]
    triggers = Triggers(
        np.array([1, 1, 2]), np.array([0, HOUR_MS, HOUR_MS]), np.array([travel] * 3)
    )
    at = np.array([HOUR_MS, 9 * HOUR_MS, 9 * HOUR_MS])
    found = fast_needs(triggers, np.array([1, 1, 3]), at)[:, needs.NEED_INDEX["travel"]]
    # 0h      1h                9h
    # x       x                 the newer one is 8 h old: half of 3.0; at 1 h only the older counts
    assert found == pytest.approx([3.0 * 2 ** (-1 / 8), 1.5, 0.0])


def test_every_merchant_category_code_belongs_to_its_category():
    for category, codes in needs.MCCS.items():
        assert {category_of(mcc) for mcc in codes} == {category}


def test_a_travel_purchase_of_the_same_day_lifts_clicks_on_travel_items():
    start_ms = END_MS - 30 * DAY_MS
    chunk = simulate_chunk(1, 0, 0, 700, Span(start_ms, start_ms, END_MS))
    money, pages, exposure = chunk.money, chunk.pages, chunk.exposure
    travel = np.array([category_of(mcc) == "travel" for mcc in MCC_NAMES])[money.mcc]
    booked = {}
    for user, time_ms in zip(money.user[travel], money.time_ms[travel], strict=True):
        booked.setdefault(int(user), []).append(int(time_ms))
    need = chunk.catalogue.need[exposure.shown_PK]
    page, slot = np.nonzero((exposure.shown_PK >= 0) & (need == needs.NEED_INDEX["travel"]))
    counts = {True: Counter(), False: Counter()}
    for user, time_ms, clicked in zip(
        pages.user[page], pages.time_ms[page], exposure.clicked_PK[page, slot], strict=True
    ):
        ages = time_ms - np.array(booked.get(int(user), [0]))
        counts[bool(((ages > 0) & (ages < 8 * HOUR_MS)).any())][bool(clicked)] += 1
    rates = {recent: found[True] / found.total() for recent, found in counts.items()}
    assert counts[True].total() > 50
    assert rates[True] > 3 * rates[False]
