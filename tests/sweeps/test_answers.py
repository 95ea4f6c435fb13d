"""The sentences that a report answers with, for every case."""

from typing import Any

import polars as pl
import pytest

from iq_offline.sweeps.answers import answers_of, in_short, is_anchored, overall, without_scores
from tests.sweeps.frames import make_runs


def answers(score: Any, **options: Any) -> list:
    return answers_of(make_runs(score=score, **options))


def sentence(score: Any, **options: Any) -> str:
    (answer,) = answers(score, algorithms=("bc",), **options)
    return answer.sentence


def by_count(**scores: float) -> Any:
    """Scores that depend on the number of trajectories, a little apart between seeds."""
    return lambda row: scores[f"n{row['data.num_expert_trajectories']}"] + 0.001 * row["seed"]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"n1": 0.5, "n3": 0.97, "n10": 0.99}, "expert level from 3 trajectories"),
        ({"n1": 0.96, "n3": 0.97, "n10": 0.99}, "expert level from 1 trajectory, the fewest tried"),
        (
            {"n1": 0.2, "n3": 0.3, "n10": 0.5},
            "expert level is not reached at any number tried (1, 3 and 10): with 10 trajectories its score is "
            "0.502 (0.500 to 0.503)",
        ),
        (
            {"n1": 0.2, "n3": 0.97, "n10": 0.5},
            "expert level with 3 trajectories, but not with every larger number tried: with 10 trajectories its score "
            "is 0.502 (0.500 to 0.503)",
        ),
        ({"n1": 0.97, "n3": 0.5, "n10": 0.97}, "expert level from 10 trajectories"),
    ],
)
def test_scores_of_several_seeds_have_an_answer(scores: dict[str, float], expected: str) -> None:
    assert sentence(by_count(**scores), counts=(1, 3, 10)) == expected


def test_one_number_of_trajectories_is_said_to_be_the_only_one() -> None:
    assert sentence(by_count(n5=0.97), counts=(5,)) == "expert level with 5 trajectories, the only number tried"
    expected = "expert level is not reached at the only number tried: with 5 trajectories its score is 0.202 (0.200 to"
    assert sentence(by_count(n5=0.2), counts=(5,)).startswith(expected)


def test_one_seed_is_no_answer() -> None:
    expected = "no answer: only one seed, so there is no interval; its score with 3 trajectories is 1.000"
    assert sentence(by_count(n1=1.0, n3=1.0), counts=(1, 3), seeds=1) == expected


def test_one_seed_at_the_largest_number_is_no_answer_yet() -> None:
    runs = make_runs(("bc",), counts=(1, 3), score=by_count(n1=1.0, n3=1.0))
    runs = runs.filter((pl.col("data.num_expert_trajectories") == 1) | (pl.col("seed") == 0))
    (answer,) = answers_of(runs)
    assert answer.kind == "no interval"
    assert answer.sentence.startswith("no answer: with 3 trajectories only one seed is done")


def test_runs_without_a_score_are_left_out() -> None:
    score = lambda row: None if row["data.num_expert_trajectories"] == 10 else 1.0  # noqa: E731
    assert sentence(score, counts=(1, 3, 10)) == "expert level from 1 trajectory, the fewest tried"


def test_each_learner_has_an_answer_and_a_setting_of_others_does_not_split_it() -> None:
    changes = [{"iq_learn.temperature": 0.1}, {"iq_learn.temperature": 0.001}]
    score = lambda row: 1.0 if row["algorithm"] == "bc" or row["iq_learn.temperature"] < 0.01 else 0.1  # noqa: E731
    runs = make_runs(counts=(1, 3), score=score, changes=changes)
    runs = runs.filter((pl.col("algorithm") == "iq_learn") | (pl.col("iq_learn.temperature") < 0.01))
    found = answers_of(runs)
    assert [answer.name for answer in found] == [
        "IQ-Learn, temperature 0.001",
        "IQ-Learn, temperature 0.1",
        "BC",
    ]
    assert [in_short(answer) for answer in found] == ["1", "not reached", "1"]


def test_settings_are_summed_up() -> None:
    score = lambda row: 1.0 if "hopper" in row["data.expert"] or row["data.num_expert_trajectories"] > 1 else 0.0  # noqa: E731
    experts = ("hopper/expert", "ant/expert")
    found = answers(score, algorithms=("bc",), experts=experts, counts=(1, 3))
    assert overall(found) == "expert level from 3 trajectories in all 2 settings"
    assert [answer.name for answer in found] == ["BC, ant/expert", "BC, hopper/expert"]
    lost = answers(lambda row: 0.1, algorithms=("bc",), experts=experts, counts=(1, 3))
    assert overall(lost) == "expert level is not reached in any of 2 settings"
    assert overall([found[0], lost[0]]) == "expert level in 1 of 2 settings"
    assert overall(found[:1]) == found[0].sentence


def test_settings_with_one_seed_have_no_answer_together_either() -> None:
    experts = ("hopper/expert", "ant/expert")
    single = answers(lambda row: 1.0, algorithms=("bc",), experts=experts, counts=(1, 3), seeds=1)
    assert overall(single) == "no answer: only one seed in each of 2 settings, so there is no interval"
    lost = answers(lambda row: 0.1, algorithms=("bc",), experts=experts, counts=(1, 3))
    unknown = "; 2 have one seed and no interval"
    assert overall([*lost, *single]) == f"expert level is not reached in any of 2 settings{unknown}"


def test_without_scores_the_errors_are_said() -> None:
    runs = make_runs(("bc",), counts=(1, 10), seeds=1, score=lambda row: None)
    expected = "its squared error on held-out trajectories is 0.100 with 1 trajectory and 0.010 with 10 trajectories"
    assert without_scores(runs, "held_out_error") == [("BC", expected)]


def test_without_references_the_returns_are_said() -> None:
    runs = make_runs(("bc",), counts=(1,), seeds=1).with_columns(pl.lit(None, pl.Float64).alias("score"))
    runs = runs.with_columns(pl.lit(123.456).alias("return"))
    assert without_scores(runs, "return") == [("BC", "its return is 123.5 with 1 trajectory")]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"iq_learn.behavior_anchor": 0.0}, False),
        ({"data.suboptimal": '[{"dataset": "hopper/medium"}]'}, False),
        ({"held_out_measure": "wrong_actions"}, False),
        ({"held_out_measure": None}, True),
        ({"algorithm": "bc"}, False),
        ({"online.env_steps": 30_000}, False),
    ],
)
def test_the_anchor_is_noticed_on_expert_data_alone(changes: dict[str, Any], expected: bool) -> None:
    row = {"algorithm": "iq_learn", "iq_learn.behavior_anchor": 10.0, "data.suboptimal": "[]"}
    row |= {"held_out_measure": "squared_error", "online.env_steps": 0} | changes
    assert is_anchored(pl.DataFrame([row], schema_overrides={"held_out_measure": pl.String})) is expected
