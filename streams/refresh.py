"""States that must be built anew, found by a sweep of the store at a bounded rate.

After a new model version, a night's batch, or a time without Triton, some stored hidden states are
of another version or behind their history. One worker (the owner of partition 0 of the refresh
topic) walks the store and puts a record per such user on the internal topic, keyed by the user, so
that the worker who owns the user encodes the state again. No second writer is needed. A worker that
had to write states without hidden states walks as well, once Triton answers again.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Protocol

import msgspec
import orjson
from aiokafka.errors import KafkaError

from features.border import INVALID
from features.errors import FintrecError, MalformedEvent, StateCorrupt
from features.packed import read_header
from streams.metrics import REFRESHED
from streams.model_versions import ModelVersions
from streams.producer import Outgoing, Producer
from streams.settings import Settings
from streams.topics import STATE_REFRESH
from streams.wire import loads

logger = logging.getLogger(__name__)
_PAGE = 200


class Walk(Protocol):
    """The part of the store that the sweep needs."""

    def scan_users(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """A page of users and the next cursor, 0 at the end."""

    def read_packed(self, user_ids: Sequence[str]) -> list[bytes | None]:
        """As `streams.ports.StateStore`."""


def refresh_record(user_id: str, reason: str) -> Outgoing:
    """The record that asks for a user's state to be built anew."""
    value = orjson.dumps({"user_id": user_id, "reason": reason})
    return Outgoing(STATE_REFRESH, user_id.encode(), value)


def refreshed_user(raw: bytes) -> str:
    """User of such a record; raises MalformedEvent."""
    try:
        return msgspec.convert(loads(raw), dict[str, str])["user_id"]
    except (msgspec.ValidationError, KeyError) as refused:
        raise MalformedEvent(INVALID, f"refresh: {refused}, expected user_id") from refused


class RefreshSweep:
    """Walks the store whenever it is asked to, at most `refresh_per_s` records a second."""

    def __init__(
        self, settings: Settings, store: Walk, models: ModelVersions, producer: Producer
    ) -> None:
        self._rate = settings.refresh_per_s
        self._store = store
        self._models = models
        self._producer = producer
        self._is_owner = False
        self._is_asked = False
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def request(self) -> None:
        """Ask this worker for a sweep, owner or not: it alone knows that it wrote states without
        hidden states. Called from any thread's callback on the event loop's side."""
        self._is_asked = True
        self._wanted.set()

    def set_owner(self, is_owner: bool) -> None:
        """Only the owner sweeps; a new owner sweeps once, its predecessor may have died in one."""
        if is_owner and not self._is_owner:
            self._wanted.set()
        self._is_owner = is_owner

    async def start(self) -> None:
        """Follow the model versions."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self._wanted.set)

        self._models.on_change = wake
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop sweeping; what is left is found by the next owner."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            await asyncio.sleep(1.0)  # versions and partitions that change together, change once
            self._wanted.clear()
            try:
                # Not against a Triton that is down: every refresh would only ask for the next.
                await asyncio.to_thread(self._models.poll)
                while (self._is_owner or self._is_asked) and await self.sweep():
                    # What was asked for needs a moment to be written; look again until it is.
                    await asyncio.sleep(5.0)
                self._is_asked = False
            except (FintrecError, KafkaError, OSError) as failed:
                logger.warning("sweep broken off reason=%s", failed)
                await asyncio.sleep(5.0)
                self._wanted.set()

    async def sweep(self) -> int:
        """Walk the store once; how many users were asked for."""
        model = self._models.active
        if model is None or not self._rate:
            return 0
        asked = cursor = 0
        started = time.monotonic()
        while True:
            cursor, users = await asyncio.to_thread(self._store.scan_users, cursor, _PAGE)
            stale = await asyncio.to_thread(self._stale, users, model.version)
            for start in range(0, len(stale), self._rate):
                part = stale[start : start + self._rate]
                await self._producer.emit([refresh_record(u, "hidden_state") for u in part])
                asked += len(part)
                REFRESHED.inc(len(part))
                await asyncio.sleep(max(0.0, asked / self._rate - (time.monotonic() - started)))
            if cursor == 0:
                logger.info("sweep done model=%d asked=%d", model.version, asked)
                return asked

    def _stale(self, users: Sequence[str], version: int) -> list[str]:
        found = []
        for user, packed in zip(users, self._store.read_packed(users), strict=True):
            if packed is None:
                continue
            try:
                header = read_header(packed)
            except StateCorrupt:
                found.append(user)
                continue
            if header.model != version or header.state_version != header.version:
                found.append(user)
        return found
