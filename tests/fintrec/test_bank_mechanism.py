import numpy as np
import pytest

from features.categories import category_of
from features.spec import DAY_MS, HOUR_MS
from fintrec.bank import needs, surfaces
from fintrec.bank.catalogue import NO_PRODUCT
from fintrec.bank.chunk import Span, simulate_chunk
from fintrec.bank.goals import CLICK, EXPOSURE
from fintrec.bank.mechanism import (
    CLICK_INTERCEPT,
    DISMISS_MEMORY_MS,
    DISMISSED,
    NEED_WEIGHT,
    POSITION_EFFECT,
    SEEN_TODAY,
    Mechanism,
    Memory,
    Moment,
    late_probability,
    moment_at,
    sigmoid,
)
from fintrec.bank.money import ACCOUNTS, DUE_AFTER_MS, MCC_NAMES
from fintrec.bank.needs import MONTH_MS
from fintrec.bank.policy import EXPLORE, draw_slates, slot_probabilities
from fintrec.bank.population import NEVER_MS
from fintrec.bank.visits import CONTACTS, fast_needs, find_triggers

END_MS = 1_795_900_000_123
START_MS = END_MS - 12 * DAY_MS


@pytest.fixture(scope="module")
def chunk():
    """60 busy users over 12 digital days, after 40 days of history."""
    return simulate_chunk(5, 0, 0, 60, Span(END_MS - 52 * DAY_MS, START_MS, END_MS), activity=3.0)


def test_propensities_are_the_exact_probabilities_given_the_items_above():
    rng = np.random.default_rng(0)
    weights = np.exp(rng.normal(0, 1, (200, 9))).astype(np.float32)
    allowed = rng.random((200, 9)) < 0.7
    num_slots = rng.integers(1, 6, 200)
    shown, propensity = draw_slates(rng, weights, allowed, num_slots, {})
    for row in range(200):
        left = allowed[row].copy()
        for slot in range(surfaces.MAX_SLOTS):
            item = shown[row, slot]
            if slot >= num_slots[row] or not left.any():
                assert item == -1
                continue
            total = sum(float(weights[row, i]) for i in np.flatnonzero(left))
            expected = EXPLORE / left.sum() + (1 - EXPLORE) * float(weights[row, item]) / total
            assert left[item]
            assert propensity[row, slot] == pytest.approx(expected, rel=1e-6)
            every = slot_probabilities(weights[row], left)
            assert every.sum() == pytest.approx(1.0)
            assert every[item] == pytest.approx(expected, rel=1e-6)
            left[item] = False


def test_items_are_shown_as_often_as_their_propensities_say():
    num_pages = 60_000
    weight = np.array([4.0, 2.0, 1.0, 0.5, 3.0], np.float32)
    allowed = np.array([True, True, True, True, False])
    shown, propensity = draw_slates(
        np.random.default_rng(1),
        np.tile(weight, (num_pages, 1)),
        np.tile(allowed, (num_pages, 1)),
        np.full(num_pages, 3),
        {},
    )
    # An importance weight of 1 / propensity turns any slot into an even look at what was left.
    for slot, left in ((0, 4), (1, 3), (2, 2)):
        assert (1 / propensity[:, slot]).mean() == pytest.approx(left, rel=0.03)
    for above in range(4):
        left = allowed.copy()
        left[above] = False
        rows = shown[:, 0] == above
        expected = slot_probabilities(weight, left)
        found = np.bincount(shown[rows, 1], minlength=5) / rows.sum()
        spread = np.sqrt(expected * (1 - expected) / rows.sum())
        assert (np.abs(found - expected) <= 4.5 * spread).all()


def test_a_pinned_item_stands_in_its_slot_for_sure_and_nowhere_else():
    rng = np.random.default_rng(2)
    weights = np.ones((500, 6), np.float32)
    allowed = np.ones((500, 6), bool)
    allowed[:100, 3] = False
    shown, propensity = draw_slates(rng, weights, allowed, np.full(500, 4), {3: 1})
    assert (shown[100:, 1] == 3).all()
    assert (propensity[100:, 1] == 1.0).all()
    assert not (np.delete(shown, 1, axis=1) == 3).any()
    assert not (shown[:100] == 3).any()
    assert propensity[0, 0] == pytest.approx(1 / 5)


