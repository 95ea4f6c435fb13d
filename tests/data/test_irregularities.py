"""Everything irregular that a check finds: injected into real files, found with its exact count, and nothing beside it.

Each case also holds the word ``refused`` against what training does with the same files.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minari.serialization import serialize_space

from iq_offline.data.actions import action_encoder
from iq_offline.data.cache import cached
from iq_offline.data.inspection import facts_of
from iq_offline.data.irregularities import irregularities
from iq_offline.data.irregularity import Irregularity, Surroundings
from iq_offline.data.replay import feature_statistics, select
from iq_offline.data.spaces import ObservationEncoder, chosen_leaves
from iq_offline.data.stream import Source, open_source
from iq_offline.data.survey import survey
from iq_offline.errors import UserError
from tests.data_helpers import change_metadata, counting_episodes, stored_array, stored_episode, write_spaces_dataset
from tests.helpers import Episode, write_dataset
from tests.space_helpers import ACTIONS, NESTED

NAME = "test/odd-v0"
LENGTHS = (20, 15, 12, 18, 9, 11)

Finding = tuple[str, str, int]
"""Severity, words of it, count."""


def clean(lengths: Sequence[int] = LENGTHS) -> list[Episode]:
    """Truncated episodes of three observations and two actions with nothing odd about them."""
    generator = np.random.default_rng(0)
    return [
        (
            generator.standard_normal((length + 1, 3)),
            generator.uniform(-0.9, 0.9, (length, 2)).astype(np.float32),
            generator.standard_normal(length),
            np.zeros(length, bool),
            np.arange(length) == length - 1,
        )
        for length in lengths
    ]


def look(source: Source, surroundings: Surroundings | None = None) -> list[Irregularity]:
    box = surroundings.action_space if surroundings else None
    return irregularities(survey(source, environment_box=box), surroundings)


def training_refuses(source: Source) -> bool:
    """Whether a training would stop: what ``choose_data`` does with every dataset, without its draws."""
    try:
        leaves = chosen_leaves(source.observation_space, (), source.id)
        data = cached(source)
        recorded = data.manifest["action_min"], data.manifest["action_max"]
        action_encoder(source.action_space, recorded, (), (), source.id)
    except UserError:
        return True
    encoder = ObservationEncoder(leaves)
    feature_statistics(select(data, None, 1, np.random.default_rng(0)), (), encoder)
    return False


def assert_found(source: Source, expected: Sequence[Finding]) -> list[Irregularity]:
    found = look(source)
    assert [(one.severity, one.count) for one in found] == [(severity, count) for severity, _, count in expected], found
    for one, (_, words, _) in zip(found, expected, strict=True):
        assert words in one.what
    assert training_refuses(source) == any(severity == "refused" for severity, _, _ in expected)
    return found


def set_in(index: int, part: int, where: object, value: object) -> Callable[[list[Episode]], None]:
    """Change an array of an episode before it is written: 0 observations, 1 actions, 2 rewards, 3 and 4 the ends."""

    def change(episodes: list[Episode]) -> None:
        episodes[index][part][where] = value  # type: ignore[call-overload]

    return change


def drop_last_observation(file: h5py.File) -> None:
    values = stored_array(file, 2, "observations")[()]
    replace_array(file, 2, "observations", values[:-1])


def replace_array(file: h5py.File, index: int, name: str, values: np.ndarray) -> None:
    group = stored_episode(file, index)
    del group[name]
    group[name] = values


def test_nothing_irregular() -> None:
    assert_found(open_source(write_dataset(NAME, clean())), [])


WRITTEN: dict[str, tuple[list[Callable[[list[Episode]], None]], list[Finding]]] = {
    "NaN observations": (
        [set_in(1, 0, (slice(3, 5), 1), np.nan), set_in(4, 0, (0, 0), np.inf)],
        [("refused", "observations that are NaN", 3)],
    ),
    "observations beyond float32": ([set_in(1, 0, (3, 1), 1e300)], [("refused", "beyond float32", 1)]),
    "NaN actions": ([set_in(3, 1, (2, 0), np.nan)], [("refused", "actions that are NaN", 1)]),
    "NaN rewards": ([set_in(0, 2, slice(2, 9), np.nan)], [("ignored", "rewards", 7)]),
    "actions outside": (
        [set_in(2, 1, (slice(0, 4), 0), 1.5), set_in(2, 1, (1, 1), -3), set_in(5, 1, (7, 1), -1.01)],
        [("clipped", "actions outside the stored box", 5)],
    ),
    "both ends": ([set_in(1, 3, -1, True), set_in(3, 3, -1, True)], [("worth knowing", "both terminated", 2)]),
    "no end": ([set_in(1, 4, -1, False)], [("worth knowing", "neither", 1)]),
    "terminated inside": (
        [set_in(0, 3, slice(4, 7), True)],
        [("worth knowing", "terminated in the middle", 3)],
    ),
    "truncated inside": ([set_in(0, 4, 3, True), set_in(2, 4, 0, True)], [("ignored", "truncated in the middle", 2)]),
    "twin": (
        [lambda episodes: episodes.append(episodes[1])],
        [("worth knowing", "identical episodes", 1), ("worth knowing", "identical pairs", 15)],
    ),
    "one step": ([lambda episodes: episodes.extend(clean([1]))], [("worth knowing", "one step", 1)]),
    "stuck": (
        [lambda episodes: set_in(3, 0, -1, episodes[3][0][-2])(episodes)],
        [("worth knowing", "last observation", 1)],
    ),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_irregular_episodes(case: str) -> None:
    changes, expected = WRITTEN[case]
    episodes = clean()
    for change in changes:
        change(episodes)
    assert_found(open_source(write_dataset(NAME, episodes)), expected)


EDITED: dict[str, tuple[Callable[[h5py.File], object], list[Finding]]] = {
    "T observations": (drop_last_observation, [("refused", "lengths that do not fit", 1)]),
    "too many terminations": (
        lambda file: replace_array(file, 1, "terminations", np.zeros(16, bool)),
        [("refused", "lengths that do not fit", 1)],
    ),
    "wrong shape": (
        lambda file: replace_array(file, 1, "observations", np.zeros((16, 4))),
        [("refused", "another shape", 1)],
    ),
    "missing episode": (
        lambda file: file.pop("episode_3"),
        [("refused", "cannot be read", 1), ("refused", "totals", 18)],
    ),
    "missing actions": (lambda file: stored_episode(file, 2).pop("actions"), [("refused", "cannot be read", 1)]),
    "actions that are words": (
        lambda file: replace_array(file, 2, "actions", np.array([b"left"] * 12)),
        [("refused", "cannot be read", 1)],
    ),
    "no rewards": (lambda file: stored_episode(file, 2).pop("rewards"), [("ignored", "no rewards", 1)]),
    "few rewards": (
        lambda file: replace_array(file, 2, "rewards", np.zeros(3)),
        [("ignored", "rewards or truncations of another length", 1)],
    ),
    "an episode too many": (
        lambda file: file.copy("episode_1", "episode_6"),
        [("ignored", "metadata do not count", 1)],
    ),
    "its own metadata": (
        lambda file: stored_episode(file, 4).attrs.modify("total_steps", 7),
        [("ignored", "their own metadata", 1)],
    ),
    "seeds": (
        lambda file: [stored_episode(file, index).attrs.modify("seed", 2) for index in (3, 5)],
        [("ignored", "seeds", 2)],
    ),
    "no step": (
        lambda file: [
            replace_array(file, 4, name, stored_array(file, 4, name)[:rows])
            for name, rows in {
                "observations": 1,
                "actions": 0,
                "rewards": 0,
                "terminations": 0,
                "truncations": 0,
            }.items()
        ],
        [
            ("refused", "totals", 9),
            ("ignored", "their own metadata", 1),
            ("worth knowing", "without a step", 1),
        ],
    ),
}


@pytest.mark.parametrize("case", EDITED)
def test_irregular_files(case: str) -> None:
    change, expected = EDITED[case]
    folder = write_dataset(NAME, clean())
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        change(file)
    assert_found(open_source(folder), expected)


@pytest.mark.parametrize(("totals", "count"), [({"total_steps": 90}, 5), ({"total_steps": 80}, 5)])
def test_metadata_that_promise_other_totals(totals: dict[str, int], count: int) -> None:
    folder = write_dataset(NAME, clean())
    change_metadata(folder, **totals)
    assert_found(open_source(folder), [("refused", "totals", count)])


def test_episodes_that_the_metadata_alone_know() -> None:
    """As many as may be a mistake are listed; more than that is no dataset."""
    folder = write_dataset(NAME, clean())
    change_metadata(folder, total_episodes=1_000)
    (found,) = assert_found(open_source(folder), [("refused", "cannot be read", 994)])
    assert found.where.startswith("first in episode 6")


def test_several_at_once_come_gravest_first() -> None:
    episodes = clean()
    for change in (
        set_in(0, 0, (3, 0), np.nan),
        set_in(2, 1, (1, 1), 5),
        set_in(3, 2, 0, np.nan),
        set_in(1, 4, -1, False),
    ):
        change(episodes)
    found = look(open_source(write_dataset(NAME, episodes)))
    assert [one.severity for one in found] == ["refused", "clipped", "ignored", "worth knowing"]
    assert found[0].where == "observation[0], first in episode 0"
    assert found[1].where == "action[1], first in episode 2; they reach -0.8995 to 5"


def at_the_limit(steps: Sequence[int], terminated: Sequence[bool]) -> list[Episode]:
    episodes = clean(steps)
    for episode, ended in zip(episodes, terminated, strict=True):
        if ended:
            episode[3][-1], episode[4][-1] = True, False
    return episodes


def test_terminated_at_the_time_limit() -> None:
    """Pendulum's limit is 200 steps; the third episode ends there as it should, the fourth earlier and for good."""
    folder = write_dataset(
        NAME, at_the_limit([200, 200, 200, 30], [True, True, False, True]), env_spec_id="Pendulum-v1"
    )
    (found,) = assert_found(open_source(folder), [("worth knowing", "time limit of 200 steps", 2)])
    assert found.where == "first in episode 0"


