"""Features and slates of the real system against the referee's, from the published events alone."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from features.history import ROW
from features.spec import USER_INTRADAY
from streams.topics import SLATE_REQUESTS
from tests.feast_rows import online_write
from tests.integration.conftest import System, await_applied, make_judge, now_ms
from tests.integration.judge import FRESH, Judge
from tests.integration.referee import DAY, Expected, Models, Owned, expected_state, intraday_of
from tests.integration.traffic import Event, consent, life, request
from tests.integration.wire import until

pytestmark = pytest.mark.integration

PREFIX = "judged-"
# user: interactions, transactions, decisions (days ago, decision, days until effect), owned
PROFILES: Mapping[str, tuple[int, int, list[tuple[int, str, int]], Owned | None]] = {
    "nobody": (0, 0, [(1, "granted", 0)], None),
    "new": (3, 1, [(2, "granted", 0)], None),
    "saver": (14, 4, [(9, "granted", 0)], Owned({"savings": 40, "checking": 900}, 900)),
    "leaving": (25, 9, [(9, "granted", 0), (1, "opted_out", 30)], Owned({"checking": 80}, 80)),
    "left": (40, 12, [(9, "granted", 0), (3, "opted_out", 2)], Owned({"mortgage": 700}, 700)),
    "silent": (50, 30, [], Owned({"credit_card": 300, "savings": 10}, 300)),
    "forgotten": (20, 3, [(450, "granted", 0)], None),
    "undecided": (18, 3, [(9, "granted", 0), (2, "unknown", 0)], Owned({}, 0)),
    "busy": (170, 75, [(9, "granted", 0)], Owned({"investing": 500, "checking": 2000}, 2000)),
    "spender": (6, 90, [(9, "opted_out", 0), (1, "granted", 0)], Owned({"credit_card": 91}, 91)),
    "browser": (140, 2, [(5, "granted", 0)], None),
}


@dataclass(frozen=True)
class Told:
    """Who was told of, what the nightly batch wrote, and which records must be refused."""

    system: System
    owned: dict[str, Owned | None]
    refused: frozenset[str]

    @property
    def users(self) -> list[str]:
        """Every user."""
        return list(self.owned)

    def state(self, user: str, upto: Mapping[str, int] | None = None) -> Expected:
        """The referee's state of a user after all events, or those up to given offsets."""
        return expected_state(self.system.wire.events(user), self.refused, upto)


@pytest.fixture(scope="module")
def told(system: System) -> Told:
    """Every profile's events, sent in one untidy stream and applied."""
    rng = random.Random(20)
    now = now_ms()
    items = [item.item_id for item in system.items]
    owned = {PREFIX + name: profile[3] for name, profile in PROFILES.items()}
    _write_nightly(system, owned, now - DAY)
    streams = []
    for name, (num_interactions, num_transactions, decisions, _) in PROFILES.items():
        user = PREFIX + name
        told = [
            consent(user, now - ago * DAY, marketing, now - (ago - until_effect) * DAY)
            for ago, marketing, until_effect in decisions
        ]
        rng.shuffle(told)
        streams.append([*told, *life(rng, user, now, num_interactions, num_transactions, items)])
    sent: list[tuple[Event, Any]] = []
    while streams:  # users interleaved, as one topic has them
        stream = rng.choice(streams)
        event = stream.pop(0)
        streams = [s for s in streams if s]
        sent.append((event, system.wire.send(event.topic, event.user_id.encode(), event.value)))
    system.wire.settle()
    places = [(event, future.get(1)) for event, future in sent]
    refused = {f"{m.topic}[{m.partition}]@{m.offset}" for event, m in places if event.is_refused}
    told = Told(system, owned, frozenset(refused))
    await_applied(system, told.users, told.refused)
    return told


def _write_nightly(system: System, owned: Mapping[str, Owned | None], cutoff_ms: int) -> None:
    names = [f for f in _static_names() if f.startswith("tenure_")]
    rows = []
    for user, has in owned.items():
        if has is not None:
            tenures = {name: has.tenure_days.get(name.removeprefix("tenure_"), 0) for name in names}
            values = {"enrollments": sorted(has.tenure_days), **tenures}
            rows.append((user, cutoff_ms, values | {"tenure_bank": has.bank_days}))
    online_write(system.settings.redis_address, "user_static", rows)


