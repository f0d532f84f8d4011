"""A ranking decision as a slate and as its audit record, and the slate made again from the record.

The two writers work on a `Decision`; `replay` works on nothing but the audit record and walks the
same road slowly: logits -> calibration -> eq. 1 -> eligibility -> order -> bytes.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from features.records import RankingPolicy, SlateRequest
from fintrec.calibration import Calibration, conversion_probabilities
from fintrec.catalogue import NO_COLUMN, Candidates, FloatArray
from fintrec.eligibility import REASONS
from fintrec.ranking import order, ranking_scores

AUDIT_VERSION: Final = 2
READABLE: Final = (1, 2)  # version 1 knows no calibration but Platt's; all else is the same
PROPENSITY: Final = 1.0  # serving is deterministic

FRESH: Final = "fresh"  # hidden states have seen every event of the history that was read
STALE: Final = "stale"  # the last hidden states, behind their history or of an older model
STATIC: Final = "static"  # no hidden states: F_s (and F_fm) alone through the head
POPULARITY: Final = "popularity"  # no store or no Triton: calibrated base rates
TIERS: Final = (FRESH, STALE, STATIC, POPULARITY)

_JSON: Final = orjson.OPT_SERIALIZE_NUMPY


def slate_id(request: SlateRequest) -> str:
    """Identifier of the answer to a request: the same whenever the request is delivered again."""
    text = f"{request.user_id}\x1f{request.request_id}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Admission:
    """Who was admitted and who was not, as JSON: one pattern of reasons of one candidate set.

    `slate` is the slate's list of suppressed candidates, `audit` what the audit record says of all
    candidates, `priors` the priors of the admitted ones.
    """

    slate: orjson.Fragment
    audit: orjson.Fragment
    priors: orjson.Fragment


@dataclass(frozen=True)
class CandidateSet:
    """Candidates of a surface; few patterns of reasons are common, so their JSON is kept."""

    candidates: Candidates
    extra_suppressed: tuple[tuple[str, str], ...] = ()  # asked for, but no candidates at all
    made_of: tuple[object, ...] = ()
    _admissions: dict[bytes, Admission] = field(default_factory=dict)

    _MAX_CACHED = 1024

    @cached_property
    def has_unknown_items(self) -> bool:
        """Some candidate is not known to the model."""
        return bool((self.candidates.column_M == NO_COLUMN).any())

    def admission(self, reasons_M: npt.NDArray[np.uint8]) -> Admission:
        """The JSON of a pattern of reason codes."""
        key = reasons_M.tobytes()
        found = self._admissions.get(key)
        if found is None:
            found = self._admit(reasons_M)
            if len(self._admissions) < self._MAX_CACHED:
                self._admissions[key] = found
        return found

    def _admit(self, reasons_M: npt.NDArray[np.uint8]) -> Admission:
        c = self.candidates
        eligible, refused = np.flatnonzero(reasons_M == 0), np.flatnonzero(reasons_M)
        pairs = [(c.item_ids[i], REASONS[reasons_M[i]]) for i in refused]
        audit = {
            "item_ids": [c.item_ids[i] for i in eligible],
            "columns": c.column_M[eligible],
            "value_usd": c.value_usd_M[eligible],
            "urgency": c.urgency_M[eligible],
            "pinned": {c.item_ids[i]: int(c.pinned_M[i]) for i in eligible if c.pinned_M[i]},
            "suppressed": {
                "item_ids": [c.item_ids[i] for i in refused],
                "reasons": reasons_M[refused],
            },
            "extra_suppressed": self.extra_suppressed,
        }
        priors = {"pctr": c.prior_pctr_M[eligible], "pcvr": c.prior_pcvr_M[eligible]}
        return Admission(
            orjson.Fragment(orjson.dumps(_suppressed([*pairs, *self.extra_suppressed]))),
            orjson.Fragment(orjson.dumps(audit, option=_JSON)),
            orjson.Fragment(orjson.dumps(priors, option=_JSON)),
        )


def _suppressed(pairs: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"item_id": item, "reason": reason} for item, reason in pairs]


@dataclass(slots=True)
class Decision:
    """Everything that one answered request was decided from; arrays over M candidates."""

    request: SlateRequest
    request_json: bytes
    at: str
    decided_at_ms: int
    tier: str
    flags: list[str]
    policy: RankingPolicy
    models: dict[str, str]
    candidate_set: CandidateSet
    reasons_M: npt.NDArray[np.uint8]
    places: list[int]  # best first, at most request.size
    pctr_M: FloatArray
    pcvr_M: FloatArray
    scores_M: FloatArray
    feature_ages_ms: dict[str, int | None]
    latency_ms: dict[str, float]
    logits: npt.NDArray[np.float32] | None  # pCTR then pCVR logits, (2K,)
    evidence: Mapping[str, Any]  # consent, state, calibration, ... of the audit record


def slate_bytes(decision: Decision) -> bytes:
    """The slate as it goes on slates.v1 (features.records.Slate)."""
    candidates = decision.candidate_set.candidates
    return _slate_json(
        decision.request,
        decision.tier,
        [
            _item(candidates.item_ids[place], position, *values)
            for position, (place, values) in enumerate(
                zip(decision.places, _columns(decision, candidates), strict=True), start=1
            )
        ],
        decision.candidate_set.admission(decision.reasons_M).slate,
        _policy_of(decision.policy),
        decision.models,
        decision.feature_ages_ms,
        decision.latency_ms,
        decision.flags,
    )


def _columns(decision: Decision, candidates: Candidates) -> list[tuple[Any, ...]]:
    """(pctr, pcvr, value, urgency, ranking score, is prior) of the chosen places as Python values."""
    places = decision.places
    by_prior = candidates.column_M[places] == NO_COLUMN
    if decision.logits is None:
        by_prior = np.ones(len(places), bool)
    return list(
        zip(
            decision.pctr_M[places].tolist(),
            decision.pcvr_M[places].tolist(),
            candidates.value_usd_M[places].tolist(),
            candidates.urgency_M[places].tolist(),
            decision.scores_M[places].tolist(),
            by_prior.tolist(),
            strict=True,
        )
    )


def _item(
    item_id: str,
    position: int,
    pctr: float,
    pcvr: float,
    value_usd: float,
    urgency: float,
    score: float,
    is_prior: bool,
) -> dict[str, Any]:
    return {
        "item_id": item_id,
        "position": position,
        "pctr": pctr,
        "pcvr": pcvr,
        "value_usd": value_usd,
        "urgency": urgency,
        "ranking_score": score,
        "propensity": PROPENSITY,
        "scored_by_prior": is_prior,
    }


def _policy_of(policy: RankingPolicy) -> dict[str, Any]:
    return {
        "version": policy.version,
        "lambda_us": policy.lambda_us,
        "lambda_ctr": policy.lambda_ctr,
        "lambda_cvr": policy.lambda_cvr,
    }


def _slate_json(
    request: SlateRequest,
    tier: str,
    items: list[dict[str, Any]],
    suppressed: orjson.Fragment | list[dict[str, str]],
    policy: dict[str, Any],
    models: dict[str, str],
    feature_ages_ms: dict[str, int | None],
    latency_ms: dict[str, float],
    flags: list[str],
) -> bytes:
    return orjson.dumps(
        {
            "slate_id": slate_id(request),
            "request_id": request.request_id,
            "user_id": request.user_id,
            "event_time_ms": request.event_time_ms,
            "tier": tier,
            "items": items,
            "suppressed": suppressed,
            "policy": policy,
            "models": models,
            "feature_ages_ms": feature_ages_ms,
            "latency_ms": latency_ms,
            "flags": flags,
        }
    )


def audit_bytes(decision: Decision, slate: bytes) -> bytes:
    """The audit record of a slate (docs/wire_format.md); `replay` is its reader."""
    logits = decision.logits
    admission = decision.candidate_set.admission(decision.reasons_M)
    uses_priors = logits is None or decision.candidate_set.has_unknown_items
    return orjson.dumps(
        {
            "audit_version": AUDIT_VERSION,
            "slate_id": slate_id(decision.request),
            "request": decision.request_json.decode(),
            "request_at": decision.at,
            "decided_at_ms": decision.decided_at_ms,
            "tier": decision.tier,
            "flags": decision.flags,
            "policy": _policy_of(decision.policy) | {"scope": decision.policy.scope},
            "models": decision.models,
            **decision.evidence,
            "logits_base64": None if logits is None else base64.b64encode(logits.data).decode(),
            "candidates": admission.audit,
            "priors": admission.priors if uses_priors else None,
            "explore": {},
            "feature_ages_ms": decision.feature_ages_ms,
            "latency_ms": decision.latency_ms,
            "slate_sha256": hashlib.sha256(slate).hexdigest(),
        }
    )


def replay(record: bytes) -> bytes:
    """The slate's bytes made again from its audit record alone.

    Raises ValueError when the record is of another audit version.
    """
    audit = orjson.loads(record)
    if audit.get("audit_version") not in READABLE:
        raise ValueError(f"audit_version={audit.get('audit_version')}, expected one of {READABLE}")
    request = _request_of(audit["request"])
    admitted = audit["candidates"]
    ids, columns = admitted["item_ids"], admitted["columns"]
    value_usd = np.array(admitted["value_usd"], np.float64)
    urgency = np.array(admitted["urgency"], np.float64)
    pctr, pcvr = _probabilities(audit, columns)
    policy = RankingPolicy(**audit["policy"])
    scores = ranking_scores(policy, pctr[None], pcvr[None], value_usd, urgency)
    pinned = np.array([admitted["pinned"].get(i, 0) for i in ids], np.int64)
    ranked, _ = order(scores, np.ones((1, len(ids)), bool), pinned)
    chosen = ranked[0, : request.size].tolist()
    items = [
        _item(
            ids[place],
            position,
            float(pctr[place]),
            float(pcvr[place]),
            float(value_usd[place]),
            float(urgency[place]),
            float(scores[0, place]),
            audit["logits_base64"] is None or columns[place] == NO_COLUMN,
        )
        for position, place in enumerate(chosen, start=1)
    ]
    refused = [
        (item, REASONS[reason])
        for item, reason in zip(*admitted["suppressed"].values(), strict=True)
    ]
    extra = [(item, reason) for item, reason in admitted["extra_suppressed"]]
    return _slate_json(
        request,
        audit["tier"],
        items,
        _suppressed([*refused, *extra]),
        _policy_of(policy),
        audit["models"],
        audit["feature_ages_ms"],
        audit["latency_ms"],
        audit["flags"],
    )


def _request_of(text: str) -> SlateRequest:
    return msgspec.convert(orjson.loads(text), SlateRequest)


def _probabilities(audit: dict[str, Any], columns: list[int]) -> tuple[FloatArray, FloatArray]:
    """pCTR and pCVR of the candidates, out of the logits or the priors of the record."""
    priors = audit["priors"] or {"pctr": [0.0] * len(columns), "pcvr": [0.0] * len(columns)}
    pctr, pcvr = np.array(priors["pctr"], np.float64), np.array(priors["pcvr"], np.float64)
    if audit["logits_base64"] is None:
        return pctr, pcvr
    logits = np.frombuffer(base64.b64decode(audit["logits_base64"]), np.float32).reshape(2, -1)
    by_column_pctr = Calibration.from_dict(audit["calibration"]).apply(logits[:1])[0]
    by_column_pcvr = conversion_probabilities(logits[1:])[0]
    for place, column in enumerate(columns):
        if column != NO_COLUMN:
            pctr[place], pcvr[place] = by_column_pctr[column], by_column_pcvr[column]
    return pctr, pcvr
