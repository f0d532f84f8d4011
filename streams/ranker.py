"""From scored rows to decisions: candidates, probabilities, eligibility and eq. 1, by whole groups.

Rows of one surface, one policy and one model share their candidates, so every step is one NumPy
operation on (rows, candidates). Compiled candidates are kept until items, policy or model change.
"""

import base64
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from features.consent import Verdict, verdict
from features.encoding import bucket_of, missing_static
from features.errors import StateCorrupt
from features.freshness import Freshness, freshness
from features.history import WINDOW
from features.packed import Halfs, UserState, pack, unpack
from features.records import RankingPolicy, SlateRequest
from features.spec import DAY_MS, USER_STATIC
from fintrec.calibration import conversion_probabilities
from fintrec.catalogue import (
    NO_COLUMN,
    NO_PRIORS,
    Candidates,
    FloatArray,
    IntArray,
    candidates,
)
from fintrec.eligibility import OTHER_PRODUCT, UNKNOWN_ITEM, VERDICTS, reasons
from fintrec.ranking import order, ranking_scores
from fintrec.slates import POPULARITY, CandidateSet, Decision, slate_id
from streams.build import build_identity
from streams.model_versions import ModelVersions, ServedModel
from streams.ports import StateWrite
from streams.reference import ReferenceData
from streams.settings import Settings
from streams.topics import EVENT_TOPICS
from streams.wire import Received

CORRUPT_STATE = "state_unreadable"
STALE_STATIC = "user_static_stale"
UNKNOWN_ITEMS = "items_unknown_to_model"
EMPTY = "no_eligible_item"
_NO_STATE = UserState()
_KEPT_SETS = 256


@dataclass(slots=True)
class Row:
    """One request under way, filled in hop by hop."""

    record: Received
    request: SlateRequest
    state: UserState = _NO_STATE
    static: Halfs = field(default_factory=missing_static)
    tier: str = POPULARITY
    flags: list[str] = field(default_factory=list)
    is_cheap: bool = False  # the store was not asked, so no consent can be known
    model: ServedModel | None = None
    logits: npt.NDArray[np.float32] | None = None
    inputs: tuple[npt.NDArray[Any], ...] = ()
    batch_size: int = 0
    latency_ms: dict[str, float] = field(default_factory=dict)

    def take_state(self, packed: bytes | None, now_ms: int) -> None:
        """Take the packed state in; one that cannot be read counts as none and is flagged.

        Nightly features older than their time to live are missing to the models, as in training.
        """
        if packed is None:
            return
        try:
            self.state = unpack(packed)
        except StateCorrupt:
            self.flags.append(CORRUPT_STATE)
            return
        if freshness(self.state.static_ms or None, now_ms, USER_STATIC.ttl_ms) is Freshness.PRESENT:
            self.static = self.state.static
        elif self.state.static_ms:
            self.flags.append(STALE_STATIC)

    def repaired_write(self) -> StateWrite:
        """The state with its new hidden states, valid only on the very version that was read."""
        return StateWrite(
            self.request.user_id, self.state.version, pack(self.state), self.state.last_event_ms
        )