def _static_names() -> tuple[str, ...]:
    from features.spec import USER_STATIC

    return USER_STATIC.feature_names


@pytest.fixture(scope="module")
def judge(system: System) -> Judge:
    """The judge of model version 1 under the catalogue and policies of the topics."""
    return make_judge(system, 1)


def test_histories_and_consents_are_those_of_the_events(system: System, told: Told) -> None:
    for user, state in system.states(told.users).items():
        expected = told.state(user)
        columns = [name for name in ROW.names or () if name not in ("event", "spare")]
        rows = [dict(zip(columns, row, strict=True)) for row in state.history[columns].tolist()]
        assert [row["time_ms"] for row in rows] == [row.time for row in expected.rows], user
        named = ("item", "product", "page", "placement", "layout")
        named += ("action", "channel", "device", "position")
        assert [tuple(row[c] for c in named) for row in rows] == [r.tokens for r in expected.rows]
        assert [row["cents"] for row in rows] == [row.cents for row in expected.rows], user
        assert [row["source"] == 1 for row in rows] == [row.money for row in expected.rows]
        assert state.consents[["effective_from_ms", "event_time_ms", "marketing"]].tolist() == (
            expected.consents
        )


def test_the_typed_features_in_the_store_are_the_referees(system: System, told: Told) -> None:
    found = system.store.read_views(told.users, ["user_intraday", "user_consent"], now_ms())
    for user, views in zip(told.users, found, strict=True):
        expected = told.state(user)
        intraday = views["user_intraday"].values
        if not expected.rows:
            assert not intraday, "features of a user without a single interaction"
        else:
            ours = dict(zip(USER_INTRADAY.feature_names, intraday_of(expected), strict=True))
            assert intraday == ours, user
        if expected.consents:
            effective, _, mark = max(expected.consents, key=lambda c: (c[1], c[2]))
            assert views["user_consent"].values == {
                "marketing": ("unknown", "granted", "opted_out")[mark],
                "effective_from": effective,
            }


def test_hidden_states_have_seen_every_event(system: System, told: Told) -> None:
    models = Models(system.settings.model_repository, 1)
    for user, state in system.states(told.users).items():
        expected = told.state(user)
        assert (state.version, state.state_version, state.model) == (expected.version,) * 2 + (1,)
        assert state.hidden.tobytes() in {
            h.tobytes() for h in models.hidden(expected.rows).values()
        }, user


def test_refused_events_are_dead_letters_with_their_place(system: System, told: Told) -> None:
    assert told.refused
    for at in told.refused:
        letters = until(f"a dead letter of {at}", lambda at=at: system.wire.letters(at))
        assert len(letters) == 1
        assert letters[0]["reason"] in ("not_json", "invalid", "unknown_version", "future")


@pytest.mark.parametrize(
    "surface",
    [
        {"product": "mobile_home", "page": "home", "placement": "feed", "layout": "carousel"},
        {"product": "pgc_marketing", "page": "offers", "placement": "hero", "layout": "single"},
        {"product": "third_party", "channel": "web", "device": "toaster", "size": 50},
        {"product": "a_product_nobody_knows", "page": "", "size": 3},
        {"candidates": ["autopay_a", "nothing_like_it", "flight_deal_b", "travel_card_a"]},
    ],
    ids=["mobile", "marketing", "third_party", "unknown_product", "own_candidates"],
)
def test_slates_are_the_referees_from_logits_to_order(
    system: System, told: Told, judge: Judge, surface: Mapping[str, Any]
) -> None:
    asked = {user: request(user, now_ms(), **surface) for user in told.users}
    for user, wanted in asked.items():
        system.wire.publish(SLATE_REQUESTS, user, wanted)
    for user, wanted in asked.items():
        slate, audit = system.wire.answer(wanted["request_id"])
        assert json.loads(slate)["tier"] == FRESH, json.loads(slate)["flags"]
        seen = told.state(user, json.loads(audit)["state"]["offsets"])
        assert len(seen.rows) == len(told.state(user).rows)
        judge.slate(slate, audit, seen, told.owned[user])
