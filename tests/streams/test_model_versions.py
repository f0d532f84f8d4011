from pathlib import Path

import pytest

from features.errors import ConfigurationError, ModelUnavailable
from streams import model_versions
from streams.model_versions import ModelVersions
from tests.fakes import LocalModels, served_model

UNREADABLE = {3: ConfigurationError("another registry"), 4: KeyError("items"), 5: OSError("gone")}


@pytest.fixture(autouse=True)
def manifests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Manifests by version, and which were read."""
    read = []

    def load(_repository: Path, version: int):
        read.append(version)
        if version in UNREADABLE:
            raise UNREADABLE[version]
        return served_model(version, ("i0",)).manifest

    monkeypatch.setattr(model_versions, "load_manifest", load)
    return read


def test_the_newest_ready_version_is_active_and_older_ones_stay_served(manifests):
    versions = ModelVersions(LocalModels(1, ready=[1, 2]), Path("."))
    assert versions.active is None
    versions.poll()
    versions.poll()
    assert versions.active is versions.served[2]
    assert sorted(versions.served) == [1, 2]
    assert manifests == [1, 2]  # each is read once


def test_a_change_is_told_once():
    triton = LocalModels(1, ready=[1])
    versions = ModelVersions(triton, Path("."))
    told = []
    versions.on_change = lambda: told.append(sorted(versions.served))
    versions.poll()
    versions.poll()
    triton.ready = [2]
    versions.poll()
    assert told == [[1], [2]]


@pytest.mark.parametrize("version", sorted(UNREADABLE))
def test_a_version_without_a_usable_manifest_is_left_out(manifests, version):
    versions = ModelVersions(LocalModels(1, ready=[1, version]), Path("."))
    versions.poll()
    versions.poll()
    assert versions.active is versions.served[1]
    assert manifests == [1, version]


def test_a_poll_without_an_answer_leaves_what_is_known():
    triton = LocalModels(1)
    versions = ModelVersions(triton, Path("."))
    versions.poll()
    triton.fail = {"ready"}
    with pytest.raises(ModelUnavailable):
        versions.poll()
    assert versions.active is not None


def test_a_triton_with_no_version_left_has_no_active_one():
    triton = LocalModels(1)
    versions = ModelVersions(triton, Path("."))
    versions.poll()
    triton.ready = []
    versions.poll()
    assert versions.active is None
