"""Tables: cells that survive a kill, one judge for all rows, and numbers that say what they cover."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from features.errors import ConfigurationError
from fintrec.commands.reproduce import reproduce
from fintrec.experiments import bank_data, floor, judge, plots, schedule, table, table_text, trials
from fintrec.experiments.cell import run_cell
from fintrec.experiments.rows import TABLES, WAITS, Cell, cell_named, cells, predictions
from fintrec.experiments.run import Plan, estimated_seconds, plan
from fintrec.experiments.setting import (
    CELLS,
    LOG,
    cell_path,
    claim,
    predictions_path,
    read_setting,
    table3,
    tiny,
)
from fintrec.metrics import auroc, calibration_error, log_loss
from fintrec.result_files import read_cells

BY_COMMAND = ("fintrec-0", "clicks_rates")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A whole table with one seed, killed in the middle and gone on with.

    Most cells that are missing then run in this process: each of their own would load torch for
    half a second of work. The command runs the last of them, a transformer and a table of rates.
    """
    out = tmp_path_factory.mktemp("experiments") / "table"
    words = ["table3", "--setting", "tiny", "--seeds", "1", "--jobs", "2", "--out", str(out)]
    program = "from fintrec.commands.reproduce import reproduce; reproduce()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # its cells die with it: none writes beside those that follow
    )
    until = time.monotonic() + 200
    while time.monotonic() < until and len(list((out / CELLS).glob("*.json"))) < 2:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in (out / CELLS).glob("[!.]*.json")}
    built = (out / LOG / "manifest.json").stat().st_mtime_ns
    for cell in schedule.missing(out, cells(TABLES["table3"], (0,))):
        if cell.name not in BY_COMMAND:
            run_cell(out, "table3", cell)
    page = out / "page.md"
    page.write_text("# Page\n\n<!-- results:table3 -->\n<!-- /results:table3 -->\n")
    result = CliRunner().invoke(
        reproduce, [*words, "--json", "--markdown", str(page)], catch_exceptions=False
    )
    return out, kept, built, json.loads(result.stdout), page.read_text()


def test_a_run_that_was_killed_goes_on_from_its_finished_cells(done):
    out, kept, built, found, _ = done
    assert len(kept) >= 2
    assert not {f"{name}.json" for name in BY_COMMAND} & kept.keys()
    for name, written in kept.items():
        assert (out / CELLS / name).stat().st_mtime_ns == written, name
    assert (out / LOG / "manifest.json").stat().st_mtime_ns == built
    assert not schedule.missing(out, cells(TABLES["table3"], (0,)))
    assert plan(out, "table3", read_setting(out), 2).missing == []
    assert all(row["cells"] for row in found["rows"] if row["kind"] != "waits")


def test_every_row_is_judged_on_the_same_pages(done):
    out, _, _, found, _ = done
    pages = bank_data.judged(bank_data.load(out), read_setting(out))
    for row in found["rows"]:
        for name in row["cells"]:
            predicted = np.load(predictions_path(out, name))
            assert predicted.shape == pages.known.shape, name
            assert np.isfinite(predicted).all(), name
            assert (predicted >= 0).all(), name
            assert (predicted <= 1).all(), name
    assert found["judged"]["pages"] == len(pages.pages)
    assert pages.known.all()  # days that only complete labels
    reach = list(found["reach_days"].values())
    assert reach == sorted(reach)
    assert 0 <= reach[0] < reach[-1] < 60  # a longer window reaches further, within the tiny bank


def test_rows_that_wait_for_the_foundation_model_say_so_and_no_result_is_told_twice(done):
    found, page = done[3], done[4]
    by_name = {row["row"]: row for row in found["rows"]}
    assert by_name["forest_fm"]["cells"] == []
    assert f"| RF + feature set + FM | 0 | {WAITS} |" in page
    for name in ("without_fm", "window_120"):
        row = by_name[name]
        assert row["cells"] == by_name["fintrec"]["cells"]
        assert "log_loss" not in row
        assert f"| {row['label']} ({row['note']}) | 1 | as FinTRec | |" in page.replace(
            "|  |", "| |"
        )


