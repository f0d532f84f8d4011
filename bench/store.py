"""What the hot path into the online store costs beside Feast's own way, call by call.

    python -m bench.store [--calls 150] [--repeats 3] [--size 2800]

Method: a private Valkey on this machine; one Feast store class serves both ways; values of
`--size` bytes. The ways take turns call by call, so that noise meets all of them alike; each has
its own users. Per batch size and repeat the p50 of each way is taken; the table shows the median
over the repeats, the ratios their median and range. The last line is JSON.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from feast import FeatureStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from features.spec import USER_INTRADAY
from streams.feast_format import encode_bytes, encode_timestamp, entity_key, feature_field
from streams.feast_repo import apply
from streams.ports import StateWrite
from streams.state_store import RedisStateStore
from tests.valkey import valkey_server

BATCHES = (1, 16, 64)
START_MS = 1_790_000_000_000
INTRADAY = [37 * n for n in range(len(USER_INTRADAY.features))]
GOALS = (
    # way, beside, batch size, at most
    ("read_packed", "get_online_features", 16, 0.4),
    ("compare_and_set", "unchecked HSET", 16, 1.6),
    ("compare_and_set", "online_write_batch", 16, 0.8),
)
OTHERS = (
    ("compare_and_set with typed views", "unchecked HSET", 16),
    ("compare_and_set with typed views", "online_write_batch", 16),
)


class Ways:
    """Each way to read or write one batch of states, by name."""

    def __init__(self, feast: FeatureStore, size: int) -> None:
        self.feast = feast
        self.online = feast._get_provider().online_store
        self.hot: RedisStateStore = self.online.bind(feast.config)
        self.view = feast.get_feature_view("user_state")
        self.plain = self.online._get_client(feast.config.online_store)
        self.field = feature_field("user_state", "packed")
        self.body = bytes(size - 16)
        self.version = 0  # every write of a batch moves all its users on by one

    def packed(self, version: int) -> bytes:
        return bytes(8) + version.to_bytes(8, "little") + self.body

    def get_online_features(self, users: list[str]) -> None:
        rows = [{"user_id": user_id} for user_id in users]
        proto = self.feast.get_online_features(["user_state:packed"], rows).proto
        assert all(value.bytes_val for value in proto.results[-1].values)

    def read_packed(self, users: list[str]) -> None:
        assert all(self.hot.read_packed(users))

    def hset(self, users: list[str]) -> None:
        stamp = encode_timestamp(START_MS + self.version)
        with self.plain.pipeline(transaction=False) as pipe:
            for user_id in users:
                value = encode_bytes(self.packed(self.version))
                key = entity_key("fintrec", "user_id", user_id)
                pipe.hset(key, mapping={self.field: value, "_ts:user_state": stamp})
            pipe.execute()

    def online_write_batch(self, users: list[str]) -> None:
        moment = datetime.fromtimestamp((START_MS + self.version) / 1000, UTC)
        rows = [
            (
                EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user_id)]),
                {"packed": Value(bytes_val=self.packed(self.version))},
                moment,
                None,
            )
            for user_id in users
        ]
        self.online.online_write_batch(self.feast.config, self.view, rows, None)

    def compare_and_set(self, users: list[str]) -> None:
        self._compare_and_set(users, None, None)

    def compare_and_set_typed(self, users: list[str]) -> None:
        self._compare_and_set(users, INTRADAY, ("granted", START_MS))

    def _compare_and_set(
        self, users: list[str], intraday: list[int] | None, consent: tuple[str, int] | None
    ) -> None:
        moment = START_MS + self.version
        writes = [
            StateWrite(
                user_id, self.version - 1, self.packed(self.version), moment, intraday, consent
            )
            for user_id in users
        ]
        assert all(self.hot.compare_and_set(writes))


def measure(ways: Ways, batch: int, calls: int) -> dict[str, float]:
    """p50 in ms of each way at one batch size."""
    every: dict[str, Callable[[list[str]], None]] = {
        "compare_and_set": ways.compare_and_set,
        "compare_and_set with typed views": ways.compare_and_set_typed,
        "unchecked HSET": ways.hset,
        "online_write_batch": ways.online_write_batch,
        "read_packed": ways.read_packed,
        "get_online_features": ways.get_online_features,
    }
    readers = ("read_packed", "get_online_features")
    # Both readers read what the unchecked writer wrote; every writer has users of its own.
    users = {
        name: [f"{'unchecked HSET' if name in readers else name} {n}" for n in range(batch)]
        for name in every
    }
    ways.plain.flushdb()
    ways.version = 0
    took: dict[str, list[float]] = {name: [] for name in every}
    names = list(every)
    for call in range(calls + 10):
        ways.version += 1
        turn = call % len(names)
        for name in names[turn:] + names[:turn] if call else names:
            started = time.perf_counter()
            every[name](users[name])
            took[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[10:]) * 1e3 for name, times in took.items()}


def ratios(runs: list[dict[str, float]], way: str, beside: str) -> list[float]:
    """The two ways' ratio in each repeat."""
    return sorted(run[way] / run[beside] for run in runs)


def main() -> None:
    """Measures, prints a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=2_800)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, valkey_server(Path(folder)) as server:
        feast = apply(Path(folder) / "data", server.address)
        feast.config.online_store.hot_timeout_ms = 10_000
        feast.config.online_store.timeout_ms = 10_000
        ways = Ways(feast, options.size)
        gc.disable()
        runs = {batch: [] for batch in BATCHES}
        for _ in range(options.repeats):
            for batch in BATCHES:
                runs[batch].append(measure(ways, batch, options.calls))
    report(runs)


def report(runs: dict[int, list[dict[str, float]]]) -> None:
    """p50 table, ratios beside the goals, JSON."""
    names = list(runs[1][0])
    middle = {
        batch: {name: statistics.median(run[name] for run in found) for name in names}
        for batch, found in runs.items()
    }
    print(f"{'p50 ms at batch':34}" + "".join(f"{batch:>9}" for batch in BATCHES))
    for name in names:
        print(f"{name:34}" + "".join(f"{middle[batch][name]:9.3f}" for batch in BATCHES))
    result = {"p50_ms": {str(batch): rounded(middle[batch]) for batch in BATCHES}, "ratios": {}}
    for way, beside, batch, *goal in (*GOALS, *OTHERS):
        found = ratios(runs[batch], way, beside)
        median = statistics.median(found)
        asked = f", goal <= {goal[0]}" if goal else ""
        print(f"{way} / {beside} at {batch}: {median:.2f} ({found[0]:.2f}-{found[-1]:.2f}){asked}")
        result["ratios"][f"{way} / {beside} at {batch}"] = round(median, 3)
    print(json.dumps(result))


def rounded(row: dict[str, float]) -> dict[str, float]:
    """Microseconds are enough."""
    return {name: round(value, 4) for name, value in row.items()}


if __name__ == "__main__":
    main()
