"""Client arguments: every option reaches every client, in the form that it takes."""

import ssl
from pathlib import Path
from typing import Any

import pytest
from redis.connection import parse_url

from streams.clients import (
    aiokafka_config,
    feast_connection_string,
    kafka_python_config,
    redis_kwargs,
    redis_url,
    triton_kwargs,
)
from streams.settings import SettingsError, load_settings


def settings_of(tmp_path: Path, **values: str) -> Any:
    environ = {f"FINTREC_{name.upper()}": value for name, value in values.items()}
    return load_settings(tmp_path, environ=environ)


def test_without_tls_only_the_addresses_are_given(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path, kafka_bootstrap="a:1,b:2", redis_address="c:3", triton_grpc="d:4"
    )
    assert kafka_python_config(settings) == {
        "bootstrap_servers": ["a:1", "b:2"],
        "security_protocol": "PLAINTEXT",
    }
    assert aiokafka_config(settings) == {
        "bootstrap_servers": "a:1,b:2",
        "security_protocol": "PLAINTEXT",
    }
    assert redis_kwargs(settings) == {"host": "c", "port": 3, "db": 0}
    assert redis_url(settings) == "redis://c:3/0"
    assert feast_connection_string(settings) == "c:3,db=0"
    assert triton_kwargs(settings) == {"url": "d:4", "ssl": False}


@pytest.mark.parametrize("config", [kafka_python_config, aiokafka_config])
def test_kafka_with_tls_and_sasl(tmp_path: Path, config: Any) -> None:
    settings = settings_of(
        tmp_path,
        kafka_bootstrap="a:1",
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="SCRAM-SHA-512",
        kafka_sasl_username="ingest",
        kafka_sasl_password="hush",
    )
    arguments = config(settings)
    context = arguments.pop("ssl_context")
    assert isinstance(context, ssl.SSLContext)
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
    del arguments["bootstrap_servers"]
    assert arguments == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "ingest",
        "sasl_plain_password": "hush",
    }


def test_sasl_without_a_user_is_an_error(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path, kafka_bootstrap="a:1", kafka_security_protocol="SASL_PLAINTEXT"
    )
    with pytest.raises(SettingsError, match="kafka_sasl_username is not set"):
        kafka_python_config(settings)


def test_the_store_with_password_and_tls(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path,
        redis_address="store:6380",
        redis_db="2",
        redis_username="scorer",
        redis_password="p@ss/w:rd",
        redis_tls="true",
        redis_tls_cafile="/ca.pem",
    )
    kwargs = redis_kwargs(settings)
    assert kwargs["ssl"] is True
    parsed = parse_url(redis_url(settings))
    for key in ("host", "port", "db", "username", "password", "ssl_ca_certs"):
        assert parsed[key] == kwargs[key], key
    assert feast_connection_string(settings) == (
        "store:6380,db=2,username=scorer,password=p@ss/w:rd,ssl=true,ssl_ca_certs=/ca.pem"
    )


def test_a_comma_in_the_password_cannot_reach_feast(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, redis_address="c:3", redis_password="a,b")
    with pytest.raises(ValueError, match="cannot hold a comma") as caught:
        feast_connection_string(settings)
    assert "a,b" not in str(caught.value)


def test_an_address_without_a_port_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="redis_address is 'store', expected host:port"):
        redis_kwargs(settings_of(tmp_path, redis_address="store"))


def test_triton_with_tls(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path, triton_grpc="t:8001", triton_tls="yes", triton_tls_cafile="/ca.pem"
    )
    assert triton_kwargs(settings) == {
        "url": "t:8001",
        "ssl": True,
        "root_certificates": "/ca.pem",
    }
