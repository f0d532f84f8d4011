"""Windows carry every click once; batches are what a worker would have sent."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from features.encoding import encode_histories
from features.history import WINDOW, as_of
from fintrec.batches import click_batches, click_windows, conversion_batches
from fintrec.objectives import ClickObjective, ConversionObjective
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


def test_a_step_in_a_window_has_the_logits_of_its_own_history() -> None:
    """Windows of the decoder are an optimisation: a short history alone gives the same."""
    data = training_set(3)
    pctr, _ = models()
    prior = torch.randn(7)
    objective = ClickObjective(pctr, prior).eval()
    windows = click_windows(data, data.train, 60)
    rng = np.random.default_rng(0)
    for batch in click_batches(data, data.train, windows, 4, rng):
        with torch.inference_mode():
            logits = objective.logits(batch)
            loss = objective(batch)
        own = -torch.log_softmax(logits + prior, 1)[torch.arange(len(logits)), batch.target_L]
        torch.testing.assert_close(loss, own.mean())
        for step in range(len(logits)):
            size = batch.times_WT.shape[1] - int(batch.from_end_L[step]) + 1
            row = int(batch.window_L[step])
            with torch.inference_mode():
                alone = pctr.encode_all(
                    batch.tokens_WTC[row : row + 1, :size],
                    batch.times_WT[row : row + 1, :size],
                    batch.dynamic_WTF[row : row + 1, :size],
                )[:, -1]
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
            loss = objective(batch)
            logits = pcvr.head(pcvr.encoder.hidden(*batch[:3]), batch.context_BX, batch.request_BR)
        terms = torch.nn.functional.softplus(logits) - logits * batch.target_BK
        expected = terms[torch.from_numpy(over)].mean() if over.any() else torch.tensor(0.0)
        torch.testing.assert_close(loss, expected)
