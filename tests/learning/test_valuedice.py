"""ValueDICE's losses against a slow recomputation in numpy, one row at a time; gradients by finite differences."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.config.baselines import ValueDICEConfig
from iq_offline.data.actions import ActionBranches
from iq_offline.learning.agents import tensors
from iq_offline.learning.agents.valuedice import ContinuousValueDICE, DiscreteValueDICE, ValueDICE
from iq_offline.learning.learner import Learner, named_leaves
from iq_offline.learning.networks import Hidden
from tests.learning import test_agents as box
from tests.learning import test_discrete_agents as finite
from tests.learning.gradients import slopes
from tests.learning.test_agents import ENCODER, HIDDEN, MEAN, STD

CONFIG = ValueDICEConfig(discount=0.9, replay_alpha=0.2, gradient_penalty=0.7, orthogonal_penalty=0.03)
OTHERS: list[tuple[str, ...]] = [(), ("suboptimal",), ("suboptimal", "online")]
CASES = [(start, others) for start in ("expert", "initial") for others in OTHERS]
COUNTS = [None, (4,), (3, 1, 4)]
"""Of finitely many actions; None: a box."""


def made(counts: tuple[int, ...] | None, start: str, others: tuple[str, ...], **changes: Any) -> ValueDICE:
    config = replace(CONFIG, start_states=start, **changes)
    if counts is None:
        return ContinuousValueDICE(config, ENCODER, box.UNIT_BOX, HIDDEN, others)
    return DiscreteValueDICE(config, ENCODER, ActionBranches(finite.SPACES[counts]), HIDDEN, others)


def draw(counts: tuple[int, ...] | None, others: tuple[str, ...]) -> tuple[TensorDict, TensorDict]:
    """Batch and noise; of finitely many actions the noise is one number a draw. Online rows are the last others."""
    batch, noise = box.draw_batch(bool(others)) if counts is None else finite.draw_batch(counts, bool(others))
    if "online" in others:
        batch["online"], batch["suboptimal"] = batch["suboptimal"][-2:], batch["suboptimal"][:-2]
        noise["online"], noise["suboptimal"] = noise["suboptimal"][-2:], noise["suboptimal"][:-2]
    if counts is None:
        return batch, noise
    torch.manual_seed(5)
    kinds = {kind: torch.randn(len(batch[kind, "observation"]), 3, 1).double() for kind in map(str, batch.keys())}
    return batch, TensorDict(kinds)


def draw_parameters(agent: ValueDICE, scale: float = 1.5) -> TensorDict:
    torch.manual_seed(2)
    parameters = agent.initial_parameters(torch.from_numpy(MEAN), torch.from_numpy(STD)).double()
    for group in ("nu", "actor"):
        for _, leaf in named_leaves(parameters[group]):
            leaf.mul_(scale)
    return parameters


class Slow:
    """Every term from the formulas, row by row, nu of every joint action where there are finitely many."""

    def __init__(self, parameters: TensorDict, counts: tuple[int, ...] | None) -> None:
        self.counts = counts
        self.weights = {
            name: {key: value.detach().numpy() for key, value in tensors(parameters[name]).items()}
            for name in ("actor", "nu")
        }

    def network(self, group: str, inputs: np.ndarray) -> np.ndarray:
        weights = self.weights[group]
        for layer in (0, 2):
            inputs = np.maximum(weights[f"{layer}.weight"] @ inputs + weights[f"{layer}.bias"], 0)
        return weights["4.weight"] @ inputs + weights["4.bias"]

    def slope(self, state: np.ndarray, action: np.ndarray, which: np.ndarray) -> float:
        """Of nu in what it reads, by the chain rule; ``which`` weighs the outputs."""
        weights = self.weights["nu"]
        inputs = np.concatenate([state, action])
        jacobian = np.eye(len(inputs))
        for layer in (0, 2):
            inputs = weights[f"{layer}.weight"] @ inputs + weights[f"{layer}.bias"]
            jacobian = (inputs > 0)[:, None] * (weights[f"{layer}.weight"] @ jacobian)
            inputs = np.maximum(inputs, 0)
        return float(np.linalg.norm(which @ weights["4.weight"] @ jacobian))

    def branches(self, group: str, state: np.ndarray) -> list[np.ndarray]:
        assert self.counts is not None
        return np.split(self.network(group, state), np.cumsum(self.counts)[:-1])

    def taken(self, action: np.ndarray) -> np.ndarray:
        """In the unit box, or ones and zeros."""
        if self.counts is None:
            return np.clip(2 * (action - box.LOW) / (box.HIGH - box.LOW) - 1, -1, 1)
        return np.concatenate([np.eye(count)[index] for count, index in zip(self.counts, action, strict=True)])

    def nu(self, state: np.ndarray, action: np.ndarray) -> float:
        """Of one of the data's actions."""
        if self.counts is None:
            return float(self.network("nu", np.concatenate([state, self.taken(action)]))[0])
        return float(sum(branch[i] for branch, i in zip(self.branches("nu", state), action, strict=True)))

    def policy(self, state: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """An action of the unit box, or each branch's probabilities."""
        if self.counts is None:
            outputs = self.network("actor", state)
            size = len(outputs) // 2
            return np.tanh(outputs[:size] + np.exp(-5 + 7 * (np.tanh(outputs[size:]) + 1) / 2) * noise)
        exponentials = [np.exp(branch - branch.max()) for branch in self.branches("actor", state)]
        return np.concatenate([one / one.sum() for one in exponentials])

    def expected_nu(self, state: np.ndarray, noise: np.ndarray) -> float:
        if self.counts is None:
            return float(self.network("nu", np.concatenate([state, self.policy(state, noise)]))[0])
        chances = np.split(self.policy(state, noise), np.cumsum(self.counts)[:-1])
        joint = itertools.product(*map(range, self.counts))
        return sum(
            math.prod(chance[i] for chance, i in zip(chances, action, strict=True)) * self.nu(state, np.array(action))
            for action in joint
        )


def whitened(observation: Tensor) -> np.ndarray:
    return (observation.numpy() - MEAN) / STD


def slow_objective(
    slow: Slow, agent: ValueDICE, batch: TensorDict, noise: TensorDict
) -> tuple[float, dict[str, list[float]]]:
    """The objective from the log ratios, an absorbing state after each terminated row counted 9 times."""
    discount, alpha, absorbed = 0.9, 0.2 if len(agent.states) > 1 else 0.0, 0.9 / (1 - 0.9)
    parts = ("expert",), agent.states[1:]
    ratios: dict[str, list[float]] = {}
    inside, linear = 0.0, 0.0
    for part in parts:
        values, ends = [], []
        both = [pair for kind in part for pair in zip(batch[kind], noise[kind].numpy(), strict=True)]
        for row, draws in both:
            state, following = whitened(row["observation"]), whitened(row["next", "observation"])
            ended = float(row["next", "terminated"])
            next_nu = slow.expected_nu(following, draws[0])
            values.append(slow.nu(state, row["action"].numpy()) - discount * (1 - ended) * next_nu)
            ends.append(ended)
        if not part:
            continue
        total = len(values) + absorbed * sum(ends)
        weight = (1 - alpha) if part == ("expert",) else alpha
        inside += weight * (sum(map(math.exp, values)) + absorbed * sum(ends)) / total
        linear += 0.0 if part == ("expert",) else weight * sum(values) / total
        ratios["expert" if part == ("expert",) else "others"] = values
    if agent.config.start_states == "initial":
        rows = zip(batch["initial", "observation"], noise["initial"].numpy(), strict=True)
        starts = [slow.expected_nu(whitened(observation), draws[1]) for observation, draws in rows]
        at_start = sum(starts) / len(starts)
    else:
        rows = zip(batch["expert", "observation"], noise["expert"].numpy(), strict=True)
        starts = [slow.expected_nu(whitened(observation), draws[1]) for observation, draws in rows]
        at_start = sum(starts) / (len(starts) + absorbed * float(batch["expert", "next", "terminated"].sum()))
    objective = math.log(inside) - (1 - alpha) * (1 - discount) * at_start - linear
    return objective, ratios | {"start": [at_start]}


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize(("start", "others"), CASES)
def test_both_losses_are_the_formula(counts: tuple[int, ...] | None, start: str, others: tuple[str, ...]):
    """Suboptimal and online rows are one distribution, that of the other data."""
    agent = made(counts, start, others)
    batch, noise = draw(counts, others)
    parameters = draw_parameters(agent)
    slow = Slow(parameters, counts)
    objective, found = slow_objective(slow, agent, batch, noise)

    states, following, actions, nexts, shares = [], [], [], [], []
    for kind in agent.states:
        for row, draws in zip(batch[kind], noise[kind].numpy(), strict=True):
            states.append(whitened(row["observation"]))
            following.append(whitened(row["next", "observation"]))
            actions.append(slow.taken(row["action"].numpy()))
            nexts.append(slow.policy(following[-1], draws[0]))
            shares.append(0.5 * (1 + math.erf(draws[2][0] / math.sqrt(2))))
    slopes = []
    for i, share in enumerate(shares):
        state = share * states[i] + (1 - share) * following[i - 1]
        action = share * actions[i] + (1 - share) * nexts[i - 1]
        if counts is None:
            slopes.append(slow.slope(state, action, np.ones(1)))
        else:
            slopes.append(slow.slope(state, np.empty(0), action))
    penalty = np.mean([(slope - 1) ** 2 for slope in slopes])

    loss, metrics = agent.nu_loss(parameters, batch, noise)
    data_nu = [
        slow.nu(whitened(row["observation"]), row["action"].numpy()) for kind in agent.states for row in batch[kind]
    ]
    expected = {
        "critic/loss": objective + 0.7 * penalty,
        "critic/penalty": penalty,
        "critic/divergence": -objective,
        "critic/expert_log_ratio": np.mean(found["expert"]),
        "critic/start_nu": found["start"][0],
        "critic/nu": np.mean(data_nu),
    }
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert loss.item() == pytest.approx(expected["critic/loss"], rel=1e-9)
    assert min(abs(value) for value in expected.values()) > 1e-4

    orthogonal = 0.0
    for name, weight in slow.weights["actor"].items():
        if name.endswith("weight"):
            products = weight @ weight.T
            orthogonal += (products**2).sum() - (np.diag(products) ** 2).sum()
    actor_loss, metrics = agent.actor_loss(parameters, batch, noise)
    assert actor_loss.item() == pytest.approx(-objective + 0.03 * orthogonal, rel=1e-9)
    measure = "actor/squared_error" if counts is None else "actor/wrong_actions"
    assert metrics.keys() == {"actor/loss", measure}
    errors = []
    for row in batch["expert"]:
        state = whitened(row["observation"])
        if counts is None:
            mean = np.tanh(slow.network("actor", state)[: box.ACTION_SIZE])
            errors.append(((mean - slow.taken(row["action"].numpy())) ** 2).sum())
        else:
            best = [int(branch.argmax()) for branch in slow.branches("actor", state)]
            errors.append(best != row["action"].tolist())
    assert metrics[measure].item() == pytest.approx(np.mean(errors))


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize(("start", "others"), [("expert", ("suboptimal",)), ("initial", ())])
def test_gradients_are_finite_differences(counts: tuple[int, ...] | None, start: str, others: tuple[str, ...]):
    """Of nu's loss with its penalty, and of the actor's through a' and a0."""
    agent = made(counts, start, others)
    batch, noise = draw(counts, others)
    parameters = draw_parameters(agent)
    for phase in agent.phases:
        leaves = [leaf.requires_grad_() for _, leaf in named_leaves(parameters[phase.group])]
        exact, differences = slopes(phase.loss, (parameters, batch, noise), leaves, 5)
        assert differences == pytest.approx(exact, rel=1e-5, abs=1e-7)
        assert sum(abs(difference) > 1e-3 for difference in differences) >= 5


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize(("start", "others"), CASES)
def test_each_loss_moves_its_own_group_alone(counts: tuple[int, ...] | None, start: str, others: tuple[str, ...]):
    agent = made(counts, start, others)
    parameters = draw_parameters(agent)
    groups = {name: [leaf.requires_grad_() for _, leaf in named_leaves(parameters[name])] for name in ("nu", "actor")}
    batch, noise = draw(counts, others)
    for phase in agent.phases:
        loss = phase.loss(parameters, batch, noise)[0]
        for name, leaves in groups.items():
            gradients = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
            if name == phase.group:
                assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)
                assert max(gradient.abs().max() for gradient in gradients if gradient is not None) > 1e-3
            else:
                assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_without_penalties_they_are_not_there():
    agent = made(None, "expert", (), gradient_penalty=0.0, orthogonal_penalty=0.0)
    batch, noise = draw(None, ())
    parameters = draw_parameters(agent)
    loss, metrics = agent.nu_loss(parameters, batch, noise)
    assert metrics["critic/penalty"] == 0
    assert loss.item() == -metrics["critic/divergence"].item()
    assert agent.actor_loss(parameters, batch, noise)[0].item() == -loss.item()


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_diagnoses_are_the_log_ratio_with_its_sign_turned(counts: tuple[int, ...] | None):
    agent = made(counts, "expert", ())
    batch, _ = draw(counts, ())
    parameters = draw_parameters(agent)
    found = agent.diagnose(parameters, batch["expert"])
    slow, silence = Slow(parameters, counts), np.zeros(box.ACTION_SIZE)
    for index, row in enumerate(batch["expert"]):
        nu = slow.nu(whitened(row["observation"]), row["action"].numpy())
        alive = 1 - float(row["next", "terminated"])
        ratio = nu - 0.9 * alive * slow.expected_nu(whitened(row["next", "observation"]), silence)
        assert found["value"][index].item() == pytest.approx(-nu, rel=1e-9)
        assert found["reward"][index].item() == pytest.approx(-ratio, rel=1e-9)
    assert found.keys() == {"error", "log_likelihood", "reward", "value"}
    assert agent.reward_bound(0.5) == 0


