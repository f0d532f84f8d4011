"""Holds one slate and its audit record against the referee."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tests.integration.referee import Expected, Models, Owned, context_of, request_of
from tests.integration.referee_slates import (
    candidates_of,
    consent_verdict,
    policy_in_force,
    ranked,
    refusal,
)

FRESH = "fresh"
STATIC = "static"
CONSENT_TTL_DAYS = 400
RATE_ERROR = 2e-8  # both sides round to eight decimals
SCORE_ERROR = 1e-4  # a rate's last decimal times the dearest item's value


class Judge:
    """The catalogue, the policies and the models that slates are judged by."""

    def __init__(
        self,
        catalogue: Mapping[str, Mapping[str, Any]],
        policies: Iterable[Mapping[str, Any]],
        models: Mapping[str, Models],
    ) -> None:
        self._catalogue = catalogue
        self._policies = list(policies)
        self._models = models

    def slate(
        self, slate_json: bytes, audit_json: bytes, state: Expected, owned: Owned | None
    ) -> None:
        """Every part of a slate that a model scored, from the events to the order of the items."""
        slate, audit = json.loads(slate_json), json.loads(audit_json)
        request = json.loads(audit["request"])
        assert slate["tier"] in (FRESH, STATIC), slate["flags"]
        models = self._models[slate["models"]["pctr"]]
        assert slate["models"]["pctr"] == slate["models"]["pcvr"]
        logits = self._logits(audit, slate["tier"], request, state, owned, models)
        rates = models.probabilities(*logits)
        now = audit["decided_at_ms"]
        consent = consent_verdict(state.consents, now, CONSENT_TTL_DAYS)
        assert audit["consent"]["verdict"] == consent
        policy = policy_in_force(self._policies, request.get("product", ""), now)
        items, others = candidates_of(self._catalogue, request)
        for item in items:
            if item["item_id"] not in rates:
                rates[item["item_id"]] = models.prior(item)
        reasons = {item["item_id"]: refusal(item, consent, owned, now) for item in items}
        shown = [item for item in items if not reasons[item["item_id"]]]
        self._order(slate, request, ranked(shown, rates, policy, request["size"]), rates, models)
        assert _suppressed(slate) == [
            *((name, reason) for name, reason in reasons.items() if reason),
            *others,
        ]
        assert slate["policy"]["version"] == policy["version"]
        self._ages(slate, state, now, owned)

    def _logits(
        self,
        audit: Mapping[str, Any],
        tier: str,
        request: Mapping[str, Any],
        state: Expected,
        owned: Owned | None,
        models: Models,
    ) -> tuple[Sequence[float], Sequence[float]]:
        """Logits of the referee's own inputs, which are the served ones to the byte."""
        width = models.manifest["state_width"]
        served = base64.b64decode(audit["inputs_base64"])
        if tier == STATIC:
            assert not state.rows
            hidden, last_event_ms = np.zeros(width, np.float16), 0
        else:
            # A batch is padded to the bucket of its longest history, which is not ours to know.
            every = models.hidden(state.rows)
            hidden = next(
                (h for h in every.values() if h.tobytes() == served[: 2 * width]), every[max(every)]
            )
            last_event_ms = state.rows[-1].time if state.rows else 0
        context, place = context_of(owned), request_of(request, last_event_ms)
        ours = hidden.tobytes() + context.tobytes() + np.array(place, np.int64).tobytes()
        assert served == ours
        assert audit["state"]["version"] == audit["state"]["state_version"] == state.version
        pctr, pcvr = models.logits(hidden, context, place)
        assert base64.b64decode(audit["logits_base64"]) == pctr.tobytes() + pcvr.tobytes()
        return pctr.tolist(), pcvr.tolist()

    def _order(
        self,
        slate: Mapping[str, Any],
        request: Mapping[str, Any],
        expected: Sequence[tuple[str, float]],
        rates: Mapping[str, tuple[float, float]],
        models: Models,
    ) -> None:
        assert [item["item_id"] for item in slate["items"]] == [name for name, _ in expected]
        assert [item["position"] for item in slate["items"]] == list(
            range(1, len(slate["items"]) + 1)
        )
        for item, (name, score) in zip(slate["items"], expected, strict=True):
            pctr, pcvr = rates[name]
            assert abs(item["pctr"] - pctr) <= RATE_ERROR, name
            assert abs(item["pcvr"] - pcvr) <= RATE_ERROR, name
            assert abs(item["ranking_score"] - score) <= SCORE_ERROR, name
            assert item["scored_by_prior"] == (name not in models.items)

    @staticmethod
    def _ages(slate: Mapping[str, Any], state: Expected, now: int, owned: Owned | None) -> None:
        ages = slate["feature_ages_ms"]
        assert ages["user_state"] == (now - state.rows[-1].time if state.rows else None)
        assert (ages["user_static"] is None) == (owned is None)
        assert ages["user_fm"] is None


def _suppressed(slate: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(entry["item_id"], entry["reason"]) for entry in slate["suppressed"]]
