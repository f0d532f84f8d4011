import base64

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.border import to_record
from features.records import RankingPolicy, Slate, SlateRequest
from fintrec.calibration import Calibration, Knots, conversion_probabilities
from fintrec.catalogue import NO_COLUMN, Catalogue, candidates
from fintrec.eligibility import OTHER_PRODUCT, REASONS, UNKNOWN_ITEM
from fintrec.ranking import order, ranking_scores
from fintrec.slates import (
    POPULARITY,
    TIERS,
    CandidateSet,
    Decision,
    audit_bytes,
    replay,
    slate_bytes,
    slate_id,
)
from tests.fintrec.surfaces import NUM_COLUMNS, PRIORS, item, items, policies

CALIBRATION = Calibration("platt-test", 0.9, 1.25)
counted = st.integers(-32_000, 32_000)
maps = st.builds(
    Calibration,
    st.just("a map"),
    a=st.floats(1e-3, 5.0),
    b=st.floats(-20.0, 20.0),
    c=st.sampled_from([0.0, 0.7, 30.0]),
    knots=st.none()
    | st.builds(
        lambda level, logit: Knots(
            tuple(sorted(level)), tuple(sorted(logit * len(level))[: len(level)])
        ),
        st.sets(counted, min_size=1, max_size=9),
        st.lists(counted, min_size=1, max_size=9),
    ),
    offsets=st.tuples(*[counted] * NUM_COLUMNS),
    slopes=st.just(()) | st.tuples(*[st.integers(1, 30_000)] * NUM_COLUMNS),
    limit=st.sampled_from([None, 17.0]),
) | st.just(CALIBRATION)
exotic = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


def decision(
    request_json: bytes,
    found: CandidateSet,
    policy: RankingPolicy,
    reasons_M: np.ndarray,
    logits: np.ndarray | None,
    tier: str,
    calibration: Calibration = CALIBRATION,
    **changes,
) -> Decision:
    """A decision made the fast way, as the worker makes it."""
    request = to_record(orjson.loads(request_json), SlateRequest)
    compiled = found.candidates
    pctr, pcvr = compiled.prior_pctr_M, compiled.prior_pcvr_M
    if logits is not None:
        known = compiled.column_M != NO_COLUMN
        clicks = calibration.apply(logits[None, :NUM_COLUMNS])[0]
        conversions = conversion_probabilities(logits[None, NUM_COLUMNS:])[0]
        pctr = np.where(known, clicks[compiled.column_M], pctr)
        pcvr = np.where(known, conversions[compiled.column_M], pcvr)
    scores = ranking_scores(
        policy, pctr[None], pcvr[None], compiled.value_usd_M, compiled.urgency_M
    )
    ranked, count = order(scores, reasons_M[None] == 0, compiled.pinned_M)
    given_ = {
        "request": request,
        "request_json": request_json,
        "at": "slate_requests.v1[0]@7",
        "decided_at_ms": 1_000,
        "tier": tier,
        "flags": [],
        "policy": policy,
        "models": {"pctr": "3", "pcvr": "3"},
        "candidate_set": found,
        "reasons_M": reasons_M,
        "places": ranked[0, : min(int(count[0]), request.size)].tolist(),
        "pctr_M": pctr,
        "pcvr_M": pcvr,
        "scores_M": scores[0],
        "feature_ages_ms": {"user_state": 12, "user_fm": None},
        "latency_ms": {"queue": 3, "total": 4.125},
        "logits": logits,
        "evidence": {"calibration": None if logits is None else calibration.to_record()},
    }
    return Decision(**(given_ | changes))


