"""LS-IQ and ReCOIL as choices of terms, each against a recomputation row by row, for boxes and for branches."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import MultiDiscrete
from tensordict import TensorDict
from torch import Tensor

from iq_offline.config import IQLearnConfig
from iq_offline.config.iq_learn import decided
from iq_offline.data.actions import ActionBranches
from iq_offline.learning.agents import normalized, rows_of, tensors
from iq_offline.learning.agents.iq_learn import IQLearn
from iq_offline.learning.agents.iq_learn_continuous import ContinuousIQLearn
from iq_offline.learning.agents.iq_learn_discrete import DiscreteIQLearn
from iq_offline.learning.learner import sorted_leaves
from iq_offline.learning.networks import Hidden, branch_values, gaussian
from tests.learning.test_agents import ENCODER, HIDDEN, MEAN, STD, UNIT_BOX, draw_batch

DISCOUNT, ALPHA, TEMPERATURE, EXPERTS, OTHERS = 0.9, 0.3, 0.2, 4, 6
LOWEST, HIGHEST = -2 * ALPHA / 0.6 / (1 - DISCOUNT), 2 * ALPHA / 0.4 / (1 - DISCOUNT)
"""What rewards at their bounds add up to for ever; the expert's share is 0.4."""

BOUNDED: dict[str, Any] = {"expert_term": "fixed_target", "clip_targets": True, "absorbing_value": "bound"}
IN_SAMPLE: dict[str, Any] = {"value": "expectile", "value_states": "suboptimal"}
REGRESSED: dict[str, Any] = {"policy": "advantage_weighted"}
VARIATIONS: dict[str, dict[str, Any]] = {
    "LS-IQ": BOUNDED,
    "LS-IQ with the data's own actions": BOUNDED | {"value_states": "suboptimal"},
    "ReCOIL": IN_SAMPLE | REGRESSED,
    "ReCOIL with bounded values": IN_SAMPLE | REGRESSED | BOUNDED,
    "in sample, the kind's own policy": IN_SAMPLE,
    "regressed to the policy's values": REGRESSED,
    "a fixed target alone": {"expert_term": "fixed_target"},
    "clipped alone": {"clip_targets": True},
    "absorbing alone": {"absorbing_value": "bound"},
}
variations = pytest.mark.parametrize("name", VARIATIONS)
kinds = pytest.mark.parametrize("finite", [False, True], ids=["box", "branches"])


def agent_of(finite: bool, hidden: Hidden = HIDDEN, **terms: Any) -> IQLearn:
    common: dict[str, Any] = {"policy": "soft_actor_critic", "value_states": "mixture", "chi2_states": "mixture"}
    common |= {"discount": DISCOUNT, "chi2_alpha": ALPHA, "temperature": TEMPERATURE, "gradient_penalty": 0.0}
    common |= {"expectile": 0.8, "advantage_temperature": 12.0, "outlier_error": 0.3}
    config = decided(IQLearnConfig(**common | terms), mixed=False)
    if finite:
        return DiscreteIQLearn(config, ENCODER, ActionBranches(MultiDiscrete([3, 1, 4])), hidden, ("suboptimal",))
    return ContinuousIQLearn(config, ENCODER, UNIT_BOX, hidden, ("suboptimal",))


def drawn(agent: IQLearn, finite: bool) -> tuple[TensorDict, TensorDict, TensorDict]:
    """Parameters in float64, with values beyond their bounds here and there; batch and noise."""
    torch.manual_seed(2)
    parameters = agent.initial_parameters(torch.from_numpy(MEAN), torch.from_numpy(STD)).double()
    batch, noise = draw_batch(True)
    if finite:
        for kind in ("expert", "suboptimal"):
            count = len(batch[kind, "action"])
            batch[kind, "action"] = torch.stack([torch.randint(n, (count,)) for n in (3, 1, 4)], -1)
            noise[kind] = torch.zeros(count, 3, 0).double()
    for group in [
        name
        for name in ("target_critic", "value")
        if name in {phase.group for phase in agent.phases} | {"target_critic"}
    ]:
        parameters[group, "4.weight"].mul_(200)
        summed = 3 if finite and group == "target_critic" else 1  # Branches.
        next_state = normalized(parameters, rows_of(batch, agent.states, "next", "observation"))
        middle = agent.value(parameters, group, next_state, rows_of(noise, agent.states)[:, 0]).median()
        parameters[group, "4.bias"].add_((HIGHEST - middle) / summed)
    return parameters, batch, noise


