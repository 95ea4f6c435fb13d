"""From rows to runs, cells and comparisons: held against numbers computed by hand, on runs that never ran."""

import errno
import json
import math
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from iq_offline.errors import UserError
from iq_offline.evaluation.rows import EPISODES, SUMMARY
from iq_offline.sweeps.findings import unfinished_in
from iq_offline.sweeps.results import (
    comparisons_of,
    configuration,
    curves_of,
    expert_level,
    metric_of,
    read_episodes,
    runs_of,
    summary_of,
    varied,
)
from iq_offline.sweeps.words import kinds_in_words
from tests.data_helpers import python
from tests.sweeps.made_up import EXPERT_RETURN, RANDOM_RETURN, write_run, write_runs


def runs_in(folder: Path) -> pl.DataFrame:
    return runs_of(read_episodes(folder))


def rows(frame: pl.DataFrame, *columns: str) -> list[tuple[Any, ...]]:
    return frame.select(*columns).rows()


# ---------------------------------------------------------------------------------------------- rows -> runs


def test_a_run_is_the_mean_of_its_final_policy_s_episodes(tmp_path: Path) -> None:
    write_run(tmp_path / "b", [0.5, 1.0, 0.0], {"seed": 3}, held_out=0.25, snapshots={5: [9.0, 9.0]}, data_return=290.0)
    write_run(tmp_path / "a" / "inner", [1.0], {"algorithm": "bc"})
    runs = runs_in(tmp_path)
    assert runs["run"].to_list() == ["a/inner", "b"]
    (first, second) = runs.rows(named=True)
    assert second["score"] == pytest.approx(0.5)
    assert second["return"] == pytest.approx(200.0)
    assert (second["episodes"], first["episodes"]) == (3, 1)
    assert (second["seed"], second["algorithm"], first["algorithm"]) == (3, "iq_learn", "bc")
    assert (second["held_out_error"], first["held_out_error"]) == (0.25, None)
    assert (second["expert_return"], second["random_return"], second["data_return"]) == (300.0, 100.0, 290.0)
    assert second["gradient_steps"] == second["training.gradient_steps"] == 10_000
    assert json.loads(second["training.hidden_sizes"]) == [256, 256]


def test_runs_without_an_environment_and_without_references(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [], {"seed": 0}, held_out=0.5)
    write_run(tmp_path / "b", [0.5, 1.5], {"seed": 1}, references=False)
    write_run(tmp_path / "c", [], {"seed": 2})
    runs = runs_in(tmp_path)
    assert rows(runs, "run", "episodes", "return", "score", "held_out_error") == [
        ("a", 0, None, None, 0.5),
        ("b", 2, 300.0, None, None),
        ("c", 0, None, None, None),
    ]


def test_curves_have_a_point_for_each_policy(tmp_path: Path) -> None:
    steps = {"training.gradient_steps": 100}
    write_run(tmp_path / "a", [1.0, 0.5], {"seed": 1} | steps, snapshots={20: [0.0, 0.5], 60: [0.5, 0.5], 100: [9, 9]})
    write_run(tmp_path / "b", [0.0], {"seed": 2} | steps)
    write_run(tmp_path / "c", [], {"seed": 3} | steps, held_out=0.5)
    curves = curves_of(read_episodes(tmp_path))
    assert rows(curves, "run", "gradient_steps", "score", "seed") == [
        ("a", 20, 0.25, 1),
        ("a", 60, 0.5, 1),
        ("a", 100, 0.75, 1),
        ("b", 100, 0.0, 2),
    ]
    assert curves["expert_return"].unique().to_list() == [EXPERT_RETURN]
    assert curves["random_return"].unique().to_list() == [RANDOM_RETURN]


def test_what_is_not_finished_is_not_there(tmp_path: Path) -> None:
    """Folders of runs that have not come to an end yet, logs and locks are no runs."""
    write_run(tmp_path / "runs" / "seed=0", [1.0])
    for name in ("runs/seed=1", "logs", "locks", "results"):
        (tmp_path / name).mkdir()
    (tmp_path / "runs" / "seed=1" / "config.toml").write_text("")
    (tmp_path / "results" / "runs.parquet").write_bytes(b"no rows of a run")
    (tmp_path / "runs" / "seed=1" / ".episodes.parquet.x7d").write_bytes(b"half")
    assert runs_in(tmp_path)["run"].to_list() == ["runs/seed=0"]


