"""Whole commands on datasets that are not boxes: trained, saved, measured on held-out data, and really learned."""

import json
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text
from minari.data_collector import EpisodeBuffer

from iq_offline.cli import main
from iq_offline.config import BCConfig, DataConfig, IQLearnConfig, RunConfig, TrainingConfig, resolved
from iq_offline.errors import UserError
from iq_offline.evaluation.scores import evaluate, random_return
from iq_offline.experiment import obtain
from iq_offline.learning.policy import Policy
from iq_offline.run import require_same_data
from iq_offline.training.setup import choose_data
from tests.data_helpers import (
    QUICK,
    small_dataset,
    stacked_samples,
    stored_array,
    write_buffers,
    write_spaces_dataset,
)
from tests.training.program import run_training
from tests.warm import warm_python

ROBOT = Dict(
    {
        "camera": Box(0, 255, (9, 8, 3), np.uint8),
        "mission": Text(5),
        "pair": gymnasium.spaces.Tuple([Discrete(3, start=-1), Box(-np.inf, np.inf, (), np.float64)]),
        "state": Box(-1, 1, (4,)),
    }
)


def test_parts_images_and_discrete_actions_through_the_recipes_module(tmp_path: Path) -> None:
    """In a process of its own, both algorithms, no environment: trained, saved, measured, and the rest is said."""
    write_spaces_dataset("test/robot-v0", ROBOT, Discrete(3, start=1), lengths=[9, 8, 7, 6])
    folder = tmp_path / "run"
    command = (
        "-m",
        "iq_offline.recipes.hopper_offline",
        "--expert",
        "test/robot-v0",
        "--fast",
        "--output",
        str(folder),
    )
    more = ("--observation-keys", "pair", "camera", "state", "--frame-stack", "2", "--hidden-sizes", "16")
    done = warm_python(*command, *more, "--batch-size", "16", "--held-out-trajectories", "2")
    assert done.returncode == 0, done.stderr
    assert "trained, but not evaluated: test/robot-v0 names no environment" in done.stderr
    assert "not evaluated" in done.stdout
    assert "Traceback" not in done.stderr
    for algorithm in ("bc", "iq_learn"):
        summary = json.loads((folder / algorithm / "summary.json").read_text())
        assert summary["returns"] == summary["curve"] == []
        assert summary["return_mean"] is summary["normalized_score"] is None
        assert summary["references"] == "not evaluated"
        held_out = summary["held_out"]
        assert held_out["measure"] == "wrong_actions"
        assert 0 <= held_out["error"] <= 1
        assert held_out["trajectories"] == 2
        policy = Policy.load(folder / algorithm / "policy.safetensors")
        names = ["pair.0", "pair.1", "camera", "state"]
        assert [leaf.name for leaf in policy.encoder.leaves] == names
        assert policy.observation_space == ROBOT
        ROBOT.seed(0)
        actions = policy.act([[ROBOT.sample(), ROBOT.sample()], [ROBOT.sample()]])
        assert all(action in Discrete(3, start=1) for action in actions)
        chosen = json.loads((folder / algorithm / "data.json").read_text())
        assert {part["kind"]: part["trajectories"] for part in chosen} == {"expert": 1, "held_out": 2}


