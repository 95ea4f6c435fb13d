"""A policy as it leaves training: acts on the dataset's own observations and actions, saved without pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import safetensors
import safetensors.torch
import torch
from minari.serialization import deserialize_space, serialize_space
from torch import Tensor, nn

from iq_offline.errors import UserError
from iq_offline.files import write_atomically
from iq_offline.learning.networks import mlp

FORMAT = "iq_offline.policy/1"
HEADER = "iq_offline"
"""The key of the safetensors header that holds our JSON."""


class Policy:
    """A deterministic policy for Box observations and bounded Box actions.

    ``action = low + (high - low) * (tanh(network((observation - mean) / std)) + 1) / 2``

    Only the first ``action size`` outputs of the network are read: an actor's log standard deviations may follow.

    Args:
        network: from ``observation size`` to at least ``action size`` numbers.
        observation_space: of the dataset.
        action_space: of the dataset, bounded.
        observation_mean: shape ``(observation size,)``.
        observation_std: shape ``(observation size,)``, positive.
    """

    def __init__(
        self,
        network: nn.Sequential,
        observation_space: gymnasium.spaces.Box,
        action_space: gymnasium.spaces.Box,
        observation_mean: Tensor | None = None,
        observation_std: Tensor | None = None,
    ) -> None:
        size = int(np.prod(observation_space.shape))
        self.network = network.float().eval()
        self.observation_space = observation_space
        self.action_space = action_space
        self.observation_mean = torch.zeros(size) if observation_mean is None else observation_mean.float()
        self.observation_std = torch.ones(size) if observation_std is None else observation_std.float()

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """Mean actions, shape ``(n, *action shape)``, for observations of shape ``(n, *observation shape)``."""
        space = self.action_space
        inputs = torch.from_numpy(np.asarray(observations, np.float32).reshape(len(observations), -1))
        with torch.no_grad():
            outputs = self.network((inputs - self.observation_mean) / self.observation_std)
        size = int(np.prod(space.shape))
        unit = np.tanh(outputs[:, :size].numpy()).reshape(len(observations), *space.shape)
        actions = space.low + (space.high - space.low) * (unit + 1) / 2
        return np.clip(actions, space.low, space.high).astype(space.dtype)

    def save(self, path: Path, about: dict[str, Any] | None = None) -> None:
        """Write weights, normalisation, spaces and ``about`` (JSON values) to one safetensors file."""
        tensors = {f"network.{name}": value.contiguous() for name, value in self.network.state_dict().items()}
        tensors |= {"observation_mean": self.observation_mean, "observation_std": self.observation_std}
        header = {
            "format": FORMAT,
            "observation_space": serialize_space(self.observation_space),
            "action_space": serialize_space(self.action_space),
            "about": about or {},
        }  # Under one key: safetensors writes several in random order.
        write_atomically(path, safetensors.torch.save(tensors, {HEADER: json.dumps(header, sort_keys=True)}))

    @classmethod
    def load(cls, path: Path) -> "Policy":
        """Read what :meth:`save` wrote.

        Raises:
            UserError: the file is missing, damaged, or of another format.
        """
        try:
            with safetensors.safe_open(path, "pt") as file:
                header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if header.get("format") != FORMAT:
                raise UserError(f"{path} is not a policy of this version ({header.get('format')}, expected {FORMAT})")
            prefix = "network."
            weights = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            return cls(
                network_of(weights),
                deserialize_space(header["observation_space"]),  # type: ignore[arg-type]
                deserialize_space(header["action_space"]),  # type: ignore[arg-type]
                tensors["observation_mean"],
                tensors["observation_std"],
            )
        except (OSError, LookupError, ValueError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
            raise UserError(f"cannot read the policy {path}: {type(error).__name__}: {error}") from error


def network_of(weights: Mapping[str, Tensor]) -> nn.Sequential:
    """The multilayer perceptron that these weights (``0.weight``, ``0.bias``, ``2.weight``, …) belong to."""
    matrices = [weights[name] for name in sorted(weights, key=lambda name: int(name.split(".")[0])) if "weight" in name]
    with torch.device("meta"):  # No numbers are drawn for weights that are there already.
        network = mlp(matrices[0].shape[1], *(matrix.shape[0] for matrix in matrices))
    network.load_state_dict(dict(weights), assign=True)
    return network
