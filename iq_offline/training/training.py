"""What trains: one run, or several of one program, stepped as one. What learns, what it sees, what it draws."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.data.prefetch import Prefetcher
from iq_offline.data.replay import Replay, sample_together
from iq_offline.errors import UserError
from iq_offline.learning.agents import Metrics
from iq_offline.learning.learner import Learner, stacked
from iq_offline.training.chooser import Chooser


class StepError(UserError):
    """What a training meets failed while it was stepped; all that was before is whole, and worth a checkpoint."""


@dataclass
class Training:
    """All that a training consists of besides its budget."""

    learner: Learner
    replay: Replay
    noise: torch.Generator
    prefetcher: Prefetcher | None = None
    chooser: Chooser | None = None
    env_steps: int = field(default=0, init=False)
    """Steps in the environment so far: none, on fixed data."""

    @property
    def members(self) -> "list[Training]":
        """Itself: what steps one training steps several in the same way."""
        return [self]

    def collect_due(self, go_on: Callable[[], bool]) -> bool:
        """What has to be collected before the next update, asking now and then; whether all of it was."""
        return True

    def update(self) -> Metrics:
        """One gradient step on one batch."""
        self.choose()
        batch = self.next_batch()
        return self.learner.update(batch, self.draw_noise(batch))

    def choose(self) -> None:
        """Where it is time to, look anew at what of the data is imitated."""
        if self.chooser and self.learner.step % self.chooser.every == 0:
            if self.prefetcher:  # What was drawn ahead was drawn by the old weights.
                self.prefetcher.set_state(self.prefetcher.get_state())
            self.chooser.renew(self.learner.parameters)

    def next_batch(self) -> TensorDict:
        """From the replay, or from what was drawn ahead."""
        return (self.prefetcher or self.replay).sample()

    def draw_noise(self, batch: TensorDict) -> TensorDict:
        """Standard normal numbers for every row of every kind, as many as the agent asks for."""
        if not self.learner.agent.noise_shape:
            return TensorDict({})
        return TensorDict({kind: self.normal(batch[kind, "observation"]) for kind in map(str, batch.keys())})

    def normal(self, observation: Tensor) -> Tensor:
        """Standard normal numbers for the rows of one kind."""
        shape = len(observation), *self.learner.agent.noise_shape
        return torch.randn(shape, generator=self.noise, dtype=observation.dtype, device=observation.device)

    def row(self) -> dict[str, float]:
        """What belongs into a row of metrics besides the means of what :meth:`update` says."""
        return {}

    def generators(self) -> dict[str, torch.Generator | Prefetcher]:
        """Everything that draws, by name."""
        return {"noise": self.noise, "replay": self.prefetcher or self.replay.generator}

    def close(self) -> None:
        """End what runs in the background; the training can go on afterwards."""
        if self.prefetcher:
            self.prefetcher.close()

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed training needs, random generators included."""
        random = {f"random/{name}": generator.get_state() for name, generator in self.generators().items()}
        chosen = {f"chosen/{name}": value for name, value in self.replay.annotations().items()}
        return {f"learner/{name}": value for name, value in self.learner.state().items()} | random | chosen

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go back to a state that :meth:`state` gave."""
        self.learner.load_state(under("learner/", tensors))
        self.replay.load_annotations(under("chosen/", tensors))
        for name, generator in self.generators().items():
            generator.set_state(tensors[f"random/{name}"])


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


class Population:
    """Several trainings of one program and step, stepped as one.

    Each keeps its data, its draws, its coefficients and its networks, and goes the way that it would have gone alone;
    each stays a training of its own, whose state and averages are up to date after every step.

    Args:
        members: of the same agent but for its coefficients, with replays that share their tables.
    """

    def __init__(self, members: Sequence[Training]) -> None:
        self.members = list(members)
        self.learner = Learner.together([member.learner for member in members])

    def collect_due(self, go_on: Callable[[], bool]) -> bool:
        """Nothing: no member meets an environment."""
        return True

    def update(self) -> Metrics:
        """One gradient step of every member, each on its own batch; metrics have one number a member."""
        for member in self.members:
            member.choose()
        if any(member.prefetcher for member in self.members):
            batch = stacked([member.next_batch() for member in self.members])
        else:
            batch = sample_together([member.replay for member in self.members])
        noise = TensorDict({}, [len(self.members)])
        if self.learner.agent.noise_shape:
            for kind in map(str, batch.keys()):
                rows = zip(self.members, batch[kind, "observation"], strict=True)
                noise[kind] = torch.stack([member.normal(observation) for member, observation in rows])
        return self.learner.update(batch, noise)

    def close(self) -> None:
        """End what runs in the background."""
        for member in self.members:
            member.close()
