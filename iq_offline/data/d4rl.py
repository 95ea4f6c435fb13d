"""Minari data in the arrays of D4RL, for code that was written for D4RL.

The keys, shapes and dtypes are those of ``d4rl.qlearning_dataset``, ``d4rl.sequence_dataset`` and ``env.get_dataset()``
(github.com/Farama-Foundation/D4RL, ``d4rl/__init__.py`` and ``d4rl/offline_env.py``). D4RL stores T observations for T
steps, so it does not know where the last step of an episode led; Minari stores T+1, so here every row of
``next_observations`` is the true one. docs/d4rl.md compares the two.

No environment is built. Rewards are read here, and nothing here is part of a training.
"""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space
from minari import EpisodeData

from iq_offline.data import catalog, views
from iq_offline.data.d4rl_names import COUNTERPARTS, counterpart
from iq_offline.data.stream import Source, open_source, per_step, stored_episodes, view_of, with_clear_errors
from iq_offline.errors import UserError, nearest

Arrays = dict[str, np.ndarray]

ARRAYS = (Box, Discrete, MultiBinary, MultiDiscrete)
"""Spaces whose samples are one array of numbers."""


def qlearning_dataset(
    name: str,
    *,
    terminate_on_end: bool = False,
    keep_timeouts: bool = False,
    observation_keys: Sequence[str] | None = None,
    download: bool = False,
) -> Arrays:
    """Transitions for Q-learning, as ``d4rl.qlearning_dataset(env)`` has them.

    As in D4RL, two kinds of transitions are missing unless ``keep_timeouts`` is set: the last one of every episode that
    ends in a timeout, and the very last one of the dataset. The other terminals are there; their next observation is
    the true one (in D4RL the first of the next episode, which no target reads).

    Args:
        name: as for :func:`get_dataset`.
        terminate_on_end: keep the truncated steps and call them terminal, as D4RL documents it. (D4RL's own code keeps
            them with ``terminals`` False and the next episode's first observation as the next one.)
        keep_timeouts: keep every transition, truncated ones with their true next observation and ``terminals`` False.
        observation_keys: as for :func:`get_dataset`.
        download: as for :func:`get_dataset`.

    Returns:
        ``observations`` and ``next_observations``, float32, shape ``(transitions, *observation)``; ``actions``, shape
        ``(transitions, *action)``, float32, or int64 where they are discrete (D4RL makes them float32 too);
        ``rewards``, float32, and ``terminals``, bool, shape ``(transitions,)``.

    Raises:
        UserError: as for :func:`get_dataset`, or both options are set.
    """
    if terminate_on_end and keep_timeouts:
        raise UserError("terminate_on_end makes truncated steps terminal, keep_timeouts says they are not: choose one")
    source = _find(name, download)
    data = _gathered(source, _observation_keys(source, observation_keys), with_infos=False)
    timeouts = data.pop("timeouts")
    if terminate_on_end:
        data["terminals"] |= timeouts
    if not keep_timeouts:
        kept = np.ones(len(timeouts), bool) if terminate_on_end else ~timeouts
        kept[-1] = False  # D4RL looks one row ahead for the next observation, and the last row has none.
        data = {key: values[kept] for key, values in data.items()}
    for key in ("observations", "next_observations"):
        data[key] = data[key].astype(np.float32, copy=False)
    return data


def sequence_dataset(
    name: str, *, observation_keys: Sequence[str] | None = None, download: bool = False
) -> Iterator[Arrays]:
    """Episodes one after the other, as ``d4rl.sequence_dataset(env)`` has them, one in memory at a time.

    Args:
        name: as for :func:`get_dataset`.
        observation_keys: as for :func:`get_dataset`.
        download: as for :func:`get_dataset`.

    Returns:
        An iterator of the keys of :func:`get_dataset`, T rows an episode; its last row is a terminal or a timeout.

    Raises:
        UserError: as for :func:`get_dataset`; damage within the data when its episode is reached.
    """
    source = _find(name, download)
    return _episodes(source, _observation_keys(source, observation_keys), with_infos=True)


