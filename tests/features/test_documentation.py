from pathlib import Path

from features.documentation import duration, features_markdown
from features.spec import DAY_MS, HOUR_MS, MINUTE_MS, VIEWS
from features.windows import FOREST_FEATURES

DOCUMENT = Path(__file__).parents[2] / "docs" / "features.md"


def test_the_document_is_current() -> None:
    assert DOCUMENT.read_text() == features_markdown(), (
        "run: python -m features.documentation > docs/features.md"
    )


def test_every_feature_of_every_view_has_one_row() -> None:
    lines = features_markdown().splitlines()
    for view in VIEWS:
        assert lines.count(f"## {view.name}") == 1
    rows = [line for line in lines if line.startswith("| `")]
    assert len(rows) == sum(len(view.features) for view in VIEWS) + len(FOREST_FEATURES)


def test_no_description_breaks_the_table() -> None:
    for line in features_markdown().splitlines():
        if line.startswith("|"):
            assert line.count("|") == 5, line


def test_spans_are_named_in_their_largest_whole_unit() -> None:
    assert duration(DAY_MS) == "1 day"
    assert duration(3 * DAY_MS) == "3 days"
    assert duration(HOUR_MS) == "1 hour"
    assert duration(90 * MINUTE_MS) == "90 minutes"
    assert duration(1_500) == "1500 ms"
