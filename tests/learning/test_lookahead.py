"""Looking ahead along episodes: against loops that say the same, row by row."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from iq_offline.learning.lookahead import best_ahead, lasting, outstanding, relevance

NUMBERS = st.floats(-50, 50, allow_nan=False)


@st.composite
def rows(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """What stopping and going on bring in each row, and which are the last of their episodes."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    count = sum(lengths)
    stop, gain = (draw(st.lists(NUMBERS, min_size=count, max_size=count)) for _ in range(2))
    last = torch.zeros(count, dtype=torch.bool)
    last[torch.tensor(lengths).cumsum(0) - 1] = True
    return torch.tensor(stop, dtype=torch.float64), torch.tensor(gain, dtype=torch.float64), last


def by_hand(stop: Tensor, gain: Tensor, discount: float, last: Tensor) -> list[float]:
    found: list[float] = []
    for now, more, ends in zip(stop.tolist()[::-1], gain.tolist()[::-1], last.tolist()[::-1], strict=True):
        found.append(now if ends else max(now, more + discount * found[-1]))
    return found[::-1]


@given(rows(), st.floats(0, 1))
def test_the_best_ahead_is_the_recursion(given_rows: tuple[Tensor, Tensor, Tensor], discount: float):
    stop, gain, last = given_rows
    assert best_ahead(stop, gain, discount, last).tolist() == pytest.approx(by_hand(stop, gain, discount, last))


@given(rows())
def test_the_peak_ahead_is_the_highest_of_what_follows(given_rows: tuple[Tensor, Tensor, Tensor]):
    values, _, last = given_rows
    ends = last.nonzero().squeeze(-1).tolist()
    highest = [max(values[row : next(end for end in ends if end >= row) + 1].tolist()) for row in range(len(values))]
    assert best_ahead(values, 0.0, 1.0, last).tolist() == highest


def test_what_pays_is_followed_to_the_end_of_the_episode_and_no_further():
    stop = torch.tensor([0.0, 0.0, 10.0, 100.0])
    last = torch.tensor([False, False, True, True])
    assert best_ahead(stop, torch.tensor([1.0, -2.0, 0.0, 0.0]), 0.5, last).tolist() == [2.5, 3.0, 10.0, 100.0]


def test_a_long_episode():
    """In float32, 100,000 rows: the sum of a geometric series."""
    count = 100_000
    last = torch.arange(count) == count - 1
    found = best_ahead(torch.full((count,), -1e3), 1.0, 0.99, last)
    assert found[0].item() == pytest.approx(100, rel=1e-5)
    assert found[-2].item() == pytest.approx(1 - 990)


def test_what_lasts_is_the_mean_of_the_steps_from_a_row_on_or_of_the_last_ones():
    value = torch.tensor([1.0, 5.0, 9.0, 1.0, 4.0, 8.0])
    last = torch.tensor([False, False, False, True, False, True])
    assert lasting(value, 1, last).tolist() == value.tolist()
    assert lasting(value, 2, last).tolist() == [3, 7, 5, 5, 6, 6]
    assert lasting(value, 3, last).tolist() == [5, 5, 5, 5, 6, 6]
    assert lasting(value, 100, last).tolist() == [4, 4, 4, 4, 6, 6]


@given(st.lists(st.lists(NUMBERS, min_size=1, max_size=9), min_size=1, max_size=5), st.integers(1, 12))
def test_what_lasts_is_the_loop(episodes: list[list[float]], steps: int):
    values = torch.tensor([number for episode in episodes for number in episode], dtype=torch.float64)
    last = torch.tensor([i == len(episode) - 1 for episode in episodes for i in range(len(episode))])
    expected = []
    for episode in episodes:
        for i in range(len(episode)):
            first = max(0, min(i, len(episode) - steps))
            window = episode[first : first + steps]
            expected.append(sum(window) / len(window))
    assert lasting(values, steps, last).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_relevance_is_1_from_the_level_on_and_falls_exponentially_below():
    score = torch.tensor([12.0, 10.0, 9.0, 0.0])
    weights = relevance(score, torch.tensor(10.0), torch.tensor(0.0), 5.0, 1)
    assert weights.tolist() == pytest.approx([1, 1, math.exp(-0.5), math.exp(-5)])


def test_rare_rows_are_not_diluted_for_the_sake_of_a_share():
    """30 in a thousand at the level, and no more than 25 asked for: the others keep the weight that they have."""
    score = torch.cat([torch.full((30,), 10.0), torch.zeros(970)])
    weights = relevance(score, torch.tensor(10.0), torch.tensor(0.0), 20.0, 25)
    assert weights[30:].tolist() == pytest.approx([math.exp(-20)] * 970)
    more = relevance(score, torch.tensor(10.0), torch.tensor(0.0), 20.0, 45)
    assert more[30:].sum() > 0.2 * more.sum()


