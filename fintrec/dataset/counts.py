"""What a shard counts, as JSON that adds up over shards.

exclusions   reason -> number
periods      period -> objective -> name -> number
items        item id -> name -> number (fintrec/dataset/attribution.py)
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fintrec.dataset.attribution import ATTRIBUTED, attributed
from fintrec.dataset.examples import EXPOSURES, ConversionExamples
from fintrec.dataset.plan import Plan
from fintrec.dataset.shard import Shard
from fintrec.dataset.training_set import Decisions


def counted(shard: Shard, examples: Mapping[str, ConversionExamples], plan: Plan) -> dict[str, Any]:
    """The counts of one shard, with the conversion examples of its periods by name."""
    by_item = attributed(shard.timeline, np.array(plan.window_ms, np.int64))
    return {
        "users": len(shard.users),
        "history_rows": sum(map(len, shard.logs)),
        "exclusions": dict(shard.exclusions),
        "periods": {
            period.name: _of_period(decisions, examples[period.name])
            for period, decisions in zip(plan.periods, shard.periods, strict=True)
        },
        "items": {
            item_id: dict(zip(ATTRIBUTED, row, strict=True))
            for item_id, row in zip(plan.item_ids, by_item.tolist(), strict=True)
        },
    }


def _of_period(decisions: Decisions, examples: ConversionExamples) -> dict[str, Any]:
    shown = decisions.shown >= 0
    positive = examples.converted
    kinds = np.bincount(examples.exposure[positive], minlength=len(EXPOSURES)).tolist()
    return {
        "decisions": len(decisions),
        "users": len(np.unique(decisions.user)),
        "pctr": {"rows": int(shown.sum()), "positives": int((shown & decisions.clicked).sum())},
        "pcvr": {
            "labels": examples.num_labels,
            "positives": int(positive.sum()),
            **{f"positives_with_{kind}": n for kind, n in zip(EXPOSURES, kinds, strict=True)},
            "rows": len(positive),
        },
    }


def added(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested counts, name by name."""
    out: dict[str, Any] = dict(one)
    for name, value in other.items():
        if name not in out:
            out[name] = value
        elif isinstance(value, Mapping):
            out[name] = added(out[name], value)
        else:
            out[name] = out[name] + value
    return out
