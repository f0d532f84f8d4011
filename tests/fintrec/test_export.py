"""Checkpoints and exported models: what is written is what was trained, whole or not at all."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from features.errors import ConfigurationError
from features.history import EMPTY
from fintrec import checkpoint as checkpoints
from fintrec import manifest as manifests
from fintrec.calibration import Calibration
from fintrec.checkpoint import Checkpoint
from fintrec.export import export, exported_program, load_script, served_modules
from fintrec.manifest import SERVED, load_manifest, verify, versions
from fintrec.models.config import Recipe, TrainingConfig
from fintrec.popularity import measure
from fintrec.served_config import config_text, signatures
from tests.fintrec.tiny import (
    VOCABULARY,
    config,
    history,
    history_inputs,
    models,
    request_inputs,
    training_set,
)


def make(**changes: object) -> Checkpoint:
    pctr, pcvr = models(**changes)
    if "item_history" in changes:
        for one in (pctr, pcvr):
            torch.nn.init.normal_(one.item_head.counts_head.output_KU)
    data, model = training_set(4), config(**changes)
    return Checkpoint(
        recipe=Recipe(name="test", model=model, training=TrainingConfig()),
        vocabulary=VOCABULARY,
        content_types=data.content_types,
        pctr=pctr,
        pcvr=pcvr,
        calibration=Calibration("platt-test", 1.5, -0.5, link=model.click_link),
        popularity=measure(data),
        metrics={"test": {"pctr_auroc": 0.7}},
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Path]:
    original, directory = make(), tmp_path_factory.mktemp("checkpoint")
    checkpoints.save(original, directory)
    return original, directory


@pytest.fixture(scope="module")
def exported(saved, tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("repository") / "triton_models"
    assert export(saved[1], repository) == 1
    return repository


def test_a_checkpoint_comes_back_as_it_was(saved) -> None:
    original, directory = saved
    again = checkpoints.load(directory)
    for name in ("recipe", "vocabulary", "content_types", "calibration", "popularity", "metrics"):
        assert getattr(again, name) == getattr(original, name), name
    for one, two in ((again.pctr, original.pctr), (again.pcvr, original.pcvr)):
        for key, value in two.state_dict().items():
            assert torch.equal(one.state_dict()[key], value), key


def changed_metadata(directory: Path, target: Path, **changes: object) -> Path:
    target.mkdir()
    for path in directory.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    data = json.loads((target / "checkpoint.json").read_text()) | changes
    (target / "checkpoint.json").write_text(json.dumps(data))
    return target


def test_a_checkpoint_for_other_features_is_refused(saved, tmp_path: Path) -> None:
    bad = changed_metadata(saved[1], tmp_path / "bad", registry="0" * 64)
    with pytest.raises(ConfigurationError, match="trained on feature registry 000000000000"):
        checkpoints.load(bad)


def test_incomplete_or_foreign_checkpoints_are_refused(saved, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="expected a checkpoint directory"):
        checkpoints.load(tmp_path)
    newer = changed_metadata(saved[1], tmp_path / "newer", format=99)
    with pytest.raises(ConfigurationError, match="format is 99"):
        checkpoints.load(newer)
    recipe = saved[0].recipe
    wider = replace(recipe, model=config(d_model=32)).to_dict()
    with pytest.raises(ConfigurationError, match="weights do not fit"):
        checkpoints.load(changed_metadata(saved[1], tmp_path / "wider", recipe=wider))
    other = {**saved[0].calibration.to_dict(), "link": "sigmoid"}
    with pytest.raises(ConfigurationError, match="of link sigmoid, expected .* softmax"):
        checkpoints.load(changed_metadata(saved[1], tmp_path / "other", calibration=other))
    lost = changed_metadata(saved[1], tmp_path / "lost")
    (lost / "pcvr.safetensors").unlink()
    with pytest.raises(ConfigurationError, match=r"pcvr\.safetensors is missing"):
        checkpoints.load(lost)


@pytest.mark.parametrize(
    "changes",
    [
        {"time_encoding": "none", "num_layers": 1},
        {"time_encoding": "learned", "num_layers": 1},
        {"use_fm": False},
        {"elapsed": "half_lives", "item_vectors": "compared", "click_link": "sigmoid"},
        {"item_history": True, "window": 5, "num_layers": 1},
        {"shared_trunk": True, "num_layers": 3},
        {
            "dynamic_fusion": "concat",
            "pooling": "last_two",
            "timestamp_mask": "upto",
            "num_layers": 1,  # programs of two take twice as long
        },
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_alternative_is_scripted_exported_and_loaded_again(
    changes: dict[str, object], tmp_path: Path
) -> None:
    original = make(**changes)
    checkpoints.save(original, tmp_path / "checkpoint")
    again = checkpoints.load(tmp_path / "checkpoint")
    assert again.recipe == original.recipe
    # Every program takes seconds: where graphs differ most.
    has_files = "pooling" in changes or "item_history" in changes
    export(tmp_path / "checkpoint", tmp_path / "models", program=has_files)
    rng = np.random.default_rng(0)
    inputs = history_inputs([history(rng, 20) for _ in range(5)])
    context, request = request_inputs(rng, 5)
    script = load_script(tmp_path / "models" / "encode" / "1" / "model.pt")
    head = load_script(tmp_path / "models" / "head" / "1" / "model.pt")
    with torch.inference_mode():
        state = served_modules(again)["encode"](*inputs)
        assert torch.equal(state, served_modules(original)["encode"](*inputs))
        assert torch.equal(script(*inputs), state)
        if has_files or "time_encoding" in changes:
            path = tmp_path / "models" / "encode" / "1" / "model.pt2"
            encode = served_modules(again)["encode"]
            program = torch.export.load(path) if has_files else exported_program(encode)
            torch.testing.assert_close(program.module()(*inputs), state, atol=2e-3, rtol=2e-3)
        logits = served_modules(original)["head"](state, context, request)
        for one, two in zip(head(state, context, request), logits, strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("name", SERVED)
def test_exported_model_equals_the_eager_one(name: str, saved, exported: Path) -> None:
    """Three batch sizes, three history lengths; the same kernels run, so to the bit."""
    eager = served_modules(saved[0])[name]
    script = load_script(exported / name / "1" / "model.pt")
    rng = np.random.default_rng(0)
    for batch, length in itertools.product((1, 4, 13), (0, 9, 70)):
        histories = [history(rng, length) if length else EMPTY for _ in range(batch)]
        inputs = history_inputs(histories)
        page = request_inputs(rng, batch)
        state = torch.randn(batch, 32).half()
        arguments = {"encode": inputs, "head": (state, *page)}.get(name, (*inputs, *page))
        for _ in range(3):  # TorchScript rewrites itself during its first runs
            with torch.inference_mode():
                expected, found = eager(*arguments), script(*arguments)
            if isinstance(expected, torch.Tensor):
                expected, found = (expected,), (found,)
            for one, two in zip(found, expected, strict=True):
                assert torch.equal(one, two), (batch, length)


def test_served_whole_model_equals_served_encode_then_head(exported: Path) -> None:
    rng = np.random.default_rng(3)
    parts = {name: load_script(exported / name / "1" / "model.pt") for name in SERVED}
    inputs = history_inputs([history(rng, 12) for _ in range(5)])
    page = request_inputs(rng, 5)
    with torch.inference_mode():
        split = parts["head"](parts["encode"](*inputs), *page)
        whole = parts["pctr"](*inputs, *page), parts["pcvr"](*inputs, *page)
    for one, two in zip(split, whole, strict=True):
        assert torch.equal(one, two)


def test_manifest_says_what_was_exported(saved, exported: Path) -> None:
    manifest = load_manifest(exported)
    verify(manifest, exported)
    assert manifest.version == 1
    assert manifest.items == VOCABULARY.items
    assert manifest.state_width == 32
    assert manifest.calibration == saved[0].calibration
    assert manifest.popularity == saved[0].popularity
    assert set(manifest.sha256) == {f"{name}/1/model.pt" for name in SERVED}
    assert manifest.code == checkpoints.code_version()
    assert manifest.model_sha256("head") == manifest.sha256["head/1/model.pt"]


def test_a_changed_file_is_found(saved, tmp_path: Path) -> None:
    export(saved[1], tmp_path)
    manifest = load_manifest(tmp_path)
    with (tmp_path / "head/1/model.pt").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ConfigurationError, match=r"head/1/model\.pt: SHA-256 differs"):
        verify(manifest, tmp_path)
    (tmp_path / "head/1/model.pt").unlink()
    with pytest.raises(ConfigurationError, match="missing"):
        verify(manifest, tmp_path)


def test_versions_count_up_for_all_models_together(saved, tmp_path: Path) -> None:
    assert export(saved[1], tmp_path) == 1
    (tmp_path / "pcvr" / "4").mkdir()  # whatever it is, its number is taken
    assert export(saved[1], tmp_path) == 5
    assert versions(tmp_path) == [1, 5]
    assert load_manifest(tmp_path).version == 5
    assert load_manifest(tmp_path, 1).version == 1
    with pytest.raises(ConfigurationError, match="no model version 4"):
        load_manifest(tmp_path, 4)
    assert "latest { num_versions: 2 }" in (tmp_path / "encode/config.pbtxt").read_text()


def test_a_failed_export_leaves_nothing_behind(
    saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(path: Path) -> str:
        raise OSError("no space left")

    monkeypatch.setattr("fintrec.export.file_sha256", full_disk)
    with pytest.raises(OSError, match="no space"):
        export(saved[1], tmp_path)
    assert list(tmp_path.iterdir()) == [], "no folder that Triton would take for a model"


def test_a_version_of_another_width_is_served_alone(saved, tmp_path: Path) -> None:
    export(saved[1], tmp_path)
    wide = tmp_path / "wide"
    checkpoints.save(make(d_model=32), wide)
    assert export(wide, tmp_path) == 2
    assert "specific { versions: [ 2 ] }" in (tmp_path / "head/config.pbtxt").read_text()


def test_a_manifest_for_other_features_or_buckets_is_refused(exported: Path, tmp_path) -> None:
    folder = tmp_path / "encode" / "1"
    folder.mkdir(parents=True)
    data = json.loads((exported / "encode/1/manifest.json").read_text())
    for field, value in (("registry", "1" * 64), ("buckets", [8])):
        (folder / "manifest.json").write_text(json.dumps(data | {field: value}))
        with pytest.raises(ConfigurationError, match=field):
            load_manifest(tmp_path)
    with pytest.raises(ConfigurationError, match="run `fintrec export`"):
        load_manifest(tmp_path / "empty")


def test_configuration_names_what_the_modules_take_and_give(saved, exported: Path) -> None:
    """The shapes of `config.pbtxt` against the artefacts' own arguments and results."""
    kinds = {
        torch.int32: "TYPE_INT32",
        torch.int64: "TYPE_INT64",
        torch.float16: "TYPE_FP16",
        torch.float32: "TYPE_FP32",
    }
    rng = np.random.default_rng(0)
    inputs = history_inputs([history(rng, 5) for _ in range(4)])
    page = request_inputs(rng, 4)
    for signature in signatures(32):
        script = load_script(exported / signature.name / "1" / "model.pt")
        state = torch.zeros(4, 32, dtype=torch.float16)
        arguments = {"encode": inputs, "head": (state, *page)}.get(signature.name, (*inputs, *page))
        results = script(*arguments)
        results = (results,) if isinstance(results, torch.Tensor) else results
        for role, tensors in ((signature.inputs, arguments), (signature.outputs, results)):
            assert len(role) == len(tensors)
            for place, (stated, tensor) in enumerate(zip(role, tensors, strict=True)):
                assert stated.name.endswith(f"__{place}")
                assert stated.dtype == kinds[tensor.dtype]
                assert len(stated.dims) == tensor.dim() - 1
                for size, actual in zip(stated.dims, tensor.shape[1:], strict=True):
                    assert size in (-1, actual)
        text = (exported / signature.name / "config.pbtxt").read_text()
        assert text == config_text(signature, "cpu", None)
        assert "KIND_GPU" in config_text(signature, "gpu", None)


def test_every_bucket_is_warmed(exported: Path) -> None:
    text = (exported / "encode" / "config.pbtxt").read_text()
    for bucket in (16, 32, 64, 120):
        for batch in (4, 16, 64):
            assert f'"length_{bucket}_batch_{batch}"' in text
    assert manifests.load_manifest(exported).buckets == (16, 32, 64, 120)


def test_the_torch_export_program_is_the_same_model(saved) -> None:
    eager = served_modules(saved[0])["encode"]
    program = exported_program(eager).module()
    inputs = history_inputs([history(np.random.default_rng(1), 20) for _ in range(5)])
    with torch.inference_mode():
        # Other kernels may be chosen: float16 steps of values below 4.
        torch.testing.assert_close(program(*inputs), eager(*inputs), atol=4e-3, rtol=0)
