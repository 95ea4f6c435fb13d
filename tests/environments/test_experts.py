"""Experts by stable-baselines3: what they do is what our policies do, and a training resumes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from iq_offline.data.catalog import ExpertTraining
from iq_offline.environments import experts
from iq_offline.environments.cards import tiers_from
from iq_offline.environments.expert_state import load_state, state_of
from iq_offline.environments.experts import STATE, Disturbed, algorithm_of, policy_file, policy_of, train_expert
from iq_offline.errors import UserError
from iq_offline.learning.policy import Policy

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

SMALL = {"n_steps": 64, "batch_size": 32}


def model_of(algorithm: str, environment_id: str, normalize: bool, **arguments: Any) -> Any:
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    environment: Any = DummyVecEnv([lambda: gymnasium.make(environment_id)])
    if normalize:
        environment = VecNormalize(environment, clip_obs=np.inf)
    policy = {"net_arch": [16, 16]}
    return algorithm_of(algorithm)("MlpPolicy", environment, seed=3, policy_kwargs=policy, device="cpu", **arguments)


@pytest.mark.parametrize(
    ("algorithm", "environment_id", "normalize", "arguments"),
    [
        ("PPO", "CartPole-v1", True, SMALL),
        ("PPO", "Pendulum-v1", False, SMALL),
        ("TRPO", "Pendulum-v1", True, SMALL),
        ("DQN", "CartPole-v1", False, {"learning_starts": 10}),
        ("TD3", "Pendulum-v1", False, {"learning_starts": 10}),
        ("SAC", "Pendulum-v1", False, {"learning_starts": 10}),
    ],
)
def test_our_policy_acts_as_the_model_predicts(
    algorithm: str, environment_id: str, normalize: bool, arguments: dict[str, Any], tmp_path: Path
):
    model = model_of(algorithm, environment_id, normalize, **arguments)
    model.learn(130)
    if algorithm in ("PPO", "TRPO"):  # Fresh ones hardly act: make some of it reach beyond the box.
        model.policy.action_net.weight.data.mul_(200)
    environment = gymnasium.make(environment_id)
    policy = policy_of(model, environment)
    policy.save(tmp_path / "policy.safetensors")
    generator = np.random.default_rng(0)
    observations = generator.normal(0, 2, (200, *environment.observation_space.shape)).astype(np.float32)  # type: ignore[misc]
    seen = model.get_vec_normalize_env().normalize_obs(observations) if normalize else observations
    theirs = model.predict(seen, deterministic=True)[0]
    ours = Policy.load(tmp_path / "policy.safetensors")(observations)
    if isinstance(environment.action_space, gymnasium.spaces.Discrete):
        assert set(theirs) == {0, 1}, "both actions occur, else equality says nothing"
        assert (ours == theirs).mean() > 0.99  # Rounding may decide where two logits meet.
    else:
        assert np.abs(theirs).max() > 0.1
        assert algorithm not in ("PPO", "TRPO") or np.abs(theirs).max() == 2.0
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


TRAINING = ExpertTraining(
    algorithm="TRPO",
    steps=400,
    hidden_sizes=(8,),
    action_noise=((0, 0.0), (200, 0.1)),
    environments=2,
    normalize=True,
    evaluate_every=200,
    save_every=200,
    arguments={"n_steps": 50, "batch_size": 50},
)


def test_a_training_leaves_policies_rows_and_a_state_to_go_on_from(tmp_path: Path):
    told: list[dict[str, Any]] = []
    rows = train_expert("Pendulum-v1", TRAINING, tmp_path, told.append)
    assert [row["steps"] for row in rows] == [200, 400]
    assert told == rows
    assert all(row["return_min"] <= row["return_mean"] < 0 and row["length_mean"] == 200 for row in rows)
    for row in rows:
        assert Policy.load(policy_file(tmp_path, row["steps"])).squash == "clip"
    again = train_expert("Pendulum-v1", TRAINING, tmp_path, told.append)
    assert again == rows
    assert told == rows, "a finished training is not run again"
    (tmp_path / STATE).rename(tmp_path / "gone")
    with pytest.raises(UserError, match="other settings"):
        train_expert("Pendulum-v1", ExpertTraining(algorithm="PPO"), tmp_path)


def test_an_interrupted_training_goes_on_from_its_state(tmp_path: Path):
    class Stop(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        if row["steps"] > 200:
            raise Stop

    with pytest.raises(Stop):
        train_expert("Pendulum-v1", TRAINING, tmp_path, stop)
    told: list[dict[str, Any]] = []
    rows = train_expert("Pendulum-v1", TRAINING, tmp_path, told.append)
    assert (tmp_path / STATE).stat().st_size < 20_000
    assert [row["steps"] for row in told] == [400], "what came after the last state is done again, and nothing else"
    assert [row["steps"] for row in rows] == [200, 400]


def test_arguments_change_along_the_training(tmp_path: Path):
    training = replace(TRAINING, later_arguments=((200, {"n_steps": 100}), (400, {"n_steps": 25})), steps=600)
    sizes: list[tuple[int, int]] = []

    def counting(algorithm: Any) -> Any:
        class Counted(algorithm):
            def train(self) -> None:
                sizes.append((self.num_timesteps, self.rollout_buffer.buffer_size))
                super().train()

        return Counted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experts, "algorithm_of", lambda name: counting(algorithm_of(name)))
        rows = train_expert("Pendulum-v1", training, tmp_path)
        assert sizes == [(100, 50), (200, 50), (400, 100), *((steps, 25) for steps in (450, 500, 550, 600))]
    assert [row["steps"] for row in rows] == [200, 400, 600]


@pytest.mark.parametrize(("algorithm", "known"), [("SAC", False), ("TD3", True)])
def test_only_td3_knows_of_the_noise(algorithm: str, known: bool, tmp_path: Path):
    training = ExpertTraining(
        algorithm=algorithm,
        steps=40,
        hidden_sizes=(8,),
        action_noise=((0, 0.0), (20, 0.3)),
        evaluate_every=1000,
        save_every=1000,
        arguments={"learning_starts": 1000},
    )
    seen: list[tuple[float, bool]] = []
    with pytest.MonkeyPatch.context() as patch:
        step = Disturbed.action

        def noted(self: Disturbed, action: np.ndarray) -> np.ndarray:
            after = step(self, action)
            seen.append((self.deviation, bool((after == action).all())))
            return after

        patch.setattr(Disturbed, "action", noted)
        train_expert("Pendulum-v1", training, tmp_path)
    assert [deviation for deviation, _ in seen[:19]] == [0.0] * 19
    assert all(same for _, same in seen[:19])
    assert [deviation for deviation, _ in seen[20:]] == [0.0 if known else 0.3] * 20
    assert all(same for _, same in seen[20:]) == known


@pytest.mark.parametrize("algorithm", ["TRPO", "PPO"])
def test_a_state_is_all_that_learns(algorithm: str):
    def learned(model: Any) -> Any:
        return model.learn(200, reset_num_timesteps=False)

    first = learned(model_of(algorithm, "Pendulum-v1", True, **SMALL))
    second = model_of(algorithm, "Pendulum-v1", True, **SMALL)
    saved = {name: value.clone() for name, value in state_of(first).items()}
    load_state(second, saved)
    assert {name: value.tolist() for name, value in state_of(second).items()} == {
        name: value.tolist() for name, value in saved.items()
    }
    assert any(name.startswith("optimizer/") and value.abs().sum() > 0 for name, value in saved.items())
    for model in (first, second):  # The same draws from here on: the same weights after it.
        model.num_timesteps, model._last_obs = 256, None
        model.set_random_seed(7)
        model.get_env().seed(7)
        learned(model)
    for name, value in state_of(first).items():
        np.testing.assert_array_equal(value, state_of(second)[name], err_msg=name)
    changed = [name for name, value in state_of(first).items() if not np.array_equal(value, saved[name])]
    assert any(name.startswith("policy/") for name in changed)
    assert any(name.startswith("obs_rms/") for name in changed)


def test_a_replay_is_not_kept():
    training = ExpertTraining(algorithm="SAC", later_arguments=((10, {"batch_size": 2}),))
    with pytest.raises(UserError, match="need PPO or TRPO"):
        train_expert("Pendulum-v1", training, Path("never-written"))
    assert not Path("never-written").exists()


def test_no_such_algorithm():
    with pytest.raises(UserError, match="'REINFORCE'"):
        algorithm_of("REINFORCE")


def test_noise_on_the_way_to_the_environment_stays_in_the_box_and_has_its_size():
    disturbed = Disturbed(gymnasium.make("Pendulum-v1"))
    disturbed.reset(seed=0)
    action = np.array([1.0], np.float32)
    assert disturbed.action(action) is action, "none without a deviation"
    disturbed.deviation = 0.1
    drawn = np.array([disturbed.action(action)[0] for _ in range(4000)])
    assert drawn.std() == pytest.approx(0.1 * 2.0, rel=0.05)
    assert drawn.mean() == pytest.approx(1.0, abs=0.02)
    disturbed.deviation = 5.0
    drawn = np.array([disturbed.action(action)[0] for _ in range(100)])
    assert (drawn.min(), drawn.max()) == (-2.0, 2.0)


def row_of(steps: int, mean: float, std: float, disturbed: float) -> dict[str, Any]:
    return {"steps": steps, "return_mean": mean, "return_std": std, "disturbed_mean": disturbed}


def test_tiers():
    rows = [
        row_of(100, 210.0, 1.0, 200.0),
        row_of(200, 480.0, 1.0, 400.0),
        row_of(300, 1100.0, 1.0, 1090.0),
        row_of(400, 1000.0, 1.0, 700.0),
        row_of(500, 990.0, 1.0, 900.0),
        row_of(600, 995.0, 60.0, 950.0),
        row_of(700, 900.0, 1.0, 960.0),
        row_of(800, 450.0, 1.0, 300.0),
    ]
    tiers = tiers_from(rows, 10.0, ExpertTraining(action_noise=((0, 0.0), (350, 0.2))))
    assert {name: row["steps"] for name, row in tiers.items()} == {"expert": 500, "medium": 200, "simple": 100}
    sometimes = [row_of(150, 500.0, 450.0, 400.0), *rows]
    assert tiers_from(sometimes, 10.0, ExpertTraining(action_noise=((0, 0.0), (350, 0.2))))["medium"]["steps"] == 200
    without = tiers_from(rows, 10.0, ExpertTraining())
    assert without["expert"]["steps"] == 300
    with pytest.raises(UserError, match="no evaluation after step 900"):
        tiers_from(rows, 10.0, ExpertTraining(action_noise=((900, 0.2),)))
