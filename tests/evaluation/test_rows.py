"""A run's rows: one an evaluated episode, each with the whole configuration, whatever was measured and what not."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from iq_offline.config import (
    DataConfig,
    OnlineConfig,
    RunConfig,
    Suboptimal,
    TrainingConfig,
    flat,
    from_table,
    resolved,
    to_table,
    to_toml,
)
from iq_offline.errors import UserError
from iq_offline.evaluation.rows import EPISODES, MEASURED, episode_rows, write_episodes
from iq_offline.files import write_atomically


def summary(**changes: Any) -> dict[str, Any]:
    """What a run writes as its summary, as far as rows are concerned: two episodes and one snapshot before."""
    return {
        "gradient_steps": 100,
        "returns": [12.0, 20.0],
        "curve": [{"gradient_steps": 50, "returns": [8.0, 4.0]}, {"gradient_steps": 100, "returns": [12.0, 20.0]}],
        "expert_return": 20.0,
        "random_return": 4.0,
        "data_return": 19.0,
        "normalized_score": 0.75,
        "held_out": {"measure": "squared_error", "error": 0.125, "trajectories": 5},
        "seconds": 1.5,
        "evaluation_seconds": 0.5,
        "git_commit": "abc",
    } | changes


def test_a_row_for_each_episode_of_each_policy() -> None:
    rows = episode_rows(summary(), resolved(RunConfig()))
    shown = rows.select("gradient_steps", "is_final", "episode", "return", "score").rows()
    assert shown == [
        (100, True, 0, 12.0, 0.5),
        (100, True, 1, 20.0, 1.0),
        (50, False, 0, 8.0, 0.25),
        (50, False, 1, 4.0, 0.0),
    ]
    assert rows["data_return"].unique().to_list() == [19.0]
    assert rows.select("expert_return", "random_return", "held_out_error", "held_out_measure").unique().rows() == [
        (20.0, 4.0, 0.125, "squared_error")
    ]
    assert rows.select("seconds", "evaluation_seconds", "git_commit").unique().rows() == [(1.5, 0.5, "abc")]


def test_every_row_has_the_whole_configuration() -> None:
    config = resolved(
        RunConfig(
            recipe="mine",
            algorithm="bc",
            seed=3,
            data=DataConfig("a/b-v0", suboptimal=(Suboptimal("c/d-v0", 3), Suboptimal("e/f-v0", hidden=True))),
            training=TrainingConfig(hidden_sizes=(8, 9)),
        )
    )
    rows = episode_rows(summary(), config)
    table = flat(to_table(config))
    assert set(rows.columns) == {*MEASURED, *table}
    for key, value in table.items():
        (stored,) = rows[key].unique().to_list()
        assert (json.loads(stored) if isinstance(value, list) else stored) == value, key
    assert rows["iq_learn.value_states"][0] == "mixture", "resolved"


@pytest.mark.parametrize("held_out", [None, {"measure": "wrong_actions", "error": 0.25, "trajectories": 1}])
def test_a_run_that_was_not_evaluated_has_one_row(held_out: dict[str, Any] | None) -> None:
    nothing = dict.fromkeys(("expert_return", "random_return", "data_return", "normalized_score"))
    rows = episode_rows(summary(returns=[], curve=[], held_out=held_out, **nothing), resolved(RunConfig()))
    (row,) = rows.rows(named=True)
    assert row["is_final"] is True
    assert row["gradient_steps"] == 100
    for name in ("episode", "return", "score", "expert_return", "random_return", "data_return"):
        assert row[name] is None, name
    assert (row["held_out_error"], row["held_out_measure"]) == ((0.25, "wrong_actions") if held_out else (None, None))
    assert rows.schema == episode_rows(summary(), resolved(RunConfig())).schema


@pytest.mark.parametrize(("expert", "random"), [(None, 4.0), (20.0, None), (None, None), (4.0, 4.0)])
def test_without_references_there_are_returns_and_no_scores(expert: float | None, random: float | None) -> None:
    given = summary(expert_return=expert, random_return=random, normalized_score=None)
    rows = episode_rows(given, resolved(RunConfig()))
    assert rows["return"].to_list() == [12.0, 20.0, 8.0, 4.0]
    assert rows["score"].null_count() == 4
    assert rows["expert_return"].unique().to_list() == [expert]


@pytest.mark.parametrize(("start", "words"), [("iq_learn", "offline"), ("bc", "offline bc"), ("gone", "offline")])
def test_an_online_run_says_which_learner_it_began_with(start: str, words: str, tmp_path: Path) -> None:
    """And not where: seeds of one setting begin in folders of their own."""
    for algorithm in ("iq_learn", "bc"):
        write_atomically(tmp_path / algorithm / "config.toml", to_toml(resolved(RunConfig(algorithm=algorithm))))
    online = OnlineConfig(env_steps=2_000, start=str(tmp_path / start))
    rows = episode_rows(summary(), resolved(RunConfig(online=online)))
    assert rows["online.start"].unique().to_list() == [words]


def test_the_mean_of_the_scores_is_the_score_of_the_mean() -> None:
    rows = episode_rows(summary(returns=[1.0, 2.0, 7.5]), resolved(RunConfig()))
    mean = rows.filter("is_final")["score"].mean()
    assert mean == pytest.approx((10.5 / 3 - 4.0) / 16.0)


def test_a_run_without_a_score_has_none_in_its_rows() -> None:
    """An expert that is worse than random actions tells no score, though one could be computed."""
    given = summary(expert_return=-100.0, random_return=0.0, returns=[-100.0, 0.0], normalized_score=None)
    rows = episode_rows(given, resolved(RunConfig()))
    assert rows.filter("is_final").select("return", "score").rows() == [(-100.0, None), (0.0, None)]


def test_whole_numbers_and_no_commit() -> None:
    """Summaries come from JSON, where a return may be an int, and from folders without git."""
    given = summary(returns=[1, 2], expert_return=2, random_return=0, seconds=1, git_commit=None)
    rows = episode_rows(given, resolved(RunConfig()))
    assert rows.schema["return"] == rows.schema["seconds"] == pl.Float64
    assert rows["git_commit"].null_count() == rows.height
    assert rows["score"].to_list()[:2] == [0.5, 1.0]


def test_rows_are_written_whole_over_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "algorithm=bc,seed=0"
    config = resolved(RunConfig())
    write_episodes(folder, summary(), config)
    write_episodes(folder, summary(returns=[0.0]), config)
    assert [path.name for path in folder.iterdir()] == [EPISODES]
    written = pl.read_parquet(folder / EPISODES)
    assert written.equals(episode_rows(summary(returns=[0.0]), config))
    assert written.filter("is_final").height == 1


def test_a_failed_write_leaves_the_old_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolved(RunConfig())
    write_episodes(tmp_path, summary(), config)
    before = (tmp_path / EPISODES).read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr("iq_offline.files.os.replace", fail)
    with pytest.raises(OSError, match="no"):
        write_episodes(tmp_path, summary(returns=[0.0]), config)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [EPISODES]
    assert (tmp_path / EPISODES).read_bytes() == before


def test_columns_have_one_type_whatever_the_values(tmp_path: Path) -> None:
    """So that any runs' files can be read as one table, as ``docs/recipes.md`` shows."""
    configs = [
        RunConfig(seed=seed, training=TrainingConfig(gradient_steps=5 * 10**9 if seed else 1))
        for seed in (0, 2**63 - 1)
    ]
    for index, config in enumerate(configs):
        write_episodes(tmp_path / str(index), summary(), resolved(config))
    rows = pl.scan_parquet(tmp_path / "*" / EPISODES).collect()
    assert rows["seed"].unique(maintain_order=True).to_list() == [0, 2**63 - 1]
    assert rows["training.gradient_steps"].max() == 5 * 10**9
    assert {rows.schema[key] for key in ("seed", "training.batch_size", "gradient_steps", "episode")} == {pl.Int64}


def test_seeds_are_numbers_that_a_table_can_hold() -> None:
    for table in ({"seed": 2**63}, {"evaluation": {"seed": 2**63}}):
        with pytest.raises(UserError, match=r"seed = 9223372036854775808: input should be less than"):
            from_table(RunConfig, table, "mine.toml")
