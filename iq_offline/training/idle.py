"""Keys of a configuration that have no effect on what is trained: said, as whoever set them may think otherwise."""

from collections.abc import Collection
from dataclasses import fields

from iq_offline.config import RunConfig, flat, resolved, to_table
from iq_offline.learning.agents import Agent
from iq_offline.training.setup import Data


def idle_keys(config: RunConfig, data: Data, agent: Agent) -> set[str]:
    """Those of a resolved configuration that this agent on these data does not read, as dotted keys.

    Args:
        config: of the run.
        data: chosen for it.
        agent: made for both.
    """
    idle = {f"{config.algorithm}.{name}" for name in agent.unread}
    if not config.data.suboptimal:
        idle.add("data.suboptimal_fraction")
    if not any(leaf.is_image for leaf in data.observations.leaves):
        idle.add("data.frame_stack")
    if not config.is_online:
        idle |= {f"online.{field.name}" for field in fields(config.online)}
    return idle


def set_in_vain(config: RunConfig, idle: Collection[str]) -> list[str]:
    """Those of some keys that someone gave another value than they have by themselves."""
    undecided, usual, given = (
        flat(to_table(one)) for one in (RunConfig(), resolved(RunConfig(fast=config.fast)), config)
    )
    return sorted(key for key in idle if undecided.get(key) != "auto" and usual.get(key) != given.get(key))
