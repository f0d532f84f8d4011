"""The floor: the least code that turns events into states and requests into slates.

A bare aiokafka loop, a redis-py pipeline and the same TorchScript models inside the process. No
Faust, Feast or Triton; no validation, consent, eligibility, calibration, policy, audit record, F_d
or compare-and-set. Same broker, store, fetch settings, pauses and acknowledgement as the workers.
What the system costs beyond this is the price of what it does more.

`python -m bench.floor score|ingest` with the settings of the workers.
"""

import asyncio
import os
import sys
import time
import zlib
from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import redis
import torch
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.partitioner import murmur2

from bench.world import FLOOR_EVENTS, FLOOR_REQUESTS, FLOOR_SLATES
from features.encoding import TOKEN_COLUMNS
from features.history import ROW, WINDOW
from features.packed import HEADER_BYTES
from features.spec import CONTEXT_WIDTH, FM_WIDTH, NUM_DYNAMIC, NUM_STATIC
from features.vocabulary import code, fingerprint
from fintrec.export import load_script
from streams.clients import aiokafka_config, redis_kwargs
from streams.settings import Settings, load_settings

FIELD: Final = b"packed"
READY: Final = "FLOOR READY"
_WIDTH: Final = 128
_HIDDEN_END: Final = HEADER_BYTES + 2 * _WIDTH
_STATIC_END: Final = _HIDDEN_END + 2 * NUM_STATIC  # the history follows: no consents, no offsets
_STATE_EVENT: Final = slice(32, 40)  # state_event_ms of the header
_MAX_ROWS: Final = 64
_FETCH_BYTES: Final = 65_536  # the best of a bare loop: few and full fetches
_FETCH_WAIT_MS: Final = 8
_WARM: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
Array = npt.NDArray[Any]


def floor_key(user_id: str) -> bytes:
    """Key of a user's state of the floor, beside the real one."""
    return f"floor:{user_id}".encode()


@lru_cache(maxsize=200_000)
def _hash(key: bytes) -> int:
    return int(murmur2(key)) & 0x7FFFFFFF


@lru_cache(maxsize=4096)
def _place(product: str, page: str, placement: str, layout: str) -> tuple[int, ...]:
    return (
        fingerprint("product", product),
        fingerprint("page", page),
        fingerprint("placement", placement),
        fingerprint("layout", layout),
    )


