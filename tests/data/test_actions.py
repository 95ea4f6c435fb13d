"""Actions as learners see them: there and back, whatever the space and its bounds."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from hypothesis import given, settings
from hypothesis import strategies as st

from iq_offline.data.actions import ActionBox, ActionBranches, action_encoder
from iq_offline.errors import UserError
from tests.space_helpers import SQUARE, categories, expected_actions

NOTHING: tuple[list[float], list[float]] = ([], [])


def box(space: gymnasium.Space, recorded: Any = NOTHING, low: Any = (), high: Any = ()) -> ActionBox:
    encoder = action_encoder(space, recorded, low, high, "test/a-v0")
    assert isinstance(encoder, ActionBox)
    return encoder


def branches(space: gymnasium.Space) -> ActionBranches:
    encoder = action_encoder(space, NOTHING, (), (), "test/a-v0")
    assert isinstance(encoder, ActionBranches)
    return encoder


# ---------------------------------------------------------------------------------------------------- finitely many


@settings(max_examples=60, deadline=None, derandomize=True)
@given(space=categories(), seed=st.integers(0, 2**31), count=st.integers(1, 5))
def test_indices_and_back(space: gymnasium.Space, seed: int, count: int) -> None:
    space.seed(seed)
    actions = np.array([space.sample() for _ in range(count)])
    encoder = branches(space)
    indices = encoder.stored(actions)
    np.testing.assert_array_equal(indices, expected_actions(space, actions))
    assert indices.dtype == np.int64
    assert indices.shape == (count, encoder.size)
    assert (indices >= 0).all()
    assert (indices < np.array(encoder.counts)).all()
    again = encoder.from_indices(indices)
    np.testing.assert_array_equal(again, actions)
    assert again.dtype == actions.dtype
    assert all(action in space for action in again)


@pytest.mark.parametrize(
    ("space", "counts"),
    [
        (Discrete(5, start=-2), (5,)),
        (MultiDiscrete([2, 3], start=[4, -1]), (2, 3)),
        (SQUARE, (2, 3, 4, 1)),
        (MultiBinary(3), (2, 2, 2)),
        (MultiBinary((2, 1)), (2, 2)),
    ],
)
def test_choices_of_each_branch(space: gymnasium.Space, counts: tuple[int, ...]) -> None:
    assert branches(space).counts == counts
    assert branches(space).size == len(counts)
    every = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), -1).reshape(-1, len(counts))
    actions = branches(space).from_indices(every)
    assert all(action in space for action in actions)
    assert len({action.tobytes() for action in actions}) == np.prod(counts)


@pytest.mark.parametrize(
    ("space", "wrong"),
    [
        (Discrete(3, start=1), [0, 4, -1, 1.9, 3.1]),
        (MultiDiscrete([2, 3], start=[1, 0]), [[0, 0], [3, 0], [1, 3], [1, -1], [1, 0.5]]),
        (MultiBinary(2), [[2, 0], [0, -1], [0.9, 0]]),
    ],
)
def test_actions_that_are_not_in_the_space(space: gymnasium.Space, wrong: list[Any]) -> None:
    good = np.array(space.sample())
    for action in wrong:
        with pytest.raises(ValueError, match="not in its Discrete space"):
            branches(space).stored(np.array([good, action]))


# ---------------------------------------------------------------------------------------------------- boxes


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.sampled_from([(), (1,), (3,), (2, 2)]),
    kind=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**31),
)
def test_the_unit_box_and_back(shape: tuple[int, ...], kind: type, seed: int) -> None:
    generator = np.random.default_rng(seed)
    low = generator.uniform(-5, 5, shape).astype(np.float32)
    high = (low + generator.uniform(0.1, 4, shape)).astype(np.float32)
    space = Box(low.astype(kind), high.astype(kind), shape, kind)  # type: ignore[arg-type]
    encoder = box(space)
    np.testing.assert_array_equal(encoder.low, low)
    np.testing.assert_array_equal(encoder.high, high)
    share = generator.uniform(0, 1, (6, *shape))
    actions = low + share * (high.astype(np.float64) - low)
    unit = encoder.to_unit(actions)
    assert unit.shape == (6, encoder.size)
    np.testing.assert_allclose(unit, (2 * share - 1).reshape(6, -1), atol=1e-5)
    again = encoder.from_unit(unit)
    assert again.shape == actions.shape
    assert again.dtype == kind
    np.testing.assert_allclose(again, actions, atol=1e-5)
    np.testing.assert_allclose(encoder.to_unit(again), unit, atol=1e-5)
    for face, bound in ((-1.0, low), (1.0, high)):
        faces = encoder.from_unit(np.full((1, encoder.size), face))
        np.testing.assert_allclose(faces[0], bound, rtol=1e-6, atol=1e-6)
        assert np.asarray(faces[0]) in space
        np.testing.assert_allclose(encoder.to_unit(faces), np.full((1, encoder.size), face), atol=1e-5)


def test_what_is_outside_is_clipped_to_the_faces() -> None:
    encoder = box(Box(np.array([0, -2], np.float32), np.array([4, 2], np.float32)))
    unit = encoder.to_unit(np.array([[-1.0, 3.0], [5.0, 0.0], [1.0, -99.0]]))
    np.testing.assert_array_equal(unit, [[-1, 1], [1, 0], [-0.5, -1]])
    np.testing.assert_array_equal(encoder.from_unit(np.array([[7.0, -7.0]])), [[4, -2]])


RECORDED = ([-3.0, 0.5, -1.0], [3.0, 0.75, 1.0])
PARTLY = Box(np.array([-1, -np.inf, -np.inf], np.float32), np.array([np.inf, 2, np.inf], np.float32))
BOUNDED = Box(-1, 1, (3,))


@pytest.mark.parametrize(
    ("space", "low", "high", "expected"),
    [
        (PARTLY, (), (), ([-1, 0.5, -1], [3, 2, 1])),
        (PARTLY, (-4.0,), (), ([-4, -4, -4], [3, 2, 1])),
        (PARTLY, (), (5.0, 6.0, 7.0), ([-1, 0.5, -1], [5, 6, 7])),
        (PARTLY, (-2.0,), (0.5, 0.5, 9.0), ([-2, -2, -2], [0.5, 0.5, 9])),
        (BOUNDED, (), (), ([-1, -1, -1], [1, 1, 1])),
        (BOUNDED, (-0.5,), (), ([-0.5] * 3, [1] * 3)),
        (BOUNDED, (), (0.0, 0.5, 0.75), ([-1] * 3, [0, 0.5, 0.75])),
        (BOUNDED, (-3.0, -2.0, -1.5), (3.0, 2.0, 1.5), ([-3, -2, -1.5], [3, 2, 1.5])),
    ],
)
def test_bounds(space: Box, low: Any, high: Any, expected: tuple[list[float], list[float]]) -> None:
    """Given ones before the space's own, recorded ones where these are missing, in each dimension."""
    encoder = box(space, RECORDED, low, high)
    assert encoder.low.tolist() == expected[0]
    assert encoder.high.tolist() == expected[1]
    assert encoder.low.dtype == encoder.high.dtype == np.float32
    assert encoder.from_unit(np.zeros((1, 3)))[0] == pytest.approx((encoder.low + encoder.high) / 2)


