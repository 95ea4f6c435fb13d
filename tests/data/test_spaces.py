"""Any space that holds numbers, from Minari's file to a batch, against Minari's own reading and plain numpy."""

import itertools
import shutil
from collections import abc
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Sequence, Text, Tuple
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from iq_offline.config import DataConfig, RunConfig, Suboptimal
from iq_offline.data import replay
from iq_offline.data.cache import CachedSource, cached
from iq_offline.data.catalog import minari_root
from iq_offline.data.replay import Replay, Selection, Table, feature_statistics
from iq_offline.data.spaces import ObservationEncoder, check_compatible, chosen_leaves, image_shape, leaves_of
from iq_offline.data.stream import Source, open_source
from iq_offline.errors import UserError
from iq_offline.files import cache_folder
from iq_offline.training.setup import Data, choose_data
from tests.data_helpers import write_spaces_dataset
from tests.space_helpers import ACTIONS, NESTED, SQUARE, at, expected_actions, expected_features, minaris_episodes

NUMBER = itertools.count()


Oracle = dict[int, dict[str, np.ndarray]]
"""For each row that is a transition, what a batch holds of it."""


def oracle(data: CachedSource, frame_stack: int) -> Oracle:
    """From Minari's own episodes: rows count the T+1 observations of each."""
    source, rows, row = data.source, {}, 0
    for episode in minaris_episodes(source.id):
        features = expected_features(source.observation_space, episode.observations, frame_stack)
        actions = expected_actions(source.action_space, episode.actions)
        for t, action in enumerate(actions):
            rows[row + t] = {
                "observation": features[t],
                "action": action,
                "next observation": features[t + 1],
                "terminated": np.float32(episode.terminations[t]),
            }
        row += len(actions) + 1
    return rows


def flat(batch: TensorDict) -> dict[str, np.ndarray]:
    following = {"next observation": batch["next", "observation"], "terminated": batch["next", "terminated"]}
    return {
        name: value.numpy()
        for name, value in ({key: batch[key] for key in ("observation", "action")} | following).items()
    }


def assert_rows(batch: TensorDict, rows: np.ndarray, expected: Oracle) -> None:
    """Each value of each row, exactly."""
    found = flat(batch)
    assert len(found["action"]) == len(rows)
    for name, values in found.items():
        wanted = np.stack([expected[int(row)][name] for row in rows])
        assert values.shape == wanted.shape, name
        np.testing.assert_array_equal(values, wanted.astype(values.dtype), name)


def prepared(
    spaces: tuple[gymnasium.Space, gymnasium.Space], lengths: list[int], data_format: str, seed: int
) -> CachedSource:
    name = f"test/any{next(NUMBER)}-v0"
    return cached(open_source(write_spaces_dataset(name, *spaces, lengths=lengths, seed=seed, data_format=data_format)))


def batches(data: Data, share: float, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype = torch.float32) -> list[Any]:
    """Of every kind at once; with no share of memory everything is read from the disk."""
    monkeypatch.setattr(replay, "free_memory", lambda device: int(share * 2**40))
    kinds: dict[str, abc.Sequence[Selection]] = {
        "expert": [data.expert],
        "initial": [data.expert],
        "suboptimal": list(data.suboptimal),
    }
    tables = replay.tables_of([kinds], data.observations, dtype)
    assert [table.is_held for table in tables] == [share > 0] * len(tables)
    drawn = Replay(kinds, {"expert": 5, "initial": 3, "suboptimal": 9}, 3, tables)
    return [drawn.sample() for _ in range(3)]


