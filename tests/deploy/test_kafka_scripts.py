"""The Kafka scripts are current, run, and say what the topic table says."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from features.border import Border
from streams.feed import app_id, feed_group
from streams.ingest import Ingest
from streams.kafka_scripts import (
    ADMIN,
    PRINCIPALS,
    acls_script,
    create_topics_script,
)
from streams.lake import Lake
from streams.scoring import Scoring
from streams.topic_admin import plan_topics
from streams.topics import CONSENTS, DEAD_LETTERS, INPUTS, OUTPUTS, SLATES, TOPICS

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kafka"
# One line a call; arguments end with the unit separator.
RECORDER = r"""#!/bin/sh
{ printf '%s\037' "$@"; echo; } >> "$RECORD"
"""


def run(script: str, tmp_path: Path, **environment: str) -> list[list[str]]:
    """Arguments of each call that a script makes to Kafka's tools, which a recorder stands for."""
    for tool in ("kafka-topics.sh", "kafka-acls.sh"):
        path = tmp_path / tool
        path.write_text(RECORDER)
        path.chmod(0o755)
    record = tmp_path / "record"
    record.touch()
    given = {
        "PATH": os.environ["PATH"],
        "KAFKA_BIN": str(tmp_path),
        "RECORD": str(record),
        "BOOTSTRAP": "broker:9093",
        **environment,
    }
    subprocess.run(["bash", str(FOLDER / script)], env=given, check=True, timeout=60)
    return [line.split("\x1f")[:-1] for line in record.read_text().split("\n")[:-1]]


def values(call: list[str], flag: str) -> list[str]:
    """What stands behind each occurrence of a flag."""
    return [call[i + 1] for i, word in enumerate(call) if word == flag]


@pytest.mark.parametrize(
    ("name", "text"), [("create-topics.sh", create_topics_script()), ("acls.sh", acls_script())]
)
def test_script_is_current_and_executable(name: str, text: str) -> None:
    path = FOLDER / name
    assert path.read_text() == text, "run 'make docs'"
    assert path.stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=20)


@pytest.mark.parametrize(("partitions", "replication"), [(4, 1), (24, 3)])
def test_script_makes_the_topics_that_fintrec_makes(
    tmp_path: Path, partitions: int, replication: int
) -> None:
    calls = run(
        "create-topics.sh", tmp_path, PARTITIONS=str(partitions), REPLICATION=str(replication)
    )
    made = {}
    for call in calls:
        assert "--if-not-exists" in call
        (name,) = values(call, "--topic")
        made[name] = (
            int(values(call, "--partitions")[0]),
            int(values(call, "--replication-factor")[0]),
            dict(word.split("=", 1) for word in values(call, "--config")),
        )
    assert made == {
        plan.name: (plan.num_partitions, plan.replication_factor, dict(plan.config))
        for plan in plan_topics(partitions, replication)
    }


def test_command_config_is_passed_on_and_the_broker_is_required(tmp_path: Path) -> None:
    for script in ("create-topics.sh", "acls.sh"):
        calls = run(script, tmp_path, COMMAND_CONFIG="admin.properties")
        assert all(values(call, "--command-config") == ["admin.properties"] for call in calls)
        assert all(values(call, "--bootstrap-server") == ["broker:9093"] for call in calls)
        without = subprocess.run(
            ["bash", str(FOLDER / script)],
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        assert without.returncode != 0
        assert "BOOTSTRAP" in without.stderr


def test_acls_grant_exactly_the_table(tmp_path: Path) -> None:
    granted: set[tuple[str, str, str, str]] = set()
    for call in run("acls.sh", tmp_path):
        (principal,) = values(call, "--allow-principal")
        for operation in values(call, "--operation"):
            granted |= {(principal, operation, "topic", t) for t in values(call, "--topic")}
            for group in values(call, "--group"):
                (pattern,) = values(call, "--resource-pattern-type")
                star = "*" if pattern == "prefixed" else ""
                granted.add((principal, operation, "group", group + star))
    expected = {
        (f"User:{ADMIN}", operation, "topic", topic)
        for operation in ("Create", "Describe", "DescribeConfigs")
        for topic in TOPICS
    }
    for p in PRINCIPALS:
        expected |= {(f"User:{p.name}", "Read", "topic", topic) for topic in p.reads}
        expected |= {(f"User:{p.name}", "Write", "topic", topic) for topic in p.writes}
        expected |= {(f"User:{p.name}", "Read", "group", group) for group in p.groups}
    assert granted == expected


def test_nobody_can_do_more_than_one_side_of_a_decision() -> None:
    writers = {topic: [p.name for p in PRINCIPALS if topic in p.writes] for topic in TOPICS}
    readers = {topic: [p.name for p in PRINCIPALS if topic in p.reads] for topic in TOPICS}
    assert all(writers.values()), "a topic that nobody may write"
    assert all(readers.values()), "a topic that nobody may read"
    for topic in OUTPUTS:
        assert writers[topic.name] == ["fintrec-score"]
    for letters in DEAD_LETTERS:
        assert set(writers[letters.name]) <= {"fintrec-ingest", "fintrec-score"}
        assert readers[letters.name] == ["fintrec-auditors"]
    assert writers[CONSENTS] == ["fintrec-producers"]
    assert "fintrec-applications" in readers[SLATES]
    for topic in INPUTS:
        worker = {"fintrec-ingest", "fintrec-score"} & set(readers[topic.name])
        assert worker, topic.name
        for name in worker:
            # Whoever reads may refuse, except that ingest only idles on the policies.
            if (name, topic.name) != ("fintrec-ingest", "ranking_policies.v1"):
                assert name in writers[topic.dead_letter]


def test_workers_groups_and_topics_are_those_of_the_code() -> None:
    by_name = {p.name: p for p in PRINCIPALS}
    for work in (Ingest, Scoring, Lake):
        principal = by_name[f"fintrec-{work.name}"]
        assert principal.groups == (app_id(work.name), feed_group(work.name))
        assert set(work.topics) <= set(principal.reads)


def test_topics_carry_what_the_border_is_to_judge() -> None:
    for plan in plan_topics():
        assert int(plan.config["max.message.bytes"]) > Border().max_bytes
