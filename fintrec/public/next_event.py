"""Next event of a case: what happens next, given everything before it.

Protocol: kinds are activity with lifecycle; every case ends in END, which is to be predicted as well.
Cases by start, the first 80 % train, the last 20 % test. Each event from a case's 2nd on is predicted
from those before it.
"""

from typing import Final

import numpy as np

from fintrec.logs import LogError
from fintrec.public.event_log import EventLog
from fintrec.public.ngrams import fit, quality
from fintrec.public.ragged import Ragged

TRAIN_SHARE: Final = 0.8
ORDERS: Final = {"bigram": 1, "3-gram": 2, "order-5 backoff": 5}
MIN_COUNT: Final = 10


def with_end(log: EventLog) -> Ragged:
    """The kinds of all cases, END (the last kind) after each."""
    num_kinds = len(log.kinds)
    kind_N = np.insert(log.kind_N, log.start_C1[1:], num_kinds)
    return Ragged(kind_N, log.start_C1 + np.arange(log.num_cases + 1), num_kinds + 1)


def num_train_cases(num_cases: int) -> int:
    """Cases that train; LogError where one part would be empty."""
    num_train = int(TRAIN_SHARE * num_cases)
    if not 0 < num_train < num_cases:
        raise LogError(f"{num_cases} cases, expected at least 2: the first 80 % train")
    return num_train


def ngram_quality(log: EventLog) -> dict[str, dict[str, float]]:
    """The n-grams on the test cases: fitted on all training cases."""
    cases, num_train = with_end(log), num_train_cases(log.num_cases)
    train, test = cases.between(0, num_train), cases.between(num_train, len(cases))
    return {name: quality(fit(train, order, MIN_COUNT), test) for name, order in ORDERS.items()}
