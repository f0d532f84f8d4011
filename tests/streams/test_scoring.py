import asyncio

import msgspec
import numpy as np
import orjson
import pytest
from aiokafka.errors import KafkaConnectionError

from features.encoding import missing_static
from features.errors import StoreUnavailable
from features.history import EMPTY
from features.packed import UserState, pack, unpack
from features.records import Consent, Interaction, Item, RankingPolicy, Slate, SlateRequest
from features.spec import DAY_MS
from features.state import Delivery, Nightly, fold, with_nightly
from fintrec.catalogue import Catalogue
from fintrec.slates import replay, slate_id
from streams.ports import StateWrite
from streams.reference import ReferenceData
from streams.scoring import Scoring
from streams.topics import SLATE_AUDIT, SLATE_REQUESTS, SLATES
from tests.fakes import (
    Answered,
    FakeClock,
    InMemoryStateStore,
    LocalModels,
    RecordingProducer,
    served,
    served_model,
)
from tests.streams.workers import NOW_MS, SETTINGS, letter_of, received

ITEMS = ("i0", "i1", "i2")
OLD, MODEL = served_model(1, ITEMS), served_model(2, ITEMS)
CATALOGUE = Catalogue.of(
    [
        Item(item_id="i0", version=1, content_type="servicing"),
        Item(item_id="i1", version=1, content_type="marketing", value_usd=10.0),
        Item(item_id="i2", version=1, content_type="servicing", products=["pgc"]),
        Item(item_id="unheard_of", version=1, content_type="third_party"),
    ]
)


class Worker:
    """A scoring worker on fakes."""

    def __init__(self, catalogue: Catalogue = CATALOGUE, answered: Answered | None = None) -> None:
        self.clock, self.store = FakeClock(NOW_MS), InMemoryStateStore()
        self.triton, self.producer = LocalModels(3), RecordingProducer()
        self.models = served(self.triton, OLD, MODEL)
        self.reference = ReferenceData(SETTINGS)
        self.reference.catalogue = catalogue
        self.work = Scoring(
            SETTINGS,
            self.clock,
            self.store,
            self.triton,
            self.models,
            self.producer,
            self.reference,
            answered or Answered(),
        )

    def handle(self, *records) -> dict[str, Slate]:
        """Slates by request, each replayed from its audit record."""
        self.producer.sent.clear()
        asyncio.run(self.work.handle(records))
        slates = [r.value for r in self.producer.sent if r.topic == SLATES]
        audits = [r.value for r in self.producer.sent if r.topic == SLATE_AUDIT]
        assert [replay(audit) for audit in audits] == slates
        found = [msgspec.convert(orjson.loads(slate), Slate) for slate in slates]
        return {slate.request_id: slate for slate in found}

    def know(self, user_id: str, num_events: int = 2, behind: int = 0, model: int = 2, **consent):
        """Store a state of `num_events`, whose hidden states have not seen the last `behind`."""
        state = UserState()
        if consent:
            given = {"user_id": user_id, "event_time_ms": NOW_MS - DAY_MS, "marketing": "granted"}
            record = Consent(**({"effective_from_ms": NOW_MS - DAY_MS} | given | consent))
            state = fold(state, [Delivery(record, 3, 0, 0)]).state
        for number in range(num_events):
            if number == num_events - behind:
                state = state.with_hidden(np.full(4, 0.5, np.float16), model)
            event = Interaction(
                event_id=f"{user_id}{number}",
                user_id=user_id,
                event_time_ms=NOW_MS - 1000 + number,
                action="click",
            )
            state = fold(state, [Delivery(event, 0, 0, number)]).state
        if not behind:
            state = state.with_hidden(np.full(4, 0.5, np.float16), model)
        self.store.compare_and_set([StateWrite(user_id, 0, pack(state), NOW_MS)])
        return state


def ask(user: str, number: int = 0, age_ms: int = 0, **changes):
    request = SlateRequest(
        **(
            {"request_id": f"{user}-{number}", "user_id": user, "event_time_ms": NOW_MS - age_ms}
            | changes
        )
    )
    return received(SLATE_REQUESTS, request, number, timestamp_ms=NOW_MS - age_ms)


