"""Write `deploy/kafka/create-topics.sh` and `acls.sh` from the topic table: `python -m streams.kafka_scripts`.

For clusters whose owners run Kafka's own tools instead of `fintrec topics create`. Each principal
may do what its work needs and nothing else; a test fails while the scripts are not current.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streams.topic_admin import DEFAULT_PARTITIONS, topic_config
from streams.topics import (
    CLICKSTREAM,
    CONSENTS,
    CONVERSIONS,
    DEAD_LETTERS,
    EVENT_TOPICS,
    ITEMS,
    LAKE_TOPICS,
    RANKING_POLICIES,
    SLATE_AUDIT,
    SLATE_REQUESTS,
    SLATES,
    STATE_REFRESH,
    TOPICS,
    TRANSACTIONS,
    Topic,
)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who may read, write and in which consumer groups; a group that ends in * is a prefix."""

    name: str
    why: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


def _dead_letters(topics: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(TOPICS[topic].dead_letter for topic in topics)


_SCORE_READS: Final = (SLATE_REQUESTS, ITEMS, RANKING_POLICIES)
PRINCIPALS: Final = (
    Principal(
        "fintrec-producers",
        "systems of the bank that publish events",
        writes=(CLICKSTREAM, TRANSACTIONS, CONVERSIONS, CONSENTS),
    ),
    Principal(
        "fintrec-applications",
        "surfaces that ask for slates and show them",
        reads=(SLATES,),
        writes=(SLATE_REQUESTS,),
        groups=("app-*",),
    ),
    Principal(
        "fintrec-campaigns",
        "owners of the catalogue and of the ranking policies",
        reads=(ITEMS, RANKING_POLICIES),
        writes=(ITEMS, RANKING_POLICIES),
        groups=("campaigns-*",),
    ),
    Principal(
        "fintrec-ingest",
        "ingest workers; they read the policies only because Faust wants a topic of its own",
        reads=(*EVENT_TOPICS, RANKING_POLICIES),
        writes=(STATE_REFRESH, *_dead_letters(EVENT_TOPICS)),
        groups=("fintrec-ingest", "fintrec-ingest-feed"),
    ),
    Principal(
        "fintrec-score",
        "scoring workers; of the slates they read what a predecessor has answered",
        reads=(*_SCORE_READS, SLATES),
        writes=(SLATES, SLATE_AUDIT, *_dead_letters(_SCORE_READS)),
        groups=("fintrec-score", "fintrec-score-feed"),
    ),
    Principal(
        "fintrec-lake",
        "lake workers; they keep what was decided beside what happened, and write nothing",
        reads=(*LAKE_TOPICS, RANKING_POLICIES),
        groups=("fintrec-lake", "fintrec-lake-feed"),
    ),
    Principal(
        "fintrec-nightly",
        "the nightly batch, which asks for states to be built anew",
        writes=(STATE_REFRESH,),
    ),
    Principal(
        "fintrec-auditors",
        "compliance and on-call: slates, audit records, dead letters",
        reads=(SLATES, SLATE_AUDIT, *(topic.name for topic in DEAD_LETTERS)),
        groups=("audit-*",),
    ),
)
ADMIN: Final = "fintrec-admin"

_TOPICS_HEAD: Final = """\
#!/usr/bin/env bash
# Creates every topic with Kafka's own tool. Made by `python -m streams.kafka_scripts`; do not edit.
# Topics that exist are left as they are; `fintrec topics create` says where they differ.
#
#   BOOTSTRAP=broker:9093 COMMAND_CONFIG=admin.properties deploy/kafka/create-topics.sh
#
# PARTITIONS   of each topic of users; bounds the number of workers (default @PARTITIONS@)
# REPLICATION  replicas of each partition (default 3; 1 on a single broker)
# KAFKA_BIN    folder of Kafka's tools (default /opt/kafka/bin)
set -euo pipefail

: "${BOOTSTRAP:?host:port of a broker}"
PARTITIONS="${PARTITIONS:-@PARTITIONS@}"
REPLICATION="${REPLICATION:-3}"
KAFKA_BIN="${KAFKA_BIN:-/opt/kafka/bin}"
if ((REPLICATION >= 3)); then MIN_ISR=2; else MIN_ISR=1; fi

# topic NAME PARTITIONS CONFIG...
topic() {
  local name="$1" partitions="$2" configs=() config
  shift 2
  for config in "$@" "min.insync.replicas=$MIN_ISR"; do configs+=(--config "$config"); done
  "$KAFKA_BIN/kafka-topics.sh" --bootstrap-server "$BOOTSTRAP" \\
    ${COMMAND_CONFIG:+--command-config "$COMMAND_CONFIG"} \\
    --create --if-not-exists --topic "$name" \\
    --partitions "$partitions" --replication-factor "$REPLICATION" "${configs[@]}"
}

"""

_ACLS_HEAD: Final = """\
#!/usr/bin/env bash
# Grants each principal what its work needs. Made by `python -m streams.kafka_scripts`; do not edit.
# The brokers need an authorizer, authentication, and no allow.everyone.if.no.acl.found.
#
#   BOOTSTRAP=broker:9093 COMMAND_CONFIG=admin.properties deploy/kafka/acls.sh
#
# KAFKA_BIN    folder of Kafka's tools (default /opt/kafka/bin)
set -euo pipefail

: "${BOOTSTRAP:?host:port of a broker}"
KAFKA_BIN="${KAFKA_BIN:-/opt/kafka/bin}"

# allow PRINCIPAL ARGUMENTS-OF-KAFKA-ACLS...
allow() {
  local principal="$1"
  shift
  "$KAFKA_BIN/kafka-acls.sh" --bootstrap-server "$BOOTSTRAP" \\
    ${COMMAND_CONFIG:+--command-config "$COMMAND_CONFIG"} \\
    --add --allow-principal "User:$principal" "$@"
}

"""


def create_topics_script() -> str:
    """`create-topics.sh`."""
    head = _TOPICS_HEAD.replace("@PARTITIONS@", str(DEFAULT_PARTITIONS))
    return head + "".join(_topic_line(topic) for topic in TOPICS.values())


def acls_script() -> str:
    """`acls.sh`."""
    blocks = [_principal_block(principal) for principal in PRINCIPALS]
    admin = (
        f"# {ADMIN}: creates and compares topics, never reads them\n"
        f"allow {ADMIN} \\\n  --operation Create --operation Describe --operation DescribeConfigs"
        + _flags("--topic", tuple(TOPICS))
        + "\n"
    )
    return _ACLS_HEAD + "\n".join([*blocks, admin])


def _topic_line(topic: Topic) -> str:
    config = topic_config(topic)
    del config["min.insync.replicas"]  # depends on REPLICATION
    words = [f"{key}={value}" for key, value in config.items()]
    partitions = str(topic.partitions) if topic.partitions else '"$PARTITIONS"'
    return " ".join(["topic", topic.name, partitions, *words]) + "\n"


def _principal_block(principal: Principal) -> str:
    lines = [f"# {principal.name}: {principal.why}"]
    if principal.reads:
        flags = _flags("--topic", principal.reads)
        lines.append(f"allow {principal.name} --operation Read{flags}")
    if principal.writes:
        flags = _flags("--topic", principal.writes)
        lines.append(f"allow {principal.name} --operation Write{flags}")
    for group in principal.groups:
        is_prefix = group.endswith("*")
        pattern = "prefixed" if is_prefix else "literal"
        name = group.removesuffix("*")
        lines.append(
            f"allow {principal.name} --operation Read --group {name} "
            f"--resource-pattern-type {pattern}"
        )
    return "\n".join(lines) + "\n"


def _flags(flag: str, names: tuple[str, ...]) -> str:
    return "".join(f" \\\n  {flag} {name}" for name in names)


def main() -> None:
    """Write both scripts, executable, into `deploy/kafka/`."""
    folder = Path(__file__).resolve().parents[1] / "deploy" / "kafka"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("create-topics.sh", create_topics_script()), ("acls.sh", acls_script())):
        path = folder / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)


if __name__ == "__main__":
    main()
