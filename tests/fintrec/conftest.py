"""One small simulated bank that the tests of logs, timelines and data sets share."""

from pathlib import Path

import pytest

from fintrec.bank.simulate import BankSize, simulate

END_MS = 1_795_900_000_123


@pytest.fixture(scope="session")
def bank_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LOG_DIR of 60 users over 24 days."""
    log_dir = tmp_path_factory.mktemp("bank") / "log"
    simulate(BankSize("test", 60, 24), 7, END_MS, log_dir)
    return log_dir
