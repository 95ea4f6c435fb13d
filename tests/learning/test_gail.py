"""GAIL's losses row by row in numpy, and the discriminator that is left when the policy stands still."""

import math

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from iq_offline.config import RunConfig, resolved
from iq_offline.config.baselines import GAILConfig
from iq_offline.config.online import OnlineConfig
from iq_offline.errors import UserError
from iq_offline.learning.adversarial import adversarial_reward, discriminator_loss
from iq_offline.learning.agents.gail import GAIL
from iq_offline.learning.learner import named_leaves
from tests.learning import test_agents as box
from tests.learning.gradients import slopes

CONFIG = GAILConfig(discount=0.9, temperature=0.2, gradient_penalty=0.7)


def agent_and_parameters() -> tuple[GAIL, TensorDict]:
    """Float64; the target critic is another one than the critic."""
    agent = GAIL(CONFIG, box.ENCODER, box.UNIT_BOX, box.HIDDEN, ("suboptimal",))
    torch.manual_seed(2)
    parameters = agent.initial_parameters(torch.from_numpy(box.MEAN), torch.from_numpy(box.STD)).double()
    for _, leaf in named_leaves(parameters["target_critic"]):
        leaf.add_(0.3 * torch.randn(leaf.shape).double())
    for _, leaf in named_leaves(parameters["discriminator"]):
        leaf.mul_(2)
    return agent, parameters


def points(batch: TensorDict, kind: str) -> list[np.ndarray]:
    """State and action as the networks read them."""
    found = []
    for row in batch[kind]:
        state = (row["observation"].numpy() - box.MEAN) / box.STD
        unit = np.clip(2 * (row["action"].numpy() - box.LOW) / (box.HIGH - box.LOW) - 1, -1, 1)
        found.append(np.concatenate([state, unit]))
    return found


def test_the_losses_are_the_formulas():
    agent, parameters = agent_and_parameters()
    batch, noise = box.draw_batch(True)
    slow = box.Slow(parameters, batch, noise, CONFIG)  # type: ignore[arg-type]
    slow.groups["discriminator"] = {name: leaf.numpy() for name, leaf in named_leaves(parameters["discriminator"])}
    at = points(batch, "expert") + points(batch, "suboptimal")
    logits = [float(slow.network("discriminator", point)[0]) for point in at]
    expert, other = logits[: box.EXPERTS], logits[box.EXPERTS :]
    judged = -np.mean([math.log(1 / (1 + math.exp(-x))) for x in expert])
    judged -= np.mean([math.log(1 - 1 / (1 + math.exp(-x))) for x in other])

    draws = torch.cat([noise["expert"], noise["suboptimal"]])[:, 2, 0].numpy()
    penalties = []
    for index, draw in enumerate(draws):
        share = 0.5 * (1 + math.erf(draw / math.sqrt(2)))
        paired = at[index - box.EXPERTS]
        middle = paired + share * (at[index] - paired)
        nudges = 1e-6 * np.eye(len(middle))
        slope = [
            (slow.network("discriminator", middle + nudge) - slow.network("discriminator", middle - nudge))[0] / 2e-6
            for nudge in nudges
        ]
        penalties.append((np.linalg.norm(slope) - 1) ** 2)
    loss, metrics = agent.discriminator_loss(parameters, batch, noise)
    assert metrics["discriminator/penalty"].item() == pytest.approx(np.mean(penalties), rel=1e-5)
    assert loss.item() == pytest.approx(judged + 0.7 * np.mean(penalties), rel=1e-5)
    assert metrics["discriminator/expert_logit"].item() == pytest.approx(np.mean(expert))

    rows = slow.rows("expert") + slow.rows("suboptimal")
    rewards = [-math.log(1 - 1 / (1 + math.exp(-x))) for x in logits]
    squares = [(row["reward"] - reward) ** 2 for row, reward in zip(rows, rewards, strict=True)]
    loss, metrics = agent.critic_loss(parameters, batch, noise)
    assert loss.item() == pytest.approx(np.mean(squares), rel=1e-10)
    assert metrics["critic/reward"].item() == pytest.approx(np.mean(rewards), rel=1e-10)
    found = agent.diagnose(parameters, batch["expert"])
    np.testing.assert_allclose(found["reward"].numpy(), rewards[: box.EXPERTS], rtol=1e-10)
    loss, _ = agent.actor_loss(parameters, batch, noise)
    assert loss.item() == pytest.approx(box.mean_of(rows, "policy"), rel=1e-10)


def test_gradients_are_finite_differences():
    agent, parameters = agent_and_parameters()
    batch, noise = box.draw_batch(True)
    assert [phase.group for phase in agent.phases] == ["discriminator", "critic", "actor"]
    for phase in agent.phases:
        leaves = [leaf.requires_grad_() for _, leaf in named_leaves(parameters[phase.group])]
        exact, differences = slopes(phase.loss, (parameters, batch, noise), leaves, 7)
        assert differences == pytest.approx(exact, rel=1e-5, abs=1e-7)
        assert max(map(abs, exact)) > 1e-3


def test_the_best_discriminator_is_the_ratio_of_the_distributions():
    """Its logit is log d_E / d_pi where the loss is least; the reward is log(1 + d_E / d_pi)."""
    expert, other = torch.tensor([6.0, 3.0, 1.0]), torch.tensor([1.0, 3.0, 4.0])
    logits = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.05)
    for _ in range(1000):
        optimizer.zero_grad()
        rows = [logits.repeat_interleave(counts.long()) for counts in (expert, other)]
        discriminator_loss(*rows).backward()
        optimizer.step()
    ratio = (expert / expert.sum()) / (other / other.sum())
    torch.testing.assert_close(logits.detach(), ratio.log(), atol=1e-3, rtol=0)
    torch.testing.assert_close(adversarial_reward(logits.detach()), torch.log1p(ratio), atol=1e-3, rtol=0)


def test_it_is_for_the_online_stage_and_for_boxes():
    with pytest.raises(UserError, match="gail needs the environment: give --online"):
        resolved(RunConfig(algorithm="gail"))
    resolved(RunConfig(algorithm="gail", online=OnlineConfig(5000)))
