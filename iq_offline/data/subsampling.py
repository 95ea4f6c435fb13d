"""Whether the steps that are kept of a trajectory are like those between them.

A gait that repeats itself every four steps is at one phase in every twentieth: what is kept then shows a pose, not the
motion. (Signal processing calls it aliasing.)
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from iq_offline.data.replay import Selection
from iq_offline.data.spaces import ObservationEncoder

FEWEST = 20
"""Kept steps of a trajectory below which chance alone may make them alike."""
ALIKE = 0.6
"""Of a whole trajectory's deviations: what keeps less is said to show one phase. Chance leaves 0.9 and more."""
PLENTY = 0.9
"""What another distance has to keep to be named."""
LONGEST = 10_000
"""Steps of a trajectory beyond which none is looked at: logs may be longer than the memory."""
TRIED = 20
"""Distances at most that are looked at in the place of one that shows a phase."""
MOST = 10
"""Trajectories beyond which none is looked at: each begins at a phase of its own, and so many complete each other."""


def variation_kept(labelled: Selection, encoder: ObservationEncoder, subsample: int) -> float:
    """The standard deviation of steps so far apart as a fraction of all steps', each trajectory by itself.

    Args:
        labelled: the trajectories, and the first step that is kept of each.
        encoder: says which observations are numbers that were measured.
        subsample: the distance of kept steps.

    Returns:
        The median over dimensions and trajectories: about 1 where nothing repeats itself, 0 where all kept steps are
        the same. 1 as well where nothing varies, or no trajectory keeps :data:`FEWEST` steps.
    """
    numbers = [leaf for leaf in encoder.leaves if leaf.is_measured and leaf.size]
    tables = [labelled.data.steps[labelled.data.column(leaf)] for leaf in numbers]
    ratios = [
        _deviations_kept(table[start : start + length], first, subsample)
        for start, length, first in _spans(labelled)
        if len(range(first, length, subsample)) >= FEWEST
        for table in tables
    ]
    found = torch.cat(ratios) if ratios else torch.empty(0)
    return float(found.median()) if len(found) else 1.0


def _deviations_kept(steps: Tensor, first: int, subsample: int) -> Tensor:
    """For each dimension that varies, what the kept steps have of its deviation."""
    some, whole = (part.double().std(0, correction=0) for part in (steps[first::subsample], steps))
    varies = whole > 1e-6
    return some[varies] / whole[varies]


def _spans(labelled: Selection) -> Iterator[tuple[int, int, int]]:
    """Of each trajectory its first row, how many steps are looked at, and which of them is the first that is kept."""
    for trajectory in labelled.trajectories:
        start, length = int(labelled.data.starts[trajectory]), min(int(labelled.data.lengths[trajectory]), LONGEST)
        kept = labelled.rows[(labelled.rows >= start) & (labelled.rows < start + length)]
        if len(kept):
            yield start, length, int(kept[0]) - start


def better_distance(labelled: Selection, encoder: ObservationEncoder, subsample: int) -> int | None:
    """Where the kept steps of each trajectory show one phase of a motion that repeats itself, a distance that does not.

    Args:
        labelled: what was chosen.
        encoder: of its observations.
        subsample: the distance of the kept steps.

    Returns:
        The nearest smaller distance that keeps :data:`PLENTY` of the variation. None where the kept steps are like
        those between them, or where no other distance is better: then it is a stretch of the trajectories that they
        miss, not a phase. None too where there are few steps to tell by, or many trajectories.
    """
    if subsample == 1 or len(labelled.trajectories) > MOST:
        return None
    if variation_kept(labelled, encoder, subsample) >= ALIKE:
        return None
    others = range(subsample - 1, (subsample - 1) // 2, -1)[:TRIED]
    return next((other for other in others if variation_kept(labelled, encoder, other) >= PLENTY), None)
