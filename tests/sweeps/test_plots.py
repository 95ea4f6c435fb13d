"""What pictures of sweeps show: values, labels, ticks, and that they can be read and written."""

import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection, LineCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from iq_offline.errors import UserError
from iq_offline.evaluation.plots import rendered
from iq_offline.sweeps.plots import (
    COLUMN,
    PAGE,
    expert_counts,
    heat_map,
    learners,
    learning_curves,
    performance_profiles,
    save_figure,
)
from iq_offline.sweeps.published import Published
from iq_offline.sweeps.statistics import estimate, performance_profile
from iq_offline.sweeps.words import COUNT
from tests.sweeps.frames import EXPERT_RETURN, RANDOM_RETURN, draw_score, make_curves, make_runs

REFERENCES = {"expert", "random"}
NAMES = {"iq_learn": "IQ-Learn", "bc": "BC"}


def without_scores(runs: pl.DataFrame) -> pl.DataFrame:
    return runs.with_columns(pl.lit(None, pl.Float64).alias(name) for name in ("score", "return"))


def lines(axes: Axes) -> dict[str, np.ndarray]:
    """Of each line in the legend its points, shape (points, 2)."""
    handles, names = axes.get_legend_handles_labels()
    return {name: np.asarray(handle.get_xydata()) for name, handle in zip(names, handles, strict=True)}  # type: ignore[attr-defined]


def bands(axes: Axes) -> list[np.ndarray]:
    """Of each band its x, lower and upper end, shape (points, 3); empty where nothing is drawn."""
    found = []
    for band in axes.collections:
        if isinstance(band, FillBetweenPolyCollection):
            corners = np.concatenate([path.vertices for path in band.get_paths()] or [np.empty((0, 2))])  # type: ignore[list-item]
            places = np.unique(corners[:, 0])
            ends = [corners[corners[:, 0] == place, 1] for place in places]
            found.append(np.array([(place, end.min(), end.max()) for place, end in zip(places, ends, strict=True)]))
    return found


def expected(runs: pl.DataFrame, along: str, **where: Any) -> np.ndarray:
    """Rows of the value on the axis, IQM, lower and upper end, straight from the frame."""
    for name, value in where.items():
        runs = runs.filter(pl.col(name) == value)
    groups = {value: runs.filter(pl.col(along) == value)["score"].to_list() for value in sorted(runs[along].unique())}
    return np.array([(value, *estimate([scores])[:3]) for value, scores in groups.items()])


def caption(figure: Figure) -> str:
    return figure.get_suptitle().replace("\n", " ")


def ticks(axes: Axes) -> tuple[list[float], list[str]]:
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    return list(axes.get_xticks()), [text.get_text() for text in axes.get_xticklabels()]


def test_lines_are_interquartile_means_and_bands_their_intervals() -> None:
    runs = make_runs()
    (axes,) = expert_counts(runs).axes
    drawn = lines(axes)
    assert list(drawn) == ["IQ-Learn", "BC", "expert", "random"]
    for (algorithm, name), band in zip(NAMES.items(), bands(axes), strict=True):
        wanted = expected(runs, COUNT, algorithm=algorithm)
        np.testing.assert_allclose(drawn[name], wanted[:, :2])
        np.testing.assert_allclose(band, wanted[:, [0, 2, 3]])
    assert set(drawn["expert"][:, 1]) == {1}
    assert set(drawn["random"][:, 1]) == {0}


def test_axes_say_what_they_are() -> None:
    figure = expert_counts(make_runs())
    (axes,) = figure.axes
    assert axes.get_xlabel() == "expert trajectories, complete"
    assert axes.get_ylabel() == "normalised score"
    assert axes.get_title() == "hopper/expert"
    assert caption(figure) == "interquartile mean over 4 seeds; band: 95% bootstrap interval"
    (axes,) = expert_counts(make_runs(changes=[{"data.subsample": 20}])).axes
    assert axes.get_xlabel() == "expert trajectories, 1 step in 20"
    both = make_runs(changes=[{"data.subsample": 20}, {"data.subsample": 1}])
    (axes,) = expert_counts(both, ["data.subsample"]).axes
    assert axes.get_xlabel() == "expert trajectories"
    assert len(lines(axes)) == 6


