"""Item-kNN against a slow twin."""

import numpy as np
import pytest

from fintrec.public.full_ranking import metrics, ranks
from fintrec.public.item_sequences import padded, read
from fintrec.public.neighbours import NeighbourSettings, fit
from tests.fintrec.real_data import folder_of

SETTINGS = NeighbourSettings(reach=3, damping=0.3, decay=0.7, recent=4)


def slow_scores(sequences: list[list[int]], history: list[int], num_items: int) -> list[float]:
    """Score of each item by the definition, one pair at a time."""
    occurrences = [sum(one.count(item) for one in sequences) for item in range(num_items + 1)]

    def affinity(mine: int, other: int) -> float:
        total = 0.0
        for one in sequences:
            for i, left in enumerate(one):
                for j in range(i + 1, min(i + SETTINGS.reach + 1, len(one))):
                    if mine != other and {left, one[j]} == {mine, other}:
                        total += 1 / (j - i)
        if not total:
            return 0.0
        return total / (occurrences[mine] * occurrences[other]) ** SETTINGS.damping

    return [
        sum(
            SETTINGS.decay**age * affinity(item, other)
            for age, item in enumerate(reversed(history[-SETTINGS.recent :]))
        )
        for other in range(1, num_items + 1)
    ]


def test_scores_equal_those_of_the_definition() -> None:
    rng = np.random.default_rng(1)
    sequences = [rng.integers(1, 10, rng.integers(1, 12)).tolist() for _ in range(25)]
    model = fit([np.array(one) for one in sequences], 12, SETTINGS)
    histories = [[1, 2, 3, 4, 5, 6], [9], [3, 3, 12]]
    found = model.score(padded([np.array(one) for one in histories]))
    wanted = [slow_scores(sequences, one, 12) for one in histories]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_empty_history_scores_nothing() -> None:
    model = fit([np.array([1, 2, 3])], 3)
    assert model.score(np.array([[0, 0], [0, 1]])).tolist()[0] == [0.0, 0.0, 0.0]


def test_item_out_of_range_and_senseless_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="items are 1 to 4, expected all from 1 to 3"):
        fit([np.array([1, 4])], 3)
    with pytest.raises(ValueError, match=r"decay is 0\.0"):
        NeighbourSettings(decay=0.0)
    with pytest.raises(ValueError, match="reach is 0"):
        NeighbourSettings(reach=0)


def test_beauty_is_ranked_better_than_by_the_known_baseline() -> None:
    data = read(folder_of("s3rec_amazon") / "Beauty.txt")
    found = metrics(ranks(data, "test", fit(data.training(), data.num_items).score))
    assert found["hr@10"] > 0.0654
    assert found["ndcg@10"] > 0.0396
