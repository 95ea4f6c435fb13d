"""What is odd in a dataset, how much of it there is, and what training does about it.

Every rule looks at one thing in a survey and yields what it finds. The consequences are those of ``stream``, ``cache``,
``actions`` and ``replay``; a test holds ``refused`` against what they refuse.
"""

from collections.abc import Iterator

import numpy as np
import polars as pl
from gymnasium.spaces import Box

from iq_offline.data.inspection import time_limit_of
from iq_offline.data.irregular_values import value_irregularities
from iq_offline.data.irregularity import SEVERITIES, Irregularity, Severity, Surroundings, few, number
from iq_offline.data.spaces import form_of
from iq_offline.data.survey import Survey


def irregularities(survey: Survey, surroundings: Surroundings | None = None) -> list[Irregularity]:
    """Everything odd, the gravest first.

    Args:
        survey: of the dataset; made with the environment's action space where ``surroundings`` are given.
        surroundings: the environment; None where it cannot be built, and is not checked.
    """
    found = [
        *_unreadable(survey),
        *_lengths(survey),
        *_totals(survey),
        *value_irregularities(survey),
        *_ends(survey, surroundings),
        *_repeats(survey),
        *(_environment(survey, surroundings) if surroundings else ()),
    ]
    return sorted(found, key=lambda one: SEVERITIES.index(one.severity))


def _unreadable(survey: Survey) -> Iterator[Irregularity]:
    yield from _of_episodes(
        survey,
        pl.col("unreadable").is_not_null(),
        "refused",
        "parts that cannot be read",
        "stops: the file is cut or damaged, or another program wrote it",
        detail="unreadable",
    )
    yield from _of_episodes(
        survey,
        pl.col("shapes").is_not_null(),
        "refused",
        "values of another shape than their space",
        "stops",
        detail="shapes",
    )
    yield from _of_episodes(
        survey,
        pl.col("terminations_odd") > 0,
        "refused",
        "terminations that are neither true nor false",
        "stops",
        total="terminations_odd",
        unit="steps",
    )
    yield from _of_episodes(
        survey,
        pl.col("rewards_not_finite") > 0,
        "ignored",
        "rewards that are NaN or infinite",
        "does not read rewards",
        total="rewards_not_finite",
        unit="values",
    )
    yield from _of_episodes(
        survey,
        pl.col("labels_unreadable").is_not_null(),
        "ignored",
        "no rewards or truncations",
        "does not read them",
        detail="labels_unreadable",
    )


def _lengths(survey: Survey) -> Iterator[Irregularity]:
    other = pl.col("promised").is_not_null() & (pl.col("promised") != pl.col("steps"))
    yield from _of_episodes(
        survey,
        pl.col("lengths").is_not_null(),
        "refused",
        "lengths that do not fit together",
        "stops: T steps need T+1 observations, T actions and T terminations",
        detail="lengths",
    )
    if survey.source.is_hdf5:
        yield from _of_episodes(
            survey,
            other,
            "ignored",
            "episodes of another length than their own metadata say",
            "goes by the arrays",
        )
    else:
        yield from _of_episodes(
            survey,
            other,
            "refused",
            "episodes that come back cut",
            "stops: Minari cuts Arrow episodes over 32,767 steps; store them as HDF5",
        )
    yield from _of_episodes(
        survey,
        pl.col("labels_lengths").is_not_null(),
        "ignored",
        "rewards or truncations of another length",
        "does not read them",
        detail="labels_lengths",
    )
    yield from _of_episodes(
        survey,
        pl.col("steps") == 0,
        "worth knowing",
        "episodes without a step",
        "passes over them",
    )
    yield from _of_episodes(
        survey, pl.col("steps") == 1, "worth knowing", "episodes of one step", "counts each as a whole trajectory"
    )


def _totals(survey: Survey) -> Iterator[Irregularity]:
    source, steps = survey.source, int(survey.episodes["steps"].sum())
    cut = not source.is_hdf5 and len(survey.episodes.filter(pl.col("promised") != pl.col("steps")))
    if steps != source.total_steps and not cut:  # That of cut episodes is said already, with another remedy.
        where = f"metadata: {source.total_steps:,} steps; file: {steps:,}"
        text = "stops: the dataset was cut; download or build it again"
        count = abs(steps - source.total_steps)
        yield Irregularity("refused", "metadata that promise other totals", where, count, "steps", text)
    if survey.beyond:
        where = f"metadata: {source.total_episodes:,} episodes; file: {source.total_episodes + len(survey.beyond):,}"
        text = "reads those that the metadata count"
        what = "stored episodes that the metadata do not count"
        yield Irregularity("ignored", what, where, len(survey.beyond), "episodes", text)


