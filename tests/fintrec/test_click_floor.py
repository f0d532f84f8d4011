"""Clicks against the truth: parts that add up, floors that nobody beats, columns without a future."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from features.vocabulary import code
from fintrec import datasets
from fintrec.bank import truth
from fintrec.experiments import bank_data, click_floor, click_floor_report
from fintrec.experiments.click_features import Columns
from fintrec.experiments.click_floor import RUNGS, measure, sample
from fintrec.experiments.click_trees import ClickTrees
from fintrec.experiments.click_truth import PARTS, impressions, knowing, tendency
from fintrec.experiments.hidden_truth import Truth
from fintrec.experiments.setting import CELLS, DATASET, LOG, claim, predictions_path, tiny
from fintrec.logistic import logit
from fintrec.result_files import ResultFolder


@pytest.fixture(scope="module")
def out(bank_log, tmp_path_factory):
    """An experiment's folder with one finished cell of clicks."""
    folder = tmp_path_factory.mktemp("clicks") / "table"
    setting = tiny()
    claim(folder, setting)
    (folder / LOG).symlink_to(bank_log)
    truth.truth_dir(folder / LOG).symlink_to(truth.truth_dir(bank_log))
    datasets.build_dataset(folder / LOG, folder / DATASET, setting.dataset)
    data = bank_data.load(folder)
    pages = bank_data.judged(data, setting)
    ResultFolder(folder / CELLS, "test").cell("clicks_fintrec-1", {}, dict)
    said = np.full(pages.known.shape, 0.04, np.float32)
    np.save(predictions_path(folder, "clicks_fintrec-1"), said)
    return folder


@pytest.fixture(scope="module")
def data(out):
    return bank_data.load(out)


@pytest.fixture(scope="module")
def known(out, data):
    return Truth(out / LOG, data)


@pytest.fixture(scope="module")
def shown(data, known):
    return impressions(known, data.train, *np.nonzero(data.train.shown >= 0))


def test_what_is_left_of_the_log_odds_is_zero_without_earlier_pages(data, shown):
    found = shown.parts_PN[PARTS.index("history")]
    decisions, impression = data.train, code("action", "impression")
    first = [
        page
        for page in np.unique(shown.page).tolist()
        if impression not in data.logs[decisions.user[page]][: decisions.end[page]]["action"]
    ]
    fresh = np.isin(shown.page, first)
    assert 10 < fresh.sum() < len(found)
    assert np.abs(found[fresh]).max() < 1e-4  # the truth is stored as float32
    assert found.min() < -0.4  # shown or dismissed before
    assert found.max() > 0.5  # a click before


def test_who_knows_more_parts_is_nearer_the_truth_and_who_knows_all_is_there(data, shown):
    num = len(data.items)
    far = [
        np.abs(logit(knowing(shown, shown, parts, num)) - logit(shown.chance)).mean()
        for parts in (*RUNGS.values(), PARTS[1:])
    ]
    assert (np.diff(far) < 0).all()
    assert far[-1] < 0.02


def test_a_page_whose_items_are_all_wanted_more_has_a_higher_tendency(data, known):
    pages = np.arange(50)
    share = np.full((50, len(data.items)), 1 / len(data.items))
    found = tendency(known, data.train, pages, share)
    assert found.level_B.mean() == pytest.approx(0, abs=1e-9)
    assert found.variance["page"] == pytest.approx(found.level_B.var())
    alone = tendency(known, data.train, pages, share * np.eye(len(data.items))[3] + 1e-15)
    assert alone.variance["item and page"] < 1e-6  # with one item all of it is the page's


def test_columns_read_nothing_of_the_page_or_later(data):
    columns, decisions = Columns(data), data.test
    page, slot = np.nonzero(decisions.shown >= 0)
    item = decisions.shown[page, slot].astype(np.int64)
    found = columns.history(decisions, page, item)
    for at in range(0, len(page), 97):
        user, now = decisions.user[page[at]], decisions.time_ms[page[at]]
        log = data.logs[user]
        past = log[log["time_ms"] < now]
        calls = past["time_ms"][past["action"] == code("action", "login")]
        since = np.log1p((now - calls.max()) / 60_000) if len(calls) else -1.0
        assert since in (pytest.approx(value, rel=1e-5) for value in found[at].tolist())
        shown_before = int((past["action"] == code("action", "impression")).sum())
        assert found[at, -8] <= shown_before


def test_a_sample_holds_every_click_and_whole_pages(data):
    drawn = sample(data, 40)
    assert drawn.clicked.sum() == (data.train.clicked & (data.train.shown >= 0)).sum()
    assert len(np.unique(drawn.page[drawn.whole])) == 40
    assert drawn.clicked[~drawn.whole].all()
    assert drawn.negatives_rate == 40 / len(data.train)


def test_the_document_tells_what_was_measured(out, tmp_path, monkeypatch):
    found = measure(out, ClickTrees(max_trees=3, min_leaf=20), 300)
    without, told = found["without_position"], found["with_position"]
    assert set(without) == set(told) == {
        *RUNGS, click_floor.BASE, click_floor.MODEL, click_floor.TREES, click_floor.NOISELESS,
        click_floor.TOLD,
    }  # fmt: skip
    assert len(without[click_floor.MODEL]["realised"]["seeds"]) == 1
    assert without[click_floor.BASE]["expected_below"]["value"] == 0
    best = found["truth"]["expected"]["value"]
    for part in (without, told):
        assert all(one["expected"]["value"] > best for one in part.values())
    assert found["tendency"]["judged"]["truth without it"]["expected"]["value"] > best
    monkeypatch.setattr(click_floor, "measure", lambda folder: found)
    page = tmp_path / "page.md"
    page.write_text("<!-- results:clicks -->\n<!-- /results:clicks -->\n")
    arguments = [str(out), "--out", str(tmp_path / "out.json"), "--markdown", str(page)]
    ran = CliRunner().invoke(click_floor_report.main, arguments, catch_exceptions=False)
    assert ran.exit_code == 0
    assert f"{without[click_floor.TREES]['realised']['value']:.5f}" in page.read_text()
    assert json.loads((tmp_path / "out.json").read_text())["truth"] == found["truth"]
    text = page.read_text()
    again = [str(out), "--read", str(tmp_path / "out.json"), "--markdown", str(page)]
    CliRunner().invoke(click_floor_report.main, again, catch_exceptions=False)
    assert page.read_text() == text