@pytest.mark.parametrize("file", [EPISODES, SUMMARY])
def test_a_run_with_one_of_its_two_files_is_not_finished(file: str, tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"seed={seed}", [1.0], {"seed": seed})
    (tmp_path / "seed=1" / file).unlink()
    assert runs_in(tmp_path)["run"].to_list() == ["seed=0"]
    (tmp_path / "seed=0" / file).unlink()
    with pytest.raises(UserError, match="holds no finished run yet"):
        read_episodes(tmp_path)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in it would be missing without a word."""
    for name in ("a", "b"):
        write_run(tmp_path / name, [1.0])
    scan, closed = os.scandir, str(tmp_path / "b")

    def scandir(path: Any) -> Any:
        if str(path) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), closed)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    for read in (read_episodes, lambda folder: unfinished_in(folder, None)):
        with pytest.raises(UserError, match=f"cannot read {closed} .Permission denied."):
            read(tmp_path)


def test_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("none", "file"):
        with pytest.raises(UserError, match=f"no folder .*{name}: give the folder of a sweep or of runs"):
            read_episodes(tmp_path / name)
    (tmp_path / "empty" / "runs").mkdir(parents=True)
    with pytest.raises(UserError, match="empty holds no finished run yet"):
        read_episodes(tmp_path / "empty")


# ---------------------------------------------------------------------------------------------- odd folders

ODD = [
    "a b",
    "x=1",
    "seed=0,algorithm=bc",
    "50%20off",
    "été",
    "#1",
    "{a,b}",
    "~x",
    "a\\b",
    "$HOME",
    "q?",
    ".hidden",
    "-x",
    "[1]",
    "x[12]",
    "st*r",
    "**",
]


@pytest.mark.parametrize("name", ODD)
def test_folders_with_odd_names(name: str, tmp_path: Path) -> None:
    """Of the sweep and of the runs; nothing of a name is taken for a column, a pattern or a variable."""
    write_run(tmp_path / name / "inner" / name, [0.5], {"seed": 7})
    runs = runs_in(tmp_path / name)
    assert rows(runs, "run", "seed", "algorithm") == [(f"inner/{name}", 7, "iq_learn")]
    assert {"x", "inner"}.isdisjoint(runs.columns)


def test_a_folder_s_name_is_no_pattern(tmp_path: Path) -> None:
    """What matches it stays out."""
    for index, name in enumerate(("st*r", "star", "[ab]", "a", "q?", "qq")):
        write_run(tmp_path / name / "run", [0.5], {"seed": index})
    for index, name in ((0, "st*r"), (2, "[ab]"), (4, "q?")):
        assert runs_in(tmp_path / name)["seed"].to_list() == [index]


def test_links(tmp_path: Path) -> None:
    """Runs on another disk are found through a link; what two names lead to counts once; circles do not matter."""
    write_run(tmp_path / "elsewhere" / "b", [1.0], {"seed": 1})
    write_run(tmp_path / "mine" / "a", [0.5], {"seed": 0})
    (tmp_path / "mine" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "mine" / "latest").symlink_to(tmp_path / "mine" / "a")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "mine")
    assert runs_in(tmp_path / "mine")["seed"].to_list() == [0, 1]


def test_however_the_folder_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "runs" / "mine" / "runs" / f"seed={seed}", [0.5], {"seed": seed})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "link").symlink_to(tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path / "runs")
    expected = ["runs/seed=0", "runs/seed=1"]
    for given in (
        "mine",
        "mine/",
        "./mine",
        "../runs/mine",
        f"{tmp_path}/runs/mine//",
        "mine/runs/..",
        "../other/link",
    ):
        assert runs_in(Path(given))["run"].to_list() == expected, given
    assert runs_in(Path("."))["run"].to_list() == [f"mine/{name}" for name in expected]
    assert runs_in(Path("../runs"))["run"].to_list() == [f"mine/{name}" for name in expected]
    assert runs_in(Path("mine/runs"))["run"].to_list() == ["seed=0", "seed=1"]
    assert runs_in(Path("mine/runs/seed=1"))["seed"].to_list() == [1]


def test_runs_at_any_depth(tmp_path: Path) -> None:
    """As of several sweeps, and of single runs, in one folder."""
    for index, folder in enumerate(("one/runs/a", "one/runs/b", "two/x/y/z/c", "d")):
        write_run(tmp_path / folder, [1.0], {"seed": index})
    assert runs_in(tmp_path)["run"].to_list() == ["d", "one/runs/a", "one/runs/b", "two/x/y/z/c"]


# ---------------------------------------------------------------------------------------------- other versions


def rewrite(folder: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Make a run's rows those of another version."""
    change(pl.read_parquet(folder / EPISODES)).write_parquet(folder / EPISODES)


