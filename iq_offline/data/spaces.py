"""Spaces as tensors: an observation is a row of leaves, an action a point of a box or an index per branch.

A leaf is a part of the observation space that is not a Dict or a Tuple; its name is the path to it (``camera``,
``state.position``, ``pair.0``), and ``observation`` where the whole space is one leaf. Leaves are stored as they came
(:class:`Leaf`); only what a network reads is made floating point, batch by batch (:class:`ObservationEncoder`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from torch import Tensor, nn

from iq_offline.errors import UserError, nearest

WHOLE = "observation"
"""Name of the only leaf of a space without parts."""
SMALLEST_DEVIATION = 1e-3
"""Deviations under this, but for 0, count as this when observations are normalised (``replay.feature_statistics``)."""
FURTHEST = 4.0
"""Of a normalised observation's features from 0, in the data that they are normalised by. A thousand draws of a
Gaussian stay within 3.3 deviations, as most features of a robot do; contact forces in MuJoCo go to 30."""
FURTHEST_OTHER = 100.0
"""In other data: what never or hardly varies in a few labelled steps may be anywhere in theirs."""
MIN_IMAGE_SIDE = 8
"""Height and width from which on a uint8 array is looked at by convolutions."""

Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Leaf:
    """One part of an observation, and what its numbers mean."""

    path: Path_
    space: gymnasium.Space

    @property
    def name(self) -> str:
        """The path in words."""
        return ".".join(map(str, self.path)) or WHOLE

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one value."""
        return cast(tuple[int, ...], self.space.shape)

    @property
    def size(self) -> int:
        """Numbers stored for one value."""
        return int(np.prod(self.shape))

    @property
    def is_image(self) -> bool:
        """Whether convolutions look at it: uint8, of rank two, or of rank three with up to 64 channels at an end."""
        space, shape = self.space, self.shape
        if not (isinstance(space, Box) and space.dtype == np.uint8 and len(shape) in (2, 3)):
            return False
        height, width, channels = image_shape(shape)
        return min(height, width) >= MIN_IMAGE_SIDE and channels <= 64

    @property
    def is_categorical(self) -> bool:
        """Whether its numbers are names of categories, read one-hot."""
        return isinstance(self.space, Discrete | MultiDiscrete)

    @property
    def is_measured(self) -> bool:
        """Whether its numbers are quantities, which are shifted and scaled: no pixels, categories or switches."""
        return not (self.is_image or self.is_categorical or isinstance(self.space, MultiBinary))

    @property
    def categories(self) -> tuple[np.ndarray, np.ndarray]:
        """Of a categorical leaf: the first category and how many there are, for each of its numbers."""
        return categories_of(self.space)

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored numbers."""
        if self.is_categorical:
            return torch.int64
        return torch.uint8 if self.space.dtype == np.uint8 else torch.float32

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Values ``(n, *shape)`` as rows ``(n, size)`` of the stored type; categories are counted from 0.

        Raises:
            ValueError: a category that is not in the space, or a number that is none of uint8's in a space of those.
        """
        rows = np.asarray(values).reshape(len(values), self.size)
        if self.is_categorical:
            return indices_of(rows, *self.categories)
        if self.dtype == torch.uint8 and rows.dtype != np.uint8 and not fits_bytes(rows).all():
            raise ValueError("a value that is no whole number from 0 to 255, though its space is one of uint8")
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(rows, np.uint8 if self.dtype == torch.uint8 else np.float32)


def leaves_of(space: gymnasium.Space, path: Path_ = ()) -> list[Leaf]:
    """All leaves of an observation space in its own order, learnable or not; ``path`` leads to this space."""
    if not isinstance(space, Dict | Tuple):
        return [Leaf(path, space)]
    named = space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces)
    return [leaf for key, inner in named for leaf in leaves_of(inner, (*path, key))]


def part_of(observation: Any, path: Path_) -> Any:
    """The value at the end of a path through dictionaries and tuples."""
    for key in path:
        observation = observation[key]
    return observation


