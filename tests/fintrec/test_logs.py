import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fintrec import logs

CONVERSIONS = [
    {
        "event_id": "b",
        "user_id": "u1",
        "event_time_ms": 86_400_000,
        "item_id": "i",
        "value_usd": 2.5,
    },
    {"event_id": "a", "user_id": "u2", "event_time_ms": 5, "item_id": "i", "value_usd": 0.0},
    {"event_id": "c", "user_id": "u1", "event_time_ms": 4, "item_id": "j", "value_usd": 1.0},
]


def written(folder, table, name=logs.CONVERSIONS, day="1970-01-01"):
    path = folder / name / f"day={day}" / "part-0.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def of_one_day(**changes):
    """The conversions, all on the first day."""
    return [{**row, "event_time_ms": place, **changes} for place, row in enumerate(CONVERSIONS)]


def test_a_table_comes_back_by_day_and_time(tmp_path):
    logs.write_table(tmp_path, logs.CONVERSIONS, pa.Table.from_pylist(CONVERSIONS))
    assert logs.days_of(tmp_path, logs.CONVERSIONS) == ["1970-01-01", "1970-01-02"]
    rows = logs.read_table(tmp_path, logs.CONVERSIONS).to_pylist()
    assert rows == sorted(CONVERSIONS, key=lambda row: row["event_time_ms"])


def test_some_days_can_be_read_alone(tmp_path):
    logs.write_table(tmp_path, logs.CONVERSIONS, pa.Table.from_pylist(CONVERSIONS))
    rows = logs.read_table(tmp_path, logs.CONVERSIONS, ["1970-01-02"]).to_pylist()
    assert rows == CONVERSIONS[:1]


def test_an_absent_column_with_a_default_is_filled(tmp_path):
    written(tmp_path, pa.Table.from_pylist(of_one_day()).drop_columns("value_usd"))
    table = logs.read_table(tmp_path, logs.CONVERSIONS)
    assert table["value_usd"].to_pylist() == [0.0, 0.0, 0.0]


def test_an_absent_required_column_is_named_with_its_file(tmp_path):
    path = written(tmp_path, pa.Table.from_pylist(CONVERSIONS).drop_columns("item_id"))
    with pytest.raises(
        logs.LogError, match="column 'item_id' is missing, expected dictionary"
    ) as e:
        logs.read_table(tmp_path, logs.CONVERSIONS)
    assert str(path) in str(e.value)


def test_a_wrong_type_is_named_with_what_was_expected(tmp_path):
    table = pa.Table.from_pylist([{**row, "event_time_ms": "soon"} for row in CONVERSIONS])
    written(tmp_path, table)
    with pytest.raises(logs.LogError, match="'event_time_ms' is string, expected int64"):
        logs.read_table(tmp_path, logs.CONVERSIONS)


def test_a_null_in_a_required_column_is_named_with_its_row(tmp_path):
    table = pa.Table.from_pylist([*CONVERSIONS[:2], {**CONVERSIONS[2], "user_id": None}])
    written(tmp_path, table)
    with pytest.raises(logs.LogError, match="row 2, column 'user_id' is null"):
        logs.read_table(tmp_path, logs.CONVERSIONS)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_named_with_its_row(tmp_path, value):
    table = pa.Table.from_pylist([CONVERSIONS[0], {**CONVERSIONS[1], "value_usd": value}])
    written(tmp_path, table)
    with pytest.raises(logs.LogError, match=r"row 1, column 'value_usd' is (nan|inf), expected"):
        logs.read_table(tmp_path, logs.CONVERSIONS)


def test_a_null_in_a_column_with_a_default_takes_it(tmp_path):
    table = pa.Table.from_pylist(of_one_day(value_usd=None)[:1])
    written(tmp_path, table.cast(logs.SCHEMAS[logs.CONVERSIONS]))
    assert logs.read_table(tmp_path, logs.CONVERSIONS)["value_usd"].to_pylist() == [0.0]


def test_a_truncated_file_is_named(tmp_path):
    path = written(tmp_path, pa.Table.from_pylist(CONVERSIONS))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(logs.LogError, match=r"part-0\.parquet: not a readable Parquet file"):
        logs.read_table(tmp_path, logs.CONVERSIONS)


def test_an_unknown_column_is_left_out(tmp_path):
    table = pa.Table.from_pylist(of_one_day(partition=3))
    written(tmp_path, table)
    found = logs.read_table(tmp_path, logs.CONVERSIONS)
    assert found.column_names == logs.SCHEMAS[logs.CONVERSIONS].names


def test_a_topic_without_files_is_empty_and_a_missing_directory_is_an_error(tmp_path):
    assert logs.read_table(tmp_path, logs.CLICKSTREAM).num_rows == 0
    with pytest.raises(logs.LogError, match="no such directory"):
        logs.read_table(tmp_path / "absent", logs.CLICKSTREAM)


def test_a_file_that_is_still_being_written_is_not_read(tmp_path):
    logs.write_table(tmp_path, logs.CONVERSIONS, pa.Table.from_pylist(CONVERSIONS))
    (tmp_path / logs.CONVERSIONS / "day=1970-01-01" / ".part-1.parquet.tmp").write_bytes(b"half")
    assert logs.read_table(tmp_path, logs.CONVERSIONS).num_rows == 3


def test_the_newest_version_of_an_item_counts(tmp_path):
    rows = [
        {"item_id": "i", "version": version, "content_type": "servicing", "urgency": urgency}
        for version, urgency in ((2, 0.5), (1, 0.1))
    ]
    logs.write_table(tmp_path, logs.ITEMS, pa.Table.from_pylist(rows))
    (item,) = logs.read_items(tmp_path)
    assert (item.version, item.urgency, item.attribution_window_days) == (2, 0.5, 30)


def test_an_item_outside_its_limits_is_named(tmp_path):
    rows = [{"item_id": "i", "version": 1, "content_type": "billboard"}]
    logs.write_table(tmp_path, logs.ITEMS, pa.Table.from_pylist(rows))
    with pytest.raises(logs.LogError, match="row 0, column 'content_type' is 'billboard', exp"):
        logs.read_items(tmp_path)


@pytest.mark.parametrize("name", logs.RECORDS)
def test_columns_are_the_fields_of_the_wire(name):
    assert logs.SCHEMAS[name].names == list(logs.RECORDS[name].__struct_fields__)


def test_topic_names_are_those_of_the_streams():
    from streams import topics

    inputs = {topic.name: topic.record for topic in topics.INPUTS}
    assert {name: inputs[name] for name in logs.RECORDS} == dict(logs.RECORDS)


def test_a_new_folder_may_be_anywhere_below_a_directory(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "new", tmp_path / "a" / "deep" / "one"):
        logs.check_new_folder(folder)
        logs.check_replaceable_folder(folder)


@pytest.mark.parametrize("below", ["", "sub", "sub/deeper"])
def test_a_file_is_no_place_for_a_folder(tmp_path, below):
    (tmp_path / "afile").write_text("kept")
    with pytest.raises(ValueError, match="afile is a file, expected a"):
        logs.check_new_folder(tmp_path / "afile" / below)