@pytest.mark.parametrize("older", ["a", "b"])
def test_rows_of_an_older_version_lack_keys(older: str, tmp_path: Path) -> None:
    """They had what is the default today; which of the files is read first does not matter."""
    write_run(tmp_path / "a", [0.5], {"seed": 0})
    write_run(tmp_path / "b", [1.0], {"seed": 1})
    write_run(tmp_path / "c", [1.0], {"seed": 1, "data.frame_stack": 3})
    rewrite(tmp_path / older, lambda frame: frame.drop("data.frame_stack", "data.observation_keys", "data_return"))
    runs = runs_in(tmp_path)
    assert rows(runs, "run", "data.frame_stack", "data.observation_keys", "data_return") == [
        *(("a", 1, "[]", None), ("b", 1, "[]", None), ("c", 3, "[]", None))
    ]
    assert varied(runs) == ["data.frame_stack"]


def test_rows_from_before_there_was_a_choice_had_what_there_was(tmp_path: Path) -> None:
    """ReLU, where the default is ELU now."""
    write_run(tmp_path / "a", [0.5], {"seed": 0})
    write_run(tmp_path / "b", [1.0], {"seed": 0})
    rewrite(tmp_path / "b", lambda frame: frame.drop("training.activation"))
    runs = runs_in(tmp_path)
    assert rows(runs, "run", "training.activation") == [("a", "elu"), ("b", "relu")]
    assert varied(runs) == ["training.activation"]


@pytest.mark.parametrize("newer", ["a", "b"])
def test_rows_of_another_version_have_other_columns(newer: str, tmp_path: Path) -> None:
    """In another order, narrower, and with keys that are not known here."""
    for seed, name in enumerate("ab"):
        write_run(tmp_path / name, [0.5], {"seed": seed})

    def change(frame: pl.DataFrame) -> pl.DataFrame:
        frame = frame.select(frame.columns[::-1]).cast({pl.Int64: pl.Int32})
        return frame.with_columns(pl.lit(3).alias("data.of_tomorrow"), pl.lit("x").alias("measured_tomorrow"))

    rewrite(tmp_path / newer, change)
    assert rows(runs_in(tmp_path), "run", "seed", "score") == [("a", 0, 0.5), ("b", 1, 0.5)]
    assert curves_of(read_episodes(tmp_path)).height == 2


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all", b"cut", b"middle", b"foreign"])
def test_damaged_rows_are_named(content: bytes, tmp_path: Path) -> None:
    write_run(tmp_path / "a", [0.5])
    whole = (write_run(tmp_path / "b", [0.5]) / EPISODES).read_bytes()
    middle, foreign = len(whole) // 2, BytesIO()
    pl.DataFrame({"return": ["high"], "seed": ["none"]}).write_parquet(foreign)
    content = content.replace(b"cut", whole[:middle]).replace(b"foreign", foreign.getvalue())
    content = content.replace(b"middle", whole[:100] + b"?" * (middle - 100) + whole[middle:])
    (tmp_path / "b" / EPISODES).write_bytes(content)
    write_run(tmp_path / "c", [0.5])
    with pytest.raises(UserError, match=r"b/episodes\.parquet is cut or damaged, or no run's: remove it"):
        read_episodes(tmp_path)


# ---------------------------------------------------------------------------------------------- twice, not finite


def test_a_learner_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """Counted twice it would make every interval too narrow; which of the two it is cannot be known."""
    for seed in (0, 1):
        write_run(tmp_path / "mine" / f"seed={seed}", [0.5], {"seed": seed, "recipe": "one"})
    runs_in(tmp_path)
    write_run(tmp_path / "copy" / "seed=1", [0.75], {"seed": 1, "recipe": "other"})
    with pytest.raises(UserError) as caught:
        runs_in(tmp_path)
    line = str(caught.value)
    assert "copy/seed=1" in line
    assert "mine/seed=1" in line
    write_run(tmp_path / "copy" / "seed=1", [0.75], {"seed": 1, "data.subsample": 5})
    assert runs_in(tmp_path).height == 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_a_score(value: float, tmp_path: Path) -> None:
    """It counts as not scored, so that one odd run does not take the table of all others with it."""
    write_run(tmp_path / "a", [0.5, value], {"seed": 0}, held_out=value)
    write_run(tmp_path / "b", [0.5, 0.5], {"seed": 1}, held_out=0.25)
    runs = runs_in(tmp_path)
    assert rows(runs, "seed", "score", "return", "held_out_error") == [(0, None, None, None), (1, 0.5, 200.0, 0.25)]
    (cell,) = summary_of(runs, [], metric_of(runs)).rows(named=True)
    assert (cell["n"], cell["mean"]) == (1, 0.5)


