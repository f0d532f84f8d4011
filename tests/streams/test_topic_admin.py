"""Topics are created once, as planned; what exists otherwise is told, not changed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from features.border import Border
from features.errors import ConfigurationError
from streams.topic_admin import (
    TopicPlan,
    ensure_topics,
    find_differences,
    plan_topics,
    topic_config,
)
from streams.topics import (
    CLICKSTREAM,
    EVENT_TOPICS,
    ITEMS,
    RANKING_POLICIES,
    SLATE_REQUESTS,
    SLATES,
    TOPICS,
)

# kafka-python 3.0.12 reads its own protocol files by a call that Python 3.11 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:(read|open)_text is deprecated:DeprecationWarning")


class FakeCluster:
    """A cluster as kafka-python's admin client shows it: names, partitions, settings."""

    def __init__(self, refuse: Mapping[str, int] | None = None) -> None:
        self.topics: dict[str, TopicPlan] = {}
        self.refuse = dict(refuse or {})
        self.waited: list[str] = []

    def list_topics(self) -> list[str]:
        return list(self.topics)

    def describe_topics(self, topics: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "partitions": [
                    {"replica_nodes": list(range(self.topics[name].replication_factor))}
                    for _ in range(self.topics[name].num_partitions)
                ],
            }
            for name in topics
        ]

    def describe_configs(self, config_resources: list[Any], *, config_filter: str) -> Any:
        assert config_filter == "all"
        return {
            "topic": {
                r.name: {k: {"value": v} for k, v in self.topics[r.name].config.items()}
                for r in config_resources
            }
        }

    def create_topics(self, new_topics: Mapping[str, Any], *, raise_errors: bool) -> Any:
        assert not raise_errors
        answers = []
        for name, given in new_topics.items():
            code = self.refuse.get(name, 36 if name in self.topics else 0)
            answers.append({"name": name, "error_code": code, "error_message": "refused"})
            if code == 0:
                self.topics[name] = TopicPlan(
                    name, given["num_partitions"], given["replication_factor"], given["configs"]
                )
        return {"topics": answers}

    def wait_for_topics(self, topic_names: Sequence[str]) -> None:
        assert set(topic_names) <= set(self.topics)
        self.waited += topic_names


def test_every_topic_is_created_and_a_second_run_changes_nothing() -> None:
    cluster = FakeCluster()
    first = ensure_topics(cluster, plan_topics(6, 3))
    assert set(first.created) == set(TOPICS) == set(cluster.topics) == set(cluster.waited)
    second = ensure_topics(cluster, plan_topics(6, 3))
    assert second.created == ()
    assert set(second.unchanged) == set(TOPICS)
    assert second.differences == ()


def test_another_number_of_partitions_is_told_and_left() -> None:
    cluster = FakeCluster()
    ensure_topics(cluster, plan_topics(2))
    outcome = ensure_topics(cluster, plan_topics(4))
    told = {str(difference) for difference in outcome.differences}
    assert f"{CLICKSTREAM}: number of partitions is 2, expected 4" in told
    assert cluster.topics[CLICKSTREAM].num_partitions == 2
    assert outcome.unchanged == (RANKING_POLICIES, ITEMS, *_fixed_dead_letters())


def _fixed_dead_letters() -> tuple[str, ...]:
    return tuple(n for n, t in TOPICS.items() if n.endswith(".dead_letter") and t.partitions)


def test_another_setting_is_told_with_both_values() -> None:
    cluster = FakeCluster()
    ensure_topics(cluster, plan_topics())
    old = cluster.topics[ITEMS]
    cluster.topics[ITEMS] = replace(old, config={**old.config, "cleanup.policy": "delete"})
    (difference,) = find_differences(cluster, plan_topics())
    assert str(difference) == "items.v1: cleanup.policy is delete, expected compact"


def test_missing_topics_are_created_beside_differing_ones() -> None:
    cluster = FakeCluster()
    ensure_topics(cluster, plan_topics(3))
    del cluster.topics[SLATES]
    outcome = ensure_topics(cluster, plan_topics(4))
    assert outcome.created == (SLATES,)
    assert outcome.differences


def test_a_refused_topic_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigurationError, match=r"clickstream\.v1: refused \(code 38\)"):
        ensure_topics(FakeCluster({CLICKSTREAM: 38}), plan_topics(1, 5))


def test_a_topic_made_by_somebody_else_meanwhile_is_compared_not_an_error() -> None:
    class Racing(FakeCluster):
        def list_topics(self) -> list[str]:
            listed = super().list_topics()
            super().create_topics(
                {SLATES: {"num_partitions": 1, "replication_factor": 1, "configs": {}}},
                raise_errors=False,
            )
            return listed

    outcome = ensure_topics(Racing(), plan_topics())
    assert SLATES not in outcome.created
    assert {d.topic for d in outcome.differences} == {SLATES}


def test_all_topics_of_a_user_have_equal_partitions_so_one_worker_owns_the_user() -> None:
    by_name = {plan.name: plan for plan in plan_topics(7)}
    assert {by_name[name].num_partitions for name in EVENT_TOPICS} == {7}
    # A request's slate is looked for in the partition of the same number.
    assert by_name[SLATE_REQUESTS].num_partitions == by_name[SLATES].num_partitions == 7
    assert by_name[RANKING_POLICIES].num_partitions == by_name[ITEMS].num_partitions == 1


def test_an_oversize_record_still_fits_the_topic_so_that_it_reaches_its_dead_letter() -> None:
    for topic in TOPICS.values():
        assert int(topic_config(topic)["max.message.bytes"]) > 2 * Border().max_bytes


def test_three_replicas_need_two_in_sync() -> None:
    assert topic_config(TOPICS[SLATES], 3)["min.insync.replicas"] == "2"
    assert topic_config(TOPICS[SLATES], 1)["min.insync.replicas"] == "1"


@pytest.mark.parametrize(("partitions", "replicas"), [(0, 1), (1, 0)])
def test_a_plan_without_partitions_or_replicas_is_refused(partitions: int, replicas: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        plan_topics(partitions, replicas)
