"""A running system to measure: its own stack in a temporary folder, seeded, with workers.

Everything is a child of the stack's supervisor and dies with it, also when the bench is killed.
"""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil
import redis

from bench import floor, world
from bench.processes import Watched
from features.errors import FintrecError
from streams.apps import state_store
from streams.clients import redis_kwargs
from streams.demo import verb, wait_until
from streams.local_stack.stack import LocalStack, log_tail
from streams.settings import load_settings

SERVERS: Final = ("kafka", "redis", "triton")
ROOT: Final = Path(__file__).resolve().parents[1]
_SEED_TIMEOUT_MS: Final = 20_000
# A worker that is frozen while the other side is measured must keep its partitions.
_SESSION_MS: Final = 60_000
_FLOOR: Final = "floor-"
_STUB: Final = "triton_python_backend_stub"
Say = Callable[[str], None]


class Session:
    """Stack, world and workers; use with `with`.

    Args:
        num_users: users with full histories.
        num_partitions: of each topic.
        worker_settings: `FINTREC_*` environment of the workers, the floor's too.
        say: hears what happens.
    """

    def __init__(
        self,
        num_users: int,
        num_partitions: int,
        worker_settings: Mapping[str, str],
        say: Say,
    ) -> None:
        self.num_users = num_users
        self._num_partitions = num_partitions
        self.environment = {
            **os.environ,
            "FINTREC_SESSION_TIMEOUT_MS": str(_SESSION_MS),
            **worker_settings,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        self._say = say
        self._folder = tempfile.TemporaryDirectory(prefix="fintrec-bench-")
        self.dir = Path(self._folder.name)
        self.stack = LocalStack(self.dir / "stack")
        self.items: Sequence[str] = ()
        self.workers: list[str] = []

    def __enter__(self) -> Self:
        now_ms = int(time.time() * 1000)
        items = world.catalogue(now_ms)
        self.items = [item.item_id for item in items]
        self._say(f"exporting an untrained model of recipe tiny_cpu, {len(items)} items")
        world.export_untrained(items, self.dir / "checkpoint", self.stack.model_repository)
        self._say("starting Kafka, the store and Triton")
        self.stack.start()
        try:
            self.settings = load_settings(self.stack.dir, environ={})
            world.create_topics(self.settings, self._num_partitions)
            world.publish_reference(self.settings, items)
            self.client: Any = redis.Redis(**redis_kwargs(self.settings))
            # A key for each HSET: the collector learns from it when a state is written.
            self.client.config_set("notify-keyspace-events", "Eh")
            self._say(f"seeding {self.num_users} users")
            self.seed(now_ms)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stack.close()
        self._folder.cleanup()

    def seed(self, now_ms: int) -> None:
        """Full states of all users, in place of whatever is stored."""
        self.client.flushdb()
        store = state_store(self.settings, _SEED_TIMEOUT_MS)
        world.seed_states(self.settings, store, self.client, self.num_users, now_ms)

    def start_worker(self, kind: str, **environment: str) -> str:
        """Start an ingest or a scoring worker; returns its name."""
        name = f"{kind}-{1 + sum(w.startswith(kind) for w in self.workers)}"
        argv = verb(("worker", kind), self.stack.dir)
        self.stack.start_worker(name, argv, {**self.environment, **environment})
        self.workers.append(name)
        return name

    def start_floor(self, role: str) -> str:
        """Start a process of the floor and wait until it is warm."""
        name = f"{_FLOOR}{role}"
        self.stack.start_worker(
            name,
            [sys.executable, "-m", "bench.floor", role],
            {**self.environment, "FINTREC_DIR": str(self.stack.dir)},
        )
        self.workers.append(name)
        log = self.stack.dir / "logs" / f"{name}.log"
        try:
            wait_until(f"{name} is ready", lambda: floor.READY in log.read_text(), 60)
        except FintrecError as late:
            raise FintrecError(f"{late}; the end of {log}:\n{log_tail(log)}") from late
        return name

    @contextmanager
    def only(self, is_floor: bool) -> Iterator[None]:
        """Freeze the workers of the other side, so that their idle polling costs nothing."""
        others = [name for name in self.workers if name.startswith(_FLOOR) != is_floor]
        pids = [self.stack.pid(name) for name in others]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def watched(self) -> Watched:
        """Every process by name, Triton's model processes apart from its server."""
        pids = {name: self.stack.pid(name) for name in (*SERVERS, *self.workers)}
        return Watched(pids, triton_parts(pids["triton"]))


def triton_parts(triton: int) -> dict[str, int]:
    """Triton's processes of `encode` and `head`."""
    found = {}
    for child in psutil.Process(triton).children(recursive=True):
        line = " ".join(child.cmdline())
        for model in ("encode", "head"):
            if _STUB in line and f"/{model}/" in line or line.endswith(f"{model}_0_0"):
                found[f"triton {model}"] = child.pid
    return found
