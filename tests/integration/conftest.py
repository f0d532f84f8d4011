"""The whole path, once a test session: models on Triton, a catalogue, both workers, a reader."""

import json
import os
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from kafka.admin import KafkaAdminClient

from features.packed import Header, UserState, read_header, unpack
from features.records import Item
from features.spec import DAY_MS
from fintrec.bank.catalogue import build_catalogue
from fintrec.export import export
from fintrec.manifest import Manifest, load_manifest
from streams.apps import state_store
from streams.clients import kafka_python_config
from streams.feed import feed_group
from streams.local_stack.processes import Process, free_ports, identify
from streams.local_stack.stack import LocalStack
from streams.local_stack.state import running_state
from streams.settings import Settings, load_settings
from streams.state_store import RedisStateStore
from streams.topic_admin import ensure_topics, plan_topics
from streams.topics import ITEMS, RANKING_POLICIES
from tests.conftest import RunningStack
from tests.integration.judge import Judge
from tests.integration.referee import Models
from tests.integration.tiny_models import write_checkpoint
from tests.integration.traffic import request
from tests.integration.wire import Wire, until

NUM_PARTITIONS = 4
# Short sessions for the tests that take workers away; long deadlines, since the machine may be busy
# and a slate of a lower tier says nothing about the ranking.
WORKER_ENVIRONMENT = {
    "FINTREC_SESSION_TIMEOUT_MS": "6000",
    "FINTREC_HEARTBEAT_MS": "1000",
    "FINTREC_LIVENESS_S": "20",
    "FINTREC_STORE_TIMEOUT_MS": "500",
    "FINTREC_TRITON_TIMEOUT_MS": "1000",
    "FINTREC_SCORE_MAX_AGE_MS": "500",
    "FINTREC_AUDIT_ARRAYS_SHARE": "1",
    "FINTREC_REFRESH_PER_S": "50",
}
LAST = ("test_chaos.py", "test_promotion.py", "test_every_slate.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes servers away comes after what needs them, and the look at every slate last."""

    def rank(item: pytest.Item) -> int:
        here = Path(__file__).parent == item.path.parent
        return 1 + LAST.index(item.path.name) if here and item.path.name in LAST else 0

    items.sort(key=rank)


@dataclass
class System:
    """The running system as a test sees it."""

    stack: LocalStack
    settings: Settings
    wire: Wire
    items: tuple[Item, ...]
    store: RedisStateStore
    metrics_ports: dict[str, int]

    def manifest(self, version: int) -> Manifest:
        """Manifest of a served model version."""
        return load_manifest(self.settings.model_repository, version)

    def headers(self, users: Sequence[str]) -> dict[str, Header]:
        """Header of each user's packed state, of those that have one."""
        found = zip(users, self.store.read_packed(users), strict=True)
        return {user: read_header(packed) for user, packed in found if packed is not None}

    def states(self, users: Sequence[str]) -> dict[str, UserState]:
        """Each user's state, of those that have one."""
        found = zip(users, self.store.read_packed(users), strict=True)
        return {user: unpack(packed) for user, packed in found if packed is not None}

    def start_worker(self, kind: str, name: str, **environment: str) -> None:
        """Start one more worker; `wait_for_member` tells when it has joined."""
        argv = [sys.executable, "-m", "streams", "worker", kind, "--dir", str(self.stack.dir)]
        self.stack.start_worker(name, argv, WORKER_ENVIRONMENT | environment)

    def stop_worker(self, name: str) -> None:
        """End a worker as an operator would, and see that it is gone and stays so."""
        process = self.process(name)
        process.send(signal.SIGTERM)
        assert process.wait_gone(30_000), f"{name} did not end on SIGTERM"

    def process(self, name: str) -> Process:
        """A worker's or server's process now."""
        found = identify(self.stack.pid(name))
        assert found is not None
        return found

    def pid(self, name: str) -> int | None:
        """A worker's or server's pid; None while it does not run."""
        state = running_state(self.stack.dir)
        assert state is not None
        process = state.servers[name].process
        return process.pid if process is not None and process.is_alive() else None

    def load_models(self, names: Sequence[str] = ("encode", "head")) -> None:
        """Have Triton load models, or their newest version, side by side."""
        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(self._load_model, names))

    def _load_model(self, name: str) -> None:
        address = self.stack.addresses["triton_http"]
        url = f"http://{address}/v2/repository/models/{name}/load"
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=120) as r:
            assert r.status == 200

    def log_of(self, name: str) -> str:
        """What a worker has written to its log."""
        return (self.stack.dir / "logs" / f"{name}.log").read_text(errors="replace")


