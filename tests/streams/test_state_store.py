"""One contract, kept by the store on a real server and by its in-memory twin."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from features.errors import StateCorrupt, StoreUnavailable
from features.freshness import Freshness
from features.spec import DAY_MS, USER_INTRADAY, VIEWS
from streams.feast_format import entity_key, feature_field
from streams.local_stack.processes import free_ports
from streams.ports import StateStore, StateWrite, version_of
from streams.redis_client import connect
from streams.state_store import RedisStateStore
from tests.fakes import InMemoryStateStore
from tests.valkey import Valkey, valkey_server

NOW = 1_790_000_000_123
STAMP = "_ts:user_state"


def state(version: int, size: int = 600) -> bytes:
    """A packed state as the store sees it: a version at its place, the rest is not its business."""
    rng = np.random.default_rng(version)
    return rng.bytes(8) + version.to_bytes(8, "little") + rng.bytes(size - 16)


def write(
    user_id: str, expected: int, version: int | None = None, time_ms: int = NOW, **rest: Any
) -> StateWrite:
    version = expected + 1 if version is None else version
    return StateWrite(user_id, expected, state(version), time_ms, **rest)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey_server(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey_server(tmp_path_factory.mktemp("cluster"), cluster=True) as server:
        with server.client() as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                time.sleep(0.02)
        yield server


def opened(server: Valkey, topology: Any = "redis", timeout_ms: int = 5_000) -> RedisStateStore:
    return RedisStateStore(lambda: connect(server.address, timeout_ms, topology), "fintrec")


@dataclass
class World:
    """A store and the way in which Feast's own writers put a row into it."""

    store: StateStore
    put_view: Callable[[str, str, int, Mapping[str, Any]], None]


def by_feast(server: Valkey) -> Callable[[str, str, int, Mapping[str, Any]], None]:
    """Feast's stock Redis writer; `values` become its protos."""
    from tests.feast_rows import online_write

    return lambda user_id, view, time_ms, values: online_write(
        server.address, view, [(user_id, time_ms, values)]
    )


@pytest.fixture(
    params=[
        "in memory",
        pytest.param("valkey", marks=pytest.mark.integration),
        pytest.param("cluster", marks=pytest.mark.integration),
    ]
)
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "in memory":
        fake = InMemoryStateStore()
        return World(fake, fake.put_view)
    server: Valkey = request.getfixturevalue(request.param)
    with server.client() as client:
        client.flushall()
    topology = "redis_cluster" if request.param == "cluster" else "redis"
    return World(opened(server, topology), by_feast(server))


