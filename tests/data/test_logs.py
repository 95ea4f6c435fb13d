"""Logs in every format become the Minari episodes that a plain reading of the rules gives."""

import csv
import datetime
import itertools
import json
import math
import os
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import minari
import numpy as np
import polars as pl
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iq_offline.data import log_episodes, log_files
from iq_offline.data.cache import cached
from iq_offline.data.catalog import local_ids, minari_root
from iq_offline.data.logs import Actions, Columns, Imported, import_log
from iq_offline.data.stream import episodes, open_source
from iq_offline.dataset_commands import findings
from iq_offline.errors import UserError
from tests.data_helpers import counting_episodes, python, snapshot, tmpfs
from tests.helpers import write_dataset

Row = dict[str, Any]
NUMBER = itertools.count()
COLUMNS = Columns(("x", "y"), ("u", "v"), "trip", "t", "crashed", "cut", "r")
ID = "company/driving-v0"


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    """Rows, None or NaN where a value is missing, in the format of the path's ending."""
    if path.suffix == ".parquet":
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(path, row_group_size=7)
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".ndjson":
        plain = [{key: None if missing(value) else value for key, value in row.items()} for row in rows]
        path.write_text("".join(json.dumps(row, default=str) + "\n" for row in plain))
    else:
        arrays = {key: np.array([number(row[key]) for row in rows]) for key in rows[0]}
        np.savez(path, allow_pickle=False, **arrays)
    return path


def missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def number(value: Any) -> Any:
    """As it stands in an array."""
    if isinstance(value, datetime.datetime):
        return np.datetime64(value, "us")
    return math.nan if value is None else value


def seconds(time: Any) -> Any:
    """A time to subtract: whole nanoseconds of a timestamp, or the number itself."""
    if isinstance(time, datetime.datetime):
        return (time - datetime.datetime(1970, 1, 1)) // datetime.timedelta(microseconds=1) * 1000
    return time


def step_between(first: Row, second: Row) -> float:
    step = seconds(second["t"]) - seconds(first["t"])
    return step * 1e-9 if isinstance(first["t"], datetime.datetime) else float(step)


