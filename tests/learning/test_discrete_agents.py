"""Finitely many actions: the losses against numpy and brute force over every joint action, and a table solved."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from scipy.special import logsumexp
from tensordict import TensorDict
from torch import Tensor

from iq_offline.config import BCConfig, IQLearnConfig
from iq_offline.config.iq_learn import decided
from iq_offline.data.actions import ActionBranches
from iq_offline.data.spaces import ObservationEncoder, chosen_leaves
from iq_offline.learning.agents import tensors
from iq_offline.learning.agents.bc import BC
from iq_offline.learning.agents.iq_learn_discrete import DiscreteIQLearn
from iq_offline.learning.learner import Learner, named_leaves, stacked
from iq_offline.learning.networks import Hidden
from tests.learning.gradients import slopes
from tests.learning.test_agents import TERMS

SIZE, HIDDEN = 3, Hidden((7, 5))
MEAN, STD = np.array([1.0, -20.0, 0.3]), np.array([0.5, 10.0, 2.0])
ENCODER = ObservationEncoder(chosen_leaves(Box(-np.inf, np.inf, (SIZE,)), (), "the test"))
EXPERTS, OTHERS, STARTS = 5, 6, 3
COUNTS = [(4,), (3, 1, 4), (2, 2), (1,)]
SPACES = {
    (4,): Discrete(4, start=2),
    (3, 1, 4): MultiDiscrete([3, 1, 4], start=[0, -2, 5]),
    (2, 2): MultiBinary(2),
    (1,): Discrete(1),
}
TEMPERATURE, DISCOUNT, ALPHA, ANCHOR = 0.4, 0.9, 0.3, 0.7


def draw_batch(counts: tuple[int, ...], suboptimal: bool, seed: int = 1) -> tuple[TensorDict, TensorDict]:
    """Batch and noise in float64; some transitions end the episode."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"expert": EXPERTS, "initial": STARTS} | ({"suboptimal": OTHERS} if suboptimal else {})
    mean, std = torch.from_numpy(MEAN), torch.from_numpy(STD)

    def observations(count: int) -> Tensor:
        return mean + std * torch.randn(count, SIZE, generator=generator).double()

    batch, noise = {}, {}
    for kind, count in sizes.items():
        following = {"observation": observations(count), "terminated": (torch.arange(count) % 3 == 1).double()}
        action = torch.stack([torch.randint(n, (count,), generator=generator) for n in counts], -1)
        parts = {"observation": observations(count), "action": action, "next": TensorDict(following, [count])}
        batch[kind] = TensorDict(parts, [count])
        noise[kind] = torch.zeros(count, 3, 0).double()
    return TensorDict(batch), TensorDict(noise)


def discrete(
    counts: tuple[int, ...],
    value_states: str = "expert",
    chi2_states: str = "expert",
    suboptimal: bool = False,
    **more: Any,
) -> DiscreteIQLearn:
    config = decided(
        IQLearnConfig(
            discount=DISCOUNT,
            chi2_alpha=ALPHA,
            temperature=TEMPERATURE,
            behavior_anchor=ANCHOR,
            value_states=value_states,  # type: ignore[arg-type]
            chi2_states=chi2_states,  # type: ignore[arg-type]
            **more,
        ),
        mixed=False,
    )
    return DiscreteIQLearn(config, ENCODER, ActionBranches(SPACES[counts]), HIDDEN, ("suboptimal",) * suboptimal)


def draw_parameters(agent: DiscreteIQLearn | BC, seed: int = 2) -> TensorDict:
    """Float64; the target critic is another one than the critic."""
    torch.manual_seed(seed)
    parameters = agent.initial_parameters(torch.from_numpy(MEAN), torch.from_numpy(STD)).double()
    if isinstance(agent, DiscreteIQLearn):
        for _, leaf in named_leaves(parameters["target_critic"]):
            leaf.add_(0.3 * torch.randn(leaf.shape).double())
    return parameters