def test_a_row_of_the_table_has_the_log_loss_of_its_predictions(done):
    out, _, _, found, page = done
    data = bank_data.load(out)
    pages = bank_data.judged(data, read_setting(out))
    row = next(row for row in found["rows"] if row["row"] == "forest")
    predicted = np.load(predictions_path(out, "forest-0"))
    expected = log_loss(predicted[pages.known], pages.converted[pages.known])
    assert row["log_loss"]["all"]["value"] == pytest.approx(expected)
    assert row["log_loss"]["all"]["low"] < expected < row["log_loss"]["all"]["high"]
    stored = json.loads((out / CELLS / "forest-0.json").read_bytes())["result"]["metrics"]
    assert stored["forest-0"]["log_loss_all"] == pytest.approx(expected, abs=1e-6)
    assert f"{expected:.5f}" in page
    model = next(row for row in found["rows"] if row["row"] == "fintrec")
    below = 1 - expected / model["log_loss"]["all"]["value"]
    assert row["below_model"]["value"] == pytest.approx(below)
    assert "below_model" not in model
    start, end = (
        next(row for row in found["rows"] if row["row"] == name)["log_loss"]["all"]["value"]
        for name in ("base_rates", "foresight")
    )
    assert row["way"]["value"] == pytest.approx((start - expected) / (start - end))
    assert (out / "table3.png").stat().st_size > 10_000


def test_the_floor_is_the_truth_of_the_pages_that_models_are_judged_on(done):
    out = done[0]
    data = bank_data.load(out)
    pages = bank_data.judged(data, read_setting(out))
    best = floor.predictions(out / LOG, data, pages)
    for name, found in best.items():
        stored = np.load(predictions_path(out, name))
        assert np.array_equal(stored, found.astype(np.float32)), name
    some = pages.known
    base = np.load(predictions_path(out, "base_rates"))
    assert log_loss(best["hindsight"][some], pages.converted[some]) < log_loss(
        base[some], pages.converted[some]
    )
    page, slot = np.nonzero(pages.shown >= 0)
    assert (best["clicks_floor"][page, pages.shown[page, slot]] > 0).all()


def test_a_calibrated_row_is_the_plain_one_through_maps_of_validation(done):
    out, _, _, found, _ = done
    row = next(row for row in found["rows"] if row["row"] == "fintrec_calibrated")
    assert row["cells"] == ["fintrec_calibrated-0"]
    plain, mapped = (
        np.load(predictions_path(out, name)) for name in ("fintrec-0", "fintrec_calibrated-0")
    )
    assert not np.array_equal(plain, mapped)
    for item in range(0, plain.shape[1], 40):  # a map of one item keeps the order of its pages
        order = np.argsort(plain[:, item], kind="stable")
        assert (np.diff(mapped[order, item]) >= -1e-6).all()


def test_a_joint_cell_predicts_both_and_a_length_trains_on_its_own_pages(done, tmp_path):
    """Conversions are learned from as many pages as alone, clicks from all, as alone."""
    out = tmp_path / "out"
    (out / CELLS).mkdir(parents=True)
    for path in done[0].iterdir():
        if path.name != CELLS:
            (out / path.name).symlink_to(path)
    rows, setting = TABLES["ablations"], read_setting(out)
    found = run_cell(out, "ablations", cell_named(rows, "shared_trunk-0", setting.seeds))["result"]
    assert found["train_pages"] == setting.train_pages < len(bank_data.load(out).train)
    alone = read_cells(done[0] / CELLS)
    assert found["training"]["joint"]["steps"] == sum(
        alone[name]["result"]["training"][task]["steps"]
        for name, task in (("clicks_fintrec-0", "pctr"), ("fintrec-0", "pcvr"))
    )
    assert sorted(found["metrics"]) == [
        "clicks_shared_trunk-0",
        "shared_trunk-0",
        "shared_trunk_calibrated-0",
    ]
    summary = table.summary(out, "ablations")
    by_name = {row["row"]: row for row in summary["rows"]}
    for name, scope in (("shared_trunk", "all"), ("clicks_shared_trunk", "shown")):
        assert by_name[name]["cells"] == [f"{name}-0"]
        stored = found["metrics"][f"{name}-0"][f"log_loss_{scope}"]
        assert by_name[name]["log_loss"][scope]["value"] == pytest.approx(stored, abs=1e-6)
    assert "| both models in one training | 0 | not run |" in table_text.markdown(
        summary, "command"
    )
    plots.draw(summary, out / "plot.png")
    length = Cell(replace(TABLES["lengths"][0], changes={"train_pages": 30}), 0)
    assert run_cell(out, "lengths", length)["result"]["train_pages"] == 30
    assert estimated_seconds(length, setting) < estimated_seconds(
        Cell(TABLES["lengths"][2], 0), setting
    )


