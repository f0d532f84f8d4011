import hashlib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.encoding import encode_histories, encode_static, missing_static
from features.history import EMPTY, ROW, as_of, bounded, ordered
from features.packed import UserState, pack
from features.records import MARKETING, Consent, Conversion, Interaction, Transaction
from features.rows import Coded, InteractionColumns, interaction_rows, row_of
from features.spec import ENROLLMENTS, FM_WIDTH
from features.state import Delivery, Nightly, fold, with_nightly

CLICKSTREAM, TRANSACTIONS, CONVERSIONS, CONSENTS, REFRESH = range(5)
times = st.integers(0, 40)


@st.composite
def topics(draw: st.DrawFn) -> dict[int, list[Delivery]]:
    """What each topic holds of a user, in offset order, with gaps, late events and repeated ids."""
    found = {}
    for topic in range(5):
        offset = draw(st.integers(0, 3))
        found[topic] = []
        for number in range(draw(st.integers(0, 6))):
            event = None if topic == REFRESH else draw(_events(topic, number))
            found[topic].append(Delivery(event, topic, 2, offset))
            offset += draw(st.integers(1, 3))
    return found


def _events(topic: int, number: int) -> st.SearchStrategy:
    event_id = st.just(f"{topic}-{number // 2}")  # some producers send an event twice
    if topic == CLICKSTREAM:
        return st.builds(
            Interaction,
            event_id=event_id,
            user_id=st.just("u"),
            event_time_ms=times,
            action=st.sampled_from(["click", "impression", "login"]),
            channel=st.sampled_from(["web", "branch"]),
        )
    if topic == TRANSACTIONS:
        return st.builds(
            Transaction,
            event_id=event_id,
            user_id=st.just("u"),
            event_time_ms=times,
            kind=st.just("purchase"),
            amount_usd=st.sampled_from([1.0, 2.5]),
        )
    if topic == CONVERSIONS:
        return st.builds(
            Conversion,
            event_id=event_id,
            user_id=st.just("u"),
            event_time_ms=times,
            item_id=st.just("card"),
        )
    return st.builds(
        Consent,
        user_id=st.just("u"),
        event_time_ms=times,
        marketing=st.sampled_from(MARKETING),
        effective_from_ms=times,
    )


def interleaved(queues: dict[int, list[Delivery]], random) -> list[Delivery]:
    left = {topic: list(queue) for topic, queue in queues.items() if queue}
    out = []
    while left:
        topic = random.choice(sorted(left))
        out.append(left[topic].pop(0))
        if not left[topic]:
            del left[topic]
    return out


@settings(max_examples=40)
@given(topics(), st.randoms(use_true_random=False))
def test_any_interleaving_of_topics_gives_the_same_state(queues, random):
    one, other = interleaved(queues, random), interleaved(queues, random)
    assert pack(fold(UserState(), one).state) == pack(fold(UserState(), other).state)


@settings(max_examples=40)
@given(topics(), st.randoms(use_true_random=False), st.integers(1, 5))
def test_one_by_one_and_in_batches_give_the_same_state(queues, random, size):
    deliveries = interleaved(queues, random)
    at_once = fold(UserState(), deliveries).state
    state = UserState()
    for start in range(0, len(deliveries), size):
        state = fold(state, deliveries[start : start + size]).state
    assert pack(state) == pack(at_once)
    assert state.version == len(deliveries)


@settings(max_examples=40)
@given(topics(), st.randoms(use_true_random=False), st.data())
def test_what_is_delivered_again_changes_nothing(queues, random, data):
    deliveries = interleaved(queues, random)
    state = fold(UserState(), deliveries).state
    again = data.draw(st.lists(st.sampled_from(deliveries), max_size=9)) if deliveries else []
    found = fold(state, again)
    assert found.state is state
    assert (found.num_applied, found.num_redelivered) == (0, len(again))


@settings(max_examples=40)
@given(topics(), st.randoms(use_true_random=False), st.data())
def test_a_worker_that_dies_between_write_and_commit_applies_each_event_once(queues, random, data):
    deliveries = interleaved(queues, random)
    written = data.draw(st.integers(0, len(deliveries)))
    committed = data.draw(st.integers(0, written))
    state = fold(UserState(), deliveries[:written]).state
    resumed = fold(state, deliveries[committed:])
    assert pack(resumed.state) == pack(fold(UserState(), deliveries).state)
    assert resumed.num_redelivered == written - committed


@settings(max_examples=40)
@given(topics(), st.randoms(use_true_random=False))
def test_the_history_of_a_state_is_the_bounded_log_of_its_events(queues, random):
    deliveries = interleaved(queues, random)
    rows = [row_of(d.event) for d in deliveries if isinstance(d.event, _WITH_ROWS)]
    expected = bounded(ordered(np.array(rows, ROW))) if rows else EMPTY
    state = fold(UserState(), deliveries).state
    assert state.history.tobytes() == expected.tobytes()
    assert state.last_event_ms == max((int(row[0]) for row in rows), default=0)


