"""What each field on the wire means, in a few words, for the generated documents.

Looked up by "Record.field", then by "field" (a name means one thing wherever it stands).
"""

from typing import Final

MEANINGS: Final = {
    # who, what, when
    "event_id": "unique id given by the producer; a repeated one is counted once",
    "request_id": "unique id given by the asking application; names the slate",
    "user_id": "whom it is about; the Kafka key",
    "event_time_ms": "when it happened",
    "session_id": "login to logout, as the channel knows it; empty: derived by 30 idle minutes",
    "anonymous_id": "web identity before a login, then the key; a login carries it and `user_id`",
    # where
    "channel": "web, mobile, branch, call centre, ...",
    "product": "surface with its own feed or placement, e.g. `mobile_home`",
    "page": "page within the product",
    "placement": "place on the page",
    "layout": "how the placement draws its items",
    "device": "kind of device",
    "position": "place in the slate, from 1",
    "Interaction.position": "place in the slate, from 1; 0: not in a slate",
    "item_id": "the item",
    "Interaction.item_id": "the item shown or acted on; empty: none",
    "slate_id": "the slate",
    "Interaction.slate_id": "the slate that showed the item, so that clicks find their impression",
    "Interaction.propensity": "on an impression: the slate item's own, so that policies can be "
    "judged from logs; null: unknown",
    "action": "`impression`, `click`, `dismiss`, `page_view`, `login`, `logout`, `call`, "
    "`branch`, `atm`, `fraud_report`, `complaint`; another name counts as `other`",
    # money
    "kind": "`purchase`, `payment`, `transfer`, `atm`, `fee`, `statement`, ...",
    "amount_usd": "amount; a refund is negative",
    "mcc": "merchant category code",
    "merchant": "merchant's name or id",
    "account": "kind of account that the money left or reached",
    "due_date_ms": "on a statement: when the minimum is due",
    "minimum_due_usd": "on a statement: the minimum due",
    "Conversion.value_usd": "what this conversion was worth",
    # consent
    "marketing": "the decision; `unknown` counts as no",
    "effective_from_ms": "in force from this instant of the deciding clock",
    # items
    "Item.version": "grows with every change of the item",
    "content_type": "`marketing` needs consent",
    "category": "what the item offers",
    "products": "where the item may be shown; empty: everywhere",
    "value_usd": "v(i) of eq. 1: dollars per conversion",
    "urgency": "us(i) of eq. 1: strategic importance",
    "attribution_window_days": "a conversion this long after a click counts for the item",
    "eligibility": "who may be shown the item",
    "requires_enrollments": "products that the user must own, all of them",
    "excludes_enrollments": "products that the user must not own, any of them",
    "min_tenure_days": "days since the user became one",
    "explorable": "may be shown for exploration",
    "pinned_position": "always at this position when eligible",
    "valid_from_ms": "not shown before",
    "valid_until_ms": "not shown from then on; null: no end",
    # requests
    "size": "how many items the place shows",
    "candidates": "items to choose from; null: the whole catalogue",
    "SlateRequest.deadline_ms": "time from `event_time_ms` after which no answer is needed; null: "
    "the installation's default",
    # policy
    "scope": 'product that it rules; "": every product without a policy of its own',
    "RankingPolicy.version": "grows with every change of the scope's policy",
    "base_version": "version that this one was edited from",
    "lambda_us": "coefficient of urgency in eq. 1",
    "lambda_ctr": "coefficient of pCTR in eq. 1",
    "lambda_cvr": "coefficient of pCVR times value in eq. 1",
    "RankingPolicy.value_usd": "item id to v(i), in place of the item's own",
    "RankingPolicy.urgency": "item id to us(i), in place of the item's own",
    "expires_ms": "not in force from then on; null: no end",
    "explore": "parameters of exploration by name; empty: serving is deterministic",
    # slates
    "Slate.slate_id": "derived from the request, so a redelivered request has the same",
    "Interaction.user_id": "whom it is about; the Kafka key; empty before a login",
    "Slate.event_time_ms": "the request's",
    "tier": "what the answer rests on: `fresh` (hidden states have seen every event), `stale` (the last "
    "hidden states), `static` (static features alone), `popularity` (calibrated base rates)",
    "items": "best first",
    "suppressed": "candidates that were not admitted",
    "policy": "the policy that ranked it",
    "models": "the model versions that scored it",
    "feature_ages_ms": "age of each feature view when decided; null: missing",
    "latency_ms": "time spent by hop",
    "flags": "what was not as it should be, e.g. a state behind its history",
    "pctr": "calibrated P(click given shown)",
    "pcvr": "calibrated P(convert given shown)",
    "SlateModels.pctr": "version of the pCTR model",
    "SlateModels.pcvr": "version of the pCVR model",
    "ranking_score": "RS of eq. 1; the order of the slate",
    "propensity": "probability that the policy shows this item at this position",
    "scored_by_prior": "the model does not know the item: its content type's prior stands in",
    "Suppressed.reason": "why, as one stable word",
    "SlatePolicy.version": "the policy's version",
    # dead letters
    "at": "where it stood, `topic[partition]@offset`",
    "DeadLetter.reason": "one of the reasons above",
    "message": "what was got, what was expected, and the JSON path",
    "key_base64": "the record's key; null: it had none",
    "value_base64": "the record's value, possibly cut; null: it had none",
    "truncated": "the value was cut",
    "refused_at_ms": "when it was refused",
}


def meaning_of(record: str, field: str) -> str:
    """Meaning of a record's field, "" if nobody has written one."""
    return MEANINGS.get(f"{record}.{field}", MEANINGS.get(field, ""))