@pytest.mark.parametrize(("steps", "suspected"), [([30, 30, 30], 3), ([30, 20, 10], 0), ([30, 30, 4, 5, 6], 0)])
def test_a_time_limit_that_nobody_named_is_suspected(steps: list[int], suspected: int) -> None:
    source = open_source(write_dataset(NAME, at_the_limit(steps, [True] * len(steps))))
    assert_found(source, [("worth knowing", "a time limit?", suspected)] * bool(suspected))


def test_dimensions_that_stand_still_or_hardly_move() -> None:
    """What is said of them is what the normalisation does: deviations under 0.001 count as 0.001."""
    episodes = clean()
    for observations, actions, *_ in episodes:
        observations[:, 0] = 7
        observations[:, 2] *= 1e-5
        actions[:, 1] = 0.25
    source = open_source(write_dataset(NAME, episodes))
    found = assert_found(
        source,
        [
            ("worth knowing", "observations that never change", 1),
            ("worth knowing", "observations that vary by less", 1),
            ("worth knowing", "actions that never change", 1),
        ],
    )
    assert [one.where for one in found] == ["observation[0]", "observation[2]", "action[1]"]
    encoder = ObservationEncoder(chosen_leaves(source.observation_space, (), source.id))
    _, std = feature_statistics(select(cached(source), None, 1, np.random.default_rng(0)), (), encoder)
    assert std[[0, 2]].tolist() == [1, 1e-3]
    assert std[1] > 0.1


