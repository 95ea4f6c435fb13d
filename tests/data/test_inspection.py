"""The facts of a dataset, held against numpy over the same arrays."""

import numpy as np
import polars as pl
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from iq_offline.data import spread as spread_module
from iq_offline.data.catalog import known_references
from iq_offline.data.inspection import bounds_words, facts_of, log_words, rewards_note, time_limit_of
from iq_offline.data.spaces import Leaf
from iq_offline.data.spread import Spread, count_repeats, hash_rows
from iq_offline.data.stream import open_source
from iq_offline.data.survey import survey
from tests.data_helpers import change_metadata, random_episodes, write_spaces_dataset
from tests.helpers import Episode, write_dataset

NAME = "test/facts-v0"


def facts(episodes: list[Episode], **options: object):
    return facts_of(survey(open_source(write_dataset(NAME, episodes, **options))))  # type: ignore[arg-type]


def test_episodes_lengths_and_returns() -> None:
    written = random_episodes(np.random.default_rng(3), [5, 30, 12, 7, 9, 40, 1])
    known = facts(written)
    ends = [(bool(terminations[-1]), bool(truncations[-1])) for *_, terminations, truncations in written]
    assert known.ends == {
        "terminated": ends.count((True, False)),
        "truncated": ends.count((False, True)),
        "both": ends.count((True, True)),
        "neither": ends.count((False, False)),
    }
    assert all(known.ends[name] for name in ("terminated", "truncated", "both"))
    returns = [rewards.sum() for _, _, rewards, *_ in written]
    for summary, values in ((known.lengths, [5, 30, 12, 7, 9, 40, 1]), (known.returns, returns)):
        assert summary is not None
        expected = [*np.quantile(values, [0, 0.25, 0.5, 0.75, 1]), np.mean(values)]
        found = [summary.min, summary.quartile1, summary.median, summary.quartile3, summary.max, summary.mean]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_actions_dimension_by_dimension() -> None:
    written = random_episodes(np.random.default_rng(0), [20, 30])
    for _, actions, *_ in written:
        actions[:5, 0], actions[:2, 1] = -1, 1
    table = facts(written).action_table
    assert table is not None
    actions = np.concatenate([actions for _, actions, *_ in written]).astype(np.float64)
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(table[name], getattr(actions, name)(0), rtol=1e-12)
    assert table["at_low"].to_list() == [0.2, 0.0]
    assert table["at_high"].to_list() == [0.0, 0.08]


def test_finitely_many_actions_are_counted() -> None:
    folder = write_spaces_dataset(NAME, Box(-1, 1, (2,)), MultiDiscrete([2, 4]), lengths=[50] * 3)
    seen = survey(open_source(folder))
    counts = facts_of(seen).action_counts
    assert counts is not None
    assert counts["branch"].to_list() == [0] * 2 + [1] * 4
    assert counts["action"].to_list() == [0, 1, 0, 1, 2, 3]
    assert counts.group_by("branch").agg(pl.col("count").sum(), pl.col("share").sum()).sort("branch").rows() == [
        (0, 150, pytest.approx(1)),
        (1, 150, pytest.approx(1)),
    ]
    assert (counts["count"] > 10).all()
    folder = write_spaces_dataset("test/many-v0", Box(-1, 1, (2,)), Discrete(2**40), lengths=[5, 5])
    assert facts_of(survey(open_source(folder))).action_counts is None


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        ([np.nan, np.nan], "every reward is NaN"),
        ([0.0, 0.0], "every reward is zero"),
        ([1.0, np.nan], "5 rewards are NaN or infinite: the returns are those of the other 1 episodes"),
        ([1.0, 2.0], ""),
    ],
)
def test_rewards_worth_nothing(rewards: list[float], words: str) -> None:
    written = random_episodes(np.random.default_rng(0), [4, 5])
    for (_, _, values, *_), reward in zip(written, rewards, strict=True):
        values[:] = reward
    known = facts(written)
    assert known.rewards_note.startswith(words)
    assert bool(words) == bool(known.rewards_note)
    assert (known.returns is None) == np.isnan(rewards).all()


def test_no_rewards_at_all() -> None:
    assert (
        rewards_note(
            survey(
                open_source(write_dataset(NAME, random_episodes(np.random.default_rng(0), [4])))
            ).episodes.with_columns(pl.lit(None, pl.Float64).alias("return"))
        )
        == "no rewards can be read"
    )


def test_references_and_time_limits_come_from_the_card_or_the_metadata() -> None:
    builtin = known_references("iq-offline/hopper/expert-v0", {})
    assert builtin is not None
    assert builtin.expert_return > 3000
    assert known_references("a/b-v0", {}) is None
    given_ = known_references("a/b-v0", {"ref_min_score": -1, "ref_max_score": 5})
    assert given_ is not None
    assert (given_.random_return, given_.expert_return) == (-1, 5)
    assert time_limit_of({"env_spec": '{"max_episode_steps": 300}'}) == 300
    for nothing in ({}, {"env_spec": "{"}, {"env_spec": "[]"}, {"env_spec": '{"max_episode_steps": null}'}):
        assert time_limit_of(nothing) is None


def test_bounds_in_words() -> None:
    assert bounds_words(Box(-1, 1, (3,))) == "-1 to 1"
    assert bounds_words(Box(-np.inf, np.inf, (3,))) == "no bounds"
    assert bounds_words(Box(np.array([-1, -2.5]), np.array([1, 1]), dtype=np.float64)) == "-2.5 to 1 in all, not alike"
    assert bounds_words(Discrete(4)) == "4 choices"
    assert bounds_words(Discrete(4, start=-1)) == "4 choices from -1"
    assert bounds_words(MultiDiscrete([2, 3])) == "choices: 2, 3"
    assert bounds_words(MultiBinary(3)) == "0 or 1"


