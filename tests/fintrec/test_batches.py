"""Windows carry every click once; batches are what a worker would have sent."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from features.encoding import encode_histories
from features.history import WINDOW, as_of
from fintrec.batches import (
    PageSample,
    click_batches,
    click_windows,
    conversion_batch,
    conversion_batches,
    converting_pages,
    sample_pages,
)
from fintrec.exposure import exposure_prior
from fintrec.objectives import ClickObjective, ConversionObjective, mean_loss
from tests.fintrec.tiny import history, models, training_set


@pytest.mark.parametrize("stride", [0, 7, 60])
def test_every_clicked_item_is_a_step_of_one_window(stride: int) -> None:
    data = training_set(7)
    windows = click_windows(data, data.train, stride)
    steps = [(page, item) for window in windows for page, item, _ in window.steps]
    expected = [
        (page, int(item))
        for page in range(len(data.train.user))
        for item, click in zip(data.train.shown[page], data.train.clicked[page], strict=True)
        if click
    ]
    assert sorted(steps) == sorted(expected)
    for window in windows:
        log = data.logs[window.user]
        retained = as_of(log, window.end)[-WINDOW:]
        assert window.length == len(retained)
        for page, _, from_end in window.steps:
            end = data.train.end[page]
            assert data.train.user[page] == window.user
            assert from_end <= stride + 1
            if end:
                assert retained[-from_end]["event"] == log[end - 1]["event"]
                assert retained[-from_end]["time_ms"] < data.train.time_ms[page]
            else:
                assert (window.length, from_end) == (0, 1)


def test_a_long_log_is_cut_into_windows_with_context() -> None:
    data = training_set(1)
    rng = np.random.default_rng(0)
    log = history(rng, 119)
    for _ in range(4):
        late = history(rng, 110)
        late["time_ms"] += log["time_ms"][-1] - late["time_ms"][0] + 1
        log = np.concatenate((log, late))
    ends = np.arange(5, len(log), 9)
    count = len(ends)
    page = data.train
    train = replace(
        page,
        user=np.zeros(count, np.int32),
        end=ends.astype(np.int32),
        time_ms=log["time_ms"][ends],
        shown=np.tile(np.array([[1, 2, -1, -1, -1]], np.int32), (count, 1)),
        clicked=np.tile(np.array([[True, False, False, False, False]]), (count, 1)),
        request=np.tile(page.request[:1], (count, 1)),
        static=np.tile(page.static[:1], (count, 1)),
    )
    data = replace(data, logs=[log], train=train)
    windows = click_windows(data, train, 60)
    assert sum(len(window.steps) for window in windows) == count
    for window in windows:
        for page_place, _, from_end in window.steps:
            before = window.length - from_end
            assert before >= min(ends[page_place] - 1, WINDOW - 61)
    assert len(windows) < count / 3


def test_a_batch_of_histories_is_what_the_encoder_gives_for_each_user() -> None:
    data = training_set(5)
    pages = np.arange(0, len(data.train.user), 3)
    seen = []
    for chosen, batch in conversion_batches(data, data.train, pages, 8, np.random.default_rng(0)):
        seen += chosen.tolist()
        for row, page in enumerate(chosen.tolist()):
            rows = as_of(data.logs[data.train.user[page]], data.train.end[page])
            alone = encode_histories([rows], batch.times_BT.shape[1]).arrays
            np.testing.assert_array_equal(batch.tokens_BTC[row].numpy(), alone.tokens_BTC[0])
            np.testing.assert_array_equal(batch.dynamic_BTF[row].numpy(), alone.dynamic_BTF[0])
            start, stop = data.train.converted_indptr[page : page + 2]
            assert np.flatnonzero(batch.target_BK[row]).tolist() == sorted(
                set(data.train.converted_items[start:stop].tolist())
            )
            assert batch.context_BX[row, -1] == 1  # no foundation model yet
    assert sorted(seen) == pages.tolist()


@pytest.mark.parametrize("item_history", [False, True])
def test_a_step_in_a_window_has_the_logits_of_its_own_history(item_history: bool) -> None:
    """Windows of the decoder are an optimisation: a short history alone gives the same."""
    data = training_set(3)
    pctr, _ = models(item_history=item_history)
    if item_history:
        torch.nn.init.normal_(pctr.item_head.counts_head.output_KU)
    prior = exposure_prior(data)
    objective = ClickObjective(pctr, prior).eval()
    windows = click_windows(data, data.train, 60)
    rng = np.random.default_rng(0)
    for batch in click_batches(data, data.train, windows, 4, rng):
        with torch.inference_mode():
            logits = objective.logits(batch)
            loss = mean_loss(objective(batch))
        shares = prior.rows(batch.request_LR).float()
        own = -torch.log_softmax(logits + shares, 1)[torch.arange(len(logits)), batch.target_L]
        torch.testing.assert_close(loss, own.mean())
        for step in range(len(logits)):
            size = batch.times_WT.shape[1] - int(batch.from_end_L[step]) + 1
            row = int(batch.window_L[step])
            with torch.inference_mode():
                alone = pctr.encoder.hidden(
                    batch.tokens_WTC[row : row + 1, :size],
                    batch.times_WT[row : row + 1, :size],
                    batch.dynamic_WTF[row : row + 1, :size],
                )
                expected = pctr.head(
                    alone, batch.context_LX[step : step + 1], batch.request_LR[step : step + 1]
                )
            torch.testing.assert_close(logits[step : step + 1], expected, atol=1e-4, rtol=1e-4)


def test_a_label_whose_window_is_not_over_is_neither_positive_nor_negative() -> None:
    data = training_set(3)
    cut = int(np.median(data.train.time_ms))
    data = replace(data, train=replace(data.train, observed_until_ms=cut))
    _, pcvr = models()
    objective = ConversionObjective(pcvr).eval()
    pages = np.arange(len(data.train.user))
    for chosen, batch in conversion_batches(data, data.train, pages, 16, None):
        over = data.train.time_ms[chosen] + data.window_ms[0] <= cut
        assert (batch.known_BK.bool().numpy() == over[:, None]).all()
        with torch.inference_mode():
            loss = mean_loss(objective(batch))
            logits = pcvr.head(pcvr.encoder.hidden(*batch[:3]), batch.context_BX, batch.request_BR)
        terms = torch.nn.functional.softplus(logits) - logits * batch.target_BK
        expected = terms[torch.from_numpy(over)].mean() if over.any() else torch.tensor(0.0)
        torch.testing.assert_close(loss, expected)


def test_a_page_sample_keeps_every_conversion_and_its_weights_average_one() -> None:
    converting = np.array([True, False, False, True, False, False, False, False])
    sample = sample_pages(converting, 0.3, np.random.default_rng(0))
    assert {0, 3} <= set(sample.pages.tolist())
    assert len(sample.pages) == 4  # two of the six others
    assert sample.weight.mean() == pytest.approx(1.0)
    of_others = (
        sample.weight[~converting[sample.pages]] / sample.weight[converting[sample.pages]][0]
    )
    np.testing.assert_allclose(of_others, 3.0)
    again = sample_pages(converting, 0.3, np.random.default_rng(0))
    np.testing.assert_array_equal(sample.pages, again.pages)
    whole = sample_pages(converting, 1.0, np.random.default_rng(0))
    assert whole.pages.tolist() == list(range(8))
    assert (whole.weight == 1).all()


def test_a_page_converts_only_where_that_is_known() -> None:
    data = training_set(3)
    every = converting_pages(data, data.train)
    counts = np.diff(data.train.converted_indptr)
    np.testing.assert_array_equal(every, counts > 0)
    cut = int(np.median(data.train.time_ms))
    late = replace(data.train, observed_until_ms=cut)
    known = data.train.time_ms + data.window_ms[0] <= cut
    np.testing.assert_array_equal(converting_pages(data, late), (counts > 0) & known)


def test_loss_and_gradient_of_sampled_pages_are_those_of_all_pages_on_average() -> None:
    """Over every sample that can be drawn, not a few of them."""
    data = training_set(3)
    pages = np.flatnonzero(data.train.end >= 8)[:14]
    converting = converting_pages(data, data.train)[pages]
    others = np.flatnonzero(~converting)
    assert converting.any()
    assert len(others) > 4
    _, pcvr = models()
    torch.nn.init.normal_(pcvr.item_head.output.weight)  # or every page would have the same loss
    objective = ConversionObjective(pcvr).eval()

    def loss_and_gradient(sample: PageSample) -> tuple[float, Tensor]:
        pcvr.zero_grad()
        batch = conversion_batch(data, data.train, sample, 64)
        loss = mean_loss(objective(batch))
        loss.backward()
        grads = [p.grad.flatten() for p in pcvr.parameters() if p.grad is not None]
        return float(loss.detach()), torch.cat(grads)

    whole = loss_and_gradient(PageSample(pages, np.ones(len(pages), np.float32)))
    found = []
    for drawn in itertools.combinations(others.tolist(), 2):
        rate = 2 / len(others)
        sample = sample_pages(converting, rate, FixedChoice(drawn))
        found.append(loss_and_gradient(PageSample(pages[sample.pages], sample.weight)))
    assert np.mean([loss for loss, _ in found]) == pytest.approx(whole[0], rel=1e-5)
    mean = torch.stack([gradient for _, gradient in found]).mean(0)
    torch.testing.assert_close(mean, whole[1], atol=1e-6, rtol=1e-4)
    assert max(abs(loss - whole[0]) for loss, _ in found) > 1e-2  # single samples do differ


class FixedChoice:
    """A generator whose only choice is made already."""

    def __init__(self, drawn: tuple[int, ...]) -> None:
        self._drawn = np.array(drawn)

    def choice(self, others: np.ndarray, size: int, replace: bool) -> np.ndarray:
        assert size == len(self._drawn)
        assert not replace
        assert set(self._drawn) <= set(others)
        return self._drawn