def perceptron(weights: TensorDict, inputs: Tensor) -> Tensor:
    layers = {name: value.detach() for name, value in tensors(weights).items()}
    for layer in (0, 2):
        inputs = torch.relu(inputs @ layers[f"{layer}.weight"].T + layers[f"{layer}.bias"])
    return inputs @ layers["4.weight"].T + layers["4.bias"]


class Slow:
    """Everything that the losses are made of, by the networks' matrices."""

    def __init__(self, agent: IQLearn, finite: bool, parameters: TensorDict, batch: TensorDict, noise: TensorDict):
        self.agent, self.finite, self.parameters = agent, finite, parameters
        self.state, self.next_state = (
            normalized(parameters, rows_of(batch, agent.states, *key))
            for key in (("observation",), ("next", "observation"))
        )
        self.action = rows_of(batch, agent.states, "action")
        self.ended = rows_of(batch, agent.states, "next", "terminated")
        self.draws = rows_of(noise, agent.states)

    def q(self, group: str, action: Tensor | None = None) -> Tensor:
        if self.finite:
            branches = branch_values(perceptron(self.parameters[group], self.state), (3, 1, 4))
            return sum(branches[:, i].gather(1, self.action[:, i, None])[:, 0] for i in range(3))  # type: ignore[return-value]
        unit = self.unit() if action is None else action
        return perceptron(self.parameters[group], torch.cat([self.state, unit], -1))[:, 0]

    def unit(self) -> Tensor:
        return ((self.action - UNIT_BOX.center) / UNIT_BOX.half_width).clamp(-1, 1)

    def value(self, group: str, state: Tensor, noise: Tensor) -> Tensor:
        """V(s): the network's; else the soft value of the branches, or of one action; or of the mean action."""
        if self.agent.in_sample:
            return perceptron(self.parameters["value"], state)[:, 0]
        if self.finite:
            branches = branch_values(perceptron(self.parameters[group], state), (3, 1, 4)) / TEMPERATURE
            return TEMPERATURE * branches.logsumexp(-1).sum(-1)
        mean, std = gaussian(perceptron(self.parameters["actor"], state))
        before = mean if self.agent.regressed else mean + std * noise
        q = perceptron(self.parameters[group], torch.cat([state, torch.tanh(before)], -1))[:, 0]
        density = torch.distributions.Normal(mean, std).log_prob(before) - torch.log1p(-(torch.tanh(before) ** 2))
        return q if self.agent.regressed else q - TEMPERATURE * density.sum(-1)

    def critic_loss(self) -> float:
        config = self.agent.config
        q, experts = self.q("critic"), EXPERTS
        value = self.value("target_critic", self.next_state, self.draws[:, 0])
        future = []
        for row in range(EXPERTS + OTHERS):
            ahead = float(value[row])
            if config.clip_targets:
                ahead = min(max(ahead, LOWEST), HIGHEST)
            if self.ended[row]:
                forever = HIGHEST if row < EXPERTS else LOWEST
                ahead = forever if config.absorbing_value == "bound" else 0.0
            future.append(DISCOUNT * ahead)
        reward = q - torch.tensor(future, dtype=torch.float64)
        if config.value_states == "suboptimal":
            value_term = reward[experts:].mean()
        else:
            here = self.value("critic", self.state, self.draws[:, 1])
            value_term = (here - torch.tensor(future, dtype=torch.float64)).mean()
        if config.expert_term == "fixed_target":
            expert = 0.4 * (q[:experts] - HIGHEST).square().mean() / (4 * ALPHA)
            others = 0.6 * reward[experts:].square().mean() / (4 * ALPHA)
            return float(expert + value_term + others)
        return float(-reward[:experts].mean() + value_term + reward.square().mean() / (4 * ALPHA))

    def value_loss(self) -> float:
        error = self.q("target_critic") - perceptron(self.parameters["value"], self.state)[:, 0]
        return float(sum((0.8 if one > 0 else 0.2) * one**2 for one in error) / len(error))

    def regression(self) -> float:
        advantage = self.q("target_critic") - self.value("target_critic", self.state, self.draws[:, 0])
        weights = np.minimum(np.exp(advantage.numpy() / 12), 100)
        outputs = perceptron(self.parameters["actor"], self.state)
        if self.finite:
            chosen = torch.log_softmax(branch_values(outputs, (3, 1, 4)), -1).gather(-1, self.action[..., None])
            losses = -chosen[..., 0].sum(-1)
        else:
            square = 2 * 0.3**2
            losses = square * torch.log1p((torch.tanh(outputs[:, :2]) - self.unit()).square().sum(-1) / square)
        return float((weights * losses.numpy()).mean())


