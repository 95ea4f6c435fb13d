"""Actions as learners see them: points of a box, or an index for each branch of finitely many."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from iq_offline.data.spaces import categories_of, indices_of, word
from iq_offline.errors import UserError


@dataclass(frozen=True, eq=False)
class ActionBox:
    """Continuous actions, seen by learners as [-1, 1] in every dimension."""

    space: Box
    low: np.ndarray
    """Shape of the space, float32, finite, below ``high``."""
    high: np.ndarray

    def __eq__(self, other: object) -> bool:
        """Whether actions are read alike."""
        if not isinstance(other, ActionBox) or self.space != other.space:
            return False
        return np.array_equal(self.low, other.low) and np.array_equal(self.high, other.high)

    __hash__ = None  # type: ignore[assignment]

    @property
    def size(self) -> int:
        """Numbers in an action."""
        return int(np.prod(self.low.shape))

    def to_unit(self, actions: np.ndarray) -> np.ndarray:
        """Points ``(n, size)`` of the unit box from actions ``(n, …)``; those outside are clipped to its faces."""
        flat = np.asarray(actions).reshape(len(actions), self.size)
        low, high = self.low.reshape(-1), self.high.reshape(-1)
        return np.clip(2 * (flat - low) / (high - low) - 1, -1, 1)

    def from_unit(self, unit: np.ndarray) -> np.ndarray:
        """Actions ``(n, *shape)`` of the environment from points ``(n, size)`` of the unit box."""
        points = unit.reshape(len(unit), *self.low.shape)
        actions = self.low + (self.high - self.low) * (points + 1) / 2
        return np.clip(np.clip(actions, self.low, self.high).astype(self.space.dtype), *self._limits)

    @cached_property
    def _limits(self) -> tuple[np.ndarray, np.ndarray]:
        """The space's own bounds where ours are these, rounded to float32 or widened; bounds given by the user stay."""
        own = self.space.low, self.space.high
        flat = own[0] == own[1]
        low = np.where(flat | (own[0].astype(np.float32) == self.low), own[0], -np.inf)
        return low, np.where(flat | (own[1].astype(np.float32) == self.high), own[1], np.inf)


@dataclass(frozen=True)
class ActionBranches:
    """Finitely many actions: an index for each branch. Discrete has one, MultiDiscrete several."""

    space: gymnasium.Space

    @property
    def counts(self) -> tuple[int, ...]:
        """Choices in each branch."""
        return tuple(int(count) for count in categories_of(self.space)[1])

    @property
    def size(self) -> int:
        """Numbers in an action."""
        return len(self.counts)

    def stored(self, actions: np.ndarray) -> np.ndarray:
        """Indices ``(n, branches)`` from 0.

        Raises:
            ValueError: an action that is not in the space.
        """
        return indices_of(np.asarray(actions).reshape(len(actions), self.size), *categories_of(self.space))

    def from_indices(self, indices: np.ndarray) -> np.ndarray:
        """Actions ``(n, *shape)`` of the environment from indices ``(n, branches)``."""
        actions = indices + categories_of(self.space)[0]
        return actions.reshape(len(actions), *cast(tuple[int, ...], self.space.shape)).astype(self.space.dtype)


ActionEncoder = ActionBox | ActionBranches


def has_finite_actions(space: gymnasium.Space) -> bool:
    """Whether actions are chosen among finitely many."""
    return isinstance(space, Discrete | MultiDiscrete | MultiBinary)


def is_open(bound: np.ndarray) -> np.ndarray:
    """Where a bound says nothing: it is infinite, or so large that float32 cannot hold the width of its box."""
    return np.asarray(~(np.abs(bound) < np.finfo(np.float32).max / 2))


def check_actions(space: gymnasium.Space, owner: str) -> None:
    """Whether actions of this space can be learned.

    Raises:
        UserError: they cannot.
    """
    continuous = isinstance(space, Box) and np.issubdtype(space.dtype, np.floating)
    if not (continuous or has_finite_actions(space)):
        held = f" of {space.dtype}" if isinstance(space, Box) else ""
        raise UserError(
            f"{owner}: its actions are {word(space)}{held}; Box of floating point, Discrete, MultiDiscrete and "
            "MultiBinary can be learned"
        )
    if not np.prod(cast(tuple[int, ...], space.shape)):
        raise UserError(f"{owner}: its action space holds no numbers")


def action_encoder(
    space: gymnasium.Space,
    recorded: tuple[Sequence[float], Sequence[float]],
    low: Sequence[float],
    high: Sequence[float],
    owner: str,
) -> ActionEncoder:
    """How a dataset's actions are read.

    Args:
        space: the stored one.
        recorded: smallest and largest action of the dataset in every dimension, in place of bounds that are missing.
        low: in place of the space's own, if not empty; one number for all dimensions, or one for each.
        high: likewise.
        owner: the dataset, for errors.

    Raises:
        UserError: actions that cannot be learned, bounds that do not fit.
    """
    check_actions(space, owner)
    if not isinstance(space, Box):
        if low or high:
            raise UserError(f"{owner}: action_low and action_high are for Box actions; its are {word(space)}")
        return ActionBranches(space)
    size = int(np.prod(space.shape))
    bounds = []
    for name, given, stored, seen in (("low", low, space.low, recorded[0]), ("high", high, space.high, recorded[1])):
        if given and len(given) not in (1, size):
            raise UserError(f"action_{name} has {len(given)} numbers, {owner} has actions of {size}: give 1 or {size}")
        if given:
            bound = np.broadcast_to(np.asarray(given, np.float32), (size,))
        else:
            bound = stored.reshape(-1)
            if is_open(bound).any():
                bound = np.where(is_open(bound), np.asarray(seen, np.float32), bound)
        bounds.append(bound.astype(np.float32).reshape(space.shape))
    if (bounds[0] > bounds[1]).any() or any(is_open(bound).any() for bound in bounds):
        raise UserError(f"{owner}: its action box is empty or not finite: give action_low and action_high")
    flat = bounds[0] == bounds[1]  # A dimension that never moves: any width will do, and zero would divide.
    return ActionBox(space, np.where(flat, bounds[0] - 1, bounds[0]), np.where(flat, bounds[1] + 1, bounds[1]))