def ids(slate: Slate) -> list[str]:
    return [item.item_id for item in slate.items]


def refused(slate: Slate) -> dict[str, str]:
    return {one.item_id: one.reason for one in slate.suppressed}


GRANTED = {"marketing": "granted"}


def test_a_state_that_has_seen_everything_is_scored_fresh():
    worker = Worker()
    worker.know("u", **GRANTED)
    slate = worker.handle(ask("u"))["u-0"]
    assert (slate.tier, slate.models.pctr) == ("fresh", "2")
    assert slate.flags == ["items_unknown_to_model"]
    assert set(ids(slate)) == {"i0", "i1", "unheard_of"}
    by_prior = {item.item_id: item.scored_by_prior for item in slate.items}
    assert by_prior == {"i0": False, "i1": False, "unheard_of": True}
    assert worker.triton.calls == [("head", 2, 1)]
    assert slate.feature_ages_ms["user_state"] == 999


def test_a_state_that_is_behind_is_repaired_and_kept():
    worker = Worker()
    worker.know("u", num_events=3, behind=1)
    slate = worker.handle(ask("u"))["u-0"]
    assert slate.tier == "fresh"
    assert [name for name, *_ in worker.triton.calls] == ["repair", "head"]
    kept = unpack(worker.store.read_packed(["u"])[0])
    assert (kept.version, kept.state_version, kept.hidden[0]) == (3, 3, 3)


def test_repair_is_bounded_and_the_rest_is_scored_on_what_it_has():
    worker = Worker()
    for number in range(12):
        worker.know(f"u{number}", num_events=3, behind=1)
    slates = worker.handle(*(ask(f"u{number}") for number in range(12)))
    tiers = [slate.tier for slate in slates.values()]
    assert (tiers.count("fresh"), tiers.count("stale")) == (SETTINGS.repair_rows, 4)
    assert worker.triton.calls[0] == ("repair", 2, SETTINGS.repair_rows)
    assert all("state_behind" in s.flags for s in slates.values() if s.tier == "stale")


def test_a_fold_that_came_between_wins_over_a_repair():
    worker = Worker()
    worker.know("u", num_events=3, behind=1)
    real = worker.store.compare_and_set

    def folded_before(writes):
        grown = UserState(version=4)
        assert real([StateWrite("u", 3, pack(grown), NOW_MS)]) == [True]
        return real(writes)

    worker.store.compare_and_set = folded_before
    assert worker.handle(ask("u"))["u-0"].tier == "fresh"
    assert unpack(worker.store.read_packed(["u"])[0]).version == 4


def test_a_repair_that_fails_costs_freshness_and_no_more():
    worker = Worker()
    worker.know("u", num_events=3, behind=1)
    worker.triton.fail = {"repair"}
    slate = worker.handle(ask("u"))["u-0"]
    assert slate.tier == "stale"
    assert slate.flags[:2] == ["repair_failed", "state_behind"]


def test_states_of_an_older_model_are_scored_by_their_own_model():
    worker = Worker()
    worker.work._hidden._repair_rows = 0
    worker.know("old", model=1)
    worker.know("new", model=2)
    slates = worker.handle(ask("old"), ask("new"))
    assert (slates["old-0"].tier, slates["old-0"].models.pctr) == ("stale", "1")
    assert (slates["new-0"].tier, slates["new-0"].models.pctr) == ("fresh", "2")
    assert "older_model" in slates["old-0"].flags
    assert sorted(worker.triton.calls) == [("head", 1, 1), ("head", 2, 1)]
    # Calibrations differ by version: so do the probabilities of equal logits.
    pctr = {r: {i.item_id: i.pctr for i in s.items}["i0"] for r, s in slates.items()}
    assert pctr["old-0"] != pctr["new-0"]


def test_states_of_a_model_that_was_unloaded_just_now_are_scored_on_static_context():
    worker = Worker()
    worker.work._hidden._repair_rows = 0
    worker.know("old", model=1)
    worker.know("new", model=2)
    worker.triton.fail = {"head 1"}
    slates = worker.handle(ask("old"), ask("new"))
    assert (slates["old-0"].tier, slates["old-0"].models.pctr) == ("static", "2")
    assert "no_state" in slates["old-0"].flags
    assert not {"older_model", "triton_unavailable"} & set(slates["old-0"].flags)
    assert slates["new-0"].tier == "fresh"


