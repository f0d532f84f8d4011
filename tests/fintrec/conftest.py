"""What the tests share: one small simulated bank, and one thread for the models."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fintrec import calibration_report
from fintrec.bank.simulate import BankSize, simulate

END_MS = 1_795_900_000_123


@pytest.fixture(scope="session")
def bank_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LOG_DIR of 60 users over 24 days."""
    log_dir = tmp_path_factory.mktemp("bank") / "log"
    simulate(BankSize("test", 60, 24), 7, END_MS, log_dir)
    return log_dir


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """As Triton runs the models; two threads on small tensors wait for each other, too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def without_pictures() -> Iterator[None]:
    """`fintrec train` without its diagrams, half of what it costs on a small log. For modules where
    nothing looks at them; `test_reliability.py` and the verb's own tests do.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(calibration_report, "draw", lambda *_: None)
        yield
