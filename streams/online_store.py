"""Feast's Redis online store with deadlines, and the door to the hot path.

`feature_store.yaml` names this class, so `feast apply`, `materialize` and every Feast reader and
writer go through it unchanged; workers call `bind` once and use what it returns.
"""

import os
from typing import Any, Literal

from feast import RepoConfig
from feast.infra.online_stores.redis import (
    RedisClient,
    RedisOnlineStore,
    RedisOnlineStoreConfig,
)
from pydantic import Field

from streams.redis_client import DEFAULT_ADDRESS, Client, connect, connect_async
from streams.state_store import RedisStateStore


def _address() -> str:
    return os.environ.get("FINTREC_REDIS_ADDRESS", DEFAULT_ADDRESS)


class FintrecOnlineStoreConfig(RedisOnlineStoreConfig):
    """The options of Feast's Redis store, and two deadlines."""

    type: Literal["streams.online_store.FintrecOnlineStore"] = (
        "streams.online_store.FintrecOnlineStore"  # type: ignore[assignment]
    )
    connection_string: str = Field(default_factory=_address)
    timeout_ms: int = Field(default=2_000, gt=0)  # Feast's own readers and writers, per reply
    hot_timeout_ms: int = Field(default=50, gt=0)  # the hot path, per reply


class FintrecOnlineStore(RedisOnlineStore):
    """Feast's Redis store on clients that neither hang nor retry."""

    def bind(self, repo_config: RepoConfig) -> RedisStateStore:
        """The hot path to this project's rows, on a client with the hot deadline.

        Raises `ValueError` when the configuration asks for a format that the hot path does not
        write.
        """
        config: FintrecOnlineStoreConfig = repo_config.online_store
        if repo_config.entity_key_serialization_version != 3:
            raise ValueError(
                "got entity_key_serialization_version "
                f"{repo_config.entity_key_serialization_version}, expected 3"
            )
        if repo_config.registry.enable_online_feature_view_versioning or config.key_ttl_seconds:
            raise ValueError("versioned view names and key_ttl_seconds are not supported here")
        return RedisStateStore(
            lambda: connect(
                config.connection_string,
                config.hot_timeout_ms,
                config.redis_type.value,
                config.sentinel_master,
            ),
            repo_config.project,
        )

    def _get_client(self, online_store_config: RedisOnlineStoreConfig) -> Client:
        assert isinstance(online_store_config, FintrecOnlineStoreConfig)
        if online_store_config.client != RedisClient.redis:
            raise ValueError(f"got client {online_store_config.client.value}, expected redis")
        if self._client is None:
            self._client = connect(
                online_store_config.connection_string,
                online_store_config.timeout_ms,
                online_store_config.redis_type.value,
                online_store_config.sentinel_master,
            )
        return self._client

    async def _get_client_async(self, online_store_config: RedisOnlineStoreConfig) -> Any:
        assert isinstance(online_store_config, FintrecOnlineStoreConfig)
        if self._client_async is None:
            self._client_async = connect_async(
                online_store_config.connection_string,
                online_store_config.timeout_ms,
                online_store_config.redis_type.value,
                online_store_config.sentinel_master,
            )
        return self._client_async

    async def close(self) -> None:
        """Closes the asynchronous client, which belongs to one event loop."""
        if self._client_async is not None:
            await self._client_async.aclose()
            self._client_async = None
