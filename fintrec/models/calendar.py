"""Order and time of an interaction: p_t * e_t (FinTRec section 3.2, "Order and Temporal Encoding").

- p_t: sinusoids of the row's place *within its visit*. The paper asks for the intra-session order;
  such a place depends neither on the padding bucket nor on how far the window has slid, so a
  stored or cached state stays right.
- e_t: day of week, week of month and hour of day (UTC), and elapsed times on a log scale. The
  calendar is integer arithmetic on the int64 milliseconds, inside the artefact.
- the element-wise product of the two is what the model adds to the token embedding; e_t starts
  near one, so an untrained model keeps plain positions.
- two alternatives stand beside it: p_t alone, and p_t plus a learned vector of the time, whose
  frequencies are learned as well (Time2Vec: one linear part, the rest sines)

Shapes: B batch, T history, D width, E elapsed times
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.spec import DAY_MS, HOUR_MS
from fintrec.models.config import Elapsed, TimeEncoding

NUM_WEEKDAYS = 7
NUM_HOURS = 24
NUM_WEEKS = 5
NUM_PLACES = 256  # a retained history has fewer rows, so no visit is longer
LOG_SCALE = 1.0 / 20.0  # log(1 + ms) of a year is 24: brings elapsed times to about one
HALF_LIVES_H = (0.5, 3.0, 12.0, 24.0, 72.0, 168.0, 336.0, 720.0)


# Constants come in as defaults because TorchScript reads no module globals.
def weekday(times: Tensor, day_ms: int = DAY_MS) -> Tensor:
    """Day of week of int64 milliseconds, Monday 0."""
    return (times // day_ms + 3) % 7  # 1 January 1970 was a Thursday


def hour(times: Tensor, day_ms: int = DAY_MS, hour_ms: int = HOUR_MS) -> Tensor:
    """Hour of day, 0..23 UTC."""
    return (times % day_ms) // hour_ms


def week_of_month(times: Tensor, day_ms: int = DAY_MS) -> Tensor:
    """Week of month, 0..4: days 1-7 are week 0."""
    # Days are counted from 1 March of year 0: leap days come last, so months need no table.
    days = times // day_ms + 719_468
    day_of_era = days % 146_097
    leaps = day_of_era // 1_460 - day_of_era // 36_524 + day_of_era // 146_096
    year = (day_of_era - leaps) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    month = (5 * day_of_year + 2) // 153
    return (day_of_year - (153 * month + 2) // 5) // 7


def sinusoids(num_places: int, d_model: int) -> Tensor:
    """Sinusoidal position table, (num_places, D)."""
    place = torch.arange(num_places, dtype=torch.float64)[:, None]
    rate = torch.exp(torch.arange(0, d_model, 2, dtype=torch.float64) * (-math.log(1e4) / d_model))
    return (
        torch.stack((torch.sin(place * rate), torch.cos(place * rate)), dim=-1).flatten(1).float()
    )


class Order(nn.Module):
    """p_t of every token, and nothing of its time."""

    places: Tensor

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.last_place = NUM_PLACES - 1
        self.register_buffer("places", sinusoids(NUM_PLACES, d_model), persistent=False)

    def forward(self, order_BT: Tensor, times_BT: Tensor, elapsed_BTE: Tensor) -> Tensor:
        """(B, T, D)."""
        return functional.embedding(order_BT.clamp(0, self.last_place), self.places)


class LogElapsed(nn.Module):
    """Elapsed times as they come, log(1 + ms), brought to about one."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = LOG_SCALE

    def forward(self, elapsed_BTE: Tensor) -> Tensor:
        """(B, T, E)."""
        return elapsed_BTE * self.log_scale


