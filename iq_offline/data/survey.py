"""One look at all of a dataset: a row an episode, the spread of every dimension, and what occurs twice.

One episode is in memory at a time; what stays is a row an episode and eight bytes a step. Nothing is judged here:
``inspection`` makes facts of it, ``irregularities`` says what is odd.
"""

from dataclasses import dataclass, field

import gymnasium
import numpy as np
import polars as pl
from gymnasium.spaces import Box

from iq_offline.data.actions import has_finite_actions
from iq_offline.data.ingest import Progress
from iq_offline.data.raw import RawEpisode, raw_episodes
from iq_offline.data.spaces import Leaf, categories_of, is_learnable
from iq_offline.data.spread import Spread, count_repeats, hash_rows
from iq_offline.data.stream import Source, learnable_leaves, stored_ids

STRIP = 6
"""Episodes whose first frame is kept for the picture."""
MAX_COUNTED = 10_000
"""Actions of one branch that are counted one by one."""

SCHEMA = {
    "id": pl.Int64,
    "steps": pl.Int64,
    "promised": pl.Int64,
    "return": pl.Float64,
    "rewards_not_finite": pl.Int64,
    "rewards_all_zero": pl.Boolean,
    "terminated": pl.Boolean,
    "truncated": pl.Boolean,
    "terminations_odd": pl.Int64,
    "terminated_inside": pl.Int64,
    "truncated_inside": pl.Int64,
    "both": pl.Int64,
    "seed": pl.String,
    "repeats": pl.Int64,
    "stuck_at_end": pl.Boolean,
    "unreadable": pl.String,
    "labels_unreadable": pl.String,
    "lengths": pl.String,
    "labels_lengths": pl.String,
    "shapes": pl.String,
}
"""Of ``Survey.episodes``; null where the part is missing or, of the last six, where nothing is wrong.

``repeats`` is the id of an earlier identical episode; ``stuck_at_end`` says that the last observation, and no other, is
the one before it again. ``terminated`` and ``truncated`` are those of the last step, ``terminations_odd`` counts those
that are neither true nor false. The ``labels_`` columns are about rewards and truncations, which training does not
read.
"""


@dataclass
class Survey:
    """What was seen of a dataset."""

    source: Source
    observations: dict[str, Spread]
    """For each leaf that holds numbers, by its name."""
    actions: Spread | None
    """None where the action space holds no numbers."""
    action_counts: list[np.ndarray]
    """How often each action was taken: of finitely many, for each branch; else empty."""
    episodes: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SCHEMA))
    frames: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """Of each image leaf, the first frame of the first episodes."""
    transitions: int = 0
    """Pairs (s, a) that were compared."""
    repeated_transitions: int = 0
    """Of these, such that occurred before."""
    beyond: list[int] = field(default_factory=list)
    """Ids of stored episodes that the metadata do not count."""


def survey(
    source: Source,
    on_progress: Progress = lambda done, total: None,
    environment_box: gymnasium.Space | None = None,
) -> Survey:
    """Look at everything once.

    Args:
        source: the dataset.
        on_progress: called with (episodes done, episodes in all).
        environment_box: the environment's action space, to hold the actions against as well.

    Raises:
        UserError: nothing can be read.
    """
    space = source.action_space
    leaves = {leaf.name: leaf for leaf in learnable_leaves(source)}
    narrower = environment_box if isinstance(environment_box, Box) and environment_box.shape == space.shape else None
    seen = Survey(
        source,
        {name: Spread(leaf) for name, leaf in leaves.items()},
        Spread(Leaf((), space), narrower) if is_learnable(space) and np.prod(space.shape or ()) else None,
        _no_counts(source),
        frames={name: [] for name, leaf in leaves.items() if leaf.is_image},
    )
    if source.view is None:
        known = set(source.episode_ids)
        seen.beyond = [index for index in stored_ids(source) if index not in known]
    rows: list[dict[str, object]] = []
    hashes = bytearray()
    first_of: dict[int, int] = {}
    for done, episode in enumerate(raw_episodes(source)):
        row, usable = _look_at(episode, leaves, source)
        _add(seen, usable, row)
        states, pairs, whole = _hashes(usable, leaves)
        if whole is not None:
            same = states[1:] == states[:-1]
            row["stuck_at_end"] = len(same) > 1 and bool(same[-1]) and not same[:-1].any()
            earlier = first_of.setdefault(whole, episode.id)
            row["repeats"] = earlier if earlier != episode.id else None
            hashes += pairs.tobytes()
        rows.append(row)
        on_progress(done + 1, source.total_episodes)
    seen.episodes = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    seen.transitions = len(hashes) // 8
    seen.repeated_transitions = count_repeats(hashes)
    return seen


def _no_counts(source: Source) -> list[np.ndarray]:
    space = source.action_space
    if not has_finite_actions(space):
        return []
    counts = categories_of(space)[1]
    return [np.zeros(int(count), np.int64) for count in counts] if (counts <= MAX_COUNTED).all() else []


