"""Instants of many users on one axis, sorted by user, then time: a window is two binary searches."""

from typing import Final

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

AXIS_MS: Final = 1 << 43  # one user's share of the axis, more than any event time


def on_axis(owner: IntArray, time_ms: IntArray) -> IntArray:
    """Places of (owner, instant) on the axis."""
    return owner.astype(np.int64) * AXIS_MS + time_ms
