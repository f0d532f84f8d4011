"""Our store class under Feast's own readers and writers, and the hot path beside them."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from redis.exceptions import TimeoutError as RedisTimeout

from features.errors import ConfigurationError, StoreUnavailable
from features.freshness import Freshness
from features.spec import ENROLLMENTS, USER_INTRADAY, VIEWS
from streams.feast_repo import (
    FEATURE_REPO,
    apply,
    batch_path,
    open_store,
    publish_batch,
    publish_user_static,
    write_batch,
)
from streams.online_store import FintrecOnlineStore, FintrecOnlineStoreConfig
from streams.ports import StateWrite
from streams.state_store import RedisStateStore
from tests.valkey import Valkey, valkey_server

pytestmark = [
    pytest.mark.integration,
    # Feast on pandas 3 and dask; nothing of ours.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

NOW = 1_790_000_000_123


def state(version: int) -> bytes:
    return bytes(8) + version.to_bytes(8, "little") + bytes(200)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey_server(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def store(valkey: Valkey, directory: Path) -> FeatureStore:
    return apply(directory, valkey.address)


@pytest.fixture
def hot(store: FeatureStore, valkey: Valkey) -> RedisStateStore:
    with valkey.client() as client:
        client.flushall()
    store.config.online_store.hot_timeout_ms = 5_000
    online = store._get_provider().online_store
    assert isinstance(online, FintrecOnlineStore)
    return online.bind(store.config)


def online(store: FeatureStore, features: list[str], *users: str) -> dict[str, list[object]]:
    rows = [{"user_id": user_id} for user_id in users]
    found: dict[str, list[object]] = store.get_online_features(features, rows).to_dict()
    return found


def static_table(*rows: tuple[str, int, list[str]], tenure: int = 30) -> pa.Table:
    """(user, event time in ms, enrollments)."""
    stamp = pa.timestamp("ms", tz="UTC")
    columns = {
        "user_id": pa.array([user_id for user_id, _, _ in rows]),
        "event_timestamp": pa.array([time_ms for _, time_ms, _ in rows], pa.int64()).cast(stamp),
        "created_timestamp": pa.array([t + 3_600_000 for _, t, _ in rows], pa.int64()).cast(stamp),
        "enrollments": pa.array([owned for _, _, owned in rows], pa.list_(pa.string())),
        "tenure_bank": pa.array([tenure] * len(rows), pa.int32()),
    }
    for name in ENROLLMENTS:
        columns[f"tenure_{name}"] = pa.array([tenure * (name in owned) for _, _, owned in rows])
    return pa.table(columns)


def test_the_registry_holds_what_the_feature_registry_declares(store: FeatureStore) -> None:
    views = {view.name: view for view in store.list_feature_views()}
    assert set(views) == {view.name for view in VIEWS}
    for view in VIEWS:
        stored = views[view.name]
        assert [field.name for field in stored.features] == list(view.feature_names)
        assert stored.ttl == timedelta(milliseconds=view.ttl_ms)
        assert stored.entities == [view.entity]
        assert (stored.stream_source is not None) == (view.written_by == "ingest worker")
        assert stored.batch_source.created_timestamp_column == "created_timestamp"
    assert {entity.name: entity.join_key for entity in store.list_entities()} == {
        "user": "user_id",
        "item": "item_id",
    }
    assert {service.name for service in store.list_feature_services()} == {"pctr_v1", "pcvr_v1"}


def test_applying_again_changes_nothing(
    store: FeatureStore, directory: Path, valkey: Valkey
) -> None:
    before = {view.name: view for view in store.list_feature_views()}
    again = apply(directory, valkey.address)
    assert {view.name: view for view in again.list_feature_views()} == before


def test_the_checkout_stays_clean(store: FeatureStore, directory: Path) -> None:
    assert {path.name for path in FEATURE_REPO.iterdir()} - {"__pycache__"} == {
        "__init__.py",
        "definitions.py",
        "feature_store.yaml",
    }
    assert (directory / "feast" / "registry.db").exists()


def test_feasts_readers_see_what_the_hot_path_wrote(
    store: FeatureStore, hot: RedisStateStore
) -> None:
    intraday = list(range(-1, len(USER_INTRADAY.features) - 1))
    hot.compare_and_set([StateWrite("ann", 0, state(7), NOW, intraday, ("opted_out", NOW - 1_000))])
    names = [f"user_intraday:{name}" for name in USER_INTRADAY.feature_names]
    names += ["user_state:packed", "user_consent:marketing", "user_consent:effective_from"]
    found = online(store, names, "ann", "bob")
    for name, value in zip(USER_INTRADAY.feature_names, intraday, strict=True):
        assert found[name] == [value, None]
    assert found["packed"] == [state(7), None]
    assert found["marketing"] == ["opted_out", None]
    assert found["effective_from"] == [NOW - 1_000, None]


def test_feasts_reader_sees_our_event_time(store: FeatureStore, hot: RedisStateStore) -> None:
    hot.compare_and_set([StateWrite("ann", 0, state(1), NOW)])
    response = store.get_online_features(["user_state:packed"], [{"user_id": "ann"}]).proto
    assert response.results[-1].event_timestamps[0].ToMilliseconds() == NOW


def test_the_hot_path_reads_what_feasts_writers_wrote(
    store: FeatureStore, hot: RedisStateStore
) -> None:
    vector = np.linspace(0, 1, 768, dtype=np.float32)
    frame = pd.DataFrame(
        {
            "user_id": ["ann"],
            "fm_embedding": [vector],
            "fm_version": ["fm-2"],
            "fm_night": [NOW],
            "event_timestamp": [pd.Timestamp(NOW, unit="ms", tz="UTC")],
            "created_timestamp": [pd.Timestamp(NOW, unit="ms", tz="UTC")],
        }
    )
    store.write_to_online_store("user_fm", frame)
    row = hot.read_views(["ann"], ["user_fm"], NOW)[0]["user_fm"]
    assert (row.freshness, row.event_time_ms) == (Freshness.PRESENT, NOW)
    assert (row.values["fm_version"], row.values["fm_night"]) == ("fm-2", NOW)
    np.testing.assert_array_equal(row.values["fm_embedding"], vector)


def test_a_push_goes_through_the_same_rows(store: FeatureStore, hot: RedisStateStore) -> None:
    hot.compare_and_set([StateWrite("ann", 0, state(1), NOW)])
    frame = pd.DataFrame(
        {
            "user_id": ["ann"],
            "marketing": ["granted"],
            "effective_from": [NOW],
            "event_timestamp": [pd.Timestamp(NOW, unit="ms", tz="UTC")],
            "created_timestamp": [pd.Timestamp(NOW, unit="ms", tz="UTC")],
        }
    )
    store.push("user_consent_push", frame)
    row = hot.read_views(["ann"], ["user_consent"], NOW)[0]["user_consent"]
    assert row.values == {"marketing": "granted", "effective_from": NOW}
    assert hot.read_packed(["ann"]) == [state(1)]


def test_the_nightly_table_is_materialized_and_leaves_states_alone(
    store: FeatureStore, hot: RedisStateStore, directory: Path, tmp_path: Path
) -> None:
    hot.compare_and_set([StateWrite("ann", 0, state(1), NOW)])
    table = static_table(
        ("ann", NOW - 86_400_000, ["savings"]),
        ("ann", NOW, ["savings", "mortgage"]),
        ("bob", NOW - 1, []),
    )
    pa.parquet.write_table(table, tmp_path / "night.parquet")
    assert publish_user_static(store, directory, tmp_path / "night.parquet") == 3
    ann, bob = hot.read_views(["ann", "bob"], ["user_static"], NOW)
    assert ann["user_static"].values["enrollments"] == ["savings", "mortgage"]
    assert ann["user_static"].values["tenure_mortgage"] == 30
    assert ann["user_static"].event_time_ms == NOW
    assert bob["user_static"].event_time_ms == NOW - 1
    assert bob["user_static"].values["tenure_bank"] == 30
    assert online(store, ["user_static:tenure_bank"], "bob")["tenure_bank"] == [30]
    assert hot.compare_and_set([StateWrite("ann", 1, state(2), NOW)]) == [True]


def test_a_second_night_replaces_the_first(
    store: FeatureStore, hot: RedisStateStore, directory: Path
) -> None:
    publish_batch(store, directory, "user_static", static_table(("ann", NOW, [])))
    later = static_table(("ann", NOW + 86_400_000, ["checking"]), tenure=31)
    publish_batch(store, directory, "user_static", later)
    row = hot.read_views(["ann"], ["user_static"], NOW + 86_400_000)[0]["user_static"]
    assert (row.values["tenure_checking"], row.event_time_ms) == (31, NOW + 86_400_000)


def test_point_in_time_joins_see_the_past_and_only_the_past(
    store: FeatureStore, directory: Path
) -> None:
    """Feast's file store leaves out an asked row that has no value at its time."""
    night = 86_400_000
    table = static_table(("ann", NOW - night, ["savings"]), ("ann", NOW, ["mortgage"]))
    write_batch(directory, "user_static", table)
    asked = [NOW - night - 1, NOW - night, NOW - 1, NOW, NOW + 3 * night, NOW + 4 * night]
    entities = pd.DataFrame(
        {
            "user_id": ["ann"] * len(asked),
            "event_timestamp": [pd.Timestamp(t, unit="ms", tz="UTC") for t in asked],
        }
    )
    found = store.get_historical_features(
        entities, ["user_static:tenure_savings", "user_static:tenure_mortgage"]
    ).to_df()
    found = found.sort_values("event_timestamp")
    times = found["event_timestamp"].map(lambda at: round(at.timestamp() * 1000)).tolist()
    rows = found[["tenure_savings", "tenure_mortgage"]].to_numpy(int).tolist()
    assert times == asked[1:5]
    assert rows == [[30, 0], [30, 0], [0, 30], [0, 30]]


