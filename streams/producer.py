"""The workers' own Kafka producer: one record batch a partition, acknowledged before it returns.

Faust's `topic.send` alone costs the whole latency budget (docs/adr); here a batch of outputs goes
out as one record batch for each partition, and `emit` comes back when all brokers have it.
"""

import asyncio
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2

from streams.clients import aiokafka_config
from streams.settings import Settings

_MAX_REQUEST_BYTES = 4 * 1024 * 1024


class Outgoing(NamedTuple):
    """A record to be sent; its partition follows from its key, as for any Kafka client."""

    topic: str
    key: bytes
    value: bytes


@lru_cache(maxsize=200_000)
def _hash(key: bytes) -> int:
    return int(murmur2(key)) & 0x7FFFFFFF


def partition_of(key: bytes, num_partitions: int) -> int:
    """Partition of a key under Kafka's default partitioner."""
    return _hash(key) % num_partitions


class Producer:
    """Sends whole batches; `start` and `stop` belong to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None
        self._partitions: dict[str, int] = {}

    async def start(self) -> None:
        """Connect. Idempotent producing: a retry of the client never doubles a record."""
        self._producer = AIOKafkaProducer(
            **aiokafka_config(self._settings),
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=1024 * 1024,
            max_request_size=_MAX_REQUEST_BYTES,
        )
        await self._producer.start()

    async def stop(self) -> None:
        """Send what is under way and disconnect."""
        if self._producer is not None:
            await self._producer.stop()

    async def emit(self, outgoing: Iterable[Outgoing]) -> None:
        """Send records and wait until every one is acknowledged; order is kept per partition.

        Raises aiokafka's KafkaError when a record was not taken.
        """
        assert self._producer is not None, "start() comes first"
        grouped: dict[tuple[str, int], list[Outgoing]] = {}
        for record in outgoing:
            place = partition_of(record.key, await self._count(record.topic))
            grouped.setdefault((record.topic, place), []).append(record)
        sent = []
        for (topic, partition), records in grouped.items():
            sent += await self._send(topic, partition, records)
        if sent:
            await asyncio.gather(*sent)

    async def _send(
        self, topic: str, partition: int, records: list[Outgoing]
    ) -> "list[asyncio.Future[object]]":
        assert self._producer is not None
        sent = []
        batch = self._producer.create_batch()
        for record in records:
            if batch.append(key=record.key, value=record.value, timestamp=None) is None:
                batch.close()
                sent.append(await self._producer.send_batch(batch, topic, partition=partition))
                batch = self._producer.create_batch()
                if batch.append(key=record.key, value=record.value, timestamp=None) is None:
                    raise ValueError(
                        f"a record of {len(record.value)} bytes does not fit a batch to {topic}"
                    )
        batch.close()
        sent.append(await self._producer.send_batch(batch, topic, partition=partition))
        return sent

    async def _count(self, topic: str) -> int:
        known = self._partitions.get(topic)
        if known is None:
            assert self._producer is not None
            known = len(await self._producer.partitions_for(topic))
            self._partitions[topic] = known
        return known
