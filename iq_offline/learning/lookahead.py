"""Looking ahead along recorded episodes: which transitions lead to where the expert is.

A transition of unlabelled data is worth imitating for what comes of it, not for how it looks: the first steps of a good
episode look like those of a bad one. Every function here is about the rows of whole episodes, one below the other.

    implied rewards -> values -> the best that follows each row, and lasts -> weights of the rows
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Rows = Float[Tensor, " rows"]

NEVER = -1e30
"""Less than any value, and finite: minus infinity times 0 is not a number."""


def best_ahead(stop: Rows, gain: Rows | float, discount: float, last: Bool[Tensor, " rows"]) -> Rows:
    """B_t = max(stop_t, gain_t + discount B_{t+1}) within each episode; its last row stops.

    The value of following the data for as long as that pays (optimal stopping). With V(s') as the way to stop this is
    the backup of value-based episodic memory (Ma et al., 2021, arXiv:2110.09796, eq. 10).

    Each row is the function x -> max(c, d + g x) of what follows it; two of them in a row are such a function again, so
    that twice as many rows are behind every c after each round.

    Args:
        stop: what a row is worth if its episode is not followed any further.
        gain: what going on brings at once.
        discount: in [0, 1].
        last: whether a row is the last of its episode; the last of all is.
    """
    c, d = stop, torch.where(last, NEVER, torch.zeros_like(stop) + gain)
    g = torch.where(last, 0.0, torch.full_like(stop, discount))
    ends = last.nonzero().squeeze(-1)
    longest = int(ends.diff(prepend=ends.new_tensor([-1])).max())
    reach = 1
    while reach < longest:
        near, far = slice(None, -reach), slice(reach, None)
        ahead = torch.maximum(c[near], d[near] + g[near] * c[far])
        c, d, g = (
            torch.cat([ahead, c[-reach:]]),
            torch.cat([(d[near] + g[near] * d[far]).clamp(min=NEVER), d[-reach:]]),
            torch.cat([g[near] * g[far], g[-reach:]]),
        )
        reach *= 2
    return c


def lasting(value: Rows, steps: int, last: Bool[Tensor, " rows"]) -> Rows:
    """The mean over so many rows from each on: what an episode comes to for a while, and not for a moment by mistake.

    Rows nearer to the end of their episode have the mean of its last so many; all of a shorter episode have its mean.

    Args:
        value: of each row.
        steps: how many, at least 1.
        last: whether a row is the last of its episode; the last of all is.
    """
    ends = last.nonzero().squeeze(-1) + 1
    episode = last.cumsum(0) - last.long()
    end, start = ends[episode], torch.cat([ends.new_zeros(1), ends[:-1]])[episode]
    first = torch.minimum(torch.arange(len(value)), end - steps).maximum(start)
    after = (first + steps).minimum(end)
    total = torch.cat([value.new_zeros(1, dtype=torch.float64), value.double().cumsum(0)])
    return ((total[after] - total[first]) / (after - first)).to(value.dtype)


def outstanding(score: Rows, count: int) -> Bool[Tensor, " rows"]:
    """The rows that are nearer to the best ``count`` than to the mean of all, and at least so many.

    Args:
        score: of each row.
        count: from 1 to the number of rows.
    """
    best = score.kthvalue(len(score) - count + 1).values
    return score >= torch.minimum(best, (best + score.mean()) / 2)


def relevance(
    score: Rows,
    level: Float[Tensor, ""],
    floor: Float[Tensor, ""],
    sharpness: float,
    least: int,
    likely: Bool[Tensor, " rows"] | None = None,
    possible: Bool[Tensor, " rows"] | None = None,
) -> Rows:
    """exp(-sharpness (level - score) / (level - floor)), at most 1: how near to the expert's level a row's score comes.

    Where these do not add up to ``least``, or to a twentieth of all rows, what is missing is divided among the nearest
    possible ones, likely or not: none has more than 1, and the scale grows until there are enough. A share alone would
    ask for more rows than are good wherever these are rare.

    Args:
        score: of each row.
        level: the expert's score, from which on nothing is gained.
        floor: a low score: ``exp(-sharpness)`` is its weight.
        sharpness: not negative.
        least: 0 where there may be none.
        likely: others have weight 0, but where rows are missing; default all.
        possible: others are not taken where rows are missing either. More than are missing; default all.
    """
    behind = (level - score).clamp(min=0)
    scale = (level - floor).clamp(min=1e-6) / max(sharpness, 1e-6)
    weights = torch.exp(-behind / scale)
    if likely is not None:
        weights = weights * likely
    missing = min(least, len(score) / 20) - weights.sum()
    if missing <= 0:
        return weights
    spare = 1 - weights if possible is None else (1 - weights) * possible
    behind = (behind - behind[spare > 0].min()).clamp(min=0)
    nearest = spare * torch.exp(-behind / scale)
    while nearest.sum() < missing:
        scale = 1.2 * scale
        nearest = spare * torch.exp(-behind / scale)
    return weights + nearest * (missing / nearest.sum())