def in_order(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each trip by their times, the first of each time; trips as they begin."""
    trips: dict[Any, list[Row]] = {}
    for row in rows:
        if not missing(row["trip"]) and not missing(row["t"]):
            trips.setdefault(row["trip"], []).append(row)
    ordered = []
    for trip in trips.values():
        kept: list[Row] = []
        for row in sorted(trip, key=lambda row: seconds(row["t"])):
            if not kept or kept[-1]["t"] != row["t"]:
                kept.append(row)
        ordered.append(kept)
    return ordered


def expected_pieces(rows: Sequence[Row]) -> list[list[Row]]:
    """The pieces of the rules, row by row: each becomes an episode, its last row without an action."""
    trips = in_order(rows)
    steps = [step_between(*pair) for trip in trips for pair in itertools.pairwise(trip)]
    max_gap = 1.5 * statistics.median(steps) if steps else math.inf
    found: list[list[Row]] = []
    for trip in trips:
        piece: list[Row] = []
        for index, row in enumerate(trip):
            if missing(row["x"]) or missing(row["y"]):
                found.append(piece)
                piece = []
                continue
            if index and step_between(trip[index - 1], row) > max_gap:
                found.append(piece)
                piece = []
            piece.append(row)
            if missing(row["u"]) or missing(row["v"]) or row["crashed"] or row["cut"]:
                found.append(piece)
                piece = []
        found.append(piece)
    return [piece for piece in found if len(piece) > 1]


def assert_holds(imported: Imported, expected: Sequence[Sequence[Row]]) -> None:
    """The dataset, as Minari and as the package read it, holds these pieces and says so."""
    dataset = minari.load_dataset(imported.id)
    lengths = [len(piece) - 1 for piece in expected]
    assert (dataset.total_episodes, dataset.total_steps) == (len(expected), sum(lengths))
    assert (imported.counts.episodes, imported.counts.transitions) == (len(expected), sum(lengths))
    theirs = list(dataset.iterate_episodes())
    ours = list(episodes(open_source(imported.path)))
    for piece, episode, read in zip(expected, theirs, ours, strict=True):
        observations = np.array([[row["x"], row["y"]] for row in piece], float)
        actions = np.array([[row["u"], row["v"]] for row in piece[:-1]], float)
        rewards = np.array([number(row["r"]) for row in piece[:-1]], float)
        np.testing.assert_array_equal(episode.observations, observations)
        np.testing.assert_array_equal(episode.actions, actions)
        np.testing.assert_array_equal(episode.rewards, rewards)
        np.testing.assert_array_equal(read.observations["observation"], observations)
        np.testing.assert_array_equal(read.actions, actions)
        terminated = bool(piece[-1]["crashed"])
        assert episode.terminations.tolist() == [False] * (len(actions) - 1) + [terminated]
        assert episode.truncations.tolist() == [False] * (len(actions) - 1) + [bool(piece[-1]["cut"]) or not terminated]
        assert all(imported.action_space.contains(action) for action in episode.actions)
    recorded = dataset.storage.get_episode_metadata(list(range(len(expected))))
    assert [about["total_steps"] for about in recorded] == lengths


def assert_every_row_is_counted(imported: Imported) -> None:
    counts = imported.counts
    dropped = (
        counts.rows_without_episode,
        counts.rows_without_time,
        counts.identical_duplicates,
        counts.contradicting_duplicates,
        counts.rows_without_observation,
        counts.short_pieces,
    )
    assert counts.rows == counts.rows_written + sum(dropped)
    assert counts.rows_written == counts.transitions + counts.episodes


def random_log(generator: np.random.Generator, time: str, trips: int) -> list[Row]:
    """Rows in order, with everything that happens to logs: gaps, nulls, repeated and contradicting rows, flags."""
    start = datetime.datetime(2024, 3, 31, 1, 59)
    rows: list[Row] = []
    for trip in range(trips):
        for step in np.flatnonzero(generator.random(generator.integers(1, 16)) > 0.08).tolist():
            jitter = int(generator.integers(0, 20))
            clock = {
                "whole": 3 * step,
                "fraction": (100 * step + jitter) / 1000,
                "stamp": start + datetime.timedelta(milliseconds=100 * step + jitter),
            }[time]
            row: Row = {"trip": f"trip {trip}", "t": clock}
            row |= {name: float(generator.standard_normal()) for name in "xyuvr"}
            for name in "xyuvr":
                if generator.random() < 0.03:
                    row[name] = None if generator.random() < 0.7 else math.nan
            row |= {"crashed": bool(generator.random() < 0.05), "cut": bool(generator.random() < 0.04)}
            rows.append(row)
            if generator.random() < 0.05:
                rows.append(dict(row))
            if generator.random() < 0.05:
                rows.append(row | {"x": 7.0})
    return rows


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    ending=st.sampled_from([".parquet", ".csv", ".ndjson", ".npz"]),
    time=st.sampled_from(["whole", "fraction", "stamp"]),
    trips=st.integers(1, 6),
    shuffled=st.booleans(),
    files=st.integers(1, 3),
)
def test_every_format_gives_what_the_rules_give(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    ending: str,
    time: str,
    trips: int,
    shuffled: bool,
    files: int,
) -> None:
    monkeypatch.setattr(log_files, "BATCH_ROWS", 7)
    monkeypatch.setattr(log_episodes, "CHUNK_BYTES", 900)  # About ten rows.
    generator = np.random.default_rng(seed)
    rows = random_log(generator, time, trips)
    if shuffled:
        rows = [rows[index] for index in generator.permutation(len(rows))]
    if ending != ".npz" and rows:  # Arrays have no null among texts and whole numbers.
        rows.insert(len(rows) // 2, rows[0] | {"trip": None})
        rows.insert(len(rows) // 3, rows[-1] | {"t": None})
    expected = expected_pieces(rows)
    folder = tmp_path / f"log{next(NUMBER)}"
    folder.mkdir()
    parts = [list(part) for part in np.array_split(np.array(rows, object), files) if len(part)]
    for index, part in enumerate(parts):
        write_rows(folder / f"part-{8 + index}{ending}", part)
    identifier = f"company/driving{next(NUMBER)}-v0"
    before = snapshot(minari_root())
    if not expected:
        with pytest.raises(UserError):
            import_log([str(folder)], identifier, COLUMNS)
        assert snapshot(minari_root()) == before
        return
    imported = import_log([str(folder / f"*{ending}")], identifier, COLUMNS, Actions(low=(-9.0,), high=(9.0,)))
    assert_holds(imported, expected)
    assert_every_row_is_counted(imported)
    counts = imported.counts
    assert counts.terminated == sum(piece[-1]["crashed"] for piece in expected)
    assert counts.last_actions == sum(not missing(piece[-1]["u"]) and not missing(piece[-1]["v"]) for piece in expected)
    ordered = in_order(rows)
    assert counts.episodes_in_log == len(ordered)
    lost = counts.identical_duplicates + counts.contradicting_duplicates
    assert lost + counts.rows_without_episode + counts.rows_without_time == len(rows) - sum(map(len, ordered))
    assert counts.ends_inside == sum(row["crashed"] or row["cut"] for trip in ordered for row in trip[:-1])


# ------------------------------------------------------------------------------------------------- single rules


def trip(*steps: tuple[Any, ...], name: str = "a") -> list[Row]:
    """Rows of (time, observation, action), flags false."""
    return [{"trip": name, "t": t, "x": x, "u": u, "crashed": False} for t, x, u in steps]


def simple(count: int, name: str = "a") -> list[Row]:
    return trip(*((float(step), step / 10, step % 3 - 1.0) for step in range(count)), name=name)


SIMPLE = Columns(("x",), ("u",), "trip", "t", "crashed")


@pytest.fixture
def imports(tmp_path: Path) -> Callable[..., Imported]:
    """Write rows as a Parquet file and import it."""

    def run(rows: Sequence[Row], columns: Columns = SIMPLE, ending: str = ".parquet", **options: Any) -> Imported:
        path = write_rows(tmp_path / f"log{next(NUMBER)}{ending}", rows)
        return import_log([str(path)], f"company/one{next(NUMBER)}-v0", columns, **options)

    return run


Imports = Callable[..., Imported]


def observed(imported: Imported) -> list[list[float]]:
    """The first number of the observations of each episode."""
    return [episode.observations[:, 0].tolist() for episode in minari.load_dataset(imported.id).iterate_episodes()]


def test_the_last_action_is_lost_unless_the_last_row_has_none(imports: Imports) -> None:
    with_action = imports(simple(4))
    assert (with_action.counts.transitions, with_action.counts.last_actions) == (3, 1)
    rows = simple(4)
    rows[-1]["u"] = None
    without = imports(rows)
    assert (without.counts.transitions, without.counts.last_actions) == (3, 0)
    assert observed(with_action) == observed(without) == [[0.0, 0.1, 0.2, 0.3]]


def test_a_gap_splits_and_max_gap_says_what_one_is(imports: Imports) -> None:
    rows = [row for row in simple(9) if row["t"] not in (3.0, 4.0)]
    imported = imports(rows)
    assert (imported.counts.gaps, imported.counts.episodes, imported.max_gap) == (1, 2, 1.5)
    assert observed(imported) == [[0.0, 0.1, 0.2], [0.5, 0.6, 0.7, 0.8]]
    assert imports(rows, max_gap=3.0).counts.gaps == 0
    assert imports(rows, max_gap=2.9).counts.gaps == 1
    assert imports(rows, Columns(("x",), ("u",), "trip")).counts.episodes == 1


@pytest.mark.parametrize("start", [0.0, 1.7e9])
@pytest.mark.parametrize("step", [0.1, 0.3, 0.7, 1.1])
def test_a_step_of_max_gap_is_none(step: float, start: float, imports: Imports) -> None:
    """Whether times are floating point, which is never exact, or nanoseconds; a step that is longer cuts."""
    moment = datetime.datetime.fromtimestamp(start, datetime.UTC).replace(tzinfo=None)
    clocks = (lambda n: start + n * step, lambda n: moment + n * datetime.timedelta(milliseconds=round(1000 * step)))
    for clock in clocks:
        rows = [row | {"t": clock(n)} for n, row in enumerate(simple(60))]
        assert imports(rows, max_gap=step).counts.gaps == 0
        with pytest.raises(UserError, match="60 single rows between cuts"):
            imports(rows, max_gap=step * 0.999)
        rows = [row | {"t": clock(n + (n > 20))} for n, row in enumerate(simple(60))]
        assert imports(rows, max_gap=step).counts.gaps == 1


@pytest.mark.parametrize("step", [3, 9_007_199_254_740_993, 86_400_000_000_000])
def test_a_whole_step_of_max_gap_is_none(step: int, imports: Imports) -> None:
    rows = [row | {"t": n * step} for n, row in enumerate(simple(9))]
    assert imports(rows, max_gap=float(step)).counts.gaps == 0
    with pytest.raises(UserError, match="9 single rows between cuts"):
        imports(rows, max_gap=step * 0.999)


def test_a_null_observation_takes_its_row_a_null_action_only_its_step(imports: Imports) -> None:
    rows = simple(9)
    rows[3]["x"] = math.inf
    rows[6]["u"] = math.nan
    imported = imports(rows)
    assert observed(imported) == [[0.0, 0.1, 0.2], [0.4, 0.5, 0.6], [0.7, 0.8]]
    assert (imported.counts.rows_without_observation, imported.counts.rows_without_action) == (1, 1)


def test_duplicates(imports: Imports) -> None:
    rows = simple(5)
    rows = [*rows, dict(rows[1]), rows[2] | {"x": 99.0}, dict(rows[2]), rows[3] | {"crashed": True}]
    imported = imports(rows)
    assert observed(imported) == [[0.0, 0.1, 0.2, 0.3, 0.4]]
    assert (imported.counts.identical_duplicates, imported.counts.contradicting_duplicates) == (2, 2)


def test_a_terminal_row_ends_the_episode_even_in_the_middle(imports: Imports) -> None:
    rows = simple(6)
    for row in rows[3:5]:  # The flag stays up for a while.
        row["crashed"] = True
    imported = imports(rows)
    assert observed(imported) == [[0.0, 0.1, 0.2, 0.3]]
    (episode,) = minari.load_dataset(imported.id).iterate_episodes()
    assert episode.terminations.tolist() == [False, False, True]
    assert episode.truncations.tolist() == [False, False, False]
    assert (imported.counts.ends_inside, imported.counts.short_pieces) == (2, 2)


def test_a_terminal_row_without_observation_ends_truncated(imports: Imports) -> None:
    rows = simple(4)
    rows[-1] |= {"x": None, "crashed": True}
    imported = imports(rows)
    assert (imported.counts.terminated, imported.counts.ends_lost) == (0, 1)


LOST: dict[str, tuple[dict[int, Row], int]] = {
    "after a gap": ({5: {"t": 50.0, "crashed": True}}, 1),
    "the second row of one time": ({5: {"t": 4.0, "crashed": True}}, 1),
    "without a time": ({5: {"t": None, "crashed": True}}, 1),
    "without an episode": ({5: {"trip": None, "crashed": True}}, 1),
    "without an observation": ({5: {"x": None, "crashed": True}}, 1),
    "a flag that stays up": ({4: {"crashed": True}, 5: {"crashed": True}}, 0),
    "the same row again": ({4: {"crashed": True}, 5: {"t": 4.0, "x": 0.4, "u": 0.0, "crashed": True}}, 0),
    "the last row": ({5: {"crashed": True}}, 0),
}


@pytest.mark.parametrize("case", LOST)
def test_terminal_rows_that_are_lost_are_counted(case: str, imports: Imports) -> None:
    changes, lost = LOST[case]
    counts = imports([row | changes.get(index, {}) for index, row in enumerate(simple(6))]).counts
    assert (counts.ends_lost, counts.terminated) == (lost, 1 - lost)


def test_next_observations_make_every_row_a_transition(imports: Imports) -> None:
    """The last action counts, its flag is its own, and where the next row is another state the episode is cut."""
    rows = [row | {"next_x": row["x"] + 0.5} for row in simple(6)]
    for row, after in itertools.pairwise(rows):
        row["next_x"] = after["x"]
    rows[2]["next_x"] = 5.0
    rows[-1] |= {"next_x": 9.0, "crashed": True}
    rows.append(rows[-1] | {"t": 6.0, "x": 9.0, "u": None, "next_x": None, "crashed": False})
    columns = Columns(("x",), ("u",), "trip", "t", "crashed", next_observation="next_")
    imported = imports(rows, columns)
    assert observed(imported) == [[0.0, 0.1, 0.2, 5.0], [0.3, 0.4, 0.5, 9.0]]
    first, second = minari.load_dataset(imported.id).iterate_episodes()
    assert first.actions[:, 0].tolist() == [-1.0, 0.0, 1.0]
    assert second.actions[:, 0].tolist() == [-1.0, 0.0, 1.0]
    assert (first.terminations[-1], second.terminations[-1]) == (False, True)
    counts = imported.counts
    assert (counts.jumps, counts.last_actions, counts.rows_without_action) == (1, 0, 1)
    assert counts.rows == counts.rows_written + counts.rows_without_action
    assert counts.transitions == counts.rows_written


def test_without_an_episode_column_every_file_is_one(tmp_path: Path) -> None:
    for index in (2, 10, 1):
        write_rows(tmp_path / f"trip{index}.csv", [row | {"x": index + row["x"]} for row in simple(3)])
    imported = import_log([str(tmp_path / "trip*.csv")], ID, Columns(("x",), ("u",)))
    assert observed(imported) == [[1.0, 1.1, 1.2], [2.0, 2.1, 2.2], [10.0, 10.1, 10.2]], "2 comes before 10"


def test_episodes_that_go_on_in_another_file(tmp_path: Path) -> None:
    """Files named one by one come in the order of their numbers; ids that begin anew in each are told of."""
    parts = {10: simple(2, "b"), 1: simple(3), 2: [*simple(3), *simple(2, "b")]}
    paths = [write_rows(tmp_path / f"part-{index}.csv", rows) for index, rows in parts.items()]
    columns = Columns(("x",), ("u",), "trip")
    imported = import_log(list(map(str, paths)), ID, columns)
    assert observed(imported) == [[0.0, 0.1, 0.2, 0.0, 0.1, 0.2], [0.0, 0.1, 0.0, 0.1]]
    assert (imported.counts.episodes_in_log, imported.counts.episodes_continued) == (2, 2)
    lines = {what: number for what, number, _ in findings(imported, columns)}
    assert lines["episodes that go on in another file"] == 2
    assert "episodes that go on in another file" not in {what for what, *_ in findings(imported, SIMPLE)}
    assert import_log([str(paths[1])], ID, columns, replace=True).counts.episodes_continued == 0


def test_pieces_of_one_episode_are_known_as_such(imports: Imports) -> None:
    rows = [row for name in "abc" for row in simple(9, name) if (name, row["t"]) not in (("a", 3.0), ("c", 6.0))]
    cut = open_source(imports(rows).path)
    assert cut.metadata["log"]["pieces_of"] == [0, 0, 1, 2, 2]
    assert cut.with_other_pieces({1, 2}) == {0, 1, 2}
    assert cut.with_other_pieces({3}) == {3, 4}
    whole = open_source(imports(simple(4) + simple(4, "b")).path)
    assert "pieces_of" not in whole.metadata["log"]
    assert whole.with_other_pieces({1}) == {1}


@pytest.mark.parametrize("log", ["damaged", {"pieces_of": "damaged"}, {"pieces_of": [0, 0]}, {"pieces_of": None}])
def test_pieces_that_the_metadata_say_badly_are_nobody_s(imports: Imports, log: Any) -> None:
    source = open_source(imports([row for row in simple(9) if row["t"] != 3.0] + simple(4, "b")).path)
    assert source.with_other_pieces({0}) == {0, 1}
    assert replace(source, metadata=source.metadata | {"log": log}).with_other_pieces({0}) == {0}


@pytest.mark.parametrize("ending", [".parquet", ".ndjson"])
def test_lists_are_vectors(imports: Imports, ending: str) -> None:
    rows = [row | {"joints": [row["t"], row["x"], 1.0], "u": [0.5, row["u"]]} for row in simple(5)]
    rows[2]["joints"] = None if ending == ".ndjson" else [None, 1.0, 2.0]
    imported = imports(
        rows, Columns(("x", "joints"), ("u",), "trip", "t"), ending, actions=Actions(low=(0, -1), high=(1,))
    )
    assert imported.observation_space.shape == (4,)
    first, second = minari.load_dataset(imported.id).iterate_episodes()
    np.testing.assert_array_equal(first.observations, [[0.0, 0.0, 0.0, 1.0], [0.1, 1.0, 0.1, 1.0]])
    np.testing.assert_array_equal(second.actions, [[0.5, -1.0]])
    names = minari.load_dataset(imported.id).storage.metadata["log"]
    assert names["observation"] == ["x", "joints[0]", "joints[1]", "joints[2]"]
    assert names["action"] == ["u[0]", "u[1]"]


def test_fixed_size_arrays_keep_their_type(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"s": np.arange(12, dtype=np.float32).reshape(4, 3), "a": np.array([0.1, 0.2, 0.3, 0.4], np.float32)}
    )
    assert isinstance(frame.schema["s"], pl.Array)
    frame.write_parquet(tmp_path / "log.parquet")
    imported = import_log([str(tmp_path / "log.parquet")], ID, Columns(("s",), ("a",)))
    (episode,) = minari.load_dataset(ID).iterate_episodes()
    assert (episode.observations.dtype, episode.actions.dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(episode.observations, frame["s"].to_numpy())
    assert imported.action_space == Box(np.float32(0.1), np.float32(0.4), (1,))


def test_a_folder_of_arrays_one_file_an_episode(tmp_path: Path) -> None:
    """T+1 observations beside T actions and flags, as Minari and many simulators have them."""
    generator = np.random.default_rng(0)
    written = [(generator.standard_normal((6, 3)), generator.uniform(-1, 1, (5, 2)), done) for done in (True, False)]
    for index, (states, actions, done) in enumerate(written):
        np.savez_compressed(tmp_path / f"{index}.npz", s=states, a=actions, done=np.array([0, 0, 0, 0, done]))
    import_log([str(tmp_path)], ID, Columns(("s",), ("a",), terminal="done"))
    for (states, actions, done), episode in zip(written, minari.load_dataset(ID).iterate_episodes(), strict=True):
        np.testing.assert_array_equal(episode.observations, states)
        np.testing.assert_array_equal(episode.actions, actions)
        assert (episode.terminations[-1], episode.truncations[-1]) == (done, not done)
        assert not episode.terminations[:-1].any()


CLOCK = Columns(("x",), ("u",), None, "t")

LENGTHS = ("2024-01-01", "2024-01-01T08:00", "2024-01-01 16:00:00", "2024-01-02T00:00:00.0")
TIMES: dict[str, tuple[Callable[[int], str], float]] = {
    "dates": (lambda step: f"2024-01-{step + 1:02}", 86_400),
    "minutes": (lambda step: f"2024-01-01 10:{step:02}", 60),
    "seconds": (lambda step: f" 2024-01-01T10:00:{step:02} ", 1),
    "fractions": (lambda step: f"2024-01-01 10:00:00.{step:09}", 1e-9),
    "commas": (lambda step: f"2024-01-01T10:00:00,{step}", 0.1),
    "Zulu": (lambda step: f"2024-01-01T10:{step:02}Z", 60),
    "zones": (lambda step: f"2024-01-01T{10 + 2 * step}:00:00+0{step + 1}{('', '00', ':00')[step % 3]}", 3_600),
    "lengths": (LENGTHS.__getitem__, 28_800),
}
"""Times of ISO 8601, and the seconds between two."""


@pytest.mark.parametrize("ending", [".csv", ".ndjson", ".parquet"])
@pytest.mark.parametrize("kind", TIMES)
def test_times_of_iso_8601(kind: str, ending: str, imports: Imports) -> None:
    write, apart = TIMES[kind]
    rows = [{"x": step / 10, "u": step - 1.5, "t": write(step)} for step in range(4)]
    imported = imports([rows[index] for index in (2, 0, 3, 1)], CLOCK, ending)
    assert observed(imported) == [[0.0, 0.1, 0.2, 0.3]]
    assert imported.max_gap == pytest.approx(1.5 * apart)


@pytest.mark.parametrize("ending", [".csv", ".ndjson", ".parquet"])
@pytest.mark.parametrize(
    "word",
    [
        *("01/02/2024 10:00", "01.02.2024 10:00", "2024/01/02 10:00", "02-01-2024", "2024-1-2 10:00", "10:00:00"),
        *("2024-01-02T10", "2024-01-02T24:00", "2024-02-30 10:00", "2024-01-02 10:00 +02:00", "2024-01-02 10:00 PM"),
        *("2024-01-02T10:00:00+25:00", "1500-01-01", "9999-12-31T00:00:00"),
    ],
)
def test_other_times_are_not_guessed(word: str, ending: str, imports: Imports) -> None:
    """Day and month would be read the wrong way round without a word; far years would wrap around."""
    rows = [row | {"t": f"2024-01-01 10:{step:02}"} for step, row in enumerate(simple(4))]
    rows[2]["t"] = word
    for some in (rows, [row | {"t": word} for row in rows]):
        with pytest.raises(UserError, match=f"{re.escape(repr(word))} in column 't' is no ISO 8601 time, such as"):
            imports(some, CLOCK, ending)


def test_times_with_and_without_a_zone(imports: Imports, monkeypatch: pytest.MonkeyPatch) -> None:
    """They cannot be held against each other, wherever in the file they meet."""
    rows = [row | {"t": f"2024-01-01T10:{step:02}{'Z' * (step > 3)}"} for step, row in enumerate(simple(8))]
    for size in (50_000, 4):
        monkeypatch.setattr(log_files, "BATCH_ROWS", size)
        with pytest.raises(UserError, match=r"column 't' holds times with a zone and times without, and"):
            imports(rows, CLOCK, ".csv")


@pytest.mark.parametrize("ending", [".csv", ".ndjson", ".parquet"])
def test_a_file_with_zones_beside_one_without(ending: str, tmp_path: Path) -> None:
    times = [
        [datetime.datetime(2024, 1, 1, 10, step, tzinfo=zone) for step in range(4)] for zone in (datetime.UTC, None)
    ]
    for number, some in enumerate(times):
        some = some if ending == ".parquet" else [time.isoformat() for time in some]
        write_rows(tmp_path / f"{number}{ending}", [row | {"t": t} for row, t in zip(simple(4), some, strict=True)])
    with pytest.raises(UserError, match=r"1\.\w+: .*column 't' holds times with a zone and times without, and"):
        import_log([str(tmp_path)], ID, CLOCK)


@pytest.mark.parametrize("unit", ["s", "D", "ms"])
def test_array_times_that_would_wrap_around(unit: str, tmp_path: Path) -> None:
    """9999 stands for never in many a log; of nanoseconds 64 bits hold the years to 2262."""
    times = np.array(["2024-01-01", "2024-01-02", "NaT", "9999-12-31"], f"M8[{unit}]")
    np.savez(tmp_path / "log.npz", x=np.arange(4.0), u=np.arange(4.0), t=times)
    with pytest.raises(UserError, match=r"9999-12-31\S* in 't' is of none of the years 1678 to 2261"):
        import_log([str(tmp_path / "log.npz")], ID, CLOCK)


@pytest.mark.parametrize("ending", [".csv", ".ndjson", ".parquet", ".npz"])
def test_a_name_with_brackets_is_that_file(ending: str, tmp_path: Path) -> None:
    write_rows(tmp_path / f"log1{ending}", [row | {"x": 999.0} for row in simple(4)])
    wanted = write_rows(tmp_path / f"log[1]{ending}", simple(4))
    imported = import_log([str(wanted)], ID, SIMPLE)
    assert observed(imported) == [[row["x"] for row in simple(4)]]


def test_a_file_by_two_names_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "logs").mkdir()
    write_rows(tmp_path / "logs" / "1.csv", simple(4))
    (tmp_path / "logs" / "link.csv").symlink_to(tmp_path / "logs" / "1.csv")
    monkeypatch.chdir(tmp_path)
    names = ["logs", str(tmp_path / "logs" / "1.csv"), "logs/../logs/1.csv"]
    assert import_log(names, ID, SIMPLE).counts.transitions == 3


def test_numbers_written_differently_have_one_order(tmp_path: Path) -> None:
    names = ["2024-1-05.csv", "2024-1-5.csv", "2024-01-5.csv", "2024-01-05.csv"]
    for name in names:
        write_rows(tmp_path / name, simple(2))
    found = [path.name for path in log_files.find_files([str(tmp_path)])]
    assert found == sorted(names)


@pytest.mark.parametrize("name", ["more.csv.zip", "more.parquet.lz4", "more.tsv", "more.arrow"])
def test_a_folder_with_a_log_that_is_not_read(name: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "1.csv", simple(4))
    (tmp_path / "notes.txt").write_text("passed over")
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=rf"{re.escape(name)} is (compressed|of a kind that is not read)"):
        import_log([str(tmp_path)], ID, SIMPLE)


def test_training_can_read_it(imports: Imports) -> None:
    data = cached(open_source(imports([*simple(5), *simple(4, "b")]).path))
    assert data.lengths.tolist() == [4, 3]
    np.testing.assert_allclose(data.steps["observation_0"][5:, 0], [0, 0.1, 0.2, 0.3], rtol=1e-6)


# ------------------------------------------------------------------------------------------------- actions


def gears(values: Sequence[Any], more: Sequence[Any] | None = None) -> list[Row]:
    rows = [row | {"gear": value} for row, value in zip(simple(len(values)), values, strict=True)]
    return [row | {"horn": value} for row, value in zip(rows, more, strict=True)] if more else rows


GEAR = Columns(("x",), ("gear",), "trip", "t")
BOTH = Columns(("x",), ("gear", "horn"), "trip", "t")


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".ndjson", ".npz"])
def test_discrete_actions(imports: Imports, ending: str) -> None:
    imported = imports(gears([2, 4, 3, 2]), GEAR, ending, actions=Actions(discrete=True))
    assert imported.action_space == Discrete(3, start=2)
    (episode,) = minari.load_dataset(imported.id).iterate_episodes()
    assert (episode.actions.tolist(), episode.actions.dtype) == ([2, 4, 3], np.int64)
    wide = Actions(discrete=True, low=(0,), high=(5,))
    assert imports(gears([2, 4, 3, 2]), GEAR, ending, actions=wide).action_space == Discrete(6)
    with_null = imports(gears([2, None, 3, 2]), GEAR, ".csv", actions=Actions(discrete=True))
    assert (with_null.action_space, with_null.counts.episodes) == (Discrete(2, start=2), 2)


def test_several_choices_and_booleans(imports: Imports) -> None:
    imported = imports(gears([2, 4, 3, 2], [False] * 4), BOTH, actions=Actions(discrete=True))
    assert imported.action_space == MultiDiscrete([3, 2], start=[2, 0])
    (episode,) = minari.load_dataset(imported.id).iterate_episodes()
    assert episode.actions.tolist() == [[2, 0], [4, 0], [3, 0]]
    assert imports(gears([True, True, True]), GEAR).action_space == Discrete(2)
    assert imports(gears([True, True, True]), GEAR, ".csv").action_space == Discrete(2)


def test_whole_amounts(imports: Imports) -> None:
    imported = imports(gears([2, 4, 3, 2]), GEAR, actions=Actions(continuous=True))
    assert imported.action_space == Box(2.0, 4.0, (1,), np.float64)
    mixed = imports(gears([2, 4, 3, 2], [0.5, 0.0, 0.25, 1.0]), BOTH)
    assert mixed.action_space == Box(np.array([2.0, 0.0]), np.array([4.0, 1.0]), dtype=np.float64)
    inside = imports(gears([2.0, 4.0, 3.5, 2.0]), GEAR, actions=Actions(low=(2.5,), high=(9.0,)))
    assert inside.counts.actions_outside == 1


@pytest.mark.parametrize(
    ("values", "actions", "message"),
    [
        ([2, 4, 3, 2], Actions(), r"gear holds whole numbers: say --discrete.*--continuous"),
        ([2, 4, 3, 2], Actions(discrete=True, continuous=True), "not both"),
        ([2.0, 2.5, 3.0], Actions(discrete=True), r"'gear' holds 2\.5: --discrete takes whole numbers"),
        ([1.5, 1.5, 1.5], Actions(), r"'gear' goes from 1\.5 to 1\.5: leave it out.*--action-low"),
        ([2, 10**9, 3], Actions(discrete=True), r"choice among 999,999,999 alternatives.*--continuous"),
        ([2, 4, 3, 2], Actions(discrete=True, high=(3,)), r"'gear' holds 4, outside of 2 to 3"),
        ([2.0, 4.5, 3.0], Actions(low=(1, 2)), r"--action-low takes one number or 1 \(gear\), not 2"),
        ([2.0, 4.5, 3.0], Actions(low=(-math.inf,)), r"--action-low takes finite numbers"),
        ([None, None, None], Actions(), r"'gear' holds no number in the whole log"),
    ],
)
def test_actions_that_make_no_space(values: list[Any], actions: Actions, message: str, imports: Imports) -> None:
    with pytest.raises(UserError, match=message):
        imports(gears(values), GEAR, actions=actions)
    assert list(minari_root().iterdir()) == []


# ------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(("sped",), ("u",)), r"log\.parquet has no column 'sped'; did you mean 'speed'"),
        (Columns(("speed",), ("zzz",)), r"no column 'zzz' \(it has: trip, "),
        (Columns(("speed",), ("u",), "trp"), r"no column 'trp'; did you mean 'trip'"),
        (Columns(("speed",), ("u",), "trip", "tt"), r"no column 'tt'"),
        (Columns(("trip",), ("u",)), r"column 'trip' holds no numbers but text \(String\), 'a' in row 1"),
        (Columns(("when",), ("u",)), r"column 'when' holds no numbers but Datetime"),
        (Columns(("speed",), ("u",), terminal="speed"), r"column 'speed' holds 0\.1; a flag is true or false"),
        (Columns(("uneven",), ("u",)), r"column 'uneven' holds 1 to 2 numbers a row; every row needs the same"),
        (Columns(("words",), ("u",)), r"column 'words' holds List\(String\)"),
        (Columns(("speed",), ("u",), reward="pair"), r"--reward pair holds 2 numbers in a row: it takes one"),
        (Columns(("speed",), ("u",), time="pair"), r"--time pair holds vectors"),
        (Columns(("speed",), ("u",), time="trip"), r"'a' in column 'trip' is no ISO 8601 time"),
        (Columns(("speed", "speed"), ("u",)), r"--observation names 'speed' twice"),
        (Columns((), ("u",)), r"--observation names no column"),
        (Columns(("speed",), ("u",), next_observation="next_"), r"no column 'next_speed'"),
    ],
)
def test_columns_that_cannot_be_used(columns: Columns, message: str, tmp_path: Path) -> None:
    rows = [
        row
        | {
            "speed": row["x"],
            "uneven": [1.0] * (1 + index % 2),
            "words": ["a"],
            "pair": [1.0, 2.0],
            "when": datetime.datetime(2024, 1, 1),
        }
        for index, row in enumerate(simple(4))
    ]
    path = write_rows(tmp_path / "log.parquet", rows)
    with pytest.raises(UserError, match=message):
        import_log([str(path)], ID, columns)
    assert list(minari_root().iterdir()) == []


@pytest.mark.parametrize("kind", ["list", "array", "struct"])
@pytest.mark.parametrize("ending", [".parquet", ".ndjson"])
def test_an_episode_is_named_by_one_value(kind: str, ending: str, tmp_path: Path) -> None:
    make = {"list": lambda row: [0, 1], "array": lambda row: [0, 1], "struct": lambda row: {"car": 1, "day": 2}}[kind]
    frame = pl.DataFrame([row | {"trip": make(row)} for row in simple(4)])
    if kind == "array":
        frame = frame.cast({"trip": pl.Array(pl.Int64, 2)})
    path = tmp_path / f"log{ending}"
    frame.write_parquet(path) if ending == ".parquet" else frame.write_ndjson(path)
    with pytest.raises(UserError, match=r"log\.\w+: --episode trip holds \w+\(.*: it takes one value a row"):
        import_log([str(path)], ID, SIMPLE)
    assert list(minari_root().iterdir()) == []


@pytest.mark.parametrize(
    ("trip", "message"),
    [
        (np.zeros((4, 2)), r"--episode trip holds float64 in \(4, 2\): it takes one value a row"),
        (np.zeros(4, complex), r"--episode trip holds complex128 in \(4,\): it takes"),
        (np.zeros(4, [("car", "i4")]), r"--episode trip holds \[\('car', '<i4'\)\] in \(4,\): it takes"),
    ],
)
def test_an_episode_of_arrays_is_named_by_one_value(trip: np.ndarray, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "log.npz", x=np.zeros((4, 2)), u=np.arange(4.0), trip=trip)
    with pytest.raises(UserError, match=message):
        import_log([str(tmp_path / "log.npz")], ID, Columns(("x",), ("u",), "trip"))
    assert list(minari_root().iterdir()) == []


def test_long_floating_point_is_read_as_double(tmp_path: Path) -> None:
    """Wider numbers are no type of JSON's, of HDF5's on every machine, or of torch's."""
    x, u, trip = np.arange(8.0).reshape(4, 2) / 3, np.arange(4.0) / 3, np.array([7, 7, 9, 9])
    arrays = {"x": x, "u": u, "trip": trip, "t": np.arange(4.0), "r": u}
    np.savez(tmp_path / "log.npz", **{name: array.astype(np.longdouble) for name, array in arrays.items()})
    imported = import_log([str(tmp_path / "log.npz")], ID, Columns(("x",), ("u",), "trip", "t", reward="r"))
    assert imported.action_space == Box(0.0, 1.0, (1,), np.float64)
    assert imported.observation_space.dtype == np.float64
    first, second = minari.load_dataset(ID).iterate_episodes()
    np.testing.assert_array_equal(first.observations, x[:2])
    np.testing.assert_array_equal(second.actions, [[2 / 3]])


def test_pictures_in_arrays_are_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "log.npz", x=np.zeros((21, 4, 4)), u=np.zeros(21))
    with pytest.raises(
        UserError, match=r"'x' has shape \(21, 4, 4\): arrays of one or two dimensions are read"
    ) as caught:
        import_log([str(tmp_path / "log.npz")], ID, Columns(("x",), ("u",)))
    assert "21 rows" not in str(caught.value)


