"""How the `pytorch` backend reads a configuration, without a server."""

import importlib
import sys
from types import ModuleType

import pytest


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The backend's module; Triton's own module exists only in Triton's process."""
    monkeypatch.setitem(
        sys.modules, "triton_python_backend_utils", ModuleType("triton_python_backend_utils")
    )
    return importlib.import_module("streams.local_stack.pytorch_backend.model")


@pytest.mark.parametrize(
    ("names", "arguments", "expected"),
    [
        (["valid", "tokens"], ["tokens", "valid"], ["tokens", "valid"]),
        (["INPUT__10", "INPUT__2"], ["a", "b"], ["INPUT__2", "INPUT__10"]),
        (["b", "a"], [], ["b", "a"]),
        (["a", "other"], ["other", "b"], ["a", "other"]),
    ],
)
def test_tensors_are_ordered_by_argument_then_by_index_then_as_given(
    backend: ModuleType, names: list[str], arguments: list[str], expected: list[str]
) -> None:
    assert backend.forward_order(names, arguments) == expected


def test_thread_counts_default_to_one_and_must_be_positive(backend: ModuleType) -> None:
    name = "INTRA_OP_THREAD_COUNT"
    assert backend._thread_count({}, name) == 1
    assert backend._thread_count({name: {"string_value": "3"}}, name) == 3
    with pytest.raises(ValueError, match="INTRA_OP_THREAD_COUNT is 0, expected at least 1"):
        backend._thread_count({name: {"string_value": "0"}}, name)
