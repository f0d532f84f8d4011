"""The registry's fingerprint: what changes the meaning of a state changes it, and nothing else."""

from dataclasses import replace

from features.spec import VIEWS, registry_fingerprint


def test_a_reworded_description_keeps_the_fingerprint() -> None:
    first, *others = VIEWS
    feature, *features = first.features
    reworded = replace(first, features=(replace(feature, description="other words"), *features))
    assert registry_fingerprint((reworded, *others)) == registry_fingerprint()


def test_order_type_and_age_of_features_are_part_of_the_fingerprint() -> None:
    first, *others = VIEWS
    feature, *features = first.features
    changes = [
        replace(first, features=(*features, feature)),
        replace(first, features=(replace(feature, dtype="bytes"), *features)),
        replace(first, ttl_ms=first.ttl_ms + 1),
    ]
    found = {registry_fingerprint((changed, *others)) for changed in changes}
    assert len(found | {registry_fingerprint()}) == 4
