import pytest

from features.errors import MalformedEvent
from features.records import Item, RankingPolicy
from fintrec.catalogue import Catalogue
from streams.reference import ReferenceData, policy_key
from streams.topics import ITEMS, RANKING_POLICIES
from tests.streams.workers import SETTINGS, received


def item(version: int, item_id: str = "card") -> Item:
    return Item(item_id=item_id, version=version, content_type="servicing")


def catalogue_of(data: ReferenceData) -> tuple[Item, ...]:
    return Catalogue.of(data._items.values()).items


def apply_item(data: ReferenceData, record: Item | None, key: bytes = b"card") -> bool:
    return data.apply(received(ITEMS, record, key=key))


def apply_policy(data: ReferenceData, policy: RankingPolicy, is_tombstone: bool = False) -> bool:
    record = None if is_tombstone else policy
    return data.apply(received(RANKING_POLICIES, record, key=policy_key(policy)))


def test_items_come_change_and_go():
    data = ReferenceData(SETTINGS)
    assert apply_item(data, item(1))
    assert apply_item(data, item(2))
    assert catalogue_of(data) == (item(2),)
    assert apply_item(data, None)
    assert apply_item(data, None, key=b"never heard of")
    assert catalogue_of(data) == ()


def test_the_last_record_of_an_item_counts_as_after_compaction():
    data = ReferenceData(SETTINGS)
    apply_item(data, item(2))
    apply_item(data, item(1))
    assert catalogue_of(data) == (item(1),)


def test_policies_come_change_and_go_without_touching_the_catalogue():
    data = ReferenceData(SETTINGS)
    first, ahead = RankingPolicy(version=1), RankingPolicy(version=2, effective_from_ms=100)
    assert not apply_policy(data, first)
    assert not apply_policy(data, ahead)
    assert [data.policies.in_force("home", now).version for now in (99, 100)] == [1, 2]
    assert not apply_policy(data, ahead, is_tombstone=True)
    assert data.policies.in_force("home", 100).version == 1


def test_a_scope_may_have_an_at_sign_in_its_name():
    data = ReferenceData(SETTINGS)
    policy = RankingPolicy(version=3, scope="home@night")
    apply_policy(data, policy)
    assert data.policies.in_force("home@night", 0).version == 3
    apply_policy(data, policy, is_tombstone=True)
    assert data.policies.all() == []


@pytest.mark.parametrize(
    "key", [None, b"", b"@", b"home@two", b"\xff@1", b"@99", "@²".encode(), b"@" + b"9" * 5000]
)
def test_a_tombstone_of_no_known_policy_changes_nothing(key):
    data = ReferenceData(SETTINGS)
    apply_policy(data, RankingPolicy(version=1))
    assert not data.apply(received(RANKING_POLICIES, None, key=key))
    assert [policy.version for policy in data.policies.all()] == [1]


@pytest.mark.parametrize(
    ("topic", "raw"),
    [
        (ITEMS, b"nonsense"),
        (ITEMS, b'{"item_id":"card"}'),
        (ITEMS, b'{"item_id":"card","version":1,"content_type":"ad"}'),
        (RANKING_POLICIES, b"[]"),
        (RANKING_POLICIES, b'{"version":1,"lambda_us":-1}'),
        (RANKING_POLICIES, b'{"version":1,"value_usd":{"card":1e999}}'),
    ],
)
def test_malformed_reference_data_is_refused_and_leaves_what_is_known(topic, raw):
    data = ReferenceData(SETTINGS)
    apply_item(data, item(1))
    apply_policy(data, RankingPolicy(version=1))
    with pytest.raises(MalformedEvent):
        data.apply(received(topic, raw, key=b"card"))
    assert catalogue_of(data) == (item(1),)
    assert len(data.policies.all()) == 1
