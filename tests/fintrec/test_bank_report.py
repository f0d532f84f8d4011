from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from features.spec import DAY_MS, HOUR_MS
from fintrec import logs
from fintrec.bank import marginals, plots
from fintrec.bank.report import PAGE, insert, main
from fintrec.bank.simulate import BankSize, simulate

END_MS = 1_795_900_000_123
MARKED = "# A page\n\n<!-- bank:report -->\nold\n<!-- /bank:report -->\n\nmore\n"


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "log"
    simulate(BankSize("test", 250, 24, 120), 11, END_MS, folder)
    return folder


def test_the_report_fills_its_page_and_draws_every_plot(log_dir, tmp_path):
    (tmp_path / PAGE).write_text(MARKED)
    argv = [str(log_dir), "--out", str(tmp_path), "--days", "9", "--label-days", "4"]
    result = CliRunner().invoke(main, argv, catch_exceptions=False)
    assert result.exit_code == 0
    page = (tmp_path / PAGE).read_text()
    assert page.startswith("# A page\n")
    assert page.endswith("\nmore\n")
    assert "old" not in page
    assert "| users | 30M+ | 250 |" in page
    assert "nan" not in page
    for name in plots.PLOTS:
        assert f"images/bank_{name}.svg" in page
        assert (tmp_path / "images" / f"bank_{name}.svg").stat().st_size > 5_000


def test_the_page_says_under_each_plot_what_is_drawn():
    page = (Path(__file__).parents[2] / "docs" / PAGE).read_text()
    for name, plot in plots.PLOTS.items():
        assert f"![{plot.__doc__.rstrip('.')}](images/bank_{name}.svg)" in page


def test_a_page_without_a_place_for_the_report_is_refused():
    with pytest.raises(ValueError, match="bank:report"):
        insert("# A page\n", "text")


def test_attribution_finds_the_newest_claim_within_the_window(log_dir):
    """A slow twin over the events one by one."""
    items = {item.item_id: item for item in logs.read_items(log_dir)}
    events = {}
    for row in logs.read_table(log_dir, logs.CLICKSTREAM).to_pylist():
        if row["action"] in ("impression", "click"):
            key = (row["user_id"], row["item_id"], row["action"])
            events.setdefault(key, []).append(row["event_time_ms"])
    counts = {"click": 0, "exposure only": 0, "neither": 0}
    conversions = logs.read_table(log_dir, logs.CONVERSIONS).to_pylist()
    for row in conversions:
        window = items[row["item_id"]].attribution_window_days * DAY_MS
        found = "neither"
        for action, name in (("impression", "exposure only"), ("click", "click")):
            times = events.get((row["user_id"], row["item_id"], action), [])
            if any(0 < row["event_time_ms"] - time_ms <= window for time_ms in times):
                found = name
        counts[found] += 1
    shares = marginals.attribution(marginals.read(log_dir))
    assert shares == pytest.approx({name: n / len(conversions) for name, n in counts.items()})
    assert min(counts.values()) > 0


def test_the_newest_age_is_that_of_the_same_key_strictly_before():
    key, time_ms = np.array([5, 5, 9]), np.array([0, HOUR_MS, HOUR_MS])
    at, when = np.array([5, 5, 7, 9]), np.array([HOUR_MS, 3 * HOUR_MS, 3 * HOUR_MS, HOUR_MS])
    found = marginals._newest_age(key, time_ms, at, when)
    assert found.tolist() == [HOUR_MS, 2 * HOUR_MS, marginals.AXIS_MS, marginals.AXIS_MS]
    nothing = np.empty(0, np.int64)
    assert marginals._newest_age(nothing, nothing, at, when).tolist() == [marginals.AXIS_MS] * 4
