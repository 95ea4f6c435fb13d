"""Keys of a configuration that have no effect on what is trained: said, as whoever set them may think otherwise."""

from collections.abc import Collection
from dataclasses import fields

from iq_offline.config import RunConfig, flat, to_table
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
    usual, given = flat(to_table(RunConfig())), flat(to_table(config))
    return sorted(key for key in idle if usual.get(key) not in (given.get(key), "auto"))