def test_a_night_that_does_not_fit_is_refused(directory: Path, tmp_path: Path) -> None:
    good = static_table(("ann", NOW, []))
    with pytest.raises(ConfigurationError, match="tenure_bank"):
        write_batch(directory, "user_static", good.drop_columns("tenure_bank"))
    wrong = good.drop_columns("tenure_bank").append_column("tenure_bank", pa.array(["long"]))
    with pytest.raises(ConfigurationError, match="user_static"):
        write_batch(directory, "user_static", wrong)
    with pytest.raises(ConfigurationError, match="apply the feature repository first"):
        write_batch(tmp_path, "user_static", good)


def test_an_empty_night_materializes_nothing(store: FeatureStore, directory: Path) -> None:
    assert publish_batch(store, directory, "user_static", static_table()) == 0
    store.materialize_incremental(datetime.now(UTC))
    assert batch_path(directory, "user_state").exists()


def test_feasts_asynchronous_reader_works(store: FeatureStore, hot: RedisStateStore) -> None:
    hot.compare_and_set([StateWrite("ann", 0, state(3), NOW)])

    async def read() -> list[object]:
        response = await store.get_online_features_async(
            ["user_state:packed"], [{"user_id": "ann"}]
        )
        await store.close()
        packed: list[object] = response.to_dict()["packed"]
        return packed

    assert asyncio.run(read()) == [state(3)]


