import dataclasses
import tomllib
from pathlib import Path

import pytest

from features.errors import ConfigurationError
from features.records import Item
from features.spec import DAY_MS
from fintrec import logs
from fintrec.dataset.config import DatasetConfig, paper, read_config, window_days
from fintrec.dataset.plan import make_plan
from fintrec.dataset.spill import read_log
from fintrec.datasets import build_training_set
from fintrec.logs import read_items


def written(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_a_file_changes_the_fields_that_it_names(tmp_path):
    path = written(
        tmp_path,
        """
        test_days = 3.5
        label_days = 20
        negatives_rate = 1
        num_shards = 4
        [category_window_days]
        travel = 15
        [content_type_window_days]
        third_party = 30
        """,
    )
    assert read_config(path, paper()) == DatasetConfig(
        train_days=90,
        test_days=3.5,
        label_days=20,
        negatives_rate=1,
        num_shards=4,
        category_window_days={"travel": 15},
        content_type_window_days={"third_party": 30},
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("test_day = 3", r"key 'test_day' is unknown, expected one of .*test_days"),
        ("test_days = '3'", "test_days is '3', expected a number"),
        ("test_days = true", "test_days is True, expected a number"),
        ("test_days = nan", "test_days=nan must be positive"),
        ("num_shards = 1.5", "num_shards is 1.5, expected a whole number"),
        ("item_window_days = 3", "item_window_days is 3, expected a table of days"),
        ("[item_window_days]\na = 'x'", "item_window_days.a is 'x', expected days"),
        ("[item_window_days]\na = 0", r"item_window_days.a=0 must be in \(0, 365\]"),
        ("[content_type_window_days]\nx = 1", "content_type_window_days has 'x', not of"),
        ("negatives_rate = 0", r"negatives_rate=0 must be in \(0, 1\]"),
        ("notice_days = -1", "notice_days=-1 must not be negative"),
        ("test_days =", "not TOML"),
    ],
)
def test_a_wrong_file_says_its_name_and_what_was_expected(tmp_path, text, said):
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError, match=said) as refused:
        read_config(path, paper())
    assert str(refused.value).startswith(f"{path}: ")


def test_a_window_is_the_items_own_unless_named_closer_and_never_above_the_cap():
    items = tuple(
        Item(
            item_id=name,
            version=1,
            content_type=kind,
            category=category,
            attribution_window_days=60,
        )
        for name, kind, category in (
            ("a", "marketing", "travel"),
            ("b", "marketing", "travel"),
            ("c", "marketing", "cards"),
            ("d", "servicing", "cards"),
        )
    )
    config = DatasetConfig(
        label_days=40,
        item_window_days={"a": 5},
        category_window_days={"travel": 15},
        content_type_window_days={"marketing": 30},
    )
    assert window_days(items, config) == [5, 15, 30, 40]


def test_an_unknown_item_or_category_is_told_which_there_are(bank_log):
    items = read_items(bank_log)
    for config, said in (
        (
            DatasetConfig(item_window_days={"open_savings_a": 5}),
            r"item_window_days names 'open_savings_a', which no item .* expected one of 200 such as "
            r".*trip_savings_a",
        ),
        (
            DatasetConfig(item_window_days={"z": 5}),
            "item_window_days names 'z', .* such as advisor_meeting_a, advisor_meeting_b, ",
        ),
        (
            DatasetConfig(category_window_days={"credit_monitoring": 5}),
            "category_window_days names 'credit_monitoring', .* its category, expected one of 11 "
            "such as auto, debt, everyday, family, home$",
        ),
        (DatasetConfig(category_window_days={"savings": 5}), "expected one of 11 such as saving"),
    ):
        with pytest.raises(ValueError, match=said):
            window_days(items, config)


def test_the_example_of_the_documentation_is_good_and_shows_every_field(bank_log, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "data_layout.md").read_text()
    example = page.split("```toml\n")[1].split("```")[0]
    config = read_config(written(tmp_path, example), DatasetConfig())
    assert {f.name for f in dataclasses.fields(config)} == set(tomllib.loads(example))
    items = read_items(bank_log)
    assert {15, 60} <= set(window_days(items, config))
    plan = make_plan(logs.read_manifest(bank_log), items, read_log(bank_log)[1], config)
    windows = dict(zip(plan.item_ids, plan.window_ms, strict=True))
    for table in ("item_window_days", "category_window_days", "content_type_window_days"):
        for name, days in tomllib.loads(example)[table].items():
            of = [
                item for item in items if name in (item.item_id, item.category, item.content_type)
            ]
            assert days * DAY_MS in {windows[item.item_id] for item in of}


def test_label_only_days_give_no_decisions_but_complete_the_labels_before(bank_log):
    config = {"validation_days": 3, "test_days": 4, "label_days": 5}
    plain = build_training_set(bank_log, DatasetConfig(**config))
    later = build_training_set(bank_log, DatasetConfig(**config, label_only_days=5))
    assert later.exclusions["in_label_only_days"] > 50
    assert plain.test.time_ms.max() >= later.test.observed_until_ms - 5 * 86_400_000
    assert (later.test.time_ms + later.window_ms.max() <= later.test.observed_until_ms).all()
