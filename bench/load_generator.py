"""The open-loop generator of a run: sends every record at its instant, whatever comes back.

All records are made before the clock starts, so that a tick only hands over what is due: one record
batch for each topic and partition. It says when the clock started and how late it sent.

`python -m bench.load_generator PLAN.json OUT.npz`
"""

import asyncio
import gc
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from aiokafka import AIOKafkaProducer

from bench.traffic import Load, event_records, request_records, schedule
from streams.producer import partition_of

_LEAD_S: Final = 0.3
_STAY_S: Final = 1.0
_MAKE_S: Final = 15e-6  # making one record, at most, on a busy core


async def generate(plan: dict[str, Any], out: Path) -> None:
    """Run a plan and write when each record was sent."""
    load = Load(**plan["load"])
    times = schedule(load)
    producer = AIOKafkaProducer(
        bootstrap_servers=plan["bootstrap"], linger_ms=0, acks=1, max_batch_size=1 << 20
    )
    await producer.start()
    num_partitions = len(await producer.partitions_for(plan["requests_topic"]))
    for topic in (plan["interactions_topic"], plan["transactions_topic"]):
        await producer.partitions_for(topic)
    start_s = time.time() + _LEAD_S + _MAKE_S * (len(times.request_s) + len(times.event_s))
    records: list[tuple[float, int, str, int, bytes, bytes]] = []
    for number, (key, value) in enumerate(request_records(load, times, start_s)):
        at, place = times.request_s[number], partition_of(key, num_partitions)
        records.append((at, number, plan["requests_topic"], place, key, value))
    num_requests = len(records)
    for number, (is_purchase, key, value) in enumerate(
        event_records(load, times, start_s, plan["items"])
    ):
        topic = plan["transactions_topic"] if is_purchase else plan["interactions_topic"]
        at, place = times.event_s[number], partition_of(key, num_partitions)
        records.append((at, num_requests + number, topic, place, key, value))
    records.sort(key=lambda record: record[0])
    gc.collect()
    gc.freeze()
    sys.stdout.write(f"{start_s!r}\n")
    sys.stdout.flush()
    sent_s, stamp_ms = await _send(producer, records, start_s, plan["tick_ms"] / 1000)
    # Its CPU time is read when the last record is due, so it stays for that.
    await asyncio.sleep(_STAY_S)
    await producer.stop()
    np.savez(out, start_s=start_s, sent_s=sent_s, stamp_ms=stamp_ms, num_requests=num_requests)


async def _send(
    producer: AIOKafkaProducer,
    records: list[tuple[float, int, str, int, bytes, bytes]],
    start_s: float,
    tick_s: float,
) -> tuple[Any, Any]:
    """(when each record was handed over, its Kafka timestamp), by record number."""
    sent_s, stamp_ms = np.zeros(len(records)), np.zeros(len(records), np.int64)
    waiting: set[asyncio.Future[object]] = set()
    at = 0
    while at < len(records):
        now_s = time.time()
        stamp = int(now_s * 1000)
        first = at
        batches: dict[tuple[str, int], Any] = {}
        while at < len(records) and start_s + records[at][0] <= now_s:
            _, number, topic, place, key, value = records[at]
            batch = batches.get((topic, place))
            if batch is None:
                batch = batches[topic, place] = producer.create_batch()
            if batch.append(key=key, value=value, timestamp=stamp) is None:
                break  # full: the rest goes with the next round
            stamp_ms[number] = stamp
            at += 1
        for (topic, place), batch in batches.items():
            batch.close()
            future = await producer.send_batch(batch, topic, partition=place)
            waiting.add(future)
            future.add_done_callback(waiting.discard)
        handed_s = time.time()
        for record in records[first:at]:
            sent_s[record[1]] = handed_s
        if at < len(records):
            due_s = start_s + records[at][0] - time.time()
            await asyncio.sleep(max(due_s, tick_s - (time.time() - now_s), 0))
    if waiting:
        await asyncio.wait(waiting, timeout=10)
    return sent_s, stamp_ms


def main() -> None:
    """`python -m bench.load_generator PLAN.json OUT.npz`."""
    plan = orjson.loads(Path(sys.argv[1]).read_bytes())
    asyncio.run(generate(plan, Path(sys.argv[2])))


if __name__ == "__main__":
    main()
