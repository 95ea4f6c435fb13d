"""Training that meets the environment: between its updates the policy acts, and what it lives through joins the data.

Nothing here knows what steps the environment (:class:`Stepper`), and nothing reads its reward: it is summed up for the
reader of the metrics, and reaches no batch. Every draw comes from the run's seed.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from iq_offline.config.online import OnlineConfig
from iq_offline.data.actions import ActionBranches, ActionEncoder
from iq_offline.data.online import OnlineTable
from iq_offline.data.spaces import part_of
from iq_offline.learning.agents import Acting, Metrics
from iq_offline.learning.agents.soft_q import SoftActorCritic
from iq_offline.training.training import StepError, Training, under


@runtime_checkable
class Stepper(Protocol):
    """Several copies of an environment. Observations come as one of its observation space, each leaf for all copies."""

    keeps_state: bool
    """Whether :meth:`state` can give one."""

    def reset(self, seeds: Sequence[int | None]) -> Any:
        """Begin episodes; a copy whose seed is None goes on, and its observation means nothing."""
        ...

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
        """Observations, rewards, and whether the episodes were terminated or truncated; nothing is reset.

        Raises:
            StepError: an environment failed.
        """
        ...

    def state(self) -> list[Any]:
        """Of each copy, as JSON values, all that decides how its episode goes on.

        Raises:
            StepError: an environment failed.
        """
        ...

    def load_state(self, states: list[Any]) -> None:
        """Go back to what :meth:`state` gave."""
        ...

    def close(self) -> None:
        """End what runs in the background."""
        ...


@dataclass
class OnlineTraining(Training):
    """A training whose batches hold the kind ``online``, from a table that it fills as it goes."""

    online: OnlineConfig = OnlineConfig()
    table: OnlineTable = field(kw_only=True)
    actions: ActionEncoder = field(kw_only=True)
    exploration: torch.Generator = field(kw_only=True)
    seed: int = field(kw_only=True)
    """Of the episodes: each has its own, made of this, of its lane and of its number there."""
    stepper: Stepper | None = None

    def __post_init__(self) -> None:
        self.env_steps = 0
        self._is_under_way = False
        lanes = self.online.environments
        self._episodes = torch.zeros(lanes, dtype=torch.int64)
        self._returns = torch.zeros(lanes, dtype=torch.float64)
        self._lengths = torch.zeros(lanes, dtype=torch.float64)
        self._finished = torch.zeros(3, dtype=torch.float64)
        """Of the episodes that ended since the last row of metrics: how many, their returns, their lengths."""

    def collect_due(self, go_on: Callable[[], bool] = lambda: True) -> bool:
        """The steps in the environment that the next update asks for; where these are several, asked before each.

        Returns:
            Whether all are there.

        Raises:
            StepError: as :meth:`collect`.
        """
        due, at_once = self.online.env_steps_before(self.learner.step + 1), self.online.environments
        while self.env_steps < due:
            if due - self.env_steps > at_once and not go_on():
                return False
            self.collect()
        return True

    def update(self) -> Metrics:
        """The steps in the environment that are due, then one gradient step on one batch."""
        self.collect_due()
        if "start" in self.learner.parameters:
            self._hold()
        return super().update()

    def _hold(self) -> None:
        """How much the actor is held to the offline policy now.

        The less, the easier it was told from the expert when the actor began to move: a failure is not worth keeping.
        """
        learner, start = self.learner, self.learner.parameters["start"]
        if learner.step == learner.actor_held and isinstance(learner.agent, SoftActorCritic):
            start["trust"].copy_(learner.agent.resemblance(learner.parameters, self.replay.sample()))
        left = 1 - learner.step / learner.gradient_steps
        start["weight"].copy_(self.online.start_anchor * left * start["trust"])

    @torch.no_grad()
    def collect(self) -> None:
        """One step of every copy of the environment.

        Raises:
            StepError: it failed, it observed what is not finite, or the policy gives what is not. What was collected
                before is whole.
        """
        stepper = self._stepper()
        try:
            if not self._is_under_way:
                self._begin(range(self.online.environments))
                self._is_under_way = True
            drawn = self._draw_actions()
            if isinstance(self.actions, ActionBranches):
                acted, stored = self.actions.from_indices(drawn.cpu().numpy()), drawn
            else:
                acted = self.actions.from_unit(drawn.cpu().numpy())
                stored = torch.from_numpy(acted.reshape(len(acted), -1).astype(np.float32))
            observation, rewards, terminated, truncated = stepper.step(acted)
            rows = self._rows(observation)
            self.table.add(stored, torch.from_numpy(terminated), rows)
            self.env_steps += len(acted)
            self._returns += torch.from_numpy(rewards)
            self._lengths += 1
            ended = terminated | truncated
            if ended.any():
                done = torch.from_numpy(ended)
                self._finished += torch.stack([done.sum(), self._returns[done].sum(), self._lengths[done].sum()])
                self._begin(np.flatnonzero(ended).tolist())
        except StepError:
            self._is_under_way = False
            raise

    def row(self) -> dict[str, float]:
        """Steps in the environment, the hold, and mean return and length of the episodes that ended since last time."""
        count, total, length = self._finished.tolist()
        self._finished.zero_()
        found = {"env_steps": float(self.env_steps)}
        if count:
            found |= {"episode/return": total / count, "episode/length": length / count}
        if "start" in self.learner.parameters:
            found["actor/held"] = float(self.learner.parameters["start", "weight"])
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def generators(self) -> dict[str, Any]:
        """With the one that actions are drawn by."""
        return super().generators() | {"exploration": self.exploration}

    def close(self) -> None:
        """End what runs in the background, the environments as well."""
        super().close()
        if self.stepper:
            self.stepper.close()

    def state(self) -> dict[str, Tensor]:
        """With the online data and, where they can be saved, the environments.

        Raises:
            StepError: an environment failed; asked once more, the state is without them.
        """
        environments = json.dumps(self._environments()).encode()
        own = {
            "env_steps": torch.tensor(self.env_steps),
            "episodes": self._episodes,
            "returns": self._returns,
            "lengths": self._lengths,
            "finished": self._finished,
            "environments": torch.frombuffer(bytearray(environments), dtype=torch.uint8),
        }
        own |= {f"table/{name}": value for name, value in self.table.state().items()}
        return super().state() | {f"online/{name}": value for name, value in own.items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go back to a state that :meth:`state` gave; where the environments are not in it, new episodes begin."""
        super().load_state(tensors)
        own = under("online/", tensors)
        self.table.load_state(under("table/", own))
        self.env_steps = int(own["env_steps"])
        self._episodes.copy_(own["episodes"])
        self._finished.copy_(own["finished"])
        environments = json.loads(own["environments"].numpy().tobytes())
        if environments:
            self._stepper().reset([0] * self.online.environments)
            self._stepper().load_state(environments)
            self._returns.copy_(own["returns"])
            self._lengths.copy_(own["lengths"])
        self._is_under_way = bool(environments)

    def _stepper(self) -> Stepper:
        if self.stepper is None:
            raise ValueError("an online training needs its environments first")
        return self.stepper

    def _environments(self) -> list[Any]:
        """Their states, none where they cannot be saved or nothing is under way."""
        stepper = self._stepper()
        if not (self._is_under_way and stepper.keeps_state):
            return []
        try:
            return stepper.state()
        except StepError:
            self._is_under_way = False
            raise

    def _begin(self, lanes: Sequence[int]) -> None:
        """New episodes in these lanes."""
        seeds: list[int | None] = [None] * self.online.environments
        for lane in lanes:
            words = np.random.SeedSequence([self.seed, lane, int(self._episodes[lane])]).generate_state(1)
            seeds[lane] = int(words[0])
            self._episodes[lane] += 1  # Before the reset: whose fails for this seed goes on with another.
        rows = self._rows(self._stepper().reset(seeds), lanes)
        self.table.begin(lanes, rows)
        for lane in lanes:
            self._returns[lane] = self._lengths[lane] = 0

    def _draw_actions(self) -> Tensor:
        """Of the policy, or uniformly before the first update of a training from scratch.

        Raises:
            StepError: what the policy gives is not finite.
        """
        lanes, generator = self.online.environments, self.exploration
        options: dict[str, Any] = {"generator": generator, "device": generator.device}
        if self.env_steps < self.online.start_steps and not self.online.start:
            if isinstance(self.actions, ActionBranches):
                draws = [torch.randint(count, (lanes,), **options) for count in self.actions.counts]
                return torch.stack(draws, -1)
            return 2 * torch.rand(lanes, self.actions.size, **options) - 1
        agent = self.learner.agent
        if not isinstance(agent, Acting):
            raise ValueError(f"{type(agent).__name__} has no policy to draw from")
        try:
            return agent.act(self.learner.parameters, self.table.current(), generator)
        except ArithmeticError as error:
            raise StepError(str(error)) from error

    def _rows(self, observation: Any, lanes: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Of each column the rows of these lanes, default all.

        Raises:
            StepError: a value is not finite, or does not fit its space.
        """
        rows = {}
        for leaf in self.table.encoder.leaves:
            values = np.asarray(part_of(observation, leaf.path))
            try:
                stored = leaf.stored(values if lanes is None else values[list(lanes)])
            except ValueError as error:
                raise StepError(
                    f"what the environment observed in {leaf.name!r} is not in its space: {error}"
                ) from error
            if not np.isfinite(stored).all():
                raise StepError(f"the environment observed values in {leaf.name!r} that are not finite")
            rows[self.table.data.column(leaf)] = torch.from_numpy(stored)
        return rows
