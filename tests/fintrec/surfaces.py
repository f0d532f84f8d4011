"""Catalogues, policies and candidates, drawn at random or made by hand, for the ranking tests."""

from collections.abc import Sequence

from hypothesis import strategies as st

from features.records import CONTENT_TYPES, Eligibility, Item, RankingPolicy
from features.spec import ENROLLMENTS
from fintrec.catalogue import ItemPriors

PRODUCTS = ("mobile_home", "pgc_marketing")
PRIORS = ItemPriors(
    column={"i0": 2, "i1": 0, "i3": 1, "gone": 3},
    popularity={"i0": (0.02, 0.001), "i1": (0.5, 0.25), "i3": (0.0, 0.0)},
    by_content_type={"marketing": (0.01, 0.002), "servicing": (0.03, 0.0)},
)
NUM_COLUMNS = 4


def item(item_id: str, **changes) -> Item:
    return Item(**({"item_id": item_id, "version": 1, "content_type": "servicing"} | changes))


names = st.lists(st.sampled_from([*ENROLLMENTS[:3], "not an enrollment"]), max_size=2)
items = st.builds(
    Item,
    item_id=st.sampled_from([f"i{number}" for number in range(8)]),
    version=st.integers(0, 3),
    content_type=st.sampled_from(CONTENT_TYPES),
    products=st.lists(st.sampled_from(PRODUCTS), max_size=2),
    value_usd=st.sampled_from([0.0, 0.1, 120.0, -3.5]),
    urgency=st.sampled_from([0.0, 0.25, 2.0]),
    eligibility=st.builds(
        Eligibility,
        requires_enrollments=names,
        excludes_enrollments=names,
        min_tenure_days=st.sampled_from([0, 30, 31]),
    ),
    pinned_position=st.none() | st.integers(1, 5),
    valid_from_ms=st.integers(0, 5),
    valid_until_ms=st.none() | st.integers(0, 8),
)
policies = st.builds(
    RankingPolicy,
    scope=st.sampled_from(["", *PRODUCTS]),
    version=st.integers(0, 9),
    lambda_us=st.floats(0, 1e9),
    lambda_ctr=st.floats(0, 1e3),
    lambda_cvr=st.floats(0, 1e3),
    value_usd=st.dictionaries(st.sampled_from(["i0", "i1", "none"]), st.floats(-100, 2e7)),
    urgency=st.dictionaries(st.sampled_from(["i2", "i3"]), st.floats(0, 1e9)),
)


def newest_versions(found: Sequence[Item]) -> dict[str, Item]:
    """Of every item the highest version, of equal ones the last."""
    newest: dict[str, Item] = {}
    for one in found:
        if one.version >= getattr(newest.get(one.item_id), "version", 0):
            newest[one.item_id] = one
    return newest