_WITH_ROWS = (Interaction, Transaction, Conversion)


def click(offset: int, topic: int = CLICKSTREAM, partition: int = 0) -> Delivery:
    event = Interaction(
        event_id=f"{topic}/{partition}/{offset}", user_id="u", event_time_ms=offset, action="click"
    )
    return Delivery(event, topic, partition, offset)


def test_offsets_are_kept_for_each_topic_and_partition():
    found = fold(UserState(), [click(5), click(9, partition=1), click(2, topic=2), click(7)])
    assert found.state.offsets.tolist() == [(0, 0, 7), (1, 0, 9), (0, 2, 2)]
    assert found.state.version == 4
    # The same offset of another partition is another delivery.
    assert fold(found.state, [click(7, partition=1)]).num_applied == 0
    assert fold(found.state, [click(10, partition=1)]).num_applied == 1
    assert fold(found.state, [click(7, partition=3)]).num_applied == 1


def test_a_repeat_within_a_batch_is_ignored():
    found = fold(UserState(), [click(1), click(1), click(2), click(1)])
    assert (found.num_applied, found.num_redelivered) == (2, 2)
    assert len(found.state.history) == 2


def test_a_request_to_build_anew_counts_as_applied_and_adds_nothing():
    found = fold(UserState(), [Delivery(None, REFRESH, 0, 0)])
    assert (found.state.version, len(found.state.history), found.num_applied) == (1, 0, 1)


def test_a_fold_leaves_the_old_state_alone_and_its_hidden_states_behind():
    before = fold(UserState(), [click(1)]).state.with_hidden(np.ones(4, np.float16), 2)
    packed = pack(before)
    after = fold(before, [click(2)]).state
    assert pack(before) == packed
    assert (after.version, after.state_version, after.model) == (2, 1, 2)


def nightly(**changes) -> Nightly:
    given_ = {
        "enrollments": ["savings", "checking"],
        "tenure_days": [1, 2, 0, 0, 0, 0, 0, 0],
        "tenure_bank_days": 2,
        "static_ms": 50,
    }
    return Nightly(**(given_ | changes))


def test_nightly_features_reach_context_and_eligibility():
    state = with_nightly(UserState(), nightly())
    assert state.enrollments == 0b11
    assert (state.tenure_days, state.static_ms, state.night_ms) == (2, 50, 0)
    expected = encode_static(["checking", "savings"], [1, 2, 0, 0, 0, 0, 0, 0], 2)
    assert state.static.tobytes() == expected.tobytes()


@pytest.mark.parametrize("names", [["savings", "savings"], ["savings", "a product of tomorrow"]])
def test_a_repeated_or_unknown_enrollment_changes_no_other(names):
    assert with_nightly(UserState(), nightly(enrollments=names)).enrollments == 1 << (
        ENROLLMENTS.index("savings")
    )


def test_a_night_without_an_embedding_keeps_the_last_one():
    vector = np.ones(FM_WIDTH, np.float16)
    state = with_nightly(UserState(), nightly(fm=vector, night_ms=40))
    assert (len(state.fm), state.night_ms) == (FM_WIDTH, 40)
    later = with_nightly(state, nightly(static_ms=60))
    assert (later.static_ms, later.night_ms, len(later.fm)) == (60, 40, FM_WIDTH)


def test_no_nightly_features_leave_the_context_missing():
    state = UserState()
    assert with_nightly(state, None) is state
    assert state.static.tobytes() == missing_static().tobytes()


@settings(max_examples=30)
@given(st.lists(_events(CLICKSTREAM, 0), max_size=30), st.randoms(use_true_random=False))
def test_online_state_and_offline_log_give_the_models_the_same_bytes(events, random):
    events = [
        msgspec.structs.replace(event, event_id=f"e{place}") for place, event in enumerate(events)
    ]
    arrived = random.sample(events, len(events))
    one_by_one = UserState()
    for offset, event in enumerate(arrived):
        one_by_one = fold(one_by_one, [Delivery(event, CLICKSTREAM, 0, offset)]).state
    log = ordered(
        interaction_rows(
            InteractionColumns(
                event_id=[event.event_id for event in events],
                event_time_ms=np.array([event.event_time_ms for event in events], np.int64),
                position=np.zeros(len(events), np.int64),
                **{
                    name: Coded.of([getattr(event, name) for event in events])
                    for name in _CODED_COLUMNS
                },
            )
        )
    )
    offline = as_of(log, len(log))
    assert hashed(one_by_one.history) == hashed(offline)


_CODED_COLUMNS = (
    "action",
    "channel",
    "product",
    "page",
    "placement",
    "layout",
    "item_id",
    "device",
)


def hashed(history: np.ndarray) -> str:
    """SHA-256 of a history and of everything that the encoder makes of it."""
    encoded = encode_histories([history])
    parts = (history, *encoded.arrays, encoded.latest_BF)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
