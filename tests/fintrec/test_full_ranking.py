"""Full ranking against a slow twin, its rule for ties, and the oracle on Amazon Beauty."""

import math

import numpy as np
import pytest

from fintrec.public import item_popularity
from fintrec.public.full_ranking import CUTOFFS, metrics, ranks
from fintrec.public.item_sequences import IntArray, ItemSequences, Part, from_lists, read
from tests.fintrec.real_data import folder_of


def random_sequences(seed: int, users: int = 40, items: int = 30) -> ItemSequences:
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(1, items + 1, rng.integers(3, 70)).tolist() for _ in range(users)]
    return from_lists([*sequences, list(range(1, items + 1))])


def coarse_scores(padded_BT: IntArray) -> np.ndarray:
    """Scores that depend on the newest item alone and tie often."""
    newest_B = padded_BT[:, -1]
    return ((newest_B[:, None] * np.arange(1, 31)[None] * 7) % 11).astype(np.float32)


def slow_metrics(data: ItemSequences, part: Part) -> dict[str, float]:
    """The same by sorting a list of candidates for each user."""
    found = {f"{name}@{cutoff}": 0.0 for cutoff in CUTOFFS for name in ("hr", "ndcg")}
    for history, target in zip(data.histories(part), data.targets(part), strict=True):
        scores = coarse_scores(history[-50:][None])[0]
        candidates = [item for item in range(1, 31) if item not in set(history.tolist())]
        if target not in candidates:
            continue
        # Of equal scores the target comes last.
        candidates.sort(key=lambda item: (-scores[item - 1], item == target))
        place = candidates.index(target)
        for cutoff in CUTOFFS:
            if place < cutoff:
                found[f"hr@{cutoff}"] += 1 / data.num_users
                found[f"ndcg@{cutoff}"] += 1 / math.log2(place + 2) / data.num_users
    return found


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_metrics_equal_those_of_a_sorted_list(part: Part, seed: int) -> None:
    data = random_sequences(seed)
    assert metrics(ranks(data, part, coarse_scores)) == pytest.approx(slow_metrics(data, part))


def test_equal_scores_for_all_get_the_worst_rank() -> None:
    data = from_lists([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 6]])
    flat = ranks(data, "test", lambda rows: np.zeros((len(rows), 6), dtype=np.float32))
    assert flat.tolist() == [2, 1]  # what the masks leave: two candidates, and one


def test_model_without_opinion_gets_no_hit_among_many_items() -> None:
    data = from_lists([list(range(start, start + 5)) for start in range(1, 200)])
    constant = ranks(data, "test", lambda rows: np.ones((len(rows), data.num_items), np.float32))
    assert set(metrics(constant).values()) == {0.0}


def test_items_of_the_history_are_no_candidates_and_a_known_target_is_a_miss() -> None:
    data = from_lists([[1, 2, 3, 4], [1, 2, 3, 1]])

    def prefers_low_ids(rows: IntArray) -> np.ndarray:
        return np.tile(np.array([4, 3, 2, 1], dtype=np.float32), (len(rows), 1))

    assert ranks(data, "test", prefers_low_ids).tolist() == [1, 5]


def test_whole_history_is_masked_and_the_newest_fifty_are_shown() -> None:
    data = from_lists([list(range(1, 71))])
    widths = []

    def prefers_low_ids(rows: IntArray) -> np.ndarray:
        widths.append(rows.shape[1])
        return -np.arange(70, dtype=np.float32)[None]

    assert ranks(data, "test", prefers_low_ids).tolist() == [1]
    assert widths == [50]


def test_chosen_users_get_the_ranks_they_have_among_all() -> None:
    data = random_sequences(3)
    everyone = ranks(data, "test", coarse_scores)
    some = np.array([7, 0, 21])
    assert ranks(data, "test", coarse_scores, some).tolist() == everyone[some].tolist()


def test_scores_of_another_shape_or_no_number_are_refused() -> None:
    data = from_lists([[1, 2, 3]])
    with pytest.raises(ValueError, match=r"shape \(1, 2\), expected \(1, 3\)"):
        ranks(data, "test", lambda rows: np.zeros((1, 2), dtype=np.float32))
    with pytest.raises(ValueError, match="NaN"):
        ranks(data, "test", lambda rows: np.full((1, 3), np.nan, dtype=np.float32))


def test_popularity_of_all_interactions_hits_the_oracle_of_amazon_beauty() -> None:
    data = read(folder_of("s3rec_amazon") / "Beauty.txt")
    assert (data.num_users, data.num_items, len(data.items)) == (22_363, 12_101, 198_502)
    oracle = item_popularity.count([data.items], data.num_items)
    found = {
        name: round(value, 4) for name, value in metrics(ranks(data, "test", oracle.score)).items()
    }
    assert (found["hr@5"], found["ndcg@5"]) == (0.0080, 0.0044)
    assert (found["hr@10"], found["ndcg@10"]) == (0.0152, 0.0068)
    assert (found["hr@20"], found["ndcg@20"]) == (0.0217, 0.0084)