def test_bounds_of_many_axes_are_in_the_spaces_order() -> None:
    space = Box(-np.inf, np.inf, (2, 2))
    encoder = box(space, ([1.0, 2, 3, 4], [10.0, 20, 30, 40]))
    assert encoder.low.tolist() == [[1, 2], [3, 4]]
    assert encoder.high.tolist() == [[10, 20], [30, 40]]
    assert box(space, NOTHING, (1.0, 2.0, 3.0, 4.0), (9.0,)).low.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("space", "low", "high", "recorded", "expected"),
    [
        (BOUNDED, (0.0, 0.0), (), NOTHING, "action_low has 2 numbers, test/a-v0 has actions of 3: give 1 or 3"),
        (BOUNDED, (), (1.0,) * 4, NOTHING, "action_high has 4 numbers, test/a-v0 has actions of 3: give 1 or 3"),
        (BOUNDED, (2.0,), (), NOTHING, "test/a-v0: its action box is empty or not finite: give action_low and"),
        (BOUNDED, (0.0, 0.0, 3.0), (2.0,), NOTHING, "its action box is empty or not finite"),
        (BOUNDED, (), (float("inf"),), NOTHING, "its action box is empty or not finite"),
        (BOUNDED, (float("nan"),), (), NOTHING, "its action box is empty or not finite"),
        (Discrete(3), (0.0,), (), NOTHING, "test/a-v0: action_low and action_high are for Box actions; its are Discr"),
        (MultiBinary(3), (), (0.0,), NOTHING, "action_low and action_high are for Box actions; its are MultiBinary"),
    ],
)
def test_bounds_that_do_not_fit(space: gymnasium.Space, low: Any, high: Any, recorded: Any, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        action_encoder(space, recorded, low, high, "test/a-v0")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (Box(0, 9, (2,), np.int64), "its actions are Box of int64; Box of floating point, Discrete"),
        (Box(-1, 1, (0,)), "its action space holds no numbers"),
        (Dict({"a": Discrete(2)}), "its actions are Dict; Box of floating point"),
        (Tuple([Discrete(2)]), "its actions are Tuple; Box of floating point"),
        (Text(3), "its actions are Text; Box of floating point"),
    ],
)
def test_actions_that_cannot_be_learned(space: gymnasium.Space, expected: str) -> None:
    with pytest.raises(UserError, match=f"test/a-v0: {expected}"):
        action_encoder(space, NOTHING, (), (), "test/a-v0")


