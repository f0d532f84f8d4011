"""The hot path into Feast's online store: packed reads, compare-and-set, typed reads, a user scan.

Rows have Feast's own format, so every Feast reader sees what is written here and the reverse.
Each call is one pipeline of single-key commands, which also holds on a cluster.
"""

import functools
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from redis.exceptions import NoScriptError, RedisClusterException, RedisError

from features.errors import StateCorrupt, StoreUnavailable
from features.freshness import Freshness, freshness
from features.spec import USER_CONSENT, USER_INTRADAY, USER_STATE, VIEWS, View
from streams.compare_and_set import compare_and_set_script
from streams.feast_format import (
    bytes_payload,
    decode,
    decode_timestamp,
    encode_bytes,
    encode_int64,
    encode_string,
    encode_timestamp,
    entity_key,
    entity_of,
    entity_prefix,
    feature_field,
    timestamp_field,
)
from streams.ports import StateWrite, ViewRow
from streams.redis_client import Client

_Command: TypeAlias = tuple[bytes, bytes, list[bytes]]

JOIN_KEY: Final = "user_id"
KEYS_CACHED: Final = 200_000  # about 100 bytes each
VIEWS_BY_NAME: Final = {view.name: view for view in VIEWS if view.entity == "user"}

# The further views that a write may carry, by (intraday given, consent given).
_SCRIPTS: Final = {
    (False, False): compare_and_set_script([]),
    (True, False): compare_and_set_script([USER_INTRADAY]),
    (False, True): compare_and_set_script([USER_CONSENT]),
    (True, True): compare_and_set_script([USER_INTRADAY, USER_CONSENT]),
}
# A server names a script by the SHA-1 of its text.
_SHA: Final = {
    views: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().encode()
    for views, text in _SCRIPTS.items()
}