def _look_at(episode: RawEpisode, leaves: dict[str, Leaf], source: Source) -> tuple[dict[str, object], RawEpisode]:
    """The episode's row, and what of it has the shapes of its spaces."""
    arrays = episode.arrays
    actions, rewards = arrays.get("actions"), arrays.get("rewards")
    ends = {name: arrays[name].astype(bool).reshape(-1) for name in ("terminations", "truncations") if name in arrays}
    terminations, truncations = ends.get("terminations"), ends.get("truncations")
    known = next((array for array in (actions, terminations, truncations, rewards) if array is not None), None)
    steps = episode.promised_steps if known is None else len(known)
    row: dict[str, object] = dict.fromkeys(SCHEMA) | {
        "id": episode.id,
        "steps": steps,
        "promised": episode.promised_steps,
        "seed": episode.seed,
    }

    reasons = episode.unreadable
    unread = [name for name in reasons if name not in ("rewards", "truncations")]
    if unread:
        row["unreadable"] = f"{unread[0]}: {reasons[unread[0]]}"
    elif reasons:
        row["labels_unreadable"] = ", ".join(reasons)

    observations = {len(array) for array in episode.observations.values()}
    fits = steps is None or (observations <= {steps + 1} and (terminations is None or len(terminations) == steps))
    if not fits:
        counts = {"observations": "/".join(map(str, sorted(observations))) or "no", "actions": steps}
        counts["terminations"] = "no" if terminations is None else len(terminations)
        row["lengths"] = ", ".join(f"{count} {name}" for name, count in counts.items())
    others = {name: len(arrays[name]) for name in ("rewards", "truncations") if name in arrays}
    if any(length != steps for length in others.values()):
        row["labels_lengths"] = ", ".join(f"{length} {name}" for name, length in others.items())

    if rewards is not None:
        bad = int((~np.isfinite(rewards)).sum())
        row |= {"rewards_not_finite": bad, "rewards_all_zero": not np.any(rewards)}
        row["return"] = float("nan") if bad else float(np.sum(rewards, dtype=np.float64))
    for name, flags in (("terminated", terminations), ("truncated", truncations)):
        if flags is not None and len(flags):
            row |= {name: bool(flags[-1]), f"{name}_inside": int(flags[:-1].sum())}
    if terminations is not None:
        row["terminations_odd"] = int((~np.isin(arrays["terminations"].astype(np.float32), (0, 1))).sum())
    if terminations is not None and truncations is not None:
        both = min(len(terminations), len(truncations))
        row["both"] = int((terminations[:both] & truncations[:both]).sum())

    wrong = [
        f"observations {name} of shape {array.shape[1:]}, its space has {leaves[name].shape}"
        for name, array in episode.observations.items()
        if array.shape[1:] != leaves[name].shape
    ]
    good = {name: array for name, array in episode.observations.items() if array.shape[1:] == leaves[name].shape}
    if actions is not None and actions.shape[1:] != source.action_space.shape:
        wrong.append(f"actions of shape {actions.shape[1:]}, its space has {source.action_space.shape}")
        actions = None
    if wrong:
        row["shapes"] = wrong[0]
    return row, RawEpisode(episode.id, good, {} if actions is None else {"actions": actions})


def _add(seen: Survey, usable: RawEpisode, row: dict[str, object]) -> None:
    for name, array in usable.observations.items():
        seen.observations[name].add(usable.id, array)
        if name in seen.frames and len(seen.frames[name]) < STRIP and len(array):
            seen.frames[name].append(array[0].copy())
    actions = usable.arrays.get("actions")
    if actions is None or seen.actions is None:
        return
    seen.actions.add(usable.id, actions)
    if seen.action_counts:
        first, _ = categories_of(seen.source.action_space)
        with np.errstate(invalid="ignore"):
            indices = actions.reshape(len(actions), len(first)).astype(np.int64) - first
        for counts, column in zip(seen.action_counts, indices.T, strict=True):
            inside = column[(column >= 0) & (column < len(counts))]
            counts += np.bincount(inside, minlength=len(counts))


def _hashes(usable: RawEpisode, leaves: dict[str, Leaf]) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Of every s, of every (s, a), and of the whole episode; the last None where a part is missing."""
    actions = usable.arrays.get("actions")
    lengths = {len(array) for array in usable.observations.values()}
    if actions is None or not len(actions) or usable.observations.keys() != leaves.keys() or len(lengths) != 1:
        nothing = np.empty(0, np.uint64)
        return nothing, nothing, None
    states = hash_rows(list(usable.observations.values()))
    steps = min(len(actions), len(states))
    pairs = hash_rows([states[:steps], actions[:steps]])
    return states, pairs, int(hash_rows([np.concatenate([pairs, states[steps:]])[None]])[0])