def assert_comes_back(
    spaces: tuple[gymnasium.Space, gymnasium.Space],
    lengths: list[int],
    data_format: str,
    seed: int,
    frame_stack: int,
    subsample: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for folder in (cache_folder(), minari_root()):
        shutil.rmtree(folder, ignore_errors=True)
    expert = prepared(spaces, lengths, data_format, seed)
    other = prepared(spaces, lengths[::-1], data_format, seed + 1)
    options = DataConfig(
        num_expert_trajectories=len(lengths) - 1,
        subsample=subsample,
        frame_stack=frame_stack,
        held_out_trajectories=0,
        suboptimal=(Suboptimal(expert.source.id), Suboptimal(other.source.id)),
    )
    data = choose_data(RunConfig(seed=seed, data=options), expert, [expert, other])
    oracles = {id(source): oracle(source, frame_stack) for source in (expert, other)}

    def expected(selection: Selection) -> Oracle:
        return oracles[id(selection.data)]

    for selection in data.seen:
        for share, dtype in ((0.0, torch.float32), (1.0, torch.float64)):
            monkeypatch.setattr(replay, "free_memory", lambda device, share=share: int(share * 2**40))
            table = Table(selection.data, [selection.rows], data.observations, dtype, "cpu")
            assert_rows(table.gather(table.places(selection.rows)), selection.rows, expected(selection))
        first = table.gather(table.places(selection.rows), True)
        assert set(first.keys()) == {"observation"}

    held, read = batches(data, 1.0, monkeypatch), batches(data, 0.0, monkeypatch)
    transitions = {
        (id(selection.data), row): b"".join(
            np.asarray(v, np.float64).tobytes() for v in expected(selection)[row].values()
        )
        for selection in data.suboptimal
        for row in map(int, selection.rows)
    }
    starts = {expected(data.expert)[int(row)]["observation"].tobytes() for row in data.expert.starts}
    for one, same in zip(held, read, strict=True):
        assert (one == same).all()
        rows = flat(one["suboptimal"])
        assert len(rows["action"]) == 9
        for values in zip(
            *(rows[name] for name in ("observation", "action", "next observation", "terminated")), strict=True
        ):
            assert b"".join(value.astype(np.float64).tobytes() for value in values) in transitions.values()
        assert {row.tobytes() for row in one["initial", "observation"].numpy()} <= starts

    space = expert.source.observation_space
    for episode in minaris_episodes(expert.source.id):
        whole = [at(space, episode.observations, t) for t in range(len(episode.actions) + 1)]
        histories = [whole[: t + 1] for t in range(len(whole))]
        live = data.observations.encode(histories)
        assert live.dtype == torch.float32
        np.testing.assert_array_equal(live.numpy(), expected_features(space, episode.observations, frame_stack))


EVERYTHING = Dict(
    {
        "state": Dict({"position": Box(-1, 1, (3,), np.float64), "speed": Box(-np.inf, np.inf, (2, 2), np.float32)}),
        "steps left": Box(0, 1000, (), np.int64),
        "camera": Box(0, 255, (33, 35, 3), np.uint8),
        "front": Box(0, 255, (3, 8, 9), np.uint8),
        "grey": Box(0, 255, (34, 32), np.uint8),
        "map": Box(0, 255, (7, 7, 3), np.uint8),
        "pair": Tuple([Discrete(4, start=-1), Tuple([MultiDiscrete([2, 3], start=[0, 7]), MultiBinary((2, 2))])]),
        "square": SQUARE,
    }
)


@pytest.mark.parametrize(
    ("data_format", "action_space"),
    [
        ("hdf5", SQUARE),
        ("arrow", MultiBinary(3)),
        ("parquet", Box(np.array([-1, -np.inf], np.float32), np.inf, (2,))),
    ],
    ids=["hdf5", "arrow", "parquet"],
)
def test_all_kinds_at_once_come_back(
    data_format: str, action_space: gymnasium.Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept transitions so far apart that the frames before each are no one else's."""
    if data_format != "hdf5":
        pytest.importorskip("pyarrow")
    assert_comes_back((EVERYTHING, action_space), [17, 1, 9, 3], data_format, 5, 3, 6, monkeypatch)


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    observation_space=NESTED,
    action_space=ACTIONS,
    lengths=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    data_format=st.sampled_from(["hdf5"] * 4 + (["arrow", "parquet"] if find_spec("pyarrow") else [])),
    seed=st.integers(0, 2**31),
    frame_stack=st.integers(1, 3),
    subsample=st.integers(1, 3),
)
def test_every_value_of_every_space_comes_back(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    lengths: list[int],
    data_format: str,
    seed: int,
    frame_stack: int,
    subsample: int,
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        spaces = observation_space, action_space
        assert_comes_back(spaces, lengths, data_format, seed, frame_stack, subsample, monkeypatch)


# ---------------------------------------------------------------------------------------------------- leaves


ROBOT = Dict(
    {
        "camera": Dict({"left": Box(0, 255, (8, 8, 3), np.uint8), "right": Box(0, 255, (8, 8, 3), np.uint8)}),
        "mission": Text(10),
        "pair": Tuple([Box(-1, 1, (2,)), Discrete(3)]),
        "state": Dict({"position": Box(-1, 1, (3,)), "speed": Box(-1, 1, ())}),
        "state2": Box(-1, 1, (4,)),
    }
)


def names(keys: list[str], space: gymnasium.Space = ROBOT) -> list[str]:
    return [leaf.name for leaf in chosen_leaves(space, keys, "test/robot-v0")]


def test_leaves_are_named_by_their_paths_in_the_spaces_order() -> None:
    assert [(leaf.name, leaf.path) for leaf in leaves_of(ROBOT)] == [
        ("camera.left", ("camera", "left")),
        ("camera.right", ("camera", "right")),
        ("mission", ("mission",)),
        ("pair.0", ("pair", 0)),
        ("pair.1", ("pair", 1)),
        ("state.position", ("state", "position")),
        ("state.speed", ("state", "speed")),
        ("state2", ("state2",)),
    ]
    assert [leaf.name for leaf in leaves_of(Discrete(3))] == ["observation"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["state2"], ["state2"]),
        (["state"], ["state.position", "state.speed"]),
        (["state.speed", "state.position"], ["state.speed", "state.position"]),
        (["state.speed", "state"], ["state.speed", "state.position"]),
        (["state2", "pair.1", "camera"], ["state2", "pair.1", "camera.left", "camera.right"]),
        (["pair"], ["pair.0", "pair.1"]),
        (["state2", "state2"], ["state2"]),
    ],
)
def test_observation_keys_choose_and_order(keys: list[str], expected: list[str]) -> None:
    assert names(keys) == expected


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [("state.sped", "; did you mean 'state.speed'"), ("stat2", "; did you mean 'state2'"), ("qqqqqq", ""), ("", "")],
)
def test_unknown_observations_suggest_the_nearest(key: str, suggestion: str) -> None:
    with pytest.raises(UserError) as caught:
        names(["state2", key])
    text = str(caught.value)
    assert text.startswith(f"test/robot-v0 has no observation {key!r}{suggestion}")
    assert "camera.left, camera.right, mission, pair.0" in text
    assert ("did you mean" in text) == bool(suggestion)


