"""Returns, what they are measured against, and their summary."""

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from iq_offline.config import DataConfig, EvaluationConfig, RunConfig, TrainingConfig
from iq_offline.data import catalog
from iq_offline.data.catalog import References, load_card
from iq_offline.data.spaces import ObservationEncoder, chosen_leaves
from iq_offline.data.stream import open_source
from iq_offline.environments import make
from iq_offline.errors import UserError
from iq_offline.evaluation.scores import (
    along_the_way,
    evaluate,
    normalized_score,
    random_return,
    references,
    score_error,
    why_unscored,
)
from iq_offline.experiment import Options, run
from iq_offline.learning.networks import mlp
from iq_offline.learning.policy import Policy
from tests.data_helpers import change_metadata, counting_episodes
from tests.environments.worlds import environment_dataset, specification
from tests.helpers import Episode, write_dataset


def pendulum_policy(size: int = 3) -> Policy:
    torch.manual_seed(1)
    return Policy(mlp(size, 8, 1), Box(-np.inf, np.inf, (size,)), Box(-2.0, 2.0, (1,)))


def plain_return(policy: Policy, seed: int) -> float:
    """One episode by an independent loop."""
    environment = gymnasium.make("Pendulum-v1")
    observation, total, done = environment.reset(seed=seed)[0], 0.0, False
    while not done:
        observation, reward, terminated, truncated, _ = environment.step(policy(observation[None])[0])
        total, done = total + float(reward), terminated or truncated
    return total


def test_evaluate_is_whole_episodes_from_the_seeds() -> None:
    """More episodes than stand side by side; the numbers are those of an independent loop up to the last bits."""
    policy = pendulum_policy()
    returns = evaluate(policy, "Pendulum-v1", 13, 500)
    expected = [plain_return(policy, seed) for seed in range(500, 513)]
    assert len(set(expected)) == 13
    np.testing.assert_allclose(returns, expected, rtol=1e-4)
    assert evaluate(policy, "Pendulum-v1", 13, 500) == returns
    assert evaluate(policy, "Pendulum-v1", 1, 505)[0] == pytest.approx(plain_return(policy, 505), rel=1e-12)


def test_evaluate_counts_episodes() -> None:
    seeds: list[int] = []
    evaluate(pendulum_policy(), "Pendulum-v1", 3, 7, lambda episode: seeds.append(episode.seed))
    assert seeds == [7, 8, 9]


class Broken(gymnasium.Wrapper):
    """The pendulum, whose reward is not a number in the third of its episodes."""

    def reset(self, **options: Any) -> Any:
        self.seed = options["seed"]
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, math.nan if self.seed == 9 else reward, *rest


def test_a_return_that_is_not_finite_is_no_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "make", lambda name, count: [Broken(gymnasium.make(name)) for _ in range(count)])
    with pytest.raises(UserError, match="the episode with seed 9 in Pendulum-v1 is not finite"):
        evaluate(pendulum_policy(), "Pendulum-v1", 3, 7)
    assert len(evaluate(pendulum_policy(), "Pendulum-v1", 2, 7)) == 2


@pytest.mark.parametrize(
    ("fault", "at", "words"),
    [
        ("raise", "build", "cannot build the environment Point-v0: a wheel came off"),
        ("exit", "reset", "Point-v0 raised SystemExit in a reset: gave up"),
        ("raise", "step", "Point-v0 raised ZeroDivisionError in a step: a wheel came off"),
    ],
)
def test_an_environment_that_raises_is_one_line(fault: str, at: str, words: str, tmp_path: Path) -> None:
    policy = Policy(mlp(4, 8, 2), Box(-np.inf, np.inf, (4,)), Box(-1.0, 1.0, (2,)))
    faulty = specification(fault=fault, at=at, after=-1, while_there=str(tmp_path))
    with pytest.raises(UserError, match=words):
        evaluate(policy, faulty, 3, 0)


def test_an_environment_that_observes_what_is_not_finite(tmp_path: Path) -> None:
    policy = Policy(mlp(4, 8, 2), Box(-np.inf, np.inf, (4,)), Box(-1.0, 1.0, (2,)))
    with pytest.raises(UserError, match="Point-v0 observed values that are not finite"):
        evaluate(policy, specification(fault="nan", after=3, while_there=str(tmp_path)), 3, 0)


