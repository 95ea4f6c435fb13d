"""Which runs are one line, what it is called, how it looks."""

from typing import Any

import polars as pl
import pytest

from iq_offline.errors import UserError
from iq_offline.evaluation.plots import COLORS, style, styles
from iq_offline.sweeps.lines import SCORE, known, looks, measure_of, named_lines, points
from iq_offline.sweeps.statistics import estimate
from iq_offline.sweeps.words import COUNT
from tests.sweeps.frames import make_runs

CELL = ("data", COUNT)


def names(runs: pl.DataFrame, *varied: str) -> list[str]:
    return named_lines(runs, varied, CELL)["line"].unique(maintain_order=True).to_list()


def changed(key: str, *values: Any) -> tuple[dict[str, Any], ...]:
    return tuple({key: value} for value in values)


def test_lines_are_the_algorithms_in_plain_words_in_a_fixed_order() -> None:
    runs = make_runs(("value_dice", "bc", "iql", "iq_learn"))
    assert names(runs) == ["IQ-Learn", "BC", "iql", "value dice"]
    assert names(runs.reverse()) == ["IQ-Learn", "BC", "iql", "value dice"]


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("iq_learn.temperature", (0.1, 0.001, 10.0), ["temperature 0.001", "temperature 0.1", "temperature 10"]),
        ("data.subsample", (20, 1, 5), ["subsample 1", "subsample 5", "subsample 20"]),
        ("iq_learn.policy", ("best_episodes", "lookahead"), ["looking ahead", "best episodes"]),
        ("training.cosine_schedule", (True, False), ["no cosine schedule", "cosine schedule"]),
        ("iq_learn.value_states", ("initial", "expert"), ["value states expert", "value states initial"]),
        ("evaluation.seed", (10, 9), ["evaluation seed 9", "evaluation seed 10"]),
        (
            "data.suboptimal",
            ('[{"dataset": "c/d-v0", "episodes": 3, "hidden": false}]', "[]"),
            ["d (3 episodes)", "no suboptimal data"],
        ),
        ("training.hidden_sizes", ([64], [256, 256]), ["hidden sizes 256, 256", "hidden sizes 64"]),
        ("training.hidden_sizes", ("[64]", "[256, 256]"), ["hidden sizes 256, 256", "hidden sizes 64"]),
    ],
)
def test_lines_of_varied_keys_say_them_in_plain_words(key: str, values: tuple, expected: list[str]) -> None:
    runs = make_runs(("iq_learn",), changes=changed(key, *values))
    assert names(runs, key) == [f"IQ-Learn, {words}" for words in expected]


def test_what_does_not_vary_is_not_said() -> None:
    assert names(make_runs(), "iq_learn.temperature", "data.subsample") == ["IQ-Learn", "BC"]


def test_keys_that_end_alike_keep_their_section() -> None:
    changes = ({"one.rate": 1, "two.rate": 2}, {"one.rate": 2, "two.rate": 1})
    found = names(make_runs(("bc",), changes=changes), "one.rate", "two.rate")
    assert found == ["BC, one.rate 1, two.rate 2", "BC, one.rate 2, two.rate 1"]


def test_settings_of_another_algorithm_make_no_lines() -> None:
    """BC does not know the temperature: its runs at two of them are the same runs, and count once."""
    runs = make_runs(changes=changed("iq_learn.temperature", 0.1, 0.01))
    found = named_lines(runs, ("iq_learn.temperature",), CELL)
    sizes = dict(found.group_by("line").len().rows())
    assert sizes == {"IQ-Learn, temperature 0.01": 16, "IQ-Learn, temperature 0.1": 16, "BC": 16}