def now_ms() -> int:
    """The clock of the machine that workers and tests share."""
    return time.time_ns() // 1_000_000


def await_applied(
    system: System,
    users: Collection[str],
    refused: Collection[str] = (),
    timeout_s: float = 60,
) -> None:
    """Return when the store holds every user's events, hidden states of the newest model included.

    Refresh records count as events, so what is expected is read anew each time.
    """

    def behind() -> list[str]:
        headers = system.headers(list(users))
        newest = max(header.model for header in headers.values()) if headers else 0
        found = []
        for user in users:
            wanted = sum(record.at not in refused for record in system.wire.events(user))
            header = headers.get(user)
            if header is None or (header.version, header.state_version, header.model) != (
                wanted,
                wanted,
                newest,
            ):
                found.append(f"{user}: {wanted} events, state {header}")
        return found

    end = time.monotonic() + timeout_s
    while left := behind():
        assert time.monotonic() < end, f"{len(left)} users are behind, first {left[0]}"
        time.sleep(0.1)


def members(system: System, kind: str) -> int:
    """Workers of a kind that own partitions."""
    client = KafkaAdminClient(**kafka_python_config(system.settings))
    try:
        group = feed_group(kind)
        assignments = [
            member["member_assignment"]
            for member in client.describe_groups([group])[group]["members"]
        ]
        return sum(bool(found and found["assigned_partitions"]) for found in assignments)
    finally:
        client.close()


def make_judge(system: System, *versions: int) -> Judge:
    """The judge of these model versions under what the topics hold now."""
    log = system.wire.log(ITEMS)
    catalogue = {r.key: r.value for r in log}
    policies = {r.key: r.value for r in system.wire.log(RANKING_POLICIES)}
    return Judge(
        {
            item["item_id"]: item
            for item in (json.loads(value) for value in catalogue.values() if value is not None)
        },
        [json.loads(value) for value in policies.values() if value is not None],
        {str(v): Models(system.settings.model_repository, v) for v in versions},
    )


@pytest.fixture(scope="session")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack that serves these tests' models and no others: its servers are killed here, and what
    they serve decides what is right.
    """
    with LocalStack(tmp_path_factory.mktemp("system")) as local:
        yield RunningStack(local, load_settings(local.dir, environ={}))


@pytest.fixture(scope="session")
def system(own_stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The stack with topics, catalogue, models, one ingest and one scoring worker."""
    settings = own_stack.settings
    end_ms = now_ms()
    built = build_catalogue(np.random.default_rng(5), end_ms - 90 * DAY_MS, end_ms)
    items = tuple(sorted(built.items, key=lambda item: item.item_id))
    _create_topics(settings)
    ports = free_ports(2)
    with Wire(settings) as wire:
        for item in items:
            wire.send(ITEMS, item.item_id.encode(), msgspec.json.encode(item))
        system = System(
            own_stack.stack,
            settings,
            wire,
            items,
            state_store(settings, 2000),
            {"ingest-1": ports[0], "score-1": ports[1]},
        )
        for kind in ("ingest", "score"):
            name = f"{kind}-1"
            system.start_worker(kind, name, FINTREC_METRICS_PORT=str(system.metrics_ports[name]))
        checkpoint = tmp_path_factory.mktemp("checkpoint")
        write_checkpoint(checkpoint, items, seed=1)
        assert export(checkpoint, settings.model_repository) == 1
        try:
            system.load_models()
            wire.settle()
            until("a slate scored by a model", lambda: is_scored(system), 60)
            yield system
        finally:
            keep_logs(system)


def is_scored(system: System) -> bool:
    """Whether the scoring workers know the models by now."""
    slate, _ = system.wire.ask(request("nobody_special", now_ms()))
    return bool(json.loads(slate)["models"]["pctr"])


def _create_topics(settings: Settings) -> None:
    from streams.commands.topics import connect_admin

    with connect_admin(settings) as admin:
        assert not ensure_topics(admin, plan_topics(NUM_PARTITIONS)).differences


def keep_logs(system: System) -> None:
    """Copy the logs to the folder that INTEGRATION_LOGS names, for a look after a failure."""
    folder = os.environ.get("INTEGRATION_LOGS")
    if folder:
        shutil.copytree(system.stack.dir / "logs", folder, dirs_exist_ok=True)