@pytest.mark.parametrize("space", [MultiDiscrete([2, 3], start=[1, 0]), Box(-np.inf, np.inf, (2,), np.float64)])
def test_other_actions_through_the_command_line(
    space: gymnasium.Space, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run of the same command trains nothing again and ends the same."""
    write_spaces_dataset("test/other-v0", ROBOT["state"], space, lengths=[9, 8, 7, 6, 5, 4])
    arguments = ["train", "hopper_offline", "--expert", "test/other-v0", *QUICK, "--output", str(tmp_path / "run")]
    arguments += ["--suboptimal", "test/other-v0:1:hidden", "--held-out-trajectories", "2", "--seed", "3"]
    contents = []
    for _ in range(2):
        assert main(arguments) == 0
        said = capsys.readouterr().err
        assert ("its action box has no bounds: taken from" in said) == isinstance(space, Box)
        contents.append(
            {file: (tmp_path / "run" / file).read_bytes() for file in ("bc/policy.safetensors", "bc/data.json")}
        )
    assert contents[0] == contents[1]
    kinds = [part["kind"] for part in json.loads(contents[0]["bc/data.json"])]
    assert kinds == ["expert", "suboptimal", "held_out"]
    policy = Policy.load(tmp_path / "run" / "iq_learn" / "policy.safetensors")
    assert all(action in space for action in policy(stacked_samples(ROBOT["state"], 5)))


@pytest.mark.parametrize("part", ["observations", "actions"])
def test_a_run_is_not_gone_on_with_where_any_value_changed(part: str, tmp_path: Path) -> None:
    """The first row of an episode, and the last: an observation that is only ever a next one."""
    config = resolved(RunConfig(data=DataConfig("test/small-v0", held_out_trajectories=0)))
    source = small_dataset(episodes=1)
    require_same_data(choose_data(config, obtain("test/small-v0"), []), tmp_path)
    require_same_data(choose_data(config, obtain("test/small-v0"), []), tmp_path)
    for row in (0, -1):
        with h5py.File(source.path / "main_data.hdf5", "r+") as file:
            stored = stored_array(file, 0, part)
            before = stored[row]
            stored[row] = before + 0.25
        with pytest.raises(UserError, match="was begun on other data than test/small-v0 holds now"):
            require_same_data(choose_data(config, obtain("test/small-v0"), []), tmp_path)
        with h5py.File(source.path / "main_data.hdf5", "r+") as file:
            stored_array(file, 0, part)[row] = before
        require_same_data(choose_data(config, obtain("test/small-v0"), []), tmp_path)


@pytest.mark.parametrize("rows", [1, 3])
def test_what_is_said_of_the_data_does_not_depend_on_how_many_rows_are_read_at_once(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never all of them: what is trained on may not fit in memory."""
    small_dataset()
    config = resolved(RunConfig(data=DataConfig("test/small-v0", held_out_trajectories=0)))
    data = choose_data(config, obtain("test/small-v0"), [])
    require_same_data(data, tmp_path)
    monkeypatch.setattr("iq_offline.run.ROWS_AT_ONCE", rows)
    require_same_data(data, tmp_path)


# ---------------------------------------------------------------------------------------------------- it learns


def balance(observation: np.ndarray) -> int:
    """Keeps the pole up for hundreds of steps: push where it falls to, and back to the middle."""
    position, speed, angle, turning = observation
    return int(0.1 * position + 0.3 * speed + 3.0 * angle + turning > 0)


def write_cart_pole(episodes: int, steps: int) -> None:
    environment = gymnasium.make("CartPole-v1")
    buffers = []
    for index in range(episodes):
        observations, actions, rewards = [environment.reset(seed=index)[0]], [], []
        for _ in range(steps):
            actions.append(balance(observations[-1]))
            observation, reward, terminated, _, _ = environment.step(actions[-1])
            assert not terminated, "the expert dropped the pole"
            observations.append(observation)
            rewards.append(float(reward))
        ends = [False] * (steps - 1)
        buffers.append(
            EpisodeBuffer(
                id=index,
                seed=index,
                observations=np.array(observations),  # type: ignore[arg-type]
                actions=np.array(actions),  # type: ignore[arg-type]
                rewards=rewards,
                terminations=[*ends, False],
                truncations=[*ends, True],
            )
        )
    write_buffers("test/pole-v0", buffers, environment.observation_space, environment.action_space)


@pytest.mark.parametrize(("algorithm", "gradient_steps"), [("bc", 500), ("iq_learn", 700)])
def test_the_pole_is_balanced_from_three_demonstrations(algorithm: str, gradient_steps: int, tmp_path: Path) -> None:
    """Random actions drop it after some twenty steps; over five seeds the worst mean of five episodes was 442."""
    write_cart_pole(4, 200)
    config = RunConfig(
        algorithm=algorithm,  # type: ignore[arg-type]
        data=DataConfig("test/pole-v0", num_expert_trajectories=3),
        training=TrainingConfig(gradient_steps, batch_size=64, hidden_sizes=(32, 32), average_decay=0.99, snapshots=0),
        iq_learn=IQLearnConfig(critic_learning_rate=3e-3, temperature=0.05),
        bc=BCConfig(learning_rate=3e-3),
    )
    returns = evaluate(run_training(resolved(config), tmp_path / "run"), "CartPole-v1", 5, 1000)
    assert np.mean(returns) > 300
    assert random_return("CartPole-v1") < 40
