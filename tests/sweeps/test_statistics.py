"""Statistics over runs, against enumeration of all resamples, loops, scipy, published values and simulation."""

import itertools
import math
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from iq_offline.sweeps.statistics import (
    Estimate,
    Scores,
    estimate,
    interquartile_mean,
    mean,
    paired_difference,
    performance_profile,
    verdict,
)
from tests.data_helpers import python

RELIABLE_X = np.array([[1, 2], [2, 2], [1, 1], [2, 1]], float).T
RELIABLE_Y = np.array([[1, 1], [2, 2], [3, 3]], float).T
"""Two tasks with four and three runs, from the tests of Agarwal et al.'s own package (rliable, metrics_test.py)."""

scores = st.lists(st.floats(-100, 100).map(lambda value: round(value, 3)), min_size=1, max_size=30)
several = st.lists(scores, min_size=1, max_size=4)


def trimmed_by_loop(values: Iterable[float]) -> float:
    """Leave out the lowest and the highest, one of each at a time, as long as that is no more than a quarter each."""
    left, count, gone = list(values), len(list(values)), 0
    while 4 * (gone + 1) <= count:
        left.remove(min(left))
        left.remove(max(left))
        gone += 1
    return sum(left) / len(left)


def pooled(tasks: Iterable[Iterable[float]]) -> list[float]:
    return list(itertools.chain(*tasks))


def resamples(tasks: list[list[float]]) -> Iterable[list[list[float]]]:
    """Every stratified resample, all equally likely."""
    within = [list(itertools.product(task, repeat=len(task))) for task in tasks]
    for chosen in itertools.product(*within):
        yield [list(task) for task in chosen]


def assert_interval(found: Estimate, exact: Iterable[float]) -> None:
    """Its ends are the 2.5% and 97.5% quantiles of the exact distribution, up to 1% for the draws."""
    values = np.array(list(exact))
    for end, tail in ((found.low, 0.025), (found.high, 0.975)):
        assert (values < end - 1e-9).mean() <= tail + 0.01
        assert (values <= end + 1e-9).mean() >= tail - 0.01
    assert found.low < found.high


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0], 1.5),
        ([0.0, 1.0, 5.0], 2.0),
        ([100.0, 2.0, -50.0, 4.0], 3.0),
        ([0.0, 3.0, 1.0, 100.0, 2.0], 2.0),
        ([8.0, 1.0, 2.0, 7.0, 3.0, 6.0, -90.0, 900.0], (2 + 3 + 6 + 7) / 4),
        (list(range(10)), (2 + 3 + 4 + 5 + 6 + 7) / 6),
        # The worked examples of Wikipedia, "Interquartile mean": of the second its fractional weights make 9 as well.
        ([5, 8, 4, 38, 8, 6, 9, 7, 7, 3, 1, 6], 6.5),
        ([1, 3, 5, 7, 9, 11, 13, 15, 17], 9.0),
        (RELIABLE_X.ravel(), 1.5),
        (RELIABLE_Y.ravel(), 2.0),
    ],
)
def test_interquartile_mean_of_known_arrays(values: Scores, expected: float) -> None:
    assert interquartile_mean(values) == pytest.approx(expected)
    assert interquartile_mean(values[::-1]) == pytest.approx(expected)


@given(scores)
def test_interquartile_mean_is_the_trimmed_mean(values: list[float]) -> None:
    found = interquartile_mean(values)
    assert found == pytest.approx(trimmed_by_loop(values), abs=1e-9)
    assert found == pytest.approx(float(stats.trim_mean(values, 0.25)), abs=1e-9)
    assert min(values) - 1e-9 <= found <= max(values) + 1e-9


@given(scores, st.floats(-10, 10), st.floats(0.01, 10))
def test_interquartile_mean_moves_and_scales_with_the_scores(values: list[float], shift: float, scale: float) -> None:
    moved = [scale * value + shift for value in values]
    assert interquartile_mean(moved) == pytest.approx(scale * interquartile_mean(values) + shift, abs=1e-7)
    assert interquartile_mean([-value for value in values]) == pytest.approx(-interquartile_mean(values), abs=1e-9)


def test_statistics_work_along_the_last_axis() -> None:
    many = np.random.default_rng(0).normal(size=(3, 2, 9))
    for statistic in (mean, interquartile_mean):
        by_hand = [[statistic(many[i, j]) for j in range(2)] for i in range(3)]
        np.testing.assert_allclose(statistic(many), by_hand)


