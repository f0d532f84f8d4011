"""Training examples as padded batches: windows of the decoder, histories of the encoder.

- pCTR: one window of a user's log carries several labelled steps (the last row strictly before a
  page on which something was clicked), because the causal decoder computes every position anyway
- pCVR: one history a page, every item a label
- batches hold one length bucket: padding all to 120 wastes two thirds of the work
- an epoch is planned before it is encoded (`grouped`), so it can be taken up in its middle, and
  shared among processes

Every history is `as_of` what a worker would have held, through the one encoder.

Shapes: W windows, T history, C token columns, F dynamic features, L labelled steps, B histories,
X context, R request columns, K items
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from features.encoding import bucket_of, encode_context, encode_histories
from features.history import WINDOW, Rows, as_of
from fintrec.datasets import Decisions, TrainingSet, converted

IntArray: TypeAlias = npt.NDArray[np.int64]
Labelled: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
Step: TypeAlias = tuple[int, int, int]  # decision, item, rows from a window's end


class ClickBatch(NamedTuple):
    """Windows and their labelled steps; `from_end_L` is 1 for a window's newest row."""

    tokens_WTC: Tensor
    times_WT: Tensor
    dynamic_WTF: Tensor
    window_L: Tensor
    from_end_L: Tensor
    context_LX: Tensor
    request_LR: Tensor
    target_L: Tensor


class ImpressionBatch(NamedTuple):
    """Windows and the pages after some of their rows; -1 in `shown_LS` is an empty place."""

    tokens_WTC: Tensor
    times_WT: Tensor
    dynamic_WTF: Tensor
    window_L: Tensor
    from_end_L: Tensor
    context_LX: Tensor
    request_LR: Tensor
    shown_LS: Tensor
    clicked_LS: Tensor


class ConversionBatch(NamedTuple):
    """Histories before a page, and which items converted after it (float32 0 / 1).

    `known_BK` is 0 where the attribution window reaches beyond what could be observed. `weight_B`
    is how many pages a page stands for, 1 on the average of an epoch (`PageSample`).
    """

    tokens_BTC: Tensor
    times_BT: Tensor
    dynamic_BTF: Tensor
    context_BX: Tensor
    request_BR: Tensor
    target_BK: Tensor
    known_BK: Tensor
    weight_B: Tensor


class Places(NamedTuple):
    """A batch before it is encoded: places in a list of windows or pages, all of one bucket."""

    bucket: int
    chosen: IntArray


class PageSample(NamedTuple):
    """Pages of an epoch of pCVR, and the weight of each."""

    pages: IntArray
    weight: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Window:
    """History of a user after `end` rows of the log; steps are (decision, item, rows from end)."""

    user: int
    end: int
    length: int
    steps: tuple[Step, ...]


def click_windows(data: TrainingSet, decisions: Decisions, stride: int) -> list[Window]:
    """Windows that hold every click of the decisions once, each within a window's newest rows.

    A step lies at most `stride` rows before the window's end, so it keeps the rest as context.
    """
    pages = np.flatnonzero((decisions.clicked & (decisions.shown >= 0)).any(axis=1))

    def clicks(page: int, place: int) -> Iterator[Step]:
        for item in decisions.shown[page][decisions.clicked[page]]:
            if item >= 0:
                yield page, int(item), place

    return _windows(data, decisions, stride, pages, clicks)


def impression_windows(data: TrainingSet, decisions: Decisions, stride: int) -> list[Window]:
    """The same of every page that shows an item, once; the item of its step is -1."""
    pages = np.flatnonzero((decisions.shown >= 0).any(axis=1))
    return _windows(data, decisions, stride, pages, lambda page, place: iter([(page, -1, place)]))


