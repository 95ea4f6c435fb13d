"""Offline means offline: no environment exists and no reward is read between a dataset and its policy."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from iq_offline.config import RunConfig
from iq_offline.data.stream import episode_returns, open_source
from tests.helpers import point_mass_episodes, write_dataset
from tests.training.program import (
    EXPERT,
    OTHER,
    assert_same_run,
    configuration,
    run_training,
    write_config,
)

CHECKOUT = Path(__file__).parents[2]

WITHOUT_ENVIRONMENTS = """
import sys
import gymnasium
from gymnasium.envs import registration

def refuse(*args, **kwargs):
    raise AssertionError("an environment was asked for")

for module in (gymnasium, registration):
    for name in ("make", "make_vec"):
        setattr(module, name, refuse)
registration.EnvSpec.make = refuse
gymnasium.Env.__new__ = gymnasium.vector.VectorEnv.__new__ = refuse
for attempt in (lambda: gymnasium.make("CartPole-v1"), lambda: gymnasium.spec("CartPole-v1").make()):
    try:
        attempt()
    except AssertionError:
        pass
    else:
        sys.exit("environments can still be built here")

from tests.training import program
for config, folder in zip(sys.argv[1::2], sys.argv[2::2]):
    sys.argv[1:] = [config, folder]
    program.main()
assert "mujoco" not in sys.modules, "nothing of a simulator is even imported"
"""


def write(nan_rewards: bool) -> None:
    """The datasets name an environment that could be built."""
    for identifier, noise, seed in ((EXPERT, 0.0, 0), (OTHER, 1.0, 1)):
        episodes = [
            (observations, actions, np.full_like(rewards, np.nan) if nan_rewards else rewards, *flags)
            for observations, actions, rewards, *flags in point_mass_episodes(3, 25, seed, noise)
        ]
        path = write_dataset(identifier, episodes, env_spec_id="CartPole-v1")  # type: ignore[arg-type]
        assert np.isnan(episode_returns(open_source(path))).all() == nan_rewards


def test_without_environments_and_rewards_the_weights_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    configs: dict[str, RunConfig] = {
        "bc": configuration("bc"),
        "iq_learn": configuration("iq_learn"),
        "mixture": configuration("iq_learn", suboptimal=True),
        "valuedice": configuration("valuedice"),
        "valuedice_mixture": configuration("valuedice", suboptimal=True),
        "sqil": configuration("sqil", suboptimal=True),
    }
    write(nan_rewards=False)
    for name, config in configs.items():
        run_training(config, tmp_path / "normal" / name)

    for variable in ("MINARI_DATASETS_PATH", "IQ_OFFLINE_CACHE"):
        folder = tmp_path / "blind" / variable
        folder.mkdir(parents=True)
        monkeypatch.setenv(variable, str(folder))
    write(nan_rewards=True)
    arguments = []
    for name, config in configs.items():
        file = write_config(config, tmp_path / f"{name}.toml")
        arguments += [str(file), str(tmp_path / "blind" / name)]
    command = [sys.executable, "-c", WITHOUT_ENVIRONMENTS, *arguments]
    result = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    for name in configs:
        assert_same_run(tmp_path / "normal" / name, tmp_path / "blind" / name)
