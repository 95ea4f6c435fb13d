"""What a policy lives through, in the same tensors as the fixed data: a bounded table that is written in a ring.

Each copy of the environment writes into a lane of its own, as episodes lie in a cache: row r holds (s, a, terminated),
row r + 1 holds s'. The last row of an episode has no action and is never drawn. Where a lane is full it begins anew at
its first row with the observation that it is at, and the oldest transitions are forgotten one by one.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from iq_offline.data.cache import CachedSource
from iq_offline.data.replay import Table
from iq_offline.data.spaces import ObservationEncoder


class OnlineTable(Table):
    """Transitions of several lanes, the newest so many of each.

    Args:
        data: the expert's, whose columns and types these are.
        encoder: which leaves become features, and how.
        dtype: of the features and of continuous actions.
        device: where batches are wanted.
        lanes: copies of the environment.
        capacity: transitions of all lanes together, at most; but a lane has room for two more than the stacked
            frames. An episode of T of them takes the room of T + 1.
    """

    def __init__(
        self,
        data: CachedSource,
        encoder: ObservationEncoder,
        dtype: torch.dtype,
        device: str,
        lanes: int,
        capacity: int,
    ) -> None:
        stacked = encoder.frame_stack if encoder.has_images else 1
        self.length = max(capacity // lanes, stacked + 2) + 1
        self._carried = stacked
        rows = lanes * self.length
        names = (*(data.column(leaf) for leaf in encoder.leaves), "action", "terminated")
        own = {name: torch.zeros(rows, *data.steps[name].shape[1:], dtype=data.steps[name].dtype) for name in names}
        if stacked > 1:
            own["age"] = torch.zeros(rows, dtype=torch.int64)
        self._observed = [name for name in own if name not in ("action", "terminated")]
        self.describe(data, encoder, dtype, device)
        self.columns = {name: column.to(device) for name, column in own.items()}
        self.heads = [-1] * lanes
        """Of each lane the row of the observation that it is at; -1 before the first."""
        self.used = 0
        """Rows of a lane that were ever written, of the lane with most."""
        self.count = 0
        """Transitions that can be drawn."""
        self.numbered = torch.zeros(rows, dtype=torch.int64)
        """The first ``count`` are their rows, in no order that means anything."""
        self._number_of = torch.full((rows,), -1, dtype=torch.int64)

    def begin(self, lanes: Sequence[int], observation: Mapping[str, Tensor]) -> None:
        """First observations of new episodes in these lanes: of each column the rows, in the order of the lanes."""
        for lane in lanes:
            first, head = lane * self.length, self.heads[lane]
            at = first if head < 0 or head + 2 >= first + self.length else head + 1
            self._take(lane, at)
        rows = torch.tensor([self.heads[lane] for lane in lanes])
        self._write(rows, observation)
        if "age" in self.columns:
            self.columns["age"][rows] = 0

    def add(self, action: Tensor, terminated: Tensor, observation: Mapping[str, Tensor]) -> None:
        """One step of every lane: what was done in the observation that it was at, and what came of it."""
        for lane, head in enumerate(self.heads):
            if head + 1 == (lane + 1) * self.length:
                self._wrap(lane)
        before = torch.tensor(self.heads)
        for lane, head in enumerate(self.heads):
            self._take(lane, head + 1)
        self._write(before + 1, observation)
        if "age" in self.columns:
            self.columns["age"][before + 1] = self.columns["age"][before] + 1
        self.columns["action"][before] = action.to(self.columns["action"])
        self.columns["terminated"][before] = terminated.to(self.columns["terminated"])
        numbers = torch.arange(self.count, self.count + len(before))
        self.numbered[numbers] = before
        self._number_of[before] = numbers
        self.count += len(before)

    def current(self) -> Tensor:
        """Features ``(lanes, size)`` of the observations that the lanes are at."""
        return self._features(torch.tensor(self.heads, device=self.columns["action"].device))

    def state(self) -> dict[str, Tensor]:
        """What :meth:`load_state` needs, without the rows that were never written."""
        lanes = {name: column.reshape(len(self.heads), -1, *column.shape[1:]) for name, column in self.columns.items()}
        tensors = {f"columns/{name}": lane[:, : self.used].flatten(0, 1) for name, lane in lanes.items()}
        return tensors | {"heads": torch.tensor(self.heads), "numbered": self.numbered[: self.count]}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state that :meth:`state` gave."""
        self.heads = tensors["heads"].tolist()
        self.used = len(tensors["columns/action"]) // len(self.heads)
        for name, column in self.columns.items():
            saved = tensors[f"columns/{name}"].reshape(len(self.heads), self.used, *column.shape[1:])
            column.reshape(len(self.heads), -1, *column.shape[1:])[:, : self.used] = saved.to(column.device)
        self.count = len(tensors["numbered"])
        self.numbered[: self.count] = tensors["numbered"]
        self._number_of.fill_(-1)
        self._number_of[tensors["numbered"]] = torch.arange(self.count)

    def _wrap(self, lane: int) -> None:
        """Go on at the lane's first row, with the observation that it is at and the frames before it."""
        first, head = lane * self.length, self.heads[lane]
        for row in range(first, first + self._carried):
            self._take(lane, row)
        for name in self._observed:
            column = self.columns[name]
            column[first : first + self._carried] = column[head - self._carried + 1 : head + 1].clone()

    def _take(self, lane: int, row: int) -> None:
        """Make a row the lane's head; the old transitions that are read from it are forgotten."""
        last = min(row + self._carried, (lane + 1) * self.length)
        for old in range(row, last):  # Of images a transition is read from the rows before it as well.
            self._forget(old)
        self.heads[lane] = row
        self.used = max(self.used, row + 1 - lane * self.length)

    def _forget(self, row: int) -> None:
        """The last number is given to the transition in the place of this one."""
        number = int(self._number_of[row])
        if number < 0:
            return
        self.count -= 1
        last = self.numbered[self.count].clone()
        self.numbered[number] = last
        self._number_of[last] = number
        self._number_of[row] = -1

    def _write(self, rows: Tensor, observation: Mapping[str, Tensor]) -> None:
        for name, values in observation.items():
            self.columns[name][rows] = values.to(self.columns[name])


class OnlinePile:
    """All that can be drawn from an online table just now.

    Args:
        table: which others write into.
        number: of it among the replay's tables.
    """

    def __init__(self, table: OnlineTable, number: int) -> None:
        self.table = table
        self.among = {number}
        self.notes: dict[str, Tensor] = {}
        self.cumulative: Tensor | None = None

    @property
    def places(self) -> Tensor:
        """Rows of the table; only the first ``table.count`` mean anything."""
        return self.table.numbered

    @property
    def tables(self) -> Tensor:
        """The same number for all."""
        return torch.tensor([*self.among]).expand(len(self.places))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Numbers of transitions, uniformly and with replacement."""
        return torch.randint(self.table.count, (count,), generator=generator)