def test_where_nobody_comes_to_the_level_the_nearest_are_as_many_as_are_asked_for():
    score, level, floor = torch.tensor([4.0, 3.0] * 20), torch.tensor(10.0), torch.tensor(0.0)
    weights = relevance(score, level, floor, 10.0, 2).unflatten(0, (20, 2))
    assert weights.sum().item() == pytest.approx(2)
    assert (weights[:, 1] / weights[:, 0]).tolist() == pytest.approx([math.exp(-1)] * 20, rel=1e-2)
    none_asked_for = relevance(score[:2], level, floor, 10.0, 0)
    assert none_asked_for.tolist() == pytest.approx([math.exp(-6), math.exp(-7)])


@pytest.mark.parametrize("least", [1, 10, 900])
def test_one_row_too_few_brings_in_one_and_not_thousands(least: int):
    """A heap of rows that are all as far from the level."""
    weights = relevance(torch.full((60_000,), 1.0), torch.tensor(10.0), torch.tensor(0.0), 40.0, least)
    assert weights.sum().item() == pytest.approx(least, rel=1e-3)


def test_unlikely_rows_only_fill_up():
    """900 likely rows at the level, 20,000 others above it."""
    score, likely = torch.full((20_900,), 11.0), torch.arange(20_900) < 900
    arguments = score, torch.tensor(10.0), torch.tensor(0.0), 40.0
    for least, filled in ((900, 0), (950, 50)):
        weights = relevance(*arguments, least, likely)
        assert (weights[likely] == 1).all()
        assert weights[~likely].sum().item() == pytest.approx(filled, rel=1e-3)


def test_impossible_rows_do_not_even_fill_up():
    """Of those that may, what is missing; of the others nothing, however high their score."""
    score, possible = torch.cat([torch.full((300,), 2.0), torch.full((20_000,), 9.0)]), torch.arange(20_300) < 300
    nobody = torch.zeros_like(possible)
    weights = relevance(score, torch.tensor(10.0), torch.tensor(0.0), 40.0, 250, nobody, possible)
    assert weights[possible].tolist() == pytest.approx([250 / 300] * 300, rel=1e-3)
    assert (weights[~possible] == 0).all()


def test_likely_rows_far_behind_are_no_overflow():
    """Of 900 rows at the level none is possible; the 100 that are lie six scales behind them."""
    possible = torch.arange(1000) >= 900
    score = torch.where(possible, -50.0, 10.0)
    nobody = torch.zeros_like(possible)
    weights = relevance(score, torch.tensor(10.0), torch.tensor(0.0), 40.0, 50, nobody, possible)
    assert weights[possible].tolist() == pytest.approx([0.5] * 100)
    assert (weights[~possible] == 0).all()


@given(st.lists(NUMBERS, min_size=1, max_size=200), st.integers(1, 200))
def test_outstanding_rows_are_enough_and_nearer_to_the_best(score: list[float], count: int):
    numbers, count = torch.tensor(score, dtype=torch.float64), min(count, len(score))
    found = outstanding(numbers, count)
    best, mean = sorted(score)[-count], sum(score) / len(score)
    assert found.sum() >= count
    assert found.tolist() == [value >= min(best, (best + mean) / 2) for value in score] or abs(best - mean) < 1e-9


def test_a_few_good_episodes_stand_out():
    """As hidden experts do in random data, whose rewards a few labelled steps make only a little better."""
    reward = torch.cat([torch.full((1_000_000,), -1.95), torch.full((30_000,), -1.2)])
    assert outstanding(reward, 2_000).tolist() == [False] * 1_000_000 + [True] * 30_000
    assert outstanding(torch.zeros(50), 2).all(), "nothing tells them apart"


@given(st.lists(NUMBERS, min_size=1, max_size=200), NUMBERS, NUMBERS, st.integers(1, 20))
def test_enough_rows_are_relevant(score: list[float], level: float, floor: float, least: int):
    """Also where the floor is above the level."""
    numbers = torch.tensor(score, dtype=torch.float64)
    weights = relevance(numbers, *map(torch.tensor, (level, floor)), sharpness=10.0, least=least)
    assert weights.max() <= 1.000001
    assert weights.sum() >= 0.999999 * min(least, len(numbers) / 20)
    order = numbers.argsort()
    assert (weights[order].diff() >= 0).all(), "the better the more"
