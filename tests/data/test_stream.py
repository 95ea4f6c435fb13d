"""Reading Minari datasets from disk, held against Minari's own reading."""

import itertools
import json
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

from iq_offline.data.stream import episode_returns, episodes, open_source, stored_ids, view_of
from iq_offline.errors import UserError
from tests.data_helpers import (
    change_metadata,
    counting_episodes,
    random_episodes,
    small_dataset,
    source_of,
    stored_array,
    stored_episode,
    write_buffers,
)
from tests.helpers import write_dataset

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=2).map(tuple)
NUMBER = itertools.count()

drawn = given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    observation_shape=SHAPES,
    action_shape=SHAPES,
    dtype=st.sampled_from([np.float32, np.float64]),
)


def examples(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


def assert_reads_like_minari(
    data_format: str,
    seed: int,
    lengths: list[int],
    observation_shape: tuple[int, ...],
    action_shape: tuple[int, ...],
    dtype: type,
) -> None:
    generator = np.random.default_rng(seed)
    identifier = f"test/{data_format}{next(NUMBER)}-v0"
    written = random_episodes(generator, lengths, observation_shape, action_shape, dtype)
    source = open_source(write_dataset(identifier, written, data_format=data_format, observation_dtype=dtype))
    theirs = list(minari.load_dataset(identifier).iterate_episodes())
    ours = list(episodes(source))

    assert source.id == identifier
    assert (source.total_episodes, source.total_steps) == (len(lengths), sum(lengths))
    assert [len(episode.actions) for episode in ours] == lengths
    for mine, other, (observations, actions, _, terminations, _) in zip(ours, theirs, written, strict=True):
        assert set(mine.observations) == {"observation"}
        np.testing.assert_array_equal(mine.observations["observation"], other.observations)
        np.testing.assert_array_equal(mine.actions, other.actions)
        np.testing.assert_array_equal(mine.terminations, other.terminations)
        np.testing.assert_array_equal(mine.observations["observation"], observations)
        np.testing.assert_array_equal(mine.actions, actions)
        np.testing.assert_array_equal(mine.terminations, terminations)
        assert mine.observations["observation"].dtype == dtype
    expected = [episode.rewards.sum() for episode in theirs]
    np.testing.assert_allclose(episode_returns(source), expected, rtol=1e-12)


@examples(20)
@drawn
def test_hdf5_reads_like_minari(
    seed: int, lengths: list[int], observation_shape: tuple[int, ...], action_shape: tuple[int, ...], dtype: type
) -> None:
    assert_reads_like_minari("hdf5", seed, lengths, observation_shape, action_shape, dtype)


@examples(4)
@drawn
def test_arrow_reads_like_minari(
    seed: int, lengths: list[int], observation_shape: tuple[int, ...], action_shape: tuple[int, ...], dtype: type
) -> None:
    pytest.importorskip("pyarrow")
    assert_reads_like_minari("arrow", seed, lengths, observation_shape, action_shape, dtype)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_more_than_ten_episodes_come_in_the_order_of_their_numbers(data_format: str) -> None:
    if data_format == "arrow":
        pytest.importorskip("pyarrow")
    source = open_source(write_dataset("test/order-v0", counting_episodes([2] * 12), data_format=data_format))
    assert [episode.observations["observation"][0, 0] for episode in episodes(source)] == list(range(12))


def test_terminations_are_not_truncations() -> None:
    source = open_source(write_dataset("test/ends-v0", counting_episodes([3, 4], terminated=[True, False])))
    first, second = episodes(source)
    assert first.terminations.tolist() == [False, False, True]
    assert second.terminations.tolist() == [False] * 4


@pytest.mark.parametrize(("leaf", "rows"), [("observations", 20), ("actions", 19), ("terminations", 21)])
def test_lengths_that_do_not_fit_are_refused(leaf: str, rows: int) -> None:
    source = small_dataset()
    with h5py.File(source.path / "main_data.hdf5", "r+") as file:
        episode, values = stored_episode(file, 1), stored_array(file, 1, leaf)[()]
        del episode[leaf]
        episode[leaf] = np.resize(values, (rows, *values.shape[1:]))
    reading = episodes(source)
    next(reading)
    with pytest.raises(UserError, match=r"test/small-v0: episode 1 has \d+ observations, \d+ actions and"):
        next(reading)


def test_a_missing_episode_is_named_as_damage() -> None:
    source = small_dataset()
    with h5py.File(source.path / "main_data.hdf5", "r+") as file:
        del file["episode_2"]
    with pytest.raises(UserError, match=r"test/small-v0: .*cut or damaged.*episode_2"):
        list(episodes(source))
    with pytest.raises(UserError, match=r"cut or damaged"):
        episode_returns(source)


def test_a_cut_arrow_episode_is_refused() -> None:
    """Minari (upstream pull request 352) hands out Arrow episodes over 32,767 steps cut: their promise is checked."""
    pytest.importorskip("pyarrow")
    folder = write_dataset("test/arrow-v0", counting_episodes([4, 5]), data_format="arrow")
    about = folder / "1" / "metadata.json"
    assert '"total_steps": 5' in about.read_text()
    about.write_text(about.read_text().replace('"total_steps": 5', '"total_steps": 40000'))
    with pytest.raises(UserError, match=r"episode 1 comes back with 5 of its 40000 steps"):
        list(episodes(open_source(folder)))


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_every_damaged_file_is_one_clear_error(data_format: str) -> None:
    """Each file of a dataset in turn is emptied, cut in half, or gone."""
    if data_format == "arrow":
        pytest.importorskip("pyarrow")
    folder = write_dataset("test/damaged-v0", counting_episodes([4, 5]), data_format=data_format)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    assert len(files) >= 2
    wrong = []
    for file in files:
        content = file.read_bytes()
        for damage in (b"", content[: len(content) // 2], None):
            if damage is None:
                file.unlink()
            else:
                file.write_bytes(damage)
            try:
                list(episodes(open_source(folder)))
            except UserError:
                pass
            except Exception as error:  # Collected: each is a traceback in a user's face.
                wrong.append((file.name, damage is None or len(damage), repr(error)))
            else:
                wrong.append((file.name, damage is None or len(damage), "unnoticed"))
            file.write_bytes(content)
    assert wrong == []
    assert len(list(episodes(open_source(folder)))) == 2


def test_a_group_in_place_of_an_array_is_damage() -> None:
    source = small_dataset()
    with h5py.File(source.path / "main_data.hdf5", "r+") as file:
        del stored_episode(file, 1)["observations"]
        stored_episode(file, 1)["observations/position"] = np.zeros((21, 4))
    with pytest.raises(UserError, match="test/small-v0"):
        list(episodes(source))


def test_one_episode_is_read_at_a_time() -> None:
    source = small_dataset()
    reading = episodes(source)
    next(reading)
    with h5py.File(source.path / "main_data.hdf5") as file:
        expected = stored_array(file, 1, "observations")[()]
    np.testing.assert_array_equal(next(reading).observations["observation"], expected)


@pytest.mark.parametrize("damage", ["missing folder", "no metadata", "half metadata", "no id", "a list", "bad space"])
def test_unreadable_metadata_are_one_clear_error(damage: str, tmp_path: Path) -> None:
    folder = small_dataset().path
    file = folder / "metadata.json"
    if damage == "missing folder":
        folder = tmp_path / "nothing"
    elif damage == "no metadata":
        file.unlink()
    elif damage == "half metadata":
        file.write_text(file.read_text()[:50])
    elif damage == "no id":
        change_metadata(folder, dataset_id=None)
    elif damage == "a list":
        file.write_text("[]")
    else:
        change_metadata(folder, action_space='{"type": "Box"}')
    with pytest.raises(UserError):
        open_source(folder)


def test_spaces_must_be_in_the_metadata() -> None:
    folder = small_dataset().path
    change_metadata(folder, action_space=None)
    with pytest.raises(UserError, match="lacks its spaces"):
        open_source(folder)


def test_an_empty_dataset_is_refused() -> None:
    folder = small_dataset().path
    change_metadata(folder, total_episodes=0, total_steps=0)
    with pytest.raises(UserError, match="test/small-v0 is empty"):
        open_source(folder)


@pytest.mark.parametrize("identifier", ["test/a\x1b[2J-v0", "test/a\nb-v0", "test/\u202ea-v0", "test/\ud800-v0"])
def test_an_id_that_would_not_be_printed_as_it_is(identifier: str) -> None:
    """Ids go to terminals and into names of files."""
    folder = small_dataset().path
    change_metadata(folder, dataset_id=identifier)
    with pytest.raises(UserError, match=r"holds the id 'test/.*, which cannot be printed") as caught:
        open_source(folder)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_far_more_episodes_than_are_stored_are_refused(data_format: str) -> None:
    """Whoever goes through them would not end, and what is kept for each would take all memory."""
    if data_format == "arrow":
        pytest.importorskip("pyarrow")
    folder = write_dataset("test/cut-v0", counting_episodes([2] * 12), data_format=data_format)
    for promised in (1_025, 10**6, 2**40):
        change_metadata(folder, total_episodes=promised)
        with pytest.raises(UserError, match=rf"test/cut-v0: its metadata promise {promised:,} episodes, \S+ holds 12:"):
            open_source(folder)
    for promised in (3, 12, 13, 1_000, 1_024):
        change_metadata(folder, total_episodes=promised)
        source = open_source(folder)
        assert (source.total_episodes, stored_ids(source)) == (promised, list(range(12)))


def test_what_is_stored_beside_episodes_is_none() -> None:
    source = small_dataset()
    with h5py.File(source.path / "main_data.hdf5", "r+") as file:
        for name in ("episode", "episode_-1", "episode_3x", "an episode_3", "episode_" + "9" * 5_000):
            file.create_group(name)
    assert stored_ids(source) == [0, 1, 2]


def test_many_episodes_promised_by_a_file_that_cannot_be_opened() -> None:
    folder = small_dataset().path
    change_metadata(folder, total_episodes=10**6)
    (folder / "main_data.hdf5").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"test/small-v0: the file in \S+ is cut or damaged"):
        open_source(folder)


@pytest.mark.parametrize("text", ["{oops", "[1]", "3", '{"id": 4}'])
def test_an_environment_that_cannot_be_understood_has_no_id(text: str) -> None:
    """Listing, mixing and looking at a dataset go on; only scoring needs its environment."""
    folder = write_dataset("test/a-v0", counting_episodes([3]))
    change_metadata(folder, env_spec=text)
    assert open_source(folder).environment_id is None


def test_environment_id() -> None:
    written = counting_episodes([3])
    assert open_source(write_dataset("test/a-v0", written)).environment_id is None
    assert open_source(write_dataset("test/b-v0", written, env_spec_id="Pendulum-v1")).environment_id == "Pendulum-v1"


# ---------------------------------------------------------------------------------------------------- views


@pytest.fixture(params=["hdf5", "arrow"])
def viewed(request: pytest.FixtureRequest) -> minari.MinariDataset:
    """Eight counting episodes, every other one terminated."""
    if request.param == "arrow":
        pytest.importorskip("pyarrow")
    written = counting_episodes([2, 3, 4, 5, 6, 7, 8, 9], terminated=[True, False] * 4)
    for episode in written:
        episode[2][:] = 1.0
    write_dataset("test/viewed-v0", written, data_format=request.param)
    return minari.load_dataset("test/viewed-v0")


def test_a_filtered_view_holds_its_episodes_alone(viewed: minari.MinariDataset) -> None:
    source = source_of(viewed.filter_episodes(lambda episode: len(episode.actions) % 2 == 1))
    assert source.view == (1, 3, 5, 7)
    assert (source.total_episodes, source.total_steps) == (4, 3 + 5 + 7 + 9)
    read = list(episodes(source))
    assert [episode.observations["observation"][0, 0] for episode in read] == [1, 3, 5, 7]
    assert [len(episode.actions) for episode in read] == [3, 5, 7, 9]
    assert episode_returns(source).tolist() == [3.0, 5.0, 7.0, 9.0]


def test_the_parts_of_a_split_are_read_in_their_own_order(viewed: minari.MinariDataset) -> None:
    """Each permuted, together everything, as Minari reads them."""
    parts = minari.split_dataset(viewed, sizes=[3, 5], seed=3)
    seen = []
    for part in parts:
        source = source_of(part)
        theirs = list(part.iterate_episodes())
        ids = [int(episode.observations[0, 0]) for episode in theirs]
        assert list(source.episode_ids) == ids
        assert ids != sorted(ids), "another seed permutes"
        for mine, other in zip(episodes(source), theirs, strict=True):
            np.testing.assert_array_equal(mine.observations["observation"], other.observations)
            np.testing.assert_array_equal(mine.actions, other.actions)
            np.testing.assert_array_equal(mine.terminations, other.terminations)
        seen += ids
    assert sorted(seen) == list(range(8))


def test_a_view_of_everything_is_the_dataset(viewed: minari.MinariDataset) -> None:
    assert source_of(viewed) == open_source(Path(str(viewed.storage.data_path)))
    assert source_of(viewed.filter_episodes(lambda episode: True)).view is None


def test_an_empty_view_is_refused(viewed: minari.MinariDataset) -> None:
    with pytest.raises(UserError, match="the view of test/viewed-v0 is empty"):
        source_of(viewed.filter_episodes(lambda episode: False))


def test_errors_in_a_view_name_the_stored_episode() -> None:
    source = small_dataset(episodes=5)
    with h5py.File(source.path / "main_data.hdf5", "r+") as file:
        episode, values = stored_episode(file, 3), stored_array(file, 3, "terminations")[()]
        del episode["terminations"]
        episode["terminations"] = values[:-1]
    dataset = minari.load_dataset("test/small-v0")
    view = source_of(dataset.filter_episodes(lambda episode: episode.id in (0, 3)))
    with pytest.raises(UserError, match="test/small-v0: episode 3 has 21 observations, 20 actions and 19 terminations"):
        list(episodes(view))
    assert len(list(episodes(source_of(dataset.filter_episodes(lambda episode: episode.id in (0, 4)))))) == 2


SPECIFICATIONS = {
    "fields of a newer gymnasium": {"id": "Hopper-v9", "entry_point": "x:y", "newfield": 1, "additional_wrappers": []},
    "no wrappers": {"id": "Hopper-v9", "entry_point": "x:y"},
}


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize("what", [*SPECIFICATIONS, "another Minari"])
def test_what_minari_makes_of_an_environment_is_nobodys_concern(what: str, data_format: str) -> None:
    """Neither of a whole dataset nor of a view."""
    if data_format == "arrow":
        pytest.importorskip("pyarrow")
    folder = write_dataset("test/spec-v0", counting_episodes([2, 3, 4]), data_format=data_format)
    if what in SPECIFICATIONS:
        change_metadata(folder, env_spec=json.dumps(SPECIFICATIONS[what]))
    else:
        change_metadata(folder, minari_version="99.0.0")
    source = open_source(folder)
    for some in (source, view_of(source, [2, 0])):
        assert [len(episode.actions) for episode in episodes(some)] == [index + 2 for index in some.episode_ids]
        assert len(episode_returns(some)) == some.total_episodes


def test_steps_of_a_view_are_counted_where_they_lie() -> None:
    """Who appends to an episode leaves in its metadata the length of the part that was appended."""
    folder = write_dataset("test/appended-v0", counting_episodes([2, 3, 4]))
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        stored_episode(file, 1).attrs["total_steps"] = 1
        del stored_episode(file, 2).attrs["total_steps"]
        stored_episode(file, 2).attrs["seed"] = "None"
    assert view_of(open_source(folder), [2, 1]).total_steps == 7


def test_a_column_of_terminations_is_one_a_step() -> None:
    """As a vector of one environment gives them."""
    folder = write_dataset("test/column-v0", counting_episodes([2, 3], terminated=[True, False]))
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        for index in (0, 1):
            episode, values = stored_episode(file, index), stored_array(file, index, "terminations")[()]
            del episode["terminations"]
            episode["terminations"] = values[:, None]
    read = [episode.terminations.tolist() for episode in episodes(open_source(folder))]
    assert read == [[False, True], [False, False, False]]


def test_infos_of_arrow_episodes_may_differ() -> None:
    pytest.importorskip("pyarrow")
    box = Box(-1, 1, (2,), np.float32)
    infos = [{"x": [1.0] * 3}, {"x": [1] * 3, "y": [2.0] * 3}, {}]
    buffers = [
        EpisodeBuffer(
            id=index,
            observations=np.full((3, 2), index, np.float32),  # type: ignore[arg-type]
            actions=np.zeros((2, 2), np.float32),  # type: ignore[arg-type]
            rewards=[0.0, 0.0],
            terminations=[False, True],
            truncations=[False, False],
            infos=info,
        )
        for index, info in enumerate(infos)
    ]
    source = open_source(write_buffers("test/infos-v0", buffers, box, box, data_format="arrow"))
    assert [episode.observations["observation"][0, 0] for episode in episodes(source)] == [0, 1, 2]
