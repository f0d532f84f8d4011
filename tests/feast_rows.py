"""Rows as Feast's own stock Redis store writes them; the import of Feast is slow, so it is apart."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import FloatList, StringList, Value

from features.spec import VIEWS

_VIEWS = {view.name: view for view in VIEWS}


def to_value(dtype: str, value: Any) -> Value:
    """A feature as Feast's message."""
    if dtype == "string_list":
        return Value(string_list_val=StringList(val=value))
    if dtype == "float32_list":
        return Value(float_list_val=FloatList(val=np.asarray(value).tolist()))
    return Value(**{f"{dtype.replace('float32', 'float')}_val": value})


def online_write(
    address: str, view: str, rows: Sequence[tuple[str, int, Mapping[str, Any]]]
) -> None:
    """Feast's stock `online_write_batch`, not a line of ours: (user, event time in ms, values)."""
    dtypes = {feature.name: feature.dtype for feature in _VIEWS[view].features}
    config = SimpleNamespace(
        project="fintrec",
        online_store=RedisOnlineStoreConfig(connection_string=address),
        registry=SimpleNamespace(enable_online_feature_view_versioning=False),
        entity_key_serialization_version=3,
    )
    data = [
        (
            EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user_id)]),
            {name: to_value(dtypes[name], value) for name, value in values.items()},
            datetime.fromtimestamp(time_ms / 1000, UTC),
            None,
        )
        for user_id, time_ms, values in rows
    ]
    RedisOnlineStore().online_write_batch(config, SimpleNamespace(name=view), data, None)