STAMPS = [20240131120000123456 + step for step in range(4)]
"""Year to microsecond: more than 2**63."""


@pytest.mark.parametrize("ending", [".csv", ".ndjson", ".parquet", ".npz"])
def test_whole_times_of_more_than_64_bits(ending: str, tmp_path: Path) -> None:
    """As floating point they would be the same, as 64 bits they would wrap around."""
    rows = [row | {"t": stamp} for row, stamp in zip(simple(4), STAMPS, strict=True)]
    path = tmp_path / f"log{ending}"
    if ending == ".parquet":
        pl.DataFrame(rows, schema_overrides={"t": pl.Int128}).write_parquet(path)
    elif ending == ".npz":
        unsigned = np.array([2**63 + step for step in range(4)], np.uint64)
        np.savez(path, x=np.arange(4.0), u=np.arange(4.0), t=unsigned)
    else:
        write_rows(path, rows)
    with pytest.raises(
        UserError, match=rf"log\{ending}: --time t holds whole numbers that do not fit in 64 bits: write"
    ):
        import_log([str(path)], ID, CLOCK)
    assert list(minari_root().iterdir()) == []


def test_unsigned_times(tmp_path: Path) -> None:
    """Those that fit are read, one that does not is refused."""
    path = tmp_path / "log.parquet"
    for start, fits in ((2**62, True), (2**63 - 2, False)):
        rows = [row | {"t": start + step} for step, row in enumerate(simple(4))]
        pl.DataFrame(rows, schema_overrides={"t": pl.UInt64}).write_parquet(path)
        if fits:
            assert observed(import_log([str(path)], ID, CLOCK)) == [[0.0, 0.1, 0.2, 0.3]]
        else:
            with pytest.raises(UserError, match="do not fit in 64 bits"):
                import_log([str(path)], ID, CLOCK, replace=True)


