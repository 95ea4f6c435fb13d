"""Random spaces of every kind, and what a learner should see of them: written down once more, without the package."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import minari
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from hypothesis import strategies as st

Draw = st.DrawFn
SHAPES = [(), (1,), (3,), (2, 2), (2, 1, 3)]
PICTURES = [(8, 9), (9, 8, 3), (3, 8, 9), (8, 8, 1), (12, 8, 8), (33, 35, 3), (34, 32)]
"""Height, width and channels at either end or nowhere; the last two are large enough for Minari's JPEG."""
SMALL = [(4,), (7, 7, 3), (8, 2), (1, 9)]
"""Bytes that are no images."""
SQUARE = MultiDiscrete(np.array([[2, 3], [4, 1]]), start=np.array([[0, -1], [2, 5]]))


@st.composite
def boxes(draw: Draw) -> Box:
    """Numbers of any type, bounded or not."""
    shape = draw(st.sampled_from(SHAPES))
    kind = draw(st.sampled_from([np.float32, np.float64, np.int8, np.int32, np.int64, np.uint16]))
    if np.issubdtype(kind, np.integer):
        low = draw(st.integers(0 if kind == np.uint16 else -100, 3))
        return Box(low, low + draw(st.integers(0, 100)), shape, kind)
    low, high = draw(st.sampled_from([(-1.0, 2.5), (-np.inf, np.inf), (0.0, np.inf), (-np.inf, -3.0)]))
    return Box(low, high, shape, kind)  # type: ignore[arg-type]


@st.composite
def categories(draw: Draw) -> gymnasium.Space:
    """Discrete, MultiDiscrete and MultiBinary, from any first category on."""
    kind = draw(st.sampled_from(["discrete", "several", "square", "switches", "square of switches"]))
    if kind == "discrete":
        return Discrete(draw(st.integers(1, 5)), start=draw(st.integers(-3, 3)))
    if kind == "several":
        counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
        return MultiDiscrete(
            counts, start=draw(st.lists(st.integers(-2, 2), min_size=len(counts), max_size=len(counts)))
        )
    if kind == "square":
        return SQUARE
    return MultiBinary(draw(st.integers(1, 4))) if kind == "switches" else MultiBinary((2, 2))


@st.composite
def pictures(draw: Draw) -> Box:
    """Bytes, images or not."""
    return Box(0, 255, draw(st.sampled_from(PICTURES + SMALL)), np.uint8)


LEAVES = st.one_of(boxes(), categories(), pictures())
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(["a", "b", "camera", "in.side"]), inner, min_size=1, max_size=3).map(Dict),
        st.lists(inner, min_size=1, max_size=3).map(Tuple),
    ),
    max_leaves=4,
)


@st.composite
def action_boxes(draw: Draw) -> Box:
    """Of floating point; each bound of each dimension may be missing."""
    shape = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    size = int(np.prod(shape))
    low = np.array(draw(st.lists(st.sampled_from([-np.inf, -1.0, -0.5]), min_size=size, max_size=size)))
    high = np.array(draw(st.lists(st.sampled_from([np.inf, 0.25, 2.0]), min_size=size, max_size=size)))
    kind = draw(st.sampled_from([np.float32, np.float64]))
    return Box(low.reshape(shape).astype(kind), high.reshape(shape).astype(kind), shape, kind)  # type: ignore[arg-type]


ACTIONS = st.one_of(action_boxes(), categories())


def leaves(space: gymnasium.Space, values: Any, name: str = "") -> Iterator[tuple[str, gymnasium.Space, Any]]:
    """Name, space and values of every part, in the space's order."""
    if isinstance(space, Dict):
        for key, part in space.spaces.items():
            yield from leaves(part, values[key], f"{name}.{key}" if name else key)
    elif isinstance(space, Tuple):
        for index, part in enumerate(space.spaces):
            yield from leaves(part, values[index], f"{name}.{index}" if name else str(index))
    else:
        yield name or "observation", space, values


def is_picture(space: gymnasium.Space) -> bool:
    """By the list above."""
    return isinstance(space, Box) and space.dtype == np.uint8 and space.shape in PICTURES


def one_hot(space: Discrete | MultiDiscrete, values: np.ndarray) -> np.ndarray:
    """A one for each category of each number."""
    counts = np.array([space.n]) if isinstance(space, Discrete) else space.nvec.reshape(-1)
    starts = np.array([space.start]) if isinstance(space, Discrete) else space.start.reshape(-1)
    rows = np.asarray(values).reshape(len(values), -1)
    return np.stack(
        [
            np.concatenate(
                [np.arange(first, first + n) == number for number, first, n in zip(row, starts, counts, strict=True)]
            )
            for row in rows
        ]
    ).astype(np.float32)


def expected_features(space: gymnasium.Space, observations: Any, frame_stack: int) -> np.ndarray:
    """Features ``(T+1, size)`` float32 of an episode's observations."""
    columns = []
    for _, part, values in leaves(space, observations):
        if isinstance(part, Text):
            continue
        if isinstance(part, Discrete | MultiDiscrete):
            columns.append(one_hot(part, values))
            continue
        rows = np.asarray(values, np.float64).astype(np.float32)
        rows = rows.reshape(len(rows), -1)
        if is_picture(part):
            seen = [[max(t - back, 0) for back in range(frame_stack - 1, -1, -1)] for t in range(len(rows))]
            rows = np.stack([np.concatenate([rows[t] for t in times]) for times in seen])
        columns.append(rows)
    return np.concatenate(columns, 1)


def expected_actions(space: gymnasium.Space, actions: np.ndarray) -> np.ndarray:
    """Rows ``(T, size)``: indices from 0, or numbers as float32."""
    rows = np.asarray(actions).reshape(len(actions), -1)
    if isinstance(space, Discrete):
        return rows - space.start
    if isinstance(space, MultiDiscrete):
        return rows - space.start.reshape(-1)
    return rows.astype(np.int64 if isinstance(space, MultiBinary) else np.float32)


def at(space: gymnasium.Space, observations: Any, time: int) -> Any:
    """One observation of an episode, as an environment gives it."""
    if isinstance(space, Dict):
        return {key: at(part, observations[key], time) for key, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(at(part, observations[index], time) for index, part in enumerate(space.spaces))
    return observations[time]


def minaris_episodes(identifier: str) -> list[Any]:
    """A dataset's episodes as Minari itself reads them."""
    return list(minari.load_dataset(identifier).iterate_episodes())
