import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from features.encoding import encode_histories
from features.errors import StoreUnavailable
from features.packed import UserState, pack, unpack
from features.records import Consent, Interaction, Transaction
from features.spec import DYNAMIC_FEATURES, ENROLLMENTS, FM_WIDTH
from streams.ingest import Ingest
from streams.ports import StateWrite
from streams.refresh import refresh_record
from streams.topics import CLICKSTREAM, CONSENTS, STATE_REFRESH, TRANSACTIONS
from tests.fakes import (
    FakeClock,
    InMemoryStateStore,
    LocalModels,
    RecordingProducer,
    served,
    served_model,
)
from tests.streams.workers import NOW_MS, SETTINGS, letter_of, received

MODEL = served_model(1, ("i0", "i1"))


class Worker:
    """An ingest worker on fakes."""

    def __init__(self, *models) -> None:
        self.clock, self.store = FakeClock(NOW_MS), InMemoryStateStore()
        self.triton, self.producer = LocalModels(2), RecordingProducer()
        self.models = served(self.triton, *(models or (MODEL,)))
        self.work = Ingest(
            SETTINGS, self.clock, self.store, self.triton, self.models, self.producer
        )

    def handle(self, *records) -> None:
        asyncio.run(self.work.handle(records))

    def state(self, user_id: str) -> UserState:
        (packed,) = self.store.read_packed([user_id])
        assert packed is not None
        return unpack(packed)

    def letters(self, topic: str) -> list[tuple[str, str, bytes | None]]:
        return [letter_of(one) for one in self.producer.values(f"{topic}.dead_letter")]


def click(number: int, user: str = "u", at: int = NOW_MS) -> Interaction:
    return Interaction(event_id=f"c{number}", user_id=user, event_time_ms=at, action="click")


def purchase(number: int, user: str = "u") -> Transaction:
    return Transaction(
        event_id=f"t{number}", user_id=user, event_time_ms=NOW_MS, kind="purchase", amount_usd=3
    )


def test_events_of_every_topic_become_one_state_with_hidden_states():
    worker = Worker()
    consent = Consent(
        user_id="u", event_time_ms=NOW_MS, marketing="granted", effective_from_ms=NOW_MS
    )
    worker.handle(
        received(CLICKSTREAM, click(1), 4),
        received(TRANSACTIONS, purchase(1), 2),
        received(CONSENTS, consent, 9),
        received(CLICKSTREAM, click(2, "v"), 5),
    )
    state = worker.state("u")
    assert (state.version, state.state_version, state.model) == (3, 3, 1)
    assert state.offsets.tolist() == [(0, 0, 4), (0, 1, 2), (0, 3, 9)]
    assert state.hidden[0] == len(state.history) == 2
    assert worker.state("v").version == 1
    assert worker.triton.calls == [("encode", 1, 2)]  # both users in one call


def test_bad_records_go_to_the_dead_letters_and_good_ones_beside_them_are_applied():
    worker = Worker()
    worker.handle(
        received(CLICKSTREAM, b"{not json", 1, key=b"u"),
        received(CLICKSTREAM, click(1), 2),
        received(CLICKSTREAM, None, 3, key=b"u"),
        received(CLICKSTREAM, click(2), 4, key=b"somebody else"),
        received(TRANSACTIONS, purchase(1), 5),
        received(CLICKSTREAM, click(3, at=NOW_MS + 3_600_000), 6),
        received(CLICKSTREAM, click(4, at=1), 7),
        received(TRANSACTIONS, {"schema_version": 2}, 8, key=b"u"),
        received(CLICKSTREAM, b'"' + b"x" * 70_000 + b'"', 9, key=b"u", partition=1),
        received(STATE_REFRESH, {"name": "u"}, 1, key=b"u"),
    )
    assert worker.state("u").version == 2
    assert [(at, reason) for at, reason, _ in worker.letters(CLICKSTREAM)] == [
        ("clickstream.v1[0]@1", "not_json"),
        ("clickstream.v1[0]@3", "not_json"),
        ("clickstream.v1[0]@4", "key_mismatch"),
        ("clickstream.v1[0]@6", "future"),
        ("clickstream.v1[0]@7", "ancient"),
        ("clickstream.v1[1]@9", "oversize"),
    ]
    assert worker.letters(CLICKSTREAM)[0][2] == b"{not json"
    assert [reason for _, reason, _ in worker.letters(TRANSACTIONS)] == ["unknown_version"]
    assert [reason for _, reason, _ in worker.letters(STATE_REFRESH)] == ["invalid"]