@pytest.mark.parametrize("columns", [Columns(("x",), ("u",)), Columns(("y",), ("u",), "x"), Columns(("y",), ("x",))])
def test_two_columns_of_one_name(columns: Columns, tmp_path: Path) -> None:
    (tmp_path / "dup.csv").write_text("x,u,y,x\n1,0.5,2,3\n2,0.25,3,4\n")
    with pytest.raises(UserError, match=r"dup\.csv has two columns 'x': rename one of them"):
        import_log([str(tmp_path / "dup.csv")], ID, columns)
    assert observed(import_log([str(tmp_path / "dup.csv")], ID, Columns(("y",), ("u",)))) == [[2.0, 3.0]]


START = datetime.datetime(2024, 1, 1)
NAMES: dict[str, pl.Series] = {
    "datetimes": pl.Series([0, 0, 1, 1], dtype=pl.Int64).cast(pl.Datetime("ns")),
    "durations": pl.Series([0, 0, 1, 1], dtype=pl.Int64).cast(pl.Duration("ns")),
    "times of day": pl.Series([0, 0, 1, 1], dtype=pl.Int64).cast(pl.Time),
    "far days": pl.Series([datetime.datetime(9999, 12, 30), datetime.datetime(9999, 12, 31)]).gather([0, 0, 1, 1]),
}