def test_click_probabilities_follow_from_everything_that_came_before(chunk):
    """A slow twin: each page's log odds anew from the events, outcomes of pages among them."""
    pages, exposure, catalogue = chunk.pages, chunk.exposure, chunk.catalogue
    triggers = find_triggers(chunk.money, chunk.contacts)
    wants = chunk.people.levels(pages.user, pages.time_ms)
    wants += fast_needs(triggers, pages.user, pages.time_ms)
    num_sequences = 0
    for user in range(60):
        seen, dismissed, clicked = {}, {}, {need: [] for need in range(len(needs.NEEDS))}
        for page in np.flatnonzero(pages.user == user):
            now = int(pages.time_ms[page])
            reached = []
            for slot in range(surfaces.MAX_SLOTS):
                item = int(exposure.shown_PK[page, slot])
                if item < 0:
                    continue
                need = int(catalogue.need[item])
                logit = CLICK_INTERCEPT + NEED_WEIGHT * wants[page, need]
                logit += catalogue.quality[item] + POSITION_EFFECT[slot]
                logit += surfaces.PLACES[pages.place[page]].attention
                if clicked[need] and now - clicked[need][-1] < DAY_MS:
                    age = now - clicked[need][-1]
                    logit += needs.CLICK_LIFT * 2 ** (-age / needs.CLICK_HALF_LIFE_MS)
                if item in seen and now - seen[item] < DAY_MS:
                    logit += SEEN_TODAY
                if item in dismissed and now - dismissed[item] < DISMISS_MEMORY_MS:
                    logit += DISMISSED
                for sequence in needs.SEQUENCES:
                    if catalogue.offers[item] not in sequence.offers:
                        continue
                    which = needs.TRIGGER_INDEX[sequence.then_trigger]
                    mine = (triggers.user == user) & (triggers.which == which)
                    came = [t for t in triggers.time_ms[mine].tolist() if t < now]
                    if not came or now - max(came) >= needs.TRIGGER_MEMORY_MS:
                        continue
                    before = clicked[needs.NEED_INDEX[sequence.clicked_need]]
                    before = [t for t in before if t <= max(came)]
                    if before and max(came) - before[-1] <= sequence.within_ms:
                        logit += sequence.lift * 2 ** (-(now - max(came)) / sequence.half_life_ms)
                        num_sequences += 1
                expected = float(sigmoid(np.array(logit)))
                assert exposure.click_probability_PK[page, slot] == pytest.approx(
                    expected, rel=1e-4
                )
                reached.append((slot, item, need))
            for slot, item, need in reached:
                seen[item] = now
                if exposure.dismissed_PK[page, slot]:
                    dismissed[item] = now
                if exposure.clicked_PK[page, slot]:
                    clicked[need].append(now)
    assert num_sequences > 10
    assert len(pages.user) > 1_000


def test_clicks_come_as_often_as_their_probabilities_say(chunk):
    chance = chunk.exposure.click_probability_PK.astype(float)
    clicked = chunk.exposure.clicked_PK
    assert not chance[chunk.exposure.shown_PK < 0].any()
    spread = np.sqrt((chance * (1 - chance)).sum())
    assert abs(clicked.sum() - chance.sum()) < 4 * spread


def test_a_purchase_after_a_click_lifts_an_offer_and_before_it_does_not(chunk):
    catalogue = chunk.catalogue
    item = catalogue.offers.index("travel_insurance")
    travel = needs.NEED_INDEX["travel"]
    shown = np.full((1, surfaces.MAX_SLOTS), -1)
    shown[0, 0] = item
    odds = {}
    for order, (click_ms, purchase_ms) in {
        "click first": (1 * HOUR_MS, 2 * HOUR_MS),
        "purchase first": (2 * HOUR_MS, 1 * HOUR_MS),
    }.items():
        memory = Memory(catalogue, np.full((1, NO_PRODUCT), NEVER_MS))
        mechanism = Mechanism(catalogue)
        for now in (1 * HOUR_MS + 1, 2 * HOUR_MS + 1, 30 * HOUR_MS):
            moment = one_moment(now, purchase_ms if purchase_ms < now else -NEVER_MS)
            mechanism.judge_sequences(memory, moment)
            if click_ms < now:
                memory.clicked_need_ms[0, travel] = click_ms
        wants = mechanism.needs_now(memory, moment)
        odds[order] = mechanism.click_logits(memory, moment, wants, shown)[0, 0]
    # 28 h after the purchase the lift of 2.0 has halved 28 / 24 times.
    assert odds["click first"] - odds["purchase first"] == pytest.approx(2.0 * 2 ** (-28 / 24))