class Probabilities:
    """pCTR and pCVR of every row that one model scored, for all its K items at once."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._logits: list[npt.NDArray[np.float32]] = []
        self._place: dict[int, int] = {}

    def add(self, row: Row) -> None:
        """Take a row in; all are added before the first `of`."""
        assert row.logits is not None
        self._place[id(row)] = len(self._logits)
        self._logits.append(row.logits)

    @cached_property
    def _both_BK(self) -> tuple[FloatArray, FloatArray]:
        logits = np.stack(self._logits)
        num_items = logits.shape[1] // 2
        return (
            self._model.calibration.apply(logits[:, :num_items]),
            conversion_probabilities(logits[:, num_items:]),
        )

    def of(self, rows: Sequence[Row], column_M: IntArray) -> tuple[FloatArray, FloatArray]:
        """Rows and output columns as (B, M); `NO_COLUMN` gives some number."""
        places = np.array([self._place[id(row)] for row in rows])
        chosen = (places[:, None], column_M)
        pctr, pcvr = self._both_BK
        return pctr[chosen], pcvr[chosen]


def _of_candidates(
    rows: Sequence[Row], compiled: Candidates, probabilities: Probabilities | None
) -> tuple[FloatArray, FloatArray]:
    """pCTR and pCVR of every row and candidate, (B, M); priors where there is no logit."""
    if probabilities is not None:
        pctr, pcvr = probabilities.of(rows, compiled.column_M)
        known = compiled.column_M != NO_COLUMN
        if known.all():
            return pctr, pcvr
        return (
            np.where(known, pctr, compiled.prior_pctr_M),
            np.where(known, pcvr, compiled.prior_pcvr_M),
        )
    shape = (len(rows), len(compiled))
    return (
        np.broadcast_to(compiled.prior_pctr_M, shape),
        np.broadcast_to(compiled.prior_pcvr_M, shape),
    )


class Ranker:
    """Decides batches of rows."""

    def __init__(self, settings: Settings, reference: ReferenceData, models: ModelVersions) -> None:
        self._reference = reference
        self._models = models
        self._consent_ttl_ms = settings.consent_ttl_days * DAY_MS
        self._arrays_share = settings.audit_arrays_share
        self._sets: dict[tuple[object, ...], CandidateSet] = {}
        self._build = build_identity()

    def decide(self, rows: Sequence[Row], now_ms: int, started: float) -> list[Decision]:
        """A decision for every row; the tier of a row without logits is popularity."""
        groups: dict[tuple[object, ...], list[Row]] = {}
        by_model: dict[int, Probabilities] = {}
        for row in rows:
            if row.logits is None:
                row.tier = POPULARITY
                row.model = None
            if row.model is not None:
                by_model.setdefault(row.model.version, Probabilities(row.model)).add(row)
            version = row.model.version if row.model else 0
            wanted = tuple(row.request.candidates) if row.request.candidates is not None else None
            surface = (row.request.product, version, wanted, row.is_cheap)
            groups.setdefault(surface, []).append(row)
        decisions: list[Decision] = []
        for members in groups.values():
            model = members[0].model
            probabilities = by_model[model.version] if model else None
            decisions += self._decide_group(members, probabilities, now_ms, started)
        return decisions

    def _candidate_set(
        self,
        request: SlateRequest,
        policy: RankingPolicy,
        model: ServedModel | None,
        marketing: bool,
    ) -> CandidateSet:
        catalogue = self._reference.catalogue
        wanted = tuple(request.candidates) if request.candidates is not None else None
        prior_model = model or self._models.active
        key = (
            id(catalogue),
            request.product,
            wanted,
            marketing,
            policy.scope,
            policy.version,
            id(policy),
            prior_model.version if prior_model else 0,
        )
        found = self._sets.get(key)
        if found is not None:
            return found
        priors = prior_model.priors if prior_model else NO_PRIORS
        compiled = candidates(catalogue, request.product, policy, priors, wanted, marketing)
        known = set(compiled.item_ids)
        extra = tuple(
            (item, OTHER_PRODUCT if item in catalogue.place_of else UNKNOWN_ITEM)
            for item in dict.fromkeys(wanted or ())
            if item not in known
        )
        if len(self._sets) >= _KEPT_SETS:
            self._sets.clear()
        # The set keeps what its key names by identity, so that no id is ever another object's.
        found = self._sets[key] = CandidateSet(compiled, extra, (catalogue, policy))
        return found

    def _decide_group(
        self,
        rows: list[Row],
        probabilities: Probabilities | None,
        now_ms: int,
        started: float,
    ) -> list[Decision]:
        policy = self._reference.policies.in_force(rows[0].request.product, now_ms)
        model = rows[0].model
        # Marketing that nobody could be shown is left out unnamed: naming it would cost an
        # overloaded worker more than everything else it does for such a slate.
        marketing = not rows[0].is_cheap or rows[0].request.candidates is not None
        chosen = self._candidate_set(rows[0].request, policy, model, marketing)
        compiled = chosen.candidates
        verdicts = [verdict(row.state.consents, now_ms, self._consent_ttl_ms) for row in rows]
        reasons_BM = reasons(
            compiled,
            now_ms,
            np.array([VERDICTS.index(v) for v in verdicts], np.uint8),
            np.array([row.state.enrollments for row in rows], np.uint32),
            np.array([row.state.tenure_days for row in rows], np.int64),
        )
        pctr_BM, pcvr_BM = _of_candidates(rows, compiled, probabilities)
        scores_BM = ranking_scores(
            policy, pctr_BM, pcvr_BM, compiled.value_usd_M, compiled.urgency_M
        )
        ranked, eligible = order(scores_BM, reasons_BM == 0, compiled.pinned_M)
        done = time.perf_counter()
        decisions = []
        for place, row in enumerate(rows):
            size = min(int(eligible[place]), row.request.size)
            self._finish(row, size, chosen, now_ms, started, done)
            decisions.append(
                Decision(
                    request=row.request,
                    request_json=row.record.value or b"",
                    at=row.record.at,
                    decided_at_ms=now_ms,
                    tier=row.tier,
                    flags=row.flags,
                    policy=policy,
                    models=model.names if model else {"pctr": "", "pcvr": ""},
                    candidate_set=chosen,
                    reasons_M=reasons_BM[place],
                    places=ranked[place, :size].tolist(),
                    pctr_M=pctr_BM[place],
                    pcvr_M=pcvr_BM[place],
                    scores_M=scores_BM[place],
                    feature_ages_ms=_ages(row.state, now_ms),
                    latency_ms=row.latency_ms,
                    logits=row.logits,
                    evidence=self._evidence(row, verdicts[place]),
                )
            )
        return decisions

    def _finish(
        self,
        row: Row,
        size: int,
        chosen: CandidateSet,
        now_ms: int,
        started: float,
        done: float,
    ) -> None:
        """Flags and latencies that are known only now."""
        if row.logits is not None and chosen.has_unknown_items:
            row.flags.append(UNKNOWN_ITEMS)
        if not size:
            row.flags.append(EMPTY)
        queue_ms = max(0, now_ms - row.record.timestamp_ms)
        worked_ms = (done - started) * 1000
        spent = row.latency_ms.get("store", 0.0) + row.latency_ms.get("head", 0.0)
        row.latency_ms = {
            "queue": queue_ms,
            **{hop: round(ms, 3) for hop, ms in row.latency_ms.items()},
            "rank": round(worked_ms - spent, 3),
            "total": round(queue_ms + worked_ms, 3),
        }

    def _evidence(self, row: Row, consent: Verdict) -> Mapping[str, Any]:
        """What the audit record says beside the decision itself."""
        state = row.state
        model = row.model
        inputs = b"".join(array.tobytes() for array in row.inputs)
        sampled = self._arrays_share > 0 and (
            int(slate_id(row.request)[:8], 16) < self._arrays_share * 2**32
        )
        return {
            **self._build,
            **(model.evidence if model else {"model_artefacts": None, "calibration": None}),
            "catalogue_version": self._reference.catalogue.version,
            "consent": {
                "verdict": consent.value,
                "decisions": [
                    [int(c["effective_from_ms"]), int(c["event_time_ms"]), int(c["marketing"])]
                    for c in state.consents
                ],
            },
            "state": {
                "version": state.version,
                "state_version": state.state_version,
                "model": state.model,
                "last_event_ms": state.last_event_ms,
                "state_event_ms": state.state_event_ms,
                "enrollments": state.enrollments,
                "tenure_days": state.tenure_days,
                "offsets": {
                    f"{EVENT_TOPICS[topic]}[{partition}]": offset
                    for partition, topic, offset in state.offsets.tolist()
                },
            },
            "fm": {"version": "", "night_ms": state.night_ms},
            "inputs_sha256": hashlib.sha256(inputs).hexdigest() if inputs else None,
            "inputs_base64": base64.b64encode(inputs).decode() if sampled and inputs else None,
            "batch_size": row.batch_size,
            "length_bucket": bucket_of(min(len(state.history), WINDOW)),
        }


def _ages(state: UserState, now_ms: int) -> dict[str, int | None]:
    """Age of what a decision rests on; None for what the user does not have."""

    def age(then_ms: int) -> int | None:
        return max(0, now_ms - then_ms) if then_ms else None

    return {
        "user_state": age(state.last_event_ms),
        "hidden_state": age(state.state_event_ms) if len(state.hidden) else None,
        "user_static": age(state.static_ms),
        "user_fm": age(state.night_ms),
        "user_consent": age(int(state.consents[-1]["event_time_ms"]))
        if len(state.consents)
        else None,
    }
