"""Whether an environment is one that a dataset's policies can act in: it has the dataset's spaces."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from iq_offline.config import DataConfig
from iq_offline.data.actions import is_open
from iq_offline.data.irregularities import recipe_lines
from iq_offline.data.irregularity import few
from iq_offline.data.spaces import form_of
from iq_offline.data.stream import Source
from iq_offline.errors import UserError

ROUNDING = 1e-5
"""By how much of themselves bounds may differ: as much as they do where one was stored as float32 or in few digits."""


def check_fit(
    name: str, environment: gymnasium.Env, source: Source, data: DataConfig, wrappers_left_out: tuple[str, ...]
) -> None:
    """Whether the environment has the dataset's spaces, and its actions the same bounds.

    An action of another box may mean something else there (the dataset's wrappers may have rescaled it). Bounds that
    ``data`` gives are the user's word, and those that are infinite say nothing.

    Args:
        name: of the environment.
        environment: built.
        source: the dataset.
        data: how the run reads it.
        wrappers_left_out: names of those that the dataset has around its environment, and this one has not.

    Raises:
        UserError: it has not.
    """
    for part in ("observation_space", "action_space"):
        theirs, ours = form_of(getattr(environment, part)), form_of(getattr(source, part))
        if theirs != ours:
            raise UserError(f"{name}: its {part.replace('_', ' ')} is {theirs}, {source.id} has {ours}")
    theirs, ours = environment.action_space, source.action_space
    if not (isinstance(theirs, Box) and isinstance(ours, Box)):
        return
    low, high = theirs.low.reshape(-1), theirs.high.reshape(-1)
    own_low, own_high = ours.low.reshape(-1), ours.high.reshape(-1)
    differs = np.zeros(low.shape, bool)
    if not data.action_low:
        differs |= _differs(low, own_low)
    if not data.action_high:
        differs |= _differs(high, own_high)
    if not differs.any():
        return
    first = int(differs.argmax())
    if wrappers_left_out:
        remedy = f"give --trust-env to build it with the wrappers that the dataset names ({few(wrappers_left_out)})"
    else:
        lines = recipe_lines(_told(low, own_low), _told(high, own_high))
        remedy = "say in the recipe's [data] which box to act in" + (f", the environment's is {lines}" if lines else "")
    raise UserError(
        f"{name}: its actions go from {low[first]:.7g} to {high[first]:.7g} in dimension {first}, those of {source.id} "
        f"from {own_low[first]:.7g} to {own_high[first]:.7g}: {remedy}"
    )


def _differs(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where two bounds that both say something are not the same."""
    says = ~(is_open(one) | is_open(other))
    one, other = (np.where(says, bound.astype(np.float64), 0) for bound in (one, other))
    return np.abs(one - other) > ROUNDING * np.maximum(np.abs(one), np.abs(other))


def _told(bound: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The environment's bound, the dataset's where that says nothing, infinite where neither does."""
    found = np.where(is_open(bound), own, bound)
    return np.where(is_open(found), np.inf, found)
