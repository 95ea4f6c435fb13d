"""What a run's summary says of odd data."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from iq_offline import provenance, scoring
from iq_offline.data.catalog import References
from iq_offline.errors import UserError
from iq_offline.experiment import run, run_all
from iq_offline.run import Run
from iq_offline.sweep_cli import tabulate
from iq_offline.sweeps.results import read_episodes, runs_of
from tests.helpers import point_mass_dataset, point_mass_episodes, write_dataset
from tests.training.program import EXPERT, QUIET, configuration


def test_data_without_rewards_are_scored_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not known is null: JSON has no NaN."""
    episodes = point_mass_episodes(4, 25, 0, 0.0)
    unrewarded = [(one[0], one[1], np.full_like(one[2], math.nan), *one[3:]) for one in episodes]
    write_dataset(EXPERT, unrewarded)
    monkeypatch.setattr(scoring, "evaluation_environment", lambda source, trust: "Pendulum-v1")
    monkeypatch.setattr(scoring, "references", lambda source, environment, on_progress: References(2.0, 0.0, "made up"))
    monkeypatch.setattr(scoring, "_score_all", lambda *_: ([1.0], []))
    summary = run(configuration("bc", gradient_steps=5, snapshots=0), tmp_path / "run", QUIET)
    assert summary["data_return"] is None
    assert summary["normalized_score"] == 0.5
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary


def test_tables_and_a_report_beside_the_runs_are_in_nobody_s_way(tmp_path: Path) -> None:
    point_mass_dataset(EXPERT, 4, 25, seed=0)
    config = configuration("bc", gradient_steps=5, snapshots=0)
    first = run_all([config], tmp_path / "runs", QUIET)
    tabulate(runs_of(read_episodes(tmp_path / "runs")), tmp_path / "results")
    (tmp_path / "runs" / "report.html").write_text("a page")
    assert run_all([config], tmp_path / "runs", QUIET)[0]["held_out"] == first[0]["held_out"]
    (tmp_path / "runs" / "thesis.tex").write_text("somebody's")
    with pytest.raises(UserError, match="holds other things than runs"):
        run_all([config], tmp_path / "runs", QUIET)


@pytest.fixture
def forgotten_process() -> Iterator[None]:
    """What a process knows of its own code is forgotten before the test and after it."""
    provenance.made_with.cache_clear()
    yield
    provenance.made_with.cache_clear()


@pytest.mark.usefixtures("forgotten_process")
def test_the_commit_is_that_of_the_code_that_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one made while a process trains; of a run that was cut off those of all its sessions."""

    def at(commit: str | None) -> None:
        monkeypatch.setattr(provenance, "git_commit", lambda: commit)

    def commit_of(name: str) -> str | None:
        written = read_episodes(tmp_path / name).collect()["git_commit"].unique().to_list()
        assert written == [json.loads((tmp_path / name / "summary.json").read_text())["git_commit"]]
        return written[0]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    point_mass_dataset(EXPERT, 4, 25, seed=0)
    config = configuration("bc", gradient_steps=6, snapshots=2, checkpoint_every=2)
    at("aaa")
    run(config, tmp_path / "first", QUIET)
    at("bbb")  # The process is still that of before.
    run(config, tmp_path / "second", QUIET)
    assert (commit_of("first"), commit_of("second")) == ("aaa", "aaa")
    with monkeypatch.context() as context:
        context.setattr(Run, "save_policy", interrupt)  # At step 3.
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "cut", QUIET)
    provenance.made_with.cache_clear()
    run(config, tmp_path / "cut", QUIET)
    assert commit_of("cut") == "aaa, then bbb"
    provenance.made_with.cache_clear()
    at("ccc")
    (tmp_path / "cut" / "summary.json").unlink()
    run(config, tmp_path / "cut", QUIET)
    assert commit_of("cut") == "aaa, then bbb", "it was scored by another code, not trained"
