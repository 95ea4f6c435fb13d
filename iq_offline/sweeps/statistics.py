"""What the scores of several runs say together: interquartile means, intervals, comparisons, profiles.

The measures are those of Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice". A
*task* is what a learner is tried on (a dataset with so many expert trajectories), a *run* is one seed on one task, and
runs are resampled within their task: every interval is a 95% stratified percentile bootstrap. It says how much other
seeds on the same tasks would change the number, nothing about other tasks. With few seeds it is too narrow: of normal
scores it holds the true interquartile mean in 94% of simulations with ten seeds, 90% with five and 75% with three, the
true mean in 90%, 84% and 75%.

Every function draws from a generator of its own with a fixed seed, and by position in ascending order, so the same
scores give the same numbers, whatever order they come in; intervals are those of ``scipy.stats.bootstrap`` with the
same draws. A task with one run has no
interval: both ends are NaN. No runs, or scores that are not finite, are refused with a ValueError: whoever leaves out
runs without a score has to say so. Importing this file costs numpy and nothing else.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 5_000
SEED = 0
NON_INFERIORITY_MARGIN = 0.05
"""In normalised scores."""

Scores = Sequence[float] | np.ndarray
Statistic = Callable[[np.ndarray], Any]
"""From scores of shape (..., runs) to one number for each leading index: an array of shape (...)."""
Verdict = Literal["clearly above", "non-inferior", "below", "not shown", "unknown"]


class Estimate(NamedTuple):
    """A number, its 95% interval (NaN where a task has one run), and of how many runs or pairs of runs it is."""

    value: float
    low: float
    high: float
    runs: int


class Profile(NamedTuple):
    """Share of the runs above each threshold and its pointwise 95% band, each of shape (thresholds,), from 0 to 1."""

    share: np.ndarray
    low: np.ndarray
    high: np.ndarray


def mean(scores: Scores) -> Any:
    """Mean over the last axis: (..., runs) -> (...)."""
    return np.mean(np.asarray(scores, float), axis=-1)


def interquartile_mean(scores: Scores) -> Any:
    """Mean of the middle half over the last axis: (..., runs) -> (...); of a list of scores, one number.

    A quarter of the runs, rounded down, is left out at each end: the 25% trimmed mean, as Agarwal et al. compute it.
    Runs are never weighted by fractions, so of three runs it is the mean and of five it is that of the middle three.
    """
    ordered = np.sort(np.asarray(scores, float), axis=-1)
    count = ordered.shape[-1]
    return ordered[..., count // 4 : count - count // 4].mean(axis=-1)


def estimate(tasks: Sequence[Scores], statistic: Statistic = interquartile_mean) -> Estimate:
    """A statistic over all runs of all tasks, with its stratified bootstrap interval.

    Args:
        tasks: of each task the scores of its runs, shape (runs,); the tasks need not have equally many. For one cell
            of a table: a list with one entry.
        statistic: over the last axis, of all runs together: a task with more runs weighs more.

    Raises:
        ValueError: no task, a task without runs, or a score that is not finite.
    """
    samples = _checked(tasks)
    value = float(statistic(np.concatenate(samples)))
    runs = sum(map(len, samples))
    if min(map(len, samples)) == 1:
        return Estimate(value, np.nan, np.nan, runs)
    generator = np.random.default_rng(SEED)
    drawn = [sample[_positions(generator, len(sample))] for sample in samples]
    low, high = _interval(statistic(np.concatenate(drawn, axis=-1)))
    return Estimate(value, float(low), float(high), runs)


def paired_difference(
    ours: Sequence[Mapping[Any, float]], theirs: Sequence[Mapping[Any, float]], statistic: Statistic = mean
) -> Estimate:
    """Our scores minus theirs, run by run, with the interval over pairs resampled within their task.

    Args:
        ours: of each task the scores by what pairs them: the seed, which also draws the trajectories.
        theirs: of the same tasks, in the same order. What has no partner is left out; ``runs`` counts the pairs.
        statistic: of the differences. The mean: an interquartile mean would hide the seeds on which one of them fails.

    Raises:
        ValueError: not the same number of tasks, a task without pairs, or a score that is not finite.
    """
    pairs = [_pairs(*task) for task in zip(ours, theirs, strict=True)]
    if not all(pairs):
        raise ValueError(f"task {pairs.index([])} has no pair of runs: no seed is in both")
    return estimate([[own - other for own, other in task] for task in pairs], statistic)


def verdict(difference: Estimate) -> Verdict:
    """What an interval of normalised differences shows.

    Begins over 0: ``clearly above`` (and non-inferior with it). Begins at -0.05 or higher: ``non-inferior``. Ends under
    -0.05: ``below``. Otherwise ``not shown``. Where there is no interval: ``unknown``.
    """
    if np.isnan(difference.low):
        return "unknown"
    if difference.low > 0:
        return "clearly above"
    if difference.low >= -NON_INFERIORITY_MARGIN:
        return "non-inferior"
    return "below" if difference.high < -NON_INFERIORITY_MARGIN else "not shown"


def performance_profile(tasks: Sequence[Scores], thresholds: Scores) -> Profile:
    """The share of all runs whose score is above each threshold (score distributions, Agarwal et al. 2021).

    Args:
        tasks: of each task the scores of its runs, shape (runs,).
        thresholds: shape (thresholds,), in the scores' units. A score that equals one is not above it.

    Raises:
        ValueError: no task, a task without runs, or a score that is not finite.
    """
    samples = _checked(tasks)
    pooled = np.concatenate(samples)
    above = (pooled[:, None] > np.asarray(thresholds, float)).astype(float)
    share = above.mean(axis=0)
    if min(map(len, samples)) == 1:
        return Profile(share, np.full(share.shape, np.nan), np.full(share.shape, np.nan))
    generator = np.random.default_rng(SEED)
    weights = [_weights(generator, len(sample)) * len(sample) for sample in samples]
    return Profile(share, *_interval(np.concatenate(weights, axis=-1) @ above / len(pooled)))


def _pairs(ours: Mapping[Hashable, float], theirs: Mapping[Hashable, float]) -> list[tuple[float, float]]:
    return [(score, theirs[key]) for key, score in ours.items() if key in theirs]


def _checked(tasks: Sequence[Scores]) -> list[np.ndarray]:
    """The scores of each task as finite numbers of shape (runs,), ascending: resamples are drawn by position.

    Raises:
        ValueError: there are none, or not only finite ones.
    """
    samples = [np.asarray(scores, float) for scores in tasks]
    if not samples:
        raise ValueError("no tasks: there is nothing to summarise")
    for index, sample in enumerate(samples):
        if sample.ndim != 1 or not len(sample):
            raise ValueError(f"task {index} has scores of shape {sample.shape}: one or more runs are needed")
        if not np.isfinite(sample).all():
            raise ValueError(f"task {index} has scores that are not finite: leave those runs out, and say so")
    return [np.sort(sample) for sample in samples]


def _positions(generator: np.random.Generator, count: int) -> np.ndarray:
    """Which of ``count`` ascending scores are in each resample: shape (resamples, count).

    The second half mirrors the first, so that a difference and its negative have intervals that mirror each other.
    """
    half = generator.integers(0, count, (RESAMPLES // 2, count))
    return np.concatenate([half, count - 1 - half])


def _weights(generator: np.random.Generator, count: int) -> np.ndarray:
    """How often each of ``count`` runs is in each resample, over ``count``: shape (resamples, count)."""
    drawn = _positions(generator, count) + count * np.arange(RESAMPLES)[:, None]
    return np.bincount(drawn.ravel(), minlength=RESAMPLES * count).reshape(RESAMPLES, count) / count


def _interval(drawn: Any) -> np.ndarray:
    """Lower and upper end, shape (2, ...), of resampled values of shape (resamples, ...)."""
    tail = (1 - CONFIDENCE) / 2
    return np.quantile(drawn, [tail, 1 - tail], axis=0)
