"""What a run's summary says of odd data."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from iq_offline import experiment
from iq_offline.data.catalog import References
from iq_offline.experiment import run
from tests.helpers import point_mass_episodes, write_dataset
from tests.training.program import EXPERT, QUIET, configuration


def test_data_without_rewards_are_scored_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not known is null: JSON has no NaN."""
    episodes = point_mass_episodes(4, 25, 0, 0.0)
    unrewarded = [(one[0], one[1], np.full_like(one[2], math.nan), *one[3:]) for one in episodes]
    write_dataset(EXPERT, unrewarded)
    monkeypatch.setattr(experiment, "evaluation_environment", lambda source, trust: "Pendulum-v1")
    monkeypatch.setattr(experiment, "references", lambda source, environment: References(2.0, 0.0, "made up"))
    monkeypatch.setattr(experiment, "_score_all", lambda *_: ([1.0], []))
    summary = run(configuration("bc", gradient_steps=5, snapshots=0), tmp_path / "run", QUIET)
    assert summary["data_return"] is None
    assert summary["normalized_score"] == 0.5
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
