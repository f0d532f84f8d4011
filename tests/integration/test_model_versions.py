"""A second model version is loaded while requests flow."""

import base64
import json
from collections import Counter

import numpy as np
import pytest

from features.packed import read_header
from fintrec.export import export
from streams.topics import STATE_REFRESH
from tests.integration.conftest import WORKER_ENVIRONMENT, System, await_applied
from tests.integration.judge import STATIC
from tests.integration.referee import Models
from tests.integration.stream import Stream, answers
from tests.integration.tiny_models import write_checkpoint
from tests.integration.wire import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]


def test_no_request_fails_and_every_state_is_recomputed_at_a_bounded_rate(
    system: System, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checkpoint = tmp_path_factory.mktemp("next_checkpoint")
    write_checkpoint(checkpoint, system.items, seed=2)
    before = len(system.wire.log(STATE_REFRESH))
    stream = Stream(system, "new-model", events_per_s=60, requests_per_s=60)
    with stream:
        stream.await_answers()
        version = export(checkpoint, system.settings.model_repository)
        system.load_models()
        until(
            "a slate scored by the new version",
            lambda: any(
                json.loads(raw)["models"]["pctr"] == str(version)
                for request_id in stream.requests[-200:]
                for raw in system.wire.slates(request_id)
            ),
            60,
        )
        stream.await_answers()
    system.wire.settle()
    found, _ = answers(system, stream.requests)
    assert not [s for s in found.values() if "triton_unavailable" in s["flags"]]
    by_version = Counter(slate["models"]["pctr"] for slate in found.values())
    # A busy machine answers some by the cheap tier, which names no model and says why.
    assert all(s["flags"] == ["overload"] for s in found.values() if not s["models"]["pctr"])
    assert set(by_version) - {""} == {str(version - 1), str(version)}
    check_who_scored(system, stream, version)
    until(
        "every state is of the new version",
        lambda: states_of_other_models(system, version) == 0,
        120,
    )
    await_applied(system, stream.users, stream.refused)
    check_rate(system, before)


def check_who_scored(system: System, stream: Stream, version: int) -> None:
    """The logits of a slate are those of the version that it names, and of its audited inputs."""
    models = {str(v): Models(system.settings.model_repository, v) for v in (version - 1, version)}
    for request_id in stream.requests[::7]:
        slate, audit_json = system.wire.answer(request_id)
        audit = json.loads(audit_json)
        if audit["logits_base64"] is None:
            continue
        named = models[json.loads(slate)["models"]["pctr"]]
        if audit["tier"] != STATIC:
            assert str(audit["state"]["model"]) == json.loads(slate)["models"]["pctr"]
        inputs = base64.b64decode(audit["inputs_base64"])
        width = 4 * named.manifest["d_model"]
        logits = named.logits(
            np.frombuffer(inputs[:width], np.float16),
            np.frombuffer(inputs[width:-64], np.float16),
            np.frombuffer(inputs[-64:], np.int64).tolist(),
        )
        assert base64.b64decode(audit["logits_base64"]) == b"".join(x.tobytes() for x in logits)


def states_of_other_models(system: System, version: int) -> int:
    """States in the store whose hidden states are of another model, or behind."""
    cursor, behind = 0, 0
    while True:
        cursor, users = system.store.scan_users(cursor, 500)
        for packed in system.store.read_packed(users):
            if packed is not None:
                header = read_header(packed)
                behind += header.model != version or header.state_version != header.version
        if cursor == 0:
            return behind


def check_rate(system: System, before: int) -> None:
    """Never more than two bursts of the configured rate in any second."""
    times = sorted(record.time_ms for record in system.wire.log(STATE_REFRESH)[before:])
    rate = int(WORKER_ENVIRONMENT["FINTREC_REFRESH_PER_S"])
    assert len(times) > rate, "too few states to show a rate"
    for first, last in zip(times, times[2 * rate :], strict=False):
        assert last - first >= 1_000