@pytest.mark.parametrize("changes_last", [True, False])
def test_a_trials_settings_stand_before_or_behind_its_options(
    changes_last, tmp_path, monkeypatch
) -> None:
    asked = []
    monkeypatch.setattr(trials, "run", lambda *words: asked.append(words) or {"kind": "model"})
    options, changes = ["--pages", "16", "--seed", "3"], ["dropout=0.2", "epochs=2"]
    words = [*options, *changes] if changes_last else [*changes, *options]
    path = tmp_path / "trials.jsonl"
    monkeypatch.setattr(sys, "argv", ["trials", "out", str(path), "model", *words])
    trials.main()
    assert asked == [(Path("out"), "model", {"dropout": "0.2", "epochs": "2"}, 3, 16)]
    assert trials.read(path) == [{"kind": "model"}]


def test_a_trial_is_judged_on_validation_pages_that_calibrate_nothing(done, tmp_path):
    out = done[0]
    setting = replace(read_setting(out), held_out_pages=20)
    data = bank_data.load(out)
    pages = bank_data.tried(data, setting, 30)
    assert not np.intersect1d(pages.pages, bank_data.held_out(data, setting)).size
    assert np.array_equal(pages.time_ms, data.validation.time_ms[pages.pages])
    path = tmp_path / "trials.jsonl"
    hidden = replace(data, test=data.test.taken(np.zeros(0, np.int64)))  # no test page is read
    tried = (("rates", {}), ("model", {}), ("model", {"d_head": "8"}), ("clicks", {"epochs": "2"}))
    for kind, changes in tried:
        trial = trials.run(out, kind, changes, 1, None, setting, 30, hidden)
        trials.append(path, trial)
    found = trials.read(path)
    assert [trial["kind"] for trial in found] == [kind for kind, _ in tried]
    assert found[2]["settings"]["model"]["d_head"] == 8
    assert found[3]["training"]["pctr"]["epochs"] == 2
    text = trials.markdown(found)
    assert f"| FinTRec | d_head 8 | 1 | 100 | {found[2]['cpu_seconds']:.0f} |" in text
    assert f"{found[1]['metrics']['calibrated']['log_loss_all']:.5f} |" in text
    assert f"{found[0]['metrics']['own']['log_loss_all']:.5f}" in text


def test_labels_of_another_bank_have_no_floor(done):
    out = done[0]
    data = bank_data.load(out)
    pages = bank_data.judged(data, read_setting(out))
    pages.converted[0] ^= True
    with pytest.raises(ValueError, match="labels of .* differ between the bank's log and the data"):
        floor.predictions(out / LOG, data, pages)


def test_a_folder_goes_on_only_with_the_setting_it_was_begun_with(done):
    with pytest.raises(ConfigurationError, match="boosting is .*: another experiment was begun"):
        claim(done[0], table3())


def test_a_cell_that_fails_names_its_log_and_leaves_no_process(done, tmp_path):
    out = tmp_path / "broken"
    claim(out, tiny())
    cell = cell_named(TABLES["table3"], "base_rates", (0,))
    with pytest.raises(schedule.CellFailed, match=r"base_rates: .* see .*base_rates\.log"):
        schedule.run(out, "table3", [cell], lambda _: 1.0, 1, lambda _: None)
    assert "DatasetError" in schedule.log_path(out, cell).read_text()
    assert not cell_path(out, cell).exists()


