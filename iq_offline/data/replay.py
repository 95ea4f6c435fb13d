"""Choosing from cached datasets, and drawing batches of the choice.

A choice is an array of row indices: caches are shared, never copied. A batch is a TensorDict of kinds (``expert``,
``suboptimal``, ``initial``), each with a fixed number of rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.data.cache import CachedSource
from iq_offline.data.memory import free_memory
from iq_offline.data.spaces import FURTHEST, FURTHEST_OTHER, SMALLEST_DEVIATION, ObservationEncoder
from iq_offline.errors import UserError

ROWS_AT_ONCE = 4096
"""Of a selection that is gone through as a whole: it may not fit in memory."""


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


Kinds = Mapping[str, Sequence[Selection]]
"""For each kind of data the selections it is drawn from."""


def select(
    data: CachedSource,
    count: int | None,
    subsample: int,
    generator: np.random.Generator,
    without: Sequence[int] = (),
    from_end: bool = False,
) -> Selection:
    """Draw ``count`` trajectories (all where None) and keep every ``subsample``-th transition of each.

    For one seed the choices are nested: whatever the count, trajectories come in the same order and with the same
    first transition, which is drawn per trajectory. An episode without a step is none.

    Args:
        data: the cached dataset.
        count: trajectories to choose.
        subsample: the distance between kept transitions, at least 1.
        generator: its state decides the order.
        without: ids of episodes to leave out, which are taken already.
        from_end: take the last of the order, not the first: apart from what a nested choice takes, whatever its count.

    Raises:
        UserError: the dataset holds fewer trajectories.
    """
    order = generator.permutation(len(data.lengths))
    first = generator.integers(0, subsample, len(data.lengths))
    order = order[~np.isin(order, np.asarray(without, np.int64)) & (data.lengths[order] > 0)]
    if count is not None and count > len(order):
        total = len(data.lengths)
        left = f" ({len(order)} of them with steps, and not taken already)" if len(order) < total else ""
        raise UserError(f"{data.source.id} holds {total} trajectories{left}, {count} were asked for")
    chosen = order[::-1][:count] if from_end else order[:count]
    starts, lengths = data.starts, data.lengths
    rows = [
        starts[i] + np.arange(int(first[i] % min(subsample, lengths[i])), int(lengths[i]), subsample) for i in chosen
    ]
    return Selection(data, chosen, np.concatenate(rows) if rows else np.empty(0, np.int64))


def feature_statistics(
    labelled: Selection, others: Sequence[Selection], encoder: ObservationEncoder
) -> tuple[Tensor, Tensor]:
    """What features of observations are shifted and scaled by, float64, shape ``(features,)`` each.

    By mean and standard deviation of the labelled expert's, which is where the policy has to act well. By more than the
    deviation where that would leave one of these further than :data:`FURTHEST` from 0 (a feature that rests most of the
    time and then jumps, as a contact force does, is scaled by its jumps), or one of the others' further than
    :data:`FURTHEST_OTHER`.

    The scale of one that never varies is 1: should it vary at evaluation, it is not blown up. Others under 1e-3 count
    as 1e-3. Categories and switches are left as they are; images are only scaled to [0, 1].
    """
    _, mean, std = encoder.constants()
    start = 0
    for leaf, width in zip(encoder.leaves, encoder.widths, strict=True):
        part = slice(start, start + width)
        start += width
        if not width or not leaf.is_measured:
            continue
        mean[part], std[part] = _statistics(labelled.data.steps[labelled.data.column(leaf)], labelled.rows)
        for other in others:
            for values in _parts(other.data.steps[other.data.column(leaf)], other.rows):
                furthest = (values - mean[part]).abs().amax(0)
                std[part] = torch.maximum(std[part], furthest / FURTHEST_OTHER)
    return mean, std


def _statistics(table: Tensor, chosen: np.ndarray) -> tuple[Tensor, Tensor]:
    origin = table[int(chosen[0])].double()  # From here on the sums of a constant are exactly 0.
    mean, square = torch.zeros_like(origin), torch.zeros_like(origin)
    low, high = torch.zeros_like(origin), torch.zeros_like(origin)
    for part in _parts(table, chosen):
        values = part - origin
        mean += values.sum(0) / len(chosen)
        square += values.square().sum(0) / len(chosen)
        low, high = torch.minimum(low, values.amin(0)), torch.maximum(high, values.amax(0))
    std = (square - mean.square()).clamp(min=0).sqrt().clamp(min=SMALLEST_DEVIATION)
    furthest = torch.maximum(high - mean, mean - low)
    return origin + mean, torch.where(square == 0, 1.0, torch.maximum(std, furthest / FURTHEST))


def _parts(table: Tensor, chosen: np.ndarray) -> Iterator[Tensor]:
    """The chosen rows, float64, some at a time."""
    for rows in np.array_split(chosen, len(chosen) // 100_000 + 1):
        yield table[torch.from_numpy(rows)].double()


class Table:
    """Transitions of one cached dataset, read from the shared cache, or copied close to the training where they fit.

    All that a run draws from a dataset comes from one table, and so does all that the runs of a population draw.

    Args:
        data: the cached dataset.
        wanted: rows of the transitions to draw from, of every selection.
        encoder: which leaves become features, and how.
        dtype: of the features and of continuous actions.
        device: where batches are wanted.
    """

    def __init__(
        self,
        data: CachedSource,
        wanted: Sequence[np.ndarray],
        encoder: ObservationEncoder,
        dtype: torch.dtype,
        device: str,
    ) -> None:
        self.describe(data, encoder, dtype, device)
        self.columns = {data.column(leaf): data.steps[data.column(leaf)] for leaf in encoder.leaves}
        self.columns |= {name: data.steps[name] for name in ("action", "terminated")}
        if encoder.has_images and encoder.frame_stack > 1:
            ages = np.arange(len(data.steps["action"])) - np.repeat(data.starts, data.lengths + 1)
            self.columns["age"] = torch.from_numpy(ages)
        kept = self._needed(wanted)
        self.bytes = len(kept) * sum(column[:1].nbytes for column in self.columns.values())
        self.is_held = self.bytes <= free_memory(device) * MEMORY_SHARE
        self._kept = kept if self.is_held else None
        if self.is_held:
            self.columns = {name: column.index_select(0, kept).to(device) for name, column in self.columns.items()}

    def describe(self, data: CachedSource, encoder: ObservationEncoder, dtype: torch.dtype, device: str) -> None:
        """What the columns mean, and what batches are made of."""
        self.data = data
        self.encoder = encoder
        self.dtype = dtype
        self.device = device
        self._leaves = [(leaf, data.column(leaf)) for leaf in encoder.leaves]

    def _needed(self, wanted: Sequence[np.ndarray]) -> Tensor:
        """Every row that a wanted transition is read from, in order."""
        marked = torch.zeros(len(self.columns["action"]), dtype=torch.bool)
        for rows in map(torch.from_numpy, wanted):
            marked[rows] = True
            marked[rows + 1] = True
            if "age" in self.columns:
                for back in range(1, self.encoder.frame_stack):
                    marked[rows - self.columns["age"][rows].clamp(max=back)] = True
        return marked.nonzero().squeeze(-1)

    def places(self, rows: np.ndarray) -> Tensor:
        """Where wanted rows of the dataset lie in this table."""
        found = torch.from_numpy(rows)
        return found if self._kept is None else torch.searchsorted(self._kept, found)

    def gather(self, places: Tensor, initial: bool = False) -> TensorDict:
        """The transitions that lie there, on the device; of initial ones only the observation."""
        rows = places.to(self.columns["action"].device)
        size = [len(rows)]
        parts: dict[str, Tensor | TensorDict] = {"observation": self._features(rows)}
        if not initial:
            action = self.columns["action"].index_select(0, rows)
            following = {
                "observation": self._features(rows + 1),
                "terminated": self.columns["terminated"].index_select(0, rows).to(self.dtype),
            }
            parts["action"] = action.to(self.dtype) if action.is_floating_point() else action
            parts["next"] = TensorDict(following, size)
        batch = TensorDict(parts, size)
        return batch if self.device == "cpu" else batch.to(self.device)

    def _features(self, rows: Tensor) -> Tensor:
        parts = []
        for leaf, name in self._leaves:
            column = self.columns[name]
            if leaf.is_image and "age" in self.columns:
                age = self.columns["age"].index_select(0, rows)
                frames = [rows - age.clamp(max=back) for back in reversed(range(self.encoder.frame_stack))]
                values = torch.cat([column.index_select(0, frame) for frame in frames], -1)
            else:
                values = column.index_select(0, rows)
            parts.append(self.encoder.features(leaf, values, self.dtype))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def tables_of(
    choices: Sequence[Kinds], encoder: ObservationEncoder, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> list[Table]:
    """One table for each dataset, with all that any of these runs draws from it.

    Args:
        choices: of every run its selections of each kind.
        encoder: of the observations.
        dtype: of the tensors in a batch.
        device: where batches are wanted. Tables that fit into half of its free memory are copied there once.
    """
    wanted: dict[int, tuple[CachedSource, list[np.ndarray]]] = {}
    for kinds in choices:
        for kind, parts in kinds.items():
            for part in parts:
                wanted.setdefault(id(part.data), (part.data, []))[1].append(_rows(kind, part))
    return [Table(data, rows, encoder, dtype, device) for data, rows in wanted.values()]


@runtime_checkable
class Pile(Protocol):
    """What one kind draws from."""

    among: set[int]
    """Numbers of the tables."""
    notes: dict[str, Tensor]
    cumulative: Tensor | None

    @property
    def places(self) -> Tensor:
        """Of each transition where it lies in its table."""
        ...

    @property
    def tables(self) -> Tensor:
        """Of each transition the number of its table."""
        ...

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Numbers of transitions, with replacement."""
        ...


