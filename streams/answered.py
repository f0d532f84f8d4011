"""Which redelivered requests have their slate already, read from the slates themselves.

A scoring worker that dies between emitting slates and committing leaves requests that are
delivered again. Whoever takes over a partition reads the slates of that partition from the time of
its first uncommitted request on; a request whose slate is among them is not answered twice. Costs
nothing while nobody dies: a partition without uncommitted requests has nothing to read.
"""

import logging
from collections.abc import Iterable

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from features.records import SlateRequest
from fintrec.slates import slate_id
from streams.clients import aiokafka_config
from streams.settings import Settings
from streams.topics import SLATE_REQUESTS, SLATES

logger = logging.getLogger(__name__)
_POLL_MS = 200
_MARGIN_MS = 1_000  # clocks of producers and brokers may differ a little


class AnsweredRequests:
    """Slate ids found when partitions were taken over."""

    def __init__(self, settings: Settings, group_id: str) -> None:
        self._settings = settings
        self._group_id = group_id
        self._ids: set[str] = set()

    def __contains__(self, request: SlateRequest) -> bool:
        return bool(self._ids) and slate_id(request) in self._ids

    async def learn(self, partitions: Iterable[int]) -> None:
        """Read what was answered but not committed of these request partitions."""
        self._ids = set()
        try:
            for partition in partitions:
                await self._learn(partition)
        except KafkaError as silent:
            # Not knowing costs at worst a second slate with the same id.
            logger.warning("answered requests not known reason=%s", silent)
        if self._ids:
            logger.info("answered before the take-over slates=%d", len(self._ids))

    async def _learn(self, partition: int) -> None:
        requests = TopicPartition(SLATE_REQUESTS, partition)
        slates = TopicPartition(SLATES, partition)
        # A consumer of the group that joins nothing: it only asks what was committed.
        reader = AIOKafkaConsumer(
            **aiokafka_config(self._settings),
            group_id=self._group_id,
            enable_auto_commit=False,
            # What was committed may lie before what retention has kept.
            auto_offset_reset="earliest",
        )
        await reader.start()
        try:
            reader.assign([requests])
            committed = await reader.committed(requests)
            end = (await reader.end_offsets([requests]))[requests]
            if committed is None or committed >= end:
                return
            reader.seek(requests, committed)
            first = await reader.getone(requests)
            reader.assign([slates])
            await self._read(reader, slates, first.timestamp - _MARGIN_MS)
        finally:
            await reader.stop()

    async def _read(self, reader: AIOKafkaConsumer, slates: TopicPartition, since_ms: int) -> None:
        starts = await reader.offsets_for_times({slates: max(0, since_ms)})
        start = starts[slates]
        if start is None:
            return
        end = (await reader.end_offsets([slates]))[slates]
        reader.seek(slates, start.offset)
        while await reader.position(slates) < end:
            found = await reader.getmany(slates, timeout_ms=_POLL_MS)
            for message in found.get(slates, ()):
                self._ids.add(_slate_id_of(message.value))


def _slate_id_of(value: bytes | None) -> str:
    """The slate's id; "" for a record that is no slate of ours."""
    try:
        slate = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return ""
    return str(slate.get("slate_id", "")) if isinstance(slate, dict) else ""
