"""What learners, settings and kinds of data are called."""

import json
from typing import Any

import polars as pl
import pytest

from iq_offline.data.views import short
from iq_offline.sweeps.words import as_words, kinds_in_words, with_data, with_lines
from tests.sweeps.frames import make_runs

RANDOM = [{"dataset": "hopper/random"}, {"dataset": "hopper/expert", "episodes": 30, "hidden": True}]
NOISY = [{"dataset": "hopper/noisy"}]


def of_kinds(*kinds: list[Any], expert: str = "hopper/expert") -> pl.DataFrame:
    return pl.DataFrame([{"data.expert": expert, "data.suboptimal": json.dumps(kind)} for kind in kinds])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("[]", "none"),
        ("[256, 256]", "256, 256"),
        (json.dumps(RANDOM), "hopper/random, 30 experts hidden"),
        ('[{"dataset": "a/b-v0"}, {"dataset": "c/d-v0", "episodes": 2000}]', "a/b-v0 + c/d-v0 (2,000 episodes)"),
        ('[{"dataset": "a/b-v0", "hidden": true}]', "experts hidden"),
        ("bc", "bc"),
        (3, "3"),
        (0.001, "0.001"),
        (True, "True"),
    ],
)
def test_values_in_words(value: object, words: str) -> None:
    assert as_words(value) == words


def test_kinds_of_data_are_called_by_the_last_part_of_their_names() -> None:
    other = [{"dataset": "company/trips-v3", "episodes": 1}]
    assert kinds_in_words(of_kinds(RANDOM, NOISY, [], other)) == [
        "random, 30 experts hidden",
        "noisy",
        "none",
        "trips (1 episode)",
    ]


def test_kinds_that_would_be_called_alike_keep_their_names() -> None:
    """But those of another expert are of the same kind."""
    ours, theirs = [{"dataset": "a/noisy-v0"}], [{"dataset": "a/noisy-v1"}]
    assert kinds_in_words(of_kinds(ours, theirs, NOISY[:0])) == ["a/noisy-v0", "a/noisy-v1", "none"]
    frame = pl.concat([of_kinds(NOISY), of_kinds(ours, expert="a/expert-v0")])
    assert kinds_in_words(frame) == ["noisy", "noisy"]


def test_data_are_named_by_what_varies() -> None:
    def named(frame: pl.DataFrame) -> list[str]:
        return with_data(frame)["data"].unique().sort().to_list()

    ant = [{"dataset": "ant/noisy"}]
    assert named(of_kinds(RANDOM)) == ["hopper/expert"]
    assert named(of_kinds(RANDOM, NOISY, [])) == ["no suboptimal data", "noisy", "random, 30 experts hidden"]
    several = pl.concat([of_kinds(NOISY, []), of_kinds(ant, expert="ant/expert")])
    assert named(several) == ["ant/expert\nnoisy", "hopper/expert\nno suboptimal data", "hopper/expert\nnoisy"]
    assert named(pl.concat([of_kinds(NOISY), of_kinds(ant, expert="ant/expert")])) == ["ant/expert", "hopper/expert"]
    amounts = [[{"dataset": "a/b", "episodes": count}] for count in (100, 20)]
    assert named(of_kinds(*amounts)) == ["b (20 episodes)", "b (100 episodes)"]


def test_learners_are_named_by_what_tells_them_apart() -> None:
    keys = ["data.suboptimal", "iq_learn.policy", "bc.imitate"]
    policies = ("best_episodes", "survival", "lookahead", "weighted")
    changes = [{"iq_learn.policy": policy, "bc.imitate": "expert"} for policy in policies]
    changes.append({"iq_learn.policy": "lookahead", "bc.imitate": "everything"})
    runs = make_runs(counts=(1,), seeds=1, changes=changes)
    named = with_lines(runs, keys)
    assert named["line"].unique().sort().to_list() == [
        "IQ-Learn, looking ahead",
        "survival only",
        "IQ-Learn, weighted",
        "IQ-Learn, best episodes",
        "BC, labelled only",
        "BC, everything",
    ]
    assert named["run"].to_list() == runs["run"].to_list(), "the rows stay where they are"
    both = with_lines(pl.concat([runs, runs.with_columns(pl.lit(json.dumps(NOISY)).alias("data.suboptimal"))]), keys)
    assert "survival only, noisy" in both["line"].to_list()
    assert "BC, everything, no suboptimal data" in both["line"].to_list()


def test_settings_that_differ_one_at_a_time_are_called_by_what_differs() -> None:
    usual = {"iq_learn.chi2_alpha": 0.5, "training.layer_norm": "none"}
    changes = [usual, *({**usual, **one} for one in ({"iq_learn.chi2_alpha": 0.17}, {"training.layer_norm": "all"}))]
    keys = [*usual]
    alone = make_runs(("iq_learn",), counts=(1,), seeds=2, changes=changes)
    runs = pl.concat([alone, make_runs(("bc",), counts=(1,), seeds=2, changes=[usual])])
    assert with_lines(runs, keys)["line"].unique().sort().to_list() == [
        "IQ-Learn",
        "IQ-Learn, layer norm all",
        "IQ-Learn, chi2 alpha 0.17",
        "BC, layer norm none",
    ]
    crossed = {"iq_learn.chi2_alpha": 0.17, "training.layer_norm": "all"}
    all_four = make_runs(("iq_learn",), counts=(1,), seeds=1, changes=[*changes, crossed])
    assert with_lines(all_four, keys)["line"].to_list()[0] == "IQ-Learn, chi2 alpha 0.5, layer norm none"


def test_a_change_that_decides_another_makes_no_name_longer() -> None:
    """Without an anchor Adam's momentum is another by itself: one setting of six differs in two places."""
    usual = {"iq_learn.behavior_anchor": 30.0, "iq_learn.adam_beta1": 0.9, "iq_learn.chi2_alpha": 0.5}
    single = [{"iq_learn.behavior_anchor": value} for value in (10.0, 90.0)]
    single += [{"iq_learn.chi2_alpha": value} for value in (0.17, 1.5)]
    double = {"iq_learn.behavior_anchor": 0.0, "iq_learn.adam_beta1": 0.5}
    changes = [usual, *({**usual, **one} for one in (*single, double))]
    named = with_lines(make_runs(("iq_learn",), counts=(1,), seeds=1, changes=changes), [*usual])
    assert set(named["line"]) == {
        "IQ-Learn",
        "IQ-Learn, behavior anchor 10",
        "IQ-Learn, behavior anchor 90",
        "IQ-Learn, chi2 alpha 0.17",
        "IQ-Learn, chi2 alpha 1.5",
        "IQ-Learn, behavior anchor 0, adam beta1 0.5",
    }


def test_long_views_are_named_by_where_they_begin() -> None:
    """Their episodes one by one would fill a page, and no figure has room for that."""
    even, odd = (f"hopper/expert[{','.join(map(str, range(first, 100, 2)))}]" for first in (0, 1))
    runs = make_runs(experts=(even, odd))
    shown = with_data(runs)["data"].unique().to_list()
    assert sorted(shown) == sorted(map(short, (even, odd)))
    assert max(map(len, shown)) < 40
    lines = with_lines(runs, ["data.expert"])["line"].unique().to_list()
    assert max(map(len, lines)) < 60
