"""Real data through the pipeline: what the sources are known to hold comes out of our builder."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner

from features.spec import DAY_MS
from features.vocabulary import code
from fintrec import logs
from fintrec.commands.dataset import dataset
from fintrec.dataset.spill import read_log
from fintrec.dataset.timeline import timeline_of
from fintrec.datasets import DatasetConfig, build_training_set, converted, label_known
from tests.fintrec.real_data import folder_of

PERIODS = ("train", "validation", "test")
EVER_MS = 1 << 60


def verb(*arguments):
    done = CliRunner().invoke(dataset, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.stdout


class Imported:
    """A source as the log that the verb makes of it, with everything that the tests ask of it."""

    def __init__(self, name, log_dir):
        told = verb("import", name, folder_of(name), "--out", log_dir, "--json")
        self.counts = json.loads(told)
        self.log_dir = log_dir
        self.catalogue = logs.read_items(log_dir)
        ids, end_ms = (
            [item.item_id for item in self.catalogue],
            logs.read_manifest(log_dir)["end_ms"],
        )
        self.timeline = timeline_of(read_log(log_dir)[0], ids, end_ms)
        days = [item.attribution_window_days for item in self.catalogue]
        self.window_ms = np.array(days, np.int64) * DAY_MS
        self.category = np.array([item.category for item in self.catalogue])

    def num(self, action):
        return int((self.timeline.rows["action"] == code("action", action)).sum())


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    return Imported("complete_journey", tmp_path_factory.mktemp("journey") / "log")


@pytest.fixture(scope="module")
def loans(tmp_path_factory):
    return Imported("bpic2012", tmp_path_factory.mktemp("loans") / "log")


def exposures_and_conversions(imported):
    """Every exposure's item and whether it converted in its window, over the whole log."""
    pages, _ = imported.timeline.pages(slots=5)
    page, item, _ = imported.timeline.conversions_after(
        pages.user, pages.time_ms, imported.window_ms, EVER_MS
    )
    reached = np.zeros((len(pages.user), len(imported.catalogue)), bool)
    reached[page, item] = True
    at, slot = np.nonzero(pages.shown >= 0)
    shown = pages.shown[at, slot]
    return shown, reached[at, shown]


def test_complete_journey_converts_792_of_6589_exposures_by_campaign_type(journey):
    shown, reached = exposures_and_conversions(journey)
    assert (len(shown), int(reached.sum())) == (6589, 792)
    kinds = journey.category[shown]
    found = {k: (int(reached[kinds == k].sum()), int((kinds == k).sum())) for k in np.unique(kinds)}
    assert found == {"type_a": (604, 3647), "type_b": (154, 2368), "type_c": (34, 574)}


def test_all_2102_redemptions_follow_an_exposure_within_their_campaign(journey):
    rows, owner = journey.timeline.rows, journey.timeline.owner
    item, is_shown = journey.timeline.item_row, rows["action"] == code("action", "impression")
    shown = dict(
        zip(
            zip(owner[is_shown].tolist(), item[is_shown].tolist(), strict=True),
            rows["time_ms"][is_shown].tolist(),
            strict=True,
        )
    )
    redeemed = np.flatnonzero(rows["action"] == code("action", "conversion"))
    assert len(redeemed) == 2102
    for at in redeemed.tolist():
        gap_ms = rows["time_ms"][at] - shown[owner[at], item[at]]
        assert 0 < gap_ms <= journey.window_ms[item[at]]


def test_baskets_and_their_lines_can_be_counted_in_the_log(journey):
    ids = logs.read_table(journey.log_dir, logs.TRANSACTIONS)["event_id"].to_pylist()
    assert len(ids) == journey.num("purchase")
    _, baskets, _, lines = zip(*(event_id.split("-") for event_id in ids), strict=True)
    assert len(set(baskets)) == 155_848
    assert sum(map(int, lines)) == 1_469_307


def test_complete_journeys_training_set_holds_every_exposure_and_only_complete_labels(journey):
    config = DatasetConfig(validation_days=60, test_days=30)
    ts = build_training_set(journey.log_dir, config)
    assert ts.exclusions["censored_labels"] > 0
    num_shown = num_reached = 0
    for decisions in (getattr(ts, period) for period in PERIODS):
        at, slot = np.nonzero(decisions.shown >= 0)
        items = decisions.shown[at, slot]
        known = label_known(ts, decisions)[at, items]
        labels = converted(ts, decisions, np.arange(len(decisions)))[at, items]
        assert not labels[~known].any()
        num_shown, num_reached = num_shown + len(items), num_reached + int(labels.sum())
    assert num_shown == 6589
    # The rest belongs to windows that reach into validation or beyond the year: censored.
    assert 500 < num_reached < 792


def test_bpic2012_sends_7030_offers_of_which_3454_come_back_and_2243_are_accepted(loans):
    counts = tuple(loans.num(action) for action in ("impression", "click", "conversion"))
    assert counts == (7030, 3454, 2243)


