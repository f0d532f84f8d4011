import msgspec
import pytest

from features.border import (
    ANCIENT,
    FUTURE,
    INTERNAL_ERROR,
    INVALID,
    KEY_MISMATCH,
    NOT_JSON,
    OVERSIZE,
    REASONS,
    UNKNOWN_VERSION,
    Border,
    check_key,
    to_record,
)
from features.errors import MalformedEvent
from features.records import Consent, Interaction, Item, RankingPolicy, SlateRequest, Transaction

BORDER = Border(max_bytes=10, max_skew_ms=5, max_age_ms=100)
CLICK = {"event_id": "e", "user_id": "u", "event_time_ms": 7, "action": "click"}
PURCHASE = {
    "event_id": "e",
    "user_id": "u",
    "event_time_ms": 7,
    "kind": "purchase",
    "amount_usd": 1.5,
}
POLICY = {"version": 3}


def refused(function, *args) -> MalformedEvent:
    with pytest.raises(MalformedEvent) as caught:
        function(*args)
    return caught.value


def test_every_reason_is_a_distinct_word():
    assert len(set(REASONS)) == 8
    assert INTERNAL_ERROR in REASONS


def test_a_record_without_a_value_is_refused():
    error = refused(BORDER.check_size, None, b"ada")
    assert error.reason == NOT_JSON
    assert str(error) == "got a record without a value, expected a JSON object"


def test_a_record_of_exactly_the_limit_is_let_in_and_a_byte_more_is_not():
    assert BORDER.check_size(b"0123456789", b"ada") == b"0123456789"
    error = refused(BORDER.check_size, b"0123456789a", b"ada")
    assert error.reason == OVERSIZE
    assert str(error) == "got 11 bytes, expected at most 10"


@pytest.mark.parametrize("time_ms", [900, 1000, 1005])
def test_times_within_skew_and_age_are_let_in(time_ms):
    BORDER.check_time(time_ms, 1000)


def test_a_time_beyond_the_skew_is_of_the_future():
    error = refused(BORDER.check_time, 1006, 1000)
    assert error.reason == FUTURE
    assert "event_time_ms=1006 is 6 ms ahead of the clock, expected at most 5" in str(error)


def test_a_time_older_than_any_history_is_ancient():
    error = refused(BORDER.check_time, 899, 1000)
    assert error.reason == ANCIENT
    assert "event_time_ms=899 is 101 ms old, expected at most 100" in str(error)


@pytest.mark.parametrize(
    ("kind", "decoded", "message"),
    [
        (Interaction, [], "Interaction: Expected `object`, got `array`"),
        (Interaction, None, "Interaction: Expected `object`, got `null`"),
        (Interaction, CLICK | {"event_time_ms": "7"}, "Expected `int`, got `str` - at `$.event_t"),
        (Interaction, CLICK | {"event_time_ms": 7.5}, "at `$.event_time_ms`"),
        (Interaction, CLICK | {"event_time_ms": -1}, "Expected `int` >= 0 - at `$.event_time_ms`"),
        (Interaction, CLICK | {"event_time_ms": (1 << 42) + 1}, "at `$.event_time_ms`"),
        (Interaction, CLICK | {"event_id": ""}, "length >= 1 - at `$.event_id`"),
        (Interaction, CLICK | {"position": 201}, "<= 200 - at `$.position`"),
        (Interaction, CLICK | {"page": "p" * 65}, "length <= 64 - at `$.page`"),
        (Interaction, {"event_id": "e"}, "missing required field `event_time_ms`"),
        (Interaction, CLICK | {"user_id": ""}, "neither user_id nor anonymous_id is given"),
        (Transaction, PURCHASE | {"amount_usd": 2.1e7}, "at `$.amount_usd`"),
        (Transaction, PURCHASE | {"mcc": "12345"}, "length <= 4 - at `$.mcc`"),
        (Transaction, PURCHASE | {"user_id": ""}, "length >= 1 - at `$.user_id`"),
        (Consent, {"user_id": "u", "event_time_ms": 1, "marketing": "yes"}, "at `$.marketing`"),
        (SlateRequest, {"request_id": "r", "user_id": "u", "event_time_ms": 1, "size": 0}, "size"),
        (RankingPolicy, POLICY | {"lambda_ctr": -1}, ">= 0.0 - at `$.lambda_ctr`"),
        (RankingPolicy, POLICY | {"urgency": {"card": -1}}, "at `$.urgency[...]`"),
        (Item, {"item_id": "i", "version": 1, "content_type": "ad"}, "at `$.content_type`"),
    ],
)
def test_what_does_not_fit_its_record_is_refused_with_its_path(kind, decoded, message):
    error = refused(to_record, decoded, kind)
    assert error.reason == INVALID
    assert message in str(error)
    assert str(error).startswith(f"{kind.__name__}: ")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused(number):
    for decoded, kind, path in [
        (PURCHASE | {"amount_usd": number}, Transaction, "amount_usd"),
        (POLICY | {"explore": {"share": number}}, RankingPolicy, "explore"),
        (POLICY | {"value_usd": {"card": number}}, RankingPolicy, "value_usd"),
    ]:
        error = refused(to_record, decoded, kind)
        assert error.reason == INVALID
        assert path in str(error) or "[...]" in str(error)


def test_an_unknown_schema_version_is_refused_before_anything_else():
    error = refused(to_record, {"schema_version": 2}, Interaction)
    assert error.reason == UNKNOWN_VERSION
    assert "schema_version=2, expected 1 for Interaction - at `$.schema_version`" in str(error)


def test_fields_of_tomorrow_and_the_known_version_pass():
    record = to_record(CLICK | {"schema_version": 1, "mood": {"very": ["good"]}}, Interaction)
    assert record == msgspec.convert(CLICK, Interaction)


@pytest.mark.parametrize("key", [None, b"", b"v", b"u\0", b"\xff"])
def test_a_key_that_is_not_the_user_is_refused_without_showing_it(key):
    error = refused(check_key, key, to_record(CLICK, Interaction))
    assert error.reason == KEY_MISMATCH
    assert "expected the record's user_id" in str(error)


def test_before_a_login_the_anonymous_visitor_is_the_key():
    anonymous = Interaction(event_id="e", event_time_ms=1, action="click", anonymous_id="a")
    check_key(b"a", anonymous)
    login = Interaction(
        event_id="e", event_time_ms=1, action="login", anonymous_id="a", user_id="u"
    )
    check_key(b"u", login)
    assert refused(check_key, b"a", login).reason == KEY_MISMATCH


def test_a_key_that_is_too_long_is_refused() -> None:
    error = refused(BORDER.check_size, b"{}", b"k" * 513)
    assert error.reason == OVERSIZE
    assert "key of 513 bytes" in str(error)


def test_a_version_that_is_no_number_is_refused_without_being_repeated() -> None:
    secret = {"schema_version": "12 Main Street"}
    error = refused(to_record, secret, Interaction)
    assert error.reason == UNKNOWN_VERSION
    assert "Main Street" not in str(error)