def test_a_user_without_a_state_is_scored_on_static_context_alone():
    worker = Worker()
    slate = worker.handle(ask("nobody"))["nobody-0"]
    assert slate.tier == "static"
    assert "no_state" in slate.flags
    assert slate.feature_ages_ms["hidden_state"] is None
    assert refused(slate) == {"i1": "consent_unknown"}


def test_hidden_states_of_a_model_that_is_gone_or_of_another_width_are_not_used():
    worker = Worker()
    worker.work._hidden._repair_rows = 0
    worker.know("gone", model=9)
    worker.know("wide")
    wide = unpack(worker.store.read_packed(["wide"])[0])
    write = pack(wide.with_hidden(np.ones(6, np.float16), 2))
    worker.store.compare_and_set([StateWrite("wide", wide.version, write, NOW_MS)])
    slates = worker.handle(ask("gone"), ask("wide"))
    assert {slate.tier for slate in slates.values()} == {"static"}


def test_while_the_store_is_down_popularity_answers_and_consent_is_unknown():
    worker = Worker()
    worker.know("u", **GRANTED)
    worker.store.fail = "timed out"
    slate = worker.handle(ask("u"))["u-0"]
    assert (slate.tier, slate.flags) == ("popularity", ["store_unavailable"])
    assert refused(slate) == {"i1": "consent_unknown"}
    assert all(item.scored_by_prior for item in slate.items)
    assert worker.triton.calls == []


def _refuses(worker: Worker) -> None:
    worker.triton.fail = {"head", "repair"}


def _has_no_version(worker: Worker) -> None:
    worker.models.served = {}


def _answers_too_few_items(worker: Worker) -> None:
    worker.triton.spoil["head"] = lambda answer: (answer[0][:, :2], answer[1])


def _answers_too_few_rows(worker: Worker) -> None:
    worker.triton.spoil["head"] = lambda answer: (answer[0][:0], answer[1][:0])


@pytest.mark.parametrize(
    "trouble", [_refuses, _has_no_version, _answers_too_few_items, _answers_too_few_rows]
)
def test_without_triton_popularity_answers_with_the_users_consent(trouble):
    worker = Worker()
    worker.know("u", **GRANTED)
    worker.know("v", marketing="opted_out")
    trouble(worker)
    slates = worker.handle(ask("u"), ask("v"))
    for slate in slates.values():
        assert slate.tier == "popularity"
        assert "triton_unavailable" in slate.flags
        assert (slate.models.pctr, slate.models.pcvr) == ("", "")
    assert "i1" in ids(slates["u-0"])
    assert refused(slates["v-0"]) == {"i1": "consent_opted_out"}


def test_logits_that_are_not_finite_cost_that_request_its_model_and_no_other():
    worker = Worker()
    for user in ("u", "v"):
        worker.know(user)

    def spoil(answer):
        answer[1][0, 1] = np.nan
        return answer

    worker.triton.spoil["head"] = spoil
    slates = worker.handle(ask("u"), ask("v"))
    assert slates["u-0"].tier == "popularity"
    assert "logits_not_finite" in slates["u-0"].flags
    assert slates["v-0"].tier == "fresh"


@pytest.mark.parametrize(
    ("consent", "reason"),
    [
        ({"marketing": "opted_out"}, "consent_opted_out"),
        ({"marketing": "unknown"}, "consent_unknown"),
        ({"event_time_ms": NOW_MS - 401 * DAY_MS}, "consent_stale"),
        ({"effective_from_ms": NOW_MS + 1}, "consent_unknown"),
        ({}, "consent_unknown"),
    ],
)
@pytest.mark.parametrize("tier", ["fresh", "stale", "static", "popularity"])
def test_consent_fails_closed_in_every_tier(tier, consent, reason):
    worker = Worker()
    worker.work._hidden._repair_rows = 0
    model = 9 if tier == "static" else 2
    worker.know("u", num_events=3, behind=int(tier == "stale"), model=model, **consent)
    if tier == "popularity":
        worker.triton.fail = {"head"}
    slate = worker.handle(ask("u"))["u-0"]
    assert slate.tier == tier
    assert refused(slate) == {"i1": reason}
    assert "i1" not in ids(slate)


