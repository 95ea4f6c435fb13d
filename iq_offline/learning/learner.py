"""The state of one learner, or of many trained as one: parameters, targets, averages and optimisers."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.learning.agents import Agent, Metrics

CACHED = 16
"""Learners of a population whose losses a CPU computes at once: what they keep for the gradients stays in its cache."""


class Learner:
    """Applies an agent's losses to parameters.

    With ``population`` every tensor has a leading dimension, one slice a learner, and each loss is lifted by
    ``torch.vmap``: the learners share a program and nothing else. Adam works element by element, so each slice goes
    the way it would have gone alone.

    Args:
        agent: the algorithm.
        parameters: from ``agent.initial_parameters``, or several of these stacked.
        gradient_steps: the budget, which the learning rates' cosine schedule ends with.
        average_decay: of the exponential moving average, in [0, 1); warmed up as (1 + step) / (10 + step).
        population: whether the parameters are stacked.
        weight_decay: decoupled, of all that is trained.
        actor_held: steps at the beginning in which the group that acts does not move.
        input_decay: as ``weight_decay``, of the first layer of the group that acts.
        compiled: whether the losses go through ``torch.compile``, when they are called first. Not in a population.
    """

    def __init__(
        self,
        agent: Agent,
        parameters: TensorDict,
        gradient_steps: int,
        average_decay: float,
        cosine_schedule: bool = True,
        population: bool = False,
        weight_decay: float = 0.0,
        actor_held: int = 0,
        input_decay: float = 0.0,
        compiled: bool = False,
    ) -> None:
        self.agent = agent
        self.parameters = parameters
        self.average = parameters[agent.averaged].clone()
        self.members = parameters.shape[0] if population else 1
        self.gradient_steps = gradient_steps
        self.average_decay = average_decay
        self.cosine_schedule = cosine_schedule
        self.weight_decay = weight_decay
        self.actor_held = actor_held
        self.input_decay = input_decay
        self._leaves = [sorted_leaves(parameters[phase.group]) for phase in agent.phases]
        at_once = CACHED if self._leaves[0][0].device.type == "cpu" else None
        self._losses = [phase.loss for phase in agent.phases]
        if population:
            self._losses = [torch.vmap(loss, chunk_size=at_once) for loss in self._losses]
        elif compiled:
            torch.compiler.reset()  # What was compiled before in this process would decide how these are.
            self._losses = [torch.compile(loss, dynamic=False) for loss in self._losses]
        for leaves in self._leaves:
            for leaf in leaves:
                leaf.requires_grad_()
        self._optimizers = [
            torch.optim.AdamW(
                leaves, phase.learning_rate, betas=(phase.beta1, 0.999), weight_decay=weight_decay, fused=True
            )
            for phase, leaves in zip(agent.phases, self._leaves, strict=True)
        ]
        names = [name for name in map(str, parameters.keys()) if name.startswith("target_")]
        self._targets = [leaf for name in names for leaf in sorted_leaves(parameters[name])]
        self._followed = [leaf for name in names for leaf in sorted_leaves(parameters[name.removeprefix("target_")])]
        self._averages = sorted_leaves(self.average)
        self._averaged = sorted_leaves(parameters[agent.averaged])
        self._step = torch.tensor(0)
        self._tensors = {f"parameters/{name}": leaf for name, leaf in named_leaves(parameters)}
        self._tensors |= {f"average/{name}": leaf for name, leaf in named_leaves(self.average)}
        self._tensors["step"] = self._step
        for phase, leaves, optimizer in zip(agent.phases, self._leaves, self._optimizers, strict=True):
            for index, leaf in enumerate(leaves):
                moments = {name: torch.zeros_like(leaf, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
                optimizer.state[leaf] = {"step": torch.zeros((), device=leaf.device), **moments}
                for name, value in optimizer.state[leaf].items():
                    self._tensors[f"optimizer/{phase.group}/{index}/{name}"] = value

    @classmethod
    def together(cls, members: Sequence["Learner"]) -> "Learner":
        """Learners of one agent, budget and step as one.

        Their tensors become slices of the stack: the members are where it is, and can be saved and averaged as before.
        """
        first = members[0]
        whole = cls(
            first.agent,
            stacked([member.parameters.detach() for member in members]),
            first.gradient_steps,
            first.average_decay,
            first.cosine_schedule,
            population=True,
            weight_decay=first.weight_decay,
            input_decay=first.input_decay,
        )
        for index, member in enumerate(members):
            for name, tensor in whole.state().items():
                own = member._tensors[name]
                part = tensor[index] if tensor.dim() > own.dim() else tensor
                part.copy_(own.detach())
                own.data = part
        return whole

    @property
    def step(self) -> int:
        """Updates so far."""
        return int(self._step)

    def update(self, batch: TensorDict, noise: TensorDict) -> Metrics:
        """One gradient step of every phase, then targets and averages. Metrics are tensors: nothing waits for them.

        The metrics are means, or one number a learner in a population.
        """
        metrics: Metrics = {}
        step = self.step
        factor = 0.5 * (1 + math.cos(math.pi * step / self.gradient_steps)) if self.cosine_schedule else 1.0
        phases = zip(self.agent.phases, self._losses, self._leaves, self._optimizers, strict=True)
        for phase, compute, leaves, optimizer in phases:
            loss, values = compute(self.parameters, batch, noise)
            metrics |= values
            if step < self.actor_held and phase.group == self.agent.averaged:
                continue
            gradients = torch.autograd.grad(loss.sum(), leaves)
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf.grad = gradient.contiguous()  # vmap's are transposed, and fused Adam reads memory as it lies.
            rate = phase.learning_rate * factor
            if self.input_decay and phase.group == self.agent.averaged:
                self.parameters[phase.group, "0.weight"].detach().mul_(1 - rate * self.input_decay)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
        self._step += 1
        step += 1
        with torch.no_grad():
            if self._targets:
                _follow(self._targets, self._followed, self.agent.target_update_rate)
            decay = min(self.average_decay, (1 + step) / (10 + step))
            _follow(self._averages, self._averaged, 1 - decay)
        return {name: value.detach() for name, value in metrics.items()}

    def state(self) -> dict[str, Tensor]:
        """Everything that :meth:`load_state` needs to go on bit for bit, as flat named tensors."""
        return {name: tensor.detach() for name, tensor in self._tensors.items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go back to a state that :meth:`state` gave."""
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])


def stacked(members: Sequence[TensorDict]) -> TensorDict:
    """Parameters, batches or noise of several learners as one, with a leading dimension."""
    return cast(TensorDict, torch.stack(list(members)))  # type: ignore[arg-type]


def _follow(followers: list[Tensor], leaders: list[Tensor], rate: float) -> None:
    """Move every follower towards its leader by that share of the way, all in one call."""
    torch._foreach_lerp_(followers, leaders, rate)  # type: ignore[reportPrivateImportUsage]


def sorted_leaves(parameters: TensorDict) -> list[Tensor]:
    """The tensors of a group, in the order of their names."""
    return [leaf for _, leaf in named_leaves(parameters)]


def named_leaves(parameters: TensorDict) -> list[tuple[str, Tensor]]:
    """Names like ``actor/0.weight`` and the tensors themselves, sorted by name."""
    keys = parameters.keys(include_nested=True, leaves_only=True)
    named = [("/".join(key) if isinstance(key, tuple) else key, parameters[key]) for key in keys]
    return sorted(named, key=lambda pair: pair[0])
