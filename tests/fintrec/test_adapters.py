"""Adapters on tiny sources with the real ones' columns: the mapping, and what bad input gets."""

import importlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fintrec import logs
from fintrec.adapters import ADAPTERS
from fintrec.adapters.bpic2012 import import_log as import_loans
from fintrec.adapters.complete_journey import import_log as import_journey
from fintrec.logs import LogError

DOC = Path(__file__).parents[2] / "docs" / "bring_your_data.md"


def day(number, hour=0):
    return datetime(2017, 1, number, hour)  # noqa: DTZ001  the source has no time zone


def ms(number, hour=0):
    return int(datetime(2017, 1, number, hour, tzinfo=UTC).timestamp() * 1000)


def journey_tables():
    return {
        "campaign_descriptions": {
            "campaign_id": [1, 2],
            "campaign_type": ["Type A", "Type C"],
            "start_date": [day(2), day(5)],
            "end_date": [day(4), day(9)],
        },
        "campaigns": {"campaign_id": [1, 1, 2], "household_id": [7, 8, 7]},
        "coupon_redemptions": {
            "household_id": [7, 7],
            "coupon_upc": [500, 500],
            "campaign_id": [1, 1],
            "redemption_date": [day(4), day(4)],
        },
        "coupons": {"coupon_upc": [500], "product_id": [10], "campaign_id": [1]},
        "demographics": {"household_id": [7], "age": ["65+"]},
        "products": {
            "product_id": [10, 11, 12],
            "department": pa.array(["GROCERY", "FUEL", None]),
        },
        "transactions": {
            "household_id": [7, 7, 7, 9],
            "store_id": [3, 3, 3, 4],
            "basket_id": [100, 100, 100, 101],
            "product_id": [10, 10, 11, 12],
            "quantity": [1, 1, 1, 1],
            "sales_value": [1.25, 0.1, 30.0, 2.0],
            "transaction_timestamp": [day(1, 9), day(1, 9), day(1, 9), day(10, 20)],
        },
    }


def write(folder, tables):
    folder.mkdir()
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


def loans_table():
    start = datetime(2011, 10, 1, 8, tzinfo=UTC)
    events = [
        ("A_SUBMITTED", "COMPLETE", 0),
        ("W_Nabellen offertes", "START", 1),
        ("W_Nabellen offertes", "COMPLETE", 2),
        ("O_SENT", "COMPLETE", 3),
        ("O_SENT_BACK", "COMPLETE", 30),
        ("O_ACCEPTED", "COMPLETE", 40),
        ("A_REGISTERED", "COMPLETE", 40),
        ("A_APPROVED", "COMPLETE", 41),
    ]
    return {
        "case": ["1"] * len(events),
        "activity": [name for name, _, _ in events],
        "lifecycle": [lifecycle for _, lifecycle, _ in events],
        "resource": pa.nulls(len(events), pa.string()),
        "ts": [start + timedelta(hours=hours) for _, _, hours in events],
        "amount_req": ["10000"] * len(events),
    }


def rows_of(log_dir, name):
    return logs.read_table(log_dir, name).to_pylist()


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_is_a_function_that_can_be_imported(name):
    module, _, attribute = ADAPTERS[name].partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_a_campaign_becomes_an_item_whose_window_is_its_own_length(tmp_path):
    import_journey(write(tmp_path / "source", journey_tables()), tmp_path / "log")
    first, second = logs.read_items(tmp_path / "log")
    assert (first.item_id, first.category, first.attribution_window_days) == (
        "campaign-1",
        "type_a",
        3,
    )
    assert (second.item_id, second.category, second.attribution_window_days) == (
        "campaign-2",
        "type_c",
        5,
    )
    assert (first.valid_from_ms, first.valid_until_ms) == (ms(2), ms(5))