@pytest.mark.parametrize("kind", NAMES)
def test_episodes_named_by_times_a_nanosecond_apart(kind: str, tmp_path: Path) -> None:
    frame = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], "u": [0.5, 1.0, 0.5, 1.0], "trip": NAMES[kind]})
    frame.write_parquet(tmp_path / "log.parquet")
    assert observed(import_log([str(tmp_path / "log.parquet")], ID, Columns(("x",), ("u",), "trip"))) == [
        [0.0, 1.0],
        [2.0, 3.0],
    ]


def test_an_episode_named_by_one_time_in_several_units(tmp_path: Path) -> None:
    for number, unit in enumerate(("ms", "us", "ns")):
        frame = pl.DataFrame({"x": [0.0, 1.0], "u": [float(number), 0.5], "trip": [START, START]})
        frame.with_columns(pl.col("trip").dt.cast_time_unit(unit)).write_parquet(tmp_path / f"{number}.parquet")
    assert import_log([str(tmp_path)], ID, Columns(("x",), ("u",), "trip")).counts.episodes_in_log == 1


@pytest.mark.parametrize("dtype", ["M8[s]", "M8[h]", "M8[D]", "M8[ns]", "m8[s]", "m8[us]"])
def test_episodes_named_by_times_of_arrays(dtype: str, tmp_path: Path) -> None:
    trips = np.array([0, 0, 5, 5]).astype(dtype)
    np.savez(tmp_path / "log.npz", x=np.arange(4.0), u=np.arange(4.0), trip=trips)
    imported = import_log([str(tmp_path / "log.npz")], ID, Columns(("x",), ("u",), "trip"))
    assert observed(imported) == [[0.0, 1.0], [2.0, 3.0]]


