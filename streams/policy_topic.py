"""Ranking policies on their compacted topic, for tools: read to the end, publish one."""

import logging
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from features.errors import FintrecError, MalformedEvent
from features.records import RankingPolicy
from streams.clients import kafka_python_config
from streams.reference import policy_key
from streams.settings import Settings
from streams.topics import RANKING_POLICIES
from streams.wire import decode, encode

logger = logging.getLogger(__name__)


def read_policies(settings: Settings) -> list[RankingPolicy]:
    """Every policy version on the topic, oldest first; a record that is none is told and passed over,
    as the workers do.

    Raises FintrecError when the topic does not exist.
    """
    consumer = KafkaConsumer(
        **kafka_python_config(settings), group_id=None, enable_auto_commit=False
    )
    try:
        partitions = [
            TopicPartition(RANKING_POLICIES, number)
            for number in sorted(consumer.partitions_for_topic(RANKING_POLICIES) or set())
        ]
        if not partitions:
            raise FintrecError(
                f"topic {RANKING_POLICIES} does not exist: run `fintrec topics create`"
            )
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(partitions)
        found: dict[bytes, Any] = {}
        while any(consumer.position(tp) < ends[tp] for tp in partitions):
            for messages in consumer.poll(timeout_ms=200).values():
                found.update({message.key: message for message in messages})
        return [policy for message in found.values() if (policy := _policy_of(message))]
    finally:
        consumer.close()


def _policy_of(message: Any) -> RankingPolicy | None:
    if message.value is None:
        return None
    try:
        return decode(message.value, RankingPolicy)
    except MalformedEvent as refused:
        at = f"{message.topic}[{message.partition}]@{message.offset}"
        logger.warning("passed over at=%s key=%r reason=%s", at, message.key, refused)
        return None


def publish_policy(settings: Settings, policy: RankingPolicy) -> None:
    """Put a policy on the topic and wait until the brokers have it."""
    producer = KafkaProducer(**kafka_python_config(settings), acks="all")
    try:
        producer.send(RANKING_POLICIES, key=policy_key(policy), value=encode(policy)).get(10)
    finally:
        producer.close()
