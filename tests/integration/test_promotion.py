"""Promotion and rollback on the real Triton, while requests flow through the real workers."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from features.encoding import CONTEXT_WIDTH, REQUEST_COLUMNS, encode_histories
from features.errors import ConfigurationError
from features.packed import read_header
from features.spec import DAY_MS
from fintrec.checkpoint import load
from fintrec.export import served_modules
from fintrec.manifest import file_sha256, load_manifest
from fintrec.promotions import read_ledger
from streams.promotion import Target, promote
from streams.topics import STATE_REFRESH
from streams.triton import TritonModels
from tests.fintrec.tiny import history
from tests.integration.conftest import WORKER_ENVIRONMENT, System, await_applied, now_ms
from tests.integration.judge import STATIC
from tests.integration.referee import Models
from tests.integration.stream import Stream, answers
from tests.integration.tiny_models import write_carded
from tests.integration.wire import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]
Outputs = list[np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def checkpoints(system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints `a` and `b` with their cards."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, name in enumerate("ab", start=10):
        write_carded(folder / name, system.items, seed)
    return folder


@pytest.fixture
def target(system: System) -> Target:
    return Target(system.settings, system.settings.model_repository, False, now_ms)


def questions() -> tuple[Any, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Histories and pages of four users: as many as Triton is always asked for at once."""
    rng = np.random.default_rng(3)
    arrays = encode_histories([history(rng, length) for length in (3, 9, 14, 16)]).arrays
    request = np.zeros((4, len(REQUEST_COLUMNS)), np.int64)
    request[:, REQUEST_COLUMNS.index("time_ms")] = now_ms() // DAY_MS * DAY_MS
    return arrays, rng.normal(size=(4, CONTEXT_WIDTH)).astype(np.float16), request


def served_outputs(system: System, version: int) -> Outputs:
    """What Triton's version answers over gRPC."""
    triton = TritonModels(
        replace(system.settings, triton_timeout_ms=60_000, encode_timeout_ms=60_000)
    )
    arrays, context, request = questions()
    hidden = triton.encode(arrays, version)
    return [hidden, *triton.head(hidden, context, request, version)]


def own_outputs(checkpoint: Path) -> Outputs:
    """What the checkpoint's PyTorch modules answer in this process, on one thread as Triton."""
    modules = served_modules(load(checkpoint))
    arrays, context, request = questions()
    history_inputs = (arrays.tokens_BTC, arrays.times_BT, arrays.dynamic_BTF)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        hidden = modules["encode"](*map(torch.from_numpy, history_inputs))
        pair = modules["head"](hidden, torch.from_numpy(context), torch.from_numpy(request))
    torch.set_num_threads(threads)
    return [found.numpy() for found in (hidden, *pair)]


def assert_same(found: Outputs, expected: Outputs) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def files_of(target: Target) -> Mapping[str, str]:
    """Every file of the repository with its hash; temporary ones, too."""
    paths = sorted(path for path in target.repository.rglob("*") if path.is_file())
    return {str(path.relative_to(target.repository)): file_sha256(path) for path in paths}


