"""How far a measured number may lie from the truth: percentile intervals by resampling users.

Rows of one user resemble each other, so resampling rows would promise too much. Users are the
clusters: each replicate draws as many users as there are, with replacement, and takes all rows of
each (Efron's percentile bootstrap). Draws follow from the seed alone.

Shapes: N rows, U users, R replicates, C columns of sums
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]

LEVEL: Final = 0.95
REPLICATES: Final = 1_000
SEED: Final = 20_251
_DRAWS_AT_ONCE: Final = 4_000_000  # bounds the memory of many users


@dataclass(frozen=True, slots=True)
class Interval:
    """A number of all rows, and the bounds that it keeps to in `level` of the replicates."""

    value: float
    low: float
    high: float
    users: int
    level: float = LEVEL

    def holds(self, number: float) -> bool:
        """Whether a number lies within the bounds."""
        return self.low <= number <= self.high

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Interval":
        """Inverse of `to_dict`."""
        return cls(**{name: data[name] for name in cls.__slots__ if name in data})


def bootstrap(
    values: npt.ArrayLike,
    users: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    replicates: int = REPLICATES,
    level: float = LEVEL,
    seed: int = SEED,
) -> Interval:
    """Interval of `sum(values) / sum(weights)` over rows of `users`; weights are 1 if left out.

    So a mean over rows is `bootstrap(loss_N, user_N)`, a ratio (clicks of impressions)
    `bootstrap(clicks_N, user_N, impressions_N)`. `users` are ids or numbers, one a row. Raises
    ValueError unless there are at least two users and the weights' sum is positive.
    """
    value_N, user_N, weight_N = _rows(values, users, weights)
    sums_UC = user_sums(user_N, value_N, weight_N)
    return bootstrap_sums(sums_UC, _ratio, replicates=replicates, level=level, seed=seed)


def paired_difference(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    users: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    replicates: int = REPLICATES,
    level: float = LEVEL,
    seed: int = SEED,
) -> Interval:
    """Interval of the mean of `first - second`, two scores of the same rows, row by row.

    An interval that does not hold 0 says that the two differ. Far narrower than the difference of
    two intervals, since both judge the same users in each replicate.
    """
    first_N = np.asarray(first, np.float64)
    second_N = np.asarray(second, np.float64)
    if first_N.shape != second_N.shape:
        raise ValueError(
            f"paired scores have shapes {first_N.shape} and {second_N.shape}, expected the same "
            "rows in the same order"
        )
    return bootstrap(
        first_N - second_N, users, weights, replicates=replicates, level=level, seed=seed
    )


def bootstrap_sums(
    sums_UC: npt.ArrayLike,
    statistic: Callable[[FloatArray], FloatArray],
    *,
    replicates: int = REPLICATES,
    level: float = LEVEL,
    seed: int = SEED,
) -> Interval:
    """Interval of any function of sums over users, such as an expected calibration error.

    `statistic` maps sums (R, C) to numbers (R,); NaN where a replicate has none, which is then
    left out. Raises ValueError with fewer than two users or when all users together give NaN.
    """
    sums = np.asarray(sums_UC, np.float64)
    return bootstrap_counts(
        lambda count_RU: statistic(count_RU @ sums),
        len(sums),
        replicates=replicates,
        level=level,
        seed=seed,
    )


def bootstrap_counts(
    statistic: Callable[[FloatArray], FloatArray],
    num_users: int,
    *,
    replicates: int = REPLICATES,
    level: float = LEVEL,
    seed: int = SEED,
) -> Interval:
    """Interval of a function of how often each user is drawn: counts (R, U) to numbers (R,).

    Its value is that of every user once. NaN and errors as `bootstrap_sums`.
    """
    value = float(statistic(np.ones((1, num_users)))[0])
    drawn = [statistic(count_RU) for count_RU in _resampled(num_users, replicates, seed)]
    return _interval(value, np.concatenate(drawn), num_users, level)


def unpaired_difference(
    first_UC: npt.ArrayLike,
    second_VC: npt.ArrayLike,
    *,
    replicates: int = REPLICATES,
    level: float = LEVEL,
    seed: int = SEED,
) -> Interval:
    """Interval of the difference of two ratios of sums by user, `first - second`, each (U, 2).

    For scores of different rows: the users of each are drawn alone, so bounds are wider than those
    of `paired_difference`. `users` is the smaller number of the two.
    """
    first, second = np.asarray(first_UC, np.float64), np.asarray(second_VC, np.float64)
    drawn = [
        np.concatenate([_ratio(count @ sums) for count in _resampled(len(sums), replicates, start)])
        for start, sums in ((seed, first), (seed + 1, second))
    ]
    value = _ratio(first.sum(axis=0)[None]) - _ratio(second.sum(axis=0)[None])
    num_users = min(len(first), len(second))
    return _interval(float(value[0]), drawn[0] - drawn[1], num_users, level)


def bootstrap_rows(
    statistic: Callable[[FloatArray], float],
    users: npt.ArrayLike,
    *,
    replicates: int = REPLICATES,
    level: float = LEVEL,
    seed: int = SEED,
) -> Interval:
    """Interval of a function of how often each row counts, weights (N,), such as an AUROC.

    Slower than sums: `statistic` runs once a replicate. NaN and errors as `bootstrap_sums`.
    """
    names, place_N = np.unique(np.asarray(users), return_inverse=True)
    value = statistic(np.ones(len(place_N)))
    drawn = [
        statistic(count_U[place_N])
        for count_RU in _resampled(len(names), replicates, seed)
        for count_U in count_RU
    ]
    return _interval(value, np.array(drawn), len(names), level)


def user_sums(users: npt.ArrayLike, *columns: npt.ArrayLike) -> FloatArray:
    """Sums of each column by user, (U, C), users in ascending order."""
    names, place_N = np.unique(np.asarray(users), return_inverse=True)
    return np.stack(
        [np.bincount(place_N, np.asarray(column, np.float64), len(names)) for column in columns],
        axis=1,
    )


def _rows(
    values: npt.ArrayLike, users: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[FloatArray, npt.NDArray[Any], FloatArray]:
    value_N, user_N = np.asarray(values, np.float64), np.asarray(users)
    weight_N = np.ones(len(value_N)) if weights is None else np.asarray(weights, np.float64)
    if not value_N.shape == user_N.shape == weight_N.shape or value_N.ndim != 1:
        raise ValueError(
            f"values, users and weights have shapes {value_N.shape}, {user_N.shape}, "
            f"{weight_N.shape}, expected one value, user and weight a row"
        )
    if not np.isfinite(value_N).all() or not np.isfinite(weight_N).all():
        raise ValueError("values and weights must be finite, some are NaN or infinite")
    if weight_N.sum() <= 0:
        raise ValueError(f"the weights' sum is {weight_N.sum()}, expected more than 0")
    return value_N, user_N, weight_N


def _ratio(sums_RC: FloatArray) -> FloatArray:
    return np.divide(
        sums_RC[:, 0],
        sums_RC[:, 1],
        out=np.full(len(sums_RC), np.nan),
        where=sums_RC[:, 1] > 0,
    )


def _resampled(num_users: int, replicates: int, seed: int) -> Iterator[FloatArray]:
    """How often each user is drawn, (some of R, U), in blocks of bounded memory.

    The block size is no part of the draws: one generator gives replicate after replicate.
    """
    if num_users < 2:
        raise ValueError(f"an interval needs at least 2 users, got {num_users}")
    if replicates < 1:
        raise ValueError(f"replicates is {replicates}, expected at least 1")
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // num_users)
    for start in range(0, replicates, at_once):
        rows = min(at_once, replicates - start)
        drawn_RU = rng.integers(0, num_users, (rows, num_users))
        drawn_RU += np.arange(rows)[:, None] * num_users
        counted = np.bincount(drawn_RU.ravel(), minlength=rows * num_users)
        yield counted.reshape(rows, num_users).astype(np.float64)


def _interval(value: float, drawn_R: FloatArray, num_users: int, level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected between 0 and 1")
    found = drawn_R[~np.isnan(drawn_R)]
    if np.isnan(value) or not len(found):
        raise ValueError(f"the statistic of all {num_users} users has no value")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), num_users, level)