def test_a_state_that_cannot_be_read_counts_as_none_and_is_flagged():
    worker = Worker()
    broken = bytearray(pack(UserState(version=3)))
    broken[2] = 9
    worker.store.compare_and_set([StateWrite("u", 0, bytes(broken), NOW_MS)])
    slate = worker.handle(ask("u"))["u-0"]
    assert slate.tier == "static"
    assert "state_unreadable" in slate.flags


def test_under_pressure_the_newest_are_scored_in_full_and_the_rest_cheaply():
    worker = Worker()
    ages = [number % 40 for number in range(100)]
    slates = worker.handle(*(ask(f"u{n}", age_ms=age) for n, age in enumerate(ages)))
    full = [ages[n] for n in range(100) if slates[f"u{n}-0"].tier != "popularity"]
    cheap = [ages[n] for n in range(100) if slates[f"u{n}-0"].tier == "popularity"]
    assert len(full) == SETTINGS.score_full_batch
    assert max(full) <= min(cheap)
    assert worker.store.num_calls["read_packed"] == 1
    assert all("overload" in s.flags for s in slates.values() if s.tier == "popularity")


def test_under_pressure_what_is_too_old_is_answered_cheaply():
    worker = Worker()
    old = [ask(f"old{n}", age_ms=SETTINGS.score_max_age_ms + 1) for n in range(20)]
    slates = worker.handle(*old, ask("u", age_ms=SETTINGS.score_max_age_ms))
    assert slates["u-0"].tier == "static"
    assert {slate.tier for name, slate in slates.items() if name != "u-0"} == {"popularity"}


def test_a_few_late_requests_are_scored_in_full():
    worker = Worker()
    slates = worker.handle(*(ask(f"u{n}", age_ms=60_000) for n in range(16)))
    assert {slate.tier for slate in slates.values()} == {"static"}


def test_a_request_past_its_own_deadline_is_answered_cheaply():
    worker = Worker()
    slates = worker.handle(
        ask("late", age_ms=51, deadline_ms=50), ask("u", age_ms=50, deadline_ms=50)
    )
    assert (slates["late-0"].tier, slates["late-0"].flags) == ("popularity", ["deadline_passed"])
    assert slates["u-0"].tier == "static"


def test_a_product_without_items_gets_an_empty_slate():
    catalogue = Catalogue.of([i for i in CATALOGUE.items if i.item_id == "i2"])
    slate = Worker(catalogue).handle(ask("u", product="never heard of"))["u-0"]
    assert (slate.items, slate.suppressed) == ([], [])
    assert "no_eligible_item" in slate.flags


@pytest.mark.parametrize("trouble", [lambda worker: None, _refuses])
def test_an_empty_catalogue_gives_an_empty_slate(trouble):
    worker = Worker(Catalogue.of([]))
    trouble(worker)
    slate = worker.handle(ask("u", candidates=["i0"]))["u-0"]
    assert slate.items == []
    assert refused(slate) == {"i0": "unknown_item"}
    assert "no_eligible_item" in slate.flags


def test_candidates_asked_for_are_the_only_ones_and_the_others_have_a_reason():
    worker = Worker()
    slate = worker.handle(ask("u", candidates=["i0", "i2", "none", "i0"]))["u-0"]
    assert ids(slate) == ["i0"]
    assert refused(slate) == {"i2": "other_product", "none": "unknown_item"}


def test_a_policy_in_force_ranks_and_a_new_catalogue_counts_at_once():
    worker = Worker()
    urgent = RankingPolicy(version=4, urgency={"unheard_of": 100.0})
    worker.reference.policies.add(urgent)
    slate = worker.handle(ask("u", size=1))["u-0"]
    assert (ids(slate), slate.policy.version) == (["unheard_of"], 4)
    worker.reference.catalogue = Catalogue.of(CATALOGUE.items[:1])
    assert ids(worker.handle(ask("u", 1))["u-1"]) == ["i0"]