@st.composite
def decisions(draw: st.DrawFn) -> Decision:
    """Any tier, unknown items, pins, refusals, extra suppressed ones and awkward strings."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    policy = draw(policies)
    compiled = candidates(
        Catalogue.of(draw(st.lists(items, max_size=8))), "mobile_home", policy, PRIORS
    )
    extra = draw(st.lists(st.tuples(exotic, st.sampled_from([UNKNOWN_ITEM, OTHER_PRODUCT]))))
    reasons_M = rng.integers(0, len(REASONS), len(compiled)).astype(np.uint8)
    reasons_M[rng.random(len(compiled)) < draw(st.sampled_from([0.0, 0.7, 1.0]))] = 0
    tier = draw(st.sampled_from(TIERS))
    logits = None
    if tier != POPULARITY:
        scale = draw(st.sampled_from([0.0, 3.0, 300.0]))
        logits = (rng.normal(size=2 * NUM_COLUMNS) * scale).astype(np.float32)
    request = {
        "request_id": draw(exotic),
        "user_id": draw(exotic),
        "event_time_ms": draw(st.integers(0, 1 << 42)),
        "product": "mobile_home",
        "page": draw(exotic),
        "size": draw(st.integers(1, 9)),
        "a field of tomorrow": draw(exotic),
    }
    request_json = orjson.dumps(request)
    if draw(st.booleans()):
        request_json = b" \n" + request_json.replace(
            b'"page"', b'"p\\u0061ge"'
        )  # escapes and blanks
    return decision(
        request_json,
        CandidateSet(compiled, tuple(extra)),
        policy,
        reasons_M,
        logits,
        tier,
        draw(maps),
        flags=draw(st.lists(exotic, max_size=2)),
        latency_ms={"queue": 3, "total": draw(st.floats(0, 1e4))},
    )


@settings(max_examples=150)
@given(decisions())
def test_a_slate_is_made_again_from_its_audit_record_to_the_byte(made):
    slate = slate_bytes(made)
    assert replay(audit_bytes(made, slate)) == slate


@settings(max_examples=60)
@given(decisions())
def test_a_slate_is_a_record_of_its_topic(made):
    slate = msgspec.convert(orjson.loads(slate_bytes(made)), Slate)
    assert slate.slate_id == slate_id(made.request)
    assert slate.tier == made.tier
    assert [one.position for one in slate.items] == list(range(1, len(slate.items) + 1))
    assert len(slate.items) <= made.request.size
    num_refused = int((made.reasons_M != 0).sum()) + len(made.candidate_set.extra_suppressed)
    assert len(slate.suppressed) == num_refused
    shown = {one.item_id for one in slate.items}
    refused = {c for c, r in zip(_ids(made), made.reasons_M, strict=True) if r}
    assert not shown & refused
    if made.tier == POPULARITY:
        assert all(one.scored_by_prior for one in slate.items)


@settings(max_examples=60)
@given(decisions())
def test_a_decision_is_written_the_same_twice(made):
    slate = slate_bytes(made)
    assert slate_bytes(made) == slate
    assert audit_bytes(made, slate) == audit_bytes(made, slate)


def _ids(made: Decision) -> tuple[str, ...]:
    return made.candidate_set.candidates.item_ids


def example(tier: str = "fresh", calibration: Calibration = CALIBRATION) -> Decision:
    found = [item("i0", value_usd=100.0), item("i1"), item("i3", pinned_position=2), item("new")]
    compiled = candidates(Catalogue.of(found), "", RankingPolicy(version=7), PRIORS)
    logits = None
    if tier != POPULARITY:
        logits = np.array([0.5, -1.0, 2.0, 0.0, -3.0, -2.0, -1.0, 0.0], np.float32)
    return decision(
        b'{"request_id":"r","user_id":"u","event_time_ms":5,"size":3}',
        CandidateSet(compiled, (("gone", UNKNOWN_ITEM),)),
        RankingPolicy(version=7),
        np.array([0, 0, 0, 0], np.uint8),
        logits,
        tier,
        calibration,
    )


def test_a_slate_says_which_items_the_model_did_not_score():
    slate = msgspec.convert(orjson.loads(slate_bytes(example())), Slate)
    assert {one.item_id: one.scored_by_prior for one in slate.items} == {
        "i0": False,
        "i3": False,
        "i1": False,
    }
    assert slate.items[1].item_id == "i3"  # pinned to the second position
    assert [(one.item_id, one.reason) for one in slate.suppressed] == [("gone", UNKNOWN_ITEM)]


def _with_other_logits(audit: dict) -> None:
    logits = np.frombuffer(base64.b64decode(audit["logits_base64"]), np.float32).copy()
    logits[0] += 1
    audit["logits_base64"] = base64.b64encode(logits.tobytes()).decode()


@pytest.mark.parametrize(
    "tamper",
    [
        _with_other_logits,
        lambda audit: audit["policy"].update(lambda_cvr=2.0),
        lambda audit: audit["policy"].update(version=8),
        lambda audit: audit["candidates"]["value_usd"].__setitem__(0, 101.0),
        lambda audit: audit["candidates"]["pinned"].clear(),
        lambda audit: audit["candidates"]["item_ids"].__setitem__(0, "i00"),
        lambda audit: audit["candidates"]["extra_suppressed"].clear(),
        lambda audit: audit["calibration"].update(b=1.26),
        lambda audit: audit.update(tier="stale"),
        lambda audit: audit.update(request=audit["request"].replace('"size":3', '"size":2')),
    ],
)
def test_a_record_that_was_tampered_with_gives_another_slate(tamper):
    made = example()
    slate = slate_bytes(made)
    audit = orjson.loads(audit_bytes(made, slate))
    assert replay(orjson.dumps(audit)) == slate
    tamper(audit)
    assert replay(orjson.dumps(audit)) != slate


def test_priors_decide_where_there_are_no_logits():
    made = example(POPULARITY)
    slate = slate_bytes(made)
    audit = orjson.loads(audit_bytes(made, slate))
    audit["priors"]["pctr"][1] = 0.0
    assert replay(orjson.dumps(audit)) != slate


def test_a_record_of_another_audit_version_is_refused():
    made = example()
    audit = orjson.loads(audit_bytes(made, slate_bytes(made))) | {"audit_version": 3}
    with pytest.raises(ValueError, match="audit_version=3, expected one of"):
        replay(orjson.dumps(audit))


def test_a_record_of_the_first_version_is_still_replayed():
    made = example()
    slate = slate_bytes(made)
    audit = orjson.loads(audit_bytes(made, slate)) | {"audit_version": 1}
    audit["calibration"] = {"version": "platt-test", "a": 0.9, "b": 1.25}  # as it was written then
    assert replay(orjson.dumps(audit)) == slate


def test_an_items_own_offset_decides_in_the_replay_too():
    by_item = Calibration("by item", 0.9, 1.25, offsets=(0, 250, -250, 0), limit=17.0)
    made = example(calibration=by_item)
    slate = slate_bytes(made)
    assert slate != slate_bytes(example())
    audit = orjson.loads(audit_bytes(made, slate))
    assert replay(orjson.dumps(audit)) == slate
    del audit["calibration"]["offsets"]
    assert replay(orjson.dumps(audit)) != slate


def test_a_request_delivered_again_has_the_same_slate_id_and_another_user_has_another():
    request = SlateRequest(request_id="r", user_id="u", event_time_ms=1)
    again = SlateRequest(request_id="r", user_id="u", event_time_ms=2, size=9)
    assert slate_id(request) == slate_id(again)
    other = SlateRequest(request_id="r", user_id="v", event_time_ms=1)
    assert slate_id(request) != slate_id(other)