# ---------------------------------------------------------------------------------------------- what varies


def test_nothing_varies_but_the_seed(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / str(seed), [1.0], {"seed": seed, "recipe": f"r{seed}"})
    assert varied(runs_in(tmp_path)) == []


def test_what_was_measured_does_not_tell_cells_apart(tmp_path: Path) -> None:
    """A run that could not be scored belongs to the others with its configuration."""
    for seed, scores in enumerate(([1.0, 1.0], [], [1.0])):
        write_run(tmp_path / str(seed), scores, {"seed": seed}, held_out=0.1 * seed, git_commit=str(seed))
    runs = runs_in(tmp_path)
    assert varied(runs) == []
    assert "episodes" not in configuration(runs.columns)


def test_what_varies_comes_in_the_order_of_a_table(tmp_path: Path) -> None:
    changes = [
        {"training.batch_size": 8},
        {"data.subsample": 5},
        {"data.num_expert_trajectories": 3},
        {"data.suboptimal": ["a/b-v0"]},
        {"data.expert": "a/b-v0"},
        {"algorithm": "bc"},
        {},
    ]
    for index, change in enumerate(changes):
        write_run(tmp_path / str(index), [1.0], change)
    assert varied(runs_in(tmp_path)) == [
        *("algorithm", "data.expert", "data.suboptimal", "data.num_expert_trajectories", "data.subsample"),
        "training.batch_size",
    ]


def test_of_keys_that_change_together_the_first_is_enough(tmp_path: Path) -> None:
    """Suboptimal data decide the states of the value term, and here batches were doubled with them."""
    for index, parts in enumerate(([], ["a/b-v0:3"])):
        write_run(tmp_path / str(index), [1.0], {"data.suboptimal": parts, "training.batch_size": 8 * (1 + index)})
    assert varied(runs_in(tmp_path)) == ["data.suboptimal"]


def test_an_algorithm_does_not_stand_for_the_data_that_it_was_tried_on(tmp_path: Path) -> None:
    """As in a sweep that is partly finished: what is not the algorithm's own is always named."""
    write_run(tmp_path / "a", [1.0], {"algorithm": "bc", "data.num_expert_trajectories": 3})
    write_run(tmp_path / "b", [1.0], {"algorithm": "iq_learn", "iq_learn.temperature": 0.1, "training.batch_size": 8})
    runs = runs_in(tmp_path)
    assert varied(runs) == ["algorithm", "data.num_expert_trajectories"]
    write_run(tmp_path / "c", [1.0], {"algorithm": "bc"})
    assert varied(runs_in(tmp_path)) == ["algorithm", "data.num_expert_trajectories", "training.batch_size"]


def test_cells_are_told_apart_by_as_many_keys_as_it_takes(tmp_path: Path) -> None:
    for a in (1, 2):
        for b in (1, 2):
            write_run(
                tmp_path / f"{a}{b}",
                [1.0],
                {"data.subsample": a, "training.batch_size": b, "bc.learning_rate": a / b / 4},
            )
    assert varied(runs_in(tmp_path)) == ["data.subsample", "training.batch_size"]


# ---------------------------------------------------------------------------------------------- the metric


def test_the_best_metric_that_any_run_has(tmp_path: Path) -> None:
    write_run(tmp_path / "d", [], {"seed": 3})
    write_run(tmp_path / "c", [], {"seed": 2}, held_out=0.1)
    assert metric_of(runs_in(tmp_path)) == "held_out_error"
    write_run(tmp_path / "b", [1.0], {"seed": 1}, held_out=0.1, references=False)
    assert metric_of(runs_in(tmp_path)) == "return"
    write_run(tmp_path / "a", [1.0], {"seed": 0}, held_out=0.1)
    assert metric_of(runs_in(tmp_path)) == "score"


def test_no_metric_at_all(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [])
    with pytest.raises(UserError, match="no run was scored, and none has an error on held-out trajectories"):
        metric_of(runs_in(tmp_path))


# ---------------------------------------------------------------------------------------------- summary


