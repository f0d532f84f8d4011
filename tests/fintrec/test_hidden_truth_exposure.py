"""What exposure changes, by the truth, and what ranking by a prediction earns."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fintrec import datasets
from fintrec.experiments import bank_data, run, setting
from fintrec.experiments.cell import run_cell
from fintrec.experiments.hidden_truth import Truth
from fintrec.experiments.hidden_truth_exposure import (
    Exposed,
    compared_rows,
    exposed,
    judge_exposure,
    rank_value,
    told,
)
from fintrec.experiments.hidden_truth_exposure_report import main
from fintrec.experiments.rows import TABLES, cell_named
from fintrec.logistic import logit, sigmoid


@pytest.fixture(scope="module")
def data(bank_log: Path) -> datasets.TrainingSet:
    return datasets.build_training_set(bank_log, datasets.demo())


@pytest.fixture(scope="module")
def found(bank_log: Path, data) -> Exposed:
    pages = np.arange(len(data.test), dtype=np.int64)[::2]
    return exposed(Truth(bank_log, data), data, data.test, pages)


def test_the_truth_that_is_not_told_lies_between_the_two_that_are(found) -> None:
    assert (found.if_not <= found.foresight + 1e-12).all()
    assert (found.foresight <= found.if_shown_anywhere + 1e-12).all()
    assert (found.caused >= 0).all()
    assert found.allowed[found.shown].all()
    assert 0.02 < found.allowed.mean() < 0.9


def test_told_foresight_is_the_recorded_exposure_on_top_of_everything_else(
    bank_log, data, found
) -> None:
    pages = np.arange(len(data.test), dtype=np.int64)[::2]
    known = Truth(bank_log, data)
    row, slot = np.nonzero(data.test.shown[pages] >= 0)
    item = data.test.shown[pages[row], slot]
    caused = known.caused(known.exposures(data.test, pages[row], slot))
    mine = 1 - (1 - found.if_shown[row, item]) / (1 - found.if_not[row, item])
    np.testing.assert_allclose(mine, caused, atol=1e-9)
    # Typical position and no memory, so not the recorded one, yet of the same size.
    typical = found.caused[row, item]
    assert typical.mean() == pytest.approx(caused.mean(), rel=0.4)
    assert np.corrcoef(typical, caused)[0, 1] > 0.6


def test_means_tell_items_users_and_exposure_apart(data, found) -> None:
    kinds = np.array(data.content_types)
    said = {"flat": np.full(found.shown.shape, 0.01), "truth": found.if_shown}
    parts = judge_exposure(found, kinds, said)
    shown, rest = parts["shown"], parts["not_shown"]
    by_kind = [part["examples"] for name, part in parts.items() if name.startswith("shown ")]
    assert sum(by_kind) == shown["examples"]
    assert shown["examples"] + rest["examples"] == parts["all"]["examples"] == found.known.sum()
    assert shown["if_not_shown"] < shown["untold"] < shown["if_shown"]
    assert shown["if_shown"] == shown["said"]["truth"]
    assert shown["observed_low"] < shown["if_shown"] < shown["observed_high"]
    assert rest["said"]["flat"] == 0.01
    assert parts["all"]["if_not_shown"] == parts["all"]["if_not_shown_by_item"]
    rows = compared_rows(found, said)
    assert rows["truth"]["shown"]["explained"] == pytest.approx(1, abs=1e-4)
    assert rows["flat"]["shown"]["explained"] < 0.05
    assert "by_truth" not in rows["flat"]["all"]
    nothing = Exposed(**{n: getattr(found, n)[:0] for n in Exposed.__slots__})
    assert judge_exposure(nothing, kinds, {})["shown"] == {"examples": 0}


def made(num_pages: int = 4000) -> tuple[Exposed, np.ndarray]:
    """Pages that show two of four items; showing adds 1 to the log odds of two, 2 to the others."""
    rng = np.random.default_rng(0)
    base = sigmoid(rng.normal(-3, 0.7, (num_pages, 4)))
    shown = rng.permuted(np.tile(np.array([True, True, False, False]), (num_pages, 1)), axis=1)
    if_shown = sigmoid(logit(base) + np.array([1.0, 1.0, 2.0, 2.0]))
    label = rng.random(base.shape) < np.where(shown, if_shown, base)
    caused = 1 - (1 - if_shown) / (1 - base)
    every = np.ones(base.shape, bool)
    return Exposed(shown, every, label, base, base, if_shown, caused, every), base


def test_an_offset_of_shown_items_is_learnt_from_other_users() -> None:
    found, base = made()
    kinds = np.array(["marketing", "marketing", "servicing", "servicing"])
    moved = told(base, found, kinds, np.arange(4000) // 3)
    added = (logit(moved) - logit(base)).mean(axis=0)
    np.testing.assert_allclose(added, [1, 1, 2, 2], atol=0.25)
    before, after = (compared_rows(found, {"it": it})["it"]["shown"] for it in (base, moved))
    assert after["log_loss"] < before["log_loss"]
    assert after["explained"] > 0.9 > before["explained"]
    # A fold's own labels play no part: turned around, its predictions stay as they were.
    fold = (np.arange(4000) // 3) % 2 == 0
    turned = found.label.copy()
    turned[fold] ^= True
    other = Exposed(**{n: getattr(found, n) for n in Exposed.__slots__} | {"label": turned})
    again = told(base, other, kinds, np.arange(4000) // 3)
    np.testing.assert_array_equal(again[fold], moved[fold])
    assert not np.allclose(again[~fold], moved[~fold])


def test_a_page_earns_what_its_items_lead_to_and_only_what_it_may_show() -> None:
    every = np.ones((1, 4), bool)
    caused = np.array([[0.1, 0.2, 0.4, 0.5]])
    page = Exposed(
        shown=np.array([[True, False, True, False]]),
        known=every,
        label=~every,
        foresight=caused,
        if_not=caused * 0,
        if_shown=caused,
        caused=caused,
        allowed=np.array([[True, True, True, False]]),
    )
    worth = np.array([10.0, 1.0, 1.0, 100.0])
    found = rank_value(page, worth, {"wrong": np.array([[0.0, 0.9, 0.5, 1.0]])})
    assert found["shown"] == pytest.approx(1.0 + 0.4)
    assert found["even"] == pytest.approx(2 * (1.0 + 0.2 + 0.4) / 3)
    assert found["wrong"] == pytest.approx(0.2 + 0.4)
    assert found["truth"] == pytest.approx(1.0 + 0.4)


def test_nobody_earns_more_than_the_truth(found) -> None:
    rng = np.random.default_rng(0)
    worth = rng.gamma(1.0, 50.0, found.shown.shape[1])
    said = {"told": found.if_shown_anywhere, "untold": found.foresight, "noise": found.caused * 0}
    dollars = rank_value(found, worth, said)
    assert dollars["truth"] >= dollars["told"] > dollars["untold"] > dollars["even"]
    assert dollars["truth"] > dollars["shown"]


def test_the_cells_of_a_table_are_judged_and_the_document_told(tmp_path: Path) -> None:
    out = tmp_path / "experiment"
    small = setting.tiny()
    setting.claim(out, small)
    run._bank(out, small, lambda stage: None)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results:exposure -->\nold\n<!-- /results:exposure -->\n")
    words = [str(out), "--out", str(tmp_path / "found.json"), "--markdown", str(page)]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 2
    assert "no finished cell" in refused.output
    (out / setting.CELLS).mkdir()
    run_cell(out, "table3", cell_named(TABLES["table3"], "base_rates", (0,)))
    ran = CliRunner().invoke(main, words, catch_exceptions=False)
    assert ran.exit_code == 0
    result = json.loads((tmp_path / "found.json").read_text())
    data = bank_data.load(out)
    assert result["pages"] == len(bank_data.judged(data, small).pages)
    assert set(result["exposure"]["shown"]["said"]) == {"base_rates"}
    assert f"{result['exposure']['shown']['if_shown']:.4f}" in page.read_text()
    assert "\nold\n" not in page.read_text()
