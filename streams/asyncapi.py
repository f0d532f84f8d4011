"""The AsyncAPI 3.0 description of every topic, made from the records and the topic table.

Operations are named from this system's side: it receives from inputs and sends to outputs.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from features.border import REASONS
from features.records import DeadLetter, Slate, SlateRequest
from streams.topic_admin import DEFAULT_PARTITIONS, topic_config
from streams.topics import DEAD_LETTERS, INPUTS, INTERNAL, OUTPUTS, SLATES, TOPICS, Topic
from streams.wire_examples import EXAMPLES
from streams.wire_meanings import meaning_of
from streams.wire_records import record_of, wire_records

VERSION: Final = "1.0.0"
KAFKA_BINDING: Final = "0.5.0"
# What AsyncAPI's Kafka binding knows of a topic's settings.
_BINDING_SETTINGS: Final = ("cleanup.policy", "retention.ms", "max.message.bytes")


def describe_api() -> dict[str, Any]:
    """The whole document as plain data, ready for YAML or JSON."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "FinTRec events, slates and policies",
            "version": VERSION,
            "description": "Events of a bank's users go in, ranked slates come out. Made from "
            "features/records.py and streams/topics.py; docs/wire_format.md says the same in "
            "prose.",
            "license": {
                "name": "Apache-2.0",
                "url": "https://www.apache.org/licenses/LICENSE-2.0",
            },
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {
                "host": "{bootstrap}",
                "protocol": "kafka",
                "description": "Any broker of the cluster; `fintrec stack status` prints the "
                "local one.",
                "variables": {"bootstrap": {"default": "localhost:9092"}},
            }
        },
        "channels": {topic.name: _channel(topic) for topic in TOPICS.values()},
        "operations": _operations(),
        "components": {"messages": _messages(), "schemas": record_schemas()},
    }


def record_schemas() -> dict[str, dict[str, Any]]:
    """JSON schema of every record and of the structs inside, with each field's meaning."""
    _, schemas = msgspec.json.schema_components(
        wire_records(), ref_template="#/components/schemas/{name}"
    )
    for name, schema in schemas.items():
        schema["description"] = " ".join(schema.get("description", name).split())
        for field, described in schema.get("properties", {}).items():
            meaning = meaning_of(name, field)
            if meaning and "$ref" not in described:
                described["description"] = meaning
    return schemas


def _channel(topic: Topic) -> dict[str, Any]:
    name = _message_name(topic)
    return {
        "address": topic.name,
        "title": topic.name,
        "description": topic.description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {"kafka": _kafka_binding(topic)},
    }


def _kafka_binding(topic: Topic) -> dict[str, Any]:
    config = topic_config(topic)
    values: dict[str, Any] = {key: config[key] for key in _BINDING_SETTINGS}
    return {
        "topic": topic.name,
        "partitions": topic.partitions or DEFAULT_PARTITIONS,
        "topicConfiguration": {
            "cleanup.policy": [values["cleanup.policy"]],
            "retention.ms": int(values["retention.ms"]),
            "max.message.bytes": int(values["max.message.bytes"]),
        },
        "bindingVersion": KAFKA_BINDING,
    }


def _message_name(topic: Topic) -> str:
    record = record_of(topic)
    return topic.name if record is None else record.__name__


def _messages() -> dict[str, dict[str, Any]]:
    messages: dict[str, dict[str, Any]] = {}
    for topic in TOPICS.values():
        messages.setdefault(_message_name(topic), _message(topic))
    return messages


def _message(topic: Topic) -> dict[str, Any]:
    record = record_of(topic)
    key = {"type": "string", "description": f"{topic.key}, UTF-8"}
    message: dict[str, Any] = {
        "name": _message_name(topic),
        "contentType": "application/json",
        "bindings": {"kafka": {"key": key, "bindingVersion": KAFKA_BINDING}},
    }
    if record is None:
        message["summary"] = topic.description
        message["payload"] = {"description": undescribed(topic)}
        return message
    message["summary"] = _first_sentence(record)
    message["payload"] = {"$ref": f"#/components/schemas/{record.__name__}"}
    if record in (SlateRequest, Slate):
        message["correlationId"] = {"location": "$message.payload#/request_id"}
    if record is DeadLetter:
        message["x-reasons"] = list(REASONS)
    if record in EXAMPLES:
        message["examples"] = [{"payload": msgspec.to_builtins(EXAMPLES[record])}]
    return message


def undescribed(topic: Topic) -> str:
    """What is said of a topic whose value has no record."""
    if topic in INTERNAL:
        return "between this system's own workers"
    return "a JSON object, not described by field"


def _first_sentence(record: type[msgspec.Struct]) -> str:
    return (record.__doc__ or record.__name__).strip().splitlines()[0]


def _operations() -> dict[str, dict[str, Any]]:
    operations = {
        **_directed("receive", (*INPUTS, *INTERNAL)),
        **_directed("send", (*OUTPUTS, *INTERNAL, *DEAD_LETTERS)),
    }
    for topic in INPUTS:
        if topic.record is SlateRequest:
            slates = f"#/channels/{SLATES}"
            operations[f"receive_{topic.name}"]["reply"] = {
                "channel": {"$ref": slates},
                "messages": [{"$ref": f"{slates}/messages/Slate"}],
            }
    return operations


def _directed(action: str, topics: Iterable[Topic]) -> dict[str, dict[str, Any]]:
    return {
        f"{action}_{topic.name}": {
            "action": action,
            "channel": {"$ref": f"#/channels/{topic.name}"},
            "summary": topic.description,
            "messages": [{"$ref": f"#/channels/{topic.name}/messages/{_message_name(topic)}"}],
        }
        for topic in topics
    }