@pytest.mark.parametrize(
    ("counts", "scale"),
    [((1, 3, 10, 30), "log"), ((1, 2, 3, 4, 5, 6, 8, 10, 20, 1000), "function"), ((10, 11, 500), "function")],
)
def test_ticks_are_at_the_counts_and_do_not_touch(counts: tuple[int, ...], scale: str) -> None:
    figure = expert_counts(make_runs(counts=counts), width=COLUMN)
    (axes,) = figure.axes
    places, words = ticks(axes)
    assert places == list(counts)
    assert words == [f"{count:,}" for count in counts]
    assert axes.get_xscale() == scale
    assert len(axes.get_xticks(minor=True)) == 0
    np.testing.assert_array_equal(lines(axes)["BC"][:, 0], counts)
    boxes = [text.get_window_extent() for text in axes.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    low, high = axes.transAxes.inverted().transform(axes.transData.transform([(counts[0], 0), (counts[-1], 0)]))[:, 0]
    assert 0.02 < low < 0.1
    assert 0.9 < high < 0.98


def test_equally_spaced_counts_are_equally_spaced() -> None:
    (axes,) = expert_counts(make_runs(counts=range(1, 11))).axes
    places = axes.transData.transform([(count, 0) for count in range(1, 11)])[:, 0]
    np.testing.assert_allclose(np.diff(places), np.diff(places)[0])


def test_one_count_sets_the_algorithms_beside_each_other_with_error_bars() -> None:
    runs = make_runs(counts=(5,))
    (axes,) = expert_counts(runs).axes
    assert ticks(axes) == ([5], ["5"])
    drawn = lines(axes)
    np.testing.assert_allclose([drawn[name][0, 0] for name in NAMES.values()], [4.875, 5.125])
    bars = [collection for collection in axes.collections if isinstance(collection, LineCollection)]
    for algorithm, bar in zip(NAMES, bars, strict=True):
        _, _, low, high = expected(runs, COUNT, algorithm=algorithm)[0]
        np.testing.assert_allclose(np.asarray(bar.get_segments())[0, :, 1], [low, high])


def test_one_seed_is_a_line_without_band() -> None:
    runs = make_runs(seeds=1)
    figure = expert_counts(runs)
    (axes,) = figure.axes
    assert caption(figure) == "one seed"
    assert [len(band) for band in bands(axes)] == [0, 0]
    np.testing.assert_allclose(lines(axes)["BC"], expected(runs, COUNT, algorithm="bc")[:, :2])
    assert caption(learning_curves(make_curves(runs))) == "one seed; trajectories: complete"
    assert caption(performance_profiles(runs)) == "4 tasks, one seed"
    assert caption(heat_map(runs)) == "interquartile mean over one seed"


def test_missing_runs_leave_gaps_and_are_told() -> None:
    """IQ-Learn lost all of 3, all but one of 5, and one without a score at 10; BC has everything."""
    runs = make_runs(counts=(1, 3, 5, 10, 20))
    ours = pl.col("algorithm") == "iq_learn"
    gone = ours & ((pl.col(COUNT) == 3) | ((pl.col(COUNT) == 5) & (pl.col("seed") > 0)))
    lost = ours & (pl.col(COUNT) == 10) & (pl.col("seed") == 0)
    runs = runs.filter(~gone).with_columns(score=pl.when(lost).then(None).otherwise("score"))
    figure = expert_counts(runs)
    (axes,) = figure.axes
    assert ticks(axes)[0] == [1, 3, 5, 10, 20]
    wanted = expected(runs.drop_nulls("score"), COUNT, algorithm="iq_learn")
    np.testing.assert_allclose(lines(axes)["IQ-Learn"], wanted[:, :2])
    np.testing.assert_allclose(bands(axes)[0], wanted[[0, 2, 3]][:, [0, 2, 3]])
    (bar,) = [one for one in axes.collections if isinstance(one, LineCollection)]
    ends = np.asarray(
        bar.get_segments()
    )  # Of 1 alone: it has no neighbour that would make its band wider than nothing.
    np.testing.assert_allclose(ends, [[[1, wanted[0, 2]], [1, wanted[0, 3]]]])
    assert caption(figure).startswith("interquartile mean over 1 to 4 seeds; band")
    assert caption(figure).endswith("1 run without a value left out")
    for draw in (heat_map, performance_profiles, lambda frame: learning_curves(make_curves(frame))):
        rendered(draw(runs), "png")


def test_every_dataset_has_a_panel_with_its_own_measure() -> None:
    """On one nothing could be scored: it shows errors, without an expert's line; on another nothing is known."""
    runs = make_runs(experts=("b/scored", "a/trained"))
    trained = pl.col("data.expert") == "a/trained"
    runs = runs.with_columns(
        pl.when(trained).then(None).otherwise(name).alias(name) for name in ("score", "return", "expert_return")
    )
    nothing = runs.filter(trained).with_columns(
        pl.lit("c/nothing").alias("data.expert"), pl.lit(None, pl.Float64).alias("held_out_error")
    )
    figure = expert_counts(pl.concat([runs, nothing]))
    left, right = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["a/trained", "b/scored"]
    assert (left.get_ylabel(), right.get_ylabel()) == ("held-out squared error", "normalised score")
    assert list(lines(left)) == ["IQ-Learn", "BC"]
    errors = runs.filter(trained).with_columns(score="held_out_error")
    np.testing.assert_allclose(lines(left)["BC"], expected(errors, COUNT, algorithm="bc")[:, :2])
    assert caption(figure).endswith("32 runs without a value left out")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["IQ-Learn", "BC", "expert", "random"]


def test_returns_stand_beside_the_scores_where_the_references_are_the_same() -> None:
    runs = make_runs()
    (axes,) = expert_counts(runs).axes
    (right,) = axes.child_axes
    assert right.get_ylabel() == "return"
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    low, high = axes.get_ylim()
    width = EXPERT_RETURN - RANDOM_RETURN
    np.testing.assert_allclose(right.get_ylim(), [RANDOM_RETURN + low * width, RANDOM_RETURN + high * width])
    others = runs.with_columns(expert_return=pl.when(pl.col("seed") == 0).then(310.0).otherwise("expert_return"))
    (axes,) = expert_counts(others).axes
    assert not axes.child_axes


def test_the_mean_of_the_data_is_drawn_where_it_is_not_the_experts() -> None:
    (axes,) = expert_counts(make_runs(data_return=250.0)).axes
    np.testing.assert_allclose(lines(axes)["mean of the data"], [(count, 0.75) for count in (1, 3, 5, 10)])
    for same in (EXPERT_RETURN, EXPERT_RETURN + 1, None):
        (axes,) = expert_counts(make_runs(data_return=same)).axes
        assert set(lines(axes)) == {*NAMES.values(), *REFERENCES}


def test_others_numbers_are_thin_grey_lines_on_their_dataset() -> None:
    """Normalised with their own expert and our random policy; every panel has its own."""
    ours = make_runs(counts=(1, 10), experts=("a", "b"))
    curves = [
        Published("IQ-Learn", "x 2021", "a", 500.0, (1, 3, 10), (180.0, 300.0, 500.0)),
        Published("BC", "x 2021", "a", 500.0, (3,), (100.0,)),
        Published("BC", "x 2021", "c", 500.0, (3,), (100.0,)),
    ]
    first, second = expert_counts(ours, published=curves).axes
    drawn = lines(first)
    np.testing.assert_allclose(drawn["IQ-Learn, x 2021"], [(1, 0.2), (3, 0.5), (10, 1.0)])
    np.testing.assert_allclose(drawn["BC, x 2021"], [(3, 0.0)])
    assert set(lines(second)) == {*NAMES.values(), *REFERENCES}
    looks = {str(line.get_label()): line for line in first.get_lines()}
    assert looks["IQ-Learn, x 2021"].get_linewidth() < looks["IQ-Learn"].get_linewidth()
    assert looks["IQ-Learn, x 2021"].get_color() == looks["BC, x 2021"].get_color() == "#999999"
    assert looks["IQ-Learn, x 2021"]._dash_pattern != looks["BC, x 2021"]._dash_pattern  # type: ignore[attr-defined]
    assert ticks(first)[1] == ["1", "10"], "at our counts"


@pytest.mark.parametrize("name", ["IQ_$x", "$a$ for $10", "a$^$", "_ours"])
def test_any_name_of_a_published_learner_is_in_the_legend_as_it_is(name: str) -> None:
    curves = [Published(name, "x 2021", "hopper/expert", 500.0, (1, 3), (180.0, 300.0))]
    figure = expert_counts(make_runs(counts=(1, 3)), published=curves)
    assert f"{name}, x 2021" in {text.get_text().strip() for text in figure.legends[0].get_texts()}
    assert f"{name}, x 2021" in " ".join(rendered(figure, "svg").decode().split())


def test_lines_with_other_data_have_other_means() -> None:
    runs = make_runs(("bc",), changes=[{"data.suboptimal_fraction": share} for share in (0.2, 0.8)])
    share = pl.col("data.suboptimal_fraction")
    runs = runs.with_columns(data_return=300 - 100 * share)
    (axes,) = expert_counts(runs, ["data.suboptimal_fraction"]).axes
    found = {name: set(points[:, 1].round(9)) for name, points in lines(axes).items() if name.startswith("mean")}
    assert found == {
        "mean of the data of BC, suboptimal fraction 0.2": {0.9},
        "mean of the data of BC, suboptimal fraction 0.8": {0.6},
    }


KINDS = {
    "noisy": '[{"dataset": "hopper/noisy"}]',
    "random, 30 experts hidden": (
        '[{"dataset": "hopper/random"}, {"dataset": "hopper/expert", "episodes": 30, "hidden": true}]'
    ),
}


def make_mixtures(experts: tuple[str, ...] = ("hopper/expert",), **options: Any) -> pl.DataFrame:
    """Six learners on two kinds of data, one number of trajectories."""
    policies = [{"iq_learn.policy": one, "bc.imitate": "expert"} for one in ("survival", "weighted", "lookahead")]
    everything = {"iq_learn.policy": "lookahead", "bc.imitate": "everything"}
    changes = [
        change | {"data.suboptimal": kind, "data.subsample": 20}
        for change in (*policies, everything)
        for kind in KINDS.values()
    ]
    return make_runs(counts=(1,), seeds=5, experts=experts, changes=changes, **options)


OWN = ["iq_learn.policy", "bc.imitate"]
ROWS = ["IQ-Learn, looking ahead", "survival only", "IQ-Learn, weighted", "BC, labelled only", "BC, everything"]


def test_each_learner_is_a_row_with_its_mean_its_interval_and_its_seeds() -> None:
    score = lambda row: len(row["iq_learn.policy"]) / 10 + 0.01 * row["seed"] ** 2 + 0.1 * ("noisy" in str(row))  # noqa: E731
    figure = learners(make_mixtures(score=score), OWN)
    assert [axes.get_title().replace("\n", " ") for axes in figure.axes] == list(KINDS)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ROWS
    for axes, higher in zip(figure.axes, (0.1, 0.0), strict=True):
        assert axes.get_ylim() == (4.5, -0.5), "the first on top"
        dots = [line for line in axes.get_lines() if len(line.get_xdata()) == 5]  # type: ignore[arg-type]
        means = [line for line in axes.get_lines() if len(line.get_xdata()) == 1]  # type: ignore[arg-type]
        bars = [one for one in axes.collections if isinstance(one, LineCollection)]
        assert len(dots) == len(means) == len(bars) == len(ROWS)
        for place, letters in enumerate((9, 8, 8, 8, 9)):
            seeds = [letters / 10 + 0.01 * seed**2 + higher for seed in range(5)]
            middle = estimate([seeds])
            np.testing.assert_allclose(np.sort(np.asarray(dots[place].get_xdata())), seeds)
            np.testing.assert_allclose(np.asarray(means[place].get_xydata()), [(middle.value, place)])
            np.testing.assert_allclose(bars[place].get_segments()[0][:, 0], [middle.low, middle.high])
            assert bars[place].get_segments()[0][0][1] == place
        assert axes.get_xlabel() == "normalised score"
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    assert caption(figure) == (
        "hopper/expert; 1 expert trajectory, 1 step in 20; interquartile mean over 5 seeds; "
        "bar: 95% bootstrap interval; dots: single seeds"
    )


def test_tasks_and_kinds_of_data_are_a_grid() -> None:
    figure = learners(make_mixtures(experts=("hopper/expert", "ant/expert")), OWN)
    titles = [axes.get_title().split("\n", 1) for axes in figure.axes]
    assert [(task, kind.replace("\n", " ")) for task, kind in titles] == [
        (task, kind) for task in ("ant/expert", "hopper/expert") for kind in KINDS
    ]
    places = [axes.get_subplotspec() for axes in figure.axes]
    assert [(one.rowspan.start, one.colspan.start) for one in places] == [(0, 0), (0, 1), (1, 0), (1, 1)]  # type: ignore[union-attr]
    narrow = learners(make_mixtures(), OWN, width=COLUMN)
    assert [axes.get_subplotspec().colspan.stop for axes in narrow.axes] == [1, 1]  # type: ignore[union-attr]


def test_a_row_may_have_one_seed_or_none() -> None:
    runs = make_mixtures(data_return=250.0).unique(("data.suboptimal", "algorithm", *OWN, "seed"))
    noisy = pl.col("data.suboptimal") == KINDS["noisy"]
    survival = pl.col("iq_learn.policy") == "survival"
    weighted = pl.col("iq_learn.policy") == "weighted"
    ours = pl.col("algorithm") == "iq_learn"
    lost = (ours & noisy & survival) | (ours & noisy & weighted & (pl.col("seed") > 0))
    first, _ = learners(runs.filter(~lost), OWN).axes
    drawn = {int(line.get_ydata()[0]) for line in first.get_lines() if len(line.get_xdata()) == 1}  # type: ignore[arg-type, index]
    assert drawn == {0, 2, 3, 4}
    assert [text.get_text() for text in first.get_yticklabels()] == ROWS
    np.testing.assert_allclose(lines(first)["mean of the data"][:, 0], [0.75, 0.75])
    assert caption(learners(runs.filter(~lost), OWN)).count("over 1 to 5 seeds") == 1


def test_learning_curves_have_a_panel_for_each_count() -> None:
    curves = make_curves(make_runs(counts=(1, 10)))
    figure = learning_curves(curves)
    assert [axes.get_title() for axes in figure.axes] == [
        "hopper/expert\n1 expert trajectory",
        "hopper/expert\n10 expert trajectories",
    ]
    for axes, count in zip(figure.axes, (1, 10), strict=True):
        for (algorithm, name), band in zip(NAMES.items(), bands(axes), strict=True):
            wanted = expected(curves.filter(pl.col(COUNT) == count), "gradient_steps", algorithm=algorithm)
            np.testing.assert_allclose(lines(axes)[name], wanted[:, :2])
            np.testing.assert_allclose(band, wanted[:, [0, 2, 3]])
        assert axes.get_xlabel() == "gradient steps"
    assert [axes.get_ylabel() for axes in figure.axes] == ["normalised score", ""]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert caption(figure).endswith("interval; trajectories: complete")
    returns = learning_curves(curves.with_columns(score=pl.lit(None, pl.Float64)))
    assert [axes.get_ylabel() for axes in returns.axes] == ["return", "return"]


def test_learning_curves_of_online_runs_are_along_the_environment() -> None:
    """What met none is not on that axis: of an offline half the first point is the score."""
    runs = make_runs(counts=(1,))
    curves = make_curves(runs).with_columns(
        env_steps=pl.when(algorithm="iq_learn").then(pl.col("gradient_steps") + 1000).otherwise(None)
    )
    (axes,) = learning_curves(curves).axes
    assert axes.get_xlabel() == "steps in the environment"
    assert lines(axes)["IQ-Learn"][:, 0].tolist() == [2000, 3000, 6000]
    assert "BC" not in lines(axes)


def test_profiles_are_the_shares_of_runs_above_the_scores() -> None:
    runs = make_runs(experts=("a", "b"))
    figure = performance_profiles(runs)
    (axes,) = figure.axes
    for (algorithm, name), band in zip(NAMES.items(), bands(axes), strict=True):
        ours = runs.filter(pl.col("algorithm") == algorithm)
        tasks = [cell["score"].to_list() for cell in ours.sort("data.expert", COUNT).partition_by("data.expert", COUNT)]
        thresholds, share = lines(axes)[name].T
        wanted = performance_profile(tasks, thresholds)
        np.testing.assert_allclose(share, wanted.share)
        np.testing.assert_allclose(band[:, 1:], np.stack([wanted.low, wanted.high], -1))
        assert (share[0], share[-1]) == (1, 0)
    assert axes.get_ylabel() == "share of runs above it"
    assert caption(figure) == "8 tasks, 4 seeds; band: 95% bootstrap interval"


def test_profiles_compare_on_the_same_tasks_alone() -> None:
    runs = make_runs(counts=(1, 100))
    missing = runs.filter((pl.col("algorithm") == "bc") | (pl.col(COUNT) == 1))
    figure = performance_profiles(missing)
    same = performance_profiles(runs.filter(pl.col(COUNT) == 1))
    for name in NAMES.values():
        np.testing.assert_array_equal(lines(figure.axes[0])[name], lines(same.axes[0])[name])
    assert "1 task, 4 seeds" in caption(figure)
    assert "1 task left out that not all have runs on" in caption(figure)
    apart = runs.filter((pl.col("algorithm") == "bc") == (pl.col(COUNT) == 1))
    assert caption(performance_profiles(apart)).startswith("each on tasks of its own, 4 seeds")


def test_profiles_begin_at_minus_one_at_the_latest() -> None:
    (axes,) = performance_profiles(make_runs(score=lambda row: -30.0 if row["seed"] == 0 else 0.5)).axes
    thresholds, share = lines(axes)["BC"].T
    assert thresholds[0] == -1.05
    assert share[0] == 0.75


def test_heat_maps_say_the_interquartile_means() -> None:
    runs = make_runs(("iq_learn", "bc", "sqil"), counts=(1, 10), experts=("b/x", "a/y"))
    runs = runs.filter((pl.col("algorithm") != "sqil") | (pl.col("data.expert") != "a/y"))
    figure = heat_map(runs)
    first, second, bar = figure.axes
    assert (first.get_title(), second.get_title()) == (
        "1 expert trajectory, complete",
        "10 expert trajectories, complete",
    )
    assert [text.get_text() for text in second.get_xticklabels()] == ["IQ-Learn", "BC", "SQIL"]
    assert [text.get_text() for text in first.get_yticklabels()] == ["a/y", "b/x"]
    for axes, count in ((first, 1), (second, 10)):
        told = {text.get_position(): text.get_text() for text in axes.texts}
        for column, algorithm in enumerate(("iq_learn", "bc", "sqil")):
            for row, expert in enumerate(("a/y", "b/x")):
                cell = runs.filter(algorithm=algorithm).filter(
                    (pl.col("data.expert") == expert) & (pl.col(COUNT) == count)
                )
                wanted = f"{estimate([cell['score'].to_list()]).value:.2f}" if len(cell) else None
                assert told.get((column + 0.5, row + 0.5)) == wanted
        (hatched,) = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        assert hatched.get_xy() == (2, 0)
        assert hatched.get_hatch()
        (mesh,) = [one for one in axes.collections if isinstance(one, QuadMesh)]
        assert mesh.get_clim() == (0, 1)
    assert bar.get_xlabel() == "normalised score"
    assert caption(figure) == "interquartile mean over 4 seeds; hatched: no scores"


def test_the_colours_of_heat_maps_are_ordered_in_grey() -> None:
    scores = dict(zip("abcdef", (-0.5, 0.1, 0.3, 0.6, 0.9, 1.4), strict=True))
    figure = heat_map(make_runs(tuple(scores), counts=(1,), score=lambda row: scores[row["algorithm"]]))
    figure.draw_without_rendering()
    (mesh,) = [one for one in figure.axes[0].collections if isinstance(one, QuadMesh)]
    grey = np.asarray(mesh.get_facecolor())[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(grey) > 0.05).all()
    ink = [0.0 if text.get_color() == "black" else 1.0 for text in figure.axes[0].texts]
    assert (np.abs(grey - ink) > 0.4).all()


def test_rehearsals_are_no_results() -> None:
    runs = make_runs().with_columns(fast=True)
    for figure in (expert_counts(runs), heat_map(runs), performance_profiles(runs), learning_curves(make_curves(runs))):
        assert caption(figure).endswith("fast: not a result")


def test_nothing_to_draw_is_told() -> None:
    runs = without_scores(make_runs())
    for draw in (heat_map, performance_profiles):
        with pytest.raises(UserError, match="no run has a score"):
            draw(runs)
    with pytest.raises(UserError, match="no run has a score, a return or an error"):
        expert_counts(runs.with_columns(held_out_error=pl.lit(None, pl.Float64)))
    with pytest.raises(UserError, match="no run has a score, a return or an error"):
        learning_curves(make_curves(runs))


PICTURES: dict[str, Callable[[], Figure]] = {
    "expert_counts": lambda: expert_counts(
        make_runs(
            ("iq_learn", "bc", "value_dice"),
            (1, 2, 3, 5, 10, 100),
            experts=("mujoco/halfcheetah/expert-v0", "hopper/expert"),
            data_return=200.0,
        ),
        width=COLUMN,
    ),
    "varied": lambda: expert_counts(
        make_runs(
            changes=[
                {"iq_learn.temperature": t, "iq_learn.target_network": f} for t in (0.1, 1.0) for f in (True, False)
            ]
        ),
        ["iq_learn.temperature", "iq_learn.target_network"],
        width=COLUMN,
    ),
    "learning_curves": lambda: learning_curves(make_curves(make_runs(counts=(1, 3, 10))), width=COLUMN),
    "learners": lambda: learners(make_mixtures(data_return=200.0), OWN, width=COLUMN),
    "tasks and kinds": lambda: learners(make_mixtures(experts=("mujoco/halfcheetah/expert-v0", "a/b")), OWN),
    "performance_profiles": lambda: performance_profiles(make_runs(("iq_learn", "bc", "value_dice")), width=COLUMN),
    "heat_map": lambda: heat_map(
        make_runs(
            ("iq_learn", "bc", "value_dice"),
            counts=(1, 10),
            experts=("mujoco/halfcheetah/expert-v0", "hopper/expert"),
            score=lambda row: None if row["algorithm"] == "bc" else draw_score(row),
        ),
        width=COLUMN,
    ),
    "names longer than the map is high": lambda: heat_map(
        make_runs(
            ("iq_learn",),
            counts=(1,),
            seeds=2,
            changes=[
                {"iq_learn.critic_learning_rate": 1e-3, "iq_learn.gradient_penalty": value / 7} for value in range(12)
            ],
        ),
        ["iq_learn.critic_learning_rate", "iq_learn.gradient_penalty"],
    ),
}


def shown_texts(figure: Figure) -> list[Text]:
    """Everything there is to read; the axes also keep labels of ticks beyond their ends, which are not drawn."""
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in [*figure.axes, *(child for parent in figure.axes for child in parent.child_axes)]:
        found += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]  # type: ignore[attr-defined]
        for axis in (axes.xaxis, axes.yaxis):  # type: ignore[attr-defined]
            low, high = sorted(axis.get_view_interval())
            found += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [text for text in found if text.get_text() and text.get_visible()]


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_can_be_read_in_one_column(name: str) -> None:
    """Seven points or more, nothing cut off at the edges, no legend over the axes, no panel over another."""
    figure = PICTURES[name]()
    figure.draw_without_rendering()
    assert figure.get_figwidth() in (COLUMN, PAGE)
    page = figure.bbox.padded(1)
    texts = shown_texts(figure)
    assert len(texts) > 8
    for text in texts:
        assert text.get_fontsize() in (7, 8), text
        corners = text.get_window_extent().corners()
        assert all(page.contains(*corner) for corner in corners), text
    for legend in figure.legends:
        assert not any(legend.get_window_extent().overlaps(axes.get_tightbbox()) for axes in figure.axes)  # type: ignore[arg-type]
    panels = [axes for axes in figure.axes if axes.get_ylabel() or axes.get_title()]
    boxes = [axes.get_window_extent() for axes in panels]
    assert all(min(box.width, box.height) > 0.45 * figure.dpi for box in boxes)
    tight = [axes.get_tightbbox() for axes in panels]
    assert not any(one.overlaps(other) for i, one in enumerate(tight) for other in tight[:i])  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("name", ["expert_counts", "varied", "learning_curves", "performance_profiles"])