def run_verb(system: System, *arguments: str) -> Any:
    """JSON of a verb of `fintrec models`, as an operator calls it."""
    argv = [sys.executable, "-m", "streams", "models", *arguments]
    done = subprocess.run(
        [*argv, "--dir", str(system.stack.dir), "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# The verb, with a kill -9 of itself where it would ask Triton to load what it has exported.
KILLED = """
import os, signal, sys
from streams import promotion
promotion.load_version = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from streams.commands.models import models
models(sys.argv[1:])
"""


def test_models_are_promoted_and_rolled_back_under_traffic_also_after_a_kill(
    system: System, target: Target, checkpoints: Path
) -> None:
    """Loads are what costs here: each imports torch four times and warms every shape.

    No request fails meanwhile, and every state is recomputed, at a bounded rate.
    """
    before = len(system.wire.log(STATE_REFRESH))
    base = target.served()
    assert base is not None
    of_base = served_outputs(system, base)
    stream = Stream(system, "promoted", num_users=80, events_per_s=10, requests_per_s=10)
    with stream:
        stream.await_answers()
        torn = killed_promotion(system, target, checkpoints / "a")
        assert target.served() == base, "Triton was not asked to load it"

        promoted = promote(target, checkpoints / "b")
        assert (promoted.version, promoted.version_before) == (torn + 1, base)
        assert_same(served_outputs(system, promoted.version), own_outputs(checkpoints / "b"))
        await_slates_of(system, stream, promoted.version)

        back = run_verb(system, "rollback")
        assert (back["version"], back["restores"]) == (promoted.version + 1, base)
        assert target.served() == back["version"]
        assert_same(served_outputs(system, back["version"]), of_base)
        await_slates_of(system, stream, back["version"])
        stream.await_answers()
    system.wire.settle()
    left = [path for path in files_of(target) if f"/{torn}/" in path or ".partial" in path]
    assert not left, "the next change takes back what was torn"
    found, _ = answers(system, stream.requests)
    assert not [s for s in found.values() if "triton_unavailable" in s["flags"]]
    # A busy machine answers some by the cheap tier, which names no model and says why.
    assert all(s["flags"] == ["overload"] for s in found.values() if not s["models"]["pctr"])
    served = base, promoted.version, back["version"]
    named = {slate["models"]["pctr"] for slate in found.values()} - {""}
    assert named == {str(version) for version in served}
    check_evidence(system, target, stream)
    check_who_scored(system, stream, served)
    until(
        "every state is of the version that is served",
        lambda: states_of_other_models(system, back["version"]) == 0,
        120,
    )
    await_applied(system, stream.users, stream.refused)
    check_rate(system, before)
    told = [(e["action"], e["version"], e["restores"]) for e in run_verb(system, "history")]
    assert [entry for entry in told if entry[0] != "begin"] == [
        ("withdraw", torn, None),
        ("promote", promoted.version, None),
        ("rollback", back["version"], base),
    ]


def killed_promotion(system: System, target: Target, checkpoint: Path) -> int:
    """Promote as an operator whose process dies before the load; the version that was exported."""
    argv = [sys.executable, "-c", KILLED, "promote", str(checkpoint)]
    died = subprocess.run([*argv, "--dir", str(system.stack.dir)], check=False, timeout=200)
    assert died.returncode == -signal.SIGKILL
    begun = read_ledger(target.repository)[-1]
    assert (begun.action, begun.intent) == ("begin", "promote")
    assert (target.repository / "encode" / str(begun.version) / "manifest.json").is_file()
    return begun.version


def await_slates_of(system: System, stream: Stream, version: int) -> None:
    """Return when the workers score with a version and name it."""
    until(
        f"a slate scored by version {version}",
        lambda: any(
            json.loads(raw)["models"]["pctr"] == str(version)
            for request_id in stream.requests[-100:]
            for raw in system.wire.slates(request_id)
        ),
        60,
    )


def check_evidence(system: System, target: Target, stream: Stream) -> None:
    """An audit record names the version that scored, by the hash of its artefacts."""
    for request_id in stream.requests[::9]:
        slate, raw = system.wire.answer(request_id)
        audit = json.loads(raw)
        if audit["logits_base64"] is not None:
            version = audit["model_artefacts"]["version"]
            assert json.loads(slate)["models"]["pctr"] == str(version)
            manifest = load_manifest(target.repository, version)
            assert audit["model_artefacts"]["sha256"]["head"] == manifest.model_sha256("head")


def check_who_scored(system: System, stream: Stream, versions: Sequence[int]) -> None:
    """The logits of a slate are those of the version that it names, and of its audited inputs."""
    models = {str(v): Models(system.settings.model_repository, v) for v in versions}
    for request_id in stream.requests[::7]:
        slate, audit_json = system.wire.answer(request_id)
        audit = json.loads(audit_json)
        if audit["logits_base64"] is None:
            continue
        named = models[json.loads(slate)["models"]["pctr"]]
        if audit["tier"] != STATIC:
            assert str(audit["state"]["model"]) == json.loads(slate)["models"]["pctr"]
        inputs = base64.b64decode(audit["inputs_base64"])
        width = 2 * named.manifest["state_width"]
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


def test_a_checkpoint_that_must_not_be_served_changes_nothing(
    target: Target, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, ready = files_of(target), TritonModels(target.settings).ready_versions()
    for name, spoil, says in (
        ("weights", corrupt_weights, r"pctr\.safetensors has SHA-256"),
        ("vocabulary", forget_items, r"checkpoint\.json is not the one that was judged"),
    ):
        shutil.copytree(checkpoints / "b", tmp_path / name)
        spoil(tmp_path / name)
        with pytest.raises(ConfigurationError, match=says):
            promote(target, tmp_path / name)
    monkeypatch.setattr("fintrec.export_parity.TOLERANCE", -1.0)
    with pytest.raises(ConfigurationError, match="differs from its checkpoint by"):
        promote(target, checkpoints / "b")
    assert files_of(target) == files
    assert TritonModels(target.settings).ready_versions() == ready


def corrupt_weights(folder: Path) -> None:
    content = bytearray((folder / "pctr.safetensors").read_bytes())
    content[-100:] = os.urandom(100)
    (folder / "pctr.safetensors").write_bytes(content)


def forget_items(folder: Path) -> None:
    data = json.loads((folder / "checkpoint.json").read_text())
    data["vocabulary"]["items"] = data["vocabulary"]["items"][:-3]
    (folder / "checkpoint.json").write_text(json.dumps(data))
