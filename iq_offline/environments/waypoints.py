"""The expert of the point mazes: the shortest way through the map's cells, walked by a proportional controller.

It reads what a learner can: position, velocity and goal from the observation. The map it knows beforehand.
"""

from collections import deque
from typing import Any

import gymnasium
import numpy as np

from iq_offline.environments.rollout import Act

STIFFNESS, DAMPING = 10.0, 1.0
"""Of the controller: action = stiffness (waypoint - position) - damping velocity, clipped to the box."""

Cell = tuple[int, int]


def acting_by_waypoints(environment: gymnasium.Env, noise: float = 0.0) -> Act:
    """Act in a gymnasium-robotics PointMaze: towards the next cell on a shortest way to the goal.

    Args:
        environment: for its map.
        noise: standard deviation of Gaussian noise, as a fraction of half the action box.
    """
    maze: Any = environment.get_wrapper_attr("maze")
    free = {(i, j) for i, row in enumerate(maze.maze_map) for j, cell in enumerate(row) if cell != 1}
    space: Any = environment.action_space
    distances: dict[Cell, dict[Cell, int]] = {}

    def waypoint(observation: dict[str, np.ndarray]) -> np.ndarray:
        goal = observation["desired_goal"]
        target = tuple(maze.cell_xy_to_rowcol(goal))
        here = tuple(maze.cell_xy_to_rowcol(observation["achieved_goal"]))
        if target not in distances:
            distances[target] = distances_to(target, free)
        known = distances[target]
        if here == target:
            return goal
        near = min(neighbors(here), key=lambda cell: known.get(cell, len(free) + 1))
        return goal if near == target else maze.cell_rowcol_to_xy(np.array(near))

    def act(histories: list[list[Any]], generators: list[np.random.Generator]) -> np.ndarray:
        actions = []
        for history, generator in zip(histories, generators, strict=True):
            observation = history[-1]
            position, velocity = observation["observation"][:2], observation["observation"][2:]
            action = STIFFNESS * (waypoint(observation) - position) - DAMPING * velocity
            action = action + noise * generator.standard_normal(2)
            actions.append(np.clip(action, space.low, space.high))
        return np.stack(actions).astype(space.dtype)

    return act


def distances_to(target: Cell, free: set[Cell]) -> dict[Cell, int]:
    """Steps from every cell that can be reached to the target, by breadth-first search."""
    known = {target: 0}
    queue = deque([target])
    while queue:
        cell = queue.popleft()
        for other in neighbors(cell):
            if other in free and other not in known:
                known[other] = known[cell] + 1
                queue.append(other)
    return known


def neighbors(cell: Cell) -> list[Cell]:
    """The four cells beside a cell."""
    row, column = cell
    return [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