class HalfLives(nn.Module):
    """The log, and 2^(-elapsed / half-life) for each half-life; never (negative) is long ago."""

    half_lives_ms: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = LOG_SCALE
        half_lives_ms = torch.tensor(HALF_LIVES_H) * HOUR_MS
        self.register_buffer("half_lives_ms", half_lives_ms, persistent=False)

    def forward(self, elapsed_BTE: Tensor) -> Tensor:
        """(B, T, E * (1 + half-lives))."""
        ms_BTE1 = torch.expm1(elapsed_BTE)[:, :, :, None]
        left_BTEL = torch.exp2(-ms_BTE1 / self.half_lives_ms) * (ms_BTE1 >= 0)
        return torch.cat((elapsed_BTE * self.log_scale, left_BTEL.flatten(2)), dim=2)


class OrderAndTime(nn.Module):
    """p_t * e_t of every token."""

    def __init__(self, d_model: int, num_elapsed: int, elapsed: Elapsed = "log") -> None:
        super().__init__()
        self.scaled = HalfLives() if elapsed == "half_lives" else LogElapsed()
        if elapsed == "half_lives":
            num_elapsed *= 1 + len(HALF_LIVES_H)
        self.order = Order(d_model)
        self.weekday = nn.Embedding(NUM_WEEKDAYS, d_model)
        self.week_of_month = nn.Embedding(NUM_WEEKS, d_model)
        self.hour = nn.Embedding(NUM_HOURS, d_model)
        self.elapsed = nn.Linear(num_elapsed, d_model)
        for table in (self.weekday, self.week_of_month, self.hour):
            nn.init.normal_(table.weight, std=0.1)
        nn.init.normal_(self.elapsed.weight, std=0.1)
        nn.init.ones_(self.elapsed.bias)

    def forward(self, order_BT: Tensor, times_BT: Tensor, elapsed_BTE: Tensor) -> Tensor:
        """(B, T, D); `elapsed_BTE` is log(1 + ms) already."""
        place_BTD = self.order(order_BT, times_BT, elapsed_BTE)
        time_BTD = (
            self.weekday(weekday(times_BT))
            + self.week_of_month(week_of_month(times_BT))
            + self.hour(hour(times_BT))
            + self.elapsed(self.scaled(elapsed_BTE))
        )
        return place_BTD * time_BTD


class OrderAndLearnedTime(nn.Module):
    """p_t plus a learned vector of the same inputs: the first column linear, the others sines."""

    def __init__(self, d_model: int, num_elapsed: int) -> None:
        super().__init__()
        self.log_scale = LOG_SCALE
        self.day_ms = DAY_MS
        self.num_weekdays = NUM_WEEKDAYS
        self.num_weeks = NUM_WEEKS
        self.order = Order(d_model)
        self.frequency = nn.Linear(3 + num_elapsed, d_model)
        nn.init.normal_(self.frequency.weight, std=2 * math.pi)  # about one turn a day, a week, ...

    def forward(self, order_BT: Tensor, times_BT: Tensor, elapsed_BTE: Tensor) -> Tensor:
        """(B, T, D); `elapsed_BTE` is log(1 + ms) already."""
        day = (times_BT % self.day_ms).to(torch.float32) / self.day_ms
        week = (weekday(times_BT).to(torch.float32) + day) / self.num_weekdays
        month = week_of_month(times_BT).to(torch.float32) / self.num_weeks
        calendar_BTE = torch.stack((day, week, month), dim=2)
        turns_BTD = self.frequency(torch.cat((calendar_BTE, elapsed_BTE * self.log_scale), dim=2))
        time_BTD = torch.cat((turns_BTD[:, :, :1], torch.sin(turns_BTD[:, :, 1:])), dim=2)
        return self.order(order_BT, times_BT, elapsed_BTE) + time_BTD


def order_and_time(
    encoding: TimeEncoding, d_model: int, num_elapsed: int, elapsed: Elapsed = "log"
) -> nn.Module:
    """The module of a configuration's `time_encoding`; `elapsed` is of the product alone."""
    if encoding == "product":
        return OrderAndTime(d_model, num_elapsed, elapsed)
    return OrderAndLearnedTime(d_model, num_elapsed) if encoding == "learned" else Order(d_model)