def get_dataset(name: str, *, observation_keys: Sequence[str] | None = None, download: bool = False) -> Arrays:
    """All steps in flat arrays, as ``env.get_dataset()`` of a D4RL environment has them.

    Args:
        name: a name of D4RL's (``hopper-expert-v2``; a warning says how Minari's data differ), a built-in dataset
            (``hopper/expert``), or a Minari id.
        observation_keys: for dictionary observations, the leaves that make up an observation (``a/b`` for one in a
            dictionary inside), concatenated in this order. By default D4RL's own: ``observation``; in AntMaze
            ``achieved_goal`` before it, because D4RL's 29 numbers begin with the ant's place; in MiniGrid ``image``.
        download: fetch it from the Minari server where it is not on this machine.

    Returns:
        Of N steps: ``observations`` and ``next_observations``, shape ``(N, *observation)``, float32 (whole numbers,
        such as pixels, keep their dtype); ``actions``, shape ``(N, *action)``, float32, or int64 where they are
        discrete; ``rewards`` float32, ``terminals`` and ``timeouts`` bool, shape ``(N,)``. The last step of an episode
        is one of the two and never both: a terminal where it was terminated, else a timeout. ``infos/...``: the
        recorded numbers that every episode has, row t for observation t; the desired goal of a goal environment is
        ``infos/goal``, or ``infos/goal/TASK`` where it is a dictionary.

    Raises:
        UserError: no such dataset, D4RL's name has no counterpart in Minari, the spaces do not fit into arrays, or the
            files are damaged.
    """
    source = _find(name, download)
    return _gathered(source, _observation_keys(source, observation_keys), with_infos=True)


def _find(name: str, download: bool) -> Source:
    """The dataset behind a name: one that is here under this very name, else the counterpart of D4RL's name."""
    name, ids = views.parsed(name)
    builtin = catalog.builtin_of(name) is not None
    here = catalog.locate(name) if builtin or "/" in name else _locate_without_namespace(name)
    if here is not None:
        return view_of(open_source(here), ids)
    if builtin:
        raise UserError(f"the built-in dataset {name} is not recorded yet: iq-offline datasets build {name}")
    match = counterpart(name)
    if match is None and "/" not in name:
        raise UserError(
            f"{name!r} is no name of D4RL's, nor a built-in dataset or a Minari id"
            + nearest(name, [*COUNTERPARTS, *catalog.builtin_names(), *catalog.local_ids()])
        )
    identifier = match.minari_id if match else name
    here = catalog.locate(identifier)
    if here is None and download:
        here = catalog.download(identifier)
    if here is None and match:
        raise UserError(
            f"{name} would be read from {identifier}, which is not in {catalog.minari_root()}: "
            "download=True fetches it from the Minari server (needs a network)"
        )
    if here is None:
        raise catalog.not_found(name, how="download=True")
    if match:
        warnings.warn(f"{name} is read from Minari's {identifier}: {match.difference}", stacklevel=3)
    return view_of(open_source(here), ids)


def _locate_without_namespace(name: str) -> Path | None:
    return catalog.locate(name) if name in catalog.local_ids() else None


def _observation_keys(source: Source, given: Sequence[str] | None) -> tuple[str, ...]:
    """The leaves that make up an observation; none where it is one array already.

    Raises:
        UserError: observations or actions that are no arrays, or keys that are not there.
    """
    observation, action = source.observation_space, source.action_space
    if not isinstance(action, ARRAYS):
        raise UserError(f"{source.id}: its actions are a {type(action).__name__}, which is no array of numbers")
    if not isinstance(observation, Dict):
        if given is not None:
            raise UserError(f"{source.id}: its observations are no dictionary, so observation_keys name nothing there")
        if not isinstance(observation, ARRAYS):
            kind = type(observation).__name__
            raise UserError(f"{source.id}: its observations are a {kind}, which is no array of numbers")
        return ()
    leaves = _leaves(observation)
    given = (given,) if isinstance(given, str) else given
    keys = tuple(given) if given is not None else _keys_of_d4rl(source, leaves)
    for key in keys:
        if not isinstance(leaves.get(key), ARRAYS):
            there = f"{nearest(key, leaves)} (there are: {', '.join(leaves)}; choose by observation_keys)"
            raise UserError(f"{source.id}: its observations have no array {key!r}{there}")
    if not keys:
        raise UserError(f"{source.id}: observation_keys must name what an observation is (of {', '.join(leaves)})")
    return keys


