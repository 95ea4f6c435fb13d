"""What a run's summary says of odd data."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from iq_offline import scoring
from iq_offline.data.catalog import References
from iq_offline.errors import UserError
from iq_offline.experiment import run, run_all
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
    monkeypatch.setattr(scoring, "references", lambda source, environment: References(2.0, 0.0, "made up"))
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
