"""Which spaces can be learned from, and whether two datasets fit together."""

import re
from typing import cast

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from iq_offline.data.stream import Source
from iq_offline.errors import UserError


def check_learnable(source: Source) -> tuple[Box, Box]:
    """The observation and action boxes of a dataset that the continuous-control learners take.

    Raises:
        UserError: another kind of space, or an unbounded or empty action box.
    """
    for name, space in (("observation", source.observation_space), ("action", source.action_space)):
        if not isinstance(space, Box):
            raise UserError(f"{source.id}: its {name} space is {_word(space)}; only Box can be learned from so far")
        if not np.issubdtype(space.dtype, np.floating):
            raise UserError(f"{source.id}: its {name} space holds {space.dtype}; only floating point so far")
    observation, action = cast(Box, source.observation_space), cast(Box, source.action_space)
    if not (np.isfinite(action.low).all() and np.isfinite(action.high).all() and (action.low < action.high).all()):
        raise UserError(f"{source.id}: its action box has no finite, positive width in every dimension")
    return observation, action


def check_compatible(expert: Source, other: Source) -> None:
    """Whether ``other`` can be mixed with ``expert``.

    Raises:
        UserError: shapes or environments differ (versions of one environment may).
    """
    for name in ("observation_space", "action_space"):
        ours, theirs = getattr(expert, name), getattr(other, name)
        if ours.shape != theirs.shape:
            raise UserError(
                f"{other.id} cannot be mixed with {expert.id}: its {name.replace('_', ' ')} has shape "
                f"{theirs.shape}, the expert's {ours.shape}"
            )
    names = [re.sub(r"-v\d+$", "", source.environment_id or "") for source in (expert, other)]
    if all(names) and names[0] != names[1]:
        raise UserError(
            f"{other.id} cannot be mixed with {expert.id}: it was recorded in {other.environment_id}, "
            f"the expert in {expert.environment_id}"
        )


def _word(space: gymnasium.Space) -> str:
    return type(space).__name__