def test_a_frozen_store_holds_neither_feasts_readers_nor_the_hot_path(
    directory: Path, valkey: Valkey
) -> None:
    store = open_store(directory, valkey.address)
    store.config.online_store.timeout_ms = 100
    store.config.online_store.hot_timeout_ms = 50
    hot = store._get_provider().online_store.bind(store.config)
    online(store, ["user_state:packed"], "ann")
    valkey.freeze()
    try:
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            hot.read_packed(["ann"])
        with pytest.raises(RedisTimeout):
            online(store, ["user_state:packed"], "ann")
        took = time.monotonic() - started
    finally:
        valkey.thaw()
    # redis-py's own retries would take 12 seconds; the margin is for a busy machine.
    assert took < 6


def test_the_hot_path_refuses_a_format_that_it_does_not_write(store: FeatureStore) -> None:
    online_store = FintrecOnlineStore()
    config = store.config.model_copy(update={"entity_key_serialization_version": 2})
    with pytest.raises(ValueError, match="expected 3"):
        online_store.bind(config)
    expiring = FintrecOnlineStoreConfig(key_ttl_seconds=60)
    config = store.config.model_copy()
    config.online_config = expiring
    config._online_store = expiring
    with pytest.raises(ValueError, match="key_ttl_seconds"):
        online_store.bind(config)


def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FINTREC_REDIS_ADDRESS", raising=False)
    assert FintrecOnlineStoreConfig().connection_string == "127.0.0.1:6379"
    monkeypatch.setenv("FINTREC_REDIS_ADDRESS", "redis.example:6380,ssl=true")
    assert FintrecOnlineStoreConfig().connection_string == "redis.example:6380,ssl=true"


def test_an_entity_key_made_by_feast_finds_our_row(
    store: FeatureStore, hot: RedisStateStore
) -> None:
    hot.compare_and_set([StateWrite("ann", 0, state(2), NOW)])
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val="ann")])
    rows = store._get_provider().online_store.online_read(
        store.config, store.get_feature_view("user_state"), [key], ["packed"]
    )
    assert rows[0][1]["packed"].bytes_val == state(2)