def test_different_configurations_are_not_pooled() -> None:
    runs = make_runs(changes=changed("iq_learn.temperature", 0.1, 0.01))
    with pytest.raises(UserError, match=r"seed 0 of IQ-Learn but differ in iq_learn\.temperature: tell lines apart"):
        named_lines(runs, (), CELL)
    one_more = runs.row(0, named=True) | {"run": "again", "training.hidden_sizes": [64], "iq_learn.temperature": 3.0}
    with pytest.raises(UserError, match=r"differ in iq_learn\.temperature and training\.hidden_sizes"):
        named_lines(pl.concat([runs.head(1), pl.DataFrame([one_more], schema=runs.schema)]), (), CELL)


def test_a_run_that_is_there_twice_counts_once() -> None:
    runs = make_runs()
    again = runs.with_columns(pl.col("run") + "-again", seconds=pl.lit(99.0))
    assert named_lines(pl.concat([again, runs]), (), CELL).equals(named_lines(runs, (), CELL))


def test_no_runs_and_no_such_key_are_told() -> None:
    with pytest.raises(UserError, match="no runs to draw"):
        named_lines(make_runs().clear(), (), CELL)
    with pytest.raises(UserError, match=r"'iq_learn\.temperatures'; did you mean 'iq_learn\.temperature'"):
        named_lines(make_runs(), ("iq_learn.temperatures",), CELL)


def test_an_algorithm_looks_alike_in_every_picture() -> None:
    for algorithms in (("bc",), ("bc", "iq_learn"), ("bc", "aaa", "sqil")):
        assert looks(named_lines(make_runs(algorithms), (), CELL))["BC"] == style(1)
    assert styles(["sqil", "aaa"])["sqil"] == style(3)
    several = make_runs(changes=changed("iq_learn.temperature", 0.1, 0.01))
    found = looks(named_lines(several, ("iq_learn.temperature",), CELL))
    assert list(found.values()) == [style(0), style(1), style(2)]


def test_forty_lines_differ_without_colour_and_many_more_with_it() -> None:
    assert len({(style(i)["marker"], style(i)["linestyle"]) for i in range(40)}) == 40
    assert len({str(style(i)) for i in range(280)}) == 280
    assert len({style(i)["color"] for i in range(len(COLORS))}) == len(COLORS)


def test_points_are_the_interquartile_means_of_the_known_scores() -> None:
    runs = make_runs(("bc",), counts=(10, 2), seeds=6)
    lost = (pl.col("seed") == 5) & (pl.col(COUNT) == 2)
    runs = runs.with_columns(
        score=pl.when(lost).then(None).when(pl.col("seed") == 4).then(float("nan")).otherwise("score")
    )
    runs = named_lines(runs, (), CELL)
    by_hand = {
        count: [row["score"] for row in runs.rows(named=True) if row[COUNT] == count and row["seed"] in seeds]
        for count, seeds in ((2, range(4)), (10, (0, 1, 2, 3, 5)))
    }
    assert points(runs, COUNT, SCORE) == [(count, estimate([scores])) for count, scores in by_hand.items()]


def test_the_measure_is_the_best_that_is_known() -> None:
    runs = make_runs()
    assert measure_of(runs) == SCORE
    one_left = runs.with_columns(score=pl.when(pl.col("run") == runs["run"][0]).then("score"))
    assert measure_of(one_left) == SCORE
    assert len(known(one_left, SCORE)) == 1
    unscored = runs.with_columns(score=pl.lit(None, pl.Float64))
    assert measure_of(unscored) == ("return", "return")
    trained = unscored.with_columns(pl.lit(None).alias("return"))  # A column of nulls without a type.
    assert measure_of(trained) == ("held_out_error", "held-out squared error")
    assert measure_of(trained.with_columns(held_out_measure=pl.lit("wrong_actions"))) == (
        "held_out_error",
        "held-out share of wrong actions",
    )
    mixed = trained.with_columns(held_out_measure=pl.when(pl.col("seed") == 0).then(pl.lit("wrong_actions")))
    assert measure_of(mixed.with_columns(pl.col("held_out_measure").fill_null("squared_error"))) == (
        "held_out_error",
        "held-out error",
    )
    assert measure_of(trained.drop("held_out_error", "held_out_measure")) is None
