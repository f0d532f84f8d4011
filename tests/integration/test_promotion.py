"""Promotion and rollback on the real Triton, while requests flow through the real workers."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from features.encoding import CONTEXT_WIDTH, REQUEST_COLUMNS, encode_histories
from features.errors import ConfigurationError
from features.spec import DAY_MS
from fintrec.checkpoint import load
from fintrec.export import served_modules
from fintrec.manifest import SERVED, file_sha256, load_manifest
from fintrec.promotions import ledger_path, read_ledger
from streams.promotion import Target, promote
from streams.triton import TritonModels
from tests.fintrec.tiny import history
from tests.integration.conftest import System, now_ms
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
    triton = TritonModels(system.settings)
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


def test_models_are_swapped_and_swapped_back_under_traffic(
    system: System, target: Target, checkpoints: Path
) -> None:
    stream = Stream(system, "promoted", events_per_s=30, requests_per_s=30)
    with stream:
        stream.await_answers()
        first = promote(target, checkpoints / "a")
        of_a = served_outputs(system, first.version)
        assert_same(of_a, own_outputs(checkpoints / "a"))
        await_slates_of(system, stream, first.version)

        second = promote(target, checkpoints / "b")
        assert second.version_before == first.version
        assert_same(served_outputs(system, second.version), own_outputs(checkpoints / "b"))
        await_slates_of(system, stream, second.version)

        back = run_verb(system, "rollback")
        assert (back["restores"], back["version_before"]) == (first.version, second.version)
        assert target.served() == back["version"] == second.version + 1
        assert_same(served_outputs(system, back["version"]), of_a)
        await_slates_of(system, stream, back["version"])
    found, _ = answers(system, stream.requests)
    flags = {flag for slate in found.values() for flag in slate["flags"]}
    assert "triton_unavailable" not in flags
    named = {slate["models"]["pctr"] for slate in found.values()} - {""}
    assert named >= {str(entry) for entry in (first.version, second.version, back["version"])}
    check_evidence(system, target, stream)
    told = [(e["action"], e["version"], e["restores"]) for e in run_verb(system, "history")]
    assert [entry for entry in told if entry[0] != "begin"][-3:] == [
        ("promote", first.version, None),
        ("promote", second.version, None),
        ("rollback", back["version"], first.version),
    ]


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


# The verb, with a kill -9 of itself where it would ask Triton to load what it has exported.
KILLED = """
import os, signal, sys
from streams import promotion
promotion.load_version = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from streams.commands.models import models
models(sys.argv[1:])
"""


def test_a_promotion_that_is_killed_before_the_load_is_taken_back(
    system: System, target: Target, checkpoints: Path
) -> None:
    served = target.served()
    argv = [sys.executable, "-c", KILLED, "promote", str(checkpoints / "b")]
    died = subprocess.run([*argv, "--dir", str(system.stack.dir)], check=False, timeout=200)
    assert died.returncode == -signal.SIGKILL
    cut_off = read_ledger(target.repository)[-1]
    assert (cut_off.action, cut_off.intent) == ("begin", "promote")
    assert (target.repository / "encode" / str(cut_off.version)).is_dir()
    assert target.served() == served, "what Triton was not asked to load, nobody is served by"

    after = promote(target, checkpoints / "b")
    assert (after.version, after.version_before) == (cut_off.version + 1, served)
    assert target.served() == after.version
    assert read_ledger(target.repository)[-3].action == "withdraw"
    for name in SERVED:
        assert not (target.repository / name / str(cut_off.version)).exists()
    assert not [path for path in files_of(target) if ".partial" in path]
    assert ledger_path(target.repository).read_bytes().endswith(b"\n")
