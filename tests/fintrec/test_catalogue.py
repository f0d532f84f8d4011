import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from features.records import RankingPolicy
from fintrec.catalogue import NO_COLUMN, NO_PRIORS, Catalogue, candidates
from fintrec.policies import DEFAULT_POLICY
from tests.fintrec.surfaces import PRIORS, PRODUCTS, item, items, newest_versions, policies


def test_the_newest_version_of_an_item_is_in_the_catalogue():
    old, new = item("a", version=1, category="old"), item("a", version=2, category="new")
    assert Catalogue.of([new, old]).items == (new,) == Catalogue.of([old, new]).items


def test_of_one_version_given_twice_the_last_stays():
    first, again = item("a", category="first"), item("a", category="again")
    assert Catalogue.of([first, again]).items == (again,)


@given(st.lists(items, max_size=12))
def test_items_stand_in_the_order_of_their_ids(found):
    newest = newest_versions(found)
    assert Catalogue.of(found).items == tuple(newest[name] for name in sorted(newest))


@given(st.lists(items, max_size=8, unique_by=lambda i: i.item_id), st.randoms())
def test_the_catalogues_version_tells_what_is_in_it(found, random):
    version = Catalogue.of(found).version
    assert Catalogue.of(random.sample(found, len(found))).version == version
    if found:
        assert Catalogue.of(found[1:]).version != version


@given(
    st.lists(items, max_size=12),
    st.sampled_from([*PRODUCTS, "a surface without items", ""]),
    st.none() | st.lists(st.sampled_from([f"i{n}" for n in range(10)]), max_size=6),
)
def test_a_surface_shows_its_own_items_and_those_of_every_surface(found, product, wanted):
    catalogue = Catalogue.of(found)
    expected = [
        one.item_id
        for one in catalogue.items
        if (not one.products or product in one.products)
        and (wanted is None or one.item_id in wanted)
    ]
    assert [catalogue.items[p].item_id for p in catalogue.places(product, wanted)] == expected


@given(st.lists(items, max_size=12), policies)
def test_candidates_hold_what_item_policy_and_priors_say(found, policy):
    catalogue = Catalogue.of(found)
    compiled = candidates(catalogue, "mobile_home", policy, PRIORS)
    chosen = [i for i in catalogue.items if not i.products or "mobile_home" in i.products]
    assert compiled.item_ids == tuple(i.item_id for i in chosen)
    assert len(compiled) == len(chosen)
    for place, one in enumerate(chosen):
        assert compiled.column_M[place] == PRIORS.column.get(one.item_id, NO_COLUMN)
        assert compiled.value_usd_M[place] == policy.value_usd.get(one.item_id, one.value_usd)
        assert compiled.urgency_M[place] == policy.urgency.get(one.item_id, one.urgency)
        assert compiled.pinned_M[place] == (one.pinned_position or 0)
        prior = (compiled.prior_pctr_M[place], compiled.prior_pcvr_M[place])
        assert prior == PRIORS.prior(one)


def test_an_item_that_no_model_knows_has_the_prior_of_its_content_type():
    compiled = candidates(
        Catalogue.of([item("new", content_type="marketing")]), "", DEFAULT_POLICY, PRIORS
    )
    assert compiled.column_M.tolist() == [NO_COLUMN]
    assert (compiled.prior_pctr_M[0], compiled.prior_pcvr_M[0]) == (0.01, 0.002)


def test_a_known_item_without_popularity_and_type_has_no_prior():
    assert PRIORS.prior(item("i9", content_type="third_party")) == (0.0, 0.0)
    assert PRIORS.prior(item("i3")) == (0.0, 0.0)  # measured as never clicked


def test_without_any_model_every_item_has_a_prior():
    compiled = candidates(Catalogue.of([item("a")]), "", DEFAULT_POLICY, NO_PRIORS)
    assert compiled.column_M.tolist() == [NO_COLUMN]
    assert compiled.prior_pctr_M[0] > compiled.prior_pcvr_M[0] > 0


def test_a_policys_zero_goes_before_the_items_value():
    policy = RankingPolicy(version=1, value_usd={"a": 0.0}, urgency={"a": 0.0})
    found = candidates(Catalogue.of([item("a", value_usd=9, urgency=9)]), "", policy, NO_PRIORS)
    assert (found.value_usd_M[0], found.urgency_M[0]) == (0, 0)


def test_an_empty_catalogue_has_no_candidates():
    compiled = candidates(Catalogue.of([]), "mobile_home", DEFAULT_POLICY, PRIORS, ["a"])
    assert len(compiled) == 0
    assert compiled.requires_M.dtype == np.uint32
