import numpy as np
import pytest

from features.consent import Verdict, verdict, with_consent
from features.packed import CONSENT
from features.records import MARKETING, Consent
from fintrec.dataset.opt_outs import opt_outs

NOTICE_MS = 30


def slow(decisions, now_ms):
    """(in force, in notice) of a user by all that was told up to an instant, one after another."""
    known = np.empty(0, CONSENT)
    for told, effective, marketing in sorted(decisions):
        if told <= now_ms:
            record = Consent(
                user_id="u",
                event_time_ms=told,
                effective_from_ms=effective,
                marketing=MARKETING[marketing],
            )
            known = with_consent(known, record)
    if verdict(known, now_ms, 1 << 60) is Verdict.OPTED_OUT:
        return True, False
    ahead = range(now_ms, now_ms + NOTICE_MS + 1)
    coming = any(
        row["effective_from_ms"] in ahead and MARKETING[row["marketing"]] == "opted_out"
        for row in known
    )
    return False, coming


def consents(*decisions):
    """(told, effective, marketing) as CONSENT rows."""
    rows = np.zeros(len(decisions), CONSENT)
    for place, (told, effective, marketing) in enumerate(decisions):
        rows[place] = (effective, told, MARKETING.index(marketing), [0] * 7)
    return rows


@pytest.mark.parametrize(
    ("told", "effective"), [(1000, 500), (1000, 985), (1000, 1000), (1000, 1010), (1000, 1100)]
)
def test_the_only_decision_of_a_user_does_nothing_before_it_was_told(told, effective):
    # Another user's backdated opt-outs, which were told early, must not reach this one.
    rows = consents((told, effective, "opted_out"), (100, 50, "opted_out"), (300, 200, "opted_out"))
    found = opt_outs(rows, np.array([1, 0, 0]), NOTICE_MS)
    now = np.arange(0, 1200)
    in_force, in_notice = found.at(np.full(len(now), 1), now)
    expected = [slow([(told, effective, MARKETING.index("opted_out"))], t) for t in now.tolist()]
    assert list(zip(in_force.tolist(), in_notice.tolist(), strict=True)) == expected
    assert not (in_force | in_notice)[:told].any()
    assert in_force[max(told, effective) :].all()


@pytest.mark.parametrize("seed", range(4))
def test_opt_outs_of_many_users_equal_asking_one_by_one_at_every_instant(seed):
    rng = np.random.default_rng(seed)
    of_user = []
    for _ in range(30):
        told = rng.integers(0, 100, rng.integers(0, 5))
        effective = np.maximum(told + rng.integers(-20, 80, len(told)), 0)
        choice = rng.integers(0, len(MARKETING), len(told))
        of_user.append(list(zip(told.tolist(), effective.tolist(), choice.tolist(), strict=True)))
    owner = np.repeat(np.arange(30), [len(mine) for mine in of_user])
    rows = np.zeros(len(owner), CONSENT)
    every = [decision for mine in of_user for decision in mine]
    for name, column in zip(
        ("event_time_ms", "effective_from_ms", "marketing"), np.array(every).T, strict=True
    ):
        rows[name] = column
    order = rng.permutation(len(rows))
    found = opt_outs(rows[order], owner[order], NOTICE_MS)
    user, now = (part.reshape(-1) for part in np.meshgrid(np.arange(30), np.arange(0, 220)))
    in_force, in_notice = found.at(user, now)
    expected = [slow(of_user[u], t) for u, t in zip(user.tolist(), now.tolist(), strict=True)]
    assert list(zip(in_force.tolist(), in_notice.tolist(), strict=True)) == expected
    assert in_force.any()
    assert in_notice.any()


def test_without_decisions_nobody_is_opted_out():
    found = opt_outs(np.empty(0, CONSENT), np.empty(0, np.int64), NOTICE_MS)
    assert not any(part.any() for part in found.at(np.arange(3), np.arange(3)))
