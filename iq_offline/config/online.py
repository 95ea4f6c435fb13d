"""The online section of a run's configuration, and what follows from it."""

import dataclasses
import math
from bisect import bisect_left
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from iq_offline.config.iq_learn import STRICT, Positive
from iq_offline.errors import UserError

MEETS_ENVIRONMENTS = ("iq_learn", "valuedice", "sqil", "gail")
"""The algorithms that have an online stage."""
OFFLINE = "offline"
"""As ``start``: an offline run of the same configuration, in a folder of that name within the run's own."""


@dataclass(frozen=True, config=STRICT)
class OnlineConfig:
    """Meeting the environment, from scratch or to fine-tune an offline run. Its reward is never learned from."""

    env_steps: Annotated[int, Field(ge=0)] = 0
    """Steps in the environment, of all its copies together. 0: offline, and no environment is built for training."""
    start: str = ""
    """The offline run to fine-tune: its folder; 'offline' for one that this run trains first, in a folder of that name
    within its own. From scratch where none is given."""
    environments: Positive = 1
    """Copies of the environment, stepped side by side."""
    in_processes: Literal["auto", "yes", "no"] = "auto"
    """Each copy in a process of its own, or all in this one: the same result. auto: what a first look finds faster."""
    updates_per_env_step: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Gradient steps for each step in the environment, after the first ``start_steps``."""
    start_steps: Positive = 1_000
    """Steps before the first update: uniformly random from scratch, by the policy in fine-tuning."""
    replay_size: Annotated[int, Field(ge=100)] = 1_000_000
    """Online transitions kept at most: the oldest make room. The fixed data stay whole."""
    online_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of each batch that is online; the rest is divided among the fixed data as offline."""
    critic_warmup: Annotated[int, Field(ge=0)] = 2_000
    """Fine-tuning: updates in which everything moves but the actor. Without any, the reward has learned nothing when it
    is asked how far to trust the offline policy, and trusts it wholly."""
    start_anchor: Annotated[float, Field(ge=0)] = 0.5
    """Fine-tuning, actions in a box: how much the actor is held to the offline policy's actions at the start, in units
    of |Q|, times how far the learned reward took that for the expert; fades to 0 at the end of the budget."""
    evaluate_every: Positive = 5_000
    """Steps in the environment between averaged policies that are kept, and scored after training: at the first update
    from each multiple on, and at the end."""
    time_limit: Annotated[float, Field(gt=0, le=1e6)] = 60.0
    """Seconds that one step, or one reset, of all copies together may take. To build a copy may take as long, and 60 in
    any case."""

    @property
    def gradient_steps(self) -> int:
        """Updates in all."""
        return max(0, math.floor((self.env_steps - self.start_steps) * self.updates_per_env_step))

    @property
    def snapshot_steps(self) -> frozenset[int]:
        """The updates after which the averaged policy is kept."""
        updates = range(1, self.gradient_steps + 1)
        due = range(self.evaluate_every, self.env_steps, self.evaluate_every)
        found = {updates[bisect_left(updates, steps, key=self.env_steps_before)] for steps in due}
        return frozenset(found | {self.gradient_steps})

    def env_steps_before(self, update: int) -> int:
        """Steps in the environment that are there when an update begins; the first has number 1, and 0 is none.

        When the last one begins, all of them.
        """
        if update == self.gradient_steps:
            return self.env_steps
        steps = self.start_steps + math.ceil(update / self.updates_per_env_step) if update else 0
        return min(self.env_steps, self.environments * math.ceil(steps / self.environments))


def has_offline_half(config: Any) -> bool:
    """Whether a ``RunConfig`` is of two stages, the first on its fixed data alone."""
    return config.is_online and config.online.start == OFFLINE


def checked_online(config: Any) -> OnlineConfig:
    """The online section of a ``RunConfig`` that is online, ``fast`` applied.

    Raises:
        UserError: it does not fit the rest.
    """
    online = config.online
    learns_nothing = config.algorithm == "gail" or (config.algorithm == "sqil" and not config.data.suboptimal)
    if has_offline_half(config) and learns_nothing:
        raise UserError(
            f"online.start = 'offline': {config.algorithm} learns nothing from these fixed data alone; give the folder "
            "of another run, or leave online.start out to begin from scratch"
        )
    if config.fast:
        steps = math.ceil(300 / online.environments) * online.environments
        most = {"env_steps": steps, "start_steps": 100, "evaluate_every": 100, "critic_warmup": 20}
        online = dataclasses.replace(
            online, **{name: min(count, getattr(online, name)) for name, count in most.items()}
        )
    policy, start, steps = config.iq_learn.policy, online.start_steps, online.env_steps
    if config.algorithm not in MEETS_ENVIRONMENTS:
        others = " or ".join(map(repr, MEETS_ENVIRONMENTS))
        raise UserError(f"algorithm {config.algorithm!r} has no online stage: use {others}, or online.env_steps = 0")
    if config.algorithm == "iq_learn" and policy not in ("learned_reward", "soft_actor_critic"):
        raise UserError(
            f"iq_learn.policy = {policy!r} is for fixed data alone: online it is 'learned_reward' or "
            "'soft_actor_critic'"
        )
    if config.training.prefetch:
        raise UserError("online batches cannot be drawn ahead, they would lack the newest steps: prefetch must be 0")
    if not online.gradient_steps:
        raise UserError(f"online.env_steps = {steps} leaves no updates after online.start_steps = {start}")
    if steps % online.environments:
        raise UserError(f"online.env_steps = {steps} is no multiple of online.environments = {online.environments}")
    return online
