"""An offline run as the start of an online one: its networks as they are, in place of those that were drawn."""

from pathlib import Path

import torch
from torch import Tensor

from iq_offline.errors import UserError
from iq_offline.learning.agents.learned_reward import LearnedReward
from iq_offline.learning.agents.soft_q import SoftmaxOfQ
from iq_offline.learning.learner import Learner
from iq_offline.training import checkpoint
from iq_offline.training.offline import LATEST
from iq_offline.training.training import under


@torch.no_grad()
def start_from(learner: Learner, folder: Path) -> bool:
    """Load an offline run into a fresh learner of a soft Q, whose data and sizes of networks are that run's.

    What acts begins as the averaged policy, which is what that run was scored by: the current one circles around it.
    Of soft actor-critic runs everything else is taken too: critic, target, and the optimiser's moments. Runs without
    a critic (behaviour cloning; those that choose from suboptimal data) leave the critic as it was drawn; with finitely
    many actions Q begins as the temperature times their logits, which is the same policy.

    Args:
        learner: that has made no step.
        folder: of the run, finished or not.

    Returns:
        Whether there was a critic.

    Raises:
        UserError: there is no checkpoint, or it is of other networks.
    """
    file = folder / LATEST
    if not file.exists():
        raise UserError(f"{folder} holds no offline run to start from: {LATEST} is missing")
    saved = under("learner/", checkpoint.load(file)[0])
    own = learner.state()
    averaged = learner.agent.averaged
    has_critic = any(name.startswith("parameters/target_critic/") for name in saved)
    has_critic = has_critic and not isinstance(learner.agent, LearnedReward)  # Theirs is for rewards yet to be learned.
    taken = {name: value for name, value in saved.items() if name.startswith("parameters/normalizer/")}
    if has_critic:
        skipped = "parameters/coefficients/", "average/", f"parameters/{averaged}/"
        taken |= {name: value for name, value in saved.items() if name != "step" and not name.startswith(skipped)}
    acting = _acting(under("average/", saved), learner, has_critic)
    groups = (averaged,) if has_critic or averaged == "actor" else (averaged, f"target_{averaged}")
    for name, value in acting.items():
        taken |= {f"parameters/{group}/{name}": value for group in groups} | {f"average/{name}": value}
    different = [name for name, value in taken.items() if name not in own or own[name].shape != value.shape]
    if different:
        raise UserError(f"{folder} has other networks than this run ({different[0]}): it cannot start from there")
    for name, value in taken.items():
        own[name].copy_(value)
    return has_critic


def _acting(average: dict[str, Tensor], learner: Learner, has_critic: bool) -> dict[str, Tensor]:
    """The averaged weights, as those of what acts in this agent."""
    agent = learner.agent
    if has_critic or not isinstance(agent, SoftmaxOfQ):
        return average
    last = max(int(name.split(".")[0]) for name in average if name[0].isdigit())
    scale = agent.config.temperature
    return {name: value * scale if name.startswith(f"{last}.") else value for name, value in average.items()}