def test_what_is_no_number_is_named_with_how_to_drop_it() -> None:
    expected = "observation 'mission' is Text, not numbers: drop it with observation_keys = "
    with pytest.raises(UserError, match=r"test/robot-v0: " + expected + r"\['camera.left', .*, 'state2'\]"):
        names([])
    with pytest.raises(UserError, match=expected + r"\['state2'\]"):
        names(["state2", "mission"])
    with pytest.raises(UserError, match="'mission' is Text, not numbers: nothing else is observed"):
        names(["mission"])
    with pytest.raises(UserError, match="its observations hold no numbers"):
        names([], Dict({"nothing": Box(-1, 1, (0,))}))
    with pytest.raises(UserError, match="'observation' is Sequence, not numbers"):
        names([], Sequence(Box(-1, 1, (2,))))


def test_keys_with_dots_in_them() -> None:
    """As LeRobot's: a whole name comes before the parts of another."""
    space = Dict({key: Box(-1, 1, (2,)) for key in ("observation.state", "observation.state.speed", "observation")})
    assert names(["observation.state"], space) == ["observation.state"]
    assert names(["observation"], space) == ["observation"]
    assert sorted(names([], space)) == sorted(space.spaces)
    images = Dict({"observation.images.top": Box(-1, 1, (2,)), "observation.state": Box(-1, 1, (2,))})
    assert names(["observation.images"], images) == ["observation.images.top"]


