"""Write `docs/wire_format.md` and `docs/asyncapi.yaml` from the records: `python -m streams.wire_docs`.

A test fails while the files are not what this module writes.
"""

from pathlib import Path
from typing import Final

import msgspec
import yaml

from features.border import REASONS, Border
from features.spec import DAY_MS, MINUTE_MS
from streams.asyncapi import describe_api, undescribed
from streams.topic_admin import DEFAULT_PARTITIONS
from streams.topics import INPUTS, INTERNAL, OUTPUTS, TOPICS, Topic
from streams.wire_examples import EXAMPLES
from streams.wire_records import FieldRow, field_rows, parts_of, record_of, wire_records

_LIMITS: Final = Border()
_REASON_TEXTS: Final = {
    "not_json": "no value, or one that is no JSON",
    "invalid": "a field is missing, of the wrong type, outside its limits or not finite",
    "oversize": f"more than {_LIMITS.max_bytes:,} bytes",
    "future": f"`event_time_ms` is more than {_LIMITS.max_skew_ms // MINUTE_MS} minutes ahead of the "
    "worker's clock",
    "ancient": f"`event_time_ms` is more than {_LIMITS.max_age_ms // DAY_MS} days old",
    "key_mismatch": "the Kafka key is not the record's own: it would reach a foreign partition",
    "unknown_version": "`schema_version` is given and is not 1",
    "internal_error": "the worker's own code failed on it; the log has the trace",
}

_HEAD: Final = """\
# Wire format

Made from `features/records.py` and `streams/topics.py`; a test fails when it is not current
(`make docs` makes it anew). `docs/asyncapi.yaml` says the same to tools, as AsyncAPI 3.0.

Records are JSON objects in UTF-8, one a Kafka message. Instants are integer milliseconds since the
epoch, UTC; money is in US dollars. The Kafka key is the field named in the table below, in UTF-8;
all events of a user have one key, hence one partition and one order. A click on the web before a
login may have its `anonymous_id` as key.

## How records change

- A field is only ever added, with a default, so an old record stays valid and an old reader stays
  right.
- A changed meaning, unit or type, or a new required field, is a new topic version (`clickstream.v2`
  beside `clickstream.v1`), written and read side by side until the old one is drained.
- Fields that a reader does not know pass unseen. Names of open vocabularies (items, pages,
  merchants, ...) may be new at any time.
- A record may carry `schema_version`; anything but 1 is refused, so that a producer that is ahead
  of the workers is noticed and not misread.
- On a compacted topic the newest record of a key stands for the key.
"""


def wire_format_page() -> str:
    """`docs/wire_format.md` as Markdown."""
    return "\n".join([_HEAD, *_topic_table(), *_dead_letter_lines(), *_record_lines()]) + "\n"


def asyncapi_page() -> str:
    """`docs/asyncapi.yaml` as YAML."""
    text = yaml.safe_dump(describe_api(), sort_keys=False, width=100, allow_unicode=True)
    return "# Made by `python -m streams.wire_docs`; do not edit.\n" + str(text)


def _topic_table() -> list[str]:
    lines = [
        "## Topics",
        "",
        f"Partitions: {DEFAULT_PARTITIONS} unless set (`FINTREC_NUM_PARTITIONS`), equal for all "
        "topics that are keyed by user; a number in the table is fixed.",
        "",
        "| topic | carries | record | key | partitions | retention | refused records go to |",
        "|---|---|---|---|---|---|---|",
    ]
    return [*lines, *(_topic_row(topic) for topic in TOPICS.values()), ""]


def _topic_row(topic: Topic) -> str:
    record = record_of(topic)
    return (
        "| "
        + " | ".join(
            (
                f"`{topic.name}`",
                topic.description,
                undescribed(topic)
                if record is None
                else f"[{record.__name__}](#{record.__name__.lower()})",
                topic.key if " " in topic.key else f"`{topic.key}`",
                str(topic.partitions or "as set"),
                retention_text(topic),
                f"`{topic.dead_letter}`" if topic.dead_letter in TOPICS else "",
            )
        )
        + " |"
    )


def retention_text(topic: Topic) -> str:
    """How long a topic keeps its records, in words."""
    if topic.compacted:
        return "compacted: newest of each key, for ever"
    if topic.retention_ms < 0:
        return "for ever"
    days = topic.retention_ms / DAY_MS
    return f"{days:g} day" + ("" if days == 1 else "s")


def _dead_letter_lines() -> list[str]:
    lines = [
        "## Dead letters",
        "",
        "A record that is refused at the border goes, whole, to the dead letter topic of its own "
        "topic, with the reason and its coordinates; the worker goes on. The limits are settings "
        "(`FINTREC_MAX_EVENT_BYTES`, `FINTREC_MAX_SKEW_MS`, `FINTREC_MAX_EVENT_AGE_DAYS`); their "
        "defaults are shown.",
        "",
        "| reason | refused because |",
        "|---|---|",
    ]
    return [*lines, *(f"| `{reason}` | {_REASON_TEXTS[reason]} |" for reason in REASONS), ""]


def _record_lines() -> list[str]:
    lines = ["## Records", ""]
    for record in wire_records():
        lines += _struct_lines(record, "###")
        for part in parts_of(record):
            lines += _struct_lines(part, "####")
        if record in EXAMPLES:
            pretty = msgspec.json.format(msgspec.json.encode(EXAMPLES[record]), indent=2)
            lines += ["```json", pretty.decode(), "```", ""]
    return lines


def _struct_lines(struct: type[msgspec.Struct], heading: str) -> list[str]:
    prose = [line.strip() for line in (struct.__doc__ or "").strip().splitlines()]
    topics = [t.name for t in (*INPUTS, *INTERNAL, *OUTPUTS) if t.record is struct]
    return [
        f"{heading} {struct.__name__}",
        "",
        *([f"On `{'`, `'.join(topics)}`.", ""] if topics else []),
        *prose,
        "",
        "| field | type | default | limits | meaning |",
        "|---|---|---|---|---|",
        *(_field_line(row) for row in field_rows(struct)),
        "",
    ]


def _field_line(row: FieldRow) -> str:
    return f"| `{row.name}` | {row.type} | {row.default} | {row.limits} | {row.meaning} |"


def main() -> None:
    """Write both files into the project's `docs/`."""
    docs = Path(__file__).resolve().parents[1] / "docs"
    docs.mkdir(exist_ok=True)
    (docs / "wire_format.md").write_text(wire_format_page(), encoding="utf-8")
    (docs / "asyncapi.yaml").write_text(asyncapi_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
