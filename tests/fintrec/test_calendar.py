"""The calendar of the artefact against the standard library's."""

from datetime import UTC, datetime, timedelta

import numpy as np
import torch

from features.spec import HOUR_MS
from fintrec.models.calendar import (
    HALF_LIVES_H,
    HalfLives,
    hour,
    order_and_time,
    sinusoids,
    week_of_month,
    weekday,
)


def test_calendar_agrees_with_the_standard_library() -> None:
    seconds = np.random.default_rng(0).integers(0, 4_102_444_800, 3000)  # 1970 to 2100
    moments = [datetime.fromtimestamp(int(s), UTC) for s in seconds]
    moments += [datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC), datetime(2000, 3, 1, tzinfo=UTC)]
    times = torch.tensor([int(moment.timestamp() * 1000) for moment in moments])
    assert weekday(times).tolist() == [moment.weekday() for moment in moments]
    assert hour(times).tolist() == [moment.hour for moment in moments]
    assert week_of_month(times).tolist() == [(moment.day - 1) // 7 for moment in moments]


def test_every_day_of_a_leap_cycle_has_its_week() -> None:
    days = [datetime(2023, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(4 * 366)]
    times = torch.tensor([int(day.timestamp() * 1000) for day in days])
    assert week_of_month(times).tolist() == [(day.day - 1) // 7 for day in days]


def test_sinusoids_are_the_textbook_table() -> None:
    table = sinusoids(5, 6)
    for place in range(5):
        for pair in range(3):
            angle = place / 10_000 ** (2 * pair / 6)
            expected = torch.tensor([np.sin(angle), np.cos(angle)], dtype=torch.float32)
            torch.testing.assert_close(table[place, 2 * pair : 2 * pair + 2], expected)


def test_time_scales_positions_and_can_be_switched_off() -> None:
    torch.manual_seed(0)
    order = torch.tensor([[0, 1, 300]])
    times = torch.tensor([[1_750_000_000_000, 1_750_000_100_000, 1_750_090_000_000]])
    elapsed = torch.rand(1, 3, 1) * 20
    timed, plain = order_and_time("product", 8, 1), order_and_time("none", 8, 1)
    positions = plain(order, times, elapsed)
    torch.testing.assert_close(positions[0], sinusoids(256, 8)[[0, 1, 255]])
    factor = timed(order, times, elapsed) / positions
    expected = (
        timed.weekday(weekday(times))
        + timed.week_of_month(week_of_month(times))
        + timed.hour(hour(times))
        + timed.elapsed(elapsed / 20)
    )
    solid = positions.abs() > 1e-3
    torch.testing.assert_close(factor[solid], expected[solid])


def test_learned_time_is_added_as_one_line_and_sines() -> None:
    torch.manual_seed(0)
    order = torch.tensor([[0, 1, 2]])
    times = torch.tensor([[1_750_000_000_000, 1_750_000_100_000, 1_750_090_000_000]])
    elapsed = torch.rand(1, 3, 2) * 20
    learned = order_and_time("learned", 8, 2)
    added = learned(order, times, elapsed) - sinusoids(256, 8)[:3]
    for place, moment in enumerate(times[0].tolist()):
        when = datetime.fromtimestamp(moment / 1000, UTC)
        day = (when.hour + when.minute / 60 + when.second / 3600) / 24
        inputs = [day, (when.weekday() + day) / 7, ((when.day - 1) // 7) / 5]
        inputs += (elapsed[0, place] / 20).tolist()
        turns = learned.frequency(torch.tensor(inputs, dtype=torch.float32))
        expected = torch.cat((turns[:1], torch.sin(turns[1:])))
        torch.testing.assert_close(added[0, place], expected, atol=1e-4, rtol=1e-3)


def test_what_is_left_of_an_elapsed_time_halves_with_each_half_life() -> None:
    hours = torch.tensor([0.0, *HALF_LIVES_H, 2 * HALF_LIVES_H[-1]], dtype=torch.float64)
    log_ms = torch.log1p(hours * HOUR_MS).float()
    never = torch.tensor([-float(np.log(2))])  # -1 through the encoder's signed log
    found = HalfLives()(torch.cat((log_ms, never))[None, :, None])[0]
    expected = 2.0 ** (-hours[:, None] / torch.tensor(HALF_LIVES_H, dtype=torch.float64))
    torch.testing.assert_close(found[:-1, 1:], expected.float(), atol=1e-4, rtol=1e-4)
    assert not found[-1, 1:].any()


def test_half_lives_tell_days_apart_that_the_log_hardly_does() -> None:
    torch.manual_seed(0)
    days = torch.log1p(torch.tensor([1.0, 30.0]) * 24 * HOUR_MS)[None, :, None]
    order, times = torch.zeros(1, 2, dtype=torch.int64), torch.full((1, 2), 1_750_000_000_000)
    by_log = order_and_time("product", 64, 1)(order, times, days)[0]
    by_half_lives = order_and_time("product", 64, 1, "half_lives")(order, times, days)[0]
    apart = [(one[0] - one[1]).norm() for one in (by_log, by_half_lives)]
    assert apart[1] > 5 * apart[0]
