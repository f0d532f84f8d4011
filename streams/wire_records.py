"""The records behind the topics as rows of plain text: field, type, default, limits, meaning."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import inspect

from features.records import DeadLetter, Record
from streams.topics import DEAD_LETTERS, TOPICS, Topic
from streams.wire_meanings import meaning_of


@dataclass(frozen=True, slots=True)
class FieldRow:
    """One field of a record as the documents show it."""

    name: str
    type: str
    default: str  # JSON, or "required"
    limits: str
    meaning: str


def record_of(topic: Topic) -> type[Record] | None:
    """What a topic carries: its own record, or the dead letter; None where it has no record."""
    return DeadLetter if topic.record is None and topic in DEAD_LETTERS else topic.record


def wire_records() -> list[type[Record]]:
    """Every record on the wire once, in the order of the topics."""
    return list(dict.fromkeys(r for t in TOPICS.values() if (r := record_of(t)) is not None))


def field_rows(record: type[msgspec.Struct]) -> list[FieldRow]:
    """A record's fields in their order."""
    return [
        FieldRow(
            field.encode_name,
            _type_text(field.type),
            _default_text(field),
            _limits_text(field.type),
            _meaning_text(record.__name__, field),
        )
        for field in _struct(record).fields
    ]


def parts_of(record: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """The structs inside a record, without itself, in the order of their first appearance."""
    found = dict.fromkeys(
        t.cls for t in _walk(_struct(record)) if isinstance(t, inspect.StructType)
    )
    return [part for part in found if part is not record]


def _struct(record: type[msgspec.Struct]) -> inspect.StructType:
    described = inspect.type_info(record)
    assert isinstance(described, inspect.StructType)
    return described


def _walk(described: inspect.Type) -> Iterator[inspect.Type]:
    yield described
    for inner in _children(described):
        yield from _walk(inner)


def _children(described: inspect.Type) -> tuple[inspect.Type, ...]:
    match described:
        case inspect.Metadata(type=inner):
            return (inner,)
        case inspect.StructType(fields=fields):
            return tuple(field.type for field in fields)
        case inspect.UnionType(types=types):
            return types
        case inspect.DictType(key_type=key, value_type=value):
            return (key, value)
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return (item,)
        case inspect.TupleType(item_types=items):
            return items
    return ()


def _type_text(described: inspect.Type) -> str:
    match described:
        case inspect.Metadata(type=inner):
            return _type_text(inner)
        case inspect.StructType(cls=cls):
            return str(cls.__name__)
        case inspect.UnionType(types=types):
            return " or ".join(_type_text(t) for t in types)
        case inspect.DictType(value_type=value):
            return f"map of string to {_grouped(value)}"
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return f"list of {_grouped(item)}"
        case inspect.TupleType(item_types=items):
            return f"list of {len(items)}: " + ", ".join(_type_text(t) for t in items)
    return _WORDS[type(described)]


_WORDS: dict[type[inspect.Type], str] = {
    inspect.StrType: "string",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.BoolType: "boolean",
    inspect.NoneType: "null",
    inspect.BytesType: "base64 string",
    inspect.RawType: "JSON",
    inspect.AnyType: "JSON",
}


def _grouped(described: inspect.Type) -> str:
    text = _type_text(described)
    return f"({text})" if " or " in text else text


def _default_text(field: inspect.Field) -> str:
    if field.required:
        return "required"
    default: Any = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    return "`" + json.dumps(msgspec.to_builtins(default)) + "`"


def _limits_text(described: inspect.Type) -> str:
    texts = (_own_limits(t) for t in _walk_fields_apart(described))
    return "; ".join(dict.fromkeys(text for text in texts if text))


def _walk_fields_apart(described: inspect.Type) -> Iterator[inspect.Type]:
    """Like `_walk`, but a struct's fields have rows of their own."""
    yield described
    if not isinstance(described, inspect.StructType):
        for inner in _children(described):
            yield from _walk_fields_apart(inner)


def _own_limits(described: inspect.Type) -> str:
    match described:
        case inspect.StrType(pattern=str(pattern)):
            return _pattern_text(pattern)
        case inspect.StrType(min_length=low, max_length=high):
            return _range_text(low, high, " characters")
        case inspect.ListType(min_length=low, max_length=high):
            return _range_text(low, high, " entries")
        case inspect.IntType(ge=low, le=high) | inspect.FloatType(ge=low, le=high):
            return _range_text(low, high, "")
    return ""


def _pattern_text(pattern: str) -> str:
    names = pattern.removeprefix("^(").removesuffix(")$").split("|")
    if pattern == f"^({'|'.join(names)})$" and all(name.isidentifier() for name in names):
        return "one of " + ", ".join(f"`{name}`" for name in names)
    return f"matches `{pattern}`".replace("|", "\\|")


def _range_text(low: float | None, high: float | None, unit: str) -> str:
    if low is not None and high is not None:
        return f"{low:,.15g} to {high:,.15g}{unit}"
    if high is not None:
        return f"at most {high:,.15g}{unit}"
    return f"at least {low:,.15g}{unit}" if low is not None else ""


def _meaning_text(record: str, field: inspect.Field) -> str:
    """Our own words, else the description that stands at the field's type."""
    given = (
        (t.extra_json_schema or {}).get("description", "")
        for t in _walk_fields_apart(field.type)
        if isinstance(t, inspect.Metadata)
    )
    return meaning_of(record, field.encode_name) or next(given, "")