def test_an_episode_is_text_in_every_file_or_in_none(tmp_path: Path) -> None:
    write_rows(tmp_path / "1.parquet", [row | {"trip": 7} for row in simple(3)])
    write_rows(tmp_path / "2.parquet", [row | {"trip": "7"} for row in simple(3)])
    with pytest.raises(UserError, match="--episode holds numbers in one file and text in another"):
        import_log([str(tmp_path)], ID, SIMPLE)
    assert list(minari_root().iterdir()) == []
    write_rows(tmp_path / "2.parquet", [row | {"trip": 7.0, "t": row["t"] + 3} for row in simple(3)])
    assert import_log([str(tmp_path)], ID, SIMPLE).counts.episodes_in_log == 1


EMPTY: dict[str, dict[str, pl.Series]] = {
    "no rows": {"x": pl.Series([], dtype=pl.List(pl.Float64)), "u": pl.Series([], dtype=pl.Float64)},
    "lists of null": {"x": pl.Series([None] * 2, dtype=pl.List(pl.Float64)), "u": pl.Series([0.5, 1.0])},
    "no type": {"x": pl.Series([None] * 2, dtype=pl.Null), "u": pl.Series([0.5, 1.0])},
    "nothing of any type": {name: pl.Series([None] * 2, dtype=pl.Null) for name in "xu"},
}


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
@pytest.mark.parametrize("case", EMPTY)
def test_a_file_that_holds_nothing_does_not_stop_the_others(case: str, order: tuple[int, int], tmp_path: Path) -> None:
    odd = pl.DataFrame(EMPTY[case]).with_columns(t=pl.lit(None), trip=pl.lit("b"))
    full = pl.DataFrame({"x": [[0.0, 1.0], [1.0, 2.0]], "u": [0.5, 1.0], "t": [START, START], "trip": ["a", "a"]})
    odd.write_parquet(tmp_path / f"{order[0]}.parquet")
    full.write_parquet(tmp_path / f"{order[1]}.parquet")
    imported = import_log([str(tmp_path)], ID, Columns(("x",), ("u",), "trip"))
    (episode,) = minari.load_dataset(ID).iterate_episodes()
    np.testing.assert_array_equal(episode.observations, [[0.0, 1.0], [1.0, 2.0]])
    assert imported.counts.rows_without_observation == len(odd)