def _keys_of_d4rl(source: Source, leaves: dict[str, Space]) -> tuple[str, ...]:
    ant_maze = "antmaze" in source.id.lower() or str(source.environment_id).startswith("AntMaze")
    if ant_maze and {"achieved_goal", "observation"} <= set(leaves):
        return "achieved_goal", "observation"
    return ("image",) if "image" in leaves and "observation" not in leaves else ("observation",)


def _leaves(space: Space, above: str = "") -> dict[str, Space]:
    """The spaces of a dictionary's leaves, by their paths such as ``a/b``."""
    if not isinstance(space, Dict):
        return {above: space}
    inside = (_leaves(value, f"{above}/{key}" if above else key) for key, value in space.spaces.items())
    return {key: leaf for leaves in inside for key, leaf in leaves.items()}


def _gathered(source: Source, keys: tuple[str, ...], with_infos: bool) -> Arrays:
    """All episodes in arrays that are allocated once, by the metadata's total of steps."""
    data: Arrays = {}
    left_out: set[str] = set()
    start = 0
    for index, episode in enumerate(_episodes(source, keys, with_infos)):
        if index == 0:
            data = _reserved(source, episode)
        shapes = {key: rows.shape[1:] for key, rows in episode.items()}
        left_out |= {
            key for key in data.keys() | shapes.keys() if key not in data or shapes.get(key) != data[key].shape[1:]
        }
        if not all(key.startswith("infos/") for key in left_out):
            raise UserError(
                f"{source.id}: episode {index} has other shapes than those before it: download or build it again"
            )
        stop = start + len(episode["rewards"])
        for key in data.keys() - left_out:
            together = np.result_type(data[key], episode[key])  # No space says of infos what a later episode brings.
            data[key] = data[key].astype(np.float32 if together.kind == "f" else together, copy=False)
            data[key][start:stop] = episode[key]
        start = stop
    if left_out:
        warnings.warn(
            f"{source.id}: left out, for not every episode has them: {', '.join(sorted(left_out))}", stacklevel=3
        )
    return {key: values for key, values in data.items() if key not in left_out}


def _reserved(source: Source, episode: Arrays) -> Arrays:
    """Empty arrays for all steps, alike in shape to those of an episode."""
    steps = source.total_steps
    try:
        return {key: np.empty((steps, *rows.shape[1:]), rows.dtype) for key, rows in episode.items()}
    except (MemoryError, ValueError) as error:  # The second for a size that no array can have.
        raise UserError(
            f"{source.id}: its metadata promise {steps:,} steps, which do not fit in memory: read one episode at a "
            f"time by sequence_dataset, or ask iq-offline datasets check {source.id} whether its file holds them"
        ) from error


def _episodes(source: Source, keys: tuple[str, ...], with_infos: bool) -> Iterator[Arrays]:
    """Every episode in D4RL's keys, in the order of their ids, checked against the metadata.

    Raises:
        UserError: an episode's lengths do not fit together, or the files hold other totals than the metadata promise.
    """
    count = steps = 0
    read = (_in_d4rl_keys(source, episode, keys, with_infos) for episode in _recorded(source))
    for data in with_clear_errors(read, source):
        count, steps = count + 1, steps + len(data["rewards"])
        if steps > source.total_steps:
            break
        yield data
    if (count, steps) != (source.total_episodes, source.total_steps):
        raise UserError(
            f"{source.id}: its metadata promise {source.total_episodes} episodes of {source.total_steps} steps in all, "
            f"its file holds other numbers (read: {count} of {steps}): download or build it again"
        )


