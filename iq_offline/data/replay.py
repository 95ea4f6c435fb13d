"""Choosing from cached datasets, and drawing batches of the choice.

A choice is an array of row indices: caches are shared, never copied. A batch is a TensorDict of kinds (``expert``,
``suboptimal``, ``initial``), each with a fixed number of rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.data.cache import CachedSource
from iq_offline.errors import UserError


@dataclass(frozen=True)
class Selection:
    """Transitions of one cached dataset: row r stands for (s, a, terminated) in r and s' in r + 1."""

    data: CachedSource
    trajectories: np.ndarray
    """Ids of the chosen episodes, in the order they were drawn."""
    rows: np.ndarray
    """Rows of the chosen transitions."""

    @property
    def starts(self) -> np.ndarray:
        """Rows of the chosen episodes' first observations."""
        return self.data.starts[self.trajectories]


def select(
    data: CachedSource, count: int | None, subsample: int, generator: np.random.Generator, without: Sequence[int] = ()
) -> Selection:
    """Draw ``count`` trajectories (all where None) and keep every ``subsample``-th transition of each.

    For one seed the choices are nested: whatever the count, trajectories come in the same order and with the same
    first transition, which is drawn per trajectory.

    Args:
        data: the cached dataset.
        count: trajectories to choose.
        subsample: the distance between kept transitions, at least 1.
        generator: its state decides the order.
        without: ids of episodes to leave out.

    Raises:
        UserError: the dataset holds fewer trajectories.
    """
    order = generator.permutation(len(data.lengths))
    first = generator.integers(0, subsample, len(data.lengths))
    order = order[~np.isin(order, np.asarray(without, np.int64))]
    if count is not None and count > len(order):
        raise UserError(f"{data.source.id} holds {len(order)} trajectories, {count} were asked for")
    chosen = order[:count]
    starts, lengths = data.starts, data.lengths
    rows = [
        starts[i] + np.arange(int(first[i] % min(subsample, lengths[i])), int(lengths[i]), subsample) for i in chosen
    ]
    return Selection(data, chosen, np.concatenate(rows) if rows else np.empty(0, np.int64))


def observation_statistics(selections: Sequence[Selection]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the chosen observations, float64, shape ``(observation size,)`` each.

    Deviations under 1e-3 count as 1e-3, so that constant dimensions are not blown up.
    """
    total, mean, square = 0, torch.zeros(()), torch.zeros(())
    for selection in selections:
        for rows in np.array_split(selection.rows, len(selection.rows) // 100_000 + 1):
            values = selection.data.steps["observation"][torch.from_numpy(rows)].double()
            total += len(values)
            mean = mean + values.sum(0)
            square = square + values.square().sum(0)
    mean = mean / total
    return mean, (square / total - mean.square()).clamp(min=0).sqrt().clamp(min=1e-3)


class Replay:
    """Draws batches: for each kind a fixed number of rows, uniformly with replacement.

    Args:
        kinds: for each kind its selections; several are drawn from as one.
        batch_sizes: rows of each kind in every batch.
        seed: of the draws.
        dtype: of the tensors in a batch.
        device: the tables move there once.
    """

    def __init__(
        self,
        kinds: dict[str, Sequence[Selection]],
        batch_sizes: dict[str, int],
        seed: int,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        self.generator = torch.Generator(device).manual_seed(seed)
        self.batch_sizes = batch_sizes
        self._dtype = dtype
        tables = {id(part.data): _on(part, device) for parts in kinds.values() for part in parts}
        self._parts = {
            kind: [(tables[id(part.data)], torch.from_numpy(_rows(kind, part)).to(device)) for part in parts]
            for kind, parts in kinds.items()
        }

    def sample(self) -> TensorDict:
        """A batch: observation, action, (next, observation), (next, terminated) a kind; of initial only the first."""
        return TensorDict({kind: self._draw(kind, size) for kind, size in self.batch_sizes.items()})

    def _draw(self, kind: str, size: int) -> TensorDict:
        parts = self._parts[kind]
        total = sum(len(rows) for _, rows in parts)
        drawn = torch.randint(total, (size,), generator=self.generator, device=self.generator.device)
        if len(parts) == 1:
            return self._gather(kind, parts[0][0], parts[0][1].index_select(0, drawn))
        pieces, offset = [], 0
        for steps, rows in parts:
            mine = drawn[(drawn >= offset) & (drawn < offset + len(rows))] - offset
            pieces.append(self._gather(kind, steps, rows.index_select(0, mine)))
            offset += len(rows)
        return cast(TensorDict, torch.cat(pieces))

    def _gather(self, kind: str, steps: dict[str, Tensor], rows: Tensor) -> TensorDict:
        size = [len(rows)]
        observation = steps["observation"].index_select(0, rows).to(self._dtype)
        if kind == "initial":
            return TensorDict({"observation": observation}, size)
        following = {
            "observation": steps["observation"].index_select(0, rows + 1).to(self._dtype),
            "terminated": steps["terminated"].index_select(0, rows).to(self._dtype),
        }
        action = steps["action"].index_select(0, rows).to(self._dtype)
        return TensorDict({"observation": observation, "action": action, "next": TensorDict(following, size)}, size)


def _rows(kind: str, selection: Selection) -> np.ndarray:
    return selection.starts if kind == "initial" else selection.rows


def _on(selection: Selection, device: str) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in selection.data.steps.items()}
