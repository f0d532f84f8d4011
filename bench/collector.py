"""The collector of a run: notes when each slate arrives, and when each user's state is written.

State writes are seen through the store's keyspace events (a published key for each HSET), so the
store itself says when an event has reached it, and nothing is polled. Slates are decoded after the
run.

`python -m bench.collector PLAN.json OUT.npz`
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from aiokafka import AIOKafkaConsumer
from redis import asyncio as redis_asyncio

from bench.traffic import request_number, user_number
from fintrec.slates import TIERS
from streams.feast_format import entity_of
from streams.state_store import JOIN_KEY

READY: Final = "COLLECTOR READY"
HOPS: Final = ("queue", "store", "head", "rank", "total")
_AFTERWARDS_S: Final = 0.4  # how long a doubled slate is waited for
_QUIET_S: Final = 1.5  # without a write: ingest has done what it will do


async def collect(plan: dict[str, Any], out: Path) -> None:
    """Listen until every slate is there, or none comes any more."""
    consumer = AIOKafkaConsumer(
        plan["slates_topic"],
        bootstrap_servers=plan["bootstrap"],
        enable_auto_commit=False,
        fetch_min_bytes=1,
        fetch_max_wait_ms=20,
        max_partition_fetch_bytes=4 << 20,
    )
    await consumer.start()
    await consumer.seek_to_end()
    for partition in consumer.assignment():
        await consumer.position(partition)
    host, _, port = plan["redis"].rpartition(":")
    client = redis_asyncio.Redis(host=host, port=int(port))
    events = client.pubsub()
    await events.subscribe("__keyevent@0__:hset")
    writes: list[tuple[float, bytes]] = []
    listening = asyncio.create_task(_listen(events, writes))
    sys.stdout.write(READY + "\n")
    sys.stdout.flush()
    slates = await _slates(consumer, plan["num_requests"], plan["patience_s"])
    await _quiet(writes)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await client.aclose()
    await consumer.stop()
    np.savez(out, **_columns(slates), **_written(writes, plan["project"]))


async def _slates(
    consumer: AIOKafkaConsumer, expected: int, patience_s: float
) -> list[tuple[float, bytes]]:
    """Until all are there, and a moment longer; or until none came for so long."""
    found: list[tuple[float, bytes]] = []
    until_s = time.monotonic() + patience_s
    while time.monotonic() < until_s:
        by_partition = await consumer.getmany(timeout_ms=100)
        now_s = time.time()
        for messages in by_partition.values():
            found.extend([(now_s, message.value) for message in messages])
        if by_partition:
            wait_s = patience_s if len(found) < expected else _AFTERWARDS_S
            until_s = time.monotonic() + wait_s
    return found


async def _quiet(writes: list[tuple[float, bytes]]) -> None:
    """Wait until no state is written any more: ingest may be behind scoring."""
    seen = -1
    while seen < len(writes):
        seen = len(writes)
        await asyncio.sleep(_QUIET_S)


async def _listen(events: Any, writes: list[tuple[float, bytes]]) -> None:
    async for message in events.listen():
        if message["type"] == "message":
            writes.append((time.time(), message["data"]))


def _written(writes: list[tuple[float, bytes]], project: str) -> dict[str, Any]:
    at, users = [], []
    for when, key in writes:
        name = entity_of(key, project, JOIN_KEY)
        if name is None and key.startswith(b"floor:"):
            name = key[len(b"floor:") :].decode()
        if name is not None:
            at.append(when)
            users.append(user_number(name))
    return {"written_s": np.array(at), "written_user": np.array(users, np.int64)}


def _columns(slates: list[tuple[float, bytes]]) -> dict[str, Any]:
    """One entry a slate, as they came; -1 where a slate does not say."""
    number = np.zeros(len(slates), np.int64)
    tier = np.zeros(len(slates), np.int8)
    hops = np.full((len(slates), len(HOPS)), np.nan)
    age_ms = np.full(len(slates), -1, np.int64)
    seen_ms = np.full(len(slates), -1, np.int64)
    for place, (_, value) in enumerate(slates):
        slate = orjson.loads(value)
        number[place] = request_number(slate["request_id"])
        tier[place] = TIERS.index(slate["tier"])
        seen_ms[place] = slate.get("seen_ms", -1)
        if "latency_ms" in slate:
            hops[place] = [slate["latency_ms"].get(hop, np.nan) for hop in HOPS]
            age = slate["feature_ages_ms"]["hidden_state"]
            age_ms[place] = -1 if age is None else age
    return {
        "arrived_s": np.array([when for when, _ in slates]),
        "number": number,
        "tier": tier,
        "hops_ms": hops,
        "age_ms": age_ms,
        "seen_ms": seen_ms,
        "slate_bytes": np.array([len(value) for _, value in slates]),
    }


def main() -> None:
    """`python -m bench.collector PLAN.json OUT.npz`."""
    plan = orjson.loads(Path(sys.argv[1]).read_bytes())
    asyncio.run(collect(plan, Path(sys.argv[2])))


if __name__ == "__main__":
    main()
