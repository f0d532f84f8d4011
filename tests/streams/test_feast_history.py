"""Feast's historical retrieval and our own builder see the same nightly row at every decision."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from feast import FeatureStore

from features.encoding import encode_static, missing_static
from features.spec import DAY_MS, ENROLLMENTS, USER_STATIC
from fintrec import logs
from fintrec.bank.simulate import SIZES, simulate
from fintrec.datasets import DatasetConfig, Decisions, TrainingSet, build_training_set
from streams.feast_repo import FEATURE_REPO, apply, write_batch
from tests.valkey import Valkey, valkey_server

pytestmark = [
    pytest.mark.integration,
    # Feast on pandas 3 and dask; nothing of ours.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

END_MS = 1_795_000_000_000
NUM_SAMPLED = 400
FEATURES = [f"user_static:{name}" for name in USER_STATIC.feature_names]
Halfs = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Nights:
    """A log whose nightly rows are untidy, its training set, and Feast with the same rows."""

    training: TrainingSet
    table: pa.Table
    store: FeatureStore
    directory: Path
    valkey: Valkey


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey_server(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="module")
def nights(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    log_dir = tmp_path_factory.mktemp("bank") / "log"
    simulate(SIZES["tiny"], 4, END_MS, log_dir)
    table = logs.read_table(log_dir, logs.USER_STATIC_TABLE)
    user = logs.coded(table, "user_id").codes
    cutoff = logs.milliseconds(table, "event_timestamp")
    day = (cutoff - cutoff.min()) // DAY_MS
    # A third of the users miss most nights, so that rows grow older than the view keeps; some have
    # none at all; and some nights come a day and a half late, after the next one.
    kept = ((user % 3 != 0) | (day % 9 == 0)) & (user % 10 != 7)
    late_us = np.where((user % 4 == 0) & (day % 3 == 0), DAY_MS * 3 // 2, 0) * 1000
    created = pc.add(table["created_timestamp"].cast(pa.int64()), pa.array(late_us))
    place = table.column_names.index("created_timestamp")
    table = table.set_column(
        place, "created_timestamp", created.cast(table.schema.field("created_timestamp").type)
    ).filter(pa.array(kept))
    for folder in (log_dir / logs.USER_STATIC_TABLE).glob("day=*"):
        for part in folder.glob("*.parquet"):
            part.unlink()
    logs.write_table(log_dir, logs.USER_STATIC_TABLE, table)
    directory = tmp_path_factory.mktemp("data")
    store = apply(directory, valkey.address)
    plain = table.set_column(0, "user_id", table["user_id"].cast(pa.string()))
    write_batch(directory, USER_STATIC.name, plain)
    training = build_training_set(log_dir, DatasetConfig(validation_days=4, test_days=4))
    return Nights(training, plain, store, directory, valkey)


def sampled(nights: Nights, seed: int) -> tuple[Decisions, npt.NDArray[np.int64]]:
    decisions = nights.training.train
    rng = np.random.default_rng(seed)
    return decisions, np.sort(rng.choice(len(decisions), NUM_SAMPLED, replace=False))


def from_feast(
    nights: Nights, users: list[str], times_ms: npt.NDArray[np.int64], **given: bool
) -> list[Halfs]:
    """F_s of each (user, instant), as Feast finds it."""
    entities = pd.DataFrame(
        {
            "user_id": users,
            "event_timestamp": pd.to_datetime(times_ms, unit="ms", utc=True),
            "number": range(len(users)),
        }
    )
    found = nights.store.get_historical_features(entities, FEATURES, **given).to_df()
    out = [missing_static() for _ in users]
    for row in found.to_dict("records"):
        # Of an asked row without a valid value Feast gives nothing, or one without features.
        if row["enrollments"] is not None and not np.isscalar(row["enrollments"]):
            tenure = [int(row[f"tenure_{name}"]) for name in ENROLLMENTS]
            owned = list(row["enrollments"])
            out[row["number"]] = encode_static(owned, tenure, int(row["tenure_bank"]))
    return out


def test_historical_retrieval_agrees_with_our_own_builder(nights: Nights) -> None:
    decisions, chosen = sampled(nights, 1)
    users = [nights.training.users[decisions.user[i]] for i in chosen]
    # Ours is strictly before the page, Feast's "at or before": on a grid of whole milliseconds one
    # less is the same.
    found = from_feast(
        nights, users, decisions.time_ms[chosen] - 1, filter_by_created_timestamp=True
    )
    missing = missing_static().tobytes()
    ours = [decisions.static[i].tobytes() for i in chosen]
    assert [vector.tobytes() for vector in found] == ours
    num_missing = sum(vector == missing for vector in ours)
    assert 40 < num_missing < NUM_SAMPLED - 40


def test_without_the_filter_feast_sees_rows_before_they_could_be_read(nights: Nights) -> None:
    """Its join goes by the cut-off alone; the filter is not the default, and so must be asked for."""
    decisions, chosen = sampled(nights, 1)
    users = [nights.training.users[decisions.user[i]] for i in chosen]
    found = from_feast(nights, users, decisions.time_ms[chosen] - 1)
    differing = [
        i
        for i, vector in zip(chosen, found, strict=True)
        if vector.tobytes() != decisions.static[i].tobytes()
    ]
    assert len(differing) > 10


def test_the_command_line_fills_the_online_store(nights: Nights) -> None:
    cutoff_ms = int(logs.milliseconds(nights.table, "event_timestamp").max())
    start, end = (
        pd.Timestamp(time_ms, unit="ms", tz="UTC").strftime("%Y-%m-%dT%H:%M:%S")
        for time_ms in (cutoff_ms - DAY_MS, cutoff_ms + DAY_MS)
    )
    subprocess.run(
        [
            *(sys.executable, "-m", "feast.cli.cli", "--chdir", str(FEATURE_REPO)),
            *("materialize", start, end, "--views", USER_STATIC.name),
        ],
        env={
            "PATH": "",
            "HOME": str(nights.directory),
            "FINTREC_DIR": str(nights.directory),
            "FINTREC_REDIS_ADDRESS": nights.valkey.address,
            "PYTHONPATH": str(FEATURE_REPO.parent),
        },
        check=True,
        capture_output=True,
        timeout=120,
    )
    last = nights.table.filter(
        pc.equal(nights.table["event_timestamp"].cast(pa.int64()), cutoff_ms * 1000)
    ).to_pylist()
    assert len(last) > 50
    rows = [{"user_id": row["user_id"]} for row in last]
    online = nights.store.get_online_features(FEATURES, rows).to_dict()
    for name in USER_STATIC.feature_names:
        assert online[name] == [row[name] for row in last], name
