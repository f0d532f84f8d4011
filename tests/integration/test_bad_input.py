"""Every kind of bad input has its stated outcome, and what stands beside it is done all the same."""

import base64
import json
import random
from collections.abc import Mapping
from typing import Any

import pytest

from streams.topics import (
    CLICKSTREAM,
    CONSENTS,
    ITEMS,
    RANKING_POLICIES,
    SLATE_REQUESTS,
    TRANSACTIONS,
)
from tests.integration.conftest import System, await_applied, now_ms
from tests.integration.judge import STATIC
from tests.integration.referee import DAY, crc
from tests.integration.traffic import consent, event, request, transaction
from tests.integration.wire import until

pytestmark = pytest.mark.integration

_SURROGATE = b'{"event_id": "\\ud800"}'


def _event(**changes: Any) -> Any:
    good = {
        "event_id": "e",
        "user_id": "bad-events",
        "event_time_ms": now_ms(),
        "kind": "purchase",
        "amount_usd": 5.0,
    }
    return good | changes


def _bytes(**changes: Any) -> bytes:
    return json.dumps(_event(**changes)).encode()


BAD_EVENTS: Mapping[str, tuple[str, Any, str, str]] = {
    # name: topic, value (or a function that makes it now), reason, part of the message
    "cut_off": (TRANSACTIONS, lambda: _bytes()[:-4], "not_json", "JSON"),
    "not_utf8": (TRANSACTIONS, b"\xff\xfe\x00", "not_json", "JSON"),
    "lone_surrogate": (CLICKSTREAM, _SURROGATE, "not_json", "JSON"),
    "deep": (CLICKSTREAM, b"[" * 5000, "not_json", "JSON"),
    "empty_text": (TRANSACTIONS, b"", "not_json", "JSON"),
    "empty_value": (TRANSACTIONS, None, "not_json", "without a value"),
    "nan": (TRANSACTIONS, lambda: _bytes().replace(b"5.0", b"NaN"), "not_json", "JSON"),
    "infinite": (TRANSACTIONS, lambda: _bytes().replace(b"5.0", b"1e999"), "not_json", "infinity"),
    "no_object": (TRANSACTIONS, b'["a", 1]', "invalid", "object"),
    "null": (TRANSACTIONS, b"null", "invalid", "object"),
    "wrong_type": (TRANSACTIONS, lambda: _bytes(amount_usd="five"), "invalid", "$.amount_usd"),
    "float_time": (TRANSACTIONS, lambda: _bytes(event_time_ms=1.5), "invalid", "$.event_time_ms"),
    "huge_number": (TRANSACTIONS, lambda: _bytes(event_time_ms=10**40), "invalid", "event_time"),
    "too_dear": (TRANSACTIONS, lambda: _bytes(amount_usd=1e12), "invalid", "$.amount_usd"),
    "missing_field": (TRANSACTIONS, b'{"event_id": "e"}', "invalid", "user_id"),
    "no_user": (
        CLICKSTREAM,
        b'{"event_id": "e", "event_time_ms": 1, "action": "click"}',
        "invalid",
        "anonymous_id",
    ),
    "long_id": (TRANSACTIONS, lambda: _bytes(event_id="e" * 129), "invalid", "$.event_id"),
    "unknown_word": (
        CONSENTS,
        lambda: consent("bad-events", now_ms(), "perhaps", 0).value,
        "invalid",
        "$.marketing",
    ),
    "later_version": (
        TRANSACTIONS,
        lambda: _bytes(schema_version=2),
        "unknown_version",
        "$.schema_version",
    ),
    "oversize": (TRANSACTIONS, lambda: _bytes(note="x" * 70_000), "oversize", "65536"),
    "future": (
        TRANSACTIONS,
        lambda: _bytes(event_time_ms=now_ms() + 400_000),
        "future",
        "ahead of the clock",
    ),
    "ancient": (
        TRANSACTIONS,
        lambda: _bytes(event_time_ms=now_ms() - 1101 * DAY),
        "ancient",
        "old",
    ),
    "foreign_key": (TRANSACTIONS, lambda: _bytes(user_id="else"), "key_mismatch", "user_id"),
}


def test_bad_events_become_dead_letters_and_the_good_ones_beside_them_are_folded(
    system: System,
) -> None:
    rng, user = random.Random(3), "bad-events"
    sent = {}
    for name, (topic, value, _, _) in BAD_EVENTS.items():
        good = transaction(rng, user, now_ms())
        system.wire.send(good.topic, user.encode(), good.value)
        made = value() if callable(value) else value
        sent[name] = (system.wire.send(topic, user.encode(), made), made)
    no_key = system.wire.send(TRANSACTIONS, None, _bytes())
    system.wire.settle()
    refused = set()
    for name, (future, made) in sent.items():
        _, _, reason, part = BAD_EVENTS[name]
        letter = _letter(system, future)
        refused.add(letter["at"])
        assert letter["reason"] == reason, (name, letter)
        assert part in letter["message"], (name, letter)
        assert base64.b64decode(letter["key_base64"]) == user.encode()
        assert _decoded(letter) == made, name
        assert not letter["truncated"]
    assert _letter(system, no_key)["reason"] == "key_mismatch"
    await_applied(system, [user], refused)
    assert len(system.states([user])[user].history) == len(BAD_EVENTS)


