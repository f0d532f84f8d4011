"""Log shares of exposure by place."""

from dataclasses import replace

import numpy as np
import torch

from fintrec.exposure import PLACE_COLUMNS, PRIOR_WEIGHT, exposure_prior, no_prior
from tests.fintrec.tiny import training_set


def test_shares_of_a_place_are_its_impressions_shrunk_towards_all_places() -> None:
    data = training_set()
    prior = exposure_prior(data)
    shown, places = data.train.shown, data.train.request[:, PLACE_COLUMNS]
    overall = np.array([1.0 + (shown == item).sum() for item in range(len(data.items))])
    overall /= overall.sum()
    for place in {tuple(row) for row in places.tolist()}:
        own = shown[(places == place).all(axis=1)]
        counts = np.array([(own == item).sum() for item in range(len(data.items))])
        expected = (counts + PRIOR_WEIGHT * overall) / (counts.sum() + PRIOR_WEIGHT)
        request = data.train.request[(places == place).all(axis=1)][:1]
        np.testing.assert_allclose(prior.rows(torch.from_numpy(request))[0].exp().numpy(), expected)


def test_a_place_that_was_never_seen_has_the_shares_of_all_places() -> None:
    data = training_set()
    elsewhere = data.train.request[:1].copy()
    elsewhere[:, PLACE_COLUMNS] = 99
    shares = exposure_prior(data).rows(torch.from_numpy(elsewhere))[0].exp().numpy()
    np.testing.assert_allclose(shares.sum(), 1.0)
    np.testing.assert_allclose(shares, exposure_prior(data).log_shares_PK[-1].exp().numpy())


def test_only_training_pages_count() -> None:
    data = training_set()
    other = replace(data, validation=replace(data.validation, shown=data.validation.shown * 0))
    before, after = exposure_prior(data), exposure_prior(other)
    assert torch.equal(before.log_shares_PK, after.log_shares_PK)


def test_without_a_prior_the_loss_is_eq_2_as_printed() -> None:
    assert not no_prior(7).rows(torch.ones(3, 8, dtype=torch.int64)).any()