def test_a_batch_delivered_again_changes_nothing():
    worker = Worker()
    batch = [received(CLICKSTREAM, click(n), n) for n in range(3)]
    worker.handle(*batch)
    before = worker.store.read_packed(["u"])
    worker.handle(*batch)
    assert worker.store.read_packed(["u"]) == before
    assert len(worker.triton.calls) == 1


def test_while_the_store_is_down_the_batch_is_held_back_without_letters():
    worker = Worker()
    worker.store.fail = "connection refused"
    batch = [received(CLICKSTREAM, click(1), 1), received(CLICKSTREAM, b"[", 2, key=b"u")]
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            worker.handle(*batch)
    assert worker.producer.sent == []
    worker.store.fail = None
    worker.handle(*batch)
    assert worker.state("u").version == 1
    assert len(worker.letters(CLICKSTREAM)) == 1


def _no_answer(worker: Worker) -> None:
    worker.triton.fail = {"encode"}


def _other_shape(worker: Worker) -> None:
    worker.triton.spoil["encode"] = lambda hidden: hidden[:, :3]


def _too_few_rows(worker: Worker) -> None:
    worker.triton.spoil["encode"] = lambda hidden: hidden[1:]


def _no_version(worker: Worker) -> None:
    worker.models.served = {}


@pytest.mark.parametrize("trouble", [_no_answer, _other_shape, _too_few_rows, _no_version])
def test_without_usable_hidden_states_the_history_is_written_all_the_same(trouble):
    worker = Worker()
    worker.handle(received(CLICKSTREAM, click(1), 1))
    trouble(worker)
    worker.handle(received(CLICKSTREAM, click(2), 2))
    state = worker.state("u")
    assert (state.version, state.state_version, len(state.history)) == (2, 1, 2)
    assert state.hidden[0] == 1  # of the event before


def test_hidden_states_that_are_not_finite_are_kept_out_of_that_state_alone():
    worker = Worker()

    def spoil(hidden: np.ndarray) -> np.ndarray:
        hidden[0, 2] = np.nan
        return hidden

    worker.triton.spoil["encode"] = spoil
    worker.handle(received(CLICKSTREAM, click(1), 1), received(CLICKSTREAM, click(2, "v"), 2))
    assert (worker.state("u").version, worker.state("u").state_version) == (1, 0)
    assert (worker.state("v").version, worker.state("v").state_version) == (1, 1)


def overtaken(worker: Worker, times: int, by: Callable[[], None]) -> None:
    """Let someone else write between this worker's read and its write."""
    real = worker.store.compare_and_set
    left = [times]

    def late(writes: list[StateWrite]) -> list[bool]:
        if left[0]:
            left[0] -= 1
            by()
        return real(writes)

    worker.store.compare_and_set = late


def test_a_write_that_was_overtaken_is_read_again_and_applied_once():
    worker, other = Worker(), Worker()
    other.store = worker.store
    other.work = Ingest(
        SETTINGS, other.clock, worker.store, other.triton, other.models, other.producer
    )
    real = worker.store.compare_and_set

    def successor() -> None:
        worker.store.compare_and_set = real
        # The successor owns the partition by now and has applied offset 1 and the one behind it.
        batch = received(CLICKSTREAM, click(1), 1), received(CLICKSTREAM, click(2), 2)
        with ThreadPoolExecutor(1) as another_process:
            another_process.submit(other.handle, *batch).result()

    overtaken(worker, 1, successor)
    worker.handle(received(CLICKSTREAM, click(1), 1), received(TRANSACTIONS, purchase(1), 1))
    state = worker.state("u")
    assert (state.version, len(state.history)) == (3, 3)
    assert state.state_version == 3


def test_a_state_that_is_overtaken_again_and_again_holds_the_batch_back():
    worker = Worker()
    stored = worker.store
    version = [0]

    def by() -> None:
        version[0] += 1
        state = UserState(version=version[0])
        assert InMemoryStateStore.compare_and_set(
            stored, [StateWrite("u", version[0] - 1, pack(state), NOW_MS)]
        ) == [True]

    overtaken(worker, 9, by)
    with pytest.raises(StoreUnavailable, match="1 states were overtaken 4 times"):
        worker.handle(received(CLICKSTREAM, click(1), 1))


def test_a_state_that_cannot_be_read_is_built_anew_on_its_version():
    worker = Worker()
    broken = bytearray(pack(UserState(version=7)))
    broken[0] = 0
    worker.store.compare_and_set([StateWrite("u", 0, bytes(broken), NOW_MS)])
    worker.handle(received(CLICKSTREAM, click(1), 1))
    state = worker.state("u")
    assert (state.version, len(state.history)) == (8, 1)


