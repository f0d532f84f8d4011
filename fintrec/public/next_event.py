"""Next event of a case: what happens next, given everything before it.

Protocol: kinds are activity with lifecycle; every case ends in END, which is to be predicted as well.
Cases by start, the first 80 % train, the last 20 % test. Each event from a case's 2nd on is predicted
from those before it.

Our decoder learns from the first 90 % of the training cases and keeps the weights that do best on
the rest of them; the test cases are judged once. It sees the log's order (`upto`): events of one
instant are common in such a log, 5 % of all, and the paper's mask (`before`) hides those of the very
instant. Which of the two was chosen on validation; docs/public_data.md has both.
"""

from collections.abc import Callable
from typing import Any, Final

from fintrec.learning.loop import Progress
from fintrec.public.event_log import EventLog
from fintrec.public.event_series import cases, with_end
from fintrec.public.kind_models import KindSettings, judge, train_decoder
from fintrec.public.ngrams import fit, quality

TRAIN_SHARE: Final = 0.8
FEWEST_CASES: Final = 3  # one to learn from, one to validate on, one to test on
ORDERS: Final = {"bigram": 1, "3-gram": 2, "order-5 backoff": 5}
MIN_COUNT: Final = 10
VALIDATION_SHARE: Final = 0.1  # of the training cases, the last of them
GOAL_NLL: Final = 0.467
SETTINGS: Final = KindSettings(batch_tokens=1024, epochs=12)


def num_train_cases(num_cases: int) -> int:
    """Cases that train, of at least FEWEST_CASES."""
    return int(TRAIN_SHARE * num_cases)


def ngram_quality(log: EventLog) -> dict[str, dict[str, float]]:
    """The n-grams on the test cases: fitted on all training cases."""
    cases, num_train = with_end(log), num_train_cases(log.num_cases)
    train, test = cases.between(0, num_train), cases.between(num_train, len(cases))
    return {name: quality(fit(train, order, MIN_COUNT), test) for name, order in ORDERS.items()}


def decoder_quality(
    log: EventLog,
    seed: int,
    budget_minutes: float | None,
    report: Callable[[Progress], None],
    settings: KindSettings = SETTINGS,
) -> dict[str, Any]:
    """Our decoder, trained with a seed: its history, validation and test."""
    num_train = num_train_cases(log.num_cases)
    num_fit = int((1 - VALIDATION_SHARE) * num_train)
    series = cases(log)
    validation = series.between(num_fit, num_train)
    decoder, history = train_decoder(
        series.between(0, num_fit), validation, settings, seed, budget_minutes, report
    )
    return {
        "training": history,
        "validation": judge(decoder, validation, settings),
        "test": judge(decoder, series.between(num_train, log.num_cases), settings),
    }
