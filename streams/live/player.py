"""Virtual users who play a drawn future against slates that somebody serves.

Pure: time is an argument, records go out as return values and slates come in as arguments. The
bank's clock runs `speed` times as fast as the clock of the run; records are dated by the latter,
so that workers see them as of now. The users' reactions are the bank's own mechanism (clicks and
dismissals by the hidden truth, goals with their lags, calls, complaints and fraud reports), drawn
from a generator of each page's own: given the slates, a seed decides every reaction.

A user looks at one page at a time: the next one is asked for when the last was answered or given
up, after what is left of the planned pause. What is due after the run's end is counted, not sent.
"""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np

from fintrec.bank.goals import CAUSES, CLICK, EXPOSURE
from fintrec.bank.mechanism import Mechanism, Memory, Moment, Reaction
from fintrec.bank.population import IntArray
from fintrec.bank.visits import CONTACTS
from streams.live.counts import Counts
from streams.live.future import Future
from streams.live.records import Outgoing, Records
from streams.live.yardstick import Yardstick

PAUSE_MS: Final = 15_000  # a user looks at a page at least this long, by the bank's clock
LOGOUT_AFTER_MS: Final = 5_000

_Act: TypeAlias = Callable[[int], list[Outgoing]]
_Make: TypeAlias = Callable[[int], Outgoing]


@dataclass(frozen=True, slots=True)
class Pace:
    """The run's clock against the bank's: from `start_ms` to `end_ms`, `speed` times as fast."""

    start_ms: int
    end_ms: int
    speed: float
    bank_start_ms: int

    def at(self, bank_ms: int) -> int:
        """When an instant of the bank's clock comes, by the run's."""
        return self.start_ms + int((bank_ms - self.bank_start_ms) / self.speed)

    def after(self, now_ms: int, bank_delay_ms: int) -> int:
        """When a delay by the bank's clock has passed; a delay is a millisecond at least."""
        return now_ms + max(1, int(bank_delay_ms / self.speed))


@dataclass(frozen=True, slots=True)
class _Asked:
    page: int
    asked_ms: int


