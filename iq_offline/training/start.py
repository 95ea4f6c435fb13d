"""An offline run as the start of an online one: its networks as they are, in place of those that were drawn."""

from pathlib import Path

import torch
from torch import Tensor

from iq_offline.config import RunConfig, config_in
from iq_offline.errors import UserError
from iq_offline.learning.agents import Agent
from iq_offline.learning.agents.iq_learn import IQLearn
from iq_offline.learning.agents.learned_reward import LearnedReward
from iq_offline.learning.agents.soft_q import SoftmaxOfQ
from iq_offline.learning.learner import Learner
from iq_offline.training import checkpoint
from iq_offline.training.offline import LATEST
from iq_offline.training.training import under

TEMPERATURE = "parameters/coefficients/temperature"


@torch.no_grad()
def start_from(learner: Learner, folder: Path) -> None:
    """Load an offline run into a fresh learner, whose data and sizes of networks are that run's.

    What acts begins as the averaged policy, which is what that run was scored by: the current one circles around it.
    Where both runs have Q in their objective, or both ValueDICE's nu, everything else is taken too: critic, target, and
    the optimiser's moments. Q is counted from where this run counts it from, and with finitely many actions it has the
    same softmax at this run's temperature.
    What is worth a reward that is yet to be learned is drawn anew, and so is the critic where there was none (behaviour
    cloning; those that choose from suboptimal data). With finitely many actions Q begins as what has the same softmax
    there, too, also where a regressed actor had acted beside a Q; and an actor's logits as those of Q's softmax.

    Args:
        learner: that has made no step.
        folder: of the run, finished or not.

    Raises:
        UserError: there is no checkpoint, or it is of other networks.
    """
    file = folder / LATEST
    if not file.exists():
        raise UserError(f"{folder} holds no offline run to start from: {LATEST} is missing")
    saved = under("learner/", checkpoint.load(file)[0])
    own = learner.state()
    averaged = learner.agent.averaged
    critics = ("parameters/target_critic/", "parameters/nu/")
    has_critic = any(name in own for name in saved if name.startswith(critics))
    has_critic = has_critic and not isinstance(learner.agent, LearnedReward)  # Theirs is for rewards yet to be learned.
    has_critic = has_critic and _has_actor(saved) == _has_actor(own)  # Or what acted there is not the Q that acts here.
    taken = {name: value for name, value in saved.items() if name.startswith("parameters/normalizer/")}
    scale, shift = _rescaling(saved, learner, has_critic and not _counts_from_zero(folder))
    if has_critic:
        skipped = "parameters/coefficients/", "average/", f"parameters/{averaged}/"
        taken |= {name: value for name, value in saved.items() if name != "step" and not name.startswith(skipped)}
        for group in ("parameters/critic/", "parameters/target_critic/"):
            critic = _rescaled(under(group, taken), scale, shift)
            taken |= {group + name: value for name, value in critic.items()}
    acting = under("average/", saved)
    if averaged != "actor":
        acting = _rescaled(acting, scale, shift)
    elif not _has_actor(saved) and TEMPERATURE in saved:  # A Q, in the place of which an actor's logits act here.
        acting = _rescaled(acting, 1 / float(saved[TEMPERATURE]), 0.0)
    groups = (averaged,) if has_critic or averaged == "actor" else (averaged, f"target_{averaged}")
    if "parameters/start/weight" in own:
        groups = (*groups, "start/actor")
    for name, value in acting.items():
        taken |= {f"parameters/{group}/{name}": value for group in groups} | {f"average/{name}": value}
    different = [name for name, value in taken.items() if name not in own or own[name].shape != value.shape]
    if different:
        raise UserError(f"{folder} has other networks than this run ({different[0]}): it cannot start from there")
    for name, value in taken.items():
        own[name].copy_(value)


def _has_actor(tensors: dict[str, Tensor]) -> bool:
    return any(name.startswith("parameters/actor/") for name in tensors)


def _counts_from_zero(folder: Path) -> bool:
    """Whether the lowest reward of an offline run was 0: raised ones are, and SQIL's."""
    config = config_in(folder)
    return config is not None and (config.algorithm != "iq_learn" or config.iq_learn.absorbing_value == "raised")


def _rescaling(saved: dict[str, Tensor], learner: Learner, moved: bool) -> tuple[float, float]:
    """By what the last layer of a Q is multiplied, and what is added to its bias.

    The softmax stays the same at another temperature. Rewards that are counted from their lowest one (``raised``) move
    every value with them, unless they were counted so already (``moved`` is false).
    """
    agent, parameters, scale, shift = learner.agent, learner.parameters, 1.0, 0.0
    if moved and isinstance(agent, IQLearn):
        shift = float(agent.raised(parameters)) / (1 - agent.discount)
    if isinstance(agent, SoftmaxOfQ):
        shift /= len(agent.actions.counts)  # Q is the sum of its branches.
        scale = float(agent.config.temperature)
        if not _has_actor(saved):  # A Q, where others give logits.
            scale /= float(saved[TEMPERATURE])
    return scale, shift


def _rescaled(network: dict[str, Tensor], scale: float, shift: float) -> dict[str, Tensor]:
    """The same network with its outputs multiplied and shifted."""
    last = max((int(name.split(".")[0]) for name in network if name[0].isdigit()), default=0)
    ends = {f"{last}.weight": 0.0, f"{last}.bias": shift}
    return {name: value * scale + ends[name] if name in ends else value for name, value in network.items()}


def updates_held(config: RunConfig, agent: Agent) -> int:
    """In how many updates of fine-tuning the actor does not move.

    Raises:
        UserError: in all of them.
    """
    held = config.online.critic_warmup if config.is_fine_tuning and agent.averaged == "actor" else 0
    steps = config.stage.gradient_steps
    if held >= steps:
        raise UserError(
            f"online.critic_warmup = {held} of {steps} updates leaves none in which the policy moves: give more "
            "online.env_steps, or a shorter warm-up"
        )
    return held