def one_moment(now, travel_purchase_ms=-NEVER_MS):
    """One user on the first place, without needs."""
    none = np.zeros((1, len(needs.NEEDS)))
    sequence_ms = np.full((1, len(needs.SEQUENCES)), -NEVER_MS)
    sequence_ms[0, 0] = travel_purchase_ms
    outcome_ms = np.full((1, len(needs.OUTCOMES)), -NEVER_MS)
    zero = np.zeros(1, np.int64)
    return Moment(zero, np.array([now]), zero, none, none, outcome_ms, sequence_ms)


def probabilities_of(chunk, offers, clicked):
    """Call, complaint, fraud report after a page that shows offers and has the first clicked."""
    catalogue = chunk.catalogue
    shown = np.full((1, surfaces.MAX_SLOTS), -1)
    shown[0, : len(offers)] = [catalogue.offers.index(offer) for offer in offers]
    flags = np.zeros(shown.shape, bool)
    flags[0, 0] = clicked
    memory, moment = Memory(catalogue, np.full((1, NO_PRODUCT), NEVER_MS)), one_moment(HOUR_MS)
    mechanism = Mechanism(catalogue)
    return mechanism, memory, moment, shown, flags


def test_what_is_shown_and_clicked_changes_calls_complaints_and_fraud_reports(chunk):
    def found(offers, clicked=False, dismissed=()):
        mechanism, memory, moment, shown, flags = probabilities_of(chunk, offers, clicked)
        for offer in dismissed:
            memory.dismissed_ms[0, chunk.catalogue.offers.index(offer)] = 0
        wants = mechanism.needs_now(memory, moment)
        return mechanism.outcome_probabilities(memory, moment, wants, shown, flags)[0]

    plain = found(["grocery_bonus"])
    call, complaint, fraud = range(3)
    assert found(["mortgage"])[call] > plain[call]
    assert found(["contact_us"], clicked=True)[call] > 10 * plain[call]
    assert found(["explain_fee"], clicked=True)[call] < 0.5 * plain[call]
    assert found(["grocery_bonus"], dismissed=["grocery_bonus"])[complaint] > 3 * plain[complaint]
    assert plain[fraud] == 0
    assert found(["flight_deal"], clicked=True)[fraud] > 20 * found(["flight_deal"])[fraud] > 0


def test_reminders_make_late_payments_rarer():
    one = np.zeros(1)
    none = late_probability(one, one, np.array([0]), np.array([False]))
    shown = late_probability(one, one, np.array([2]), np.array([False]))
    clicked = late_probability(one, one, np.array([2]), np.array([True]))
    assert none > shown > clicked


def test_card_payments_are_late_as_often_as_the_reminders_shown_leave_it(chunk):
    """A slow twin: reminders counted one by one."""
    money, people, pages = chunk.money, chunk.people, chunk.pages
    card = ACCOUNTS.index("credit_card")
    is_reminder = chunk.catalogue.need == needs.NEED_INDEX["payment"]
    page, slot = np.nonzero((chunk.exposure.shown_PK >= 0) & is_reminder[chunk.exposure.shown_PK])
    clicked = chunk.exposure.clicked_PK[page, slot]
    expected = variance = late = 0.0
    paid = money.of(money.is_kind("payment") & (money.account == card))
    sent = money.of(money.is_kind("statement"))
    for user, time_ms in zip(sent.user.tolist(), sent.time_ms.tolist(), strict=True):
        if time_ms + DUE_AFTER_MS + 12 * DAY_MS > END_MS:
            continue  # a late payment may lie beyond the log
        seen = pages.time_ms[page]
        mine = (pages.user[page] == user) & (seen > time_ms) & (seen <= time_ms + DUE_AFTER_MS)
        debt = people.levels(np.array([user]), np.array([time_ms]))[:, needs.NEED_INDEX["debt"]]
        chance = late_probability(
            people.late_logit[[user]],
            debt,
            np.array([mine.sum()]),
            np.array([bool((mine & clicked).any())]),
        )[0]
        waits = paid.time_ms[paid.user == user] - time_ms
        late += not ((waits > 0) & (waits <= DUE_AFTER_MS)).any()
        expected += chance
        variance += chance * (1 - chance)
    assert abs(late - expected) < 4 * np.sqrt(variance)