@pytest.mark.parametrize(("offset", "found"), [(1e3, 0), (1e4, 1), (1e7, 1)])
def test_offsets_that_float32_cannot_carry(offset: float, found: int) -> None:
    """Steps of float32 at 10,000 are 0.00098, just short of a thousandth of the deviation of about one."""
    episodes = clean()
    for observations, *_ in episodes:
        observations[:, 1] = 0.9 * observations[:, 1] + offset
    assert_found(open_source(write_dataset(NAME, episodes)), [("worth knowing", "far from zero", 1)] * found)


def test_integers_that_float32_rounds() -> None:
    space = Box(-(2**40), 2**40, (2,), np.int64)
    folder = write_spaces_dataset(NAME, space, Box(-1, 1, (2,)), lengths=[5, 5])
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        for index in range(2):
            values = np.random.default_rng(index).integers(0, 2**24, (6, 2))
            values[0], values[1, 0] = 2**24 + 1, 2**24 + 2
            replace_array(file, index, "observations", values)
    assert_found(open_source(folder), [("worth knowing", "integers too large", 4)])


# ---------------------------------------------------------------------------------------------- spaces


def test_values_outside_discrete_spaces() -> None:
    observations = Dict({"place": Discrete(5, start=1), "lamps": MultiBinary(2), "pose": Box(-1, 1, (2,), np.float64)})
    folder = write_spaces_dataset(NAME, observations, MultiDiscrete([3, 40]), lengths=[30] * 3)
    assert [one.what for one in look(open_source(folder)) if one.severity == "refused"] == []
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        stored_array(file, 1, "observations/place")[2:5] = [0, 6, 7]
        stored_array(file, 2, "observations/lamps")[0] = [2, 2]
        stored_array(file, 0, "observations/pose")[3] = [0, 1.5]
        stored_array(file, 0, "actions")[7] = [-1, 40]
    source = open_source(folder)
    found = [(one.severity, one.what, one.count, one.where) for one in look(source) if "outside" in one.what]
    assert found == [
        ("refused", "observations outside their space", 3, "place, first in episode 1"),
        ("refused", "actions outside their space", 2, "action[0, 1], first in episode 0"),
        ("ignored", "observations outside their space", 2, "lamps[0, 1], first in episode 2"),
        ("ignored", "observations outside their space", 1, "pose[1], first in episode 0"),
    ]
    assert training_refuses(source)


