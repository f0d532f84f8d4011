"""One shard of users, from what they left in the log to decisions with labels.

`build_shard` is the one pure function that the local engine and Spark both run. All that it reads
is its users' records and the plan, so shards can be built anywhere, in any order.

Shapes: M decisions, K items, S slots of a page.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from features.encoding import encode_static_rows, missing_static
from features.history import Rows, as_of, concatenated
from features.spec import ENROLLMENTS, USER_STATIC
from fintrec.dataset.axis import BoolArray, IntArray, on_axis
from fintrec.dataset.opt_outs import opt_outs
from fintrec.dataset.plan import Period, Plan
from fintrec.dataset.spill import CONSENTS, NIGHTS, ShardRows
from fintrec.dataset.timeline import Timeline, timeline_of
from fintrec.dataset.training_set import SLOTS, Decisions

_BIT: Final = 1 << np.arange(len(ENROLLMENTS), dtype=np.uint32)


@dataclass(frozen=True, slots=True)
class Shard:
    """Decisions by period over `users` (those with a decision, sorted) and their cut logs.

    `timeline` still has everything, and `place` says where in it each of the users is.
    """

    users: tuple[str, ...]
    logs: list[Rows]
    periods: tuple[Decisions, ...]
    exclusions: Counter[str]
    timeline: Timeline
    place: IntArray


def build_shard(rows: ShardRows, plan: Plan) -> Shard:
    """The shard of some users."""
    timeline = timeline_of(rows, plan.item_ids, plan.end_ms)
    decisions, excluded = _decisions(rows, timeline, plan)
    window_ms = np.array(plan.window_ms, np.int64)
    parts = []
    for period in plan.periods:
        inside = (decisions.time_ms >= period.start_ms) & (decisions.time_ms < period.end_ms)
        part = decisions.taken(np.flatnonzero(inside))
        parts.append(_labelled(part, timeline, window_ms, period, excluded))
    first_ms, until_ms = plan.periods[0].start_ms, plan.periods[-1].end_ms
    excluded["before_train_days"] = int((decisions.time_ms < first_ms).sum())
    excluded["in_label_only_days"] = int((decisions.time_ms >= until_ms).sum())
    excluded.update(timeline.exclusions)
    place, cut, kept = _cut(timeline, parts)
    return Shard(
        users=tuple(timeline.users[user] for user in place.tolist()),
        logs=kept,
        periods=tuple(cut),
        exclusions=excluded,
        timeline=timeline,
        place=place,
    )


def _decisions(rows: ShardRows, timeline: Timeline, plan: Plan) -> tuple[Decisions, Counter[str]]:
    """Every admitted page in time order, without conversions; users as the timeline has them."""
    pages, excluded = timeline.pages(SLOTS)
    consents = opt_outs(rows.rows[CONSENTS], rows.owner[CONSENTS], plan.notice_ms)
    in_force, in_notice = consents.at(pages.user, pages.time_ms)
    for name, left_out in (("opted_out", in_force), ("opt_out_notice", in_notice)):
        excluded[f"{name}_users"] = len(np.unique(pages.user[left_out]))
        excluded[f"{name}_decisions"] = int(left_out.sum())
    kept = np.flatnonzero(~(in_force | in_notice))
    kept = kept[np.argsort(pages.time_ms[kept], kind="stable")]
    user, time_ms = pages.user[kept], pages.time_ms[kept]
    end, last_event_ms = timeline.before(user, time_ms)
    static, num_missing = _static(rows, user, time_ms)
    excluded["decisions_without_static"] = num_missing
    return (
        Decisions(
            user=user.astype(np.int32),
            end=end.astype(np.int32),
            time_ms=time_ms,
            request=np.column_stack((pages.request[kept], time_ms, last_event_ms)),
            static=static,
            shown=pages.shown[kept].astype(np.int32),
            clicked=pages.clicked[kept],
            converted_indptr=np.zeros(len(user) + 1, np.int64),
            converted_items=np.empty(0, np.int32),
        ),
        excluded,
    )


def _static(
    rows: ShardRows, user: IntArray, time_ms: IntArray
) -> tuple[npt.NDArray[np.float16], int]:
    """F_s of each decision, (M, NUM_STATIC), and how many have none.

    Of the nightly rows that were readable strictly before the page the one with the newest cut-off,
    unless older than its TTL.
    """
    nights, owner = rows.rows[NIGHTS], rows.owner[NIGHTS]
    out = np.tile(missing_static(), (len(user), 1))
    if not len(nights):
        return out, len(user)
    # Two nights that could be read at one instant stand in an order that no engine changes.
    content = (*nights["tenures"].T, nights["owned"], nights["as_of_ms"])
    order = np.lexsort((*content, nights["readable_ms"], owner))
    axis = on_axis(owner[order], nights["readable_ms"][order])
    last = np.searchsorted(axis, on_axis(user, time_ms), side="left") - 1
    # A night that comes late does not take the place of a newer one, as in the online store.
    as_of = on_axis(owner[order], nights["as_of_ms"][order])
    leads = as_of == np.maximum.accumulate(as_of)
    newest = np.maximum.accumulate(np.where(leads, np.arange(len(order)), 0))
    row = order[newest[np.maximum(last, 0)]]
    is_fresh: BoolArray = time_ms - nights["as_of_ms"][row] <= USER_STATIC.ttl_ms
    known = (last >= 0) & (owner[row] == user) & is_fresh
    found = nights[row[known]]
    owned = (found["owned"][:, None] & _BIT) > 0
    out[known] = encode_static_rows(owned, found["tenures"].astype(np.int64))
    return out, int((~known).sum())


def _labelled(
    part: Decisions,
    timeline: Timeline,
    window_ms: IntArray,
    period: Period,
    excluded: Counter[str],
) -> Decisions:
    """Decisions with the conversions of complete windows; counts what was censored."""
    until_ms = period.observed_until_ms
    decision, item, censored = timeline.conversions_after(
        part.user.astype(np.int64), part.time_ms, window_ms, until_ms
    )
    complete = np.searchsorted(part.time_ms, until_ms - window_ms, side="right")
    excluded["censored_labels"] += int((len(part) - complete).sum())
    excluded["censored_conversions"] += censored
    counts = np.bincount(decision, minlength=len(part))
    return replace(
        part,
        converted_indptr=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        converted_items=item.astype(np.int32),
        observed_until_ms=until_ms,
    )


def _cut(
    timeline: Timeline, parts: list[Decisions]
) -> tuple[IntArray, list[Decisions], list[Rows]]:
    """The users with decisions, the decisions over them, and of their logs what these may see.

    Before a user's first decision only its bounded history stays, after the last one nothing: a
    later history is made of the first one and the rows since.
    """
    owner = np.concatenate([part.user for part in parts]).astype(np.int64)
    end = np.concatenate([part.end for part in parts]).astype(np.int64)
    place = np.unique(owner)
    position = np.searchsorted(place, owner)
    first, last = np.full(len(place), np.iinfo(np.int64).max), np.zeros(len(place), np.int64)
    np.minimum.at(first, position, end)
    np.maximum.at(last, position, end)
    kept, dropped = [], np.zeros(len(place), np.int64)
    for number, user in enumerate(place.tolist()):
        start = timeline.first_row[user]
        log = timeline.rows[start : start + last[number]]
        seen = as_of(log, int(first[number]))
        dropped[number] = first[number] - len(seen)
        kept.append(concatenated((seen, log[first[number] :])))
    cut = []
    for part in parts:
        own = np.searchsorted(place, part.user.astype(np.int64))
        ends = (part.end - dropped[own]).astype(np.int32)
        cut.append(replace(part, user=own.astype(np.int32), end=ends))
    return place, cut, kept