def test_a_summary_by_hand(tmp_path: Path) -> None:
    """Interquartile mean without the lowest and the highest of five; worst, mean; the median of the seconds."""
    values = [0.0, 0.6, 0.7, 0.8, 1.5]
    for seed, value in enumerate(values):
        for algorithm, shift in (("bc", 0.0), ("iq_learn", -0.25)):
            own = {"algorithm": algorithm, "seed": seed}
            write_run(tmp_path / f"{algorithm}{seed}", [value + shift, value + shift], own, seconds=float(seed**2))
    runs = runs_in(tmp_path)
    summary = summary_of(runs, varied(runs), "score")
    assert summary.columns == ["algorithm", "n", "iqm", "low", "high", "mean", "worst", "return_mean", "seconds"]
    (bc, iq_learn) = summary.rows(named=True)
    assert (bc["algorithm"], bc["n"], bc["seconds"]) == ("bc", 5, 4.0)
    assert bc["iqm"] == pytest.approx(0.7)
    assert bc["mean"] == pytest.approx(0.72)
    assert bc["worst"] == pytest.approx(0.0)
    assert bc["return_mean"] == pytest.approx(100 + 200 * 0.72)
    assert 0.0 <= bc["low"] < bc["iqm"] < bc["high"] <= 1.5
    assert iq_learn["iqm"] == pytest.approx(0.45)
    assert iq_learn["low"] == pytest.approx(bc["low"] - 0.25), "the same draws for the same number of runs"
    assert rows(summary_of(runs, [], "score"), "n", "worst") == [(10, -0.25)]


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [0.5])
    (cell,) = summary_of(runs_in(tmp_path), [], "score").rows(named=True)
    assert (cell["n"], cell["iqm"], cell["mean"], cell["worst"]) == (1, 0.5, 0.5, 0.5)
    assert math.isnan(cell["low"])
    assert math.isnan(cell["high"])


def test_the_worst_error_is_the_highest(tmp_path: Path) -> None:
    for seed, error in enumerate((0.1, 0.4, 0.2)):
        write_run(tmp_path / str(seed), [], {"seed": seed}, held_out=error)
    (cell,) = summary_of(runs_in(tmp_path), [], "held_out_error").rows(named=True)
    assert cell["worst"] == 0.4
    assert cell["return_mean"] is None
    assert cell["mean"] == pytest.approx(0.7 / 3)


def test_runs_without_the_metric_are_left_out_and_cells_without_any(tmp_path: Path) -> None:
    for seed, scores in enumerate(([0.5], [], [0.7])):
        write_run(tmp_path / f"bc{seed}", scores, {"algorithm": "bc", "seed": seed})
        write_run(tmp_path / f"iq{seed}", [], {"algorithm": "iq_learn", "seed": seed})
    runs = runs_in(tmp_path)
    assert rows(summary_of(runs, ["algorithm"], "score"), "algorithm", "n", "mean") == [("bc", 2, pytest.approx(0.6))]


def test_several_datasets_and_mixtures_are_cells_of_their_own(tmp_path: Path) -> None:
    value = 0.0
    for expert in ("hopper/expert", "walker2d/expert"):
        for parts in ([], ["a/b-v0:3"], ["a/b-v0:3:hidden", "c/d-v0"]):
            for seed in (0, 1):
                value += 1.0
                own = {"data.expert": expert, "data.suboptimal": parts, "seed": seed}
                write_run(tmp_path / f"{value}", [value], own)
    runs = runs_in(tmp_path)
    by = varied(runs)
    assert by == ["data.expert", "data.suboptimal"]
    summary = summary_of(runs, by, "score")
    assert [cell["data.expert"] for cell in summary.rows(named=True)] == ["hopper/expert"] * 3 + ["walker2d/expert"] * 3
    shown = dict(
        zip(zip(summary["data.expert"].str.head(1), kinds_in_words(summary), strict=True), summary["mean"], strict=True)
    )
    assert shown == {
        ("h", "none"): 1.5,
        ("h", "b (3 episodes)"): 3.5,
        ("h", "d, 3 experts hidden"): 5.5,
        ("w", "none"): 7.5,
        ("w", "b (3 episodes)"): 9.5,
        ("w", "d, 3 experts hidden"): 11.5,
    }


# ---------------------------------------------------------------------------------------------- comparisons


