"""Offers: what a model may read of one, planted leaks that are found, and the encoder itself."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fintrec.logs import LogError
from fintrec.public import events
from fintrec.public.event_log import EventLog, read_event_log
from fintrec.public.kind_models import KindSettings
from fintrec.public.leaks import LeakFound, LeakSuspected, check_past, refuse, suspect_below
from fintrec.public.offer_encoder import OfferEncoder, OfferSettings
from fintrec.public.offer_folds import folds, table, with_changes
from fintrec.public.offer_training import (
    encoder_quality,
    judged,
    pretrained,
    probabilities,
    windows_of,
)
from fintrec.public.offers import (
    BOTH,
    FOLLOW_UP_MS,
    baseline_probabilities,
    baselines,
    figures,
    find_offers,
    mean_of_log_odds,
    offer_baselines,
    split,
    variants,
)
from fintrec.public.side_features import fit_side_features
from fintrec.public.suite import silent
from tests.fintrec.offer_logs import offer_log
from tests.fintrec.real_data import folder_of

SMALL = OfferSettings(
    kinds=KindSettings(d_model=8, num_layers=1, num_heads=2, d_feed_forward=8, epochs=1),
    d_head=4,
    epochs=2,
    members=2,
)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> EventLog:
    return read_event_log(offer_log(tmp_path_factory.mktemp("offers") / "log.parquet"))


@pytest.fixture(scope="module")
def quality(log: EventLog) -> dict[str, Any]:
    return encoder_quality(log, 0, None, silent, SMALL)


def test_purging_leaves_out_what_was_not_known_at_the_split(log: EventLog) -> None:
    found = variants(find_offers(log))
    (train, test), (known, asked) = found["published"], found["purged"]
    split_ms = test.sent_ms_O.min()
    assert np.array_equal(asked.row_O, test.row_O)
    assert (known.sent_ms_O + FOLLOW_UP_MS <= split_ms).all()
    late = ~np.isin(train.row_O, known.row_O)
    assert late.sum() in (29, 30)  # an offer a day, some minutes apart, open for 30 days
    assert (train.sent_ms_O[late] + FOLLOW_UP_MS > split_ms).all()


def test_a_window_ends_with_its_offer_and_holds_its_case_alone(log: EventLog) -> None:
    train, test = split(find_offers(log))
    windows, _ = windows_of(log, train, test, SMALL)
    batch = windows.batch(np.arange(len(train))).window
    sent = log.kinds.index("O_SENT|COMPLETE")
    length_B = (batch.time_BT > 0).sum(1)
    last = torch.arange(len(train)), length_B - 1
    assert (batch.kind_BT[last] == sent).all()
    assert batch.time_BT[last].tolist() == train.sent_ms_O.tolist()
    assert (batch.place_BT[:, 0] == 0).all()
    assert length_B.tolist() == (train.row_O - train.first_O + 1).tolist()


def test_every_offer_is_in_one_batch_of_an_epoch(log: EventLog) -> None:
    train, test = split(find_offers(log))
    windows, _ = windows_of(log, train, test, SMALL)
    plan = windows.plan(8, np.random.default_rng(0))
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(train)))
    assert max(map(len, plan)) <= 8


def test_a_row_after_the_offer_is_found_before_a_model_reads_it(log: EventLog) -> None:
    train, test = split(find_offers(log))
    windows, _ = windows_of(log, train, test, SMALL)
    # The row behind an accepted offer is its O_ACCEPTED.
    looking_ahead = replace(train, row_O=train.row_O + train.is_accepted_O)
    message = r"O_ACCEPTED\|COMPLETE.* is later than its instant"
    with pytest.raises(LeakFound, match=message):
        baseline_probabilities(log, looking_ahead, test, ("forest",))
    with pytest.raises(LeakFound, match=message):
        replace(windows, offers=looking_ahead).batch(np.arange(len(train)))


def test_a_row_of_another_case_is_found(log: EventLog) -> None:
    train, test = split(find_offers(log))
    windows, _ = windows_of(log, train, test, SMALL)
    reaching_back = replace(train, first_O=np.maximum(train.first_O - 3, 0))
    with pytest.raises(LeakFound, match="is of another case"):
        replace(windows, offers=reaching_back).batch(np.arange(len(train)))


def test_pretraining_on_what_reaches_the_split_is_found(log: EventLog) -> None:
    newest = int(log.time_ms_N.max())
    with pytest.raises(LeakFound, match="is to be learned from"):
        check_past(log, newest)
    check_past(log, newest + 1)


def test_pretraining_does_not_depend_on_what_comes_after_the_split(log: EventLog) -> None:
    split_ms = int(split(find_offers(log))[1].sent_ms_O.min())
    after = log.time_ms_N >= split_ms
    changed = replace(log, kind_N=np.where(after, 0, log.kind_N))
    one, other = (pretrained(each, split_ms, SMALL, 0) for each in (log, changed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_comes_after_an_offer_does_not_change_its_probability(log: EventLog) -> None:
    train, test = split(find_offers(log))
    rows = np.arange(len(log.kind_N))
    offers = find_offers(log)
    of_case = np.full(log.num_cases, len(rows))
    of_case[offers.case_O] = offers.row_O
    later = rows > of_case[log.case_N]
    changed = replace(log, kind_N=np.where(later, 0, log.kind_N))
    assert later.any()
    torch.manual_seed(0)
    windows = [windows_of(each, train, test, SMALL)[1] for each in (log, changed)]
    encoder = OfferEncoder(len(log.kinds) + 1, windows[0].side_OX.shape[1], 0.5, SMALL)
    torch.nn.init.normal_(encoder.deep_out.weight)
    found = [probabilities(encoder, each) for each in windows]
    assert np.array_equal(*found)
    assert len(set(found[0].round(6))) > 1


def test_a_log_that_tells_the_outcome_is_suspect(tmp_path: Path) -> None:
    told = read_event_log(offer_log(tmp_path / "log.parquet", tell=True))
    found = offer_baselines(told)
    quality = encoder_quality(told, 0, None, silent, replace(SMALL, epochs=30, learning_rate=0.02))
    found["encoder"] = {"0": quality}
    suspects = events.suspects("log.parquet", found)
    assert any("published" in text and "forest" in text for text in suspects)
    assert any("purged" in text and "encoder, seed 0" in text for text in suspects)
    assert any("purged" in text and f"{BOTH}, seed 0" in text for text in suspects)
    assert not any("constant" in text for text in suspects)
    with pytest.raises(LeakSuspected, match="log loss .* is suspect, expected"):
        refuse(suspects)


def test_an_honest_log_is_not_suspect(log: EventLog, quality: dict[str, Any]) -> None:
    found = {**offer_baselines(log), "encoder": {"0": quality}}
    assert events.suspects("log.parquet", found) == []
    refuse([])
    assert suspect_below(0.685) == pytest.approx(0.55)


def test_the_same_seed_gives_the_same_encoder(log: EventLog, quality: dict[str, Any]) -> None:
    again, other = (encoder_quality(log, seed, None, silent, SMALL) for seed in (0, 1))
    for variant in ("published", "purged"):
        for part in ("test", "with_forest"):
            assert quality[variant][part] == again[variant][part]
    first, another = (one["published"]["members"][0]["log_loss"] for one in (quality, other))
    assert first != another


def test_encoder_and_forest_together_are_the_mean_of_their_log_odds(log: EventLog) -> None:
    _, test = split(find_offers(log))
    rng = np.random.default_rng(0)
    encoder_O, forest_O = rng.random((2, len(test)))
    encoder_O[0], forest_O[1] = 1.0, 0.0  # a forest may be sure
    found = mean_of_log_odds(encoder_O, forest_O)
    for one, other, both in zip(encoder_O[2:], forest_O[2:], found[2:], strict=True):
        odds = math.sqrt(one / (1 - one) * (other / (1 - other)))
        assert both == pytest.approx(odds / (1 + odds))
    assert 0 < found[1] < found[0] < 1

    total = 0.0
    for both, is_accepted in zip(found, test.is_accepted_O, strict=True):
        total -= math.log(both if is_accepted else 1 - both)
    ours = judged(encoder_O, forest_O, test)
    assert ours["with_forest"]["log_loss"] == pytest.approx(total / len(test), abs=1e-4)


def test_the_distance_to_the_forest_is_that_of_the_same_offers_by_case(log: EventLog) -> None:
    train, test = split(find_offers(log))
    alone = baseline_probabilities(log, train, test, ("forest",))
    both = baseline_probabilities(log, train, test, ("logistic", "forest"))
    assert list(alone) == ["forest"]
    assert np.array_equal(alone["forest"], both["forest"])
    found = {name: figures(one_O, test, alone["forest"]) for name, one_O in both.items()}
    assert found["forest"]["minus_forest"]["value"] == 0.0
    by_case = found["logistic"]["minus_forest"]
    assert by_case["value"] == pytest.approx(
        found["logistic"]["log_loss"] - found["forest"]["log_loss"], abs=2e-4
    )
    assert by_case["users"] == len(np.unique(test.case_O))


def test_test_offers_of_one_case_are_refused(log: EventLog) -> None:
    offers = find_offers(log)
    with pytest.raises(LogError, match="all 18 test offers are of one case, expected 2"):
        split(replace(offers, case_O=np.zeros_like(offers.case_O)))


def test_side_features_fill_bins_up_to_the_value() -> None:
    context = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 2.0], [4.0, 4.0]])
    side = replace(
        fit_side_features(np.column_stack((context, np.zeros((4, 2)))), 1),
        binned=(1,),
        edges=(np.array([0.0, 1.0, 3.0]),),
        mean_X=np.zeros(6),
        spread_X=np.ones(6),
    )
    found = side.of(np.array([[1.0, 2.0, 0.0, 0.0], [1.0, 9.0, 0.0, 0.0]]))
    assert found[:, 4:].tolist() == [[1.0, 0.5], [1.0, 1.0]]
    assert found[1, 1] == 5.0  # cut


def test_too_few_outcomes_of_one_kind_are_named(log: EventLog) -> None:
    offers = find_offers(log)
    with pytest.raises(LogError, match="0 of 72 training offers are accepted"):
        split(replace(offers, is_accepted_O=np.zeros(len(offers), np.bool_)))


def test_folds_judge_what_comes_after_what_they_learn_from(log: EventLog) -> None:
    train, test = split(find_offers(log))
    for known, asked in folds(train):
        assert known.sent_ms_O.max() < asked.sent_ms_O.min()
        assert asked.sent_ms_O.max() < test.sent_ms_O.min()
    changed = with_changes(OfferSettings(), ["members=7", "kinds.d_model=8"])
    assert (changed.members, changed.kinds.d_model) == (7, 8)


def test_the_table_of_trials_has_a_row_for_each(tmp_path: Path) -> None:
    trials = tmp_path / "trials.jsonl"
    trials.write_text(
        '{"note": "on folds"}\n{"name": "wide", "mean": {"encoder": 0.66, "forest": 0.67}}\n'
        '{"name": "both", "mean": {"encoder": 0.66, "encoder and forest": 0.65}}\n'
        '{"name": "ended by hand"}\n'
    )
    text = table(trials)
    assert "| wide | 0.6600 | - | 0.6700 | - | - | - |" in text
    assert "| both | 0.6600 | 0.6500 | - | - | - | - |" in text
    assert "| ended by hand | - |" in text
    assert text.endswith("on folds")


def test_real_offers_constant_and_forest_are_near_the_published_figures() -> None:
    real = read_event_log(folder_of("bpic2012") / "bpic2012.parquet")
    offers = find_offers(real)
    assert len(offers) == 5961
    assert float(offers.is_accepted_O.mean()) == pytest.approx(0.447, abs=1e-3)
    found = baselines(real, *split(offers))
    assert found["constant"]["log_loss"] == 0.6850
    assert found["forest"]["log_loss"] == pytest.approx(0.6507, abs=0.004)
    assert found["logistic"]["log_loss"] < found["constant"]["log_loss"]