@kinds
@variations
def test_every_loss_is_its_formula(name: str, finite: bool):
    agent = agent_of(finite, **VARIATIONS[name])
    parameters, batch, noise = drawn(agent, finite)
    slow = Slow(agent, finite, parameters, batch, noise)
    expected: dict[str, Callable[[], float]] = {"critic": slow.critic_loss}
    if agent.in_sample:
        expected["value"] = slow.value_loss
    if agent.regressed:
        expected["actor"] = slow.regression
    phases = {phase.group: phase for phase in agent.phases}
    assert list(phases) == [*expected] + ["actor"] * (not agent.regressed and not finite)
    for group, formula in expected.items():
        assert phases[group].loss(parameters, batch, noise)[0].item() == pytest.approx(formula(), rel=1e-9), group
    ahead = slow.value("target_critic", slow.next_state, slow.draws[:, 0])
    going_on = ahead[slow.ended == 0]
    assert ((going_on < LOWEST) | (going_on > HIGHEST)).any(), "this test needs values to clip"
    assert ((going_on > LOWEST) & (going_on < HIGHEST)).any()


@kinds
@variations
def test_gradients_are_finite_differences_and_go_nowhere_else(name: str, finite: bool):
    """A loss moves its own group; V and the policy are fixed for the critic, and the advantages for the policy."""
    agent = agent_of(finite, **VARIATIONS[name])
    parameters, batch, noise = drawn(agent, finite)
    groups = [phase.group for phase in agent.phases]
    if agent.regressed:
        weights = agent.advantage_weights(parameters, batch)
        assert weights.max() - weights.min() > 0.5
        agent.cloning.weights = lambda parameters, batch: weights
    for group in groups:
        for leaf in sorted_leaves(parameters[group]):
            leaf.requires_grad_()
    for phase in agent.phases:
        for group in groups:
            leaves = sorted_leaves(parameters[group])
            loss, _ = phase.loss(parameters, batch, noise)
            gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
            if group != phase.group:
                follows = phase.group == "actor" and group == "critic" and not agent.regressed
                assert follows or all(gradient is None or not gradient.any() for gradient in gradients), group
                continue
            with torch.no_grad():
                for leaf, gradient in zip(leaves, gradients, strict=True):
                    assert gradient is not None
                    direction = torch.randn_like(leaf)
                    sides = []
                    for step in (1e-6, -1e-6):
                        leaf.add_(step * direction)
                        sides.append(phase.loss(parameters, batch, noise)[0])
                        leaf.sub_(step * direction)
                    slope = (sides[0] - sides[1]) / 2e-6
                    torch.testing.assert_close(slope, (gradient * direction).sum(), rtol=1e-4, atol=1e-6)
            assert max(gradient.abs().max() for gradient in gradients if gradient is not None) > 1e-3