class Reused(gymnasium.Env):
    """Counts its steps, in one array that it writes over, and notes what is acted upon."""

    observation_space = Box(0, 255, (8, 8), np.uint8)
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    closed = 0

    def __init__(self) -> None:
        self.seen = np.zeros((8, 8), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.seen[:] = 0
        return self.seen, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.seen += 1
        return self.seen, 0.0, False, bool(self.seen[0, 0] == 6), {}

    def close(self) -> None:
        Reused.closed += 1


def test_frames_are_those_that_were_there_and_no_more_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment may write over the array that it observes in; of long episodes the newest frames are enough."""
    monkeypatch.setattr(make, "make", lambda name, count: [Reused() for _ in range(count)])
    acted: list[list[int]] = []

    class Noting(Policy):
        def from_features(self, features: torch.Tensor) -> np.ndarray:
            acted.append(features[0].reshape(3, 64)[:, 0].int().tolist())
            return super().from_features(features)

    encoder = ObservationEncoder(chosen_leaves(Reused.observation_space, (), "x"), frame_stack=3)
    policy = Noting(mlp(3 * 64, 4, 1), Reused.observation_space, Reused.action_space, encoder=encoder)
    kept: list[int] = []
    Reused.closed = 0
    evaluate(policy, "Reused-v0", 2, 0, lambda episode: kept.append(len(episode.observations)))
    assert acted == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    assert kept == [3, 3]
    assert Reused.closed == 2


def test_a_policy_for_another_environment_is_refused() -> None:
    with pytest.raises(UserError, match=r"observation space is Box of shape \(3,\), the policy's Box of shape \(4,\)"):
        evaluate(pendulum_policy(4), "Pendulum-v1", 1, 0)
    wide = Policy(mlp(3, 8, 2), Box(-np.inf, np.inf, (3,)), Box(-2.0, 2.0, (2,)))
    with pytest.raises(UserError, match=r"action space is Box of shape \(1,\), the policy's Box of shape \(2,\)"):
        evaluate(wide, "Pendulum-v1", 1, 0)


def test_random_return_is_that_of_uniform_actions() -> None:
    """Against an independent sample of random episodes; the two means differ by chance only."""
    environment = gymnasium.make("Pendulum-v1")
    environment.action_space.seed(0)
    totals = []
    for seed in range(60):
        environment.reset(seed=seed)
        totals.append(sum(float(environment.step(environment.action_space.sample())[1]) for _ in range(200)))
    value = random_return("Pendulum-v1")
    error = np.std(totals) * math.sqrt(1 / 60 + 1 / 100)
    assert abs(value - np.mean(totals)) < 4 * error
    assert random_return("Pendulum-v1") == value


def test_normalized_score() -> None:
    about = References(expert_return=3000.0, random_return=20.0, source="")
    assert normalized_score(3000.0, about) == 1.0
    assert normalized_score(20.0, about) == 0.0
    assert normalized_score(1510.0, about) == pytest.approx(0.5)
    assert normalized_score(-576.0, about) == pytest.approx(-0.2)
    assert normalized_score(5980.0, about) == pytest.approx(2.0)
    below = References(expert_return=-150.0, random_return=-1200.0, source="")
    assert normalized_score(-675.0, below) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("expert", "random"), [(1.0, 1.0), (math.nan, 0.0), (1.0, math.nan), (math.inf, 0.0), (0.0, 22.6)]
)
def test_no_score_without_references(expert: float, random: float) -> None:
    about = References(expert, random, "as it says")
    assert normalized_score(0.5, about) is None
    assert why_unscored(about).endswith("(as it says)")
    assert f"{expert:,.1f}" in why_unscored(about)
    assert f"{random:,.1f}" in why_unscored(about)
    assert why_unscored(References(1.0, 0.0, "")) == ""


def rewarded(rewards: list[list[float]]) -> list[Episode]:
    """Episodes with these rewards."""
    episodes = counting_episodes([len(each) for each in rewards])
    return [(o, a, np.array(r), t, u) for (o, a, _, t, u), r in zip(episodes, rewards, strict=True)]


REWARDS = [[1.0, 2.0], [10.0, 20.0, 30.0]]


def test_the_card_comes_before_the_metadata() -> None:
    folder = write_dataset("iq-offline/hopper/expert-v0", rewarded(REWARDS), env_spec_id="Hopper-v5")
    change_metadata(folder, ref_min_score=-5.0, ref_max_score=5.0)
    assert references(open_source(folder), "Hopper-v5") == load_card("hopper").references


def test_the_metadata_come_before_a_measurement() -> None:
    folder = write_dataset("mujoco/hopper/expert-v0", rewarded(REWARDS), env_spec_id="Hopper-v5")
    change_metadata(folder, ref_min_score=-5, ref_max_score=5.5)
    found = references(open_source(folder), "Hopper-v5")
    assert (found.random_return, found.expert_return) == (-5.0, 5.5)
    assert "metadata" in found.source


def test_scores_of_zero_in_the_metadata_count() -> None:
    folder = write_dataset("test/zero-v0", rewarded(REWARDS), env_spec_id="Pendulum-v1")
    change_metadata(folder, ref_min_score=0.0, ref_max_score=10.0)
    found = references(open_source(folder), "Pendulum-v1")
    assert (found.random_return, found.expert_return) == (0.0, 10.0)


@pytest.mark.parametrize("others", [{}, {"ref_max_score": "n/a"}, {"ref_max_score": {"a": 1}}], ids=str)
def test_measured_with_the_random_return_of_a_card(others: dict[str, Any]) -> None:
    folder = write_dataset("mujoco/hopper/expert-v0", rewarded(REWARDS), env_spec_id="Hopper-v5")
    change_metadata(folder, ref_min_score=-5.0, **others)  # One of the two is none, or no number.
    found = references(open_source(folder), "Hopper-v5")
    assert found.expert_return == (3 + 60) / 2
    assert found.random_return == load_card("hopper").references.random_return
    assert "card of Hopper-v5" in found.source


def test_measured_with_random_episodes() -> None:
    folder = write_dataset("test/pendulum-v0", rewarded(REWARDS), env_spec_id="Pendulum-v1")
    found = references(open_source(folder), "Pendulum-v1")
    assert found.expert_return == (3 + 60) / 2
    assert found.random_return == random_return("Pendulum-v1")
    assert "100 random episodes" in found.source


def test_rewards_that_are_all_zero_are_none() -> None:
    """They were left out when it was recorded; a task that punishes would make an expert of them."""
    folder = write_dataset("test/zero-v0", rewarded([[0.0, 0.0], [0.0]]), env_spec_id="Pendulum-v1")
    found = references(open_source(folder), "Pendulum-v1")
    assert math.isnan(found.expert_return)
    assert "rewards are all zero" in found.source
    assert normalized_score(-100.0, found) is None


def test_datasets_without_rewards_have_no_score() -> None:
    folder = write_dataset("test/nan-v0", counting_episodes([3]), env_spec_id="Hopper-v5")
    assert normalized_score(10.0, references(open_source(folder), "Hopper-v5")) is None


@pytest.mark.parametrize(
    ("scores", "lowest", "reached"),
    [
        ([0.2, 0.96, 0.94, 0.95, 1.0], 0.2, 300),
        ([0.99, 0.97, 0.98], 0.97, 0),
        ([0.5, 0.96, 0.94], 0.5, None),
        ([0.7], 0.7, None),
        ([0.5, -0.1, 0.96], -0.1, 200),
    ],
)
def test_what_a_curve_comes_to(scores: list[float], lowest: float, reached: int | None):
    """0.95 from the first evaluation on after which none is lower."""
    known = References(120.0, 20.0, "")
    curve = [{"env_steps": 100 * i, "return_mean": 20 + 100 * score} for i, score in enumerate(scores)]
    found = along_the_way(curve, known)
    assert found["start_score"] == pytest.approx(scores[0])
    assert found["lowest_score"] == pytest.approx(lowest)
    assert found["env_steps_to_expert_level"] == reached
    nothing = dict.fromkeys(("start_score", "lowest_score", "env_steps_to_expert_level"))
    assert along_the_way(curve, References(math.nan, 20.0, "")) == nothing
    assert along_the_way([], known) == nothing


def test_the_error_of_a_score_is_the_standard_error_of_its_episodes() -> None:
    about = References(expert_return=110.0, random_return=10.0, source="")
    assert score_error([100.0, 100.0, 0.0, 0.0], about) == pytest.approx(np.sqrt(10_000 / 3) / 2 / 100)
    assert score_error([70.0, 70.0], about) == 0
    assert score_error([70.0], about) is None
    assert score_error([70.0, 80.0], References(1.0, 2.0, "")) is None


@pytest.mark.parametrize(("expert", "notes"), [(10.0, 1), (1e6, 0)])
def test_a_score_that_hangs_on_its_episodes_is_said_to(expert: float, notes: int, tmp_path: Path) -> None:
    environment_dataset("test/pole-v0", "CartPole-v1")
    folder = catalog.locate("test/pole-v0")
    assert folder is not None
    change_metadata(folder, ref_min_score=0.0, ref_max_score=expert)
    training = TrainingConfig(gradient_steps=2, hidden_sizes=(4,), batch_size=4, snapshots=0)
    config = RunConfig("x", "bc", 0, False, DataConfig("test/pole-v0"), training, evaluation=EvaluationConfig(5))
    said: list[str] = []
    summary = run(config, tmp_path / "run", Options(say=said.append))
    error = np.std(summary["returns"], ddof=1) / np.sqrt(5) / expert
    found = [line for line in said if "differ so much" in line]
    assert len(found) == notes
    for line in found:
        assert line.startswith(f"note: BC's 5 episodes differ so much that its score is good to ± {error:.2f}; ")
        assert line.endswith("evaluation.episodes = 20 halves that")
