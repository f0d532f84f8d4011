from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from features.border import to_record
from features.categories import category_of
from features.spec import DAY_MS, HOUR_MS
from fintrec import logs
from fintrec.bank import needs
from fintrec.bank import simulate as banks
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


@pytest.mark.parametrize("taken", ["log", "log.truth"])
def test_a_directory_with_files_is_refused(tmp_path, taken):
    (tmp_path / taken).mkdir()
    (tmp_path / taken / "kept").write_text("")
    with pytest.raises(ValueError, match=f"{taken} is not empty"):
        simulate(BankSize("test", 2, 2), 0, END_MS, tmp_path / "log")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("is_there", [False, True])
def test_log_and_truth_appear_when_they_are_whole(tmp_path, is_there):
    log_dir, seen = tmp_path / "log", []
    if is_there:
        log_dir.mkdir()

    def heard(done, events):
        seen.append((names_in(tmp_path), list(log_dir.glob("*"))))

    simulate(BankSize("test", 2, 2), 0, END_MS, log_dir, heard)
    hidden = [".log.unfinished", ".log.unfinished.truth"]
    assert seen == [(hidden + ["log"] * is_there, [])]
    assert names_in(tmp_path) == ["log", "log.truth"]
    assert (log_dir / logs.MANIFEST).exists()


def test_ctrl_c_leaves_nothing(tmp_path):
    def heard(done, events):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(BankSize("test", 2, 2), 0, END_MS, tmp_path / "log", heard)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("left", [("log", "truth"), ("truth",), ("log", "whole truth")])
def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path, left):
    log_dir, other = tmp_path / "log", tmp_path / "other" / "log"
    names = {
        "log": ".log.unfinished",
        "truth": ".log.unfinished.truth",
        "whole truth": "log.truth",  # killed after the first of the two renames
    }
    for what in left:
        (tmp_path / names[what]).mkdir()
        (tmp_path / names[what] / "of_the_killed_run").write_text("")
    for folder in (log_dir, other):
        simulate(BankSize("test", 2, 2), 0, END_MS, folder)
    assert names_in(tmp_path) == ["log", "log.truth", "other"]
    assert files_of(log_dir) == files_of(other)
    assert files_of(tmp_path / "log.truth") == files_of(tmp_path / "other" / "log.truth")


def test_a_folder_that_cannot_be_replaced_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    for out in (tmp_path / "link", Path(".."), tmp_path / "folder" / ".."):
        with pytest.raises(ValueError, match=r"not empty|cannot be replaced"):
            simulate(BankSize("test", 2, 2), 0, END_MS, out)
    assert names_in(tmp_path) == ["folder", "link"]


def test_a_chunk_of_users_depends_on_no_other_and_has_files_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(banks, "CHUNK_USERS", 6)
    simulate(BankSize("test", 15, 6, 9), 3, END_MS, tmp_path / "three")
    simulate(BankSize("test", 12, 6, 9), 3, END_MS, tmp_path / "two")
    three, two = files_of(tmp_path / "three"), files_of(tmp_path / "two")
    parts = {name for name in three if name.endswith(("part-0.parquet", "part-1.parquet"))}
    assert parts == {name for name in two if name.endswith(".parquet")}
    assert all(three[name] == two[name] for name in parts)
    assert files_of(tmp_path / "three.truth").keys() - files_of(tmp_path / "two.truth").keys()
    for name in logs.EVENT_TABLES[:3]:
        ids = logs.read_table(tmp_path / "three", name)["event_id"].to_pylist()
        assert len(set(ids)) == len(ids)
    static = logs.read_table(tmp_path / "three", logs.USER_STATIC_TABLE)
    assert set(static["user_id"].to_pylist()) == {f"u{number:06d}" for number in range(15)}
    manifest = logs.read_manifest(tmp_path / "three")
    assert manifest["num_chunks"] == 3
    for name, num_rows in manifest["rows"].items():
        assert logs.read_table(tmp_path / "three", name).num_rows == num_rows


def test_years_before_the_digital_days_hold_money_and_contacts_but_no_sessions(tmp_path):
    simulate(BankSize("test", 40, 10, 200), 2, END_MS, tmp_path / "log")
    manifest = logs.read_manifest(tmp_path / "log")
    start_ms = END_MS - 10 * DAY_MS
    assert manifest["start_ms"] == start_ms
    assert manifest["history_start_ms"] == END_MS - 200 * DAY_MS
    before = {
        name: [r for r in logs.read_table(tmp_path / "log", name).to_pylist()]
        for name in (logs.CLICKSTREAM, logs.TRANSACTIONS, logs.CONVERSIONS)
    }
    for name, rows in before.items():
        assert min(row["event_time_ms"] for row in rows) >= END_MS - 200 * DAY_MS, name
    early = [r for r in before[logs.CLICKSTREAM] if r["event_time_ms"] < start_ms]
    assert {r["action"] for r in early} == {"call", "branch", "complaint", "fraud_report"}
    money = [r for r in before[logs.TRANSACTIONS] if r["event_time_ms"] < start_ms]
    assert {r["kind"] for r in money} == {
        "purchase",
        "transfer",
        "statement",
        "payment",
        "fee",
        "atm",
    }
    assert len(money) > 15 * (len(before[logs.TRANSACTIONS]) - len(money))
    assert min(r["event_time_ms"] for r in before[logs.CONVERSIONS]) >= start_ms


def test_anonymous_visitors_read_public_pages_and_some_of_them_log_in(tmp_path):
    simulate(BankSize("test", 300, 12), 4, END_MS, tmp_path / "log")
    rows = logs.read_table(tmp_path / "log", logs.CLICKSTREAM).to_pylist()
    anonymous = [row for row in rows if not row["user_id"]]
    assert len(anonymous) > 200
    for row in anonymous:
        assert row["anonymous_id"]
        assert (row["action"], row["product"], row["item_id"]) == ("page_view", "public_site", "")
        assert row["page"].split("_")[0] in ("learn", "help")
    logins = [row for row in rows if row["user_id"] and row["anonymous_id"]]
    assert {(row["action"], row["channel"]) for row in logins} == {("login", "web")}
    ended = {row["session_id"] for row in anonymous} & {row["session_id"] for row in logins}
    assert len(ended) > 20
    by_device = {}
    for row in logins:
        by_device.setdefault(row["anonymous_id"], set()).add(row["user_id"])
    assert max(len(users) for users in by_device.values()) == 2
    assert Counter(len(users) for users in by_device.values())[1] > 100


def test_impressions_alone_carry_a_propensity(tables):
    for row in tables[logs.CLICKSTREAM]:
        assert (row["propensity"] is not None) == (row["action"] == "impression")


def test_an_impossible_size_is_refused():
    for arguments in ((0, 5), (5, 0), (5, 5, 4), (5, 5, 5, 0.0)):
        with pytest.raises(ValueError, match="must"):
            BankSize("test", *arguments)


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
