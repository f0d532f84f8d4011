"""Kubernetes manifests: complete, locked down, with the settings' own variables."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from streams.settings import load_settings

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
MANIFESTS: list[dict[str, Any]] = [
    manifest
    for name in KUSTOMIZATION["resources"]
    for manifest in yaml.safe_load_all((FOLDER / name).read_text())
]
BY_KIND = {
    kind: [m for m in MANIFESTS if m["kind"] == kind] for kind in {m["kind"] for m in MANIFESTS}
}
CONFIG = BY_KIND["ConfigMap"][0]["data"]
PORTS = {"fintrec-ingest": 9400, "fintrec-score": 9401, "fintrec-lake": 9402}
PODS = [
    (m["metadata"]["name"], m["spec"]["template"]) for m in BY_KIND["Deployment"] + BY_KIND["Job"]
]


def test_every_file_is_part_of_the_kustomization() -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == set(KUSTOMIZATION["resources"])


def test_all_workers_are_deployments_with_a_disruption_budget() -> None:
    assert {m["metadata"]["name"] for m in BY_KIND["Deployment"]} == set(PORTS)
    for deployment in BY_KIND["Deployment"]:
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"] == labels
        budgets = [b["spec"]["selector"]["matchLabels"] for b in BY_KIND["PodDisruptionBudget"]]
        assert labels in budgets


@pytest.mark.parametrize(("name", "pod"), PODS, ids=[name for name, _ in PODS])
def test_environment_is_accepted_by_the_settings(name: str, pod: dict[str, Any]) -> None:
    for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
        environment = dict(CONFIG)
        for entry in container["env"]:
            environment[entry["name"]] = entry.get("value", "from-a-secret")
        settings = load_settings(environ=environment)
        assert settings.kafka_security_protocol == "SASL_SSL"
        assert settings.kafka_sasl_password == "from-a-secret"
        assert settings.metrics_port == PORTS.get(name, 0)


def test_no_secret_is_contained_and_no_password_is_in_the_config_map() -> None:
    assert "Secret" not in BY_KIND
    for key in CONFIG:
        assert not any(word in key for word in ("PASSWORD", "USERNAME", "KEYFILE"))
    for _, pod in PODS:
        for container in pod["spec"]["containers"]:
            for entry in container["env"]:
                if "PASSWORD" in entry["name"]:
                    assert set(entry["valueFrom"]) == {"secretKeyRef"}


@pytest.mark.parametrize(("name", "pod"), PODS, ids=[name for name, _ in PODS])
def test_pods_run_without_privileges(name: str, pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec.get("initContainers", []) + spec["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]


def test_workers_are_probed_on_the_metrics_port() -> None:
    for deployment in BY_KIND["Deployment"]:
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert container["args"] == [
            "worker",
            deployment["metadata"]["name"].removeprefix("fintrec-"),
        ]
        assert container["ports"] == [
            {"name": "metrics", "containerPort": PORTS[deployment["metadata"]["name"]]}
        ]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"] == {"path": "/metrics", "port": "metrics"}


def test_every_mount_has_its_volume() -> None:
    for name, pod in PODS:
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, name


def test_network_policy_lets_in_the_metrics_ports_alone() -> None:
    (policy,) = BY_KIND["NetworkPolicy"]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    (ingress,) = policy["spec"]["ingress"]
    assert {port["port"] for port in ingress["ports"]} == set(PORTS.values())
    reached = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    addresses = (
        *CONFIG["FINTREC_KAFKA_BOOTSTRAP"].split(","),
        CONFIG["FINTREC_REDIS_ADDRESS"],
        CONFIG["FINTREC_TRITON_GRPC"],
        CONFIG["FINTREC_TRITON_HTTP"],
    )
    assert reached == {53} | {int(address.rpartition(":")[2]) for address in addresses}
    for _, pod in PODS:
        assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == "fintrec"


def test_replicas_fit_the_partitions() -> None:
    for deployment in BY_KIND["Deployment"]:
        assert deployment["spec"]["replicas"] <= int(CONFIG["FINTREC_NUM_PARTITIONS"])


def test_the_lake_outlives_its_pod_and_is_mounted_by_one_at_a_time() -> None:
    (lake,) = [m for m in BY_KIND["Deployment"] if m["metadata"]["name"] == "fintrec-lake"]
    assert lake["spec"]["strategy"] == {"type": "Recreate"}
    volumes = {v["name"]: v for v in lake["spec"]["template"]["spec"]["volumes"]}
    assert "persistentVolumeClaim" in volumes["lake"]
    (container,) = lake["spec"]["template"]["spec"]["containers"]
    (mount,) = [m for m in container["volumeMounts"] if m["name"] == "lake"]
    settings = load_settings(environ={"FINTREC_DIR": "/var/lib/fintrec"})
    assert settings.lake_dir.is_relative_to(mount["mountPath"])