class TestStateStoreContract:
    def test_a_state_is_absent_until_it_is_written(self, world: World) -> None:
        assert world.store.read_packed(["ann", "bob"]) == [None, None]
        assert world.store.compare_and_set([write("ann", 0)]) == [True]
        assert world.store.read_packed(["bob", "ann"]) == [None, state(1)]

    def test_an_empty_batch_is_an_empty_answer(self, world: World) -> None:
        assert world.store.read_packed([]) == []
        assert world.store.compare_and_set([]) == []
        assert world.store.read_views([], ["user_static"], NOW) == []

    def test_only_the_version_that_was_read_can_be_replaced(self, world: World) -> None:
        assert world.store.compare_and_set([write("ann", 0), write("bob", 0)]) == [True, True]
        answer = world.store.compare_and_set(
            [write("ann", 0), write("bob", 1), write("cy", 4), write("ann", 7)]
        )
        assert answer == [False, True, False, False]
        assert world.store.read_packed(["ann", "bob", "cy"]) == [state(1), state(2), None]

    def test_a_frozen_worker_cannot_undo_its_successor(self, world: World) -> None:
        world.store.compare_and_set([write("ann", 0)])
        late = write("ann", 1, time_ms=NOW + 9_000)
        assert world.store.compare_and_set([write("ann", 1), write("ann", 2)]) == [True, True]
        assert world.store.compare_and_set([late]) == [False]
        assert version_of(world.store.read_packed(["ann"])[0]) == 3

    def test_a_fold_may_skip_versions_and_never_goes_back(self, world: World) -> None:
        assert world.store.compare_and_set([write("ann", 0, 5)]) == [True]
        assert world.store.compare_and_set([write("ann", 5, 900)]) == [True]
        with pytest.raises(ValueError, match="cannot follow version 900"):
            write("ann", 900, 899)
        with pytest.raises(ValueError, match="version 0 in 12 bytes"):
            StateWrite("ann", 0, bytes(12), NOW)

    def test_a_repair_keeps_the_version_and_loses_to_a_fold(self, world: World) -> None:
        world.store.compare_and_set([write("ann", 0)])
        repaired = state(1)[:-1] + b"!"
        repair = StateWrite("ann", 1, repaired, NOW)
        assert world.store.compare_and_set([repair]) == [True]
        assert world.store.read_packed(["ann"]) == [repaired]
        assert world.store.compare_and_set([write("ann", 1)]) == [True]
        assert world.store.compare_and_set([repair]) == [False]

    @pytest.mark.parametrize("version", [1, 127, 128, 255, 2**32, 2**53 + 1, 2**64 - 1])
    def test_versions_compare_exactly_over_all_of_64_bits(self, world: World, version: int) -> None:
        assert world.store.compare_and_set([write("ann", 0, version)]) == [True]
        near = version - 1 if version > 1 else 2
        high = 2**64 - 1
        assert world.store.compare_and_set([write("ann", near, high)]) == [False]
        assert world.store.compare_and_set([write("ann", version, high)]) == [True]

    @pytest.mark.parametrize("size", [16, 17, 120, 127, 128, 129, 16_383, 16_384, 300_000])
    def test_values_of_any_length_keep_their_version(self, world: World, size: int) -> None:
        first = StateWrite("ann", 0, state(3, size), NOW)
        assert world.store.compare_and_set([first]) == [True]
        assert world.store.read_packed(["ann"]) == [state(3, size)]
        assert world.store.compare_and_set([write("ann", 2), write("ann", 3)]) == [False, True]

    def test_late_and_equal_events_are_written_and_the_age_never_grows(self, world: World) -> None:
        world.store.compare_and_set([write("ann", 0, time_ms=NOW)])
        for version, time_ms in ((1, NOW), (2, NOW - 60_000), (3, NOW - 1), (4, 0)):
            assert world.store.compare_and_set([write("ann", version, time_ms=time_ms)]) == [True]
            row = world.store.read_views(["ann"], ["user_state"], NOW)[0]["user_state"]
            assert row.event_time_ms == NOW
            assert row.values["packed"] == state(version + 1)
        world.store.compare_and_set([write("ann", 5, time_ms=NOW + 1)])
        row = world.store.read_views(["ann"], ["user_state"], NOW)[0]["user_state"]
        assert row.event_time_ms == NOW + 1

    def test_typed_views_are_taken_or_refused_with_the_state(self, world: World) -> None:
        intraday = [(-1) ** n * 7**n for n in range(22)]
        intraday += [0] * (len(USER_INTRADAY.features) - len(intraday))
        first = write("ann", 0, intraday=intraday, consent=("granted", NOW - 5))
        refused = write("ann", 0, intraday=[9] * len(intraday), consent=("opted_out", NOW))
        assert world.store.compare_and_set([first, refused]) == [True, False]
        views = world.store.read_views(["ann"], ["user_intraday", "user_consent"], NOW)[0]
        assert views["user_intraday"].values == dict(
            zip(USER_INTRADAY.feature_names, intraday, strict=True)
        )
        assert views["user_consent"].values == {
            "marketing": "granted",
            "effective_from": NOW - 5,
        }
        assert {row.event_time_ms for row in views.values()} == {NOW}

    def test_a_write_without_typed_views_leaves_them_alone(self, world: World) -> None:
        world.store.compare_and_set([write("ann", 0, consent=("opted_out", NOW))])
        world.store.compare_and_set([write("ann", 1, time_ms=NOW + 50)])
        row = world.store.read_views(["ann"], ["user_consent"], NOW)[0]["user_consent"]
        assert (row.values["marketing"], row.event_time_ms) == ("opted_out", NOW)

    def test_intraday_values_must_fit_the_registry(self, world: World) -> None:
        with pytest.raises(ValueError, match=rf"got 2 .*expected {len(USER_INTRADAY.features)}"):
            world.store.compare_and_set([write("ann", 0, intraday=[1, 2])])

    def test_views_are_read_with_age_and_verdict(self, world: World) -> None:
        vector = np.linspace(-2, 2, 768, dtype=np.float32)
        world.put_view(
            "ann",
            "user_static",
            NOW - 2 * DAY_MS,
            {"enrollments": ["savings", "prêt", ""], "tenure_savings": 40, "tenure_bank": 400},
        )
        world.put_view(
            "ann", "user_fm", NOW - 8 * DAY_MS, {"fm_embedding": vector, "fm_version": "fm-3"}
        )
        ann, bob = world.store.read_views(
            ["ann", "bob"], ["user_static", "user_fm", "user_consent"], NOW
        )
        assert list(ann) == ["user_static", "user_fm", "user_consent"]
        assert ann["user_static"].freshness is Freshness.PRESENT
        assert ann["user_static"].event_time_ms == NOW - 2 * DAY_MS
        assert ann["user_static"].values == {
            "enrollments": ["savings", "prêt", ""],
            "tenure_savings": 40,
            "tenure_bank": 400,
        }
        assert ann["user_fm"].freshness is Freshness.STALE
        assert ann["user_fm"].values["fm_version"] == "fm-3"
        np.testing.assert_array_equal(ann["user_fm"].values["fm_embedding"], vector)
        assert ann["user_consent"].freshness is Freshness.MISSING
        assert ann["user_consent"].values == {}
        assert {row.freshness for row in bob.values()} == {Freshness.MISSING}

    def test_views_of_other_entities_are_refused_by_name(self, world: World) -> None:
        for name in ("item_profile", "user_typo"):
            with pytest.raises(ValueError, match=name):
                world.store.read_views(["ann"], [name], NOW)

    def test_feasts_writer_of_other_views_does_not_disturb_a_state(self, world: World) -> None:
        world.store.compare_and_set([write("ann", 0)])
        world.put_view("ann", "user_static", NOW, {"tenure_bank": 1})
        assert world.store.read_packed(["ann"]) == [state(1)]
        assert world.store.compare_and_set([write("ann", 1)]) == [True]

    def test_a_state_written_by_feasts_writer_can_be_replaced(self, world: World) -> None:
        world.put_view("ann", "user_state", NOW, {"packed": state(41)})
        assert world.store.read_packed(["ann"]) == [state(41)]
        assert world.store.compare_and_set([write("ann", 0), write("ann", 41)]) == [False, True]

    def test_a_value_too_short_for_a_version_counts_as_absent(self, world: World) -> None:
        world.put_view("ann", "user_state", NOW, {"packed": b"broken"})
        assert version_of(world.store.read_packed(["ann"])[0]) == 0
        assert world.store.compare_and_set([write("ann", 0)]) == [True]

    def test_of_concurrent_writers_one_wins_each_version(self, world: World) -> None:
        """Every writer folds until 25 of its writes were taken: none may be lost or doubled."""
        start = threading.Barrier(4)

        def fold(_: int) -> int:
            start.wait()
            taken = 0
            while taken < 25:
                version = version_of(world.store.read_packed(["ann"])[0])
                taken += world.store.compare_and_set([write("ann", version)])[0]
            return taken

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(fold, range(4))) == 100
        assert version_of(world.store.read_packed(["ann"])[0]) == 100

    def test_users_do_not_share_rows_whatever_their_ids_hold(self, world: World) -> None:
        users = ["", "a", "ab", "ü", "{x}", "a*", "a?[b]", "user_id", "fintrec", "x" * 300]
        writes = [write(user_id, 0, version) for version, user_id in enumerate(users, 1)]
        assert world.store.compare_and_set(writes) == [True] * len(users)
        assert world.store.read_packed(users) == [state(v) for v in range(1, len(users) + 1)]