def night(worker: Worker, user: str, days: int) -> None:
    tenures = {f"tenure_{name}": days for name in ENROLLMENTS}
    worker.store.put_view(
        user,
        "user_static",
        NOW_MS + days,
        {"enrollments": ["savings"], "tenure_bank": days, **tenures},
    )


def test_a_new_user_and_one_who_asks_get_their_nightly_features_and_others_do_not():
    worker = Worker()
    night(worker, "u", 3)
    worker.handle(received(CLICKSTREAM, click(1), 1))
    assert (worker.state("u").tenure_days, worker.state("u").enrollments) == (3, 0b10)
    night(worker, "u", 4)
    worker.handle(received(CLICKSTREAM, click(2), 2))
    assert worker.state("u").tenure_days == 3
    assert worker.store.num_calls["read_views"] == 1
    worker.handle(received(STATE_REFRESH, {"user_id": "u", "reason": "night"}, 1, key=b"u"))
    assert (worker.state("u").tenure_days, worker.state("u").version) == (4, 3)


def test_an_embedding_of_another_width_is_left_out():
    worker = Worker()
    night(worker, "u", 3)
    worker.store.put_view(
        "u", "user_fm", NOW_MS, {"fm_embedding": np.ones(FM_WIDTH - 1, np.float32)}
    )
    worker.handle(received(CLICKSTREAM, click(1), 1))
    assert len(worker.state("u").fm) == 0
    worker.store.put_view(
        "u", "user_fm", NOW_MS + 1, {"fm_embedding": np.ones(FM_WIDTH, np.float32)}
    )
    worker.handle(received(STATE_REFRESH, {"user_id": "u"}, 1, key=b"u"))
    assert (len(worker.state("u").fm), worker.state("u").night_ms) == (FM_WIDTH, NOW_MS + 1)


def test_the_typed_views_say_what_the_packed_state_says():
    worker = Worker()
    consent = Consent(user_id="u", event_time_ms=NOW_MS, marketing="opted_out", effective_from_ms=5)
    worker.handle(received(CLICKSTREAM, click(1), 1), received(CONSENTS, consent, 1))
    (views,) = worker.store.read_views(["u"], ["user_intraday", "user_consent"], NOW_MS)
    latest = encode_histories([worker.state("u").history]).latest_BF[0].tolist()
    names = [feature.name for feature in DYNAMIC_FEATURES]
    assert [views["user_intraday"].values[name] for name in names] == latest
    assert views["user_intraday"].values["events_count"] == 2
    assert views["user_consent"].values == {"marketing": "opted_out", "effective_from": 5}


def test_a_record_that_broke_the_code_becomes_a_dead_letter():
    worker = Worker()
    record = received(CLICKSTREAM, click(1), 1)
    asyncio.run(worker.work.refuse(record, ZeroDivisionError("by zero")))
    (letter,) = worker.producer.values("clickstream.v1.dead_letter")
    assert letter["reason"] == "internal_error"
    assert letter["message"] == "ZeroDivisionError: by zero"
    assert letter_of(letter)[2] == record.value


def test_a_dead_letter_is_never_too_large_for_its_topic():
    worker = Worker()
    record = received(CLICKSTREAM, b"x" * 3_000_000, 1, key=b"k" * 900_000)
    asyncio.run(worker.work.handle([record]))
    (letter,) = worker.producer.values("clickstream.v1.dead_letter")
    assert (letter["reason"], letter["truncated"]) == ("oversize", True)
    (sent,) = [r for r in worker.producer.sent if r.topic == "clickstream.v1.dead_letter"]
    assert len(sent.key) + len(sent.value) < 500_000


def test_a_refresh_under_a_foreign_key_is_refused():
    worker = Worker()
    value = refresh_record("bob", "nightly").value
    asyncio.run(worker.work.handle([received(STATE_REFRESH, value, 1, key=b"ada")]))
    (letter,) = worker.producer.values("state_refresh.v1.dead_letter")
    assert letter["reason"] == "key_mismatch"


def test_limits_of_the_border_are_settings():
    worker = Worker()
    tight = replace(SETTINGS, max_event_bytes=10)
    worker.work = Ingest(
        tight, worker.clock, worker.store, worker.triton, worker.models, worker.producer
    )
    worker.handle(received(CLICKSTREAM, click(1), 1))
    assert [reason for _, reason, _ in worker.letters(CLICKSTREAM)] == ["oversize"]
