"""Which candidates may be shown to whom, and the reason where one may not.

Rules are tried in the order of `REASONS`; the first that refuses gives the reason. Consent fails
closed: anything but a granted, effective and fresh decision keeps marketing out.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from features.consent import Verdict
from fintrec.catalogue import Candidates, IntArray

ELIGIBLE: Final = 0
REASONS: Final = (
    "",
    "not_yet_valid",
    "expired",
    "consent_opted_out",
    "consent_unknown",
    "consent_stale",
    "missing_enrollment",
    "already_enrolled",
    "tenure_too_short",
)
# Reasons given outside the rules: an explicitly asked-for item that is no candidate at all.
UNKNOWN_ITEM: Final = "unknown_item"
OTHER_PRODUCT: Final = "other_product"

VERDICTS: Final = (Verdict.GRANTED, Verdict.OPTED_OUT, Verdict.UNKNOWN, Verdict.STALE)
_CONSENT_REASON: Final = np.array(
    [0, *(REASONS.index(f"consent_{v.value}") for v in VERDICTS[1:])], np.uint8
)


def reasons(
    candidates: Candidates,
    now_ms: int,
    verdict_B: npt.NDArray[np.uint8],
    enrollments_B: npt.NDArray[np.uint32],
    tenure_days_B: IntArray,
) -> npt.NDArray[np.uint8]:
    """Reason code (place in `REASONS`, 0 eligible) of every candidate for every user, (B, M).

    `verdict_B` holds places in `VERDICTS`, `enrollments_B` bit masks of ENROLLMENTS.
    """
    owned_B1 = enrollments_B[:, None]
    code = REASONS.index
    # Written in reverse order of precedence: an earlier rule overwrites a later one.
    found = np.zeros((len(verdict_B), len(candidates)), np.uint8)
    found[tenure_days_B[:, None] < candidates.min_tenure_days_M] = code("tenure_too_short")
    found[(owned_B1 & candidates.excludes_M) != 0] = code("already_enrolled")
    found[(owned_B1 & candidates.requires_M) != candidates.requires_M] = code("missing_enrollment")
    consent_B1 = _CONSENT_REASON[verdict_B][:, None]
    refused = candidates.is_marketing_M & (consent_B1 != 0)
    found = np.where(refused, consent_B1, found)
    found[:, candidates.valid_until_ms_M <= now_ms] = code("expired")
    found[:, candidates.valid_from_ms_M > now_ms] = code("not_yet_valid")
    return found
