"""Checkpoints found and compared: in pairs on the same pages, with a warning on others."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from features.errors import ConfigurationError
from fintrec.card_files import read_card, read_sums
from fintrec.model_registry import (
    ALIKE,
    BETTER,
    WORSE,
    compare,
    differences,
    find,
    is_same_test,
    worse_beyond_chance,
)
from fintrec.models.config import TrainingConfig
from tests.fintrec.carded import other_pages, write_carded
from tests.fintrec.tiny import training_set


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three checkpoints: `a`; `off`, whose pCTR is far too high; `half`, of other test pages."""
    found = tmp_path_factory.mktemp("checkpoints")
    write_carded(found / "a")
    write_carded(found / "deep" / "off", b=4.0, training=TrainingConfig(seed=5))
    write_carded(found / "half", data=other_pages(training_set(24)))
    return found


def compared(folder: Path, first: str, second: str):
    one, other = folder / first, folder / second
    return compare(read_card(one), read_card(other), read_sums(one), read_sums(other))


def test_checkpoints_are_found_at_any_depth_with_what_is_wrong_with_them(folder, tmp_path) -> None:
    shutil.copytree(folder, tmp_path / "all")
    (tmp_path / "all" / "a" / "card.json").unlink()
    card = json.loads((tmp_path / "all" / "half" / "card.json").read_text())
    card["hashes"]["feature_registry"] = "0" * 64
    (tmp_path / "all" / "half" / "card.json").write_text(json.dumps(card))
    (tmp_path / "all" / ".hidden").mkdir()
    (tmp_path / "all" / ".hidden" / "checkpoint.json").write_text("{}")
    found = {one.directory.name: one for one in find(tmp_path / "all")}
    assert set(found) == {"a", "off", "half"}
    assert "no card.json" in found["a"].problem
    assert found["a"].card is None
    assert found["half"].problem == "of another feature registry"
    assert found["off"].problem == ""
    assert [one.directory for one in find(folder / "deep" / "off")] == [folder / "deep" / "off"]
    with pytest.raises(ConfigurationError, match="no such directory"):
        find(tmp_path / "nowhere")


def test_on_the_same_pages_differences_are_in_pairs(folder) -> None:
    assert is_same_test(read_card(folder / "a"), read_card(folder / "deep" / "off"))
    found = {one.name: one for one in compared(folder, "a", "deep/off")}
    assert found["pctr_log_loss"].is_paired
    assert found["pctr_log_loss"].verdict == WORSE
    assert found["pctr_auroc"].difference is None, "no mean over rows, so no sums by user"
    assert found["pcvr_log_loss"].difference.value == 0.0
    assert found["pcvr_log_loss"].verdict == ALIKE
    back = {one.name: one for one in compared(folder, "deep/off", "a")}
    assert back["pctr_log_loss"].verdict == BETTER
    forth, again = found["pctr_log_loss"].difference, back["pctr_log_loss"].difference
    assert np.allclose(
        [forth.value, forth.low, forth.high], [-again.value, -again.high, -again.low]
    )


def test_a_difference_is_that_of_the_two_cards_values(folder) -> None:
    for second in ("deep/off", "half"):
        for one in compared(folder, "a", second):
            if one.difference is not None:
                expected = one.second["value"] - one.first["value"]
                assert one.difference.value == pytest.approx(expected), one.name


def test_on_other_pages_differences_are_unpaired(folder) -> None:
    assert not is_same_test(read_card(folder / "a"), read_card(folder / "half"))
    found = {one.name: one for one in compared(folder, "a", "half")}
    assert not found["pctr_log_loss"].is_paired
    assert found["pctr_log_loss"].difference.holds(0.0)


def test_only_losses_that_are_worse_beyond_chance_close_the_gate(folder) -> None:
    assert [one.name for one in worse_beyond_chance(compared(folder, "a", "deep/off"))] == [
        "pctr_log_loss"
    ]
    assert worse_beyond_chance(compared(folder, "deep/off", "a")) == []
    assert worse_beyond_chance(compared(folder, "a", "a")) == []


def test_without_sums_the_values_stand_alone(folder) -> None:
    card = read_card(folder / "a")
    assert {one.difference for one in compare(card, card, None, None)} == {None}


def test_what_differs_is_named(folder) -> None:
    a, off, half = (read_card(folder / name) for name in ("a", "deep/off", "half"))
    assert differences(a, a) == {}
    assert differences(a, off) == {"seed": [0, 5]}
    assert set(differences(a, half)) == {"data"}