@pytest.mark.integration
class TestOnTheServer:
    @pytest.fixture
    def store(self, valkey: Valkey) -> RedisStateStore:
        with valkey.client() as client:
            client.flushall()
        return opened(valkey)

    def test_a_server_that_lost_the_script_is_given_it_again(
        self, store: RedisStateStore, valkey: Valkey
    ) -> None:
        store.compare_and_set([write("ann", 0)])
        with valkey.client() as client:
            client.script_flush()
        assert store.compare_and_set([write("ann", 1), write("ann", 1)]) == [True, False]

    def test_the_newer_timestamp_stays_whatever_its_bytes(
        self, store: RedisStateStore, valkey: Valkey
    ) -> None:
        """Twin of the script's own decoder: random instants of every length of message."""
        rng = np.random.default_rng(5)
        key = entity_key("fintrec", "user_id", "ann")
        scales = [1, 1_000, 10**6, 2**28, 2**34, 2**35, 2**37]
        with valkey.client() as client:
            for version in range(400):
                base = int(rng.integers(rng.choice(scales)))
                stored = Timestamp(
                    seconds=base, nanos=int(rng.integers(10**9)) if rng.random() < 0.8 else 0
                )
                later = int(rng.choice([-(10**7), -1_000, -1, 0, 1, 1_000, 10**7]))
                given = max(0, stored.ToMilliseconds() + later)
                client.hset(key, STAMP, stored.SerializeToString())
                store.compare_and_set([write("ann", version, time_ms=given)])
                found = Timestamp.FromString(client.hget(key, STAMP) or b"")
                expected = Timestamp()
                expected.FromMilliseconds(given)
                assert found.ToNanoseconds() == max(
                    stored.ToNanoseconds(), expected.ToNanoseconds()
                ), (stored, given)

    def test_the_scan_finds_every_user_of_this_project_and_no_one_else(
        self, store: RedisStateStore, valkey: Valkey
    ) -> None:
        users = {f"u{n}" for n in range(500)} | {"fintrec", "x" * 90}
        assert all(store.compare_and_set([write(user_id, 0) for user_id in sorted(users)]))
        other = RedisStateStore(lambda: connect(valkey.address, 5_000), "myfintrec")
        other.compare_and_set([write("stranger", 0)])
        with valkey.client() as client:
            client.hset(entity_key("fintrec", "item_id", "i1"), "x", "y")
        found: set[str] = set()
        cursor, steps = 0, 0
        while steps == 0 or cursor:
            cursor, some = store.scan_users(cursor, 50)
            found.update(some)
            steps += 1
        assert found == users
        assert steps > 3

    def test_a_value_of_the_wrong_type_is_named(
        self, store: RedisStateStore, valkey: Valkey
    ) -> None:
        with valkey.client() as client:
            key = entity_key("fintrec", "user_id", "ann")
            client.hset(key, feature_field("user_consent", "marketing"), b"\x20\x07")
            client.hset(key, "_ts:user_consent", b"\x08\x07")
        with pytest.raises(StateCorrupt, match=r"user_consent of user 'ann'.*string"):
            store.read_views(["ann"], ["user_consent"], NOW)

    def test_a_key_of_another_kind_is_an_unavailable_store(
        self, store: RedisStateStore, valkey: Valkey
    ) -> None:
        with valkey.client() as client:
            client.set(entity_key("fintrec", "user_id", "ann"), "a string")
        for call in calls(store):
            with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
                call()

    def test_a_frozen_server_is_given_up_and_its_late_answers_are_not_believed(
        self, valkey: Valkey
    ) -> None:
        with valkey.client() as client:
            client.flushall()
        store = opened(valkey, timeout_ms=500)
        store.compare_and_set([write(user, 0, n) for n, user in enumerate(("ann", "bob"), 1)])
        valkey.freeze()
        try:
            for call in calls(store):
                with pytest.raises(StoreUnavailable, match="imeout"):
                    call()
        finally:
            valkey.thaw()
        opened(valkey).ping()
        assert store.read_packed(["bob", "ann", "bob"]) == [state(2), state(1), state(2)]

    def test_a_server_that_is_down_or_talks_nonsense_is_unavailable(self) -> None:
        down = RedisStateStore(lambda: connect(f"127.0.0.1:{free_ports(1)[0]}", 200), "fintrec")
        for call in calls(down):
            with pytest.raises(StoreUnavailable, match="reading|writing"):
                call()
        with nonsense() as address:
            garbled = RedisStateStore(lambda: connect(address, 200), "fintrec")
            for call in calls(garbled):
                with pytest.raises(StoreUnavailable):
                    call()

    def test_a_cluster_that_is_down_is_unavailable_too(self) -> None:
        address = f"127.0.0.1:{free_ports(1)[0]}"
        down = RedisStateStore(lambda: connect(address, 200, "redis_cluster"), "fintrec")
        for call in calls(down):
            with pytest.raises(StoreUnavailable):
                call()


def calls(store: RedisStateStore) -> list[Callable[[], object]]:
    """Every way to ask the store."""
    return [
        lambda: store.read_packed(["ann"]),
        lambda: store.compare_and_set([write("ann", 3)]),
        lambda: store.read_views(["ann"], ["user_static"], NOW),
    ]


class nonsense:
    """A listener that answers every connection with bytes that are not the Redis protocol."""

    def __enter__(self) -> str:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                try:
                    peer.recv(65_536)
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
                except OSError:
                    continue

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def test_the_fake_can_be_made_unavailable() -> None:
    fake = InMemoryStateStore()
    fake.fail = "gone for the test"
    with pytest.raises(StoreUnavailable, match="gone for the test"):
        fake.read_packed(["ann"])
    fake.fail = None
    assert fake.read_packed(["ann"]) == [None]
    assert fake.num_calls["read_packed"] == 2


def test_every_user_view_of_the_registry_can_be_read() -> None:
    names = [view.name for view in VIEWS if view.entity == "user"]
    rows = InMemoryStateStore().read_views(["ann"], names, NOW)[0]
    assert list(rows) == names