class Slow:
    """Every term from a table over all joint actions, one row at a time."""

    def __init__(self, parameters: TensorDict, batch: TensorDict, counts: tuple[int, ...]) -> None:
        self.weights = {
            name: {key: value.detach().numpy() for key, value in tensors(parameters[name]).items()}
            for name in map(str, parameters.keys())
            if name != "normalizer"
        }
        self.batch, self.counts = batch, counts

    def outputs(self, group: str, observation: Tensor) -> list[np.ndarray]:
        """One array of values a branch."""
        weights, hidden = self.weights[group], (observation.numpy() - MEAN) / STD
        for layer in (0, 2):
            hidden = np.maximum(weights[f"{layer}.weight"] @ hidden + weights[f"{layer}.bias"], 0)
        flat = weights["4.weight"] @ hidden + weights["4.bias"]
        return np.split(flat, np.cumsum(self.counts)[:-1])

    def q(self, group: str, observation: Tensor) -> dict[tuple[int, ...], float]:
        """Q of every joint action."""
        branches = self.outputs(group, observation)
        return {
            joint: float(sum(branch[i] for branch, i in zip(branches, joint, strict=True)))
            for joint in itertools.product(*map(range, self.counts))
        }

    def value(self, group: str, observation: Tensor) -> float:
        """T log sum exp(Q / T), the sum over the product of all branches."""
        table = np.array(list(self.q(group, observation).values()))
        return TEMPERATURE * float(np.asarray(logsumexp(table / TEMPERATURE)))

    def rows(self, kind: str) -> list[dict[str, float]]:
        found = []
        for row in self.batch[kind]:
            table = self.q("critic", row["observation"])
            q = table[tuple(row["action"].tolist())]
            bootstrap = DISCOUNT * self.value("target_critic", row["next", "observation"])
            future = 0.0 if row["next", "terminated"] else bootstrap
            value = self.value("critic", row["observation"])
            best = max(table, key=lambda joint: table[joint])
            found.append(
                {"q": q, "reward": q - future, "value": value - future}
                | {"wrong": float(best != tuple(row["action"].tolist())), "log_probability": (q - value) / TEMPERATURE}
            )
        return found