def is_learnable(space: gymnasium.Space) -> bool:
    """Whether a leaf is made of numbers that a network can read."""
    if isinstance(space, Box):
        return np.issubdtype(space.dtype, np.floating) or np.issubdtype(space.dtype, np.integer) or space.dtype == bool
    return isinstance(space, Discrete | MultiDiscrete | MultiBinary)


def chosen_leaves(space: gymnasium.Space, keys: Sequence[str], owner: str) -> tuple[Leaf, ...]:
    """The leaves that a learner reads, in its order.

    Args:
        space: of the observations.
        keys: names of leaves or of whole parts (``state`` for ``state.position`` and ``state.speed``); empty for all.
        owner: the dataset, for errors.

    Raises:
        UserError: a name that is not there (near ones suggested) or there twice, or a leaf that cannot be learned from.
    """
    leaves = leaves_of(space)
    names = [leaf.name for leaf in leaves]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"{owner}: two of its observations are called {twice!r}: rename a key that has a dot in it")
    chosen = leaves
    if keys:
        chosen = []
        for key in keys:
            found = [leaf for leaf in leaves if leaf.name == key]
            found = found or [leaf for leaf in leaves if leaf.name.startswith(f"{key}.")]
            if not found:
                raise UserError(f"{owner} has no observation {key!r}{nearest(key, names)} (it has: {', '.join(names)})")
            chosen += [leaf for leaf in found if leaf not in chosen]
    unusable = [leaf for leaf in chosen if not is_learnable(leaf.space)]
    if unusable:
        others = [leaf.name for leaf in chosen if leaf not in unusable]
        remedy = f"drop it with observation_keys = {others}" if others else "nothing else is observed"
        leaf = unusable[0]
        raise UserError(f"{owner}: observation {leaf.name!r} is {word(leaf.space)}, not numbers: {remedy}")
    if not sum(leaf.size for leaf in chosen):
        raise UserError(f"{owner}: nothing is observed: its observations hold no numbers")
    return tuple(chosen)


@dataclass(frozen=True)
class ObservationEncoder:
    """From stored leaves to the vector of features that networks read.

    Numbers stay as they are, categories become one-hot, images lie flat, oldest frame first (:class:`ImageTorso`
    gives them their shape back).
    """

    leaves: tuple[Leaf, ...]
    frame_stack: int = 1
    """Images are seen with so many minus one before them; in an episode's first steps the first is repeated."""

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Features of each leaf."""
        return tuple(self._width(leaf) for leaf in self.leaves)

    @property
    def size(self) -> int:
        """Features in all."""
        return sum(self.widths)

    @property
    def has_images(self) -> bool:
        """Whether any leaf is an image."""
        return any(leaf.is_image for leaf in self.leaves)

    def features(self, leaf: Leaf, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Features ``(n, width)`` of a leaf's stored rows, ``(n, size)`` or ``(n, frame_stack size)`` of an image."""
        if not leaf.is_categorical:
            return rows.to(dtype)
        _, counts = leaf.categories
        one_hot = [nn.functional.one_hot(rows[:, i], int(n)) for i, n in enumerate(counts)]
        return torch.cat(one_hot, -1).to(dtype)

    def constants(self) -> tuple[Tensor, Tensor, Tensor]:
        """Per feature: whether it is measured and scaled, and mean and deviation for those that are not."""
        measured, mean, std = [], [], []
        for leaf, width in zip(self.leaves, self.widths, strict=True):
            measured.append(torch.full((width,), leaf.is_measured))
            mean.append(torch.zeros(width, dtype=torch.float64))
            std.append(torch.full((width,), 255.0 if leaf.is_image else 1.0, dtype=torch.float64))
        return torch.cat(measured), torch.cat(mean), torch.cat(std)

    def encode(self, histories: Sequence[Sequence[Any]]) -> Tensor:
        """Features ``(n, size)`` float32 of the newest of each history's observations, as an environment gives them."""
        parts = []
        for leaf in self.leaves:
            frames = []
            for back in reversed(range(self.frame_stack if leaf.is_image else 1)):
                values = [part_of(history[max(len(history) - 1 - back, 0)], leaf.path) for history in histories]
                frames.append(torch.from_numpy(leaf.stored(np.stack(values))))
            parts.append(self.features(leaf, torch.cat(frames, -1), torch.float32))
        return torch.cat(parts, -1)

    def _width(self, leaf: Leaf) -> int:
        if leaf.is_categorical:
            return int(leaf.categories[1].sum())
        return leaf.size * (self.frame_stack if leaf.is_image else 1)