class Mirrored(np.random.Generator):
    """Draws half of what is asked for, and the same counted from the other end."""

    def integers(self, low: Any, high: Any = None, size: Any = None, *more: Any, **options: Any) -> Any:
        half = super().integers(low, high, (size[0] // 2, *size[1:]), *more, **options)
        return np.concatenate([half, high - 1 - half])


@pytest.mark.parametrize("statistic", [mean, interquartile_mean])
@pytest.mark.parametrize("sizes", [(10,), (7, 3), (4, 6, 5)])
def test_estimate_is_scipys_percentile_bootstrap(statistic: Callable, sizes: tuple[int, ...]) -> None:
    """With the same draws by position, hence the same interval, one stratum a sample."""
    generator = np.random.default_rng(3)
    tasks = [generator.normal(0.8, 0.3, size) for size in sizes]
    theirs = stats.bootstrap(
        [np.sort(task) for task in tasks],
        lambda *drawn, axis: statistic(np.concatenate(drawn, axis=axis)),
        n_resamples=5000,
        vectorized=True,
        method="percentile",
        rng=Mirrored(np.random.default_rng(0).bit_generator),
    ).confidence_interval
    found = estimate(tasks, statistic)
    assert found == pytest.approx((statistic(np.concatenate(tasks)), theirs.low, theirs.high, sum(sizes)), rel=1e-12)


@pytest.mark.parametrize("statistic", [mean, interquartile_mean])
@pytest.mark.parametrize(
    "tasks",
    [[[0.1, 0.5, 0.7, 1.3, 0.2]], [[0.3, 0.4, 0.9], [5.0, 7.0]], [[0.0, 0.1], [0.5, 0.7], [0.9, 1.4], [2.0, 2.5]]],
)
def test_estimate_against_every_resample(statistic: Callable, tasks: list[list[float]]) -> None:
    found = estimate(tasks, statistic)
    assert found.value == pytest.approx(statistic(pooled(tasks)))
    assert found.runs == len(pooled(tasks))
    assert_interval(found, (statistic(pooled(drawn)) for drawn in resamples(tasks)))


def test_runs_stay_in_their_task() -> None:
    """Two tasks far apart, alike inside: nothing is uncertain, though pooled resampling would say so."""
    found = estimate([[0.0] * 5, [1.0] * 5], mean)
    assert found == Estimate(0.5, 0.5, 0.5, 10)
    assert estimate([[0.0] * 5 + [1.0] * 5], mean).low < 0.3


@pytest.mark.parametrize(
    ("seeds", "statistic", "expected"),
    [(10, interquartile_mean, 0.94), (10, mean, 0.9), (5, interquartile_mean, 0.9), (3, mean, 0.75)],
)
def test_intervals_hold_the_truth_as_often_as_the_module_says(seeds: int, statistic: Callable, expected: float) -> None:
    generator = np.random.default_rng(7)
    found = [estimate([generator.normal(size=seeds)], statistic) for _ in range(600)]
    held = np.mean([one.low <= 0 <= one.high for one in found])
    assert held == pytest.approx(expected, abs=3 * math.sqrt(expected * (1 - expected) / 600))


def test_pairs_are_made_by_key() -> None:
    ours = [{3: 1.0, 1: 0.4, 2: 0.9, 8: 50.0}, {1: 0.2, 2: 0.3}]
    theirs = [{1: 0.3, 2: 0.5, 3: 0.8, 9: -50.0}, {2: 0.1, 1: 0.1}]
    differences = [[0.2, 0.1, 0.4], [0.1, 0.2]]
    found = paired_difference(ours, theirs)
    assert found.value == pytest.approx(np.mean(pooled(differences)))
    assert found.runs == 5
    assert_interval(found, (float(np.mean(pooled(drawn))) for drawn in resamples(differences)))
    assert paired_difference(ours, theirs, interquartile_mean).value == pytest.approx((0.1 + 0.2 + 0.2) / 3)


def test_pairing_removes_what_the_seeds_have_in_common() -> None:
    hard = np.random.default_rng(0).normal(0, 5, 20)
    ours, theirs = dict(enumerate(hard + 0.1)), dict(enumerate(hard))
    assert paired_difference([ours], [theirs])[:3] == pytest.approx((0.1, 0.1, 0.1))


@given(several)
def test_differences_change_sign_with_the_order(tasks: list[list[float]]) -> None:
    ours = [dict(enumerate(task)) for task in tasks]
    theirs = [{key: value**2 / 50 for key, value in task.items()} for task in ours]
    one, other = paired_difference(ours, theirs), paired_difference(theirs, ours)
    np.testing.assert_allclose(one[:3], (-other.value, -other.high, -other.low), atol=1e-9)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.001, 0.9, "clearly above"),
        (0.0, 0.9, "non-inferior"),
        (-0.05, 0.9, "non-inferior"),
        (-0.05, -0.05, "non-inferior"),
        (-0.0501, 0.9, "not shown"),
        (-3.0, 0.9, "not shown"),
        (-3.0, -0.05, "not shown"),
        (-3.0, -0.0501, "below"),
        (math.nan, math.nan, "unknown"),
    ],
)
def test_verdicts_follow_from_the_interval(low: float, high: float, expected: str) -> None:
    assert verdict(Estimate(0.5, low, high, 10)) == expected