def test_a_table_is_matched():
    """Two states that go into each other by the action taken, and an expert that mixes: its shares are found."""
    from gymnasium.spaces import Box, Discrete

    from iq_offline.data.spaces import ObservationEncoder, chosen_leaves

    encoder = ObservationEncoder(chosen_leaves(Box(-np.inf, np.inf, (2,)), (), "the test"))
    config = ValueDICEConfig(
        discount=0.9, gradient_penalty=0.0, orthogonal_penalty=0.0, nu_learning_rate=0.1, actor_learning_rate=0.05
    )
    agent = DiscreteValueDICE(replace(config, adam_beta1=0.5), encoder, ActionBranches(Discrete(2)), Hidden(()))
    # In state 0: action 0 (stay) twice in three; in state 1: action 1 (go back) twice in three. Stationary: halves.
    rows = [(0, 0)] * 4 + [(0, 1)] * 2 + [(1, 1)] * 2 + [(1, 0)] * 4
    after = {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 0}
    states = torch.eye(2).double()[[state for state, _ in rows]]
    following = {
        "observation": torch.eye(2).double()[[after[row] for row in rows]],
        "terminated": torch.zeros(len(rows)).double(),
    }
    actions = torch.tensor([[action] for _, action in rows])
    expert = {"observation": states, "action": actions, "next": TensorDict(following, [len(rows)])}
    torch.manual_seed(0)
    parameters = agent.initial_parameters(torch.zeros(2), torch.ones(2)).double()
    learner = Learner(agent, parameters, 200, 0.0)
    batch = TensorDict({"expert": TensorDict(expert, [len(rows)])})
    noise = TensorDict({"expert": torch.zeros(len(rows), 3, 1).double()})
    for _ in range(199):
        learner.update(batch, noise)
    metrics = learner.update(batch, noise)
    policy = agent.policy_actions(learner.parameters["actor"], torch.eye(2).double(), torch.zeros(2, 1)).detach()
    np.testing.assert_allclose(policy.numpy(), [[2 / 3, 1 / 3], [2 / 3, 1 / 3]], atol=0.01)
    assert metrics["critic/divergence"].item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_what_is_drawn_is_by_the_policy(counts: tuple[int, ...] | None):
    """10,000 actions in one state: their mean and deviation, or how often each of finitely many is drawn."""
    agent = made(counts, "expert", ("online",))
    parameters = draw_parameters(agent)
    slow, generator = Slow(parameters, counts), torch.Generator().manual_seed(3)
    observation = torch.from_numpy(MEAN + 0.5 * STD)
    state = whitened(observation)
    drawn = agent.act(parameters, observation.expand(10_000, -1), generator)
    if counts is None:
        assert drawn.abs().max() <= 1
        before = torch.atanh(drawn).numpy()
        outputs = slow.network("actor", state)
        std = np.exp(-5 + 7 * (np.tanh(outputs[box.ACTION_SIZE :]) + 1) / 2)
        np.testing.assert_allclose((before.mean(0) - outputs[: box.ACTION_SIZE]) / std, 0, atol=0.05)
        np.testing.assert_allclose(before.std(0) / std, 1, atol=0.05)
    else:
        chances = np.split(slow.policy(state, np.zeros(1)), np.cumsum(counts)[:-1])
        for branch, chance in enumerate(chances):
            shares = np.bincount(drawn[:, branch].numpy(), minlength=len(chance)) / 10_000
            np.testing.assert_allclose(shares, chance, atol=0.02)
    again = agent.act(parameters, observation.expand(10_000, -1), torch.Generator().manual_seed(3))
    assert torch.equal(drawn, again)
