"""D4RL's arrays, held against D4RL's documented walk over the rows, written here in plain Python."""

import itertools
import re
import types
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Text, Tuple
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

from iq_offline.data import catalog
from iq_offline.data.d4rl import get_dataset, qlearning_dataset, sequence_dataset
from iq_offline.data.d4rl_names import COUNTERPARTS, WITHOUT, counterpart
from iq_offline.errors import UserError
from tests.data_helpers import CHECKOUT, change_metadata, random_episodes, stored_episode, write_spaces_dataset
from tests.helpers import Episode, write_dataset
from tests.test_layers import MODULES, imports, name_of

NUMBER = itertools.count()
STEPS = 5
PAGE = CHECKOUT / "docs" / "d4rl.md"
BLOCKS = dict(re.findall(r"## (\S[^\n]*)\n\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL))

Row = dict[str, Any]


# ------------------------------------------------------------------------------------------------- an oracle


def rows_of(episodes: Iterable[Episode]) -> list[Row]:
    """The steps of all episodes, one after the other; the last of each is a terminal or else a timeout."""
    rows = []
    for observations, actions, rewards, terminations, _ in episodes:
        for time in range(len(rewards)):
            last = time == len(rewards) - 1
            rows.append(
                {
                    "observations": observations[time],
                    "next_observations": observations[time + 1],
                    "actions": actions[time],
                    "rewards": rewards[time],
                    "terminals": bool(terminations[time]),
                    "timeouts": last and not terminations[time],
                }
            )
    return rows


def qlearning_rows(rows: list[Row], terminate_on_end: bool) -> list[Row]:
    """What D4RL keeps: all rows but the last one, timeouts only where ``terminate_on_end``."""
    kept = []
    for row in rows[:-1]:
        if row["timeouts"] and not terminate_on_end:
            continue
        kept.append(row | {"terminals": row["terminals"] or row["timeouts"]})
    return kept


def assert_holds(data: dict[str, np.ndarray], rows: list[Row], keys: Sequence[str]) -> None:
    assert set(data) == set(keys)
    for key in keys:
        expected = np.array([row[key] for row in rows])
        assert len(data[key]) == len(rows), key
        assert data[key].dtype == (bool if key in ("terminals", "timeouts") else np.float32), key
        if rows:
            np.testing.assert_array_equal(data[key], expected.astype(data[key].dtype), err_msg=key)


QLEARNING = ("observations", "actions", "next_observations", "rewards", "terminals")
FLAT = (*QLEARNING, "timeouts")

ends = st.sampled_from(["terminated", "truncated", "both", "neither"])


def drawn_episodes(seed: int, shape: list[tuple[int, str]], dtype: type = np.float64) -> list[Episode]:
    episodes = random_episodes(np.random.default_rng(seed), [length for length, _ in shape], dtype=dtype)
    for (*_, terminations, truncations), (_, end) in zip(episodes, shape, strict=True):
        terminations[-1], truncations[-1] = end in ("terminated", "both"), end in ("truncated", "both")
    return episodes


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.lists(st.tuples(st.integers(1, 6), ends), min_size=1, max_size=5),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_the_arrays_are_those_of_d4rls_walk(seed: int, shape: list[tuple[int, str]], dtype: type) -> None:
    name = f"test/drawn{next(NUMBER)}-v0"
    episodes = drawn_episodes(seed, shape, dtype)
    write_dataset(name, episodes, observation_dtype=dtype)
    rows = rows_of(episodes)

    assert_holds(get_dataset(name), rows, FLAT)
    assert_holds(qlearning_dataset(name), qlearning_rows(rows, False), QLEARNING)
    assert_holds(qlearning_dataset(name, terminate_on_end=True), qlearning_rows(rows, True), QLEARNING)
    assert_holds(qlearning_dataset(name, keep_timeouts=True), rows, QLEARNING)
    sequences = list(sequence_dataset(name))
    assert len(sequences) == len(episodes)
    for data, episode in zip(sequences, episodes, strict=True):
        assert_holds(data, rows_of([episode]), FLAT)


def test_by_hand() -> None:
    """Two steps and a terminal, two and a timeout, one and a terminal that is the dataset's last row."""
    ones = [np.array([[10.0], [11.0], [12.0]]), np.array([[20.0], [21.0], [22.0]]), np.array([[30.0], [31.0]])]
    flags = [([False, True], [False, False]), ([False, False], [False, True]), ([True], [False])]
    written = [
        (each, np.zeros((len(each) - 1, 1), np.float32), each[:-1, 0], np.array(terminated), np.array(truncated))
        for each, (terminated, truncated) in zip(ones, flags, strict=True)
    ]
    write_dataset("test/hand-v0", written)

    def columns(**options: Any) -> tuple[list[float], list[float], list[bool]]:
        data = qlearning_dataset("test/hand-v0", **options)
        return data["observations"][:, 0].tolist(), data["next_observations"][:, 0].tolist(), data["terminals"].tolist()

    assert columns() == ([10, 11, 20], [11, 12, 21], [False, True, False])
    assert columns(terminate_on_end=True) == ([10, 11, 20, 21], [11, 12, 21, 22], [False, True, False, True])
    assert columns(keep_timeouts=True) == (
        [10, 11, 20, 21, 30],
        [11, 12, 21, 22, 31],
        [False, True, False, False, True],
    )


def test_arrow_and_hdf5_give_the_same() -> None:
    pytest.importorskip("pyarrow")
    episodes = drawn_episodes(0, [(4, "terminated"), (3, "truncated")] * 6)
    for data_format in ("hdf5", "arrow"):
        write_dataset(f"test/{data_format}-v0", episodes, data_format=data_format)
        assert_holds(get_dataset(f"test/{data_format}-v0"), rows_of(episodes), FLAT)


def test_both_options_at_once_are_refused() -> None:
    write_dataset("test/a-v0", drawn_episodes(0, [(3, "truncated")]))
    with pytest.raises(UserError, match="choose one"):
        qlearning_dataset("test/a-v0", terminate_on_end=True, keep_timeouts=True)


def test_episodes_are_read_when_they_are_asked_for() -> None:
    folder = write_dataset("test/lazy-v0", drawn_episodes(0, [(3, "terminated"), (4, "terminated")]))
    reading = sequence_dataset("test/lazy-v0")
    assert len(next(reading)["rewards"]) == 3
    reading.close()  # type: ignore[attr-defined]  # Lets go of the file.
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        del stored_episode(file, 1)["rewards"]
    reading = sequence_dataset("test/lazy-v0")
    next(reading)
    with pytest.raises(UserError, match=r"test/lazy-v0: .*cut or damaged"):
        next(reading)


# ----------------------------------------------------------------------------------- spaces, goals and infos


def stacked(space: gymnasium.Space, samples: Sequence[Any]) -> Any:
    """Samples of one space as Minari's buffers hold them: dictionaries and tuples of columns, words, arrays."""
    if isinstance(space, Dict):
        return {key: stacked(inside, [each[key] for each in samples]) for key, inside in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(
            stacked(inside, column) for inside, column in zip(space.spaces, zip(*samples, strict=True), strict=True)
        )
    return list(samples) if isinstance(space, Text) else np.array(samples)


def sampled_dataset(identifier: str, observation_space: gymnasium.Space, action_space: gymnasium.Space) -> list[Any]:
    """Two truncated episodes of samples, read back by Minari."""
    observation_space.seed(0)
    action_space.seed(0)
    buffers = [
        EpisodeBuffer(
            id=index,
            observations=stacked(observation_space, [observation_space.sample() for _ in range(STEPS + 1)]),
            actions=stacked(action_space, [action_space.sample() for _ in range(STEPS)]),
            rewards=[float(step) for step in range(STEPS)],
            terminations=[False] * STEPS,
            truncations=[False] * (STEPS - 1) + [True],
        )
        for index in range(2)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = minari.create_dataset_from_buffers(
            identifier, buffers, observation_space=observation_space, action_space=action_space
        )
    return list(dataset.iterate_episodes())


def real(size: int) -> Box:
    return Box(-1.0, 1.0, (size,), np.float64)


def goal_space(size: int) -> Dict:
    return Dict({"observation": real(size), "achieved_goal": real(2), "desired_goal": real(2)})


def joined(episodes: list[Any], *keys: str) -> np.ndarray:
    """Leaves of the T first observations of all episodes, side by side."""
    whole = [np.concatenate([episode.observations[key] for key in keys], -1)[:-1] for episode in episodes]
    return np.concatenate(whole).astype(np.float32)


def test_discrete_actions_stay_whole_numbers() -> None:
    episodes = sampled_dataset("test/discrete-v0", real(3), Discrete(7))
    expected = np.concatenate([episode.actions for episode in episodes])
    data = get_dataset("test/discrete-v0")
    assert data["actions"].dtype == np.int64
    np.testing.assert_array_equal(data["actions"], expected)
    kept = qlearning_dataset("test/discrete-v0")
    assert kept["actions"].dtype == np.int64
    np.testing.assert_array_equal(kept["actions"], np.concatenate([e.actions[:-1] for e in episodes]))


def test_discrete_actions_that_are_stored_as_floating_point() -> None:
    """They are whole numbers all the same; a fraction among them, which is no action at all, is not cut off."""
    episodes = sampled_dataset("test/floating-v0", real(3), Discrete(7))
    expected = np.concatenate([episode.actions for episode in episodes]).astype(float)
    for fraction in (0, 0.5):
        expected[STEPS + 1] += fraction
        with h5py.File(catalog.minari_root() / "test/floating-v0/data/main_data.hdf5", "r+") as file:
            for index in range(2):
                del stored_episode(file, index)["actions"]
                stored_episode(file, index)["actions"] = expected[index * STEPS : (index + 1) * STEPS]
        data = get_dataset("test/floating-v0")
        assert data["actions"].dtype == (np.float32 if fraction else np.int64)
        np.testing.assert_array_equal(data["actions"], expected)


def whole_then_fractions(identifier: str, space: gymnasium.Space) -> None:
    """Two episodes of two steps: the first of whole numbers throughout, the second of fractions."""
    actions = (np.array([[1], [-1]]), np.array([[0.5], [0.25]]))
    observations = (np.array([[0], [1], [-1]]), np.array([[0.25], [0.5], [0.75]]))
    costs = (np.array([0, 0, 0]), np.array([0.5, 0.7, 0.9]))
    buffers = [
        EpisodeBuffer(
            id=index,
            observations=observations[index],  # type: ignore[arg-type]
            actions=actions[index],  # type: ignore[arg-type]
            rewards=[0.0, 0.0],
            terminations=[False, True],
            truncations=[False, False],
            infos={"cost": costs[index]},
        )
        for index in range(2)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            identifier, buffers, observation_space=space, action_space=Box(-1, 1, (1,), np.float32)
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_first_episode_does_not_decide_the_type_of_all(dtype: type) -> None:
    """Whole numbers in the first, fractions in the second: a Box of floating point is float32, infos hold both."""
    whole_then_fractions("test/mixed-v0", Box(-1, 1, (1,), dtype))
    data, learned = get_dataset("test/mixed-v0"), qlearning_dataset("test/mixed-v0", keep_timeouts=True)
    for arrays in (data, learned, *sequence_dataset("test/mixed-v0")):
        assert {arrays[key].dtype for key in ("observations", "next_observations", "actions")} == {np.dtype("f4")}
    assert data["actions"].tolist() == learned["actions"].tolist() == [[1], [-1], [0.5], [0.25]]
    assert data["observations"].tolist() == learned["observations"].tolist() == [[0], [1], [0.25], [0.5]]
    assert data["next_observations"].tolist() == [[1], [-1], [0.5], [0.75]]
    assert data["infos/cost"].dtype == np.float32
    np.testing.assert_array_equal(data["infos/cost"], np.array([0, 0, 0.5, 0.7], np.float32))


def test_numbers_and_whole_numbers_together_are_float32() -> None:
    space = Dict({"observation": Box(-1, 1, (2,), np.float32), "step": Box(0, 9, (1,), np.int64)})
    sampled_dataset("test/step-v0", space, Box(-1, 1, (1,)))
    data = get_dataset("test/step-v0", observation_keys=["observation", "step"])
    assert data["observations"].dtype == data["next_observations"].dtype == np.float32
    assert get_dataset("test/step-v0", observation_keys=["step"])["observations"].dtype == np.int64


def test_pixels_stay_bytes_except_for_q_learning() -> None:
    episodes = sampled_dataset("test/pixels-v0", Box(0, 255, (4, 4, 3), np.uint8), Discrete(2))
    expected = np.concatenate([episode.observations[:-1] for episode in episodes])
    data = get_dataset("test/pixels-v0")
    assert data["observations"].dtype == np.uint8
    np.testing.assert_array_equal(data["observations"], expected)
    kept = qlearning_dataset("test/pixels-v0", keep_timeouts=True)
    assert kept["observations"].dtype == kept["next_observations"].dtype == np.float32
    np.testing.assert_array_equal(kept["observations"], expected)


def test_pointmaze_has_its_observation_and_its_goal() -> None:
    episodes = sampled_dataset("D4RL/pointmaze/umaze-v2", goal_space(4), real(2))
    with pytest.warns(UserWarning, match="truncated where it reaches its goal"):
        data = get_dataset("maze2d-umaze-v1")
    assert set(data) == {*FLAT, "infos/goal"}
    np.testing.assert_array_equal(data["observations"], joined(episodes, "observation"))
    np.testing.assert_array_equal(data["infos/goal"], joined(episodes, "desired_goal"))


def test_antmaze_observations_begin_with_the_place() -> None:
    """D4RL's 29 numbers: where the ant is, then Minari's 27."""
    episodes = sampled_dataset("D4RL/antmaze/umaze-v1", goal_space(27), real(8))
    with pytest.warns(UserWarning, match="AntMaze"):
        data = qlearning_dataset("antmaze-umaze-v2", keep_timeouts=True)
    assert data["observations"].shape == (2 * STEPS, 29)
    np.testing.assert_array_equal(data["observations"], joined(episodes, "achieved_goal", "observation"))
    alone = get_dataset("D4RL/antmaze/umaze-v1", observation_keys=["observation"])
    np.testing.assert_array_equal(alone["observations"], joined(episodes, "observation"))


def test_an_antmaze_is_known_by_its_environment_too() -> None:
    sampled_dataset("mine/ants-v0", goal_space(27), real(8))
    assert get_dataset("mine/ants-v0")["observations"].shape == (2 * STEPS, 27)
    folder = cast(Path, catalog.locate("mine/ants-v0"))
    specification = gymnasium.envs.registration.EnvSpec("AntMaze_UMaze-v4").to_json()  # type: ignore[attr-defined]
    change_metadata(folder, env_spec=specification)
    assert get_dataset("mine/ants-v0")["observations"].shape == (2 * STEPS, 29)


def test_kitchen_has_59_numbers_and_a_goal_a_task() -> None:
    tasks = Dict({"microwave": real(1), "kettle": real(7)})
    space = Dict({"observation": real(59), "achieved_goal": tasks, "desired_goal": tasks})
    episodes = sampled_dataset("D4RL/kitchen/complete-v2", space, real(9))
    with pytest.warns(UserWarning, match="59 numbers"):
        data = get_dataset("kitchen-complete-v0")
    assert set(data) == {*FLAT, "infos/goal/microwave", "infos/goal/kettle"}
    np.testing.assert_array_equal(data["observations"], joined(episodes, "observation"))
    goals = [episode.observations["desired_goal"]["kettle"][:-1] for episode in episodes]
    np.testing.assert_array_equal(data["infos/goal/kettle"], np.concatenate(goals).astype(np.float32))
    keys = ["observation", "desired_goal/kettle"]
    wider = get_dataset("D4RL/kitchen/complete-v2", observation_keys=keys)["observations"]
    np.testing.assert_array_equal(wider, np.concatenate([data["observations"], data["infos/goal/kettle"]], 1))


def test_minigrid_has_its_image() -> None:
    space = Dict({"direction": Discrete(4), "image": Box(0, 255, (7, 7, 3), np.uint8), "mission": Text(9)})
    episodes = sampled_dataset("D4RL/minigrid/fourrooms-v0", space, Discrete(7))
    with pytest.warns(UserWarning, match="MiniGrid-FourRooms-v0"):
        data = get_dataset("minigrid-fourrooms-v0")
    expected = np.concatenate([episode.observations["image"][:-1] for episode in episodes])
    np.testing.assert_array_equal(data["observations"], expected)


@pytest.mark.parametrize(
    ("observation_space", "action_space", "keys", "message"),
    [
        (Dict({"camera": real(2), "arm": real(3)}), real(1), None, r"no array 'observation' \(there are: arm, camera"),
        (goal_space(2), real(1), ["observatoin"], "did you mean 'observation'"),
        (goal_space(2), real(1), [], "must name what an observation is"),
        (real(2), real(1), ["observation"], "no dictionary"),
        (Tuple([real(2), real(1)]), real(1), None, "observations are a Tuple"),
        (real(2), Dict({"arm": real(1)}), None, "actions are a Dict"),
    ],
)
def test_spaces_that_are_no_array(
    observation_space: gymnasium.Space, action_space: gymnasium.Space, keys: list[str] | None, message: str
) -> None:
    sampled_dataset("test/odd-v0", observation_space, action_space)
    for load in (get_dataset, qlearning_dataset, sequence_dataset):
        with pytest.raises(UserError, match=message) as caught:
            load("test/odd-v0", observation_keys=keys)
        assert "\n" not in str(caught.value)


def write_with_infos(identifier: str, infos: list[dict[str, Any]]) -> None:
    episodes = drawn_episodes(0, [(3, "truncated")] * len(infos))
    buffers = [
        EpisodeBuffer(
            id=index,
            observations=cast(Any, observations),
            actions=cast(Any, actions),
            rewards=list(rewards),
            terminations=list(terminations),
            truncations=list(truncations),
            infos=about,
        )
        for index, ((observations, actions, rewards, terminations, truncations), about) in enumerate(
            zip(episodes, infos, strict=True)
        )
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(identifier, buffers, observation_space=real(3), action_space=real(2))


def test_infos_are_at_the_times_of_the_observations() -> None:
    """Four rows for three steps begin with the reset's; nested ones become paths; words are left out."""
    place = np.arange(8.0).reshape(4, 2)
    about = {
        "qpos": place,
        "body": {"height": np.arange(3.0)},
        "success": np.array([False, False, True]),
        "word": ["a", "b", "c"],
    }
    write_with_infos("test/infos-v0", [about, about])
    data = get_dataset("test/infos-v0")
    assert set(data) == {*FLAT, "infos/qpos", "infos/body/height", "infos/success"}
    np.testing.assert_array_equal(data["infos/qpos"], np.concatenate([place[:3]] * 2).astype(np.float32))
    assert data["infos/qpos"].dtype == data["infos/body/height"].dtype == np.float32
    np.testing.assert_array_equal(data["infos/body/height"], [0, 1, 2, 0, 1, 2])
    assert data["infos/success"].tolist() == [False, False, True] * 2
    assert set(qlearning_dataset("test/infos-v0")) == set(QLEARNING)
    assert set(next(sequence_dataset("test/infos-v0"))) == set(data)


def test_infos_that_not_every_episode_has_are_left_out_aloud() -> None:
    first, second = {"a": np.zeros(3), "b": np.zeros(3)}, {"a": np.ones(3), "c": np.zeros(3)}
    write_with_infos("test/infos-v0", [first, second])
    with pytest.warns(UserWarning, match=r"left out, for not every episode has them: infos/b, infos/c"):
        data = get_dataset("test/infos-v0")
    assert set(data) == {*FLAT, "infos/a"}
    np.testing.assert_array_equal(data["infos/a"], [0, 0, 0, 1, 1, 1])


# ------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("damage", ["a cut file", "more steps", "fewer steps", "fewer rewards", "no episode"])
def test_damage_is_one_clear_line(damage: str) -> None:
    folder = write_dataset("test/damaged-v0", drawn_episodes(0, [(4, "terminated"), (5, "truncated")]))
    file = folder / "main_data.hdf5"
    if damage == "a cut file":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif damage == "more steps":
        change_metadata(folder, total_steps=10)
    elif damage == "fewer steps":
        change_metadata(folder, total_steps=8)
    else:
        with h5py.File(file, "r+") as opened:
            if damage == "no episode":
                del opened["episode_1"]
            else:
                episode = stored_episode(opened, 1)
                rewards = cast(h5py.Dataset, episode["rewards"])[:3]
                del episode["rewards"]
                episode["rewards"] = rewards
    for load in (get_dataset, qlearning_dataset, lambda name: list(sequence_dataset(name))):
        with pytest.raises(UserError, match="test/damaged-v0") as caught:
            load("test/damaged-v0")
        assert "\n" not in str(caught.value)


def test_a_cut_arrow_episode_is_refused() -> None:
    """Minari (upstream pull request 352) hands out Arrow episodes over 32,767 steps cut: their promise is checked."""
    pytest.importorskip("pyarrow")
    folder = write_dataset(
        "test/arrow-v0", drawn_episodes(0, [(4, "truncated"), (5, "truncated")]), data_format="arrow"
    )
    about = folder / "1" / "metadata.json"
    about.write_text(about.read_text().replace('"total_steps": 5', '"total_steps": 40000'))
    with pytest.raises(UserError, match="episode 1 comes back with 5 of its 40000 steps"):
        get_dataset("test/arrow-v0")


# ------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("hopper-expert-v2", "mujoco/hopper/expert-v0"),
        ("halfcheetah-medium-v0", "mujoco/halfcheetah/medium-v0"),
        ("walker2d-expert-v1", "mujoco/walker2d/expert-v0"),
        ("ant-medium-v2", "mujoco/ant/medium-v0"),
        ("antmaze-umaze-v0", "D4RL/antmaze/umaze-v1"),
        ("antmaze-large-diverse-v2", "D4RL/antmaze/large-diverse-v1"),
        ("maze2d-open-v0", "D4RL/pointmaze/open-v2"),
        ("maze2d-large-dense-v1", "D4RL/pointmaze/large-dense-v2"),
        ("pen-human-v1", "D4RL/pen/human-v2"),
        ("door-cloned-v0", "D4RL/door/cloned-v2"),
        ("hammer-expert-v1", "D4RL/hammer/expert-v2"),
        ("relocate-human-longhorizon-v1", "D4RL/relocate/human-v2"),
        ("kitchen-mixed-v0", "D4RL/kitchen/mixed-v2"),
        ("minigrid-fourrooms-random-v0", "D4RL/minigrid/fourrooms-random-v0"),
    ],
)
def test_names_of_d4rl(name: str, identifier: str) -> None:
    match = counterpart(name)
    assert match is not None
    assert match.minari_id == identifier


def test_every_name_reads_its_counterpart_with_a_warning() -> None:
    """Each dataset is written once, by copying one folder: what is tested is where a name leads."""
    first, *others = sorted({match.minari_id for match in COUNTERPARTS.values()})
    assert 1 + len(others) == 4 * 2 + 6 + 8 + 4 * 3 + 3 + 2
    episodes = drawn_episodes(0, [(2, "truncated"), (2, "terminated")])
    source = write_dataset(first, episodes).parent
    for identifier in others:
        target = catalog.minari_root() / identifier
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
    for name, match in COUNTERPARTS.items():
        with pytest.warns(UserWarning, match=match.minari_id) as caught:
            data = qlearning_dataset(name)
        assert [str(warning.message) for warning in caught] == [
            f"{name} is read from Minari's {match.minari_id}: {match.difference}"
        ]
        assert len(data["rewards"]) == 2


def test_names_without_a_counterpart_say_why_and_what_is_near() -> None:
    assert not WITHOUT.keys() & COUNTERPARTS.keys()
    for name in WITHOUT:
        with pytest.raises(UserError, match=f"no counterpart of D4RL's '{name}': it ") as caught:
            get_dataset(name, download=True)  # Not even asked for on the server.
        assert "\n" not in str(caught.value)
    for name, words in {
        "walker2d-medium-replay-v2": "replay.*did you mean 'walker2d-medium-v2'",
        "hopper-medium-expert-v2": "hopper-medium and hopper-expert one after the other",
        "hopper-random-v2": "hopper/random",
        "antmaze-eval-umaze-v0": "evaluation mazes; did you mean 'antmaze-umaze-v0'",
    }.items():
        with pytest.raises(UserError, match=words):
            counterpart(name)


def test_other_names_are_not_d4rls() -> None:
    for name in ("hopper/expert", "mujoco/hopper/expert-v0", "hopper-v2", ""):
        assert counterpart(name) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hoper-expert-v2", "did you mean 'hopper-expert-v2'"),
        ("hopper-expert-v3", "did you mean 'hopper-expert-v"),
        ("hopper-expert", "did you mean 'hopper/expert'"),
        ("", "no name of D4RL's"),
        ("hopper-expert-v2", r"would be read from mujoco/hopper/expert-v0, .*download=True"),
        ("mujoco/hopper/expert-v0", r"no dataset 'mujoco/hopper/expert-v0' .*download=True"),
        ("mujoco/hopper", "neither a built-in dataset nor a Minari id"),
        ("../../etc-v0", "neither a built-in dataset nor a Minari id"),
        ("hopper/expert", "iq-offline datasets build hopper/expert"),
        ("iq-offline/hopper/expert-v0", "iq-offline datasets build"),
    ],
)
def test_what_is_not_here_is_one_line(name: str, words: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Nothing is said of data that are not read.
        for load in (get_dataset, qlearning_dataset, sequence_dataset):
            with pytest.raises(UserError, match=words) as caught:
                load(name)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["hopper/expert", "iq-offline/hopper/expert-v0", "mine/hopper-v3", "hopper-expert-v2"])
def test_a_dataset_that_is_here_under_the_name_wins(name: str) -> None:
    episodes = drawn_episodes(0, [(3, "terminated")])
    write_dataset("iq-offline/hopper/expert-v0" if name == "hopper/expert" else name, episodes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_holds(get_dataset(name), rows_of(episodes), FLAT)


def test_download_fetches_the_counterpart(monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = drawn_episodes(0, [(3, "terminated")])
    asked = []

    def fetch(identifier: str) -> None:
        asked.append(identifier)
        write_dataset(identifier, episodes)

    monkeypatch.setattr(minari, "download_dataset", fetch)
    with pytest.warns(UserWarning, match="Walker2d-v5"):
        data = get_dataset("walker2d-medium-v2", download=True)
    assert_holds(data, rows_of(episodes), FLAT)
    with pytest.warns(UserWarning, match="Walker2d-v5"):
        qlearning_dataset("walker2d-medium-v2", download=True)
    assert asked == ["mujoco/walker2d/medium-v0"]


@pytest.mark.parametrize("steps", [2**46, 2**48])
def test_more_steps_than_fit_in_memory(steps: int) -> None:
    folder = write_dataset("test/a-v0", drawn_episodes(0, [(3, "truncated")]))
    change_metadata(folder, total_steps=steps)
    for load in (get_dataset, qlearning_dataset):
        with pytest.raises(UserError, match=rf"test/a-v0: its metadata promise {steps:,} steps, which do not fit"):
            load("test/a-v0")


# ---------------------------------------------------------------------------------------- offline, and the page


def test_no_training_imports_what_reads_rewards() -> None:
    users = {name_of(file) for file in MODULES for module, _ in imports(file) if module == "iq_offline.data.d4rl"}
    assert not {user for user in users if user.split(".")[1] in ("data", "learning", "training")}


def test_no_environment_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an environment is built")

    monkeypatch.setattr(gymnasium, "make", refuse)
    write_dataset("test/a-v0", drawn_episodes(0, [(3, "truncated")]), env_spec_id="Hopper-v5")
    get_dataset("test/a-v0")
    list(sequence_dataset("test/a-v0"))


@pytest.mark.parametrize("title", sorted(BLOCKS))
def test_the_page_runs(title: str) -> None:
    """Each block in the page on a Hopper-sized dataset, where its libraries are installed."""
    assert set(BLOCKS) == {"d3rlpy", "TorchRL", "Plain torch"}
    for library in re.findall(r"^(?:import|from) (d3rlpy|torchrl)", BLOCKS[title], re.MULTILINE):
        pytest.importorskip(library)
    shape = [(4, "terminated"), (6, "truncated"), (3, "both")]
    generator = np.random.default_rng(0)
    episodes = random_episodes(generator, [length for length, _ in shape], (11,), (3,))
    for (*_, terminations, truncations), (_, end) in zip(episodes, shape, strict=True):
        terminations[-1], truncations[-1] = end != "truncated", end != "terminated"
    write_dataset("mujoco/hopper/expert-v0", episodes)
    rows = rows_of(episodes)
    here: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(BLOCKS[title], here)
    {"d3rlpy": check_d3rlpy, "TorchRL": check_torchrl, "Plain torch": check_torch}[title](here, rows)


def check_d3rlpy(here: dict[str, Any], rows: list[Row]) -> None:
    episodes = here["dataset"].episodes
    assert [len(episode.rewards) for episode in episodes] == [4, 6, 3]
    assert [episode.terminated for episode in episodes] == [True, False, True]
    np.testing.assert_array_equal(
        episodes[1].observations, [row["observations"].astype(np.float32) for row in rows[4:10]]
    )
    np.testing.assert_array_equal(episodes[1].actions, [row["actions"] for row in rows[4:10]])
    assert len(here["dataset"].sample_transition_batch(8).rewards) == 8


def check_torchrl(here: dict[str, Any], rows: list[Row]) -> None:
    stored = here["buffer"][:]
    assert len(stored) == len(rows)
    expected = {
        "observation": "observations",
        "action": "actions",
        ("next", "observation"): "next_observations",
        ("next", "reward"): "rewards",
        ("next", "terminated"): "terminals",
    }
    for key, name in expected.items():
        values = np.array([row[name] for row in rows], np.float32).reshape(len(rows), -1)
        np.testing.assert_array_equal(stored[key].numpy().astype(np.float32), values, err_msg=name)
    assert here["batch"].batch_size == (256,)


def check_torch(here: dict[str, Any], rows: list[Row]) -> None:
    tensors = here["dataset"].tensors
    assert len(tensors) == len(QLEARNING)
    for name, tensor in zip(here["data"], tensors, strict=True):
        np.testing.assert_array_equal(tensor, np.array([row[name] for row in rows]).astype(here["data"][name].dtype))


def test_the_page_names_what_there_is() -> None:
    text = PAGE.read_text()
    module = types.SimpleNamespace(**globals())
    for name in re.findall(r"`(\w+_dataset)\(name\)`", text):
        assert callable(getattr(module, name))
    for identifier in re.findall(r"`((?:mujoco|D4RL)/[\w/-]+-v\d)`", text):
        assert identifier in {match.minari_id for match in COUNTERPARTS.values()}


# ------------------------------------------------------------------------------------------------- shapes


def test_columns_are_one_value_a_step() -> None:
    """Of rewards and ends, as a vector of one environment gives them."""
    episodes = drawn_episodes(0, [(4, "terminated"), (3, "truncated")])
    folder = write_dataset("test/column-v0", episodes)
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        for index in (0, 1):
            episode = stored_episode(file, index)
            for name in ("rewards", "terminations", "truncations"):
                values = cast(h5py.Dataset, episode[name])[()]
                del episode[name]
                episode[name] = values[:, None]
    assert_holds(get_dataset("test/column-v0"), rows_of(episodes), FLAT)


def test_one_key_is_no_list_of_letters() -> None:
    space = Dict({"s": Box(-1, 1, (2,)), "state": Box(-1, 1, (3,))})
    write_spaces_dataset("test/keys-v0", space, Box(-1, 1, (1,)))
    assert get_dataset("test/keys-v0", observation_keys="state")["observations"].shape[1:] == (3,)
