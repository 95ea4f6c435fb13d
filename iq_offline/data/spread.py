"""Range, mean and deviation of numbers that come chunk by chunk, and hashes of rows: small beside any dataset."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch
from gymnasium.spaces import Box, MultiBinary

from iq_offline.data.spaces import Leaf, fits_bytes

CHUNK = 1_000_000
"""Numbers looked at at once: the copies made of them stay small whatever the episode."""
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass
class Oddity:
    """Values with something in common: how many there are, where, and where first."""

    dimensions: np.ndarray
    """How many in each dimension, shape ``(size,)``."""
    rows: int = 0
    """Rows with at least one."""
    first: int | None = None
    """Id of the first episode with one."""

    @property
    def values(self) -> int:
        """How many in all dimensions."""
        return int(self.dimensions.sum())

    def count(self, episode: int, found: np.ndarray) -> None:
        """Add those of a chunk: ``found`` is True where a value is odd, shape ``(n, size)``."""
        if found.any():
            self.dimensions += found.sum(0)
            self.rows += int(found.any(1).sum())
            self.first = episode if self.first is None else self.first


@dataclass
class Spread:
    """What the numbers of a leaf, or of the actions, look like, dimension by dimension; pixels all together.

    Comparisons are those of training: of numbers as float32, of categories exactly.
    """

    leaf: Leaf
    narrower: Box | None = None
    """Another box to hold the values against, of the same shape: the environment's."""
    low: np.ndarray = field(init=False)
    """Of the space, shape ``(size,)``; infinite where it has no bound."""
    high: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        size = 1 if self.leaf.is_image else self.leaf.size
        self.low, self.high = (bound.astype(self._compared) for bound in bounds_of(self.leaf, size))
        self.count = np.zeros(size, np.int64)
        self.mean, self.squares = np.zeros(size), np.zeros(size)
        self.min, self.max = np.full(size, np.inf), np.full(size, -np.inf)
        self.at_low, self.at_high = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self.not_finite, self.outside, self.rounded, self.outside_narrower, self.no_byte = (
            Oddity(np.zeros(size, np.int64)) for _ in range(5)
        )

    @property
    def size(self) -> int:
        """Dimensions that are told apart."""
        return len(self.low)

    @property
    def std(self) -> np.ndarray:
        """Deviations, shape ``(size,)``; NaN where nothing finite was seen."""
        with np.errstate(invalid="ignore"):
            return np.sqrt(self.squares / np.where(self.count, self.count, np.nan))

    @property
    def _compared(self) -> type:
        return np.float64 if self.leaf.is_categorical else np.float32

    def add(self, episode: int, array: np.ndarray) -> None:
        """Look at an episode's values, shape ``(n, *leaf.shape)``."""
        if self.leaf.is_image:
            self._add_pixels(episode, array)
            return
        rows = array.reshape(len(array), self.size)
        for chunk in chunks(rows):
            with np.errstate(all="ignore"):
                self._add_rows(episode, chunk)

    def table(self) -> pl.DataFrame:
        """A row a dimension: what was recorded, the space's bounds, and the share of values that lie on them."""
        total = np.where(self.count, self.count, np.nan)
        seen = self.count > 0
        return pl.DataFrame(
            {
                "dimension": np.arange(self.size),
                "min": np.where(seen, self.min, np.nan),
                "max": np.where(seen, self.max, np.nan),
                "mean": np.where(seen, self.mean, np.nan),
                "std": self.std,
                "low": self.low.astype(np.float64),
                "high": self.high.astype(np.float64),
                "at_low": self.at_low / total,
                "at_high": self.at_high / total,
            }
        )

    def _add_rows(self, episode: int, chunk: np.ndarray) -> None:
        values, compared = chunk.astype(np.float64), chunk.astype(self._compared)
        finite = np.isfinite(compared)
        if not finite.all():
            self.not_finite.count(episode, ~finite)
        outside = finite & ((compared < self.low) | (compared > self.high))
        if self.leaf.is_categorical or isinstance(self.leaf.space, MultiBinary):
            outside |= finite & (compared != np.round(compared))
        if self.leaf.dtype == torch.uint8:
            no_byte = finite & ~fits_bytes(chunk)
            self.no_byte.count(episode, no_byte)
            outside &= ~no_byte
        self.outside.count(episode, outside)
        if self.narrower is not None:
            low, high = (bound.reshape(-1).astype(np.float32) for bound in (self.narrower.low, self.narrower.high))
            self.outside_narrower.count(episode, finite & ((compared < low) | (compared > high)))
        if chunk.dtype.kind in "iu" and chunk.dtype.itemsize > 2 and not self.leaf.is_categorical:
            self.rounded.count(episode, compared != values)
        self.at_low += (compared == self.low).sum(0)
        self.at_high += (compared == self.high).sum(0)
        if finite.all():
            count, mean, away = np.full(self.size, len(values)), values.mean(0), values - values.mean(0)
            smallest, largest = values.min(0), values.max(0)
        else:
            count = finite.sum(0)
            mean = np.where(finite, values, 0).sum(0) / np.maximum(count, 1)
            away = np.where(finite, values - mean, 0)
            smallest, largest = np.where(finite, values, np.inf).min(0), np.where(finite, values, -np.inf).max(0)
        self.min, self.max = np.minimum(self.min, smallest), np.maximum(self.max, largest)
        self._merge(count, mean, np.square(away).sum(0))

    def _add_pixels(self, episode: int, array: np.ndarray) -> None:
        histogram = np.zeros(256, np.int64)
        flat = array.reshape(-1, 1)
        for chunk in chunks(flat):
            if chunk.dtype != np.uint8 and not (known := fits_bytes(chunk)).all():
                self.no_byte.count(episode, ~known)
                chunk = chunk[known.all(1)]
            histogram += np.bincount(chunk[:, 0].astype(np.uint8), minlength=256)
        levels, count = np.arange(256), histogram.sum()
        if count:
            mean = (histogram * levels).sum() / count
            self._merge(np.array([count]), np.array([mean]), np.array([(histogram * (levels - mean) ** 2).sum()]))
            seen = np.flatnonzero(histogram)
            self.min, self.max = np.minimum(self.min, seen[0]), np.maximum(self.max, seen[-1])
            self.at_low += histogram[0]
            self.at_high += histogram[255]

    def _merge(self, count: np.ndarray, mean: np.ndarray, squares: np.ndarray) -> None:
        """Mean and squared deviations of two parts together (Chan et al. 1979): exact for values far from zero."""
        total = np.maximum(self.count + count, 1)
        apart = mean - self.mean
        self.squares = self.squares + squares + apart**2 * self.count * count / total
        self.mean = self.mean + apart * count / total
        self.count = self.count + count