def test_a_life_event_rises_over_months_stays_and_fades():
    event = needs.LifeEvent("any", (("home", 2.0),), 0.1, 4, 5, 8)
    ages = np.array([-1, 0, 2 * MONTH_MS, 4 * MONTH_MS, 9 * MONTH_MS, 17 * MONTH_MS])
    assert event.strength(ages) == pytest.approx([0, 0, 0.5, 1, 1, 0.5])


def test_life_events_come_at_their_yearly_rates_and_show_in_years_of_spending():
    span = Span(END_MS - 730 * DAY_MS, END_MS - DAY_MS, END_MS)
    found = simulate_chunk(3, 0, 0, 1_500, span, activity=1.0)
    life = found.people.life_ULR
    for kind, event in enumerate(needs.LIFE_EVENTS):
        recent = (life[:, kind] > span.history_start_ms) & (life[:, kind] < NEVER_MS)
        expected = event.per_year * 2 * 1_500
        assert abs(recent.sum() - expected) < 4 * np.sqrt(expected) + 0.02 * expected
    home = [kind for kind, event in enumerate(needs.LIFE_EVENTS) if event.name == "moving_house"][0]
    began = life[:, home].min(axis=1)
    moved = (began > END_MS - 700 * DAY_MS) & (began < END_MS - 400 * DAY_MS)
    began = np.where(moved, began, NEVER_MS)
    before = num_home_purchases(found, began, -300, 0)
    after = num_home_purchases(found, began, 120, 270)
    assert after / 150 > 2 * before / 300 > 0


def num_home_purchases(found, began_ms, first_day, last_day):
    """Home purchases between two ages, in days, of an event of each user's."""
    at_home = np.array([category_of(mcc) == "home" for mcc in MCC_NAMES])[found.money.mcc]
    age = found.money.time_ms[at_home] - began_ms[found.money.user[at_home]]
    return int(((age >= first_day * DAY_MS) & (age < last_day * DAY_MS)).sum())


def test_every_cause_brings_conversions_and_exposures_lead_to_some_without_a_click(chunk):
    assert set(chunk.goals.cause.tolist()) >= {CLICK, EXPOSURE}
    caused = chunk.goals.cause <= EXPOSURE
    assert (chunk.goals.page[caused] >= 0).all()
    page = chunk.goals.page[caused]
    assert (chunk.goals.time_ms[caused] > chunk.pages.time_ms[page]).all()
    assert (chunk.exposure.shown_PK[page] == chunk.goals.item[caused][:, None]).any(axis=1).all()


def test_outcomes_of_pages_are_among_the_contacts(chunk):
    call = chunk.contacts.which == CONTACTS.index("call")
    users, times = chunk.contacts.user[call], chunk.contacts.time_ms[call]
    soon = 0
    for user, time_ms in zip(users.tolist(), times.tolist(), strict=True):
        ages = time_ms - chunk.pages.time_ms[chunk.pages.user == user]
        soon += bool(((ages > 0) & (ages <= 2 * HOUR_MS)).any())
    assert soon > 5


def test_the_moment_of_a_page_can_be_made_for_a_few_users_at_one_instant(chunk):
    pages = chunk.pages
    triggers = find_triggers(chunk.money, chunk.contacts)
    last = np.flatnonzero(np.diff(pages.user, append=-1))[:9]  # each user's last page
    moment = moment_at(
        chunk.people, triggers, pages.user[last], pages.time_ms[last], pages.place[last]
    )
    assert moment.slow_AN == pytest.approx(pages.slow_PN[last], rel=1e-5, abs=1e-6)
    assert np.array_equal(moment.sequence_ms_AS, pages.sequence_ms_PS[last])
    assert (moment.outcome_ms_AO >= pages.outcome_ms_PO[last]).all()
    mechanism, memory = Mechanism(chunk.catalogue), Memory(chunk.catalogue, chunk.owned_since_UE)
    shown = chunk.exposure.shown_PK[last].astype(np.int64)
    found = mechanism.play(np.random.default_rng(0), memory, moment, shown)
    assert found.clicked_AK.shape == shown.shape
    row, slot = np.nonzero(shown >= 0)
    assert (memory.seen_ms[moment.user[row], shown[row, slot]] == moment.time_ms[row]).all()