@kinds
def test_recoils_practical_loss_is_the_same_in_q(finite: bool):
    """(E_S[Q] - E_E[Q]) + lambda E_mix[(Q - discount V(s'))²], lambda = 1 / (4 alpha): equal but for terms without Q.

    What differs is discount (E_E[V(s')] - E_S[V(s')]), with V fixed.
    """
    agent = agent_of(finite, **IN_SAMPLE)
    parameters, batch, noise = drawn(agent, finite)
    leaves = [leaf.requires_grad_() for leaf in sorted_leaves(parameters["critic"])]
    loss, _ = agent.critic_loss(parameters, batch, noise)
    state, next_state = (
        normalized(parameters, rows_of(batch, agent.states, *key))
        for key in (("observation",), ("next", "observation"))
    )
    ended = rows_of(batch, agent.states, "next", "terminated")
    q = agent.q(parameters["critic"], state, agent.as_input(rows_of(batch, agent.states, "action")))
    following = DISCOUNT * (1 - ended) * agent.value(parameters, "critic", next_state, next_state)
    theirs = q[EXPERTS:].mean() - q[:EXPERTS].mean() + (q - following).square().mean() / (4 * ALPHA)
    constant = following[:EXPERTS].mean() - following[EXPERTS:].mean()
    torch.testing.assert_close(loss, theirs + constant, rtol=1e-10, atol=0)
    assert abs(constant.item()) > 1e-3
    ours, others = torch.autograd.grad(loss, leaves), torch.autograd.grad(theirs, leaves)
    for mine, other in zip(ours, others, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


@kinds
def test_in_sample_nothing_is_asked_about_an_action_that_nobody_took(finite: bool):
    """Whatever the policy does, and whatever noise is drawn: the losses of Q, V and the regression's weights stay."""
    agent = agent_of(finite, **IN_SAMPLE, **REGRESSED)
    parameters, batch, noise = drawn(agent, finite)

    def found() -> list[float]:
        losses = [phase.loss(parameters, batch, noise)[0] for phase in agent.phases if phase.group != "actor"]
        return [float(loss) for loss in losses] + agent.advantage_weights(parameters, batch).tolist()

    before = found()
    for leaf in sorted_leaves(parameters["actor"]):
        leaf.add_(torch.randn_like(leaf))
    for kind in ("expert", "suboptimal"):
        noise[kind] = torch.randn_like(noise[kind])
    assert found() == before


@kinds
@variations
def test_terminations_count_in_every_variation(name: str, finite: bool):
    agent = agent_of(finite, **VARIATIONS[name])
    parameters, batch, noise = drawn(agent, finite)
    before = agent.critic_loss(parameters, batch, noise)[0].item()
    for kind in ("expert", "suboptimal"):
        ended = batch[kind, "next", "terminated"]
        changed = []
        for row in range(len(ended)):
            ended[row] = 1 - ended[row]
            changed.append(agent.critic_loss(parameters, batch, noise)[0].item() != before)
            ended[row] = 1 - ended[row]
        reached = kind == "suboptimal" or agent.config.expert_term == "implied_reward"
        reached = reached or agent.config.value_states == "mixture"  # V(s) - discount V(s') is over both.
        assert any(changed) == reached, kind


def test_an_end_implies_the_reward_that_it_is_worth_for_ever():
    """In the diagnostics, which do not know whose the transition is."""
    agent = agent_of(False, **BOUNDED)
    parameters, batch, _ = drawn(agent, False)
    found = agent.diagnose(parameters, batch["suboptimal"])
    ended = batch["suboptimal", "next", "terminated"] == 1
    torch.testing.assert_close(found["reward"][ended], (1 - DISCOUNT) * found["value"][ended])
    plain = agent_of(False).diagnose(parameters, batch["suboptimal"])
    torch.testing.assert_close(plain["reward"][ended], found["value"][ended])
    torch.testing.assert_close(plain["reward"][~ended], found["reward"][~ended])


@kinds
def test_a_regressed_policy_is_what_acts(finite: bool):
    """The actor is averaged and diagnosed, also where the policy would be the softmax of Q."""
    agent = agent_of(finite, **REGRESSED)
    assert agent.averaged == "actor"
    parameters, batch, _ = drawn(agent, finite)
    found = agent.diagnose(parameters, batch["expert"])
    again = agent.cloning.diagnose(parameters, batch["expert"])
    assert torch.equal(found["error"], again["error"])
    assert {"reward", "value"} <= found.keys()
    assert agent_of(True).averaged == "critic"
    agent, plain = agent_of(finite, Hidden((4,), "elu"), **REGRESSED), agent_of(finite, Hidden((4,), "elu"))
    between = [type(layer) for layer in (agent.critic[1], agent.cloning.actor[1], plain.critic[1])]
    assert between == [torch.nn.ReLU, torch.nn.ELU, torch.nn.ELU if finite else torch.nn.ReLU]