def test_a_campaign_is_an_impression_at_its_start_and_a_redemption_ends_its_day(tmp_path):
    import_journey(write(tmp_path / "source", journey_tables()), tmp_path / "log")
    shown = rows_of(tmp_path / "log", logs.CLICKSTREAM)
    assert [(r["user_id"], r["item_id"], r["event_time_ms"], r["placement"]) for r in shown] == [
        ("household-7", "campaign-1", ms(2), "type_a"),
        ("household-8", "campaign-1", ms(2), "type_a"),
        ("household-7", "campaign-2", ms(5), "type_c"),
    ]
    redeemed = rows_of(tmp_path / "log", logs.CONVERSIONS)
    assert [(r["user_id"], r["item_id"], r["event_time_ms"]) for r in redeemed] == [
        ("household-7", "campaign-1", ms(5) - 1)
    ] * 2
    assert len({r["event_id"] for r in redeemed}) == 2


def test_a_basket_is_one_purchase_a_merchant_category(tmp_path):
    counts = import_journey(write(tmp_path / "source", journey_tables()), tmp_path / "log")
    bought = rows_of(tmp_path / "log", logs.TRANSACTIONS)
    assert [(r["event_id"], r["user_id"], r["amount_usd"], r["merchant"]) for r in bought] == [
        ("basket-100-5411-2", "household-7", 1.35, "store-3"),
        ("basket-100-5541-1", "household-7", 30.0, "store-3"),
        ("basket-101-5399-1", "household-9", 2.0, "store-4"),
    ]
    assert [r["mcc"] for r in bought] == ["5411", "5541", "5399"]
    assert counts == {
        "campaigns": 2,
        "exposures": 3,
        "redemptions": 2,
        "basket_lines": 4,
        "basket_lines_without_department": 1,
        "baskets": 2,
        "purchases": 3,
        "households": 3,
        "left_out_demographics": 1,
        "left_out_coupon_products": 1,
    }
    assert logs.read_manifest(tmp_path / "log")["end_ms"] == ms(10, 20) + 1


def test_every_household_has_consent_from_the_first_instant_on(tmp_path):
    import_journey(write(tmp_path / "source", journey_tables()), tmp_path / "log")
    consents = rows_of(tmp_path / "log", logs.CONSENTS)
    assert {r["user_id"] for r in consents} == {"household-7", "household-8", "household-9"}
    assert {(r["marketing"], r["effective_from_ms"]) for r in consents} == {("granted", ms(2))}


def test_the_events_of_an_application_become_interactions_and_a_conversion(tmp_path):
    counts = import_loans(write(tmp_path / "source", {"bpic2012": loans_table()}), tmp_path / "log")
    seen = rows_of(tmp_path / "log", logs.CLICKSTREAM)
    assert [(r["action"], r["page"], r["channel"], r["item_id"]) for r in seen] == [
        ("other", "A_SUBMITTED", "other", ""),
        ("call", "W_Nabellen offertes", "call_center", ""),
        ("other", "W_Nabellen offertes", "call_center", ""),
        ("impression", "O_SENT", "other", "loan-offer-10k"),
        ("click", "O_SENT_BACK", "other", "loan-offer-10k"),
        ("other", "A_REGISTERED", "other", ""),
        ("other", "A_APPROVED", "other", ""),
    ]
    (accepted,) = rows_of(tmp_path / "log", logs.CONVERSIONS)
    assert (accepted["user_id"], accepted["item_id"]) == ("application-1", "loan-offer-10k")
    assert counts["left_out_events"] == 0
    assert counts["events"] == 8 == len(seen) + 1


def test_an_application_owns_its_loan_from_the_first_cut_off_after_it(tmp_path):
    import_loans(write(tmp_path / "source", {"bpic2012": loans_table()}), tmp_path / "log")
    (row,) = rows_of(tmp_path / "log", logs.USER_STATIC_TABLE)
    # Registered on October 3rd at 0:00; the night's cut-off is at 4:00.
    assert row["event_timestamp"] == datetime(2011, 10, 3, 4, tzinfo=UTC)
    assert row["enrollments"] == ["personal_loan"]


