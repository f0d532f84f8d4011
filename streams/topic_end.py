"""A reader that stands at the end of topics: it hears what is sent from now on, and nothing else."""

from collections.abc import Sequence

from kafka import KafkaConsumer, TopicPartition

from features.errors import FintrecError
from streams.clients import kafka_python_config
from streams.settings import Settings


def reader_at_end(
    settings: Settings, topics: Sequence[str], fetch_max_wait_ms: int
) -> KafkaConsumer:
    """kafka-python's consumer without a group, placed before anything is sent.

    Raises:
        FintrecError: a topic does not exist.
    """
    consumer = KafkaConsumer(
        **kafka_python_config(settings),
        group_id=None,
        enable_auto_commit=False,
        fetch_max_wait_ms=fetch_max_wait_ms,
    )
    try:
        _stand_at_end(consumer, topics)
    except BaseException:
        consumer.close()
        raise
    return consumer


def _stand_at_end(consumer: KafkaConsumer, topics: Sequence[str]) -> None:
    assigned = []
    for topic in topics:
        numbers = consumer.partitions_for_topic(topic)
        if not numbers:
            raise FintrecError(f"topic {topic} does not exist: run `fintrec topics create`")
        assigned += [TopicPartition(topic, number) for number in sorted(numbers)]
    consumer.assign(assigned)
    consumer.seek_to_end()
    for partition in assigned:
        consumer.position(partition)  # asked at once: the end is where it is before the first send