def test_comparisons_by_hand(tmp_path: Path) -> None:
    write_runs(
        tmp_path,
        {
            ("bc", 1): [0.0, 0.5, 1.0],
            ("iq_learn", 1): [0.3, 0.8, 1.3],
            ("bc", 3): [0.9, 0.9, 0.9],
            ("iq_learn", 3): [0.9, 0.86, 0.94],
        },
    )
    runs = runs_in(tmp_path)
    comparisons = comparisons_of(runs, varied(runs), "score")
    (one, three) = comparisons.rows(named=True)
    assert [row["data.num_expert_trajectories"] for row in (one, three)] == [1, 3]
    assert {row["algorithm"] for row in (one, three)} == {"iq_learn"}
    assert {row["minus"] for row in (one, three)} == {"BC"}
    assert (one["pairs"], one["verdict"], three["verdict"]) == (3, "clearly above", "non-inferior")
    for end in ("difference", "low", "high"):
        assert one[end] == pytest.approx(0.3), "every pair differs by the same"
    assert three["difference"] == pytest.approx(0.0)
    assert three["low"] == pytest.approx(-0.04)
    assert three["high"] == pytest.approx(0.04)
    (back, _) = comparisons_of(runs, varied(runs), "score", "iq_learn").rows(named=True)
    assert (back["algorithm"], back["minus"], back["verdict"]) == ("bc", "IQ-Learn", "below")
    assert back["difference"] == pytest.approx(-0.3)


def test_pairs_are_of_the_same_seed_and_those_without_a_partner_are_left_out(tmp_path: Path) -> None:
    for seed, score in ((0, 0.1), (1, 0.2), (3, 0.4), (4, None), (5, 0.6)):
        write_run(tmp_path / f"bc{seed}", [] if score is None else [score], {"algorithm": "bc", "seed": seed})
    for seed, score in ((9, 0.0), (5, 0.7), (4, 0.5), (3, 0.5), (1, None), (2, 0.9)):
        write_run(tmp_path / f"iq{seed}", [] if score is None else [score], {"algorithm": "iq_learn", "seed": seed})
    runs = runs_in(tmp_path)
    (row,) = comparisons_of(runs, ["algorithm"], "score").rows(named=True)
    assert row["pairs"] == 2
    assert row["difference"] == pytest.approx(0.1)
    assert row["low"] == pytest.approx(0.1)


def test_one_pair_shows_nothing(tmp_path: Path) -> None:
    write_runs(tmp_path, {("bc", 1): [0.0, 0.5], ("iq_learn", 1): [1.0]})
    runs = runs_in(tmp_path)
    (row,) = comparisons_of(runs, varied(runs), "score").rows(named=True)
    assert (row["pairs"], row["difference"], row["verdict"]) == (1, 1.0, "unknown")
    assert math.isnan(row["low"])


def test_no_verdict_on_returns_and_errors(tmp_path: Path) -> None:
    for algorithm, error in (("bc", 0.5), ("iq_learn", 0.25)):
        for seed in (0, 1):
            write_run(tmp_path / f"{algorithm}{seed}", [], {"algorithm": algorithm, "seed": seed}, held_out=error)
    (row,) = comparisons_of(runs_in(tmp_path), ["algorithm"], "held_out_error").rows(named=True)
    assert (row["difference"], row["verdict"]) == (-0.25, None)


def test_nothing_to_compare(tmp_path: Path) -> None:
    write_runs(tmp_path / "one", {("bc", 1): [0.0, 0.5], ("bc", 3): [0.0, 0.5]})
    runs = runs_in(tmp_path / "one")
    assert comparisons_of(runs, varied(runs), "score").width == 0
    write_runs(tmp_path / "two", {("iq_learn", 1): [0.0, 0.5], ("iq_learn", 3): [0.0, 0.5]})
    runs = runs_in(tmp_path / "two")
    assert comparisons_of(runs, varied(runs), "score").width == 0


def test_learners_on_other_data_or_budgets_are_not_compared(tmp_path: Path) -> None:
    write_runs(tmp_path / "1", {("iq_learn", 1): [0.0, 0.5], ("bc", 3): [0.0, 0.5]})
    write_runs(tmp_path / "2", {("iq_learn", 1): [0.0, 0.5]}, {"training.gradient_steps": 50_000})
    write_runs(tmp_path / "2" / "bc", {("bc", 1): [0.0, 0.5]})
    for folder in ("1", "2"):
        runs = runs_in(tmp_path / folder)
        assert comparisons_of(runs, varied(runs), "score").width == 0, folder


