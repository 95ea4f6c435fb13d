"""Which runs a sweep consists of."""

from dataclasses import dataclass

from iq_offline.config import RunConfig


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep: its name, which is that of its folder, and its resolved configuration."""

    name: str
    config: RunConfig
