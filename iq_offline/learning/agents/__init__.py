"""The algorithms, one file each. An agent holds no state: parameters, batch and noise come in, losses go out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import linear

from iq_offline.data.actions import ActionBox, ActionBranches
from iq_offline.learning.networks import MeanAction, Members, members_linear

Metrics = dict[str, Tensor]
Loss = Callable[[TensorDict, TensorDict, TensorDict], tuple[Tensor, Metrics]]
"""(parameters, batch, noise) -> (scalar loss, scalar metrics)."""


@dataclass(frozen=True)
class Phase:
    """One step of Adam: the group of parameters it moves, its loss, its learning rate at the start, its momentum."""

    group: str
    loss: Loss
    learning_rate: float
    beta1: float = 0.9


@runtime_checkable
class Agent(Protocol):
    """What a learner needs of an algorithm.

    Parameters are a TensorDict of groups: the networks (``actor``, …), their targets (``target_critic``, …) and
    constants, which may differ between the learners of a population: those of the observations (``normalizer``: mean
    and std) and, where a loss has some, its ``coefficients`` of shape ``()``.
    """

    phases: tuple[Phase, ...]
    averaged: str
    """The group that acts: its running average is the result of training."""
    target_update_rate: float
    kinds: tuple[str, ...]
    noise_shape: tuple[int, ...]
    unread: tuple[str, ...]
    """Keys of the algorithm's section in the configuration that have no effect here."""
    discount: float

    def initial_parameters(self, observation_mean: Tensor, observation_std: Tensor) -> TensorDict:
        """Fresh parameters, drawn from torch's global generator."""
        ...

    def reward_bound(self, expert_share: float) -> float:
        """Of the implied reward's magnitude at the optimum; 0 where there is none on both sides.

        Args:
            expert_share: of the labelled expert in a batch.
        """
        ...

    def diagnose(self, parameters: TensorDict, rows: TensorDict) -> Metrics:
        """A number for each transition, by name, of those that the agent knows.

        ``error`` (squared, or 1 for a wrong action), ``log_likelihood``, ``reward``, and ``value``: Q(s, a) or V(s).
        """
        ...


