"""Client arguments from settings: the same TLS, SASL and password options for every client.

Plain dictionaries, so that this module imports no client and each adapter adds its own options.
"""

import ssl
from typing import Any
from urllib.parse import quote, urlencode

from streams.settings import Settings


def kafka_python_config(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of kafka-python's consumer, producer and admin client."""
    config: dict[str, Any] = {
        "bootstrap_servers": settings.require("kafka_bootstrap").split(","),
        "security_protocol": settings.kafka_security_protocol,
    }
    if _speaks_tls(settings):
        config["ssl_context"] = kafka_ssl_context(settings)
    return config | _sasl(settings)


def aiokafka_config(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of aiokafka's consumer and producer."""
    config: dict[str, Any] = {
        "bootstrap_servers": settings.require("kafka_bootstrap"),
        "security_protocol": settings.kafka_security_protocol,
    }
    if _speaks_tls(settings):
        config["ssl_context"] = kafka_ssl_context(settings)
    return config | _sasl(settings)


def kafka_ssl_context(settings: Settings) -> ssl.SSLContext:
    """The TLS context for Kafka: host names checked, our own certificate if there is one."""
    context = ssl.create_default_context(cafile=settings.kafka_ssl_cafile or None)
    if settings.kafka_ssl_certfile:
        context.load_cert_chain(settings.kafka_ssl_certfile, settings.kafka_ssl_keyfile or None)
    return context


def redis_kwargs(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of redis-py's client."""
    host, port = _host_and_port(settings.require("redis_address"), "redis_address")
    kwargs: dict[str, Any] = {"host": host, "port": port, "db": settings.redis_db}
    if settings.redis_username:
        kwargs["username"] = settings.redis_username
    if settings.redis_password:
        kwargs["password"] = settings.redis_password
    if settings.redis_tls:
        kwargs["ssl"] = True
        if settings.redis_tls_cafile:
            kwargs["ssl_ca_certs"] = settings.redis_tls_cafile
    return kwargs


def redis_url(settings: Settings) -> str:
    """The store as `redis://` or `rediss://`; it holds the password, so keep it out of logs."""
    address = settings.require("redis_address")
    account = ""
    if settings.redis_username or settings.redis_password:
        account = (
            f"{quote(settings.redis_username, safe='')}:{quote(settings.redis_password, safe='')}@"
        )
    scheme = "rediss" if settings.redis_tls else "redis"
    query = ""
    if settings.redis_tls and settings.redis_tls_cafile:
        query = "?" + urlencode({"ssl_ca_certs": settings.redis_tls_cafile})
    return f"{scheme}://{account}{address}/{settings.redis_db}{query}"


def feast_connection_string(settings: Settings) -> str:
    """The store in the form of Feast's Redis store: `host:port,key=value,...`.

    Raises:
        ValueError: a value holds a comma, which that form cannot carry.
    """
    parts = [settings.require("redis_address")]
    for key, value in redis_kwargs(settings).items():
        if key in ("host", "port"):
            continue
        text = "true" if value is True else str(value)
        if "," in text:
            raise ValueError(f"Feast's connection string cannot hold a comma, as {key} has one")
        parts.append(f"{key}={text}")
    return ",".join(parts)


def triton_kwargs(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of tritonclient's gRPC client."""
    kwargs: dict[str, Any] = {"url": settings.require("triton_grpc"), "ssl": settings.triton_tls}
    if settings.triton_tls and settings.triton_tls_cafile:
        kwargs["root_certificates"] = settings.triton_tls_cafile
    return kwargs


def _speaks_tls(settings: Settings) -> bool:
    return settings.kafka_security_protocol in ("SSL", "SASL_SSL")


def _sasl(settings: Settings) -> dict[str, Any]:
    if not settings.kafka_security_protocol.startswith("SASL_"):
        return {}
    return {
        "sasl_mechanism": settings.kafka_sasl_mechanism,
        "sasl_plain_username": settings.require("kafka_sasl_username"),
        "sasl_plain_password": settings.kafka_sasl_password,
    }


def _host_and_port(address: str, name: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{name} is {address!r}, expected host:port")
    return host, int(port)
