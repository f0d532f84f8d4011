"""What a data set holds and what was left out of it, ready for JSON and for people."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fintrec.dataset import files


def report(dataset_dir: Path) -> dict[str, Any]:
    """Rows by period and objective, counts by item, category and content type, exclusions.

    Raises DatasetError where the folder is no data set, or a shard's file is missing or broken.
    """
    manifest = files.read_manifest(dataset_dir)
    files.check_shards(dataset_dir, manifest["num_shards"])
    items, window_ms = files.read_items(dataset_dir)
    counts = manifest["counts"]
    by_item = counts["items"]
    return {
        "dataset": str(dataset_dir),
        "config": manifest["config"],
        "log_rows": manifest["log_rows"],
        "num_shards": manifest["num_shards"],
        "users": counts["users"],
        "history_rows": counts["history_rows"],
        "periods": {
            name: {**manifest["periods"][name], **found}
            for name, found in counts["periods"].items()
        },
        "items": {
            item["item_id"]: {
                "content_type": item["content_type"],
                "category": item["category"],
                "window_days": window / 86_400_000,
                **by_item[item["item_id"]],
            }
            for item, window in zip(items, window_ms.tolist(), strict=True)
        },
        "categories": _summed((item["category"], by_item[item["item_id"]]) for item in items),
        "content_types": _summed((i["content_type"], by_item[i["item_id"]]) for i in items),
        "exclusions": counts["exclusions"],
    }


def _summed(parts: Iterable[tuple[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """Counts added up by group, groups in order."""
    out: dict[str, dict[str, int]] = {}
    for group, counts in parts:
        mine = out.setdefault(group, dict.fromkeys(counts, 0))
        for name, number in counts.items():
            mine[name] += number
    return dict(sorted(out.items()))
