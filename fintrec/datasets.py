"""Training sets out of a log, point in time (FinTRec sections 3.1 and 4.1).

A decision is one page shown to one user. It sees the history strictly before the page, the newest
nightly row readable before it, and the request; its labels are what was clicked on the page and
which items' goals were reached within each item's attribution window after it, whether clicked,
only shown, or neither. `docs/data_layout.md` lists every exclusion.

Shapes: M decisions, K items, S slots of a page.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from features.encoding import encode_static, missing_static
from features.history import Rows, as_of
from features.records import Item
from features.spec import DAY_MS, ENROLLMENTS, NUM_STATIC, USER_STATIC
from features.vocabulary import Vocabulary
from fintrec import logs
from fintrec.timeline import Timeline, on_axis, read_timeline

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

SLOTS: Final = 5
EVER_MS: Final = 1 << 60


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetConfig:
    """How a log is cut: test days last, validation days before them, training before those.

    `train_days` keeps only the newest training days (None: all). `label_days` caps every item's
    attribution window, for logs shorter than the windows (None: the items' own).
    """

    train_days: float | None = None
    validation_days: float = 7
    test_days: float = 7
    label_days: float | None = None

    def __post_init__(self) -> None:
        for name in ("train_days", "validation_days", "test_days", "label_days"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value} must be positive")


def paper() -> DatasetConfig:
    """The paper's split: 90 days of training, 7 of validation, 7 of test."""
    return DatasetConfig(train_days=90)


def demo() -> DatasetConfig:
    """For the demo's 40 days: windows of at most 7 days, so that most labels are complete."""
    return DatasetConfig(validation_days=4, test_days=8, label_days=7)


@dataclass(frozen=True, slots=True)
class Decisions:
    """Pages shown, M rows in time order.

    `end`: the history before the page is `as_of(logs[user], end)`. `request`: REQUEST_COLUMNS.
    `shown`: index into the items by position, -1 none. `converted_*`: CSR of the items converted
    within (time_ms, time_ms + window], with or without a click or an exposure, complete windows
    only. Labels are known up to `observed_until_ms`: see `label_known`.
    """

    user: npt.NDArray[np.int32]
    end: npt.NDArray[np.int32]
    time_ms: IntArray
    request: IntArray
    static: npt.NDArray[np.float16]
    shown: npt.NDArray[np.int32]
    clicked: BoolArray
    converted_indptr: IntArray
    converted_items: npt.NDArray[np.int32]
    observed_until_ms: int = EVER_MS

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Decisions of the three periods over the users' whole ordered logs.

    `items` is the output order of both models and equals `vocabulary.items`. `window_ms` is each
    item's label window, `categories` each item's (none: all alike). `exclusions` counts what was left out, by reason.
    """

    items: tuple[str, ...]
    content_types: tuple[str, ...]
    vocabulary: Vocabulary
    logs: list[Rows]
    train: Decisions
    validation: Decisions
    test: Decisions
    exclusions: dict[str, int]
    window_ms: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    users: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()


def build_training_set(log_dir: Path, config: DatasetConfig) -> TrainingSet:
    """Read a LOG_DIR and build its training set; raises LogError or ValueError."""
    catalogue = logs.read_items(log_dir)
    items = tuple(item.item_id for item in catalogue)
    timeline = read_timeline(log_dir, items)
    validation_ms, test_ms = _split(timeline, config)
    first_ms = 0 if config.train_days is None else validation_ms - int(config.train_days * DAY_MS)
    decisions, excluded = _decisions(log_dir, timeline)
    window_ms = _windows(catalogue, config)
    periods = (
        (first_ms, validation_ms, validation_ms),
        (validation_ms, test_ms, timeline.end_ms),
        (test_ms, timeline.end_ms, timeline.end_ms),
    )
    parts = []
    for start_ms, end_ms, observed_until_ms in periods:
        inside = (decisions.time_ms >= start_ms) & (decisions.time_ms < end_ms)
        part = _taken(decisions, np.flatnonzero(inside))
        parts.append(_labelled(part, timeline, window_ms, observed_until_ms, excluded))
    excluded["before_train_days"] = int((decisions.time_ms < first_ms).sum())
    return TrainingSet(
        items=items,
        content_types=tuple(item.content_type for item in catalogue),
        vocabulary=timeline.vocabulary(items, before_ms=validation_ms),
        logs=timeline.rows_by_user(),
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        exclusions=dict(sorted((timeline.exclusions + excluded).items())),
        window_ms=window_ms,
        users=timeline.users,
        categories=tuple(item.category for item in catalogue),
    )


def histories(
    ts: TrainingSet, decisions: Decisions, indices: Sequence[int] | IntArray
) -> list[Rows]:
    """The bounded history before each of the decisions, for `encode_histories`."""
    return [as_of(ts.logs[decisions.user[i]], int(decisions.end[i])) for i in indices]


def label_known(ts: TrainingSet, decisions: Decisions) -> BoolArray:
    """Where a conversion label is complete, (M, K).

    Elsewhere the window reaches beyond what could be observed: neither a positive nor a negative.
    """
    return decisions.time_ms[:, None] + ts.window_ms <= decisions.observed_until_ms


def converted(ts: TrainingSet, decisions: Decisions, indices: IntArray) -> BoolArray:
    """Conversion labels of some decisions, dense (B, K)."""
    out = np.zeros((len(indices), len(ts.items)), bool)
    for row, i in enumerate(indices):
        start, end = decisions.converted_indptr[i : i + 2]
        out[row, decisions.converted_items[start:end]] = True
    return out


def _split(timeline: Timeline, config: DatasetConfig) -> tuple[int, int]:
    """First instants of validation and of test."""
    test_ms = timeline.end_ms - int(config.test_days * DAY_MS)
    validation_ms = test_ms - int(config.validation_days * DAY_MS)
    if validation_ms <= timeline.start_ms:
        days = (timeline.end_ms - timeline.start_ms) / DAY_MS
        raise ValueError(
            f"the log covers {days:.1f} days; validation_days={config.validation_days} and "
            f"test_days={config.test_days} leave none to train on"
        )
    return validation_ms, test_ms


def _windows(catalogue: tuple[Item, ...], config: DatasetConfig) -> IntArray:
    days = np.array([item.attribution_window_days for item in catalogue], float)
    if config.label_days is not None:
        days = np.minimum(days, config.label_days)
    return (days * DAY_MS).astype(np.int64)


def _decisions(log_dir: Path, timeline: Timeline) -> tuple[Decisions, Counter[str]]:
    """Every admitted page of the log in time order, without conversions."""
    pages, excluded = timeline.pages(SLOTS)
    opted_out = timeline.is_opted_out(pages.user, pages.time_ms)
    excluded["opted_out_users"] = len(np.unique(pages.user[opted_out]))
    excluded["opted_out_decisions"] = int(opted_out.sum())
    kept = np.flatnonzero(~opted_out)
    kept = kept[np.argsort(pages.time_ms[kept], kind="stable")]
    user, time_ms = pages.user[kept], pages.time_ms[kept]
    end, last_event_ms = timeline.before(user, time_ms)
    request = np.column_stack((pages.request[kept], time_ms, last_event_ms))
    static, num_missing = _static(log_dir, timeline.users, user, time_ms)
    excluded["decisions_without_static"] = num_missing
    empty = np.zeros(len(user) + 1, np.int64)
    return (
        Decisions(
            user.astype(np.int32),
            end.astype(np.int32),
            time_ms,
            request,
            static,
            pages.shown[kept].astype(np.int32),
            pages.clicked[kept],
            empty,
            np.empty(0, np.int32),
        ),
        excluded,
    )


def _static(
    log_dir: Path, users: tuple[str, ...], user: IntArray, time_ms: IntArray
) -> tuple[npt.NDArray[np.float16], int]:
    """F_s of each decision, (M, NUM_STATIC), and how many have none.

    The newest nightly row that was readable strictly before the page, unless older than its TTL.
    """
    table = logs.read_table(log_dir, logs.USER_STATIC_TABLE)
    place = {name: index for index, name in enumerate(users)}
    owner = logs.coded(table, "user_id").mapped(lambda name: place.get(name, -1))
    readable = logs.milliseconds(table, "created_timestamp")
    as_of_ms = logs.milliseconds(table, "event_timestamp")
    order = np.lexsort((as_of_ms, readable, owner))
    axis = on_axis(owner[order], readable[order])
    last = np.searchsorted(axis, on_axis(user, time_ms), side="left") - 1
    row = order[np.maximum(last, 0)] if len(order) else np.zeros(len(user), np.int64)
    known = last >= 0
    if len(order):
        known &= (owner[row] == user) & (time_ms - as_of_ms[row] <= USER_STATIC.ttl_ms)
    out = np.tile(missing_static(), (len(user), 1))
    used, which = np.unique(row[known], return_inverse=True)
    if len(used):
        owned = table["enrollments"].take(used).to_pylist()
        tenure = np.column_stack([logs.integers(table, f"tenure_{n}")[used] for n in ENROLLMENTS])
        bank = logs.integers(table, "tenure_bank")[used]
        encoded = [
            encode_static(names, days.tolist(), int(whole))
            for names, days, whole in zip(owned, tenure, bank, strict=True)
        ]
        out[known] = np.array(encoded).reshape(-1, NUM_STATIC)[which]
    return out, int((~known).sum())


def _taken(decisions: Decisions, rows: IntArray) -> Decisions:
    """Some decisions, before conversions are attached."""
    return replace(
        decisions,
        **{
            name: getattr(decisions, name)[rows]
            for name in ("user", "end", "time_ms", "request", "static", "shown", "clicked")
        },
        converted_indptr=np.zeros(len(rows) + 1, np.int64),
    )


def _labelled(
    part: Decisions,
    timeline: Timeline,
    window_ms: IntArray,
    observed_until_ms: int,
    excluded: Counter[str],
) -> Decisions:
    """Decisions with the conversions of complete windows; counts what was censored."""
    decision, item, censored = timeline.conversions_after(
        part.user.astype(np.int64), part.time_ms, window_ms, observed_until_ms
    )
    complete = np.searchsorted(part.time_ms, observed_until_ms - window_ms, side="right")
    excluded["censored_labels"] += int((len(part) - complete).sum())
    excluded["censored_conversions"] += censored
    counts = np.bincount(decision, minlength=len(part))
    return replace(
        part,
        converted_indptr=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        converted_items=item.astype(np.int32),
        observed_until_ms=observed_until_ms,
    )