def test_45_percent_of_the_5961_offers_with_a_full_follow_up_are_accepted(loans):
    pages, excluded = loans.timeline.pages(slots=5)
    # Two offers of the last half hour are no decisions: their page's clicks may still come.
    assert (len(pages.user), excluded["censored_click_windows"]) == (7028, 2)
    end_ms = loans.timeline.end_ms
    page, _, _ = loans.timeline.conversions_after(
        pages.user, pages.time_ms, loans.window_ms, end_ms
    )
    followed = pages.time_ms + 30 * DAY_MS <= end_ms
    assert (int(followed.sum()), int(followed[page].sum())) == (5961, len(page))
    assert len(page) == 2665
    assert len(page) / 5961 == pytest.approx(0.45, abs=0.005)


def test_every_event_of_bpic2012_is_in_the_timeline(loans):
    assert len(loans.timeline.rows) == 262_200 == loans.counts["events"]
    assert loans.counts["left_out_events"] == 0
    assert len(loans.timeline.users) == 13_087
    assert loans.num("call") == loans.counts["calls"]


def test_approved_applications_own_a_loan_the_night_after(loans):
    rows = logs.read_table(loans.log_dir, logs.USER_STATIC_TABLE).to_pylist()
    assert len(rows) == 2246
    table = logs.read_table(loans.log_dir, logs.CLICKSTREAM)
    enrolled = pa.array(["A_APPROVED", "A_REGISTERED", "A_ACTIVATED"])
    table = table.filter(pc.is_in(table["page"].cast(pa.string()), enrolled))
    first = {}
    for event in table.select(["user_id", "event_time_ms"]).to_pylist():
        time_ms = event["event_time_ms"]
        first[event["user_id"]] = min(time_ms, first.get(event["user_id"], time_ms))
    for row in rows:
        cutoff_ms = row["event_timestamp"].timestamp() * 1000
        assert row["enrollments"] == ["personal_loan"]
        assert row["event_timestamp"].hour == 4
        assert 0 <= cutoff_ms - first[row["user_id"]] <= DAY_MS


def reported(imported, tmp_path, config):
    """The report of a source that went through the three verbs."""
    (tmp_path / "config.toml").write_text(config)
    dataset_dir = tmp_path / "set"
    given = ("--split", "paper", "--config", tmp_path / "config.toml")
    verb("build", imported.log_dir, "--out", dataset_dir, *given)
    return json.loads(verb("report", dataset_dir, "--json"))


def totals(report, key):
    found = {}
    for item in report["items"].values():
        counts = {name: value for name, value in item.items() if isinstance(value, int)}
        found[item[key]] = found.get(item[key], Counter()) + Counter(counts)
    return found


def test_the_verbs_report_complete_journey_as_its_source_has_it(journey, tmp_path):
    config = "validation_days = 60\ntest_days = 30\nlabel_only_days = 60\n"
    found = reported(journey, tmp_path, config)
    (whole,) = totals(found, "content_type").values()
    assert (whole["exposures"], whole["exposures_converted"]) == (6589, 792)
    assert whole["conversions"] == whole["conversions_with_exposure"] == 2102
    by_type = {
        kind: (n["exposures_converted"], n["exposures"])
        for kind, n in totals(found, "category").items()
    }
    assert by_type == {"type_a": (604, 3647), "type_b": (154, 2368), "type_c": (34, 574)}
    assert found["log_rows"][logs.TRANSACTIONS] == 226_174
    # Every exposure is a decision of a period, or left out with its reason.
    decisions = sum(period["decisions"] for period in found["periods"].values())
    left_out = (found["exclusions"][r] for r in ("before_train_days", "in_label_only_days"))
    assert decisions + sum(left_out) == 6589


def test_the_verbs_report_bpic2012_as_its_source_has_it(loans, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "bring_your_data.md").read_text()
    config = page.split("This is `loans.toml`:\n\n```toml\n")[1].split("```")[0]
    found = reported(loans, tmp_path, config)
    (whole,) = totals(found, "category").values()
    assert (whole["exposures"], whole["clicks"], whole["conversions"]) == (7030, 3454, 2243)
    assert whole["exposures_converted"] == 3095
    assert whole["conversions_with_click"] + whole["conversions_with_neither"] == 2243
    for name in ("validation", "test"):  # the follow-up of their offers is complete
        period = found["periods"][name]
        assert period["pcvr"]["labels"] == 4 * period["decisions"]
        assert 0.35 < period["pcvr"]["positives"] / period["decisions"] < 0.55
        assert period["pctr"]["positives"] > 0  # enough for `fintrec train`
    labels = [found["periods"][name]["pcvr"]["labels"] for name in ("validation", "test")]
    assert labels == [2856, 2976]


def test_bpic2012_without_days_for_labels_only_has_no_complete_label_to_validate_on(
    loans, tmp_path
):
    periods = reported(loans, tmp_path, "")["periods"]
    assert [periods[name]["pcvr"]["labels"] for name in ("validation", "test")] == [0, 0]
    assert periods["train"]["pcvr"]["labels"] > 10_000
    validation = periods["validation"]
    assert (validation["decisions"], validation["pctr"]["positives"]) == (125, 0)
