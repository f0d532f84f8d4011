"""Batches encoded by other processes: the same training, and errors that are seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fintrec.learning.compute import CPU, Compute
from fintrec.learning.loader import loaded
from fintrec.training import train_models
from tests.fintrec.tiny import training_set
from tests.fintrec.two_processes import losses, recipe

AHEAD = Compute(loader_workers=2)


def test_a_training_does_not_depend_on_its_loader_workers() -> None:
    (told, weights), (told_ahead, weights_ahead) = (losses(c, shared=True) for c in (CPU, AHEAD))
    assert told == told_ahead
    assert all(torch.equal(weights[name], weights_ahead[name]) for name in weights)


def test_dropout_draws_the_same_with_workers() -> None:
    data, chosen = training_set(6), recipe(dropout=0.2)
    found = [train_models(data, chosen, ("pcvr",), compute=c).pcvr for c in (CPU, AHEAD)]
    states = [model.state_dict() for model in found]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_an_error_in_a_worker_names_its_kind_and_place() -> None:
    data = training_set(6)
    lost = replace(data, train=replace(data.train, request=data.train.request[:3]))
    with pytest.raises(IndexError, match=r"(?s)conversion_batch.*out of bounds"):
        train_models(lost, recipe(), ("pcvr",), compute=AHEAD)


def test_order_is_the_plans_and_an_empty_plan_has_no_batch() -> None:
    plan = list(range(23))
    batches = loaded(lambda n: torch.full((2,), n), plan, 2, pinned=False)
    assert [int(batch[0]) for batch in batches] == plan
    assert list(loaded(np.array, [], 2, pinned=False)) == []