def _ends(survey: Survey, surroundings: Surroundings | None) -> Iterator[Irregularity]:
    episodes = survey.episodes
    limit = time_limit_of(survey.source.metadata) or (surroundings.max_episode_steps if surroundings else None)
    ended = pl.col("terminated") & ~pl.col("truncated").fill_null(False)
    remedy = "takes them for ends for good: nothing is expected after them. If time ran out, store them as truncated"
    if limit:
        yield from _of_episodes(
            survey,
            ended & (pl.col("steps") == limit),
            "worth knowing",
            f"terminated exactly at the time limit of {limit:,} steps",
            remedy,
        )
    else:
        longest = episodes["steps"].max()
        alike = episodes.filter(ended & (pl.col("steps") == longest)) if longest else ()  # None: none was readable.
        if len(alike) > 1 and 2 * len(alike) >= len(episodes) and longest != 1:
            yield from _of_episodes(
                survey,
                ended & (pl.col("steps") == longest),
                "worth knowing",
                f"terminated after {longest:,} steps, as many as the longest: a time limit?",
                remedy,
            )
    yield from _of_episodes(
        survey,
        pl.col("both") > 0,
        "worth knowing",
        "both terminated and truncated",
        "reads terminated alone: nothing is expected after them",
        total="both",
        unit="steps",
    )
    yield from _of_episodes(
        survey,
        ~pl.col("terminated") & ~pl.col("truncated").fill_null(False),
        "worth knowing",
        "neither terminated nor truncated at the end",
        "takes them as truncated: what follows is estimated from the last observation",
    )
    yield from _of_episodes(
        survey,
        pl.col("stuck_at_end"),
        "worth knowing",
        "a last observation that is the one before it again",
        "takes it for what followed; perhaps the true one was not recorded",
    )
    yield from _of_episodes(
        survey,
        pl.col("terminated_inside") > 0,
        "worth knowing",
        "terminated in the middle of an episode",
        "expects nothing after them, and takes the rest for the same trajectory",
        total="terminated_inside",
        unit="steps",
    )
    yield from _of_episodes(
        survey,
        pl.col("truncated_inside") > 0,
        "ignored",
        "truncated in the middle of an episode",
        "does not read it: takes the next row as what followed, though it may be a new start",
        total="truncated_inside",
        unit="steps",
    )


def _repeats(survey: Survey) -> Iterator[Irregularity]:
    repeated = survey.episodes.filter(pl.col("repeats").is_not_null())
    if len(repeated):
        where = f"episode {repeated['id'][0]} is episode {repeated['repeats'][0]} again"
        text = "counts each as a trajectory; one may be held out while its twin is trained on"
        yield Irregularity("worth knowing", "identical episodes", where, len(repeated), "episodes", text)
    if survey.repeated_transitions:
        share = survey.repeated_transitions / survey.transitions
        where = f"{share:.1%} of all" if share >= 0.001 else "under 0.1% of all"
        text = "draws each as often as it is stored"
        yield Irregularity(
            "worth knowing",
            "identical pairs of observation and action",
            where,
            survey.repeated_transitions,
            "steps",
            text,
        )
    seeds = survey.episodes.filter(pl.col("seed").is_not_null())
    again = seeds.filter(~pl.col("seed").is_first_distinct())
    if len(again):
        where = f"first in episode {again['id'][0]}, seed {again['seed'][0]}"
        yield Irregularity("ignored", "seeds of earlier episodes", where, len(again), "episodes", "does not read seeds")


def _environment(survey: Survey, surroundings: Surroundings) -> Iterator[Irregularity]:
    source, left_out = survey.source, surroundings.wrappers_left_out
    if left_out:
        yield Irregularity(
            "worth knowing",
            "wrappers that the environment is built without",
            f"{few(left_out)} around {surroundings.name}",
            len(left_out),
            "wrappers",
            "trains, but the policy is scored without them: they are code, which --trust-env runs",
        )
    for name in ("observation_space", "action_space"):
        ours, theirs = form_of(getattr(source, name)), form_of(getattr(surroundings, name))
        if ours != theirs:
            yield Irregularity(
                "worth knowing",
                f"an {name.replace('_', ' ')} that is not the environment's",
                f"here {ours}; {surroundings.name}: {theirs}",
                1,
                "spaces",
                "trains, but the policy cannot be scored there",
            )
    spread, space = survey.actions, surroundings.action_space
    if spread is None or spread.narrower is None or not isinstance(space, Box):
        return
    low, high = (bound.reshape(-1).astype(np.float32) for bound in (space.low, space.high))
    if (low > spread.low).any() or (high < spread.high).any():
        where = f"{surroundings.name}: {number(low.min())} to {number(high.max())}"
        if spread.outside_narrower.rows:
            reach = f"{number(np.nanmin(spread.min))} to {number(np.nanmax(spread.max))}"
            where += f"; recorded: {reach}, first outside in episode {spread.outside_narrower.first}"
        text = "learns the stored box; to learn the environment's, in the recipe's [data]: "
        text += recipe_lines(
            np.where(np.isfinite(low), low, spread.low), np.where(np.isfinite(high), high, spread.high)
        )
        yield Irregularity(
            "worth knowing",
            "actions outside the environment's box, which is narrower than the stored one",
            where,
            spread.outside_narrower.rows,
            "steps",
            text,
        )


def recipe_lines(low: np.ndarray, high: np.ndarray) -> str:
    """What to write into a recipe so that actions are read in this box; bounds that are infinite are left open."""
    lines = []
    for name, bound in (("action_low", low), ("action_high", high)):
        if np.isfinite(bound).all():
            values = [float(f"{value:.7g}") for value in bound]
            lines.append(f"{name} = {values[:1] if len(set(values)) == 1 else values}")
    return " and ".join(lines)


def _of_episodes(
    survey: Survey,
    condition: pl.Expr,
    severity: Severity,
    what: str,
    training: str,
    detail: str = "",
    total: str = "",
    unit: str = "episodes",
) -> Iterator[Irregularity]:
    """The episodes for which a condition holds, as one irregularity; nothing where there are none.

    ``detail`` names a column of words about the first; ``total`` a column to sum in place of counting episodes.
    """
    found = survey.episodes.filter(condition)
    if len(found):
        where = f"first in episode {found['id'][0]}" + (f": {found[detail][0]}" if detail else "")
        count = int(found[total].sum()) if total else len(found)
        yield Irregularity(severity, what, where, count, unit, training)