def test_bad_requests_go_to_the_dead_letters_and_good_ones_beside_them_are_answered():
    worker = Worker()
    slates = worker.handle(
        received(SLATE_REQUESTS, b"nonsense", 3, key=b"u"),
        ask("u", 4),
        received(SLATE_REQUESTS, {"request_id": "r"}, 5, key=b"u"),
        received(SLATE_REQUESTS, None, 6),
        ask("v", 7, age_ms=-600_000),
    )
    assert list(slates) == ["u-4"]
    letters = [
        letter_of(one)[:2] for one in worker.producer.values("slate_requests.v1.dead_letter")
    ]
    assert letters == [
        ("slate_requests.v1[0]@3", "not_json"),
        ("slate_requests.v1[0]@5", "invalid"),
        ("slate_requests.v1[0]@6", "not_json"),
        ("slate_requests.v1[0]@7", "future"),
    ]


def test_a_request_answered_by_a_predecessor_is_not_answered_twice():
    first = SlateRequest(request_id="u-0", user_id="u", event_time_ms=NOW_MS)
    worker = Worker(answered=Answered(slate_id(first)))
    assert list(worker.handle(ask("u", 0), ask("u", 1))) == ["u-1"]


def test_several_requests_of_one_user_in_a_batch_are_all_answered():
    worker = Worker()
    worker.know("u", num_events=3, behind=1)
    slates = worker.handle(*(ask("u", number) for number in range(3)))
    assert {slate.tier for slate in slates.values()} == {"fresh"}
    assert len({slate.slate_id for slate in slates.values()}) == 3


def test_a_user_with_consent_and_no_history_yet_is_scored():
    worker = Worker()
    worker.know("u", num_events=0, marketing="granted")
    slate = worker.handle(ask("u"))["u-0"]
    assert slate.tier == "fresh"
    assert "i1" in ids(slate)
    assert unpack(worker.store.read_packed(["u"])[0]).history.tobytes() == EMPTY.tobytes()


def test_an_unwritten_slate_is_no_success():
    worker = Worker()
    worker.producer.fail = KafkaConnectionError("no broker")
    with pytest.raises(KafkaConnectionError):
        worker.handle(ask("u"))


def test_a_repaired_state_that_cannot_be_kept_does_not_cost_the_slate():
    worker = Worker()
    worker.know("u", num_events=3, behind=1)

    def down(writes):
        raise StoreUnavailable("timed out")

    worker.store.compare_and_set = down
    assert worker.handle(ask("u"))["u-0"].tier == "fresh"


@pytest.mark.parametrize(("age_days", "is_stale"), [(1, False), (4, True)])
def test_nightly_features_past_their_time_to_live_are_missing_to_the_models(age_days, is_stale):
    worker = Worker()
    nightly = Nightly(["savings"], [0] * 8, 900, NOW_MS - age_days * DAY_MS)
    state = with_nightly(UserState(version=1), nightly).with_hidden(np.zeros(4, np.float16), 2)
    worker.store.compare_and_set([StateWrite("ada", 0, pack(state), NOW_MS)])
    seen, head = [], worker.triton.head
    worker.triton.head = lambda *inputs: (seen.append(inputs[1]), head(*inputs))[1]
    slate = worker.handle(ask("ada"))["ada-0"]
    assert ("user_static_stale" in slate.flags) == is_stale
    expected = missing_static() if is_stale else state.static
    assert seen[0][0, : len(expected)].tolist() == expected.tolist()


def test_the_cheap_tier_names_marketing_only_where_it_is_asked_for():
    worker = Worker()
    asked = {"deadline_ms": 10}
    slate = worker.handle(ask("ada", age_ms=500, **asked))["ada-0"]
    assert slate.flags == ["deadline_passed"]
    assert not refused(slate)
    assert "i1" not in ids(slate)
    named = worker.handle(ask("ada", 1, age_ms=500, candidates=["i0", "i1"], **asked))["ada-1"]
    assert refused(named) == {"i1": "consent_unknown"}