def bounds_of(leaf: Leaf, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of a leaf's numbers, shape ``(size,)``."""
    space = leaf.space
    if leaf.is_image:
        return np.zeros(1), np.full(1, 255.0)
    if leaf.is_categorical:
        first, counts = leaf.categories
        return first, first + counts - 1
    low, high = (getattr(space, name, default) for name, default in (("low", 0), ("high", 1)))
    return np.broadcast_to(low, leaf.shape).reshape(size), np.broadcast_to(high, leaf.shape).reshape(size)


def chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Slices of rows ``(n, size)`` of about :data:`CHUNK` numbers."""
    step = max(CHUNK // max(rows.shape[1], 1), 1)
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def hash_rows(arrays: list[np.ndarray]) -> np.ndarray:
    """64-bit hashes ``(n,)`` of the rows that lie across several arrays ``(n, …)``; equal rows have equal ones.

    Among ten million different rows, the chance that any two agree is under one in a hundred thousand.
    """
    hashes = np.zeros(len(arrays[0]), np.uint64)
    for array in arrays:
        words = _words(array)
        salt = np.arange(1, words.shape[1] + 1, dtype=np.uint64) * GOLDEN
        start = 0
        for chunk in chunks(words):
            part = slice(start, start + len(chunk))
            hashes[part] = _mixed(hashes[part] + GOLDEN + _mixed(chunk + salt).sum(1, dtype=np.uint64))
            start = part.stop
    return hashes


def count_repeats(hashes: bytearray) -> int:
    """How many of these 64-bit hashes occurred before. Sorts them where they are: no second copy of them is made."""
    together = np.frombuffer(hashes, np.uint64)
    together.sort()
    return int((together[1:] == together[:-1]).sum())


def _words(array: np.ndarray) -> np.ndarray:
    """The bytes of every row as 64-bit words, ``(n, words)``."""
    rows = array.reshape(len(array), int(np.prod(array.shape[1:])))
    if rows.dtype.kind == "f":
        rows = rows + np.zeros((), rows.dtype)  # Minus zero is zero.
    bytes_ = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    padding = -bytes_.shape[1] % 8
    return (np.pad(bytes_, ((0, 0), (0, padding))) if padding else bytes_).view(np.uint64)


def _mixed(words: np.ndarray) -> np.ndarray:
    """Every bit in depends on every bit out (the finaliser of splitmix64)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