def test_two_observations_of_one_name_are_refused() -> None:
    """A key with a dot beside a path of the same name: the values of one would stand for both."""
    space = Dict({"a": Dict({"b": Box(-1, 0, (2,), np.float32)}), "a.b": Box(1, 2, (2,), np.float32)})
    for keys in ([], ["a.b"]):
        with pytest.raises(UserError, match=r"test/robot-v0: two of its observations are called 'a\.b'"):
            names(keys, space)


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((84, 84), np.uint8, (84, 84, 1)),
        ((8, 8), np.uint8, (8, 8, 1)),
        ((96, 64, 3), np.uint8, (96, 64, 3)),
        ((64, 96, 1), np.uint8, (64, 96, 1)),
        ((3, 96, 64), np.uint8, (96, 64, 3)),
        ((4, 64, 96), np.uint8, (64, 96, 4)),
        ((1, 8, 8), np.uint8, (8, 8, 1)),
        ((8, 8, 8), np.uint8, (8, 8, 8)),
        ((7, 8, 3), np.uint8, None),
        ((8, 7), np.uint8, None),
        ((100, 100, 65), np.uint8, None),
        ((192,), np.uint8, None),
        ((2, 8, 8, 3), np.uint8, None),
        ((84, 84, 3), np.float32, None),
        ((84, 84, 3), np.int16, None),
    ],
)
def test_which_arrays_are_images(shape: tuple[int, ...], dtype: type, expected: tuple[int, int, int] | None) -> None:
    (leaf,) = leaves_of(Box(0, 255, shape, dtype))  # type: ignore[arg-type]
    assert leaf.is_image == (expected is not None)
    assert ObservationEncoder((leaf,), 3).size == np.prod(shape) * (3 if expected else 1)
    if expected:
        assert image_shape(shape) == expected


def test_a_category_that_is_not_there_is_an_error() -> None:
    for space in (Discrete(3, start=-1), MultiDiscrete([3, 3], start=[-1, -1])):
        (leaf,) = leaves_of(space)
        inside = np.array([[-1, 1], [0, 0]]) if leaf.size == 2 else np.array([-1, 1])
        np.testing.assert_array_equal(leaf.stored(inside).reshape(inside.shape), inside + 1)
        np.testing.assert_array_equal(leaf.stored(inside.astype(np.float64)).reshape(inside.shape), inside + 1)
        for wrong in (-2, 2, 0.9, -0.5, np.nan):
            values = inside.astype(type(wrong))
            values[-1] = wrong
            with pytest.raises(ValueError, match="not in its Discrete space"):
                leaf.stored(values)


@pytest.mark.parametrize("shape", [(3,), (8, 8, 1)])
@pytest.mark.parametrize("wrong", [-1.0, 300.0, 256.0, 0.5, np.nan, np.inf])
def test_no_number_is_bent_to_fit_a_byte(wrong: float, shape: tuple[int, ...]) -> None:
    (leaf,) = leaves_of(Box(0, 255, shape, np.uint8))
    values = np.zeros((2, *shape))
    values[0], values[1] = 255.0, 7.0
    assert leaf.stored(values)[:, 0].tolist() == [255, 7], "whole numbers may come as floating point"
    values[1, 0] = wrong
    with pytest.raises(ValueError, match="no whole number from 0 to 255, though its space is one of uint8"):
        leaf.stored(values)
    if wrong in (-1, 300, 256):
        with pytest.raises(ValueError, match="no whole number from 0 to 255"):
            leaf.stored(values.astype(np.int64))


def test_statistics_are_of_numbers_alone() -> None:
    """Categories and switches stay, images become 0 to 1, and only what is chosen counts."""
    path = write_spaces_dataset("test/all-v0", EVERYTHING, Discrete(2), lengths=[9, 8, 7])
    expert = cached(open_source(path))
    options = DataConfig(num_expert_trajectories=2, subsample=2, frame_stack=2)
    data = choose_data(RunConfig(data=options), expert, [])
    mean, std = feature_statistics(data.expert, (), data.observations)
    assert mean.dtype == std.dtype == torch.float64
    (seen,) = data.seen
    rows = oracle(expert, 2)
    values = np.stack([rows[int(row)]["observation"] for row in seen.rows]).astype(np.float64)
    start = 0
    for leaf, width in zip(data.observations.leaves, data.observations.widths, strict=True):
        part = slice(start, start + width)
        start += width
        if leaf.name in ("camera", "front", "grey"):
            assert set(mean[part].tolist()) == {0.0}
            assert set(std[part].tolist()) == {255.0}
        elif leaf.name.startswith(("pair", "square")):
            assert set(mean[part].tolist()) == {0.0}
            assert set(std[part].tolist()) == {1.0}
        else:
            np.testing.assert_allclose(mean[part].numpy(), values[:, part].mean(0), rtol=1e-9, err_msg=leaf.name)
            np.testing.assert_allclose(std[part].numpy(), values[:, part].std(0), rtol=1e-6, err_msg=leaf.name)
    assert start == len(mean) == values.shape[1]