class Player:
    """Plays one future. Call `due` and `answer` with instants that do not go back."""

    def __init__(
        self,
        future: Future,
        memory: Memory,
        pace: Pace,
        seed: int,
        run_id: str,
        timeout_ms: int = 10_000,
    ) -> None:
        self.counts = Counts()
        self._future, self._memory, self._pace = future, memory, pace
        self._seed, self._run_id, self._timeout_ms = seed, run_id, timeout_ms
        self._records = Records(future, run_id)
        self._mechanism = Mechanism(future.catalogue)
        self._yardstick = Yardstick(self._mechanism, future.catalogue, future.people)
        self._item_place = {item.item_id: n for n, item in enumerate(future.catalogue.items)}
        self._agenda: list[tuple[int, int, _Act]] = []
        self._num_acts = 0
        self._pending: dict[str, _Asked] = {}
        self._given_up: set[str] = set()
        self._answered: set[str] = set()
        self._pages_of = self._pages_by_user()
        self._plan()

    @property
    def is_done(self) -> bool:
        """Whether nothing is due any more and no slate is awaited."""
        return not self._agenda and not self._pending

    @property
    def next_ms(self) -> int | None:
        """When something is due next, None while nothing is."""
        return self._agenda[0][0] if self._agenda else None

    def due(self, now_ms: int) -> list[Outgoing]:
        """Records to be published now; gives up requests that were not answered in time."""
        self._give_up(now_ms)
        out: list[Outgoing] = []
        while self._agenda and self._agenda[0][0] <= now_ms:
            when_ms, _, act = heapq.heappop(self._agenda)
            out += act(when_ms)
        return out

    def answer(self, slate: Mapping[str, Any], now_ms: int) -> list[Outgoing]:
        """A slate has come: what its user sees of it at once; reactions fall due later.

        Slates of other requests are none of this player's business.
        """
        request_id = slate["request_id"]
        asked = self._pending.pop(request_id, None)
        if asked is None:
            self.counts.late += request_id in self._given_up
            self.counts.repeated += request_id in self._answered
            return []
        self._answered.add(request_id)
        self.counts.answered += 1
        self.counts.tiers[slate["tier"]] += 1
        self.counts.latencies_ms.append(now_ms - asked.asked_ms)
        self._go_on(asked.page, now_ms)
        return self._look(asked.page, slate, now_ms)

    def stop(self) -> None:
        """End the run before its end: what is awaited is unanswered, what is due is not sent."""
        self.counts.unanswered += len(self._pending)
        self._pending.clear()
        self.counts.after_the_end["not_sent"] += len(self._agenda)
        self._agenda.clear()
        self._count_unreached()

    def finish(self) -> None:
        """Count what the run did not come to; once, when it is done."""
        self._count_unreached()

    def _count_unreached(self) -> None:
        left = sum(map(len, self._pages_of.values()))
        self.counts.pages_not_reached += left
        self._pages_of.clear()

    def _pages_by_user(self) -> dict[int, list[int]]:
        """Each user's pages before the end of the future, the next one last."""
        pages = self._future.pages
        inside = np.flatnonzero(pages.time_ms < self._future.end_ms)
        order = inside[np.lexsort((pages.time_ms[inside], pages.user[inside]))]
        found: dict[int, list[int]] = {}
        for page in order[::-1].tolist():
            found.setdefault(int(pages.user[page]), []).append(page)
        return found

    def _plan(self) -> None:
        """Put on the agenda what happens whatever is shown, and each user's first page."""
        future, records, at = self._future, self._records, self._pace.at
        for row, time_ms in enumerate(future.money.time_ms.tolist()):
            self._push(at(time_ms), "transaction", partial(records.transaction, row))
        for row, time_ms in enumerate(future.contacts.time_ms.tolist()):
            user, which = int(future.contacts.user[row]), int(future.contacts.which[row])
            self._contact(f"own-{row}", user, which, at(time_ms))
        for row, time_ms in enumerate(future.browsing.time_ms.tolist()):
            self._push(at(time_ms), "public_page_view", partial(records.public_page, row))
        for session, time_ms in enumerate(future.sessions.start_ms.tolist()):
            self._push(at(time_ms), "login", partial(records.session_event, "login", session))
        goals = future.goals
        for row, time_ms in enumerate(goals.time_ms.tolist()):
            user, item = int(goals.user[row]), int(goals.item[row])
            self._goal(f"own-{row}", user, item, int(goals.cause[row]), at(time_ms))
        for user in sorted(self._pages_of):
            self._ask_next(user, 0)

    def _push(self, when_ms: int, name: str, make: _Make) -> None:
        """Let a record fall due; after the end it is only counted."""
        if when_ms >= self._pace.end_ms:
            self.counts.after_the_end[name] += 1
        else:
            self._send_at(when_ms, name, make)

    def _send_at(self, when_ms: int, name: str, make: _Make) -> None:
        def act(now_ms: int) -> list[Outgoing]:
            self.counts.events[name] += 1
            return [make(now_ms)]

        self._act(when_ms, act)

    def _act(self, when_ms: int, act: _Act) -> None:
        # Equal instants keep the order in which they were put here.
        heapq.heappush(self._agenda, (when_ms, self._num_acts, act))
        self._num_acts += 1

    def _ask_next(self, user: int, earliest_ms: int) -> None:
        """The user's next page, as planned but not before an instant; none after the end."""
        left = self._pages_of.get(user)
        if not left:
            return
        when_ms = max(self._pace.at(int(self._future.pages.time_ms[left[-1]])), earliest_ms)
        if when_ms < self._pace.end_ms:
            self._act(when_ms, lambda now: self._ask(left.pop(), now))

    def _ask(self, page: int, now_ms: int) -> list[Outgoing]:
        self._pending[self._records.request_id(page)] = _Asked(page, now_ms)
        self.counts.requests += 1
        self.counts.events["page_view"] += 1
        return [self._records.page_view(page, now_ms), self._records.request(page, now_ms)]

    def _give_up(self, now_ms: int) -> None:
        # Requests stand in the order in which they were sent.
        while self._pending:
            request_id, asked = next(iter(self._pending.items()))
            if asked.asked_ms + self._timeout_ms > now_ms:
                return
            del self._pending[request_id]
            self._given_up.add(request_id)
            self.counts.unanswered += 1
            self._go_on(asked.page, now_ms)

    def _go_on(self, page: int, now_ms: int) -> None:
        """After a page: the user's next one, or the end of the session."""
        pages = self._future.pages
        user, session = int(pages.user[page]), int(pages.session[page])
        left = self._pages_of.get(user)
        # Two of three sessions end by a logout, as in the log; the others just stop.
        if session % 3 and not (left and pages.session[left[-1]] == session):
            after_ms = self._pace.after(now_ms, PAUSE_MS + LOGOUT_AFTER_MS)
            make = partial(self._records.session_event, "logout", session)
            self._push(after_ms, "logout", make)
        self._ask_next(user, self._pace.after(now_ms, PAUSE_MS))

    def _look(self, page: int, slate: Mapping[str, Any], now_ms: int) -> list[Outgoing]:
        """The impressions of a slate; clicks, dismissals, goals and outcomes go on the agenda."""
        counts, records, items = self.counts, self._records, slate["items"]
        counts.unknown_items += sum(item["item_id"] not in self._item_place for item in items)
        known = [item for item in items if item["item_id"] in self._item_place]
        counts.empty += not items
        if not known:
            return []
        shown = np.full((1, max(item["position"] for item in known)), -1)
        for item in known:
            shown[0, item["position"] - 1] = self._item_place[item["item_id"]]
        moment, seeds = self._moment(page), np.random.SeedSequence([self._seed, page]).spawn(2)
        self._judge(np.random.default_rng(seeds[1]), moment, shown)
        rng = np.random.default_rng(seeds[0])
        reaction = self._mechanism.play(rng, self._memory, moment, shown)
        self._count_page(reaction, known)
        slate_id = slate["slate_id"]
        for item in known:
            self._react(page, item["position"] - 1, item["item_id"], slate_id, reaction, now_ms)
        self._reach(page, shown, reaction, now_ms)
        counts.events["impression"] += len(known)
        return [
            records.on_slot(
                "impression",
                page,
                item["position"] - 1,
                item["item_id"],
                slate_id,
                now_ms,
                item["propensity"],
            )
            for item in known
        ]

    def _moment(self, page: int) -> Moment:
        pages, one = self._future.pages, slice(page, page + 1)
        return Moment(
            user=pages.user[one],
            time_ms=pages.time_ms[one],
            place=pages.place[one],
            slow_AN=pages.slow_PN[one],
            fast_AN=pages.fast_PN[one],
            outcome_ms_AO=pages.outcome_ms_PO[one],
            sequence_ms_AS=pages.sequence_ms_PS[one],
        )

    def _judge(self, rng: np.random.Generator, moment: Moment, shown: IntArray) -> None:
        items = shown[shown >= 0]
        judged = self._yardstick.judge(rng, self._memory, moment, len(items))
        self.counts.logging_clicks += judged.logging_clicks
        self.counts.best_clicks += judged.best_clicks
        self.counts.not_allowed += int((~judged.allowed[items]).sum())

    def _count_page(self, reaction: Reaction, known: list[Mapping[str, Any]]) -> None:
        chance = reaction.click_probability_AK
        self.counts.shown += len(known)
        self.counts.clicks += int(reaction.clicked_AK.sum())
        self.counts.dismissals += int(reaction.dismissed_AK.sum())
        self.counts.expected_clicks += float(chance.sum())
        self.counts.click_variance += float((chance * (1 - chance)).sum())
        self.counts.predicted_clicks += sum(item["pctr"] for item in known)

    def _react(
        self, page: int, slot: int, item_id: str, slate_id: str, reaction: Reaction, now_ms: int
    ) -> None:
        """Click or dismissal of one slot; part of the page, so sent even at the run's very end."""
        for action, flags in (
            ("click", reaction.clicked_AK),
            ("dismiss", reaction.dismissed_AK),
        ):
            if flags[0, slot]:
                when_ms = self._pace.after(now_ms, int(reaction.react_ms_AK[0, slot]))
                make = partial(self._records.on_slot, action, page, slot, item_id, slate_id)
                self._send_at(when_ms, action, make)

    def _reach(self, page: int, shown: IntArray, reaction: Reaction, now_ms: int) -> None:
        """Goals and outcomes that the page leads to, after their lags by the bank's clock."""
        user = int(self._future.pages.user[page])
        looked_ms = int(self._future.pages.time_ms[page])
        goals = zip(reaction.goal_slot.tolist(), reaction.goal_ms.tolist(), strict=True)
        for slot, time_ms in goals:
            cause = CLICK if reaction.clicked_AK[0, slot] else EXPOSURE
            when_ms = self._pace.after(now_ms, time_ms - looked_ms)
            self._goal(f"{page}-{slot}", user, int(shown[0, slot]), cause, when_ms)
        outcomes = zip(reaction.outcome.tolist(), reaction.outcome_ms.tolist(), strict=True)
        for which, time_ms in outcomes:
            when_ms = self._pace.after(now_ms, time_ms - looked_ms)
            self._contact(f"{page}-{which}", user, which, when_ms)

    def _goal(self, name: str, user: int, item: int, cause: int, when_ms: int) -> None:
        found = self._future.catalogue.items[item]

        def make(now_ms: int) -> Outgoing:
            self.counts.conversions[CAUSES[cause]] += 1
            return self._records.conversion(
                f"cnv-{name}", user, found.item_id, found.value_usd, now_ms
            )

        self._push(when_ms, "conversion", make)

    def _contact(self, name: str, user: int, which: int, when_ms: int) -> None:
        make = partial(self._records.contact, f"con-{name}", user, which)
        self._push(when_ms, CONTACTS[which], make)