def test_repeated_transitions_and_episodes() -> None:
    written = random_episodes(np.random.default_rng(0), [10, 8, 6])
    written += [written[1], written[1]]
    written[2][0][3], written[2][1][3] = written[0][0][4], written[0][1][4]
    written[2][0][4] = written[0][0][5]  # The same observation with another action is no repetition.
    known = facts(written)
    assert (known.transitions, known.repeated_transitions, known.repeated_episodes) == (40, 17, 2)


# ---------------------------------------------------------------------------------------------- spread and hashes


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    parts=st.lists(
        hnp.arrays(
            np.float64,
            st.tuples(st.integers(0, 7), st.just(2)),
            elements=st.floats(-1e6, 1e6) | st.sampled_from([np.nan, np.inf, -np.inf, 1.0, -1.0, 1e300]),
        ),
        min_size=1,
        max_size=5,
    ),
    chunk=st.integers(1, 8),
    offset=st.sampled_from([0.0, 1e9]),
)
def test_a_spread_in_parts_is_that_of_the_whole(parts: list[np.ndarray], chunk: int, offset: float) -> None:
    parts = [part + offset for part in parts]
    spread = Spread(Leaf((), Box(-1, 1, (2,))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spread_module, "CHUNK", chunk)
        for index, part in enumerate(parts):
            spread.add(index, part)
    whole = np.concatenate(parts)
    with np.errstate(over="ignore"):
        finite = np.isfinite(whole.astype(np.float32))
        outside = finite & (np.abs(whole.astype(np.float32)) > 1)
    assert spread.not_finite.dimensions.tolist() == (~finite).sum(0).tolist()
    assert spread.outside.values == outside.sum()
    assert spread.outside.rows == outside.any(1).sum()
    firsts = [index for index, part in enumerate(parts) if (~np.isfinite(part) | (np.abs(part) > 3e38)).any()]
    assert spread.not_finite.first == (firsts[0] if firsts else None)
    for dimension in range(2):
        values = whole[finite[:, dimension], dimension]
        assert spread.count[dimension] == len(values)
        if len(values):
            assert (spread.min[dimension], spread.max[dimension]) == (values.min(), values.max())
            np.testing.assert_allclose(spread.mean[dimension], values.mean(), rtol=1e-9, atol=1e-6)
            np.testing.assert_allclose(spread.std[dimension], values.std(), rtol=1e-6, atol=1e-5)


def test_pixels_are_spread_together() -> None:
    frames = np.random.default_rng(0).integers(3, 200, (7, 16, 20, 3), dtype=np.uint8)
    spread = Spread(Leaf(("camera",), Box(0, 255, (16, 20, 3), np.uint8)))
    for frame in np.array_split(frames, 3):
        spread.add(0, frame)
    assert spread.size == 1
    assert (spread.min[0], spread.max[0]) == (frames.min(), frames.max())
    np.testing.assert_allclose([spread.mean[0], spread.std[0]], [frames.mean(), frames.std()], rtol=1e-12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=hnp.arrays(np.int8, st.tuples(st.integers(1, 40), st.integers(1, 5)), elements=st.integers(0, 2)),
    dtype=st.sampled_from([np.int8, np.uint8, np.int64, np.float32, np.float64, np.bool_]),
)
def test_hashes_are_equal_where_rows_are(rows: np.ndarray, dtype: type) -> None:
    """Few different values, so that rows repeat; their bytes differ in few bits, where weak hashes collide."""
    values = rows.astype(dtype)
    hashes = hash_rows([values, rows])
    _, inverse = np.unique(np.concatenate([values.astype(int), rows], 1), axis=0, return_inverse=True)
    _, theirs = np.unique(hashes, return_inverse=True)
    pairs = {(int(one), int(other)) for one, other in zip(inverse.reshape(-1), theirs, strict=True)}
    assert len(pairs) == len(set(inverse.reshape(-1).tolist())) == len(set(theirs.tolist()))
    assert count_repeats(bytearray(hashes.tobytes())) == len(rows) - len(pairs)


def test_hashes_of_a_million_neighbours_do_not_collide() -> None:
    grid = np.stack(np.meshgrid(np.arange(1000.0), np.arange(1000.0)), -1).reshape(-1, 2)
    assert count_repeats(bytearray(hash_rows([grid]).tobytes())) == 0
    assert hash_rows([np.array([[0.0]])])[0] == hash_rows([np.array([[-0.0]])])[0]
    assert count_repeats(bytearray()) == 0


def test_a_dataset_without_an_environment_or_with_an_odd_one() -> None:
    folder = write_dataset(NAME, random_episodes(np.random.default_rng(0), [4]))
    change_metadata(folder, env_spec='{"id": "Nothing-v7", "entry_point": "nothing:Nothing"}')
    assert facts_of(survey(open_source(folder))).references is None


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ({"observation": ["speed", "lane"], "action": ["steer"]}, "observation speed, lane; action steer"),
        (
            {"observation": [f"x{i}" for i in range(30)], "action": ["u\x1b[2J"], "pieces_of": [0, 0, 1]},
            f"observation {', '.join(f'x{i}' for i in range(24))} and 6 more; action 'u\\x1b[2J'; "
            "3 episodes are pieces of 2",
        ),
        ({"observation": "damaged", "pieces_of": 3}, ""),
        ("damaged", ""),
    ],
)
def test_the_columns_of_a_log_in_words(log: object, words: str) -> None:
    assert log_words({"log": log}) == words
    assert log_words({}) == ""
