import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.categories import CATEGORIES, CATEGORY_CODES, category_of
from features.vocabulary import (
    CLOSED_FIELDS,
    FIRST_KNOWN,
    NONE,
    OPEN_FIELDS,
    UNKNOWN,
    Vocabulary,
    category_token,
    code,
    fingerprint,
)

names = st.text(st.characters(categories=["L", "N"]), max_size=6)


def colliding_names() -> tuple[str, str]:
    """Two item names with one fingerprint, found by search."""
    seen: dict[int, str] = {}
    for number in range(200_000):
        name = f"item-{number * 7919}"
        first = seen.setdefault(fingerprint("item", name), name)
        if first != name:
            return first, name
    raise AssertionError("no collision found")


def test_a_fingerprint_is_thirty_one_bits_and_depends_on_the_field():
    assert fingerprint("item", "card") == zlib.crc32(b"item:card") & 0x7FFFFFFF
    assert fingerprint("item", "card") != fingerprint("page", "card")
    assert fingerprint("item", "") == NONE


@given(st.sampled_from(OPEN_FIELDS), names.filter(bool))
def test_a_name_never_has_the_fingerprint_of_no_name(field, name):
    assert 0 < fingerprint(field, name) < 1 << 31


@pytest.mark.parametrize("field", sorted(CLOSED_FIELDS))
def test_closed_names_are_coded_by_their_place(field):
    listed = CLOSED_FIELDS[field]
    assert [code(field, name) for name in listed] == list(range(len(listed)))
    assert code(field, "never heard of") == UNKNOWN
    assert len(set(listed)) == len(listed) <= 256


def test_a_category_has_its_own_token_beside_an_item_of_that_name():
    assert category_token("travel") not in (NONE, fingerprint("item", "travel"))
    assert category_token("") == NONE


def test_two_names_with_one_fingerprint_are_refused():
    with pytest.raises(ValueError, match="two names of field 'item' share a fingerprint"):
        Vocabulary.build({}, colliding_names())


def test_growth_that_brings_a_collision_is_refused():
    first, second = colliding_names()
    vocabulary = Vocabulary.build({}, [first])
    with pytest.raises(ValueError, match="share a fingerprint: rename one"):
        vocabulary.extended({"item": [second]}, [second])


def test_a_vocabulary_is_built_the_same_from_any_order():
    one = Vocabulary.build({"page": ["offers", "home", "", "home"]}, ["b", "a", "b"])
    assert one == Vocabulary.build({"page": ["home", "offers"]}, ["a", "b"])
    assert one.names["page"] == ("home", "offers")
    assert one.items == ("a", "b") == one.names["item"]


@given(st.sets(names.filter(bool)), st.lists(names.filter(bool)), st.lists(names.filter(bool)))
def test_growth_keeps_every_old_row_and_output(first, more, items):
    old = Vocabulary.build({"page": first}, sorted(first)[:2])
    new = old.extended({"page": more, "item": items}, items)
    for field in OPEN_FIELDS:
        assert new.names[field][: len(old.names[field])] == old.names[field]
        assert len(set(new.names[field])) == len(new.names[field])
    assert new.items[: len(old.items)] == old.items
    assert set(new.items) == set(old.items) | set(items)
    assert set(more) <= set(new.names["page"])


def test_growing_by_a_name_twice_adds_one_output():
    grown = Vocabulary.build({}, ["a"]).extended({"item": ["b", "b"]}, ["b", "b"])
    assert grown.items == ("a", "b")


def test_a_scored_item_needs_a_token():
    with pytest.raises(ValueError, match=r"scored items without a token: \['card'\]"):
        Vocabulary(dict.fromkeys(OPEN_FIELDS, ()), ("card",))


def test_every_open_field_must_be_there():
    with pytest.raises(ValueError, match="expected"):
        Vocabulary({"item": ()}, ())


def test_a_vocabulary_survives_its_json_form():
    vocabulary = Vocabulary.build({"page": ["home"]}, ["a", "b"])
    assert Vocabulary.from_dict(vocabulary.to_dict()) == vocabulary
    assert FIRST_KNOWN + vocabulary.names["item"].index("b") == 3
    with pytest.raises(ValueError, match=r"needs 'names' and 'items', got \['items'\]"):
        Vocabulary.from_dict({"items": []})


@pytest.mark.parametrize(
    ("mcc", "category"),
    [
        ("", ""),
        ("5411", "groceries"),
        ("5499", "groceries"),
        ("5500", "other"),
        ("5541", "fuel"),
        ("5732", "retail"),
        ("5722", "home"),
        ("4511", "travel"),
        ("3000", "travel"),
        ("0", "other"),
        ("12a", "other"),
        ("\u0664\u0661", "other"),
        ("-541", "other"),
    ],
)
def test_merchant_codes_have_categories(mcc, category):
    assert category_of(mcc) == category


def test_every_code_has_one_of_the_listed_categories():
    found = {category_of(f"{number:04}") for number in range(10_000)}
    assert found == set(CATEGORIES) - {""}
    assert [CATEGORY_CODES[name] for name in CATEGORIES] == list(range(len(CATEGORIES)))
