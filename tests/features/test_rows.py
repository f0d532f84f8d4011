from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.categories import CATEGORY_CODES
from features.history import INTERACTION, ROW, TRANSACTION, ordered
from features.records import Conversion, Interaction, Transaction
from features.rows import (
    Coded,
    ConversionColumns,
    InteractionColumns,
    TransactionColumns,
    cents_of,
    conversion_rows,
    event_fingerprint,
    interaction_rows,
    row_of,
    transaction_rows,
)
from features.vocabulary import category_token, code, fingerprint

names = st.sampled_from(["", "web", "mobile_app", "click", "home", "travel_card", "never seen"])
times = st.integers(0, 1 << 42)
ids = st.text(min_size=1, max_size=12)
interactions = st.builds(
    Interaction,
    event_id=ids,
    user_id=st.just("u"),
    event_time_ms=times,
    action=names.filter(bool),
    channel=names,
    product=names,
    page=names,
    placement=names,
    layout=names,
    position=st.integers(0, 200),
    item_id=names,
    device=names,
)
transactions = st.builds(
    Transaction,
    event_id=ids,
    user_id=st.just("u"),
    event_time_ms=times,
    kind=names.filter(bool),
    amount_usd=st.floats(-2e7, 2e7) | st.decimals(-999, 999, places=3).map(float),
    mcc=st.sampled_from(["", "4511", "5411", "12", "x"]),
    account=names,
    channel=names,
)
conversions = st.builds(
    Conversion, event_id=ids, user_id=st.just("u"), event_time_ms=times, item_id=names.filter(bool)
)


def columns_of(kind, records):
    made = {}
    for field in kind._fields:
        values = [getattr(record, field) for record in records]
        if kind.__annotations__[field] is Coded:
            made[field] = Coded.of(values)
        elif field == "event_id":
            made[field] = values
        else:
            made[field] = np.array(values, float if field == "amount_usd" else np.int64)
    return kind(**made)


@pytest.mark.parametrize(
    ("records", "columns", "vectorised"),
    [
        (interactions, InteractionColumns, interaction_rows),
        (transactions, TransactionColumns, transaction_rows),
        (conversions, ConversionColumns, conversion_rows),
    ],
)
def test_vectorised_rows_equal_the_rows_of_single_records(records, columns, vectorised):
    @given(st.lists(records, max_size=8))
    def check(found):
        one_by_one = np.array([row_of(record) for record in found], ROW)
        assert vectorised(columns_of(columns, found)).tobytes() == one_by_one.tobytes()

    check()


def test_interaction_row_holds_fingerprints_and_codes():
    record = Interaction(
        event_id="e1",
        user_id="u",
        event_time_ms=7,
        action="click",
        channel="web",
        product="mobile_home",
        page="home",
        placement="hero",
        layout="grid",
        position=3,
        item_id="travel_card",
        device="ios",
    )
    row = np.array([row_of(record)], ROW)[0]
    assert row["time_ms"] == 7
    assert row["event"] == event_fingerprint("e1")
    assert row["item"] == fingerprint("item", "travel_card")
    assert row["layout"] == fingerprint("layout", "grid")
    assert row["action"] == code("action", "click")
    assert row["device"] == code("device", "ios")
    assert (row["position"], row["source"], row["cents"]) == (3, INTERACTION, 0)


def test_transaction_row_stands_for_its_merchant_category():
    record = Transaction(
        event_id="e2",
        user_id="u",
        event_time_ms=7,
        kind="purchase",
        amount_usd=12.34,
        mcc="4511",
        account="credit_card",
        channel="card",
    )
    row = np.array([row_of(record)], ROW)[0]
    assert row["item"] == category_token("travel")
    assert row["category"] == CATEGORY_CODES["travel"]
    assert row["product"] == fingerprint("product", "credit_card")
    assert row["action"] == code("action", "purchase")
    assert (row["cents"], row["source"]) == (1234, TRANSACTION)


def test_conversion_row_is_an_interaction_with_its_item():
    record = Conversion(event_id="e3", user_id="u", event_time_ms=7, item_id="travel_card")
    row = np.array([row_of(record)], ROW)[0]
    assert row["item"] == fingerprint("item", "travel_card")
    assert row["action"] == code("action", "conversion")
    assert row["source"] == INTERACTION


@given(st.floats(-2e7, 2e7) | st.decimals(-999_999, 999_999, places=3).map(float))
def test_cents_are_the_decimal_amount_rounded_half_even(amount):
    exact = (Decimal(repr(amount)) * 100).quantize(Decimal(1), ROUND_HALF_EVEN)
    assert cents_of(amount) == int(exact)


def test_cents_saturate_where_an_int32_ends():
    assert cents_of(1e12) == 2**31 - 1
    assert cents_of(-1e12) == -(2**31) + 1


def test_no_records_make_no_rows():
    assert len(ordered(interaction_rows(columns_of(InteractionColumns, [])))) == 0
