"""The compose file and the image: what they name exists, is pinned and is known to the settings."""

import json
import re
import subprocess
import sys
import threading
import tomllib
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from streams.settings import Settings, load_settings, variable_of

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
VARIABLES = {variable_of(row.name) for row in fields(Settings)}
# Variables of the compose file itself, filled in before any container sees them.
COMPOSE_ONLY = {"FINTREC_KAFKA_CLUSTER_ID", "FINTREC_GRAFANA_PASSWORD"}
# Written by `fintrec export`; not part of a checkout.
GENERATED = {"../triton_models"}
WORKERS = ("topics", "registry", "ingest", "score", "lake")


def test_every_part_of_the_system_is_a_service() -> None:
    servers = {"kafka", "redis", "triton", "prometheus", "grafana"}
    assert set(SERVICES) == servers | set(WORKERS)
    assert SERVICES["ingest"]["deploy"]["replicas"] == SERVICES["score"]["deploy"]["replicas"] == 2


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_image_is_pinned_by_a_tag_that_names_a_version(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].rpartition(":")
    assert image
    assert re.search(r"\d+\.\d+", tag), f"{name}: {tag}"


def test_broker_is_the_version_that_the_local_stack_runs() -> None:
    jars = tomllib.loads((ROOT / "jgo.toml").read_text())
    (version,) = re.findall(r"kafka_2\.13:([\d.]+)", json.dumps(jars))
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{version}"


@pytest.mark.parametrize("name", WORKERS)
def test_worker_environment_is_accepted_by_the_settings(name: str) -> None:
    environment = {k: str(v) for k, v in SERVICES[name]["environment"].items()}
    settings = load_settings(environ={**environment, "FINTREC_REDIS_PASSWORD": "secret"})
    assert settings.kafka_bootstrap == "kafka:9092"
    assert settings.redis_address == "redis:6379"
    assert settings.triton_grpc == "triton:8001"
    assert settings.metrics_port == {"ingest": 9400, "score": 9401, "lake": 9402}.get(name, 0)


def test_every_variable_in_any_file_of_the_deployment_is_known() -> None:
    for path in sorted(DEPLOY.rglob("*")):
        if path.is_file() and path.suffix != ".md":
            used = set(re.findall(r"FINTREC_[A-Z_]+[A-Z]", path.read_text()))
            assert used <= VARIABLES | COMPOSE_ONLY, f"{path}: {used - VARIABLES - COMPOSE_ONLY}"


def test_working_directory_is_writable_although_the_root_is_not() -> None:
    (folder,) = re.findall(
        r"^WORKDIR (\S+)\nUSER", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE
    )
    for name in WORKERS:
        service = SERVICES[name]
        assert service["read_only"] is True
        mounted = {v.split(":")[1] for v in service["volumes"] if isinstance(v, str)}
        assert {folder, "/tmp"} <= mounted | set(service["tmpfs"]), name


def test_secrets_come_from_outside() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    for line in text.splitlines():
        if re.match(r"\s*\w*PASSWORD\w*:", line):
            assert re.search(r"\$\{FINTREC_\w+:\?", line), line
    redis = (DEPLOY / "redis" / "redis.conf").read_text()
    assert not re.search(r"^\s*(requirepass|masterauth|user)\b", redis, re.MULTILINE)


def test_published_ports_are_on_the_loopback() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name}: {port}"


def test_mounted_files_exist_and_named_volumes_are_declared() -> None:
    seen = set()
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
            seen.add(source)
            if source.startswith(".") and source not in GENERATED:
                assert (DEPLOY / source).exists(), f"{name}: {source}"
            elif not source.startswith("."):
                assert source in COMPOSE["volumes"], f"{name}: {source}"
    assert seen >= GENERATED


def test_services_wait_for_services_that_exist_and_have_a_health_check() -> None:
    for name, service in SERVICES.items():
        wanted = service.get("depends_on", {})
        for other in wanted:
            assert other in SERVICES, f"{name} waits for {other}"
            if isinstance(wanted, dict) and wanted[other]["condition"] == "service_healthy":
                assert "test" in SERVICES[other]["healthcheck"], f"{name} waits for {other}"


def test_triton_loads_every_model_and_lets_versions_change() -> None:
    command = SERVICES["triton"]["command"]
    assert "--model-control-mode=explicit" in command
    assert "--load-model=*" in command
    (device,) = SERVICES["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"


def test_worker_verbs_exist_on_the_command_line() -> None:
    from streams.__main__ import VERBS

    for name in ("topics", "ingest", "score", "lake"):
        assert SERVICES[name]["command"][0] in VERBS


def test_image_copies_what_exists_and_installs_the_lock_with_hashes() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ")]
    sources = {word for words in copied if not words[0].startswith("--") for word in words}
    assert sources
    allowed = {
        line.removeprefix("!")
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    for source in sources:
        assert (ROOT / source).exists(), source
    assert sources == allowed
    assert len(re.findall(r"--require-hashes", text)) == 2
    assert text.index("USER 10001") < text.index("ENTRYPOINT")
    assert "HEALTHCHECK" in text


def test_every_package_of_the_wheel_is_in_the_image() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    text = (DEPLOY / "Dockerfile").read_text()
    for package in packages:
        assert f"COPY {package} {package}\n" in text


class Metrics(BaseHTTPRequestHandler):
    """A worker's metrics port."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/metrics" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def check_health(port: int) -> int:
    """Exit code of the image's health check."""
    done = subprocess.run(
        [sys.executable, str(DEPLOY / "healthcheck.py")],
        env={"FINTREC_METRICS_PORT": str(port)},
        capture_output=True,
        check=False,
        timeout=20,
    )
    return done.returncode


def test_health_check_follows_the_metrics_port() -> None:
    with HTTPServer(("127.0.0.1", 0), Metrics) as server:
        port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            assert check_health(port) == 0
        finally:
            server.shutdown()
            thread.join()
    assert check_health(port) == 1
    assert check_health(0) == 1