def test_seeds_come_one_after_another_so_a_cut_still_compares_rows():
    every = cells(TABLES["table3"], (0, 1, 2))
    names = [cell.name for cell in every]
    assert len(set(names)) == len(names)
    assert names.index("window_50-0") < names.index("forest-1")
    assert names.count("foresight") == 1
    assert "hindsight" not in names
    assert "without_fm-0" not in names


def test_the_stated_recipe_takes_at_most_90_minutes_on_two_cores():
    setting = table3()
    every = cells(TABLES["table3"], setting.seeds)
    seconds = sum(estimated_seconds(cell, setting) for cell in every) / 2
    assert Plan(every, every, seconds).seconds < 90 * 60


def test_a_setting_read_back_is_the_one_that_was_written(tmp_path):
    claim(tmp_path / "here", table3())
    assert read_setting(tmp_path / "here") == table3()


def test_the_auroc_of_resampled_examples_is_that_of_the_repeated_ones():
    rng = np.random.default_rng(0)
    score, label = rng.integers(0, 9, 200) / 10, rng.random(200) < 0.3
    weight = rng.integers(0, 4, 200).astype(float)
    order = np.argsort(score, kind="stable")
    first = np.flatnonzero(np.diff(score[order], prepend=-1.0) > 0)
    fast = judge._weighted_auroc(weight[order], label[order], first)
    slow = auroc(np.repeat(score, weight.astype(int)), np.repeat(label, weight.astype(int)))
    assert fast == pytest.approx(slow)


def scope_of(rng, num_pages=300, num_items=4):
    page, item = (x.ravel() for x in np.indices((num_pages, num_items)))
    chance = rng.random((num_pages, num_items)) * 0.2
    label = rng.random(chance.shape) < chance
    return chance, judge.Scope(page, item, label.ravel(), page // 5)


def test_the_calibration_error_of_the_truth_is_near_zero_and_has_the_metric_s_value():
    chance, scope = scope_of(np.random.default_rng(1))
    found = judge.ece_interval(chance, scope)
    expected = calibration_error(chance.ravel(), scope.label, 15)
    assert found["value"] == pytest.approx(expected)
    assert judge.ece_interval(np.sqrt(chance), scope)["value"] > 3 * found["value"]


def test_a_model_compared_with_itself_is_no_better_and_one_that_knows_more_is():
    chance, scope = scope_of(np.random.default_rng(2))
    truth = [judge.loss_sums(chance, scope)]
    flat = [judge.loss_sums(np.full_like(chance, scope.label.mean()), scope)]
    same = judge.loss_change(truth, truth)
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)
    better = judge.loss_change(truth, flat)
    assert 0 < better["low"] < better["value"] < better["high"]
    assert (
        judge.loss_interval(truth * 2)["seeds"] == [pytest.approx(truth[0][:, 0].sum() / 1200)] * 2
    )


def test_a_row_is_better_or_worse_only_where_users_and_seeds_both_say_so():
    chance, scope = scope_of(np.random.default_rng(3))
    good, bad = (judge.loss_sums(one, scope) for one in (chance, np.sqrt(chance)))
    assert judge.verdict([good], [bad]) == "better"
    assert judge.verdict([bad], [good]) == "worse"
    assert judge.verdict([good], [good]) == "level"
    assert judge.verdict([bad, good], [good]) == "level"  # the seeds' ranges touch


def test_an_unknown_cell_is_refused():
    with pytest.raises(ValueError, match="no cell is called 'window_7-0'"):
        cell_named(TABLES["table3"], "window_7-0", (0,))


def test_a_row_is_predicted_by_its_own_cells_or_by_those_of_another_row():
    rows = TABLES["table3"]

    def found(name):
        return predictions(next(row for row in rows if row.name == name), rows, (0, 2))

    assert found("forest") == {"forest-0": "forest-0", "forest-2": "forest-2"}
    assert found("window_120") == {"fintrec-0": "fintrec-0", "fintrec-2": "fintrec-2"}
    assert found("fintrec_calibrated") == {
        "fintrec-0": "fintrec_calibrated-0",
        "fintrec-2": "fintrec_calibrated-2",
    }
    assert found("hindsight") == {"foresight": "hindsight"}
    assert found("forest_fm") == {}
