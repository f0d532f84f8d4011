"""The documents of the wire are current, complete and agree with the records."""

import hashlib
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

from features import records
from features.border import REASONS, to_record
from features.records import DeadLetter, Interaction, RankingPolicy, Record, Slate, SlateRequest
from streams.asyncapi import describe_api
from streams.topics import DEAD_LETTERS, INPUTS, INTERNAL, OUTPUTS, SLATE_REQUESTS, SLATES, TOPICS
from streams.wire_docs import asyncapi_page, wire_format_page
from streams.wire_examples import EXAMPLES
from streams.wire_meanings import MEANINGS
from streams.wire_records import field_rows, parts_of, record_of, wire_records

DOCS = Path(__file__).resolve().parents[2] / "docs"
DECLARED = [
    kind
    for kind in vars(records).values()
    if isinstance(kind, type) and issubclass(kind, Record) and kind is not Record
]
API = describe_api()


def validator(schema: str) -> Any:
    """A JSON schema validator for one of the document's schemas."""
    root = {"components": API["components"], "$ref": f"#/components/schemas/{schema}"}
    return jsonschema.Draft202012Validator(root)


@pytest.mark.parametrize(
    ("name", "page"), [("wire_format.md", wire_format_page), ("asyncapi.yaml", asyncapi_page)]
)
def test_document_is_current(name: str, page: Any) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == page(), "run 'make docs'"


def test_every_declared_record_is_documented_and_has_an_example() -> None:
    assert set(DECLARED) <= set(wire_records())
    assert set(DECLARED) <= set(EXAMPLES)
    page = wire_format_page()
    for record in wire_records():
        assert f"\n### {record.__name__}\n" in page


def test_every_field_has_a_meaning_and_no_meaning_is_left_over() -> None:
    used = set()
    for record in wire_records():
        for struct in (record, *parts_of(record)):
            for row in field_rows(struct):
                assert row.meaning, f"{struct.__name__}.{row.name}: streams/wire_meanings.py"
                used |= {row.name, f"{struct.__name__}.{row.name}"}
    assert set(MEANINGS) <= used


def test_every_topic_is_a_channel_with_an_operation_in_the_right_direction() -> None:
    assert set(API["channels"]) == set(TOPICS)
    directions = {
        (op["action"], op["channel"]["$ref"].removeprefix("#/channels/"))
        for op in API["operations"].values()
    }
    assert directions == {("receive", t.name) for t in (*INPUTS, *INTERNAL)} | {
        ("send", t.name) for t in (*OUTPUTS, *INTERNAL, *DEAD_LETTERS)
    }
    reply = API["operations"][f"receive_{SLATE_REQUESTS}"]["reply"]
    assert reply["channel"]["$ref"] == f"#/channels/{SLATES}"


def test_every_reference_resolves() -> None:
    def resolve(reference: str) -> Any:
        place: Any = API
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
        return place

    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if "$ref" in node else []
            return own + [r for value in node.values() for r in references(value)]
        return [r for value in node for r in references(value)] if isinstance(node, list) else []

    found = references(API)
    assert len(found) > len(TOPICS)
    for reference in found:
        assert resolve(reference)


def test_schemas_are_valid_json_schemas() -> None:
    for schema in API["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("record", list(EXAMPLES), ids=lambda kind: kind.__name__)
def test_example_passes_its_schema_and_the_border(record: type[Record]) -> None:
    payload = msgspec.to_builtins(EXAMPLES[record])
    validator(record.__name__).validate(payload)
    assert to_record(payload, record) == EXAMPLES[record]


@pytest.mark.parametrize("record", DECLARED, ids=lambda kind: kind.__name__)
def test_schema_and_border_refuse_the_same_missing_field(record: type[Record]) -> None:
    payload = msgspec.to_builtins(EXAMPLES[record])
    if record is Interaction:
        # Of user_id and anonymous_id one must be given, which JSON schema is not told.
        payload["anonymous_id"] = "a-9"
    for row in field_rows(record):
        short = {name: value for name, value in payload.items() if name != row.name}
        is_refused = not validator(record.__name__).is_valid(short)
        assert is_refused == (row.default == "required")
        if is_refused:
            with pytest.raises(ValueError, match=row.name):
                msgspec.convert(short, record)
        else:
            msgspec.convert(short, record)


def test_example_slate_obeys_the_ranking_equation() -> None:
    slate, policy = EXAMPLES[Slate], EXAMPLES[RankingPolicy]
    assert isinstance(slate, Slate)
    assert isinstance(policy, RankingPolicy)
    assert slate.policy.version == policy.version
    for item in slate.items:
        value = item.pcvr * item.value_usd
        expected = (
            policy.lambda_us * item.urgency
            + policy.lambda_ctr * item.pctr
            + policy.lambda_cvr * value
        )
        assert item.ranking_score == pytest.approx(expected)


def test_example_slate_is_the_answer_to_the_example_request() -> None:
    slate, request = EXAMPLES[Slate], EXAMPLES[SlateRequest]
    assert isinstance(slate, Slate)
    assert isinstance(request, SlateRequest)
    text = f"{request.user_id}\x1f{request.request_id}"
    assert slate.slate_id == hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def test_every_dead_letter_reason_is_explained() -> None:
    page = wire_format_page()
    assert EXAMPLES[DeadLetter].reason in REASONS  # type: ignore[attr-defined]
    assert API["components"]["messages"]["DeadLetter"]["x-reasons"] == list(REASONS)
    for reason in REASONS:
        assert f"| `{reason}` |" in page


def test_dead_letter_topics_carry_dead_letters() -> None:
    assert {record_of(topic) for topic in DEAD_LETTERS} == {DeadLetter}


def test_yaml_file_reads_back_as_the_described_document() -> None:
    assert yaml.safe_load(asyncapi_page()) == API


def test_limits_and_unions_are_written_in_words() -> None:
    rows = {row.name: row for row in field_rows(records.SlateRequest)}
    assert rows["size"].limits == "1 to 50"
    assert rows["candidates"].type == "list of string or null"
    assert rows["candidates"].limits == "at most 2,000 entries; 1 to 128 characters"
    consent = {row.name: row for row in field_rows(records.Consent)}
    assert consent["marketing"].limits == "one of `granted`, `opted_out`, `unknown`"
    eligibility = {row.name: row for row in field_rows(records.Item)}["eligibility"]
    assert eligibility.type == "Eligibility"
    assert '"min_tenure_days": 0' in eligibility.default
