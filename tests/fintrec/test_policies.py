from hypothesis import given
from hypothesis import strategies as st

from features.records import RankingPolicy
from fintrec.policies import DEFAULT_POLICY, PolicyBook

policies = st.builds(
    RankingPolicy,
    scope=st.sampled_from(["", "home", "pgc"]),
    version=st.integers(0, 4),
    lambda_us=st.integers(0, 9).map(float),
    effective_from_ms=st.integers(0, 6),
    expires_ms=st.none() | st.integers(0, 8),
)


def policy(version: int, **changes) -> RankingPolicy:
    return RankingPolicy(version=version, **changes)


def slow_in_force(given_: list[RankingPolicy], scope: str, now_ms: int) -> RankingPolicy:
    last = {(p.scope, p.version): p for p in given_}
    for name in (scope, ""):
        effective = [
            p
            for p in last.values()
            if p.scope == name
            and p.effective_from_ms <= now_ms
            and (p.expires_ms is None or now_ms < p.expires_ms)
        ]
        if effective:
            return sorted(effective, key=lambda p: (p.effective_from_ms, p.version))[-1]
    return DEFAULT_POLICY


@given(st.lists(policies, max_size=10), st.sampled_from(["", "home", "other"]), st.integers(0, 9))
def test_the_policy_in_force_equals_its_slow_twin(given_, scope, now_ms):
    assert PolicyBook(given_).in_force(scope, now_ms) == slow_in_force(given_, scope, now_ms)


def test_a_policy_takes_effect_at_its_instant_and_ends_at_its_expiry():
    book = PolicyBook([policy(1, effective_from_ms=10, expires_ms=20)])
    found = [book.in_force("home", now).version for now in (9, 10, 19, 20)]
    assert found == [0, 1, 1, 0]


def test_an_expired_policy_gives_way_to_the_one_before():
    # 1: [10 ------------------...      2:      [20 --- 30)
    book = PolicyBook(
        [policy(1, effective_from_ms=10), policy(2, effective_from_ms=20, expires_ms=30)]
    )
    assert [book.in_force("", now).version for now in (15, 25, 35)] == [1, 2, 1]


def test_a_later_effect_goes_before_a_higher_version():
    book = PolicyBook([policy(9, effective_from_ms=10), policy(3, effective_from_ms=11)])
    assert book.in_force("", 20).version == 3


def test_a_products_own_policy_goes_before_the_one_for_every_surface():
    book = PolicyBook([policy(5, effective_from_ms=50), policy(1, scope="home")])
    assert book.in_force("home", 60).version == 1
    assert book.in_force("pgc", 60).version == 5


def test_a_policy_sent_ahead_changes_nothing_before_its_time():
    book = PolicyBook([policy(1), policy(2, effective_from_ms=1000)])
    assert book.in_force("", 999).version == 1


def test_a_removed_version_is_forgotten_and_removing_again_is_no_error():
    book = PolicyBook([policy(1), policy(2, effective_from_ms=5)])
    book.remove("", 2)
    book.remove("", 2)
    book.remove("never heard of", 1)
    assert book.in_force("", 9).version == 1
    assert [p.version for p in book.all()] == [1]


def test_a_version_given_again_replaces_its_text():
    book = PolicyBook([policy(1, lambda_us=1.0)])
    book.add(policy(1, lambda_us=2.0))
    assert book.in_force("", 0).lambda_us == 2.0


def test_without_a_policy_the_default_ranks():
    assert PolicyBook().in_force("home", 0) is DEFAULT_POLICY
    assert PolicyBook().all() == []