def _windows(
    data: TrainingSet,
    decisions: Decisions,
    stride: int,
    pages: IntArray,
    steps_of: Callable[[int, int], Iterator[Step]],
) -> list[Window]:
    by_user: dict[int, list[int]] = defaultdict(list)
    for page in pages[np.argsort(decisions.end[pages], kind="stable")].tolist():
        by_user[int(decisions.user[page])].append(page)
    windows = []
    for user, waiting in sorted(by_user.items()):
        while waiting:
            end = int(decisions.end[waiting[-1]])
            history = as_of(data.logs[user], end)[-WINDOW:]
            found = _places(data.logs[user], history, decisions.end[waiting], end)
            taken = (found > 0) & (found <= stride + 1)
            steps = [
                step
                for page, place in zip(np.array(waiting)[taken].tolist(), found[taken], strict=True)
                for step in steps_of(page, int(place))
            ]
            windows.append(Window(user, end, len(history), tuple(steps)))
            waiting = np.array(waiting)[~taken].tolist()
    return windows


def _places(log: Rows, history: Rows, ends: npt.NDArray[np.int32], end: int) -> IntArray:
    """Rows from the history's end to the last row before each of `ends`; 0 = not among them."""
    places = np.zeros(len(ends), np.int64)
    if end == 0:
        places[ends == 0] = 1  # no history at all: the step is the padding position
        return places
    early = ends > 0
    wanted = log[ends[early] - 1]
    same = (history["event"][None] == wanted["event"][:, None]) & (
        history["time_ms"][None] == wanted["time_ms"][:, None]
    )
    places[early] = np.where(same.any(axis=1), len(history) - same.argmax(axis=1), 0)
    return places


def click_batches(
    data: TrainingSet,
    decisions: Decisions,
    windows: Sequence[Window],
    batch_size: int,
    rng: np.random.Generator,
) -> Iterator[ClickBatch]:
    """All windows once, in random order."""
    lengths = np.array([window.length for window in windows], np.int64)
    for bucket, chosen in grouped(lengths, batch_size, rng):
        yield click_batch(data, decisions, [windows[place] for place in chosen], bucket)


def click_batch(
    data: TrainingSet, decisions: Decisions, windows: Sequence[Window], bucket: int
) -> ClickBatch:
    """The windows and their labelled steps, padded to the bucket."""
    labelled, _, item = _labelled(data, decisions, windows, bucket)
    return ClickBatch(*labelled, torch.from_numpy(item))


def impression_batch(
    data: TrainingSet, decisions: Decisions, windows: Sequence[Window], bucket: int
) -> ImpressionBatch:
    """The windows and what was shown and clicked at their steps, padded to the bucket."""
    labelled, page, _ = _labelled(data, decisions, windows, bucket)
    return ImpressionBatch(
        *labelled,
        torch.from_numpy(decisions.shown[page].astype(np.int64)),
        torch.from_numpy(decisions.clicked[page].astype(np.float32)),
    )


def _labelled(
    data: TrainingSet, decisions: Decisions, windows: Sequence[Window], bucket: int
) -> tuple[Labelled, IntArray, IntArray]:
    """What both kinds of click batches begin with; page and item of every labelled step."""
    steps = [(row, *step) for row, window in enumerate(windows) for step in window.steps]
    row, page, item, from_end = np.ascontiguousarray(np.array(steps, np.int64).T)
    places = torch.from_numpy(row), torch.from_numpy(from_end)
    history = _history(data, [(window.user, window.end) for window in windows], bucket)
    return (*history, *places, *_page(decisions, page)), page, item


def history_lengths(data: TrainingSet, decisions: Decisions) -> IntArray:
    """Rows that a model sees before each page (an upper bound, which is what a bucket needs)."""
    return np.minimum(decisions.end, WINDOW).astype(np.int64)


def converting_pages(data: TrainingSet, decisions: Decisions) -> npt.NDArray[np.bool_]:
    """Whether any item is known to have converted after a page, (M,)."""
    counts = np.diff(decisions.converted_indptr)
    page = np.repeat(np.arange(len(decisions)), counts)
    until_ms = decisions.time_ms[page] + data.window_ms[decisions.converted_items]
    found = np.zeros(len(decisions), bool)
    found[page[until_ms <= decisions.observed_until_ms]] = True
    return found