def test_cells_are_compared_on_the_same_data_alone(tmp_path: Path) -> None:
    """The same dataset, number of trajectories, mixture and everything else that varies."""
    for expert, base in (("a/b-v0", 0.0), ("c/d-v0", 10.0)):
        for count in (1, 3):
            for parts in ([], ["e/f-v0"]):
                data = {"data.expert": expert, "data.num_expert_trajectories": count, "data.suboptimal": parts}
                level = base + count + (0.5 if parts else 0.0)
                for seed in (0, 1):
                    for algorithm, more in (("bc", 0.0), ("iq_learn", 0.125)):
                        own = data | {"algorithm": algorithm, "seed": seed}
                        write_run(tmp_path / f"{expert}{count}{len(parts)}{algorithm}{seed}", [level + more], own)
    runs = runs_in(tmp_path)
    comparisons = comparisons_of(runs, varied(runs), "score")
    assert comparisons.height == 8
    assert comparisons["difference"].to_list() == pytest.approx([0.125] * 8)


def test_coefficients_of_a_learner_are_compared_with_the_one_baseline(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"bc{seed}", [0.5], {"algorithm": "bc", "seed": seed})
        for temperature in (0.1, 0.2):
            own = {"algorithm": "iq_learn", "seed": seed, "iq_learn.temperature": temperature}
            write_run(tmp_path / f"iq{seed}{temperature}", [0.5 + temperature], own)
    runs = runs_in(tmp_path)
    by = varied(runs)
    assert by == ["algorithm", "iq_learn.temperature"]
    comparisons = comparisons_of(runs, by, "score")
    assert rows(comparisons, "iq_learn.temperature", "pairs") == [(0.1, 2), (0.2, 2)]
    assert comparisons["difference"].to_list() == pytest.approx([0.1, 0.2])


def test_each_variant_of_the_baseline_is_compared_with(tmp_path: Path) -> None:
    """And named: none of them is taken for the baseline without a word."""
    for seed in (0, 1):
        for loss, score in (("likelihood", 0.25), ("squared_error", 0.5)):
            own = {"algorithm": "bc", "seed": seed, "bc.loss": loss}
            write_run(tmp_path / f"bc{seed}{loss}", [score], own)
        for temperature in (0.1, 0.2):
            own = {"algorithm": "iq_learn", "seed": seed, "iq_learn.temperature": temperature}
            write_run(tmp_path / f"iq{seed}{temperature}", [0.5 + temperature], own)
    runs = runs_in(tmp_path)
    by = varied(runs)
    assert by == ["algorithm", "iq_learn.temperature", "bc.loss"]
    comparisons = comparisons_of(runs, by, "score")
    shown = {
        (row["iq_learn.temperature"], row["minus"]): (row["pairs"], round(row["difference"], 9))
        for row in comparisons.rows(named=True)
    }
    assert shown == {
        (0.1, "BC, loss likelihood"): (2, 0.35),
        (0.1, "BC, loss squared_error"): (2, 0.1),
        (0.2, "BC, loss likelihood"): (2, 0.45),
        (0.2, "BC, loss squared_error"): (2, 0.2),
    }


def test_what_only_others_read_makes_no_variants_of_the_baseline(tmp_path: Path) -> None:
    """BC beside each of two temperatures of IQ-Learn, in sweeps of their own, is the same BC."""
    for temperature in (0.1, 0.2):
        for seed in (0, 1):
            for algorithm, score in (("bc", 0.5), ("iq_learn", 0.75)):
                own = {"algorithm": algorithm, "seed": seed, "iq_learn.temperature": temperature}
                write_run(tmp_path / f"{temperature}" / f"{algorithm}{seed}", [score], own)
    runs = runs_in(tmp_path)
    assert runs.group_by("algorithm").len().sort("algorithm").rows() == [("bc", 2), ("iq_learn", 4)]
    summary = summary_of(runs, varied(runs), "score").filter(algorithm="bc")
    assert rows(summary, "n", "mean") == [(2, 0.5)], "its seeds count once"
    comparisons = comparisons_of(runs, varied(runs), "score")
    assert rows(comparisons, "iq_learn.temperature", "minus", "pairs", "difference") == [
        (0.1, "BC", 2, 0.25),
        (0.2, "BC", 2, 0.25),
    ]


def test_the_order_of_the_runs_changes_no_interval(tmp_path: Path) -> None:
    for seed, score in enumerate((0.877, 0.985, 0.725, 0.984, 0.97)):
        write_run(tmp_path / f"{seed}", [score], {"seed": seed})
    runs = runs_in(tmp_path)
    found = {
        tuple(summary_of(runs.sample(fraction=1, shuffle=True, seed=draw), [], "score").row(0)[:4]) for draw in range(6)
    }
    assert len(found) == 1