@runtime_checkable
class Acting(Protocol):
    """An agent whose policy can be drawn from, as the online stage does."""

    def act(self, parameters: TensorDict, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Points of the unit box ``(n, size)``, or indices ``(n, branches)``, for the features ``(n, features)``."""
        ...


def call(network: nn.Sequential, parameters: TensorDict, inputs: Tensor, twice: bool = False) -> Tensor:
    """The network's outputs with parameters from outside, also under ``torch.vmap``.

    Linear layers are called one by one: ``functional_call`` on all of a small network takes longer than its products.

    Args:
        network: its layers.
        parameters: by the network's own names.
        inputs: ``(batch, size)``.
        twice: whether the slopes in the inputs are differentiated again. A ReLU's second derivative is zero, and
            autograd would send zeros back through all layers to say so: two products each for nothing.
    """
    weights = tensors(parameters)
    for name, layer in network.named_children():
        if isinstance(layer, nn.Linear | Members):
            apply = linear if isinstance(layer, nn.Linear) else members_linear
            inputs = apply(inputs, weights[f"{name}.weight"], weights[f"{name}.bias"])
        elif twice and isinstance(layer, nn.ReLU):
            inputs = inputs * torch.relu(inputs).detach().sign()
        else:
            own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
            inputs = functional_call(layer, own, (inputs,)) if own else layer(inputs)
    return inputs


def call_members(network: nn.Sequential, parameters: TensorDict, inputs: Tensor) -> Tensor:
    """As :func:`call`, the outputs of each of the networks that act together, before they are averaged.

    Returns:
        ``(members, batch, outputs)``; of a network that is one, ``(1, batch, outputs)``.
    """
    if isinstance(network[-1], MeanAction):
        return call(cast(nn.Sequential, network[:-1]), parameters, inputs)
    return call(network, parameters, inputs).unsqueeze(0)


def together(network: nn.Sequential, outputs: Tensor) -> Tensor:
    """What the network gives where its members give this, ``(members, batch, outputs)``."""
    return network[-1](outputs) if isinstance(network[-1], MeanAction) else outputs.squeeze(0)


def call_each(network: nn.Sequential, ensemble: TensorDict, inputs: Tensor, twice: bool = False) -> Tensor:
    """The outputs of every member of an ensemble, stacked; ``twice`` as for :func:`call`."""
    return torch.stack([call(network, member, inputs, twice) for member in ensemble.unbind(0)])


def tensors(group: TensorDict) -> dict[str, Tensor]:
    """A flat group of parameters as a dictionary."""
    return cast(dict[str, Tensor], dict(group.items()))


def normalized(parameters: TensorDict, observation: Tensor) -> Tensor:
    """Observations of the dataset as the networks read them."""
    return (observation - parameters["normalizer", "mean"]) / parameters["normalizer", "std"]


def fresh(network: nn.Module, members: int = 1) -> TensorDict:
    """The network's layers drawn anew, as a flat TensorDict with the module's own names; of an ensemble, stacked."""
    if members > 1:
        return cast(TensorDict, torch.stack([fresh(network) for _ in range(members)]))  # type: ignore[arg-type]
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.LayerNorm | Members):
            layer.reset_parameters()
    return TensorDict({name: value.detach().clone() for name, value in network.named_parameters()})


class UnitBox:
    """The dataset's action box [low, high] seen as [-1, 1]; actions outside it are clipped to its faces."""

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.center = (high + low) / 2
        self.half_width = (high - low) / 2

    def __call__(self, action: Tensor) -> Tensor:
        """Actions of shape ``(batch, size)`` in the unit box."""
        return ((action - self.center) / self.half_width).clamp(-1, 1)


def unit_box_of(actions: ActionBox, dtype: torch.dtype, device: str) -> UnitBox:
    """The box of a dataset's actions, flat."""
    low, high = (torch.as_tensor(bound.reshape(-1)).to(device, dtype) for bound in (actions.low, actions.high))
    return UnitBox(low, high)


def constants(config: Any, coefficients: Sequence[str], mean: Tensor, std: Tensor) -> dict[str, TensorDict]:
    """The groups of parameters that nothing moves: the observations' statistics, and these keys of a configuration."""
    values = {name: torch.tensor(getattr(config, name), dtype=torch.float64) for name in coefficients}
    return {"normalizer": TensorDict({"mean": mean, "std": std}), "coefficients": TensorDict(values)}


def rows_of(batch: TensorDict, kinds: tuple[str, ...], *key: str) -> Tensor:
    """The rows of several kinds below each other, in the order of ``kinds``."""
    values = [batch[(kind, *key)] for kind in kinds]
    return values[0] if len(values) == 1 else torch.cat(values)


@dataclass(frozen=True)
class Transitions:
    """Rows of a batch, as the networks read them."""

    state: Tensor
    action: Tensor
    """As the dataset has them."""
    next_state: Tensor
    terminated: Tensor

    @classmethod
    def of(cls, parameters: TensorDict, batch: TensorDict, kinds: tuple[str, ...]) -> "Transitions":
        """The rows of several kinds below each other, in the order of ``kinds``."""
        return cls(
            normalized(parameters, rows_of(batch, kinds, "observation")),
            rows_of(batch, kinds, "action"),
            normalized(parameters, rows_of(batch, kinds, "next", "observation")),
            rows_of(batch, kinds, "next", "terminated"),
        )


def action_inputs(actions: UnitBox | ActionBranches, action: Tensor) -> Tensor:
    """The dataset's actions as inputs: in the unit box; of finitely many, ones and zeros for each branch."""
    if isinstance(actions, UnitBox):
        return actions(action)
    units = [torch.eye(count, device=action.device) for count in actions.counts]
    return torch.cat([unit[chosen] for unit, chosen in zip(units, action.unbind(-1), strict=True)], -1)
