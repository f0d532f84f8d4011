"""Look-ups and standardisation inside the artefact."""

import torch

from features.vocabulary import NONE, UNKNOWN, fingerprint
from fintrec.models.embedding import ClosedField, OpenField, Standardise
from tests.fintrec.tiny import VOCABULARY


def test_fingerprints_find_their_rows_and_strangers_are_unknown() -> None:
    prints = VOCABULARY.fingerprints("item")
    field = OpenField(prints, 4)
    asked = [*prints, 0, fingerprint("item", "stranger"), 2**31 - 1, -5, 1]
    expected = [*range(2, 2 + len(prints)), NONE, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN]
    assert field.rows(torch.tensor(asked)).tolist() == expected
    assert field.rows(torch.tensor([asked])).tolist() == [expected]


def test_an_empty_vocabulary_knows_only_none() -> None:
    field = OpenField((), 4)
    assert field.rows(torch.tensor([0, 7])).tolist() == [NONE, UNKNOWN]
    assert field(torch.tensor([0, 7])).shape == (2, 4)


def test_a_code_beyond_the_list_counts_as_unknown() -> None:
    field = ClosedField(3, 4)
    found = field(torch.tensor([0, 1, 2, 3, 250, -1]))
    expected = field.table.weight[[0, 1, 2, 1, 1, 1]]
    torch.testing.assert_close(found, expected)


def test_standardise_scales_clamps_and_leaves_constants_alone() -> None:
    scale = Standardise(3)
    scale.fit(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([2.0, 0.0, 1e-3]))
    found = scale(torch.tensor([[3.0, 2.5, 5.0], [1.0, 2.0, 6.0]], dtype=torch.float16))
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.0, 8.0]]))
