"""Every slate of the run, whatever test asked for it: its record, its form, its repetition."""

import hashlib
import json
from collections import Counter

import msgspec
import pytest

from features.records import Slate
from fintrec.slates import TIERS, replay, slate_id
from tests.integration.conftest import System, now_ms
from tests.integration.traffic import request
from tests.integration.wire import until

pytestmark = pytest.mark.integration

# docs/architecture.md, audit record of a slate
AUDIT_FIELDS = {
    "audit_version",
    "slate_id",
    "request",
    "request_at",
    "decided_at_ms",
    "tier",
    "flags",
    "policy",
    "models",
    "model_artefacts",
    "calibration",
    "code_version",
    "lock_sha256",
    "catalogue_version",
    "consent",
    "state",
    "fm",
    "inputs_sha256",
    "inputs_base64",
    "batch_size",
    "length_bucket",
    "logits_base64",
    "candidates",
    "priors",
    "explore",
    "feature_ages_ms",
    "latency_ms",
    "slate_sha256",
}


def test_every_slate_is_made_again_from_its_audit_record_alone(system: System) -> None:
    system.wire.ask(request("replayed", now_ms()))  # also when this test runs alone
    until(
        "every slate has its audit record",
        lambda: len(system.wire.every_slate()) == len(system.wire.every_audit()),
    )
    again = Counter(replay(audit) for audit in system.wire.every_audit())
    assert again == Counter(system.wire.every_slate())


def test_every_slate_has_the_documented_form(system: System) -> None:
    for raw in system.wire.every_slate():
        slate = msgspec.json.decode(raw, type=Slate)
        assert slate.tier in TIERS
        assert [item.position for item in slate.items] == list(range(1, len(slate.items) + 1))
        shown = {item.item_id for item in slate.items}
        assert not shown & {entry.item_id for entry in slate.suppressed}
        assert set(slate.latency_ms) >= {"queue", "rank", "total"}


def test_every_audit_record_has_every_field(system: System) -> None:
    digests = {hashlib.sha256(raw).hexdigest() for raw in system.wire.every_slate()}
    for raw in system.wire.every_audit():
        audit = json.loads(raw)
        assert set(audit) >= AUDIT_FIELDS
        assert audit["request_at"].startswith("slate_requests.v1[")
        assert audit["slate_sha256"] in digests
        if audit["logits_base64"] is not None:
            assert audit["model_artefacts"]["sha256"]["head"]
            assert audit["calibration"]["version"]
            assert audit["batch_size"] >= 1


def test_a_slates_id_follows_from_its_request(system: System) -> None:
    from features.records import SlateRequest

    for raw in system.wire.every_audit():
        audit = json.loads(raw)
        asked = msgspec.json.decode(audit["request"], type=SlateRequest)
        assert audit["slate_id"] == slate_id(asked)