# ---------------------------------------------------------------------------------------------- expert level


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({1: [0.5, 0.6], 3: [0.96, 0.97], 10: [0.99, 1.0]}, 3),
        ({1: [0.96, 0.97], 3: [0.96, 0.97], 10: [0.99, 1.0]}, 1),
        ({1: [0.96, 0.97], 3: [0.5, 1.0], 10: [0.99, 1.0]}, 10),
        ({1: [0.96, 0.97], 3: [0.99, 1.0], 10: [0.9, 1.0]}, None),
        ({1: [0.5, 0.6], 3: [0.9, 0.9]}, None),
        ({1: [0.95, 0.95], 3: [0.95, 0.95]}, 1),
        ({1: [1.0], 3: [1.0]}, None),
        ({1: [1.0], 3: [1.0, 1.0]}, 3),
    ],
)
def test_expert_level(scores: dict[int, list[float]], expected: int | None, tmp_path: Path) -> None:
    """The smallest number from which on every interval's lower end is there; one seed has no interval."""
    write_runs(tmp_path, {("bc", count): values for count, values in scores.items()})
    assert expert_level(runs_in(tmp_path)) == {"bc": expected}


def test_expert_level_of_each_algorithm_and_over_all_that_varies(tmp_path: Path) -> None:
    good, bad = [0.97, 0.98], [0.5, 0.6]
    write_runs(tmp_path / "1", {("bc", 1): good, ("bc", 3): good, ("iq_learn", 1): bad, ("iq_learn", 3): bad})
    runs = runs_in(tmp_path)
    assert expert_level(runs) == {"bc": 1, "iq_learn": None}
    assert expert_level(runs, 0.4) == {"bc": 1, "iq_learn": 1}
    write_runs(tmp_path / "2", {("bc", 1): bad, ("bc", 3): good}, {"data.expert": "a/b-v0"})
    assert expert_level(runs_in(tmp_path))["bc"] == 3, "on both datasets"
    write_runs(tmp_path / "3", {("bc", 3): bad}, {"data.subsample": 5})
    assert expert_level(runs_in(tmp_path))["bc"] is None


def test_expert_level_without_scores(tmp_path: Path) -> None:
    """What was not scored is not at the expert's level, nor is anything below it."""
    for seed in (0, 1):
        for algorithm, count, scores in (("bc", 1, [1.0]), ("bc", 3, []), ("iq_learn", 1, []), ("iq_learn", 3, [])):
            own = {"algorithm": algorithm, "data.num_expert_trajectories": count, "seed": seed}
            write_run(tmp_path / f"{algorithm}{count}{seed}", scores, own)
    runs = runs_in(tmp_path)
    assert expert_level(runs) == {"bc": None, "iq_learn": None}
    assert expert_level(runs.filter(algorithm="iq_learn")) == {"iq_learn": None}


# ---------------------------------------------------------------------------------------------- imports


def test_tables_are_read_without_torch() -> None:
    """A folder of a thousand runs is a matter of a moment: nothing heavy is imported for it."""
    heavy = ("torch", "gymnasium", "minari", "tensordict", "mujoco", "matplotlib", "scipy", "h5py", "pandas", "pyarrow")
    code = "import sys, iq_offline.cli, iq_offline.sweeps.results, iq_offline.sweeps.tables; print(*sys.modules)"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "polars" in loaded
    assert loaded.isdisjoint(heavy)


@pytest.mark.parametrize(
    ("actors", "cells"),
    [
        ({}, ["algorithm"]),
        ({"bc": 1, "iq_learn": 1}, ["algorithm"]),
        ({"bc": 1}, ["algorithm", "training.actors"]),
    ],
)
def test_a_learner_that_is_better_alone_is_compared_all_the_same(
    actors: dict[str, int], cells: list[str], tmp_path: Path
) -> None:
    """ValueDICE acts by one network where others act by five; that others differ in it is named."""
    for algorithm in ("bc", "iq_learn", "valuedice"):
        for seed in (0, 1):
            own = {"algorithm": algorithm, "seed": seed, "training.actors": actors.get(algorithm, "auto")}
            write_run(tmp_path / "runs" / f"{algorithm}{seed}", [0.5 + seed], own)
    runs = runs_of(read_episodes(tmp_path))
    assert varied(runs) == cells
    assert comparisons_of(runs, cells, "score")["algorithm"].to_list() == (
        ["iq_learn", "valuedice"] if cells == ["algorithm"] else ["valuedice"]
    )