class RedisStateStore:
    """`StateStore` on Redis or Valkey, single node or cluster; also the sweep's user scan.

    `connect` makes the client on first use, so a worker can start before its store. The client
    must have time-outs and no retry (`streams.redis_client`). Safe to share between threads.
    """

    def __init__(self, connect: Callable[[], Client], project: str) -> None:
        self._make_client = connect
        self._client: Client | None = None
        self._making = threading.Lock()
        self._project = project
        self._key = functools.lru_cache(KEYS_CACHED)(
            functools.partial(entity_key, project, JOIN_KEY)
        )
        self._packed = feature_field(USER_STATE.name, "packed")
        self._stamps = {name: timestamp_field(name) for name in VIEWS_BY_NAME}
        self._fields = {
            name: [feature_field(name, feature) for feature in view.feature_names]
            for name, view in VIEWS_BY_NAME.items()
        }

    def read_packed(self, user_ids: Sequence[str]) -> list[bytes | None]:
        """See `StateStore.read_packed`."""
        if not user_ids:
            return []
        rows = self._read(f"reading {len(user_ids)} states", user_ids, [self._packed])
        return [bytes_payload(row[0]) for row in rows]

    def compare_and_set(self, writes: Sequence[StateWrite]) -> list[bool]:
        """See `StateStore.compare_and_set`."""
        commands = [
            (
                _SHA[write.intraday is not None, write.consent is not None],
                self._key(write.user_id),
                self._arguments(write),
            )
            for write in writes
        ]
        if not commands:
            return []
        with self._reaching(f"writing {len(writes)} states"):
            replies = self._evaluate(commands)
            # A new or restarted node does not know the script: none of these ran, so repeating is safe.
            lost = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if lost:
                for text in _SCRIPTS.values():
                    self._connect().script_load(text)
                for at, reply in zip(
                    lost, self._evaluate([commands[i] for i in lost]), strict=True
                ):
                    replies[at] = reply
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return [reply == 1 for reply in replies]

    def read_views(
        self, user_ids: Sequence[str], view_names: Sequence[str], now_ms: int
    ) -> list[dict[str, ViewRow]]:
        """See `StateStore.read_views`."""
        views = [_user_view(name) for name in view_names]
        if not user_ids or not views:
            return [{} for _ in user_ids]
        fields = [
            field for view in views for field in (self._stamps[view.name], *self._fields[view.name])
        ]
        rows = self._read(
            f"reading {', '.join(view_names)} of {len(user_ids)} users", user_ids, fields
        )
        return [
            _rows(user_id, views, row, now_ms) for user_id, row in zip(user_ids, rows, strict=True)
        ]

    def scan_users(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """About `count` users from `cursor` on, and the next cursor; 0 begins and ends the walk.

        A user may come twice, and one written during the walk may be left out (SCAN's promise).
        Walks the one node it is connected to.
        """
        pattern = entity_prefix(JOIN_KEY) + b"*" + self._project.encode()
        with self._reaching("scanning users"):
            client: Any = self._connect()  # redis-py types one class for both its clients
            following, keys = client.scan(cursor, match=pattern, count=count)
        users = [entity_of(key, self._project, JOIN_KEY) for key in keys]
        return int(following), [user_id for user_id in users if user_id is not None]

    def ping(self) -> None:
        """Returns when the store answers; raises `StoreUnavailable`."""
        with self._reaching("pinging"):
            self._connect().ping()

    def _connect(self) -> Client:
        if self._client is None:
            # Of two clients made at once, the one let go would close a socket that is in use.
            with self._making:
                if self._client is None:
                    self._client = self._make_client()
        return self._client

    def _read(
        self, doing: str, user_ids: Sequence[str], fields: Sequence[bytes]
    ) -> list[list[bytes | None]]:
        with self._reaching(doing), self._connect().pipeline(transaction=False) as pipe:
            for user_id in user_ids:
                pipe.execute_command("HMGET", self._key(user_id), *fields)
            rows: list[list[bytes | None]] = pipe.execute()
        return rows

    def _arguments(self, write: StateWrite) -> list[bytes]:
        """What follows the key and its count: see `streams.compare_and_set`."""
        arguments: list[bytes] = [
            write.expected_version.to_bytes(8, "little"),
            encode_timestamp(write.event_time_ms),
            encode_bytes(write.packed),
        ]
        if write.intraday is not None:
            if len(write.intraday) != len(USER_INTRADAY.features):
                raise ValueError(
                    f"got {len(write.intraday)} intraday values of {write.user_id!r}, "
                    f"expected {len(USER_INTRADAY.features)}"
                )
            arguments += map(encode_int64, write.intraday)
        if write.consent is not None:
            marketing, effective_from_ms = write.consent
            arguments += (encode_string(marketing), encode_int64(effective_from_ms))
        return arguments

    def _evaluate(self, commands: Sequence[_Command]) -> list[Any]:
        with self._connect().pipeline(transaction=False) as pipe:
            for sha, key, arguments in commands:
                pipe.execute_command("EVALSHA", sha, b"1", key, *arguments)
            replies: list[Any] = pipe.execute(raise_on_error=False)
        return replies

    @contextmanager
    def _reaching(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (RedisError, RedisClusterException, OSError) as error:
            raise StoreUnavailable(
                f"{doing} of project {self._project!r}: {type(error).__name__}: {error}"
            ) from error


def _user_view(name: str) -> View:
    if name not in VIEWS_BY_NAME:
        raise ValueError(f"got view {name!r}, expected one of {sorted(VIEWS_BY_NAME)}")
    return VIEWS_BY_NAME[name]


def _rows(
    user_id: str, views: Sequence[View], row: Sequence[bytes | None], now_ms: int
) -> dict[str, ViewRow]:
    found = {}
    at = 0
    for view in views:
        stamp, messages = row[at], row[at + 1 : at + 1 + len(view.features)]
        at += 1 + len(view.features)
        found[view.name] = _row(user_id, view, stamp, messages, now_ms)
    return found


def _row(
    user_id: str, view: View, stamp: bytes | None, messages: Sequence[bytes | None], now_ms: int
) -> ViewRow:
    if stamp is None:
        return ViewRow(Freshness.MISSING)
    try:
        event_time_ms = decode_timestamp(stamp)
        values = {
            feature.name: decode(message, feature.dtype)
            for feature, message in zip(view.features, messages, strict=True)
            if message
        }
    except StateCorrupt as error:
        raise StateCorrupt(f"{view.name} of user {user_id!r}: {error}") from error
    return ViewRow(freshness(event_time_ms, now_ms, view.ttl_ms), event_time_ms, values)