def test_times_of_no_type_are_none(tmp_path: Path) -> None:
    rows = [row | {"t": START + datetime.timedelta(seconds=row["t"])} for row in simple(4)]
    write_rows(tmp_path / "1.parquet", rows)
    write_rows(tmp_path / "2.parquet", [row | {"t": None} for row in simple(3)])
    counts = import_log([str(tmp_path)], ID, SIMPLE).counts
    assert (counts.rows_without_time, counts.transitions) == (3, 3)


def test_lists_that_are_empty_are_no_vectors(tmp_path: Path) -> None:
    pl.DataFrame({"x": [[], []], "u": [0.5, 1.0]}, schema_overrides={"x": pl.List(pl.Float64)}).write_parquet(
        tmp_path / "log.parquet"
    )
    with pytest.raises(UserError, match="column 'x' holds empty lists"):
        import_log([str(tmp_path / "log.parquet")], ID, Columns(("x",), ("u",)))


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_words_that_are_no_json(word: str, tmp_path: Path) -> None:
    (tmp_path / "log.ndjson").write_text(f'{{"x": 1.0, "u": 0.5}}\n{{"x": {word}, "u": 0.25}}\n')
    with pytest.raises(UserError, match=r"cannot be read as NDJSON: .*\(NaN and Infinity are not JSON: write null\)"):
        import_log([str(tmp_path / "log.ndjson")], ID, Columns(("x",), ("u",)))


