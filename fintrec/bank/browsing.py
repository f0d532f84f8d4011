"""Public pages read on the web without a login, some of them right before one.

A visitor is known by the device's `anonymous_id` only; what is read follows the needs of the user
behind it. Anonymous visitors are shown no items: their consent is unknown.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from fintrec.bank.money import day_starts
from fintrec.bank.population import IntArray, Population
from fintrec.bank.visits import Sessions, Triggers, fast_needs, visiting_hours

BEFORE_LOGIN_SHARE: Final = 0.5  # of a browser's web sessions, after public pages
ALONE_PER_DAY: Final = 0.06  # a browser's visits that end without a login
MEAN_MORE_PAGES: Final = 1.2
MAX_PAGES: Final = 6
NEED_WEIGHT: Final = 1.2


@dataclass(frozen=True, slots=True)
class Browsing:
    """Public page views, n rows; `user` is who reads (hidden), `need` what the page is about.

    `session` is the session that the visit ended in, or beyond all sessions a number of its own.
    """

    user: IntArray
    time_ms: IntArray
    need: IntArray
    session: IntArray
    device: IntArray  # place in visits.DEVICES


def simulate_browsing(
    rng: np.random.Generator,
    people: Population,
    triggers: Triggers,
    sessions: Sessions,
    start_ms: int,
    end_ms: int,
) -> Browsing:
    """All public page views within [start_ms, end_ms)."""
    is_browser = people.is_browser[sessions.user] & ~sessions.is_app
    before = np.flatnonzero(is_browser & (rng.random(len(is_browser)) < BEFORE_LOGIN_SHARE))
    midnights = day_starts(start_ms, end_ms)
    rate = ALONE_PER_DAY * people.contact_activity * people.is_browser
    counts = rng.poisson(rate * len(midnights))
    alone = np.repeat(np.arange(people.num_users), counts)
    ends = rng.choice(midnights, len(alone)) + visiting_hours(rng, people, alone)
    user = np.concatenate((sessions.user[before], alone))
    until = np.concatenate((sessions.start_ms[before], ends))
    session = np.concatenate((before, len(sessions.user) + np.arange(len(alone))))
    device = np.concatenate((sessions.device[before], np.zeros(len(alone), np.int64)))
    num_pages = 1 + np.minimum(rng.poisson(MEAN_MORE_PAGES, len(user)), MAX_PAGES - 1)
    visit = np.repeat(np.arange(len(user)), num_pages)
    gaps = rng.integers(8_000, 60_000, len(visit))
    passed = np.cumsum(gaps)
    first = np.cumsum(num_pages) - num_pages
    time_ms = until[visit] - (passed - (passed[first] - gaps[first])[visit])
    inside = (time_ms >= start_ms) & (time_ms < end_ms)
    visit, time_ms = visit[inside], time_ms[inside]
    who = user[visit]
    wants = people.levels(who, time_ms) + fast_needs(triggers, who, time_ms)
    need = np.argmax(NEED_WEIGHT * wants + rng.gumbel(size=wants.shape), axis=1)
    return Browsing(who, time_ms, need, session[visit], device[visit])
