"""Item sequences as text: what is read, how it is split, and which lines are refused."""

from pathlib import Path

import numpy as np
import pytest

from fintrec.public.item_sequences import SequenceFileError, from_lists, padded, read


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sequences.txt"
    path.write_text(text)
    return path


def test_last_item_is_the_test_target_and_the_one_before_validates(tmp_path: Path) -> None:
    data = read(written(tmp_path, "1 10 20 30 40\n2 20 10 50\n"))
    assert data.item_ids.tolist() == [10, 20, 30, 40, 50]
    assert [one.tolist() for one in data.training()] == [[1, 2], [2]]
    assert data.targets("validation").tolist() == [3, 1]
    assert [one.tolist() for one in data.histories("test")] == [[1, 2, 3], [2, 1]]
    assert data.targets("test").tolist() == [4, 5]
    assert (data.num_users, data.num_items) == (2, 5)


def test_ids_with_gaps_windows_line_ends_and_names_of_users_are_fine(tmp_path: Path) -> None:
    data = read(written(tmp_path, "anna 7 7000000000 9\r\nbob 9 7 9\r\n\n"))
    assert data.user_ids == ("anna", "bob")
    assert data.item_ids.tolist() == [7, 9, 7_000_000_000]
    assert data.targets("test").tolist() == [2, 2]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1 2 3 4\n2 5 x 6\n", r"line 2: item 2 of user 2 is 'x', expected an integer"),
        ("1 2 3 4\n2 5 6.0 6\n", r"line 2: item 2 of user 2 is '6\.0'"),
        ("1 2 3 4\n2 5 -6 6\n", r"line 2: item 2 of user 2 is '-6'"),
        ("1 2 3 0\n", r"line 1: item 3 of user 1 is '0', expected an integer from 1"),
        ("1 2 3 1_0\n", r"line 1: item 3 of user 1 is '1_0'"),
        ("1 2 3 99999999999999999999999\n", r"line 1: item 3 of user 1"),
        ("1 2 3 4\n2 5\n", r"line 2: user 2 has 1 items, expected at least 3"),
        ("1 2 3 4\n2\n", r"line 2: user 2 has 0 items"),
        ("1 2 3 4\n\n2 5 6 7\n", r"line 2: blank"),
        ("1 2 3 4\n1 5 6 7\n", r"line 2: user 1 again, after line 1"),
        ("", r"no users"),
        (" \n\n", r"no users"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(SequenceFileError, match=complaint):
        read(written(tmp_path, text))


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SequenceFileError, match="no such file"):
        read(tmp_path / "nowhere.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00 1 2")
    with pytest.raises(SequenceFileError, match="not a text file"):
        read(tmp_path / "binary")
    with pytest.raises(SequenceFileError, match="not a text file"):
        read(tmp_path)


def test_padding_keeps_the_newest_items_at_the_right() -> None:
    rows = padded([np.array([1, 2, 3, 4]), np.array([5])], width=3)
    assert rows.tolist() == [[2, 3, 4], [0, 0, 5]]
    assert padded([np.array([], dtype=np.int64)]).tolist() == [[0]]


def test_lists_and_files_give_the_same_sequences(tmp_path: Path) -> None:
    read_back = read(written(tmp_path, "1 4 2 9\n2 2 2 4 9\n"))
    listed = from_lists([[4, 2, 9], [2, 2, 4, 9]])
    assert listed.user_ids == read_back.user_ids
    assert listed.items.tolist() == read_back.items.tolist()
    assert listed.offsets.tolist() == read_back.offsets.tolist()