BENT: dict[str, tuple[gymnasium.Space, object, str, int]] = {
    "bytes that wrap": (Box(0, 255, (3,), np.uint8), [300, -1, 500], "no whole numbers from 0 to 255", 3),
    "bytes of floating point": (Box(0, 255, (3,), np.uint8), [1.0, 2.5, np.inf], "no whole numbers from 0 to 255", 1),
    "pictures from 0 to 1": (Box(0, 255, (8, 8), np.uint8), np.full((8, 8), 0.5), "no whole numbers from 0 to 255", 64),
    "a part of a category": (Discrete(2), 0.9, "observations outside their space", 1),
    "beyond the categories": (Discrete(2), 1.9, "observations outside their space", 1),
}


@pytest.mark.parametrize("case", BENT)
def test_observations_that_would_be_bent_to_fit(case: str) -> None:
    """Stored as another type than their space's: training names the episode, and the check says as much."""
    space, value, words, count = BENT[case]
    folder = write_spaces_dataset(NAME, space, Box(-1, 1, (2,)), lengths=[30] * 3, jpeg_encoding=False)
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        values = stored_array(file, 1, "observations")[()].astype(np.float64)
        replace_array(file, 1, "observations", values)
    whole = [one for one in look(open_source(folder)) if one.severity == "refused"]
    assert whole == [], "whole numbers may come as floating point"
    assert not training_refuses(open_source(folder))
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        values[4] = value
        replace_array(file, 1, "observations", values)
    source = open_source(folder)
    found = [one for one in look(source) if one.severity == "refused" and words in one.what]
    assert [(one.count, one.where.split(", ")[-1]) for one in found] == [(count, "first in episode 1")]
    assert not [one for one in look(source) if one.severity == "ignored"]
    with pytest.raises(UserError, match=f"{NAME}: episode 1 holds a value that is no"):
        cached(source)


@pytest.mark.parametrize("space", [Discrete(2), MultiDiscrete([2, 2]), MultiBinary(2)])
@pytest.mark.parametrize("value", [0.9, 1.9, np.nan])
def test_actions_between_two_choices(value: float, space: gymnasium.Space) -> None:
    folder = write_spaces_dataset(NAME, Box(-1, 1, (2,)), space, lengths=[30] * 3)
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        values = stored_array(file, 2, "actions")[()].astype(np.float64)
        replace_array(file, 2, "actions", values)
    assert not training_refuses(open_source(folder)), "whole numbers may come as floating point"
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        values[4] = value
        replace_array(file, 2, "actions", values)
    found = [one for one in look(open_source(folder)) if one.severity == "refused"]
    assert [one.count for one in found] == [values[0].size]
    with pytest.raises(UserError, match=f"{NAME}: episode 2 holds a value that is not in its Discrete space"):
        cached(open_source(folder))


