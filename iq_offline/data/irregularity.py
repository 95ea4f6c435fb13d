"""What an irregularity of a dataset is, and the words it is told in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import gymnasium
import numpy as np

Severity = Literal["refused", "clipped", "ignored", "worth knowing"]
SEVERITIES: tuple[Severity, ...] = ("refused", "clipped", "ignored", "worth knowing")


@dataclass(frozen=True)
class Irregularity:
    """One kind of thing that is odd, all its occurrences together."""

    severity: Severity
    what: str
    where: str
    """The first episode, the leaves and dimensions."""
    count: int
    unit: str
    """What is counted: episodes, steps, values, dimensions."""
    training: str
    """What training does about it, or what the user may do."""


@dataclass(frozen=True)
class Surroundings:
    """A dataset's environment, built on this machine."""

    name: str
    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    max_episode_steps: int | None
    wrappers_left_out: tuple[str, ...] = ()
    """Names of the wrappers that the dataset has around it: they are code, which is not run unasked."""


def few(names: Sequence[str], most: int = 4) -> str:
    """The first names, and how many more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def number(value: float | np.number) -> str:
    """Four digits of it."""
    return f"{value:.4g}"