def test_a_dimension_that_never_moves() -> None:
    """Its own value is the middle, and whatever a policy says there, the action stays in the space."""
    space = Box(np.array([-1, 0.5], np.float32), np.array([1, 0.5], np.float32))
    encoder = box(space)
    unit = encoder.to_unit(np.array([[0.5, 0.5]]))
    np.testing.assert_array_equal(unit, [[0.5, 0.0]])
    np.testing.assert_array_equal(encoder.from_unit(unit), np.array([[0.5, 0.5]], np.float32))
    for points in ([[0.25, 1.0]], [[0.25, -0.3]]):
        (action,) = encoder.from_unit(np.array(points))
        assert action in space, action
    free = box(Box(-np.inf, np.inf, (2,)), ([0.0, 3.0], [1.0, 3.0]))
    np.testing.assert_array_equal(free.to_unit(np.array([[1.0, 3.0]])), [[1.0, 0.0]])
    np.testing.assert_array_equal(free.from_unit(np.array([[0.0, 0.0]])), [[0.5, 3.0]])


@pytest.mark.parametrize(
    ("bound", "kind"), [(np.finfo(np.float32).max, np.float32), (np.finfo(np.float64).max, np.float64), (1e39, float)]
)
def test_bounds_so_large_that_they_say_nothing(bound: float, kind: type) -> None:
    """Programs write the largest number of a type for a bound that is not there: every action would look alike."""
    encoder = box(Box(-bound, bound, (3,), kind), RECORDED)
    assert encoder.low.tolist() == RECORDED[0]
    assert encoder.high.tolist() == RECORDED[1]
    np.testing.assert_array_equal(encoder.to_unit(np.array([RECORDED[0], RECORDED[1]], kind)), [[-1] * 3, [1] * 3])
    with pytest.raises(UserError, match="its action box is empty or not finite"):
        box(BOUNDED, RECORDED, (-3e38,), (3e38,))


@pytest.mark.parametrize("bound", [0.1, 0.7, 1 / 3])
def test_bounds_that_float32_does_not_hold(bound: float) -> None:
    """The faces of a float64 box are rounded, and yet never outside of it."""
    space = Box(-bound, bound, (1,), np.float64)
    encoder = box(space)
    for face in (-1.0, 1.0):
        (action,) = encoder.from_unit(np.array([[face]]))
        assert action == pytest.approx(face * bound, rel=1e-6)
        assert action in space


def test_boxes_are_equal_where_actions_are_read_alike() -> None:
    assert box(BOUNDED) == box(Box(-1, 1, (3,)))
    assert box(BOUNDED) != box(BOUNDED, low=(-0.5,))
    assert box(BOUNDED) != box(Box(-1, 1, (3,), np.float64))
    assert box(BOUNDED) != branches(Discrete(3))
    assert branches(Discrete(3)) == branches(Discrete(3))
    assert branches(Discrete(3)) != branches(Discrete(3, start=1))