def test_a_text_column_called_row(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("row,u\n1,0.5\nfast,0.25\n")
    with pytest.raises(UserError, match=r"column 'row' holds no numbers but text \(String\), 'fast' in row 2"):
        import_log([str(tmp_path / "log.csv")], ID, Columns(("row",), ("u",)))


def test_a_time_of_day_is_not_enough(tmp_path: Path) -> None:
    rows = [row | {"t": datetime.time(10, step)} for step, row in enumerate(simple(4))]
    path = write_rows(tmp_path / "log.parquet", rows)
    with pytest.raises(UserError, match=r"--time t holds Time: a time of day alone .*combine it with the date"):
        import_log([str(path)], ID, SIMPLE)


@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        ("driving-v0", "no dataset id: namespace/name-vN"),
        ("company/driving", "no dataset id"),
        ("../company/driving-v0", "no dataset id"),
        ("company//driving-v0", "no dataset id"),
        ("c/driving-v0", "no dataset id"),
        ("iq-offline/hopper/expert-v0", "for the built-in datasets"),
        ("", "no dataset id"),
    ],
)
def test_ids_that_are_none(identifier: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        import_log(["nothing.csv"], identifier, SIMPLE)


def test_text_in_a_csv_file_is_shown_with_its_row(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("x,u\n1,0.5\nNA,0.25\nfast,0.5\n")
    with pytest.raises(UserError, match=r"log\.csv: column 'x' holds no numbers but text \(String\), 'fast' in row 3"):
        import_log([str(tmp_path / "log.csv")], ID, Columns(("x",), ("u",)))


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".ndjson", ".npz"])
def test_files_that_cannot_be_read(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"log{ending}"
    for content in (b"", b"\x80\x81 no file of any kind \n\xff\x00"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"log\."):
            import_log([str(path)], ID, SIMPLE)
    rows = [row for name in "abc" for row in simple(300, name)]
    whole = write_rows(path, rows).read_bytes()
    if ending in (".parquet", ".npz"):
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match=f"cannot be read as {'npz' if ending == '.npz' else 'Parquet'}"):
            import_log([str(path)], ID, SIMPLE)
    assert list(minari_root().iterdir()) == []


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "log.parquet", [row for name in "abc" for row in simple(300, name)])
    whole = path.read_bytes()
    for place in (40, len(whole) // 2):
        path.write_bytes(whole[:place] + bytes(360) + whole[place + 360 :])
        with pytest.raises(UserError, match=r"log\.parquet (cannot be read as Parquet|is damaged)"):
            import_log([str(path)], ID, SIMPLE)
        assert list(minari_root().iterdir()) == []


def test_a_file_that_ends_before_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is an error, not a shorter dataset."""
    path = write_rows(tmp_path / "log.parquet", simple(30))
    monkeypatch.setattr(log_files.TableFile, "rows", lambda file: 31)
    with pytest.raises(UserError, match=r"log\.parquet is damaged: 30 of its 31 rows can be read"):
        import_log([str(path)], ID, SIMPLE)
    assert list(minari_root().iterdir()) == []


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "log.npz", x=np.array([{"a": 1}, 2], object), u=np.zeros(2))
    with pytest.raises(UserError, match=r"log\.npz cannot be read as npz: Object arrays cannot be loaded"):
        import_log([str(tmp_path / "log.npz")], ID, Columns(("x",), ("u",)))


def test_arrays_of_several_lengths(tmp_path: Path) -> None:
    np.savez(tmp_path / "log.npz", x=np.zeros((5, 2)), u=np.zeros(3))
    with pytest.raises(UserError, match=r"'u' has shape \(3,\), 'x' has 5 rows"):
        import_log([str(tmp_path / "log.npz")], ID, Columns(("x",), ("u",)))


def test_files_that_are_not_there_or_do_not_fit(tmp_path: Path) -> None:
    write_rows(tmp_path / "log.parquet", simple(4))
    with pytest.raises(UserError, match=r"log\.parqet: no such file; did you mean 'log\.parquet'\?"):
        import_log([str(tmp_path / "log.parqet")], ID, SIMPLE)
    with pytest.raises(UserError, match=r"\*\.csv: no such file"):
        import_log([str(tmp_path / "*.csv")], ID, SIMPLE)
    write_rows(tmp_path / "log.csv", simple(4))
    with pytest.raises(UserError, match="CSV and Parquet files at once"):
        import_log([str(tmp_path)], ID, SIMPLE)
    (tmp_path / "log.xlsx").write_bytes(b"x")
    with pytest.raises(UserError, match=r"\.xlsx is not read; known are \.parquet"):
        import_log([str(tmp_path / "log.xlsx")], ID, SIMPLE)


def test_columns_that_change_from_file_to_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "1.parquet", simple(3))
    write_rows(tmp_path / "2.parquet", [row | {"x": [1.0, 2.0]} for row in simple(3, "b")])
    with pytest.raises(UserError, match=r"'x' holds 1 numbers a row in \S+1\.parquet and 2 in \S+2\.parquet"):
        import_log([str(tmp_path)], ID, SIMPLE)
    write_rows(tmp_path / "2.parquet", [row | {"x": round(row["x"] * 10)} for row in simple(3, "b")])
    assert observed(import_log([str(tmp_path)], ID, SIMPLE)) == [[0.0, 0.1, 0.2], [0.0, 1.0, 2.0]]


def test_episodes_of_one_row_are_told_how_to_be_used(imports: Imports) -> None:
    rows = [row | {"u": place / 2} for place, name in enumerate("abc") for row in simple(1, name)]
    told = "3 rows, 3 episodes of one row: --next-observation would name the next state"
    with pytest.raises(UserError, match=told):
        imports(rows)


def test_nothing_left(imports: Imports) -> None:
    rows = [row for name in "abc" for row in simple(1, name)]
    rows[2]["x"] = None
    with pytest.raises(
        UserError, match=r"nothing is left of log\d+\.parquet: 3 rows, 1 without an observation, 2 single"
    ):
        imports(rows, actions=Actions(low=(-1,), high=(1,)))
    assert list(minari_root().iterdir()) == []


def test_an_id_that_is_taken(tmp_path: Path) -> None:
    path = str(write_rows(tmp_path / "log.parquet", simple(4)))
    import_log([path], ID, SIMPLE)
    before = snapshot(minari_root())
    with pytest.raises(UserError, match=r"company/driving-v0 exists already in .*--replace"):
        import_log([path], ID, SIMPLE)
    assert snapshot(minari_root()) == before
    write_rows(Path(path), simple(7))
    assert import_log([path], ID, SIMPLE, replace=True).counts.transitions == 6
    assert minari.load_dataset(ID).total_steps == 6
    (minari_root() / "company" / "folder-v0" / "mine").mkdir(parents=True)
    with pytest.raises(UserError, match="exists already and is no dataset"):
        import_log([path], "company/folder-v0", SIMPLE, replace=True)


@pytest.mark.parametrize("inner", ["robots/arm-v0/left-v0", "robots/arm-v0/data/left-v0", "robots/arm-v0/a/b-v0"])
@pytest.mark.parametrize("first", ["outer", "inner"])
def test_no_dataset_in_the_folder_of_another(first: str, inner: str, tmp_path: Path) -> None:
    """What lies there would be deleted as the outer one is replaced."""
    path, outer = str(write_rows(tmp_path / "log.parquet", simple(4))), "robots/arm-v0"
    write_dataset(outer if first == "outer" else inner, counting_episodes([3]))
    before = snapshot(minari_root())
    with pytest.raises(UserError, match=r"the dataset robots/arm-v0.*: choose another"):
        import_log([path], inner if first == "outer" else outer, SIMPLE, replace=True)
    assert snapshot(minari_root()) == before


def test_a_dataset_beside_another_may_begin_with_its_name(tmp_path: Path) -> None:
    path = str(write_rows(tmp_path / "log.parquet", simple(4)))
    for identifier in ("robots/arm-v0", "robots/arm-v01", "robots/arm-v0"):
        import_log([path], identifier, SIMPLE, replace=True)
    assert local_ids() == ["robots/arm-v0", "robots/arm-v01"]


def test_interrupted_import_leaves_what_was_there(tmp_path: Path) -> None:
    path = str(write_rows(tmp_path / "log.parquet", [*simple(4), *simple(4, "b")]))
    import_log([path], ID, SIMPLE)
    before = snapshot(minari_root())

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_log([path], ID, SIMPLE, replace=True, on_progress=interrupt)
    assert snapshot(minari_root()) == before


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write_rows(tmp_path / "log.csv", [row for name in range(40) for row in simple(2000, str(name))]))
    with tmpfs(tmp_path / "small", "3m") as disk:
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(disk))
        with pytest.raises(UserError, match=f"no space left while importing company/driving-v0 in {disk}"):
            import_log([path], ID, SIMPLE)
        assert list(disk.iterdir()) == []


LARGE = """
import sys
from iq_offline.data.logs import Columns, import_log
def peak():
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
names = tuple(f"x{index}" for index in range(14))
def log(path, name):
    return import_log([path], name, Columns(names, ("u", "v"), "trip", "t"), on_progress=lambda done, total: None)
log(sys.argv[1], "company/small-v0")
before = peak()
counts = log(sys.argv[2], "company/large-v0").counts
print(peak() - before, counts.transitions, counts.episodes, counts.out_of_order)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "rows"), [(".parquet", 4_800_000), (".csv", 2_400_000)])
def test_a_log_larger_than_the_memory_it_takes(tmp_path: Path, ending: str, rows: int) -> None:
    """What is held at once hardly grows with the log: far less than the rows that a larger log has more.

    polars reads ahead, more in one run than in another, so the bound is half of those rows.
    """
    generator = np.random.default_rng(0)
    small, large = tmp_path / f"small{ending}", tmp_path / f"large{ending}"
    names = ["x" + str(index) for index in range(14)] + ["u", "v"]
    for path, count in ((small, 600_000), (large, rows)):
        numbers = np.arange(count)  # Trips all mixed: the worst order there is.
        frame = pl.DataFrame({"trip": numbers % 240, "t": numbers // 240 * 0.1})
        frame = frame.with_columns(pl.Series(name, generator.standard_normal(count)) for name in names)
        frame.write_parquet(path, row_group_size=50_000) if ending == ".parquet" else frame.write_csv(path)
        del frame
    done = python("-c", LARGE, str(small), str(large), env=os.environ | {"POLARS_MAX_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    growth, transitions, episodes_written, out_of_order = map(int, done.stdout.split())
    assert (transitions, episodes_written, out_of_order) == (rows - 240, 240, 0)
    more = (rows - 600_000) * 18 * 8 // 2**20
    print(f"{ending}: {growth} MB for {more} MB more of rows")
    assert growth < more / 2