def test_the_same_source_gives_the_same_bytes(tmp_path):
    source = write(tmp_path / "source", journey_tables())
    import_journey(source, tmp_path / "one")
    import_journey(source, tmp_path / "two")
    one, two = (
        {p.relative_to(d): p.read_bytes() for p in d.rglob("*") if p.is_file()}
        for d in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two
    assert len(one) > 5


@pytest.mark.parametrize("name", sorted(set(journey_tables())))
def test_a_missing_file_is_named(tmp_path, name):
    source = write(tmp_path / "source", journey_tables())
    (source / f"{name}.parquet").unlink()
    with pytest.raises(LogError, match=rf"{name}\.parquet: no such file"):
        import_journey(source, tmp_path / "log")


def test_a_truncated_file_is_named(tmp_path):
    source = write(tmp_path / "source", journey_tables())
    path = source / "campaigns.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LogError, match=r"campaigns\.parquet: not a readable Parquet file"):
        import_journey(source, tmp_path / "log")


def broken_journey(table, column, values):
    tables = journey_tables()
    if values is None:
        del tables[table][column]
    else:
        tables[table][column] = values
    return tables


@pytest.mark.parametrize(
    ("table", "column", "values", "expected"),
    [
        ("transactions", "sales_value", None, "'sales_value' is missing, expected double"),
        ("transactions", "store_id", ["a", "b", "c", "d"], "'store_id' is string, expected int64"),
        ("transactions", "sales_value", [1.0, float("nan"), 1.0, 1.0], "row 1, column 'sales_val"),
        ("campaigns", "household_id", [7, None, 7], "row 1, column 'household_id' is null"),
        ("campaigns", "campaign_id", [1, 1, 3], "row 2, campaign_id 3 is not in"),
        ("campaigns", "household_id", [7, 7, 7], "2 rows with .*'household_id': 7"),
        ("coupon_redemptions", "campaign_id", [1, 9], "row 1, campaign_id 9 is not in"),
        ("campaign_descriptions", "end_date", [day(4), day(3)], "row 1 runs for -1 days"),
        ("products", "product_id", [10, 10, 12], "2 rows with .*'product_id': 10"),
    ],
)
def test_bad_columns_of_the_journey_are_named(tmp_path, table, column, values, expected):
    source = write(tmp_path / "source", broken_journey(table, column, values))
    with pytest.raises(LogError, match=expected) as caught:
        import_journey(source, tmp_path / "log")
    assert f"{table}.parquet" in str(caught.value)
    assert not list((tmp_path).glob("log/*"))  # nothing half written


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("ts", None, "'ts' is missing"),
        ("ts", ["yesterday"] * 8, "'ts' is string, expected timestamp"),
        ("amount_req", ["much"] * 8, "'amount_req' is string, expected int64"),
        ("activity", [None] * 8, "row 0, column 'activity'"),
    ],
)
def test_bad_columns_of_the_loans_are_named(tmp_path, column, values, expected):
    table = loans_table()
    del table[column]
    if values is not None:
        table[column] = pa.array(values, pa.string())
    source = write(tmp_path / "source", {"bpic2012": table})
    with pytest.raises(LogError, match=expected):
        import_loans(source, tmp_path / "log")


@pytest.mark.parametrize(
    ("import_log", "tables"),
    [(import_journey, journey_tables()), (import_loans, {"bpic2012": loans_table()})],
)
def test_an_empty_source_or_a_used_folder_is_refused(tmp_path, import_log, tables):
    empty = {name: pa.table(columns).slice(0, 0) for name, columns in tables.items()}
    source = tmp_path / "empty"
    source.mkdir()
    for name, table in empty.items():
        pq.write_table(table, source / f"{name}.parquet")
    with pytest.raises(LogError, match="no rows"):
        import_log(source, tmp_path / "log")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    with pytest.raises(LogError, match="new or empty directory"):
        import_log(write(tmp_path / "source", tables), tmp_path / "used")


def test_the_document_shows_the_adapter_as_it_is():
    blocks = re.findall(r"```python\n# (fintrec/adapters/\S+)\n(.*?)```", DOC.read_text(), re.S)
    assert [path for path, _ in blocks] == ["fintrec/adapters/bpic2012.py"] * 2
    for path, block in blocks:
        assert block in (DOC.parents[1] / path).read_text()


def test_the_document_names_every_adapter():
    text = DOC.read_text()
    assert all(f"`{name}`" in text for name in ADAPTERS)