@pytest.mark.parametrize("value", [2, -1, 0.5, np.nan])
def test_terminations_that_are_neither_true_nor_false(value: float) -> None:
    folder = write_dataset(NAME, clean())
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        values = stored_array(file, 1, "terminations")[()].astype(np.float64)
        values[[3, -1]] = value
        replace_array(file, 1, "terminations", values)
    found = [one for one in look(open_source(folder)) if one.severity == "refused"]
    assert [(one.what, one.where, one.count) for one in found] == [
        ("terminations that are neither true nor false", "first in episode 1", 2)
    ]
    assert training_refuses(open_source(folder))


def test_spaces_that_training_refuses() -> None:
    observations = Dict({"pose": Box(-1, 1, (2,)), "words": Text(5)})
    folder = write_spaces_dataset(NAME, observations, Box(-3, 3, (2,), np.int64), lengths=[20] * 2)
    found = [one for one in look(open_source(folder)) if one.severity == "refused"]
    assert [one.what for one in found] == [
        "observations that are not numbers",
        "an action space that cannot be learned",
    ]
    assert found[0].where == "words (Text)"
    assert 'observation_keys = ["pose"]' in found[0].training
    assert "Box of int64" in found[1].training
    assert training_refuses(open_source(folder))


def test_two_observations_of_one_name() -> None:
    observations = Dict({"arm.pose": Box(-1, 1, (2,)), "arm": Dict({"pose": Box(-1, 1, (2,))})})
    source = open_source(write_spaces_dataset(NAME, observations, Box(-1, 1, (2,)), lengths=[9, 8]))
    (found,) = assert_found(source, [("refused", "two observations of one name", 1)])
    assert found.where == "arm.pose"


def test_actions_that_are_a_dictionary() -> None:
    actions = Dict({"arm": Box(-1, 1, (2,))})
    generator = np.random.default_rng(0)
    folder = write_dataset(NAME, clean())
    change_metadata(folder, action_space=serialize_space(actions))
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        for index, length in enumerate(LENGTHS):
            group = stored_episode(file, index)
            del group["actions"]
            group["actions/arm"] = generator.standard_normal((length, 2))
    assert_found(open_source(folder), [("refused", "an action space that cannot be learned", 1)])


def test_actions_without_numbers() -> None:
    folder = write_spaces_dataset("test/none-v0", Box(-1, 1, (2,)), Box(-1, 1, (0,)))
    assert_found(open_source(folder), [("refused", "an action space that cannot be learned", 1)])


def test_files_of_which_nothing_can_be_read() -> None:
    """Said once, without a warning from what counts them."""
    folder = write_dataset("test/none-v0", counting_episodes([2, 3]))
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        for index in (0, 1):
            del file[f"episode_{index}"]
            file[f"episode_{index}"] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = look(open_source(folder))
    assert "parts that cannot be read" in [one.what for one in found]


def test_actions_without_bounds() -> None:
    source = open_source(write_dataset(NAME, clean(), low=[-np.inf, -1], high=np.inf))
    (found,) = assert_found(source, [("worth knowing", "without bounds", 2)])
    assert found.where == "action[0, 1]"


# ---------------------------------------------------------------------------------------------- environments


def surroundings_with(low: float, high: float, observations: int = 3, actions: int = 2) -> Surroundings:
    return Surroundings("Any-v1", Box(-np.inf, np.inf, (observations,), np.float64), Box(low, high, (actions,)), None)


def test_an_environment_with_a_narrower_box() -> None:
    episodes = clean()
    set_in(2, 1, (slice(0, 4), 0), 1.5)(episodes)
    source = open_source(write_dataset(NAME, episodes, low=-2, high=2))
    (found,) = look(source, surroundings_with(-1, 1))
    assert (found.severity, found.count) == ("worth knowing", 4)
    assert "recorded: -0.8995 to 1.5, first outside in episode 2" in found.where
    assert "action_low = [-1.0] and action_high = [1.0]" in found.training
    assert look(source, surroundings_with(-3, 3)) == []
    (found,) = look(source, surroundings_with(-np.inf, 0.4))
    assert "action_low = [-2.0] and action_high = [0.4]" in found.training
    assert found.count == sum((actions > np.float32(0.4)).any(1).sum() for _, actions, *_ in episodes)