def _recorded(source: Source) -> Iterator[EpisodeData]:
    for stored in stored_episodes(source, source.episode_ids):
        columns: dict[str, Any] = {
            name: per_step(np.asarray(stored[name])) for name in ("rewards", "terminations", "truncations")
        }
        yield EpisodeData(**(stored | columns))


def _in_d4rl_keys(source: Source, episode: EpisodeData, keys: tuple[str, ...], with_infos: bool) -> Arrays:
    steps = len(episode.rewards)
    observations = _observations(source.observation_space, episode.observations, keys)
    actions = _of_space(source.action_space, episode.actions)
    if not np.issubdtype(source.action_space.dtype, np.floating):
        actions = _whole(actions)
    lengths = len(observations) - 1, len(actions), len(episode.terminations), len(episode.truncations)
    if steps == 0 or set(lengths) != {steps}:
        raise UserError(
            f"{source.id}: episode {episode.id} has {len(observations)} observations, {len(actions)} actions, {steps} "
            f"rewards, {lengths[2]} terminations and {lengths[3]} truncations; of T steps there must be T+1 and T each"
        )
    terminals, timeouts = (np.array(ends, bool) for ends in (episode.terminations, episode.truncations))
    timeouts[-1] = True  # Data that stop without a mark say nothing about what comes next.
    timeouts &= ~terminals  # D4RL's walk would drop the terminal with its timeout, and d3rlpy refuses both at once.
    data = {
        "observations": observations[:-1],
        "next_observations": observations[1:],
        "actions": actions,
        "rewards": np.asarray(episode.rewards, np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }
    return data | (_infos(episode, keys, steps) if with_infos else {})


def _observations(space: Space, recorded: Any, keys: tuple[str, ...]) -> np.ndarray:
    """An episode's observations, shape ``(T+1, *observation)``."""
    if not keys:
        return _of_space(space, recorded)
    spaces, flat = _leaves(space), _flat(recorded)
    leaves = [_of_space(spaces[key], flat[key]) for key in keys]
    if len(leaves) == 1:
        return leaves[0]
    return _numbers(np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], -1))


def _infos(episode: EpisodeData, keys: tuple[str, ...], steps: int) -> Arrays:
    """The recorded infos that are numbers, and the desired goal, at the times of the T observations.

    Minari's collector records T+1 infos, the first from the reset: row t belongs to observation t. Where there are T
    rows, they stay as they are.
    """
    found = {f"infos/{key}": value for key, value in _flat(episode.infos or {}).items()}
    if keys:
        leaves = _flat(episode.observations).items()
        found |= {
            f"infos/{key.removeprefix('desired_')}": value
            for key, value in leaves
            if key.split("/")[0] == "desired_goal"
        }
    arrays = {
        key: value for key, value in found.items() if isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    }
    return {key: _numbers(value[:steps]) for key, value in arrays.items() if len(value) in (steps, steps + 1)}


def _flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """The leaves of nested dictionaries, by their paths such as ``a/b``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{above}{key}/") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


def _of_space(space: Space, recorded: Any) -> np.ndarray:
    """Recorded values of a space: float32 where it is one of floating point, whatever an episode stores."""
    values = _numbers(np.asarray(recorded))
    return values.astype(np.float32, copy=False) if np.issubdtype(space.dtype, np.floating) else values


def _whole(values: np.ndarray) -> np.ndarray:
    """The values as int64, where that is what they are."""
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64, copy=False)
    return whole if np.array_equal(whole, values) else values


def _numbers(values: np.ndarray) -> np.ndarray:
    """Floating point as float32; whole numbers as they are."""
    return values.astype(np.float32, copy=False) if values.dtype.kind == "f" else values