def test_lines_differ_in_grey(name: str) -> None:
    for axes in PICTURES[name]().axes:
        drawn = [line for line in axes.get_lines() if line.get_label() in lines(axes)]
        assert len(drawn) >= 4
        assert len({f"{line.get_marker()} {line._dash_pattern}" for line in drawn}) == len(drawn)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_written_in_three_formats(name: str, tmp_path: Path) -> None:
    files = save_figure(PICTURES[name](), tmp_path / "new" / "sweep-v0.1")
    assert files == [tmp_path / "new" / f"sweep-v0.1.{kind}" for kind in ("png", "svg", "pdf")]
    assert sorted(files) == sorted((tmp_path / "new").iterdir())
    png, svg, pdf = (file.read_bytes() for file in files)
    with Image.open(io.BytesIO(png)) as picture:
        grey = np.asarray(picture.convert("L"))
        assert picture.width in (COLUMN * 200, PAGE * 200)
    assert 0.02 < (grey < 200).mean() < 0.8
    assert (grey == 255).mean() > 0.2
    assert svg.startswith(b"<?xml")
    assert b"<text" in svg
    for word in (b"normalised score", b"IQ-Learn", b"seeds"):
        assert word in svg
    assert b"<dc:date" not in svg
    assert pdf.startswith(b"%PDF")
    assert b"CreationDate" not in pdf
    assert b"/Type3" not in pdf
    assert len(pdf) > 5_000


def test_the_same_runs_are_the_same_bytes() -> None:
    """Whatever the order of the rows."""
    runs = make_runs(experts=("b", "a"))
    for kind in ("png", "svg", "pdf"):
        assert rendered(expert_counts(runs), kind) == rendered(
            expert_counts(runs.sample(fraction=1, shuffle=True)), kind
        )


def test_one_format_can_be_asked_for(tmp_path: Path) -> None:
    assert save_figure(heat_map(make_runs()), tmp_path / "heat", ["svg"]) == [tmp_path / "heat.svg"]
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["heat.svg"]
