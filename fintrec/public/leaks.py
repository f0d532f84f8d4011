"""Leak checks of offer conversion, at run time: what a model reads, and figures too good to be true.

An offer is judged as of the instant it was sent. What came after it in its case tells how it ended,
so a model that reads one such row looks brilliant and is worth nothing.

Shapes: O offers, T places, R rows of a log
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from features.errors import FintrecError
from fintrec.public.event_log import EventLog, IntArray

if TYPE_CHECKING:
    from fintrec.public.offers import Offers

# The README of the public data: a log loss below .55, where the constant has .685, is a leak.
SUSPECT_SHARE: Final = 0.55 / 0.685


class LeakFound(FintrecError):
    """A model was about to read what was not known at its instant."""


class LeakSuspected(FintrecError):
    """A figure is better than the data allow; the results are kept and marked."""


def check_known(
    log: EventLog, offers: "Offers", row_OT: IntArray, is_read_OT: npt.NDArray[np.bool_]
) -> None:
    """LeakFound where a row that is read of an offer is no part of what was known at its instant.

    Known are the rows of the offer's own case, up to the O_SENT itself, none later than its instant.
    """
    later = log.time_ms_N[row_OT] > offers.sent_ms_O[:, None]
    foreign = log.case_N[row_OT] != offers.case_O[:, None]
    behind = row_OT > offers.row_O[:, None]
    for wrong, what in (
        (foreign, "is of another case"),
        (later, "is later than its instant"),
        (behind, "was logged after it"),
    ):
        if (wrong & is_read_OT).any():
            offer, place = (int(at[0]) for at in np.nonzero(wrong & is_read_OT))
            row = int(row_OT[offer, place])
            raise LeakFound(
                f"row {row} ({log.kinds[log.kind_N[row]]}, {log.time_ms_N[row]} ms) {what}: it was "
                f"to be read for the offer of row {offers.row_O[offer]}, sent at "
                f"{offers.sent_ms_O[offer]} ms"
            )


def check_past(log: EventLog, split_ms: int) -> None:
    """LeakFound where a log that is learned from reaches the split instant."""
    newest = int(log.time_ms_N.max(initial=0))
    if newest >= split_ms:
        raise LeakFound(
            f"an event of {newest} ms is to be learned from, the split is {split_ms} ms"
        )


def suspect_below(constant_log_loss: float) -> float:
    """The log loss below which a leak is suspected, given what a constant has on the same rows."""
    return SUSPECT_SHARE * constant_log_loss


def refuse(suspects: Sequence[str]) -> None:
    """LeakSuspected with all that is suspect; nothing where nothing is."""
    if suspects:
        raise LeakSuspected("; ".join(suspects))
