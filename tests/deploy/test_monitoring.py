"""Alerts and dashboard speak only of metrics, labels and values that the workers have."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from features.border import REASONS
from fintrec.slates import TIERS
from streams import metrics
from streams.ingest import Ingest
from streams.lake import Lake
from streams.lake_rows import TOMBSTONE
from streams.scoring import Scoring

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
SCRAPE = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "fintrec.json").read_text())
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
# Labels that Prometheus adds when it scrapes.
SCRAPED = {"job", "instance"}


def known_series() -> dict[str, set[str]]:
    """Every series of the workers by name, with its labels."""
    series: dict[str, set[str]] = {}
    for metric in vars(metrics).values():
        if not isinstance(metric, (Counter, Gauge, Histogram)):
            continue
        labels = set(metric._labelnames)
        (described,) = metric.describe()
        if isinstance(metric, Counter):
            series[f"{described.name}_total"] = labels
        elif isinstance(metric, Histogram):
            for suffix, more in (("_bucket", {"le"}), ("_sum", set()), ("_count", set())):
                series[described.name + suffix] = labels | more
        else:
            series[described.name] = labels
    return series


SERIES = known_series()


def expressions() -> Iterator[tuple[str, str]]:
    """(place, PromQL) of every alert and panel."""
    for group in RULES["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


ALL = list(expressions())


@pytest.mark.parametrize(("place", "expr"), ALL, ids=[place for place, _ in ALL])
def test_expression_uses_known_series_and_labels(place: str, expr: str) -> None:
    used = re.findall(r"\b(fintrec_[a-z_]+)(?:\{([^}]*)\})?", expr)
    assert used or re.search(r"\bup\b", expr)
    labels = set(SCRAPED)
    for name, matchers in used:
        assert name in SERIES, f"{place}: {name}"
        asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        assert asked <= SERIES[name] | SCRAPED, f"{place}: {name}{{{matchers}}}"
        labels |= SERIES[name]
    for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expr):
        assert {label.strip() for label in group.split(",")} <= labels, f"{place}: {group}"


def test_label_values_are_those_of_the_code() -> None:
    workers = {Ingest.name, Scoring.name, Lake.name}
    values = {
        "tier": set(TIERS),
        "reason": {*REASONS, TOMBSTONE},
        "worker": workers,
        "job": workers,
    }
    for place, expr in ALL:
        for label, allowed in values.items():
            for given in re.findall(rf'\b{label}\s*(?:=~|!=|=)\s*"([^"]*)"', expr):
                assert set(given.split("|")) <= allowed, f"{place}: {label}={given}"


def test_every_metric_of_the_workers_is_on_the_dashboard() -> None:
    shown = " ".join(t["expr"] for p in DASHBOARD["panels"] for t in p.get("targets", ()))
    for name in SERIES:
        if not name.endswith(("_sum", "_count")):
            assert re.search(rf"\b{name}\b", shown), name


def test_latency_alert_stands_on_a_bucket_bound_so_that_it_is_exact() -> None:
    (rule,) = [r for r in RULES["groups"][0]["rules"] if r["alert"] == "FintrecSlateLatency"]
    bound = float(rule["expr"].rpartition(">")[2])
    assert bound == 0.12
    assert bound in metrics.HOP_SECONDS._kwargs["buckets"]


def test_alerts_are_whole_and_named_once() -> None:
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "warn")
        assert rule["annotations"]["summary"]


def test_prometheus_scrapes_the_workers_on_the_ports_that_they_open() -> None:
    found = {
        job["job_name"]: job["dns_sd_configs"][0]
        for job in SCRAPE["scrape_configs"]
        if "dns_sd_configs" in job
    }
    for name in ("ingest", "score", "lake"):
        assert found[name]["names"] == [name]
        port = COMPOSE["services"][name]["environment"]["FINTREC_METRICS_PORT"]
        assert found[name]["port"] == port
    assert SCRAPE["rule_files"] == ["rules.yml"]


def test_dashboard_reads_the_provisioned_data_source() -> None:
    provisioned = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    )
    (source,) = provisioned["datasources"]
    panels: list[dict[str, Any]] = [p for p in DASHBOARD["panels"] if p["type"] != "row"]
    assert panels
    for panel in panels:
        assert panel["datasource"]["uid"] == source["uid"]
        assert panel["description"]
    assert len({p["id"] for p in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
