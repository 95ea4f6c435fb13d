"""Whether the steps that are kept of a trajectory are like those between them.

A gait that repeats itself every four steps is at one phase in every twentieth: what is kept then shows a pose, not the
motion. (Signal processing calls it aliasing.)
"""

import numpy as np
import torch

from iq_offline.data.replay import Selection
from iq_offline.data.spaces import ObservationEncoder

FEWEST = 20
"""Kept steps below which chance alone may make them alike."""
ALIKE = 0.6
"""Of the whole trajectories' deviations: what keeps less is said to show one phase. Chance leaves 0.8 and more."""
PLENTY = 0.9
"""What another distance has to keep to be named."""
MOST = 10
"""Trajectories beyond which none is looked at: each begins at a phase of its own."""


def variation_kept(labelled: Selection, encoder: ObservationEncoder, rows: np.ndarray | None = None) -> float:
    """The kept steps' standard deviation as a fraction of all their trajectories' steps': the dimensions' median.

    Args:
        labelled: what was chosen.
        encoder: says which observations are numbers that were measured.
        rows: in the place of the chosen ones, rows of the same trajectories.

    Returns:
        About 1 where nothing repeats itself, 0 where all kept steps are the same; 1 too where nothing varies.
    """
    kept = labelled.rows if rows is None else rows
    starts, lengths = (counts[labelled.trajectories] for counts in (labelled.data.starts, labelled.data.lengths))
    every = np.concatenate([start + np.arange(length) for start, length in zip(starts, lengths, strict=True)])
    measured, _, _ = encoder.constants()
    ratios, first = [], 0
    for leaf, width in zip(encoder.leaves, encoder.widths, strict=True):
        if width and measured[first]:
            table = labelled.data.steps[labelled.data.column(leaf)]
            some, whole = (table[torch.from_numpy(chosen)].double().std(0, unbiased=False) for chosen in (kept, every))
            varies = whole > 1e-6
            ratios.append((some[varies] / whole[varies]).reshape(-1))
        first += width
    found = torch.cat(ratios) if ratios else torch.empty(0)
    return float(found.median()) if len(found) else 1.0


def one_phase(labelled: Selection, encoder: ObservationEncoder, subsample: int) -> tuple[float, int | None] | None:
    """Where the kept steps show one phase of a motion: what they keep of its variation, and a distance that shows it.

    Args:
        labelled: what was chosen.
        encoder: of its observations.
        subsample: the distance of the kept steps.

    Returns:
        The fraction, and the nearest smaller distance that keeps :data:`PLENTY` (None where none does); None where the
        kept steps are like those between them, too few to tell, or of many trajectories.
    """
    if subsample == 1 or len(labelled.rows) < FEWEST or len(labelled.trajectories) > MOST:
        return None
    fraction = variation_kept(labelled, encoder)
    if fraction >= ALIKE:
        return None
    others = range(subsample - 1, max(1, subsample // 2), -1)
    return fraction, next(
        (other for other in others if variation_kept(labelled, encoder, _every(labelled, other)) >= PLENTY), None
    )


def _every(labelled: Selection, distance: int) -> np.ndarray:
    """Rows at another distance, from the same first ones."""
    parts = []
    for trajectory in labelled.trajectories:
        start = int(labelled.data.starts[trajectory])
        end = start + int(labelled.data.lengths[trajectory])
        own = labelled.rows[(labelled.rows >= start) & (labelled.rows < end)]
        parts.append(np.arange(own[0], end, distance))
    return np.concatenate(parts)