def check_compatible(expert: Any, other: Any) -> None:
    """Whether the dataset ``other`` can be mixed with ``expert`` (both a ``stream.Source``).

    Raises:
        UserError: observations, actions or environments differ (versions of one environment may), or logs' columns.
    """
    for name in ("observation_space", "action_space"):
        ours, theirs = getattr(expert, name), getattr(other, name)
        if form_of(ours) != form_of(theirs):
            raise UserError(
                f"{other.id} cannot be mixed with {expert.id}: its {name.replace('_', ' ')} is {form_of(theirs)}, "
                f"the expert's {form_of(ours)}"
            )
    for field in ("observation", "action"):
        ours, theirs = (source.log.get(field) for source in (expert, other))
        if ours and theirs and ours != theirs:
            raise UserError(
                f"{other.id} cannot be mixed with {expert.id}: the columns of its {field}s are {', '.join(theirs)}, "
                f"the expert's {', '.join(ours)}: import it anew with --{field} in their order"
            )
    names = [re.sub(r"-v\d+$", "", source.environment_id or "") for source in (expert, other)]
    if all(names) and names[0] != names[1]:
        raise UserError(
            f"{other.id} cannot be mixed with {expert.id}: it was recorded in {other.environment_id}, "
            f"the expert in {expert.environment_id}"
        )


def form_of(space: gymnasium.Space) -> str:
    """What must agree between two datasets: names, kinds and shapes, not bounds; bytes of an image are no numbers."""
    if isinstance(space, Dict):
        return "{" + ", ".join(f"{key}: {form_of(part)}" for key, part in space.spaces.items()) + "}"
    if isinstance(space, Tuple):
        return "(" + ", ".join(map(form_of, space.spaces)) + ")"
    if isinstance(space, Discrete | MultiDiscrete):
        first, count = categories_of(space)
        return f"{word(space)} of {count.tolist()} from {first.tolist()}"
    image = isinstance(space, Box) and Leaf((), space).is_image
    return f"{'image' if image else word(space)} of shape {space.shape}"


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(height, width, channels) of an image leaf, whichever end its channels are at."""
    if len(shape) == 2:
        return shape[0], shape[1], 1
    first, middle, last = shape
    return (first, middle, last) if last <= first else (middle, last, first)


def channels_last(shape: tuple[int, ...]) -> bool:
    """Whether an image leaf's channels come last."""
    return len(shape) == 3 and shape[2] <= shape[0]


def categories_of(space: gymnasium.Space) -> tuple[np.ndarray, np.ndarray]:
    """The first category and how many there are, for each number of a Discrete, MultiDiscrete or MultiBinary value."""
    if isinstance(space, Discrete):
        return np.array([space.start], np.int64), np.array([space.n], np.int64)
    if isinstance(space, MultiDiscrete):
        counts = np.asarray(space.nvec, np.int64).reshape(-1)
        start = getattr(space, "start", np.zeros_like(counts))
        return np.asarray(start, np.int64).reshape(-1), counts
    size = int(np.prod(cast(tuple[int, ...], space.shape)))
    return np.zeros(size, np.int64), np.full(size, 2, np.int64)


def indices_of(rows: np.ndarray, first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Categories ``(n, numbers)`` counted from 0, int64.

    Raises:
        ValueError: one that is not in its space.
    """
    with np.errstate(invalid="ignore"):
        whole = rows.astype(np.int64)
    indices = whole - first
    if ((indices < 0) | (indices >= counts) | (whole != rows)).any():
        raise ValueError("a value that is not in its Discrete space")
    return indices


def fits_bytes(values: np.ndarray) -> np.ndarray:
    """Where values stay what they are as uint8."""
    with np.errstate(invalid="ignore"):
        return np.asarray(values.astype(np.uint8) == values)


def word(space: gymnasium.Space) -> str:
    """The kind of a space, for sentences."""
    return type(space).__name__
