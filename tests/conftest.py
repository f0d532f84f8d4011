"""The servers that integration tests share: one local stack a test session."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import settings

from streams.local_stack.stack import LocalStack
from streams.settings import Settings, load_settings

# As Triton runs the models (`streams/local_stack/servers.py`); read at torch's first product.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

# A slow example on a busy machine is no fault of the code.
settings.register_profile("fintrec", deadline=None)
settings.load_profile("fintrec")


@dataclass(frozen=True)
class RunningStack:
    """A local stack and the settings that point at it."""

    stack: LocalStack
    settings: Settings


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One real Kafka, store and Triton for the whole session, ended with it."""
    with LocalStack(tmp_path_factory.mktemp("stack")) as local:
        yield RunningStack(local, load_settings(local.dir, environ={}))