def test_an_environment_of_other_spaces() -> None:
    found = look(open_source(write_dataset(NAME, clean())), surroundings_with(-1, 1, observations=4, actions=1))
    assert [one.what for one in found] == [
        "an observation space that is not the environment's",
        "an action space that is not the environment's",
    ]


def test_an_environment_without_its_wrappers() -> None:
    built = replace(surroundings_with(-1, 1), wrappers_left_out=("Flat", "Rescale"))
    (found,) = look(open_source(write_dataset(NAME, clean())), built)
    assert (found.severity, found.count, found.unit) == ("worth knowing", 2, "wrappers")
    assert found.what == "wrappers that the environment is built without"
    assert found.where == "Flat, Rescale around Any-v1"
    assert "--trust-env" in found.training


# ---------------------------------------------------------------------------------------------- other formats, damage


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_other_formats(data_format: str) -> None:
    pytest.importorskip("pyarrow")
    episodes = [*clean(), clean()[1]]
    for change in (set_in(1, 0, (3, 0), np.nan), set_in(2, 1, (1, 1), 5), set_in(3, 2, 0, np.nan)):
        change(episodes)
    source = open_source(write_dataset(NAME, episodes, data_format=data_format))
    assert_found(
        source,
        [
            ("refused", "observations that are NaN", 1),
            ("clipped", "outside the stored box", 1),
            ("ignored", "rewards", 1),
            ("worth knowing", "identical pairs", 14),
        ],
    )


def test_arrow_episodes_that_come_back_cut() -> None:
    pytest.importorskip("pyarrow")
    folder = write_dataset(NAME, clean(), data_format="arrow")
    about = folder / "1" / "metadata.json"
    about.write_text(about.read_text().replace('"total_steps": 15', '"total_steps": 40000'))
    assert_found(open_source(folder), [("refused", "come back cut", 1)])


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_no_damage_is_a_crash(data_format: str) -> None:
    """Each file in turn is emptied, cut in half, or gone: something is refused, or the one error says so."""
    if data_format == "arrow":
        pytest.importorskip("pyarrow")
    folder = write_dataset(NAME, clean([4, 5]), data_format=data_format)
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        content = file.read_bytes()
        for damage in (b"", content[: len(content) // 2], None):
            if damage is None:
                file.unlink()
            else:
                file.write_bytes(damage)
            try:
                found = look(open_source(folder))
            except UserError:
                pass
            else:
                assert "refused" in [one.severity for one in found], (file, damage)
            file.write_bytes(content)
    assert look(open_source(folder)) == []


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_refused_is_what_training_refuses(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any values in any place, arrays of any length: training stops if and only if the check says so."""
    episodes = clean([4, 3, 5])
    odd = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1.0, 2.0, 1e39, -7.5, 1e20])
    for _ in range(data.draw(st.integers(0, 4))):
        index, part = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 4))
        array = episodes[index][part]
        place = tuple(data.draw(st.integers(0, size - 1)) for size in array.shape)
        with np.errstate(over="ignore", invalid="ignore"):
            array[place] = data.draw(odd)
    name = f"test/drawn{tmp_path_factory.mktemp('drawn').name.replace('-', '')}-v0"
    folder = write_dataset(name, episodes)
    if data.draw(st.booleans()):
        part = data.draw(st.sampled_from(["observations", "actions", "rewards", "terminations", "truncations"]))
        rows = data.draw(st.integers(0, 7))
        with h5py.File(folder / "main_data.hdf5", "r+") as file:
            values = stored_array(file, 1, part)[()]
            replace_array(file, 1, part, np.resize(values, (rows, *values.shape[1:])))
    source = open_source(folder)
    assert training_refuses(source) == ("refused" in [one.severity for one in look(source)])


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(observations=NESTED, actions=ACTIONS, seed=st.integers(0, 100))
def test_any_spaces(
    observations: gymnasium.Space, actions: gymnasium.Space, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    name = f"test/any{tmp_path_factory.mktemp('any').name.replace('-', '')}-v0"
    source = open_source(write_spaces_dataset(name, observations, actions, lengths=[4, 2], seed=seed))
    seen = survey(source)
    found = irregularities(seen)
    assert training_refuses(source) == ("refused" in [one.severity for one in found])
    assert not [one for one in found if "outside" in one.what], "a sample is inside its space"
    assert facts_of(seen).ends["neither"] == 0