@given(several, st.lists(st.floats(-120, 120), min_size=1, max_size=20))
def test_profiles_against_loops(tasks: list[list[float]], thresholds: list[float]) -> None:
    thresholds = sorted(thresholds + tasks[0])
    found = performance_profile(tasks, thresholds)
    runs = pooled(tasks)
    np.testing.assert_allclose(found.share, [sum(x > tau for x in runs) / len(runs) for tau in thresholds])
    assert (np.diff(found.share) <= 0).all()
    if min(map(len, tasks)) > 1:
        assert (found.low <= found.high + 1e-12).all()
        assert (np.diff(found.low) <= 1e-12).all()
        assert (np.diff(found.high) <= 1e-12).all()
    else:
        assert np.isnan([found.low, found.high]).all()


def test_the_band_of_a_profile_is_that_of_a_binomial_share() -> None:
    """Of one task, resampled runs above a threshold are binomial: exact quantiles, up to one run."""
    task = np.arange(40) / 40
    thresholds = [-1.0, 0.24, 0.49, 0.74, 2.0]
    found = performance_profile([task], thresholds)
    np.testing.assert_allclose(found.share, [1, 0.75, 0.5, 0.25, 0])
    for end, tail in ((found.low, 0.025), (found.high, 0.975)):
        np.testing.assert_allclose(end, stats.binom.ppf(tail, 40, found.share) / 40, atol=1 / 40 + 1e-9)


def test_the_band_of_a_profile_is_stratified() -> None:
    found = performance_profile([[0.0] * 6, [1.0] * 2], [0.5])
    assert (found.share, found.low, found.high) == (np.array([0.25]),) * 3


def test_one_run_has_no_interval() -> None:
    """Nor has a table in which one task has a single run: what its seeds would do is not known."""
    for tasks, value in (([[0.7]], 0.7), ([[0.7, 0.9], [0.2]], 0.6)):
        found = estimate(tasks, mean)
        assert found.value == pytest.approx(value)
        assert np.isnan([found.low, found.high]).all()
        assert verdict(found) == "unknown"
    assert np.isnan(paired_difference([{1: 0.5, 2: 0.6}], [{1: 0.4, 3: 0.6}]).low)


@pytest.mark.parametrize("tasks", [[], [[]], [[0.5, 0.6], []], [[math.nan, 0.5]], [[0.5], [math.inf, 1.0]]])
def test_no_runs_and_no_numbers_are_refused(tasks: list[list[float]]) -> None:
    calls: list[Callable] = [
        estimate,
        lambda tasks: performance_profile(tasks, [0.5]),
        lambda tasks: paired_difference([dict(enumerate(task)) for task in tasks], [{0: 1.0, 1: 2.0} for _ in tasks]),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"^(no tasks|task \d)"):
            call(tasks)


def test_tasks_of_both_sides_are_the_same() -> None:
    with pytest.raises(ValueError, match="no seed is in both"):
        paired_difference([{1: 0.5}], [{2: 0.5}])
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([{1: 0.5}, {1: 0.5}], [{1: 0.5}])


def test_the_same_scores_give_the_same_numbers() -> None:
    tasks = [[0.3, 0.8, 0.9], [0.1, 0.5]]
    first = estimate(tasks)
    estimate([[0.2] * 7])
    assert estimate(tasks) == first


@given(several, st.randoms())
def test_the_order_of_the_runs_changes_nothing(tasks: list[list[float]], random: Random) -> None:
    shuffled = [random.sample(task, len(task)) for task in tasks]
    assert estimate(shuffled)[1:] == pytest.approx(estimate(tasks)[1:], rel=1e-12, nan_ok=True)
    for mine, theirs in zip(performance_profile(tasks, [0.5]), performance_profile(shuffled, [0.5]), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_importing_costs_numpy_alone() -> None:
    done = python(
        "-c", "import sys, iq_offline.sweeps.statistics; print(*{name.split('.')[0] for name in sys.modules})"
    )
    assert done.returncode == 0, done.stderr
    assert {"scipy", "torch", "matplotlib", "polars", "gymnasium"}.isdisjoint(done.stdout.split())
