"""The ledger: append-only, whole lines, and the order in which rollbacks go back."""

import random
from pathlib import Path

import pytest

from features.errors import ConfigurationError
from fintrec import promotions
from fintrec.promotions import (
    BEGIN,
    PROMOTE,
    ROLLBACK,
    WITHDRAW,
    Entry,
    PromotionRefused,
    append,
    before,
    exclusive,
    highest,
    ledger_path,
    published,
    read_ledger,
    unfinished,
)


def entry(action: str, version: int, version_before: int | None, sha: str = "", **more) -> Entry:
    return Entry(1_000 + version, "somebody", action, version, version_before, sha, **more)


def test_what_is_appended_is_read_back_in_order(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    assert read_ledger(repository) == []
    wrote = [
        append(repository, entry(BEGIN, 1, None, "a", intent=PROMOTE)),
        append(repository, entry(PROMOTE, 1, None, "a", checkpoint="/a", note="zum Test: ö")),
    ]
    assert read_ledger(repository) == wrote
    assert ledger_path(repository) == tmp_path / "models.ledger.jsonl"
    assert not repository.exists(), "nothing inside the folder that Triton reads"


def test_a_torn_last_line_was_never_written_and_is_replaced(tmp_path: Path) -> None:
    append(tmp_path / "models", entry(PROMOTE, 1, None))
    path = ledger_path(tmp_path / "models")
    with path.open("a") as file:
        file.write('{"at_ms": 1, "by": "some')
    assert [one.version for one in read_ledger(tmp_path / "models")] == [1]
    append(tmp_path / "models", entry(PROMOTE, 2, 1))
    assert [one.version for one in read_ledger(tmp_path / "models")] == [1, 2]
    assert path.read_text().count("\n") == 2


@pytest.mark.parametrize("line", ["{}", "x", '{"action": "destroy"}', "[]"])
def test_a_line_that_is_no_entry_is_an_error_with_its_place(tmp_path: Path, line: str) -> None:
    append(tmp_path / "models", entry(PROMOTE, 1, None))
    with ledger_path(tmp_path / "models").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigurationError, match=r"ledger\.jsonl:2: not an entry"):
        read_ledger(tmp_path / "models")


def test_only_one_change_at_a_time(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path / "models"),
        pytest.raises(PromotionRefused, match="another promotion"),
        exclusive(tmp_path / "models"),
    ):
        pass
    with exclusive(tmp_path / "models"):
        pass


def test_a_begin_without_its_end_is_unfinished() -> None:
    begun = entry(BEGIN, 2, 1, intent=PROMOTE)
    assert unfinished([entry(PROMOTE, 1, None), begun]) == begun
    assert unfinished([begun, entry(WITHDRAW, 2, 1)]) is None
    assert unfinished([]) is None
    assert highest([entry(PROMOTE, 1, None), begun]) == 2


def test_rollbacks_go_back_one_by_one_and_a_promotion_adds_again() -> None:
    told = [entry(PROMOTE, 1, None, "a"), entry(PROMOTE, 2, 1, "b"), entry(PROMOTE, 3, 2, "c")]
    assert before(told, 3).version == 2
    told.append(entry(ROLLBACK, 4, 3, "b", restores=2))
    assert [one.checkpoint_sha256 for one in published(told, 4)] == ["a", "b"]
    assert before(told, 4).version == 1
    told.append(entry(ROLLBACK, 5, 4, "a", restores=1))
    with pytest.raises(PromotionRefused, match="version 5 is served, and no model was promoted"):
        before(told, 5)
    told.append(entry(PROMOTE, 6, 5, "c"))
    assert [one.checkpoint_sha256 for one in published(told, 6)] == ["a", "c"]
    assert before(told, 6).version == 5


def test_a_version_that_was_exported_by_hand_is_one_to_go_back_to() -> None:
    told = [entry(PROMOTE, 2, 1, "b")]
    assert [one.version for one in published(told, 2)] == [1, 2]
    assert before(told, 3).version == 2  # 3 was exported after it
    told.append(entry(PROMOTE, 4, 3, "d"))
    assert [one.version for one in published(told, 4)] == [1, 2, 3, 4]


def test_what_failed_is_nothing_to_go_back_to() -> None:
    told = [
        entry(PROMOTE, 1, None, "a"),
        entry(BEGIN, 2, 1, "b", intent=PROMOTE),
        entry(WITHDRAW, 2, 1, "b"),
    ]
    assert [one.version for one in published(told, 1)] == [1]
    with pytest.raises(PromotionRefused, match="nothing is served"):
        before([], None)


def test_any_order_of_promotions_and_rollbacks_is_that_of_a_stack() -> None:
    rng = random.Random(3)
    for _ in range(100):
        told: list[Entry] = []
        models: list[str] = []  # what a person would keep on paper
        for version in range(1, 15):
            top = version - 1 if models else None
            if len(models) > 1 and rng.random() < 0.5:
                target = before(told, top)
                models.pop()
                assert target.checkpoint_sha256 == models[-1]
                told.append(entry(ROLLBACK, version, top, models[-1], restores=target.version))
            else:
                models.append(f"model {version}")
                told.append(entry(PROMOTE, version, top, models[-1]))
        found = published(told, 14)
        assert [one.checkpoint_sha256 for one in found] == models
        assert promotions.highest(told) == 14
