"""Create the project's topics on a cluster, and say where existing ones differ.

- what a topic needs (partitions, replicas, retention, compaction, sizes) follows from
  `streams/topics.py`; two numbers are the installation's: partitions and replication factor
- creating is idempotent; a topic that exists with another shape is reported, never changed:
  more partitions would move users to foreign partitions, other retention may delete history
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from features.errors import ConfigurationError
from streams.topics import OUTPUTS, TOPICS, Topic

DEFAULT_PARTITIONS: Final = 4
DEFAULT_REPLICATION: Final = 1
# Above the border's 64 KiB, so that an oversize record reaches its dead letter, not only an error
# in its producer.
MAX_MESSAGE_BYTES: Final = 1 << 20
# Slates and audit records leave as one record batch a partition.
MAX_OUTPUT_BYTES: Final = 4 << 20

_ALREADY_EXISTS: Final = 36  # Kafka's error code TOPIC_ALREADY_EXISTS


class Admin(Protocol):
    """The part of kafka-python's admin client that is used here."""

    def list_topics(self) -> list[str]: ...

    def describe_topics(self, topics: Sequence[str]) -> list[dict[str, Any]]: ...

    def describe_configs(self, config_resources: list[Any], *, config_filter: str) -> Any: ...

    def create_topics(self, new_topics: Mapping[str, Any], *, raise_errors: bool) -> Any: ...

    def wait_for_topics(self, topic_names: Sequence[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A topic as it shall be on the cluster."""

    name: str
    num_partitions: int
    replication_factor: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """One property of an existing topic that is not as planned."""

    topic: str
    what: str
    got: str
    expected: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.what} is {self.got}, expected {self.expected}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `ensure_topics` did and found."""

    created: tuple[str, ...]
    unchanged: tuple[str, ...]
    differences: tuple[Difference, ...]


def topic_config(topic: Topic, replication_factor: int = DEFAULT_REPLICATION) -> dict[str, str]:
    """Kafka's settings of a topic; everything the project relies on is set, not inherited."""
    size = MAX_OUTPUT_BYTES if topic in OUTPUTS else MAX_MESSAGE_BYTES
    return {
        "cleanup.policy": "compact" if topic.compacted else "delete",
        "retention.ms": str(topic.retention_ms),
        "max.message.bytes": str(size),
        # With three replicas one may be down and a write is still on two disks.
        "min.insync.replicas": "2" if replication_factor >= 3 else "1",
        **topic.config,
    }


def plan_topics(
    num_partitions: int = DEFAULT_PARTITIONS,
    replication_factor: int = DEFAULT_REPLICATION,
    topics: Iterable[Topic] = tuple(TOPICS.values()),
) -> list[TopicPlan]:
    """Every topic with its partitions, replicas and settings; ValueError below 1."""
    if num_partitions < 1 or replication_factor < 1:
        raise ValueError(
            f"num_partitions={num_partitions} and replication_factor={replication_factor} "
            "must be at least 1"
        )
    return [
        TopicPlan(
            topic.name,
            topic.partitions or num_partitions,
            replication_factor,
            topic_config(topic, replication_factor),
        )
        for topic in topics
    ]


def find_differences(admin: Admin, plans: Sequence[TopicPlan]) -> list[Difference]:
    """Where topics that exist are not as planned; missing topics are no difference here."""
    if not plans:
        return []
    described = {t["name"]: t for t in admin.describe_topics([p.name for p in plans])}
    configs = _read_configs(admin, [p.name for p in plans])
    found: list[Difference] = []
    for plan in plans:
        partitions = described[plan.name]["partitions"]
        facts = {
            "number of partitions": (str(len(partitions)), str(plan.num_partitions)),
            "replication factor": (str(_replicas(partitions)), str(plan.replication_factor)),
        }
        for key, expected in plan.config.items():
            facts[key] = (configs[plan.name].get(key, "not set"), expected)
        found += [
            Difference(plan.name, what, got, expected)
            for what, (got, expected) in facts.items()
            if got != expected
        ]
    return found


def ensure_topics(admin: Admin, plans: Sequence[TopicPlan]) -> Outcome:
    """Create what is missing and compare what exists.

    Raises ConfigurationError when the cluster refuses to create a topic.
    """
    present = set(admin.list_topics())
    missing = [plan for plan in plans if plan.name not in present]
    created = _create(admin, missing)
    existing = [plan for plan in plans if plan.name not in created]
    differences = find_differences(admin, existing)
    differing = {d.topic for d in differences}
    unchanged = tuple(p.name for p in existing if p.name not in differing)
    return Outcome(tuple(created), unchanged, tuple(differences))


def _create(admin: Admin, plans: Sequence[TopicPlan]) -> list[str]:
    """Names of the topics made here; one made by somebody else meanwhile counts as existing."""
    if not plans:
        return []
    wanted = {
        plan.name: {
            "num_partitions": plan.num_partitions,
            "replication_factor": plan.replication_factor,
            "configs": dict(plan.config),
        }
        for plan in plans
    }
    answers = admin.create_topics(wanted, raise_errors=False)["topics"]
    refused = [a for a in answers if a["error_code"] not in (0, _ALREADY_EXISTS)]
    if refused:
        lines = (f"{a['name']}: {a['error_message']} (code {a['error_code']})" for a in refused)
        raise ConfigurationError("the cluster refused to create topics: " + "; ".join(lines))
    # A consumer that subscribes before a topic has a leader may sit idle until its next refresh.
    admin.wait_for_topics([plan.name for plan in plans])
    return [a["name"] for a in answers if a["error_code"] == 0]


def _read_configs(admin: Admin, names: Sequence[str]) -> dict[str, dict[str, str]]:
    from kafka.admin import ConfigResource, ConfigResourceType

    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    answer = admin.describe_configs(resources, config_filter="all")["topic"]
    return {
        name: {key: str(entry["value"]) for key, entry in answer[name].items()} for name in names
    }


def look_up_topics(admin: Admin) -> list[dict[str, Any]]:
    """Each topic of the project with what the cluster says of it; None where it is missing."""
    present = set(admin.list_topics())
    names = [name for name in TOPICS if name in present]
    described = {t["name"]: t for t in admin.describe_topics(names)} if names else {}
    configs = _read_configs(admin, names) if names else {}
    rows = []
    for name in TOPICS:
        row: dict[str, Any] = {"name": name, "exists": name in described}
        partitions = described[name]["partitions"] if name in described else None
        row["num_partitions"] = None if partitions is None else len(partitions)
        row["replication_factor"] = _replicas(partitions)
        config = configs.get(name, {})
        row["retention_ms"] = int(config["retention.ms"]) if config else None
        row["cleanup_policy"] = config.get("cleanup.policy")
        rows.append(row)
    return rows


def _replicas(partitions: list[dict[str, Any]] | None) -> int | None:
    return None if partitions is None else min(len(p["replica_nodes"]) for p in partitions)
