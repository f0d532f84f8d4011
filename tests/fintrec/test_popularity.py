"""Base rates, counted by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fintrec.popularity import PRIOR_WEIGHT, Popularity, measure
from tests.fintrec.tiny import training_set


def test_rates_equal_their_slow_twin() -> None:
    data = training_set(6)
    found = measure(data)
    shown, clicks, converted = np.zeros(7), np.zeros(7), np.zeros(7)
    for page in range(len(data.train.user)):
        for item, click in zip(data.train.shown[page], data.train.clicked[page], strict=True):
            if item >= 0:
                shown[item] += 1
                clicks[item] += click
        start, stop = data.train.converted_indptr[page : page + 2]
        for item in data.train.converted_items[start:stop]:
            converted[item] += 1
    overall = clicks.sum() / shown.sum()
    prior = (clicks[:4].sum() + PRIOR_WEIGHT * overall) / (shown[:4].sum() + PRIOR_WEIGHT)
    assert found.prior_ctr["marketing"] == pytest.approx(prior, abs=1e-8)
    expected = (clicks[2] + PRIOR_WEIGHT * prior) / (shown[2] + PRIOR_WEIGHT)
    assert found.ctr[2] == pytest.approx(expected, abs=1e-8)
    pages = len(data.train.user)
    overall = converted.sum() / (7 * pages)
    prior = (converted[4:].sum() + PRIOR_WEIGHT * overall) / (3 * pages + PRIOR_WEIGHT)
    expected = (converted[5] + PRIOR_WEIGHT * prior) / (pages + PRIOR_WEIGHT)
    assert found.cvr[5] == pytest.approx(expected, abs=1e-8)


def test_an_unheard_of_content_type_gets_the_overall_prior() -> None:
    data = training_set(6)
    found = measure(data)
    assert found.prior("servicing") == (found.prior_ctr["servicing"], found.prior_cvr["servicing"])
    assert found.prior("third_party") == (found.prior_ctr[""], found.prior_cvr[""])
    assert Popularity.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_an_item_that_was_never_shown_has_its_type_s_rate() -> None:
    data = training_set(6)
    data = replace(
        data,
        items=(*data.items, "new"),
        content_types=(*data.content_types, "marketing"),
        window_ms=np.append(data.window_ms, 1),
    )
    found = measure(data)
    assert found.ctr[-1] == pytest.approx(found.prior_ctr["marketing"], abs=1e-8)
