"""SQIL's loss against numpy, its fixed point on a table, and how it is related to IQ-Learn's objective."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from tensordict import TensorDict

from iq_offline.config import DataConfig, RunConfig, Suboptimal, resolved
from iq_offline.config.baselines import SQILConfig
from iq_offline.data.actions import ActionBranches
from iq_offline.data.spaces import ObservationEncoder, chosen_leaves
from iq_offline.errors import UserError
from iq_offline.learning.agents.sqil import ContinuousSQIL, DiscreteSQIL
from iq_offline.learning.learner import Learner, named_leaves
from iq_offline.learning.networks import Hidden
from iq_offline.learning.objective import discrete_soft_value, iq_loss, sqil_loss, telescoped_value
from tests.learning import test_agents as box
from tests.learning import test_discrete_agents as finite
from tests.learning.gradients import slopes

CONFIG = SQILConfig(discount=0.9, temperature=0.2, other_weight=0.6)


def perturbed(agent: ContinuousSQIL | DiscreteSQIL) -> TensorDict:
    """Float64; the target critic is another one than the critic."""
    torch.manual_seed(2)
    parameters = agent.initial_parameters(torch.from_numpy(box.MEAN), torch.from_numpy(box.STD)).double()
    for _, leaf in named_leaves(parameters["target_critic"]):
        leaf.add_(0.3 * torch.randn(leaf.shape).double())
    return parameters


@pytest.mark.parametrize("other", ["suboptimal", "online"])
def test_the_losses_are_the_formula_whatever_the_other_kind_is_called(other: str):
    agent = ContinuousSQIL(CONFIG, box.ENCODER, box.UNIT_BOX, box.HIDDEN, (other,))
    batch, noise = box.draw_batch(True)
    parameters = perturbed(agent)
    slow = box.Slow(parameters, batch, noise, CONFIG)  # type: ignore[arg-type]
    expert, others = slow.rows("expert"), slow.rows("suboptimal")
    for named in (batch, noise):
        named.rename_key_("suboptimal", other)

    squares = [np.mean([(row["reward"] - 1) ** 2 for row in expert]), np.mean([row["reward"] ** 2 for row in others])]
    loss, metrics = agent.critic_loss(parameters, batch, noise)
    assert loss.item() == pytest.approx(squares[0] + 0.6 * squares[1], rel=1e-10)
    expected = {
        "critic/loss": loss.item(),
        "critic/expert_reward": box.mean_of(expert, "reward"),
        "critic/other_reward": box.mean_of(others, "reward"),
        "critic/q": box.mean_of(expert + others, "q"),
    }
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected, rel=1e-10)
    loss, metrics = agent.actor_loss(parameters, batch, noise)
    expected = {
        "actor/loss": box.mean_of(expert + others, "policy"),
        "actor/entropy": -box.mean_of(expert + others, "log_probability"),
        "actor/squared_error": box.mean_of(expert, "error"),
    }
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected, rel=1e-10)
    assert loss.item() == metrics["actor/loss"].item()


@pytest.mark.parametrize("counts", finite.COUNTS, ids=str)
def test_the_discrete_loss_is_the_formula(counts: tuple[int, ...]):
    config = SQILConfig(discount=finite.DISCOUNT, temperature=finite.TEMPERATURE, other_weight=0.6)
    agent = DiscreteSQIL(config, finite.ENCODER, ActionBranches(finite.SPACES[counts]), finite.HIDDEN)
    batch, noise = finite.draw_batch(counts, True)
    parameters = perturbed(agent)
    slow = finite.Slow(parameters, batch, counts)
    expert, others = slow.rows("expert"), slow.rows("suboptimal")
    squares = [np.mean([(row["reward"] - 1) ** 2 for row in expert]), np.mean([row["reward"] ** 2 for row in others])]
    loss, metrics = agent.phases[0].loss(parameters, batch, noise)
    assert loss.item() == pytest.approx(squares[0] + 0.6 * squares[1], rel=1e-10)
    assert metrics["actor/wrong_actions"].item() == pytest.approx(np.mean([row["wrong"] for row in expert]))


def test_gradients_are_finite_differences():
    agent = ContinuousSQIL(CONFIG, box.ENCODER, box.UNIT_BOX, box.HIDDEN)
    batch, noise = box.draw_batch(True)
    parameters = perturbed(agent)
    for phase in agent.phases:
        leaves = [leaf.requires_grad_() for _, leaf in named_leaves(parameters[phase.group])]
        exact, differences = slopes(phase.loss, (parameters, batch, noise), leaves, 7)
        assert differences == pytest.approx(exact, rel=1e-5, abs=1e-7)
        assert max(map(abs, exact)) > 1e-3


STATES, ACTIONS, DISCOUNT, TEMPERATURE, WEIGHT = 3, 2, 0.9, 0.4, 0.5


def test_the_fixed_point_on_a_table():
    """Every transition's reward is the expert's part of what is seen of it; Q is the soft value of these rewards.

    Where n_E of N_E expert rows and n_S of N_S others are one transition, its squares are least at
    (n_E/N_E) / (n_E/N_E + weight n_S/N_S). State 2 with action 1 ends the episode.
    """
    following = torch.tensor([[1, 2], [2, 0], [0, 1]])
    ended = torch.tensor([[0, 0], [0, 0], [0, 1]]).double()
    experts = torch.tensor([[4, 0], [2, 1], [0, 3]])
    others = torch.tensor([[1, 2], [1, 1], [2, 1]])

    def rows(counts: torch.Tensor) -> TensorDict:
        cell = torch.arange(STATES * ACTIONS).repeat_interleave(counts.reshape(-1))
        state, action = cell // ACTIONS, cell % ACTIONS
        after = {
            "observation": torch.eye(STATES).double()[following[state, action]],
            "terminated": ended[state, action],
        }
        size = [int(counts.sum())]
        observed = {"observation": torch.eye(STATES).double()[state], "action": action[:, None]}
        return TensorDict({**observed, "next": TensorDict(after, size)}, size)

    share = experts / experts.sum(), WEIGHT * others / others.sum()
    reward = (share[0] / (share[0] + share[1])).double()
    expected = torch.zeros(STATES, ACTIONS).double()
    for _ in range(500):
        value = discrete_soft_value(expected, TEMPERATURE)
        expected = reward + DISCOUNT * (1 - ended) * value[following]

    encoder = ObservationEncoder(chosen_leaves(Box(-np.inf, np.inf, (STATES,)), (), "the test"))
    config = SQILConfig(
        discount=DISCOUNT,
        temperature=TEMPERATURE,
        other_weight=WEIGHT,
        critic_learning_rate=0.1,
        adam_beta1=0.9,
        target_update_rate=0.4,
    )
    agent = DiscreteSQIL(config, encoder, ActionBranches(Discrete(ACTIONS)), Hidden(()))
    torch.manual_seed(0)
    parameters = agent.initial_parameters(torch.zeros(STATES), torch.ones(STATES)).double()
    learner = Learner(agent, parameters, 250, 0.0)
    batch = TensorDict({"expert": rows(experts), "suboptimal": rows(others)})
    noise = TensorDict({kind: torch.zeros(len(batch[kind, "action"]), 3, 0) for kind in ("expert", "suboptimal")})
    for _ in range(250):
        learner.update(batch, noise)
    found = learner.parameters["critic", "0.weight"].T + learner.parameters["critic", "0.bias"]
    np.testing.assert_allclose(found.detach().numpy(), expected.numpy(), atol=0.05)
    looked = agent.diagnose(learner.parameters, batch["suboptimal"])
    assert looked["reward"][0].item() == pytest.approx(reward[0, 0].item(), abs=0.01)


def test_it_is_iq_learn_without_a_value_term():
    """At equal halves, twice the objective on the mixture with chi2_alpha 1/4; section 3.3's relation."""
    torch.manual_seed(0)
    expert, other = torch.randn(5).double(), torch.randn(5).double()
    ours = sqil_loss(expert, other, 1.0)
    without = iq_loss(expert, torch.zeros(()).double(), torch.cat([expert, other]), 0.25)
    torch.testing.assert_close(ours, 2 * without + 1, rtol=0, atol=1e-12)
    assert sqil_loss(torch.tensor([3.0]), torch.tensor([2.0]), 0.5).item() == 4 + 0.5 * 4


def test_regularised_cloning_is_iq_learn_on_the_experts_states():
    """E_E[V(s) - Q(s,a)] + lambda E_E[r²] (section 3.2 without other data), the value term over the same states."""
    torch.manual_seed(0)
    q, value, next_value, terminated = (torch.randn(6).double() for _ in range(4))
    terminated, weight = (terminated > 0).double(), 0.7
    reward = q - 0.9 * (1 - terminated) * next_value
    cloning = (value - q).mean() + weight * reward.square().mean()
    ours = iq_loss(reward, telescoped_value(value, next_value, terminated, 0.9), reward, 1 / (4 * weight))
    torch.testing.assert_close(ours, cloning, rtol=0, atol=1e-12)


def test_expert_data_alone_are_refused():
    with pytest.raises(UserError, match="sqil needs suboptimal or online data"):
        resolved(RunConfig(algorithm="sqil"))
    resolved(RunConfig(algorithm="sqil", data=DataConfig(suboptimal=(Suboptimal("hopper/random"),))))