def mean_of(rows: list[dict[str, float]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize(("value_states", "chi2_states", "suboptimal"), TERMS)
def test_critic_loss_is_the_formula(
    counts: tuple[int, ...], value_states: str, chi2_states: str, suboptimal: bool
) -> None:
    agent = discrete(counts, value_states, chi2_states, suboptimal)
    batch, noise = draw_batch(counts, suboptimal)
    parameters = draw_parameters(agent)
    (phase,) = agent.phases
    assert phase.group == agent.averaged == "critic"
    loss, metrics = phase.loss(parameters, batch, noise)

    slow = Slow(parameters, batch, counts)
    expert = slow.rows("expert")
    mixture = expert + (slow.rows("suboptimal") if suboptimal else [])
    states = {"expert": expert, "mixture": mixture}
    if value_states == "initial":
        starts = [slow.value("critic", observation) for observation in batch["initial", "observation"]]
        value_term = (1 - DISCOUNT) * sum(starts) / len(starts)
    else:
        value_term = mean_of(states[value_states], "value")
    chi2 = sum(row["reward"] ** 2 for row in states[chi2_states]) / len(states[chi2_states]) / (4 * ALPHA)
    expected = {
        "critic/loss": -mean_of(expert, "reward") + value_term + chi2,
        "critic/expert_reward": mean_of(expert, "reward"),
        "critic/value_term": value_term,
        "critic/chi2": chi2,
        "critic/q": mean_of(mixture, "q"),
        "critic/slope": 0.0,
        "actor/wrong_actions": mean_of(expert, "wrong"),
    }
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected, rel=1e-10, abs=1e-12)
    held = 0.0 if suboptimal else -ANCHOR * mean_of(expert, "log_probability")
    assert loss.item() == pytest.approx(expected["critic/loss"] + held, rel=1e-10)


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize(("value_states", "chi2_states", "suboptimal"), TERMS)
def test_the_gradient_of_the_critic_loss_is_finite_differences(
    counts: tuple[int, ...], value_states: str, chi2_states: str, suboptimal: bool
) -> None:
    """Nowhere lost in the padding of branches with fewer choices."""
    agent = discrete(counts, value_states, chi2_states, suboptimal)
    batch, noise = draw_batch(counts, suboptimal)
    parameters = draw_parameters(agent)
    (phase,) = agent.phases
    leaves = [leaf.requires_grad_() for _, leaf in named_leaves(parameters["critic"])]
    gradients = torch.autograd.grad(phase.loss(parameters, batch, noise)[0], leaves)
    assert all(gradient.isfinite().all() for gradient in gradients)
    exact, differences = slopes(phase.loss, (parameters, batch, noise), leaves, 7)
    assert differences == pytest.approx(exact, rel=1e-5, abs=1e-7)
    assert max(gradient.abs().max() for gradient in gradients) > 1e-3


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_soft_values_are_sums_over_every_joint_action(counts: tuple[int, ...]) -> None:
    agent = discrete(counts)
    batch, _ = draw_batch(counts, False)
    parameters = draw_parameters(agent)
    slow = Slow(parameters, batch, counts)
    observations = batch["expert", "observation"]
    state = (observations - torch.from_numpy(MEAN)) / torch.from_numpy(STD)
    for group in ("critic", "target_critic"):
        found = agent.value(parameters, group, state, torch.zeros(EXPERTS, 0))
        np.testing.assert_allclose(found.numpy(), [slow.value(group, one) for one in observations], rtol=1e-12)
        for joint in itertools.product(*map(range, counts)):
            actions = torch.tensor(joint).expand(EXPERTS, -1)
            q = agent.q(parameters[group], state, actions)
            np.testing.assert_allclose(q.numpy(), [slow.q(group, one)[joint] for one in observations], rtol=1e-12)


@pytest.mark.parametrize("temperature", [1e-3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uneven_branches_never_make_gradients_that_are_not_numbers(temperature: float, dtype: torch.dtype) -> None:
    """Also where the values are far apart, in one learner and in a population."""
    counts = (3, 1, 4)
    agent = discrete(counts)
    config = decided(IQLearnConfig(temperature=temperature), mixed=False)
    agent = DiscreteIQLearn(config, ENCODER, ActionBranches(SPACES[counts]), HIDDEN)
    bc = BC(BCConfig(), ENCODER, ActionBranches(SPACES[counts]), HIDDEN)
    for one, group in ((agent, "critic"), (bc, "actor")):
        members = [draw_parameters(one, seed).to(dtype) for seed in range(3)]
        for member in members:
            member[group, "4.weight"].mul_(1000)
        drawn = [draw_batch(counts, False, seed) for seed in range(3)]
        batch, noise = (stacked([pair[index] for pair in drawn]).to(dtype) for index in range(2))
        for kind in ("expert", "initial"):
            batch[kind, "action"] = batch[kind, "action"].long()
        together = Learner(one, stacked(members), 5, 0.9, population=True)
        for _ in range(5):
            metrics = together.update(batch, noise)
            assert all(value.isfinite().all() for value in metrics.values())
        assert all(leaf.isfinite().all() for _, leaf in named_leaves(together.parameters))


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("loss", ["squared_error", "likelihood"])
def test_cross_entropy_is_closed_form(counts: tuple[int, ...], loss: str) -> None:
    """Whatever loss was configured for boxes: minus the log of the softmaxes' product at the expert's action."""
    agent = BC(BCConfig(loss=loss), ENCODER, ActionBranches(SPACES[counts]), HIDDEN)  # type: ignore[arg-type]
    batch, noise = draw_batch(counts, False)
    parameters = draw_parameters(agent)
    found, metrics = agent.phases[0].loss(parameters, batch, noise)
    slow = Slow(parameters, batch, counts)
    expected, wrong = [], []
    for row in batch["expert"]:
        table, chosen = slow.q("actor", row["observation"]), tuple(row["action"].tolist())
        expected.append(math.log(sum(map(math.exp, table.values()))) - table[chosen])
        wrong.append(max(table, key=lambda joint, table=table: table[joint]) != chosen)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-12)
    assert metrics["actor/loss"].item() == found.item()
    assert metrics["actor/wrong_actions"].item() == pytest.approx(np.mean(wrong))


def test_a_table_is_solved() -> None:
    """Three states with one Q each per action, every transition terminal: each state is a problem of its own,

    minimise -Q(a*) + V + Q(a*)² / (4 alpha) with -1 + pi(a*) + Q(a*) / (2 alpha) = 0 and pi(b) = 0 for all other b:
    Q(a*) goes to 0 and pi(a*) to 1.
    """
    space = Box(-np.inf, np.inf, (3,))
    encoder = ObservationEncoder(chosen_leaves(space, (), "the test"))
    rates: dict[str, Any] = {"critic_learning_rate": 0.05, "adam_beta1": 0.9, "behavior_anchor": 0.0}
    config = decided(IQLearnConfig(temperature=0.5, chi2_alpha=0.5, **rates), mixed=False)
    agent = DiscreteIQLearn(config, encoder, ActionBranches(Discrete(3)), Hidden(()))
    states, actions = torch.eye(3).double(), torch.tensor([[0], [2], [1]])
    following = TensorDict({"observation": states, "terminated": torch.ones(3).double()}, [3])
    expert = TensorDict({"observation": states, "action": actions, "next": following}, [3])
    torch.manual_seed(0)
    parameters = agent.initial_parameters(torch.zeros(3), torch.ones(3)).double()
    learner = Learner(agent, parameters, 600, 0.0, cosine_schedule=False)
    batch, noise = TensorDict({"expert": expert}), TensorDict({"expert": torch.zeros(3, 3, 0)})
    for _ in range(599):
        learner.update(batch, noise)
    metrics = learner.update(batch, noise)
    with torch.no_grad():
        q = states @ learner.parameters["critic", "0.weight"].T + learner.parameters["critic", "0.bias"]
        policy = torch.softmax(q / 0.5, -1)
    chosen = policy.gather(-1, actions).squeeze(-1)
    assert (chosen > 0.95).all()
    np.testing.assert_allclose(q.gather(-1, actions).numpy(), 0, atol=0.1)
    assert metrics["actor/wrong_actions"] == 0
    # The stationary condition in Q(a*): -1 + pi(a*) + Q(a*) / (2 alpha) = 0, at every state.
    residual = -1 + chosen + q.gather(-1, actions).squeeze(-1) / (2 * 0.5)
    np.testing.assert_allclose(residual.numpy(), 0, atol=0.02)


def test_a_mixed_expert_is_matched_by_the_softmax() -> None:
    """An expert that takes its actions with other frequencies: pi must agree with them once the reward is near 0.

    With alpha huge and all transitions terminal the objective is E_E[V - Q(a)], T times the cross-entropy.
    """
    encoder = ObservationEncoder(chosen_leaves(Box(-1, 1, (1,)), (), "the test"))
    rates: dict[str, Any] = {"critic_learning_rate": 0.02, "adam_beta1": 0.9, "behavior_anchor": 0.0}
    config = decided(IQLearnConfig(temperature=0.2, chi2_alpha=1e9, **rates), mixed=False)
    agent = DiscreteIQLearn(config, encoder, ActionBranches(MultiDiscrete([2, 3])), Hidden(()))
    shares = [((0, 0), 4), ((0, 2), 2), ((1, 0), 2), ((1, 2), 1), ((0, 1), 2), ((1, 1), 1)]
    actions = torch.tensor([action for action, times in shares for _ in range(times)])
    count = len(actions)
    ones = torch.ones(count, 1).double()
    following = TensorDict({"observation": ones, "terminated": torch.ones(count).double()}, [count])
    expert = TensorDict({"observation": ones, "action": actions, "next": following}, [count])
    torch.manual_seed(0)
    learner = Learner(agent, agent.initial_parameters(torch.zeros(1), torch.ones(1)).double(), 800, 0.0)
    batch, noise = TensorDict({"expert": expert}), TensorDict({"expert": torch.zeros(count, 3, 0)})
    for _ in range(800):
        learner.update(batch, noise)
    values = (learner.parameters["critic", "0.weight"][:, 0] + learner.parameters["critic", "0.bias"]).detach() / 0.2
    first, second = torch.softmax(values[:2], 0), torch.softmax(values[2:], 0)
    np.testing.assert_allclose(first.numpy(), [8 / 12, 4 / 12], atol=0.01)
    np.testing.assert_allclose(second.numpy(), [6 / 12, 3 / 12, 3 / 12], atol=0.01)


def test_without_a_target_network_the_gradient_goes_through_the_next_value() -> None:
    """The loss is that of a target equal to the critic; the gradient is the whole loss's, by finite differences."""
    agent = discrete((4,), target_network=False)
    assert "target_update_rate" in agent.unread
    parameters = draw_parameters(agent)
    batch, noise = draw_batch((4,), suboptimal=False)
    same = parameters.clone()
    same["target_critic"] = same["critic"].clone()
    loss = agent.loss(parameters, batch, noise)[0]
    assert loss.item() == pytest.approx(discrete((4,)).loss(same, batch, noise)[0].item(), rel=1e-12)
    weight = parameters["critic", "4.bias"].requires_grad_()
    (gradient,) = torch.autograd.grad(agent.loss(parameters, batch, noise)[0], [weight])
    for place in range(4):
        ends = []
        for step in (1e-6, -1e-6):
            moved = parameters.detach().clone()
            moved["critic", "4.bias"][place] += step
            ends.append(agent.loss(moved, batch, noise)[0].item())
        assert gradient[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-8)
