"""Feast's entities, feature views and feature services, derived from the registry in `features/`.

Change a feature in `features/spec.py`, never here. `feast apply` imports this file; it makes an
empty batch table where none is yet, so that `apply`, `materialize` and point-in-time joins work
before the first nightly job has run.
"""

import os
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from feast import (
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    Project,
    PushSource,
    ValueType,
)
from feast.types import Array, Bytes, FeastType, Float32, Int64, String

from features import spec

_TYPES: dict[spec.Dtype, tuple[FeastType, pa.DataType]] = {
    "int64": (Int64, pa.int64()),
    "float32": (Float32, pa.float32()),
    "bytes": (Bytes, pa.binary()),
    "string": (String, pa.string()),
    "string_list": (Array(String), pa.list_(pa.string())),
    "float32_list": (Array(Float32), pa.list_(pa.float32())),
}
_DIRECTORY = Path(os.environ.get("FINTREC_DIR", Path(__file__).parents[1] / ".fintrec")).resolve()
_BATCH = _DIRECTORY / "feast" / "batch"

project = Project(name="fintrec", description="context-aware ranking of bank content")
user = Entity(
    name="user",
    join_keys=["user_id"],
    value_type=ValueType.STRING,
    description="a person who banks here; every event topic is keyed by it",
)
item = Entity(
    name="item",
    join_keys=["item_id"],
    value_type=ValueType.STRING,
    description="a piece of content that a slate can show",
)
_ENTITIES = {"user": user, "item": item}


def _batch_table(view: spec.View) -> Path:
    path = _BATCH / f"{view.name}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        stamp = pa.timestamp("us", tz="UTC")
        columns = [
            (_ENTITIES[view.entity].join_key, pa.string()),
            ("event_timestamp", stamp),
            ("created_timestamp", stamp),
            *((feature.name, _TYPES[feature.dtype][1]) for feature in view.features),
        ]
        pq.write_table(pa.schema(columns).empty_table(), path)
    return path


def _source(view: spec.View) -> FileSource | PushSource:
    batch = FileSource(
        name=f"{view.name}_batch",
        path=str(_batch_table(view)),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description=f"{view.name} by night",
    )
    if view.written_by == "nightly batch":
        return batch
    return PushSource(
        name=f"{view.name}_push",
        batch_source=batch,
        description=f"written by the {view.written_by}",
    )


def _feature_view(view: spec.View) -> FeatureView:
    return FeatureView(
        name=view.name,
        entities=[_ENTITIES[view.entity]],
        ttl=timedelta(milliseconds=view.ttl_ms),
        schema=[
            Field(
                name=feature.name,
                dtype=_TYPES[feature.dtype][0],
                description=feature.description,
                tags={"unit": feature.unit} if feature.unit else {},
            )
            for feature in view.features
        ],
        source=_source(view),
        description=view.description,
        tags={"written_by": view.written_by},
    )


user_static = _feature_view(spec.USER_STATIC)
user_fm = _feature_view(spec.USER_FM)
user_intraday = _feature_view(spec.USER_INTRADAY)
user_state = _feature_view(spec.USER_STATE)
user_consent = _feature_view(spec.USER_CONSENT)
item_profile = _feature_view(spec.ITEM_PROFILE)

pctr_v1 = FeatureService(
    name="pctr_v1",
    features=[user_static, user_fm, user_intraday],
    description="context of the click model: F_s, F_fm, F_d",
)
pcvr_v1 = FeatureService(
    name="pcvr_v1",
    features=[user_static, user_fm, user_intraday],
    description="context of the conversion model: F_s, F_fm, F_d",
)