def sample_pages(
    converting: npt.NDArray[np.bool_], rate: float, rng: np.random.Generator
) -> PageSample:
    """Every converting page and a share of the others; the weights undo the sampling.

    Of N others n are kept, evenly likely, and each stands for N / n. All weights are scaled by one
    factor so that they average 1: then the mean over the sample of `weight * loss` is, over all
    samples that could have been drawn, the mean loss of all pages, and so is its gradient.
    """
    kept, others = np.flatnonzero(converting), np.flatnonzero(~converting)
    num_kept = int(np.ceil(rate * len(others) - 1e-9))
    if num_kept == len(others):
        return PageSample(np.arange(len(converting)), np.ones(len(converting), np.float32))
    chosen = rng.choice(others, num_kept, replace=False)
    pages = np.concatenate((kept, chosen))
    weight = np.ones(len(pages))
    weight[len(kept) :] = len(others) / num_kept
    order = np.argsort(pages)
    return PageSample(pages[order], (weight * len(pages) / weight.sum())[order].astype(np.float32))


def conversion_batches(
    data: TrainingSet,
    decisions: Decisions,
    pages: IntArray,
    batch_size: int,
    rng: np.random.Generator | None,
) -> Iterator[tuple[IntArray, ConversionBatch]]:
    """The given pages once, and which they are; in random order, or with `rng` None by length."""
    lengths = history_lengths(data, decisions)[pages]
    for bucket, chosen in grouped(lengths, batch_size, rng):
        sample = PageSample(pages[chosen], np.ones(len(chosen), np.float32))
        yield sample.pages, conversion_batch(data, decisions, sample, bucket)


def conversion_batch(
    data: TrainingSet, decisions: Decisions, sample: PageSample, bucket: int
) -> ConversionBatch:
    """The pages' histories and labels, padded to the bucket."""
    pages = sample.pages
    target = converted(data, decisions, pages).astype(np.float32)
    known = decisions.time_ms[pages, None] + data.window_ms <= decisions.observed_until_ms
    ends = zip(decisions.user[pages].tolist(), decisions.end[pages].tolist(), strict=True)
    return ConversionBatch(
        *_history(data, list(ends), bucket),
        *_page(decisions, pages),
        torch.from_numpy(target),
        torch.from_numpy(known.astype(np.float32)),
        torch.from_numpy(sample.weight),
    )


def _history(
    data: TrainingSet, ends: list[tuple[int, int]], bucket: int
) -> tuple[Tensor, Tensor, Tensor]:
    histories = [as_of(data.logs[user], end) for user, end in ends]
    arrays = encode_histories(histories, bucket).arrays
    return (
        torch.from_numpy(arrays.tokens_BTC),
        torch.from_numpy(arrays.times_BT),
        torch.from_numpy(arrays.dynamic_BTF),
    )


def _page(decisions: Decisions, pages: IntArray) -> tuple[Tensor, Tensor]:
    """Context and request of pages; the foundation model's vector is flagged missing."""
    context = encode_context(decisions.static[pages], [None] * len(pages))
    return torch.from_numpy(context), torch.from_numpy(decisions.request[pages])


def grouped(lengths: IntArray, batch_size: int, rng: np.random.Generator | None) -> list[Places]:
    """Batches that share a length bucket, all places once: in random order, or with None by length."""
    buckets = np.array([bucket_of(int(length)) for length in lengths], np.int64)
    batches = []
    for bucket in np.unique(buckets).tolist():
        places = np.flatnonzero(buckets == bucket)
        if rng is not None:
            rng.shuffle(places)
        batches += [
            Places(bucket, places[start : start + batch_size])
            for start in range(0, len(places), batch_size)
        ]
    order = range(len(batches)) if rng is None else rng.permutation(len(batches)).tolist()
    return [batches[place] for place in order]
