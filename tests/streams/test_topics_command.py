"""`fintrec topics` on a real cluster."""

import json
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from streams.commands.topics import connect_admin, topics
from streams.topic_admin import DEFAULT_PARTITIONS, ensure_topics, plan_topics
from streams.topics import CLICKSTREAM, ITEMS, TOPICS

pytestmark = [
    pytest.mark.integration,
    # kafka-python 3.0.12 reads its own protocol files by a call that Python 3.11 deprecates.
    pytest.mark.filterwarnings("ignore:(read|open)_text is deprecated:DeprecationWarning"),
]


def run(*arguments: str) -> tuple[int, Any]:
    """Exit code and printed JSON of a verb."""
    done = CliRunner().invoke(topics, [*arguments, "--json"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done.exit_code, json.loads(done.stdout)


def test_topics_are_made_as_planned_and_differences_fail_without_a_change(stack: Any) -> None:
    where = ("--dir", str(stack.stack.dir))

    code, first = run("create", *where)
    assert code == 0
    # Other tests of the session may have made some; together they are all.
    assert {*first["created"], *first["unchanged"]} == set(TOPICS)

    code, again = run("create", *where)
    assert (code, again["created"]) == (0, [])
    assert set(again["unchanged"]) == set(TOPICS)

    code, other = run("create", *where, "--partitions", str(DEFAULT_PARTITIONS + 1))
    assert code == 1
    assert {
        "topic": CLICKSTREAM,
        "what": "number of partitions",
        "got": str(DEFAULT_PARTITIONS),
        "expected": str(DEFAULT_PARTITIONS + 1),
    } in other["differences"]

    code, rows = run("list", *where)
    assert code == 0
    by_name = {row["name"]: row for row in rows}
    assert by_name[CLICKSTREAM]["num_partitions"] == DEFAULT_PARTITIONS
    assert by_name[ITEMS]["num_partitions"] == 1
    assert by_name[ITEMS]["cleanup_policy"] == "compact"
    for name, topic in TOPICS.items():
        assert by_name[name]["exists"]
        assert by_name[name]["retention_ms"] == topic.retention_ms


def test_a_replication_factor_beyond_the_cluster_is_a_clear_error(stack: Any) -> None:
    from features.errors import ConfigurationError

    plans = [replace(plan, name="never_made.v1") for plan in plan_topics(1, 3)[:1]]
    with connect_admin(stack.settings) as admin:
        with pytest.raises(ConfigurationError, match=r"never_made\.v1: .*replication"):
            ensure_topics(admin, plans)
        assert "never_made.v1" not in admin.list_topics()