def source_of(observation_space: gymnasium.Space, action_space: gymnasium.Space, name: str = "test/one-v0") -> Source:
    return Source(name, Path("nowhere"), {}, observation_space, action_space)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Box(-1, 1, (2,)), Box(-5, 5, (2,), np.float64)),
        (Dict({"a": Box(-1, 1, (2,)), "b": Discrete(3)}), Dict({"b": Discrete(3), "a": Box(0, 9, (2,))})),
        (Tuple([Discrete(2), MultiBinary(3)]), Tuple([Discrete(2), MultiBinary(3)])),
        (MultiDiscrete([2, 3], start=[1, 0]), MultiDiscrete([2, 3], start=[1, 0])),
    ],
)
def test_bounds_and_precision_do_not_keep_datasets_apart(one: gymnasium.Space, other: gymnasium.Space) -> None:
    check_compatible(source_of(one, Discrete(2)), source_of(other, Discrete(2), "test/other-v0"))


@pytest.mark.parametrize("part", ["observation", "action"])
def test_logs_with_their_columns_in_another_order_cannot_be_mixed(part: str) -> None:
    columns = {"observation": ["speed", "gap"], "action": ["steer", "brake"]}
    one = replace(source_of(Box(-1, 1, (2,)), Box(-1, 1, (2,))), metadata={"log": columns})
    other = replace(one, id="test/two-v0", metadata={"log": columns | {part: columns[part][::-1]}})
    check_compatible(one, replace(other, metadata={}))
    with pytest.raises(UserError, match=f"the columns of its {part}s are {', '.join(columns[part][::-1])}, the expert"):
        check_compatible(one, other)


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (Box(-1, 1, (2,)), Box(-1, 1, (3,)), ["Box of shape (2,)", "Box of shape (3,)"]),
        (Discrete(3), Discrete(4), ["Discrete of [3] from [0]", "Discrete of [4] from [0]"]),
        (Discrete(3), Discrete(3, start=1), ["Discrete of [3] from [0]", "Discrete of [3] from [1]"]),
        (Discrete(3), Box(-1, 1, ()), ["Discrete of [3]", "Box of shape ()"]),
        (Dict({"a": Discrete(3)}), Dict({"b": Discrete(3)}), ["{a: Discrete", "{b: Discrete"]),
        (Dict({"a": Discrete(3)}), Dict({"a": Discrete(3), "b": Text(2)}), ["{a: Discrete", "b: Text"]),
        (
            Tuple([Discrete(2), Discrete(3)]),
            Tuple([Discrete(3), Discrete(2)]),
            ["(Discrete of [2]", "(Discrete of [3]"],
        ),
        (MultiDiscrete([2, 3]), MultiDiscrete([3, 2]), ["[2, 3]", "[3, 2]"]),
        (Box(0, 255, (8, 8), np.uint8), Box(0, 1, (8, 8)), ["image of shape (8, 8)", "Box of shape (8, 8)"]),
    ],
)
@pytest.mark.parametrize("part", ["observation", "action"])
def test_datasets_of_other_spaces_cannot_be_mixed(
    one: gymnasium.Space, other: gymnasium.Space, words: list[str], part: str
) -> None:
    spaces = [(space, Discrete(2)) if part == "observation" else (Discrete(2), space) for space in (one, other)]
    with pytest.raises(UserError, match=f"test/two-v0 cannot be mixed with test/one-v0: its {part} space is") as caught:
        check_compatible(source_of(*spaces[0]), source_of(*spaces[1], "test/two-v0"))
    assert all(word in str(caught.value) for word in words)
