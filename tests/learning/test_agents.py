"""The algorithms' losses against a slow recomputation in numpy, one row at a time, from the formulas."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from tensordict import TensorDict
from torch import Tensor

from iq_offline.config import BCConfig, DataConfig, IQLearnConfig, RunConfig, Suboptimal, TrainingConfig, resolved
from iq_offline.config.iq_learn import decided
from iq_offline.data.cache import CachedSource, cached
from iq_offline.data.spaces import ObservationEncoder, chosen_leaves
from iq_offline.data.stream import open_source
from iq_offline.learning.agents import UnitBox, tensors
from iq_offline.learning.agents.bc import BC
from iq_offline.learning.agents.iq_learn_continuous import ContinuousIQLearn
from iq_offline.learning.learner import Learner, named_leaves
from iq_offline.learning.networks import Hidden
from iq_offline.learning.objective import phi
from iq_offline.training.setup import choose_data, prepare
from tests.helpers import Episode, point_mass_episodes, write_dataset
from tests.learning.gradients import slopes

SIZE, ACTION_SIZE, HIDDEN = 3, 2, Hidden((7, 5))
LOW, HIGH = np.array([-2.0, 0.5]), np.array([1.0, 0.75])
MEAN, STD = np.array([1.0, -20.0, 0.3]), np.array([0.5, 10.0, 2.0])
UNIT_BOX = UnitBox(torch.from_numpy(LOW), torch.from_numpy(HIGH))
ENCODER = ObservationEncoder(chosen_leaves(Box(-np.inf, np.inf, (SIZE,)), (), "the test"))
EXPERTS, OTHERS, STARTS = 4, 6, 3

TERMS = [
    ("expert", "expert", False),
    ("initial", "expert", False),
    *(
        (value_states, chi2_states, True)
        for value_states in ("expert", "mixture", "initial")
        for chi2_states in ("expert", "mixture")
    ),
]


def draw_batch(suboptimal: bool) -> tuple[TensorDict, TensorDict]:
    """Batch and noise in float64; some actions lie outside the box, some transitions end the episode."""
    torch.manual_seed(1)
    sizes = {"expert": EXPERTS, "initial": STARTS} | ({"suboptimal": OTHERS} if suboptimal else {})
    mean, std = torch.from_numpy(MEAN), torch.from_numpy(STD)
    batch, noise = {}, {}
    for kind, count in sizes.items():
        following = {
            "observation": mean + std * torch.randn(count, SIZE).double(),
            "terminated": (torch.arange(count) % 3 == 1).double(),
        }
        batch[kind] = TensorDict(
            {
                "observation": mean + std * torch.randn(count, SIZE).double(),
                "action": torch.from_numpy(LOW - 0.1)
                + torch.from_numpy(HIGH - LOW + 0.2) * torch.rand(count, 2).double(),
                "next": TensorDict(following, [count]),
            },
            [count],
        )
        noise[kind] = torch.randn(count, 3, ACTION_SIZE).double()
    return TensorDict(batch), TensorDict(noise)


def draw_parameters(agent: ContinuousIQLearn | BC) -> TensorDict:
    """Float64; the target critic is another one than the critic."""
    torch.manual_seed(2)
    parameters = agent.initial_parameters(torch.from_numpy(MEAN), torch.from_numpy(STD)).double()
    if isinstance(agent, ContinuousIQLearn):
        for _, leaf in named_leaves(parameters["target_critic"]):
            leaf.add_(0.3 * torch.randn(leaf.shape).double())
    return parameters


def iq_learn(value_states: str, chi2_states: str, suboptimal: bool, **changes: Any) -> ContinuousIQLearn:
    config = decided(
        IQLearnConfig(
            discount=0.9,
            chi2_alpha=0.3,
            temperature=0.2,
            value_states=value_states,  # type: ignore[arg-type]
            chi2_states=chi2_states,  # type: ignore[arg-type]
            gradient_penalty=0.7,
            **changes,
        ),
        mixed=False,
    )
    return ContinuousIQLearn(config, ENCODER, UNIT_BOX, HIDDEN, ("suboptimal",) * suboptimal)


class Slow:
    """IQ-Learn's terms, row by row."""

    def __init__(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict, config: IQLearnConfig) -> None:
        self.groups = {
            name: {key: value.detach().numpy() for key, value in tensors(parameters[name]).items()}
            for name in ("actor", "critic", "target_critic")
        }
        self.batch, self.noise, self.config = batch, noise, config

    def network(self, group: str, inputs: np.ndarray) -> np.ndarray:
        weights = self.groups[group]
        for layer in (0, 2):
            inputs = np.maximum(weights[f"{layer}.weight"] @ inputs + weights[f"{layer}.bias"], 0)
        return weights["4.weight"] @ inputs + weights["4.bias"]

    def sample(self, state: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, float]:
        outputs = self.network("actor", state)
        std = np.exp(-5 + 7 * (np.tanh(outputs[ACTION_SIZE:]) + 1) / 2)
        action = np.tanh(outputs[:ACTION_SIZE] + std * noise)
        density = np.exp(-(noise**2) / 2) / (std * math.sqrt(2 * math.pi)) / (1 - action**2)
        return action, float(np.log(density).sum())

    def soft_value(self, group: str, observation: Tensor, noise: Tensor) -> float:
        state = (observation.numpy() - MEAN) / STD
        action, log_probability = self.sample(state, noise.numpy())
        return self.q(group, state, action) - float(self.config.temperature) * log_probability

    def q(self, group: str, state: np.ndarray, action: np.ndarray) -> float:
        return float(self.network(group, np.concatenate([state, action]))[0])

    def slopes(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """dQ/d(s, a), by the chain rule."""
        weights, inputs = self.groups["critic"], np.concatenate([state, action])
        jacobian = np.eye(len(inputs))
        for layer in (0, 2):
            inputs = weights[f"{layer}.weight"] @ inputs + weights[f"{layer}.bias"]
            jacobian = (inputs > 0)[:, None] * (weights[f"{layer}.weight"] @ jacobian)
            inputs = np.maximum(inputs, 0)
        return (weights["4.weight"] @ jacobian)[0]

    def rows(self, kind: str) -> list[dict[str, float]]:
        """Q, the implied reward and the telescoped value of every transition of a kind."""
        found = []
        for row, draws in zip(self.batch[kind], self.noise[kind], strict=True):
            state = (row["observation"].numpy() - MEAN) / STD
            unit = np.clip(2 * (row["action"].numpy() - LOW) / (HIGH - LOW) - 1, -1, 1)
            q = self.q("critic", state, unit)
            following = self.soft_value("target_critic", row["next", "observation"], draws[0])
            future = 0.0 if row["next", "terminated"] else self.config.discount * following
            value = self.soft_value("critic", row["observation"], draws[1])
            action, log_probability = self.sample(state, draws[2].numpy())
            policy = float(self.config.temperature) * log_probability - self.q("critic", state, action)
            mean = np.tanh(self.network("actor", state)[:ACTION_SIZE])
            error = ((mean - unit) ** 2).sum()
            found.append(
                {"q": q, "reward": q - future, "value": value - future, "policy": policy, "error": error}
                | {"log_probability": log_probability, "slope": float((self.slopes(state, unit)[SIZE:] ** 2).sum())}
                | {"steepness": float(np.linalg.norm(self.slopes(state, unit)))}
            )
        return found


def mean_of(rows: list[dict[str, float]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


@pytest.mark.parametrize(("value_states", "chi2_states", "suboptimal"), TERMS)
def test_critic_loss_is_the_formula(value_states: str, chi2_states: str, suboptimal: bool):
    agent = iq_learn(value_states, chi2_states, suboptimal)
    batch, noise = draw_batch(suboptimal)
    parameters = draw_parameters(agent)
    loss, metrics = agent.critic_loss(parameters, batch, noise)

    slow = Slow(parameters, batch, noise, agent.config)
    expert = slow.rows("expert")
    mixture = expert + (slow.rows("suboptimal") if suboptimal else [])
    states = {"expert": expert, "mixture": mixture}
    if value_states == "initial":
        starts = zip(batch["initial", "observation"], noise["initial"], strict=True)
        values = [slow.soft_value("critic", observation, draws[0]) for observation, draws in starts]
        value_term = (1 - 0.9) * sum(values) / len(values)
    else:
        value_term = mean_of(states[value_states], "value")
    chi2 = sum(row["reward"] ** 2 for row in states[chi2_states]) / len(states[chi2_states]) / (4 * 0.3)
    expected = {
        "critic/loss": -mean_of(expert, "reward") + value_term + chi2 + 0.7 * mean_of(expert, "slope"),
        "critic/expert_reward": mean_of(expert, "reward"),
        "critic/value_term": value_term,
        "critic/chi2": chi2,
        "critic/q": mean_of(mixture, "q"),
        "critic/slope": mean_of(expert, "slope"),
    }
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected, rel=1e-10, abs=1e-12)
    assert loss.item() == pytest.approx(expected["critic/loss"], rel=1e-10)
    assert min(abs(value) for value in expected.values()) > 1e-4  # Every term counts here.


@pytest.mark.parametrize("expert_ends", [False, True])
def test_the_online_critic_loss_is_the_formula(expert_ends: bool):
    """Raised rewards: 0 after others' ends, the highest for ever after the expert's; and the slopes between pairs."""
    config = iq_learn("mixture", "mixture", True).config
    config = replace(config, absorbing_value="raised", smoothness_penalty=0.8, largest_slope=0.002)
    agent = ContinuousIQLearn(config, ENCODER, UNIT_BOX, HIDDEN, ("online",))
    batch, noise = draw_batch(True)
    if not expert_ends:
        batch["expert", "next", "terminated"].zero_()
    parameters = draw_parameters(agent)
    slow = Slow(parameters, batch, noise, config)
    expert, online = slow.rows("expert"), slow.rows("suboptimal")
    raised, forever = 2 * 0.3, 2 * 0.3 * (EXPERTS + OTHERS) / EXPERTS / (1 - 0.9)
    for row, ended in zip(expert, batch["expert", "next", "terminated"], strict=True):
        for name in ("reward", "value"):
            row[name] -= 0.9 * forever * ended.item()
    mixture = expert + online
    chi2 = sum((row["reward"] - raised) ** 2 for row in mixture) / len(mixture) / (4 * 0.3)

    last = range(OTHERS - EXPERTS, OTHERS)
    steepness = 0.0
    for index, other in enumerate(last):
        ends = []
        for kind, row in (("expert", index), ("suboptimal", other)):
            chosen = batch[kind][row]
            state, following = (
                (observed.numpy() - MEAN) / STD for observed in (chosen["observation"], chosen["next", "observation"])
            )
            unit = np.clip(2 * (chosen["action"].numpy() - LOW) / (HIGH - LOW) - 1, -1, 1)
            ends.append(np.concatenate([state, unit, following]))
        shares = [0.5 * (1 + math.erf(draw / math.sqrt(2))) for draw in noise["expert"][index, 1:, 0].tolist()]
        rewards = []
        for share in shares:
            at = ends[0] + share * (ends[1] - ends[0])
            action, log_probability = slow.sample(at[-SIZE:], np.zeros(ACTION_SIZE))
            following = slow.q("critic", at[-SIZE:], action) - 0.2 * log_probability
            rewards.append(slow.q("critic", at[:SIZE], at[SIZE:-SIZE]) - 0.9 * following)
        distance = abs(shares[0] - shares[1]) * np.linalg.norm(ends[1] - ends[0])
        over = max(0.0, abs(rewards[0] - rewards[1]) / distance / 0.002 - 1)
        ended = batch["expert", "next", "terminated"][index] or batch["suboptimal", "next", "terminated"][other]
        steepness += over**2 / EXPERTS * (not ended)
    assert steepness > 1

    for named in (batch, noise):
        named.rename_key_("suboptimal", "online")
    loss, metrics = agent.critic_loss(parameters, batch, noise)
    assert metrics["critic/steepness"].item() == pytest.approx(steepness, rel=1e-4)
    assert metrics["critic/chi2"].item() == pytest.approx(chi2, rel=1e-10)
    assert metrics["critic/online_reward"].item() == pytest.approx(mean_of(online, "reward"), rel=1e-10)
    expected = -mean_of(expert, "reward") + mean_of(mixture, "value") + chi2 + 0.7 * mean_of(expert, "slope")
    assert loss.item() == pytest.approx(expected + 0.8 * steepness, rel=1e-4)
    said = agent.diagnose(parameters, batch["online"])
    plain = replace(config, absorbing_value="zero")
    there = ContinuousIQLearn(plain, ENCODER, UNIT_BOX, HIDDEN, ("online",)).diagnose(parameters, batch["online"])
    torch.testing.assert_close(said["value"], there["value"] - raised / 0.1)
    ends = batch["online", "next", "terminated"] > 0
    torch.testing.assert_close(said["reward"][~ends], there["reward"][~ends] - raised)
    torch.testing.assert_close(said["reward"][ends], 0.1 * there["value"][ends] - raised)


def test_critic_losses_of_other_divergences_are_the_formula():
    """Row by row; total variation and W1 with what they bound, here exceeded by far."""
    batch, noise = draw_batch(True)

    def by_phi(divergence: str) -> Callable[[list[dict[str, Any]]], float]:
        return lambda rows: (
            -phi(torch.tensor([row["reward"] for row in rows], dtype=torch.float64), divergence).mean().item()
        )

    for divergence, of in {
        "kl": lambda rows: sum(math.exp(-row["reward"] - 1) for row in rows) / len(rows),
        "hellinger": lambda rows: -sum(row["reward"] / (1 + row["reward"]) for row in rows) / len(rows),
        "reverse_kl": by_phi("reverse_kl"),  # Whose phi is tested by itself.
        "jensen_shannon": by_phi("jensen_shannon"),
        "total_variation": lambda rows: -mean_of(rows, "reward"),
        "wasserstein": lambda rows: -mean_of(rows, "reward"),
    }.items():
        agent = iq_learn("mixture", "mixture", True, divergence=divergence, constraint_weight=2.5)
        parameters = draw_parameters(agent)
        for _, leaf in named_leaves(parameters["critic"]):
            leaf.mul_({"wasserstein": 8.0, "total_variation": 2.5}.get(divergence, 1.0))
        slow = Slow(parameters, batch, noise, agent.config)
        expert = slow.rows("expert")
        mixture = expert + slow.rows("suboptimal")
        assert divergence != "hellinger" or min(row["reward"] for row in mixture) > -1  # Its domain.
        violation = 0.0
        if divergence == "total_variation":
            violation = sum(max(0, abs(row["reward"]) - 0.5) ** 2 for row in mixture) / len(mixture)
        if divergence == "wasserstein":
            violation = sum(max(0, row["steepness"] - 1) ** 2 for row in expert) / len(expert)
        assert violation > 1e-3 or divergence not in ("total_variation", "wasserstein")
        expected = of(expert) + mean_of(mixture, "value") + 2.5 * violation + 0.7 * mean_of(expert, "slope")
        loss, _ = agent.critic_loss(parameters, batch, noise)
        assert loss.item() == pytest.approx(expected, rel=1e-8), divergence


@pytest.mark.parametrize("anchor", [0.0, 3.0])
@pytest.mark.parametrize("suboptimal", [False, True])
def test_actor_loss_is_the_formula(suboptimal: bool, anchor: float):
    agent = iq_learn("expert", "expert", suboptimal)
    agent.config = replace(agent.config, behavior_anchor=anchor)
    batch, noise = draw_batch(suboptimal)
    parameters = draw_parameters(agent)
    loss, metrics = agent.actor_loss(parameters, batch, noise)
    slow = Slow(parameters, batch, noise, agent.config)
    expert = slow.rows("expert")
    mixture = expert + (slow.rows("suboptimal") if suboptimal else [])
    expected = {
        "actor/loss": mean_of(mixture, "policy") + anchor * mean_of(expert, "error"),
        "actor/entropy": -mean_of(mixture, "log_probability"),
        "actor/squared_error": mean_of(expert, "error"),
    }
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected, rel=1e-10)
    assert loss.item() == pytest.approx(expected["actor/loss"], rel=1e-10)


@pytest.mark.parametrize(("value_states", "chi2_states", "suboptimal"), TERMS)
def test_the_gradient_of_the_critic_loss_is_finite_differences(value_states: str, chi2_states: str, suboptimal: bool):
    """Also of weights that reach the loss through V(s) alone, and none through the target."""
    agent = iq_learn(value_states, chi2_states, suboptimal)
    batch, noise = draw_batch(suboptimal)
    parameters = draw_parameters(agent)
    leaves = [leaf.requires_grad_() for _, leaf in named_leaves(parameters["critic"])]
    exact, differences = slopes(agent.critic_loss, (parameters, batch, noise), leaves, 5)
    assert differences == pytest.approx(exact, rel=1e-5, abs=1e-7)
    assert sum(abs(difference) > 1e-3 for difference in differences) >= 8


@pytest.mark.parametrize(("value_states", "chi2_states", "suboptimal"), TERMS)
def test_the_critic_loss_sends_no_gradient_into_the_policy(value_states: str, chi2_states: str, suboptimal: bool):
    agent = iq_learn(value_states, chi2_states, suboptimal)
    parameters = draw_parameters(agent)
    actor = [leaf.requires_grad_() for _, leaf in named_leaves(parameters["actor"])]
    critic = [leaf.requires_grad_() for _, leaf in named_leaves(parameters["critic"])]
    loss = agent.critic_loss(parameters, *draw_batch(suboptimal))[0]
    gradients = torch.autograd.grad(loss, actor + critic, allow_unused=True)
    assert all(gradient is None or not gradient.any() for gradient in gradients[: len(actor)])
    assert all(gradient.abs().max() > 1e-6 for gradient in gradients[len(actor) :])


def adam_first_step(leaf: Tensor, gradient: Tensor, rate: float) -> Tensor:
    return leaf.detach() - rate * gradient / (gradient.abs() + 1e-8)


@pytest.mark.parametrize(("weight_decay", "input_decay"), [(0.0, 0.0), (0.3, 0.0), (0.0, 20.0), (0.3, 20.0)])
def test_an_update_moves_each_group_by_its_own_loss_and_nothing_else(weight_decay: float, input_decay: float):
    """And shrinks all by the one decay, the first layer that acts by the other."""
    agent = iq_learn("mixture", "mixture", True)
    batch, noise = draw_batch(True)
    parameters = draw_parameters(agent)
    before = parameters.clone()
    learner = Learner(agent, parameters, 10, 0.9, weight_decay=weight_decay, input_decay=input_decay)
    learner.update(batch, noise)

    def gradients(of: TensorDict, group: str) -> list[Tensor]:
        of = of.detach().clone()
        leaves = [leaf.requires_grad_() for _, leaf in named_leaves(of[group])]
        loss = agent.critic_loss if group == "critic" else agent.actor_loss
        return list(torch.autograd.grad(loss(of, batch, noise)[0], leaves))

    # First the critic, with the old policy; then the policy, with the new critic.
    halfway = before.clone()
    halfway["critic"] = learner.parameters["critic"].detach().clone()
    for phase, start in zip(agent.phases, (before, halfway), strict=True):
        group, rate = phase.group, phase.learning_rate
        for (name, leaf), old, gradient in zip(
            named_leaves(learner.parameters[group]), named_leaves(before[group]), gradients(start, group), strict=True
        ):
            kept = (1 - rate * weight_decay) * (1 - rate * input_decay * ((group, name) == ("actor", "0.weight")))
            expected = adam_first_step(old[1] * kept, gradient, rate)
            torch.testing.assert_close(leaf.detach(), expected, rtol=0, atol=1e-9, msg=f"{group}/{name}")
    for (_, target), (_, old), (_, critic) in zip(
        *map(
            named_leaves, (learner.parameters["target_critic"], before["target_critic"], learner.parameters["critic"])
        ),
        strict=True,
    ):
        torch.testing.assert_close(target, 0.995 * old + 0.005 * critic.detach(), rtol=0, atol=1e-12)
    assert (learner.parameters["normalizer"] == before["normalizer"]).all()


def behavior_cloning(loss: str) -> BC:
    config = BCConfig(loss=loss)  # type: ignore[arg-type]
    return BC(config, ENCODER, UNIT_BOX, HIDDEN)


def expert_outputs(parameters: TensorDict, batch: TensorDict) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and deviation before the squashing, and the actions in the unit box."""
    weights = tensors(parameters["actor"])
    hidden = (batch["expert", "observation"] - torch.from_numpy(MEAN)) / torch.from_numpy(STD)
    for layer in (0, 2):
        hidden = torch.relu(hidden @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"])
    outputs = hidden @ weights["4.weight"].T + weights["4.bias"]
    low, high = torch.from_numpy(LOW), torch.from_numpy(HIGH)
    unit = (2 * (batch["expert", "action"] - low) / (high - low) - 1).clamp(-1, 1)
    return outputs[:, :2], torch.exp(-5 + 3.5 * (torch.tanh(outputs[:, 2:]) + 1)), unit


def test_squared_error_is_closed_form():
    agent = behavior_cloning("squared_error")
    batch, _ = draw_batch(False)
    parameters = draw_parameters(agent)
    mean, _, unit = expert_outputs(parameters, batch)
    expected = ((torch.tanh(mean) - unit) ** 2).sum() / EXPERTS
    loss, metrics = agent.phases[0].loss(parameters, batch, TensorDict({}))
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
        {"actor/loss": expected.item(), "actor/squared_error": expected.item()}
    )


def test_the_robust_loss_is_closed_form():
    agent = BC(BCConfig("robust", outlier_error=0.3), ENCODER, UNIT_BOX, HIDDEN)
    batch, _ = draw_batch(False)
    parameters = draw_parameters(agent)
    mean, _, unit = expert_outputs(parameters, batch)
    error = ((torch.tanh(mean) - unit) ** 2).sum(-1)
    square = ACTION_SIZE * 0.3**2
    loss, metrics = agent.phases[0].loss(parameters, batch, TensorDict({}))
    torch.testing.assert_close(loss, (square * torch.log(1 + error / square)).sum() / EXPERTS, rtol=1e-12, atol=0)
    assert metrics["actor/squared_error"].item() == pytest.approx(error.mean().item())


@pytest.mark.parametrize(("name", "expected"), [("squared_error", 0.75 * 0.4 - 0.25 * 0.9), ("robust", 0.4)])
def test_of_actions_that_disagree_the_robust_loss_finds_where_most_are(name: Any, expected: float):
    """One state; three actions of 0.4, and one of -0.9 that the mean gives way to."""
    agent = BC(BCConfig(name, 1e-2, outlier_error=0.1), ENCODER, UNIT_BOX, HIDDEN)
    parameters = draw_parameters(agent)
    unit = torch.tensor([0.4, 0.4, 0.4, -0.9]).double().unsqueeze(-1).expand(4, 2)
    action = UNIT_BOX.center + UNIT_BOX.half_width * unit
    batch = TensorDict({"expert": TensorDict({"observation": torch.zeros(4, SIZE).double(), "action": action}, [4])})
    learner = Learner(agent, parameters, 500, 0.9)
    for _ in range(500):
        learner.update(batch, TensorDict({}))
    found, _, _ = expert_outputs(parameters, batch)
    assert torch.tanh(found).flatten().tolist() == pytest.approx([expected] * 8, abs=0.02)


def test_likelihood_is_closed_form():
    agent = behavior_cloning("likelihood")
    batch, _ = draw_batch(False)
    parameters = draw_parameters(agent)
    mean, std, unit = expert_outputs(parameters, batch)
    inside = unit.clamp(-1 + 1e-6, 1 - 1e-6)
    assert (unit.abs() == 1).any(), "an action outside the box belongs to this test"
    normal = torch.distributions.Normal(mean, std).log_prob(torch.atanh(inside))
    expected = -(normal - torch.log1p(-(inside**2))).sum() / EXPERTS
    loss, metrics = agent.phases[0].loss(parameters, batch, TensorDict({}))
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    error = ((torch.tanh(mean) - unit) ** 2).sum() / EXPERTS
    assert metrics["actor/squared_error"].item() == pytest.approx(error.item())


def changed(name: str, part: int, change: np.ndarray, written: list[Episode], identifier: str) -> CachedSource:
    """A dataset that differs from ``written`` in one array of its first episode."""
    first = [*written[0]]
    first[part] = change
    return cached(open_source(write_dataset(identifier, [tuple(first), *written[1:]])))  # type: ignore[list-item]


def relabelled(source: CachedSource) -> CachedSource:
    """The same transitions as another dataset's."""
    return replace(source, source=replace(source.source, path=Path("elsewhere")))


LS_IQ: dict[str, Any] = {"expert_term": "fixed_target", "clip_targets": True, "absorbing_value": "bound"}


@pytest.mark.parametrize(
    ("algorithm", "terms"),
    [
        ("bc", {}),
        ("iq_learn", {}),
        ("iq_learn", {"policy": "soft_actor_critic", **LS_IQ}),
        ("iq_learn", {"policy": "advantage_weighted", "value": "expectile"}),
        ("valuedice", {}),
        ("sqil", {}),
    ],
)
def test_rewards_and_truncations_reach_nothing_and_terminations_reach_the_loss(
    algorithm: str, terms: dict[str, Any], tmp_path: Path
):
    written, mixed = point_mass_episodes(3, 12, seed=1), algorithm == "sqil" or bool(terms)
    everything = RunConfig(
        algorithm=algorithm,  # type: ignore[arg-type]
        data=DataConfig(num_expert_trajectories=3, suboptimal=(Suboptimal("test/itself"),) if mixed else ()),
        training=TrainingConfig(hidden_sizes=(8,), batch_size=256, dtype="float64"),
        iq_learn=IQLearnConfig(**terms),
    )
    kinds = ("expert", "suboptimal") if mixed else ("expert",)
    flags = np.zeros(12, bool)
    flags[[4, 11]] = True
    sources = {
        "plain": cached(open_source(write_dataset("test/plain-v0", written))),
        "truncated": changed("truncations", 4, flags, written, "test/truncated-v0"),
        "reward": changed("rewards", 2, np.full(12, np.nan), written, "test/reward-v0"),
        "terminated": changed("terminations", 3, flags, written, "test/terminated-v0"),
    }
    results = {}
    for name, source in sources.items():
        assert sorted(source.steps) == ["action", "observation_0", "terminated"]
        files = sorted(file.name for file in (tmp_path / "cache").rglob("*.memmap"))
        assert set(files) == {"action.memmap", "observation_0.memmap", "terminated.memmap"}
        config = resolved(everything)
        training = prepare(config, choose_data(config, source, [relabelled(source)] if mixed else []))
        batch = training.replay.sample()
        keys = (("observation",), ("action",), ("next", "observation"), ("next", "terminated"))
        assert set(batch.keys(include_nested=True, leaves_only=True)) == {
            (kind, *key) for kind in kinds for key in keys
        }
        noise = training.draw_noise(batch)
        loss = training.learner.agent.phases[0].loss(training.learner.parameters, batch, noise)[0]
        contents = {key: value.clone() for key, value in source.steps.items()}
        results[name] = contents, batch, loss.item()

    plain_contents, plain_batch, plain_loss = results["plain"]
    for name in ("truncated", "reward"):
        contents, batch, loss = results[name]
        assert all(torch.equal(contents[key], plain_contents[key]) for key in plain_contents)
        assert (batch == plain_batch).all()
        assert loss == plain_loss
    contents, batch, loss = results["terminated"]
    assert contents["terminated"].nonzero().reshape(-1).tolist() == [4, 11]
    assert batch["expert", "next", "terminated"].sum() > plain_batch["expert", "next", "terminated"].sum() == 0
    assert (loss != plain_loss) == (algorithm != "bc")