def test_a_dead_letter_too_large_to_keep_whole_says_where_it_was_cut(system: System) -> None:
    value = json.dumps({"event_id": "x" * 300_000}).encode()
    letter = _letter(system, system.wire.send(TRANSACTIONS, b"bad-large", value))
    assert letter["reason"] == "oversize"
    assert letter["truncated"]
    assert _decoded(letter) == value[:262_144]


def test_a_click_on_an_item_nobody_knows_is_history_like_any_other(system: System) -> None:
    user = "bad-unknown-item"
    click = event(
        CLICKSTREAM,
        user,
        event_time_ms=now_ms(),
        action="click",
        item_id="never_heard_of",
        channel="web",
    )
    system.wire.send(click.topic, user.encode(), click.value)
    system.wire.settle()
    await_applied(system, [user])
    history = system.states([user])[user].history
    assert history["item"].tolist() == [crc("item", "never_heard_of")]


def test_a_user_nobody_knows_is_answered_from_the_static_tier(system: System) -> None:
    slate, _ = system.wire.ask(request("bad-stranger", now_ms()))
    found = json.loads(slate)
    assert (found["tier"], found["flags"]) == (STATIC, ["no_state"])
    assert found["items"]
    assert {s["reason"] for s in found["suppressed"]} >= {"consent_unknown"}
    assert found["feature_ages_ms"]["user_state"] is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"size": 0}, "invalid"),
        ({"size": 1000}, "invalid"),
        ({"size": "many"}, "invalid"),
        ({"candidates": [""]}, "invalid"),
        ({"candidates": ["a"] * 2001}, "invalid"),
        ({"request_id": ""}, "invalid"),
        ({"schema_version": "two"}, "unknown_version"),
        ({"event_time_ms": 1}, "ancient"),
        ({"event_time_ms": 1 << 41}, "future"),
        ({"page": "p" * 70_000}, "oversize"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_a_bad_request_is_a_dead_letter_and_no_slate(
    system: System, changes: Mapping[str, Any], reason: str
) -> None:
    wanted = request("bad-requests", now_ms(), **changes)
    letter = _letter(system, system.wire.publish(SLATE_REQUESTS, "bad-requests", wanted))
    assert letter["reason"] == reason, letter
    system.wire.ask(request("bad-requests", now_ms()))  # the next one is answered
    assert not wanted["request_id"] or not system.wire.slates(wanted["request_id"])


def test_a_request_under_a_foreign_key_is_refused(system: System) -> None:
    wanted = request("bad-requests", now_ms())
    letter = _letter(system, system.wire.publish(SLATE_REQUESTS, "someone_else", wanted))
    assert letter["reason"] == "key_mismatch"


def test_asked_for_items_that_are_no_candidates_are_suppressed_with_the_reason(
    system: System,
) -> None:
    wanted = ["autopay_a", "flight_deal_b", "no_such_item", "no_such_item"]
    slate, _ = system.wire.ask(request("bad-candidates", now_ms(), candidates=wanted))
    found = json.loads(slate)
    assert [item["item_id"] for item in found["items"]] == ["autopay_a"]
    assert found["suppressed"] == [
        {"item_id": "flight_deal_b", "reason": "other_product"},
        {"item_id": "no_such_item", "reason": "unknown_item"},
    ]


def test_no_eligible_item_is_an_empty_slate_that_says_so(system: System) -> None:
    wanted = request("bad-candidates", now_ms(), candidates=["no_such_item"])
    found = json.loads(system.wire.ask(wanted)[0])
    assert found["items"] == []
    assert "no_eligible_item" in found["flags"]


@pytest.mark.parametrize(
    ("topic", "value", "reason"),
    [
        (ITEMS, b"{", "not_json"),
        (ITEMS, b'{"item_id": "broken", "version": 1, "content_type": "spam"}', "invalid"),
        (ITEMS, b'{"item_id": "broken", "schema_version": 7}', "unknown_version"),
        (RANKING_POLICIES, b"[1", "not_json"),
        (RANKING_POLICIES, b'{"version": 90, "lambda_us": -1}', "invalid"),
        (RANKING_POLICIES, b'{"version": 90, "lambda_us": 1e400}', "not_json"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_item_or_policy_is_a_dead_letter_and_what_was_known_stays(
    system: System, topic: str, value: bytes, reason: str
) -> None:
    before = json.loads(system.wire.ask(request("bad-reference", now_ms()))[1])
    letter = _letter(system, system.wire.send(topic, b"broken", value))
    assert letter["reason"] == reason
    after = json.loads(system.wire.ask(request("bad-reference", now_ms()))[1])
    assert after["catalogue_version"] == before["catalogue_version"]
    assert after["policy"] == before["policy"]
    system.wire.send(topic, b"broken", None)  # compaction keeps no trace of it


def _letter(system: System, future: Any) -> dict[str, Any]:
    place = future.get(10)
    at = f"{place.topic}[{place.partition}]@{place.offset}"
    letters: list[dict[str, Any]] = until(f"a dead letter of {at}", lambda: system.wire.letters(at))
    return letters[0]


def _decoded(letter: Mapping[str, Any]) -> bytes | None:
    text = letter["value_base64"]
    return None if text is None else base64.b64decode(text)
