"""The nightly job: batch features into Feast, then every user's state built anew from them.

The batch tables and the lake keep every night, for point-in-time retrieval and for training; the
online store gets the last one. One refresh record a user goes onto the internal topic, so the worker
that owns the user repacks the state and no second writer is needed.
"""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureStore
from kafka import KafkaProducer

from features.errors import ConfigurationError, FintrecError
from features.spec import ITEM_PROFILE, USER_STATIC
from streams.clients import feast_connection_string, kafka_python_config
from streams.feast_repo import apply, write_batch
from streams.lake_nights import copy_nights
from streams.refresh import refresh_record
from streams.settings import Settings

_STAMP = pa.timestamp("us", tz="UTC")


def run_nightly(settings: Settings, log_dir: Path) -> dict[str, int]:
    """Apply the feature repository and load a log's nightly tables; counts by what was done."""
    store = apply(settings.stack_dir, feast_connection_string(settings), settings.feast_repo)
    static = _table(log_dir / "user_static")
    num_static = _load(store, settings.stack_dir, USER_STATIC.name, static)
    items = _table(log_dir / "items.v1")
    num_items = _load(store, settings.stack_dir, ITEM_PROFILE.name, _profiles(items, static))
    copy_nights(log_dir, settings.lake_dir)
    users = [str(user) for user in pc.unique(static.column("user_id")).to_pylist()]
    return {
        "user_static_rows": num_static,
        "item_profile_rows": num_items,
        "refreshed_users": refresh(settings, users),
    }


def refresh(settings: Settings, user_ids: list[str]) -> int:
    """Ask for these users' states to be built anew; returns when the brokers have every record.

    Raises FintrecError when one was not taken.
    """
    producer = KafkaProducer(**kafka_python_config(settings), acks="all", linger_ms=5)
    try:
        sent = []
        for user_id in user_ids:
            record = refresh_record(user_id, "nightly")
            sent.append(producer.send(record.topic, key=record.key, value=record.value))
        producer.flush()
        for place, future in enumerate(sent):
            if future.failed():
                raise FintrecError(f"refresh of {user_ids[place]} not taken: {future.exception}")
        return len(sent)
    finally:
        producer.close()


def _table(path: Path) -> pa.Table:
    if not path.exists():
        raise ConfigurationError(f"{path} is missing: is {path.parent} a log directory?")
    return pq.read_table(path)


def _load(store: FeatureStore, directory: Path, view: str, table: pa.Table) -> int:
    """Write every night of a table, materialise the last one."""
    num_rows = write_batch(directory, view, table)
    last = pc.max(table.column("event_timestamp").cast(_STAMP)).value
    # Feast takes the start in and leaves the end out.
    store.materialize(_utc(last), _utc(last + 1), feature_views=[view])
    return num_rows


def _profiles(items: pa.Table, static: pa.Table) -> pa.Table:
    """The catalogue as of the last night, in the columns of the `item_profile` view."""
    night = pc.max(static.column("event_timestamp").cast(_STAMP)).value
    stamps = pa.array([night] * items.num_rows, pa.int64()).cast(_STAMP)
    table = items.select(["item_id", *ITEM_PROFILE.feature_names])
    return table.append_column("event_timestamp", stamps).append_column("created_timestamp", stamps)


def _utc(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1_000_000, UTC)