class Floor:
    """Both roles; a process runs one."""

    def __init__(self, settings: Settings, role: str) -> None:
        self._settings = settings
        self._client: Any = redis.Redis(**redis_kwargs(settings))
        torch.set_num_threads(1)
        name = "encode" if role == "ingest" else "head"
        path = settings.model_repository / name / "1" / "model.pt"
        self._model = load_script(path).eval()
        self._producer: Any = None
        self._num_partitions = 0
        rng = np.random.default_rng(0)
        self._value_K = rng.uniform(1, 300, 200)
        self._urgency_K = rng.beta(1, 6, 200)

    def _read(self, users: list[str]) -> list[bytes]:
        with self._client.pipeline(transaction=False) as pipe:
            for user in users:
                pipe.hget(floor_key(user), FIELD)
            found: list[bytes] = pipe.execute()
        return found

    def _run(self, *arrays: Array) -> Any:
        with torch.inference_mode():
            return self._model(*(torch.from_numpy(array) for array in arrays))

    async def score(self, records: list[Any]) -> None:
        """Requests to slates."""
        for start in range(0, len(records), _MAX_ROWS):
            part = records[start : start + _MAX_ROWS]
            await self._emit(part, self._slates([orjson.loads(r.value) for r in part]))

    def _slates(self, requests: list[dict[str, Any]]) -> list[bytes]:
        packed = self._read([request["user_id"] for request in requests])
        count = len(requests)
        state = np.frombuffer(b"".join(p[HEADER_BYTES:_STATIC_END] for p in packed), np.float16)
        state = state.reshape(count, _WIDTH + NUM_STATIC)
        context = np.zeros((count, CONTEXT_WIDTH), np.float16)
        context[:, :NUM_STATIC] = state[:, _WIDTH:]
        context[:, NUM_STATIC + FM_WIDTH] = 1
        seen = [int.from_bytes(p[_STATE_EVENT], "little") for p in packed]
        where = np.array(
            [
                (
                    *_place(r["product"], r["page"], r["placement"], r["layout"]),
                    code("channel", r["channel"]),
                    code("device", r["device"]),
                    r["event_time_ms"],
                    last,
                )
                for r, last in zip(requests, seen, strict=True)
            ],
            np.int64,
        )
        pctr, pcvr = self._run(np.ascontiguousarray(state[:, :_WIDTH]), context, where)
        by_click = 1 / (1 + np.exp(-pctr.numpy()))
        by_conversion = 1 / (1 + np.exp(-pcvr.numpy()))
        scores = self._urgency_K + by_click + by_conversion * self._value_K
        top = np.argpartition(-scores, 5, axis=1)[:, :5]
        top = np.take_along_axis(
            top, np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1), axis=1
        )
        values = np.take_along_axis(scores, top, axis=1).tolist()
        return [
            orjson.dumps(
                {
                    "request_id": request["request_id"],
                    "user_id": request["user_id"],
                    "tier": "fresh",
                    "seen_ms": last,
                    "items": [
                        {"item": item, "ranking_score": score}
                        for item, score in zip(items, row, strict=True)
                    ],
                }
            )
            for request, last, items, row in zip(requests, seen, top.tolist(), values, strict=True)
        ]

    async def _emit(self, records: list[Any], slates: list[bytes]) -> None:
        grouped: dict[int, Any] = {}
        for record, slate in zip(records, slates, strict=True):
            place = _hash(record.key) % self._num_partitions
            if place not in grouped:
                grouped[place] = self._producer.create_batch()
            grouped[place].append(key=record.key, value=slate, timestamp=None)
        sent = []
        for place, batch in grouped.items():
            batch.close()
            sent.append(await self._producer.send_batch(batch, FLOOR_SLATES, partition=place))
        await asyncio.gather(*sent)

    async def ingest(self, records: list[Any]) -> None:
        """Events into states, each with one row more and one row less."""
        by_user: dict[str, list[dict[str, Any]]] = {}
        for record in records:
            event = orjson.loads(record.value)
            by_user.setdefault(event["user_id"], []).append(event)
        users = list(by_user)
        for start in range(0, len(users), _MAX_ROWS):
            part = users[start : start + _MAX_ROWS]
            self._fold(part, [by_user[user] for user in part])

    def _fold(self, users: list[str], events: list[list[dict[str, Any]]]) -> None:
        packed = self._read(users)
        count = len(users)
        rows = np.frombuffer(b"".join(p[_STATIC_END:] for p in packed), ROW).reshape(count, -1)
        rows = rows.copy()
        for place, found in enumerate(events):
            for event in found:
                rows[place, :-1] = rows[place, 1:]
                rows[place, -1] = _row(event)
        window = rows[:, -WINDOW:]
        tokens = np.zeros((count, WINDOW, len(TOKEN_COLUMNS)), np.int32)
        for column, name in enumerate(TOKEN_COLUMNS[:-1]):
            tokens[:, :, column] = window[name]
        times = np.ascontiguousarray(window["time_ms"])
        dynamic = np.zeros((count, WINDOW, NUM_DYNAMIC), np.float16)
        hidden = self._run(tokens, times, dynamic).numpy()
        with self._client.pipeline(transaction=False) as pipe:
            for place, user in enumerate(users):
                value = bytearray(packed[place])
                value[_STATE_EVENT] = int(times[place, -1]).to_bytes(8, "little")
                value[HEADER_BYTES:_HIDDEN_END] = hidden[place].tobytes()
                value[_STATIC_END:] = rows[place].tobytes()
                pipe.hset(floor_key(user), FIELD, bytes(value))
            pipe.execute()

    def warm(self, role: str) -> None:
        """Run the model on the batch sizes to come, until TorchScript has settled."""
        for size in _WARM:
            for _ in range(3):
                if role == "ingest":
                    self._run(
                        np.zeros((size, WINDOW, len(TOKEN_COLUMNS)), np.int32),
                        np.zeros((size, WINDOW), np.int64),
                        np.zeros((size, WINDOW, NUM_DYNAMIC), np.float16),
                    )
                else:
                    self._run(
                        np.zeros((size, _WIDTH), np.float16),
                        np.zeros((size, CONTEXT_WIDTH), np.float16),
                        np.zeros((size, 8), np.int64),
                    )

    async def run(self, role: str) -> None:
        """Consume for ever."""
        s = self._settings
        self.warm(role)
        self._producer = AIOKafkaProducer(
            **aiokafka_config(s), linger_ms=0, acks="all", max_batch_size=1 << 20
        )
        await self._producer.start()
        self._num_partitions = len(await self._producer.partitions_for(FLOOR_SLATES))
        is_score = role == "score"
        topic = FLOOR_REQUESTS if is_score else FLOOR_EVENTS
        consumer = AIOKafkaConsumer(
            topic,
            **aiokafka_config(s),
            group_id=f"bench-floor-{role}",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_min_bytes=_FETCH_BYTES,
            fetch_max_wait_ms=_FETCH_WAIT_MS,
        )
        await consumer.start()
        pause_s = (s.score_pause_ms if is_score else s.ingest_pause_ms) / 1000
        most = s.score_max_batch if is_score else s.ingest_max_batch
        work: Callable[[list[Any]], Coroutine[Any, Any, None]] = (
            self.score if is_score else self.ingest
        )
        sys.stdout.write(READY + "\n")
        sys.stdout.flush()
        done: dict[TopicPartition, int] = {}
        committed_at = free_at = 0.0
        while True:
            found = await consumer.getmany(timeout_ms=200, max_records=most)
            if found:
                await work([message for messages in found.values() for message in messages])
                done |= {tp: messages[-1].offset + 1 for tp, messages in found.items()}
                await asyncio.sleep(max(0.0, free_at - time.monotonic()))
                free_at = time.monotonic() + pause_s
            if done and time.monotonic() - committed_at > 0.25:
                await consumer.commit(done)
                done, committed_at = {}, time.monotonic()


def _row(event: dict[str, Any]) -> tuple[int, ...]:
    """A history row with what the model reads."""
    return (
        event["event_time_ms"],
        zlib.crc32(event["event_id"].encode()),
        fingerprint("item", event.get("item_id", "")),
        *_place(
            event.get("product", ""),
            event.get("page", ""),
            event.get("placement", ""),
            event.get("layout", ""),
        ),
        0,
        code("action", event.get("action", "purchase")),
        code("channel", event["channel"]),
        code("device", event.get("device", "")),
        event.get("position", 0),
        0,
        0,
        0,
    )


def main() -> None:
    """`python -m bench.floor score|ingest`."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    role = sys.argv[1]
    if role not in ("score", "ingest"):
        raise SystemExit(f"got role {role!r}, expected score or ingest")
    asyncio.run(Floor(load_settings(), role).run(role))


if __name__ == "__main__":
    main()
