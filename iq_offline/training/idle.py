"""Keys of a configuration that have no effect on what is trained: said, as whoever set them may think otherwise."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import torch

from iq_offline.config import RunConfig, flat, from_table, nested, resolved, saved_start, to_table
from iq_offline.data.actions import ActionBranches
from iq_offline.errors import UserError
from iq_offline.learning.agents.soft_q import SoftActorCritic
from iq_offline.training.setup import Data, make_agent

BUDGET = ("training.gradient_steps", "training.snapshots")
"""What the steps in the environment decide online."""


def idle_keys(stages: Sequence[RunConfig], data: Data) -> set[str]:
    """Those that no stage of a run reads on these data, as dotted keys.

    Args:
        stages: of the run, resolved, one after the other.
        data: chosen for it.
    """
    return set.intersection(*(_idle(config, data) for config in stages))


def _idle(config: RunConfig, data: Data) -> set[str]:
    on_cpu = replace(config, training=replace(config.training, device="cpu"))  # A sweep's may be another machine's.
    with torch.random.fork_rng(devices=[]):
        agent = make_agent(on_cpu, data)
    idle = {f"{config.algorithm}.{name}" for name in agent.unread}
    if not config.data.suboptimal:
        idle.add("data.suboptimal_fraction")
    if not any(leaf.is_image for leaf in data.observations.leaves):
        idle.add("data.frame_stack")
    if isinstance(data.actions, ActionBranches):
        idle.add("training.actors")
    if config.training.layer_norm != "all" and {phase.group for phase in agent.phases} == {agent.averaged}:
        idle.add("training.layer_norm")  # "critics" is as good as "none" where all that is trained acts.
    if not config.is_online:
        return idle | {f"online.{field.name}" for field in fields(config.online)}
    idle.update(BUDGET)
    if not config.is_fine_tuning or agent.averaged != "actor":
        idle.add("online.critic_warmup")
    if not config.is_fine_tuning or not isinstance(agent, SoftActorCritic):
        idle.add("online.start_anchor")
    return idle


def changed(config: RunConfig, idle: Collection[str]) -> set[str]:
    """Those of a configuration's idle keys that have another value than they have by themselves.

    Args:
        config: resolved; what was left to ``auto`` is told from what was set by deciding it anew.
        idle: keys that decide nothing else.
    """
    given, usual = flat(to_table(config)), flat(to_table(RunConfig()))
    untouched = given | {key: usual[key] for key in idle}
    by_itself = flat(to_table(resolved(from_table(RunConfig, nested(untouched), "without idle keys"))))
    return {key for key in idle if given[key] != by_itself[key]}


def set_in_vain(stages: Sequence[RunConfig], idle: Collection[str]) -> list[str]:
    """Those of a run's idle keys that someone set for this run, in the order of the alphabet.

    Not those that came along from the offline run that is fine-tuned. Nor, from scratch, the budget of fixed data,
    which may be the recipe's, for its use without an environment.

    Args:
        stages: as for :func:`idle_keys`.
        idle: found by it.
    """
    config = stages[-1]
    given = flat(to_table(config))
    brought: dict[str, Any] = {key: given[key] for key in BUDGET}
    if len(stages) == 1:
        with suppress(UserError):  # Whoever cannot do without this file says so.
            start = saved_start(config)
            brought = flat(to_table(start)) if start else brought
    return sorted(key for key in changed(config, idle) if key not in brought or brought[key] != given[key])
