"""Redis clients that answer or fail within a deadline.

redis-py retries by default, so a frozen server holds a caller for seconds although a time-out is
set. Ours never retry: the caller has a better plan (the next tier, the next batch).
"""

from typing import Any, Final, Literal, TypeAlias

from redis import Redis, RedisCluster
from redis import asyncio as redis_asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry
from redis.sentinel import Sentinel

from features.errors import ConfigurationError

Topology: TypeAlias = Literal["redis", "redis_cluster", "redis_sentinel"]
Client: TypeAlias = "Redis | RedisCluster"

DEFAULT_ADDRESS: Final = "127.0.0.1:6379"

_OPTIONS: Final[dict[str, type]] = {
    "db": int,
    "username": str,
    "password": str,
    "max_connections": int,
    "ssl": bool,
    "ssl_ca_certs": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_cert_reqs": str,
    "ssl_check_hostname": bool,
}


def parse_connection_string(text: str) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """Feast's form, `host:port,host:port,option=value`, as addresses and client options.

    Raises `ConfigurationError` for an unknown option or a malformed address; never prints a value,
    which may be a password.
    """
    nodes: list[tuple[str, int]] = []
    options: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if equals:
            if name not in _OPTIONS:
                raise ConfigurationError(
                    f"store option {name!r} is unknown, expected one of {sorted(_OPTIONS)}"
                )
            options[name] = _option(name, value)
        else:
            host, colon, port = name.rpartition(":")
            if not colon or not host or not port.isdigit():
                raise ConfigurationError(f"store address {name!r} is not host:port")
            nodes.append((host, int(port)))
    if not nodes:
        raise ConfigurationError("the store's connection string holds no host:port")
    return nodes, options


def _option(name: str, value: str) -> int | bool | str:
    kind = _OPTIONS[name]
    if kind is int and value.isdigit():
        return int(value)
    if kind is bool and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if kind is str:
        return value
    raise ConfigurationError(f"store option {name!r} is not of type {kind.__name__}")


def _deadline(timeout_ms: int) -> dict[str, Any]:
    return {"socket_timeout": timeout_ms / 1000, "socket_connect_timeout": timeout_ms / 1000}


def connect(
    connection_string: str,
    timeout_ms: int,
    topology: Topology = "redis",
    sentinel_master: str = "mymaster",
) -> Client:
    """A blocking client: at most `timeout_ms` for a connect, a send or a reply, and no retry.

    A single node is reached on first use; a cluster is asked for its layout at once.
    """
    nodes, options = parse_connection_string(connection_string)
    options |= _deadline(timeout_ms) | {"retry": Retry(NoBackoff(), 0)}
    if topology == "redis_cluster":
        options.pop("db", None)  # a cluster has one database
        return RedisCluster(startup_nodes=[ClusterNode(*node) for node in nodes], **options)  # type: ignore[no-untyped-call]
    if topology == "redis_sentinel":
        sentinel: Any = Sentinel(nodes, sentinel_kwargs=_deadline(timeout_ms), **options)  # type: ignore[no-untyped-call]
        master: Redis = sentinel.master_for(sentinel_master)
        return master
    host, port = nodes[0]
    return Redis(host=host, port=port, **options)


def connect_async(
    connection_string: str,
    timeout_ms: int,
    topology: Topology = "redis",
    sentinel_master: str = "mymaster",
) -> "redis_asyncio.Redis | redis_asyncio.RedisCluster":
    """The same for asyncio; Feast's asynchronous readers and writers use it."""
    nodes, options = parse_connection_string(connection_string)
    options |= _deadline(timeout_ms) | {"retry": AsyncRetry(NoBackoff(), 0)}
    if topology == "redis_cluster":
        options.pop("db", None)
        startup = [redis_asyncio.cluster.ClusterNode(*node) for node in nodes]
        return redis_asyncio.RedisCluster(startup_nodes=startup, **options)
    if topology == "redis_sentinel":
        sentinel: Any = redis_asyncio.Sentinel(  # type: ignore[no-untyped-call]
            nodes, sentinel_kwargs=_deadline(timeout_ms), **options
        )
        master: redis_asyncio.Redis = sentinel.master_for(sentinel_master)
        return master
    host, port = nodes[0]
    return redis_asyncio.Redis(host=host, port=port, **options)
