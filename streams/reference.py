"""Catalogue and ranking policies as every scoring worker holds them, followed from compacted topics.

A plain consumer without a group reads both topics from their beginning; scoring starts when it has
reached the end, and a change takes effect without a restart.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from features.border import INTERNAL_ERROR
from features.errors import MalformedEvent
from features.records import Item, RankingPolicy
from fintrec.catalogue import Catalogue
from fintrec.policies import PolicyBook
from streams.clients import aiokafka_config
from streams.metrics import POLICY_VERSION
from streams.settings import Settings
from streams.topics import ITEMS, RANKING_POLICIES
from streams.wire import Received, decode

logger = logging.getLogger(__name__)
_POLL_MS = 500
_VERSION = re.compile(r"[0-9]{1,9}")


def policy_key(policy: RankingPolicy) -> bytes:
    """Kafka key of a policy: compaction keeps every version, so one can be sent ahead of its time."""
    return f"{policy.scope}@{policy.version}".encode()


class ReferenceData:
    """Catalogue and policies; `catalogue` and `policies` are always whole."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.on_refused: Callable[[Received, MalformedEvent], Awaitable[None]] | None = None
        self._items: dict[str, Item] = {}
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None
        self.catalogue = Catalogue.of(())
        self.policies = PolicyBook()

    async def start(self) -> None:
        """Read both topics to their end, then follow them in the background."""
        self._consumer = AIOKafkaConsumer(
            **aiokafka_config(self._settings), enable_auto_commit=False, group_id=None
        )
        await self._consumer.start()
        partitions = [
            TopicPartition(topic, partition)
            for topic in (ITEMS, RANKING_POLICIES)
            for partition in sorted(self._consumer.partitions_for_topic(topic) or {0})
        ]
        self._consumer.assign(partitions)
        await self._consumer.seek_to_beginning(*partitions)
        ends = await self._consumer.end_offsets(partitions)
        while True:
            behind = [tp for tp in partitions if await self._consumer.position(tp) < ends[tp]]
            if not behind:
                break
            await self._take(is_live=False)
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._consumer is not None:
            await self._consumer.stop()

    async def _follow(self) -> None:
        while True:
            try:
                await self._take(is_live=True)
            except (KafkaError, OSError) as silent:
                logger.warning("catalogue and policies not followed reason=%s", silent)
                await asyncio.sleep(1.0)

    async def _take(self, is_live: bool) -> None:
        assert self._consumer is not None
        found = await self._consumer.getmany(timeout_ms=_POLL_MS)
        items_changed = False
        for messages in found.values():
            for m in messages:
                record = Received(m.topic, m.partition, m.offset, m.key, m.value, m.timestamp)
                try:
                    items_changed |= self.apply(record)
                    continue
                except MalformedEvent as error:
                    refused = error
                except Exception as error:
                    # What breaks the code must not end the following of everything behind it.
                    logger.exception("broke the code at=%s", record.at)
                    refused = MalformedEvent(INTERNAL_ERROR, f"{type(error).__name__}: {error}")
                logger.warning("refused at=%s reason=%s", record.at, refused.reason)
                if is_live and self.on_refused is not None:
                    await self.on_refused(record, refused)
        if items_changed:
            self.catalogue = Catalogue.of(self._items.values())

    def apply(self, record: Received) -> bool:
        """Take one record in, a tombstone removes; True when the catalogue has to be made anew.

        Raises MalformedEvent.
        """
        key = (record.key or b"").decode(errors="replace")
        if record.topic == ITEMS:
            if record.value is None:
                self._items.pop(key, None)
                return True
            item = decode(record.value, Item)
            self._items[item.item_id] = item
            return True
        if record.value is None:
            scope, _, version = key.rpartition("@")
            if _VERSION.fullmatch(version):
                self.policies.remove(scope, int(version))
            return False
        policy = decode(record.value, RankingPolicy)
        self.policies.add(policy)
        POLICY_VERSION.labels(policy.scope or "all").set(policy.version)
        return False