class _Pile:
    """All transitions that one kind draws from: of each the table it is in, its place there, and what was noted."""

    def __init__(self, kind: str, parts: Sequence[Selection], tables: Sequence[Table]) -> None:
        numbers = [next(i for i, table in enumerate(tables) if table.data is part.data) for part in parts]
        rows = [_rows(kind, part) for part in parts]
        places = [tables[i].places(some) for i, some in zip(numbers, rows, strict=True)]
        self.among = set(numbers)
        self.places = places[0] if len(places) == 1 else torch.cat(places)  # No copy: there may be very many.
        owners = [torch.tensor([i]).expand(len(some)) for i, some in zip(numbers, rows, strict=True)]
        self.tables = owners[0] if len(owners) == 1 else torch.cat(owners)
        self.notes: dict[str, Tensor] = {}
        self.cumulative: Tensor | None = None

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Numbers of transitions, with replacement: uniformly, or by their weights."""
        if self.cumulative is None:
            return torch.randint(len(self.places), (count,), generator=generator)
        at = torch.rand(count, dtype=torch.float64, generator=generator) * self.cumulative[-1]
        return torch.searchsorted(self.cumulative, at, right=True).clamp(max=len(self.places) - 1)


class Replay:
    """Draws batches: for each kind a fixed number of rows with replacement, uniformly or by weights.

    Args:
        kinds: for each kind its selections; several are drawn from as one.
        batch_sizes: rows of each kind in every batch.
        seed: of the draws.
        tables: from :func:`tables_of`, with these selections and perhaps those of other runs.
        growing: further kinds, whose piles are written to while they are drawn from.
    """

    def __init__(
        self,
        kinds: Kinds,
        batch_sizes: dict[str, int],
        seed: int,
        tables: Sequence[Table],
        growing: Mapping[str, Pile] = MappingProxyType({}),
    ) -> None:
        self.batch_sizes = batch_sizes
        self.tables = tables
        self.piles: dict[str, Pile] = {kind: _Pile(kind, parts, tables) for kind, parts in kinds.items()}
        self.piles |= growing
        self.generator = torch.Generator().manual_seed(seed)  # On the CPU, so that the draws are the same everywhere.

    def sample(self) -> TensorDict:
        """A batch: observation, action, (next, observation), (next, terminated) a kind; of initial only the first."""
        return TensorDict({kind: _draw([self], kind) for kind in self.batch_sizes})

    def walk(self, kind: str) -> Iterator[TensorDict]:
        """All transitions of a kind in order, in batches: whole episodes as they lie, if they were chosen whole."""
        for drawn in torch.arange(len(self.piles[kind].places)).split(ROWS_AT_ONCE):
            yield _gather([self], kind, [drawn])

    def note(self, kind: str, **values: Tensor) -> None:
        """Have something of one number a transition, in the order of :meth:`walk`, in every batch from now on."""
        self.piles[kind].notes = values

    def weigh(self, kind: str, weights: Tensor) -> None:
        """Draw a kind by weights from now on, in the order of :meth:`walk`: not negative, and one is positive."""
        self.piles[kind].cumulative = weights.double().cumsum(0)

    def annotations(self) -> dict[str, Tensor]:
        """What was noted and weighed, by name: to be kept with :meth:`load_annotations`."""
        found = {
            f"{kind}/notes/{name}": value for kind, pile in self.piles.items() for name, value in pile.notes.items()
        }
        weighed = {kind: pile.cumulative for kind, pile in self.piles.items()}
        return found | {f"{kind}/cumulative": value for kind, value in weighed.items() if value is not None}

    def load_annotations(self, annotations: Mapping[str, Tensor]) -> None:
        """Note and weigh as :meth:`annotations` has it."""
        for name, value in annotations.items():
            kind, what, *named = name.split("/")
            if what == "cumulative":
                self.piles[kind].cumulative = value
            else:
                self.piles[kind].notes[named[0]] = value


def sample_together(replays: Sequence[Replay]) -> TensorDict:
    """The next batch of every replay, stacked; replays that share their tables are read in one go.

    Each draws by its own generator: its rows are those that it would have given alone.
    """
    count = len(replays)
    kinds = {kind: _draw(replays, kind).reshape(count, size) for kind, size in replays[0].batch_sizes.items()}
    return TensorDict(kinds, [count])


def _draw(replays: Sequence[Replay], kind: str) -> TensorDict:
    """The next rows of a kind from each replay, in the order drawn, below each other."""
    return _gather(replays, kind, [one.piles[kind].draw(one.batch_sizes[kind], one.generator) for one in replays])


def _gather(replays: Sequence[Replay], kind: str, drawn: Sequence[Tensor]) -> TensorDict:
    """Transitions of a kind by their numbers, of each replay, below each other."""
    tables, piles = replays[0].tables, [replay.piles[kind] for replay in replays]
    places = torch.cat([pile.places.index_select(0, some) for pile, some in zip(piles, drawn, strict=True)])
    among = sorted(set.union(*(pile.among for pile in piles)))
    if len(among) == 1:
        return _noted(tables[among[0]].gather(places, kind == "initial"), piles, drawn, tables[0].device)
    numbers = torch.cat([pile.tables.index_select(0, some) for pile, some in zip(piles, drawn, strict=True)])
    mine = [(numbers == number).nonzero().squeeze(-1) for number in among]
    pieces = [tables[i].gather(places[some], kind == "initial") for i, some in zip(among, mine, strict=True)]
    batch = cast(TensorDict, torch.cat(pieces)[torch.cat(mine).argsort()])  # type: ignore[arg-type]
    return _noted(batch, piles, drawn, tables[0].device)


def _noted(batch: TensorDict, piles: Sequence[Pile], drawn: Sequence[Tensor], device: str) -> TensorDict:
    for name in piles[0].notes:
        values = [pile.notes[name].index_select(0, some) for pile, some in zip(piles, drawn, strict=True)]
        batch[name] = torch.cat(values).to(device)
    return batch


def where(tables: Sequence[Table]) -> str:
    """Where the chosen transitions are read from, in words."""
    size, device = sum(table.bytes for table in tables) / 1e6, tables[0].device
    place = "RAM" if device == "cpu" else f"the memory of {device}"
    if all(table.is_held for table in tables):
        return f"{size:.0f} MB of transitions are held in {place}"
    return f"{size:.0f} MB of transitions are read from the cache on disk: they do not fit in {place}"


MEMORY_SHARE = 0.5
"""Of the memory that is free, what one table may take."""


def _rows(kind: str, selection: Selection) -> np.ndarray:
    return selection.starts if kind == "initial" else selection.rows
