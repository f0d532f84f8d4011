"""`docs/features.md` as text, made from the registry, so that it cannot drift from the code."""

from features.spec import DAY_MS, HOUR_MS, MINUTE_MS, VIEWS, Feature, View, registry_fingerprint
from features.windows import FOREST_FEATURES, forest_fingerprint

_HEAD = """\
# Features

Made from `features/spec.py` by `python -m features.documentation > docs/features.md`; a test
fails when it is out of date. Registry fingerprint: `{fingerprint}`.

Feast serves each table below as a feature view of its entity. A row older than its time to live
(by event time) is stale: Feast still returns it, this project does not use it. The last table is
no view: its features are columns of a data set.
"""
_FOREST = """\
## Features of the forest

Columns of a data set's decisions (`docs/data_layout.md`), made by `features/windows.py` from a user's
whole log, strictly before the page. No Feast view has them: a state of the online store holds too
little history, so no worker can compute them. Fingerprint: `{fingerprint}`, {count} features.

| feature | type | unit | meaning |
|---|---|---|---|
{rows}
"""


def duration(span_ms: int) -> str:
    """A span in the largest unit that divides it: `3 days`, `1 hour`, `90 minutes`."""
    for unit, length in (("day", DAY_MS), ("hour", HOUR_MS), ("minute", MINUTE_MS)):
        if span_ms % length == 0:
            count = span_ms // length
            return f"{count} {unit}" + ("" if count == 1 else "s")
    return f"{span_ms} ms"


def _row(feature: Feature) -> str:
    return f"| `{feature.name}` | {feature.dtype} | {feature.unit} | {feature.description} |"


def _section(view: View) -> str:
    return "\n".join(
        [
            f"## {view.name}",
            "",
            f"{view.description[0].upper()}{view.description[1:]}.",
            "",
            f"Entity `{view.entity}` (join key `{view.entity}_id`), written by the "
            f"{view.written_by}, good for {duration(view.ttl_ms)}, {len(view.features)} "
            f"feature{'' if len(view.features) == 1 else 's'}.",
            "",
            "| feature | type | unit | meaning |",
            "|---|---|---|---|",
            *map(_row, view.features),
            "",
        ]
    )


def features_markdown() -> str:
    """The whole document, ending with a newline."""
    head = _HEAD.format(fingerprint=registry_fingerprint())
    forest = _FOREST.format(
        fingerprint=forest_fingerprint(),
        count=len(FOREST_FEATURES),
        rows="\n".join(map(_row, FOREST_FEATURES)),
    )
    return "\n".join([head, *map(_section, VIEWS), forest])


if __name__ == "__main__":
    import sys

    sys.stdout.write(features_markdown())
