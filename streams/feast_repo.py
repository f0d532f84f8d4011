"""Feast's registry and batch tables from a program: what `feast apply` and the nightly job do.

Importing Feast costs seconds, so this module is imported only by verbs that need it.
"""

import importlib.util
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import Entity, FeatureService, FeatureStore, FeatureView, Project

from features.errors import ConfigurationError
from fintrec.environment import environment

FEATURE_REPO: Final = Path(__file__).resolve().parents[1] / "feature_repo"
_STAMP: Final = pa.timestamp("us", tz="UTC")


def _environment(directory: Path, address: str) -> AbstractContextManager[None]:
    """The two variables that the definitions and `feature_store.yaml` are written for."""
    return environment(FINTREC_DIR=str(directory.resolve()), FINTREC_REDIS_ADDRESS=address)


def open_store(directory: Path, address: str, feature_repo: Path = FEATURE_REPO) -> FeatureStore:
    """Feast's store for this data directory and online store, as `apply` left it."""
    with _environment(directory, address):
        return _opened(feature_repo)


def _opened(feature_repo: Path) -> FeatureStore:
    store = FeatureStore(repo_path=str(feature_repo))
    # Both are made on first use, which must be while the environment is ours.
    assert store.config.online_store is not None
    assert store.registry is not None
    return store


def apply(directory: Path, address: str, feature_repo: Path = FEATURE_REPO) -> FeatureStore:
    """`feast apply` without the command line; running it again changes nothing.

    The registry and empty batch tables come to lie under `directory`/feast.
    """
    with _environment(directory, address):
        definitions = _definitions(feature_repo)
        store = _opened(feature_repo)
        kinds = (Project, Entity, FeatureView, FeatureService)
        objects: list[Any] = [v for v in vars(definitions).values() if isinstance(v, kinds)]
        store.apply(objects)
    return store


def _definitions(feature_repo: Path) -> ModuleType:
    """`definitions.py` run as a file, as Feast does: it is no library for this package."""
    spec = importlib.util.spec_from_file_location(
        "fintrec_feature_definitions", feature_repo / "definitions.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def batch_path(directory: Path, view: str) -> Path:
    """Where the batch table of a view lies."""
    return directory / "feast" / "batch" / f"{view}.parquet"


def write_batch(directory: Path, view: str, table: pa.Table) -> int:
    """Replaces the batch table of a view in one step; returns the number of rows.

    `table` has the columns of the empty table that `apply` made, in any order; times may have any
    unit. Raises `ConfigurationError` for missing columns or types that do not convert.
    """
    path = batch_path(directory, view)
    if not path.exists():
        raise ConfigurationError(f"no batch table at {path}: apply the feature repository first")
    schema = pq.read_schema(path)
    missing = set(schema.names) - set(table.column_names)
    if missing:
        raise ConfigurationError(f"batch table of {view} lacks the columns {sorted(missing)}")
    try:
        table = table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigurationError(f"batch table of {view}: {error}") from error
    part = path.with_suffix(".part")
    pq.write_table(table, part)
    part.replace(path)
    return table.num_rows


def publish_batch(store: FeatureStore, directory: Path, view: str, table: pa.Table) -> int:
    """Writes a night's table of a view and materializes all of it; returns the number of rows."""
    num_rows = write_batch(directory, view, table)
    if num_rows:
        times = table.column("event_timestamp").cast(_STAMP)
        start = _utc(pc.min(times).value)
        # Feast leaves the end out.
        end = _utc(pc.max(times).value + 1)
        store.materialize(start, end, feature_views=[view])
    return num_rows


def publish_user_static(store: FeatureStore, directory: Path, source: Path) -> int:
    """The nightly job's step for F_s: `source` is a Parquet file or folder of `user_static` rows.

    Columns: user_id, event_timestamp, created_timestamp, enrollments, tenure_*.
    """
    return publish_batch(store, directory, "user_static", pq.read_table(source))


def _utc(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1_000_000, UTC)
