"""A policy as it leaves training: acts on the dataset's own observations and actions, saved without pickle."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import safetensors
import safetensors.torch
import torch
from minari.serialization import deserialize_space, serialize_space
from torch import Tensor, nn

from iq_offline.config import Activation
from iq_offline.data.actions import ActionBox, ActionBranches, ActionEncoder, action_encoder
from iq_offline.data.spaces import ObservationEncoder, chosen_leaves
from iq_offline.errors import UserError
from iq_offline.files import write_atomically
from iq_offline.learning.networks import ImageTorso, behind_images, branch_values, mlp

FORMAT = "iq_offline.policy/2"
HEADER = "iq_offline"
"""The key of the safetensors header that holds our JSON."""

Squash = Literal["tanh", "clip"]


class Policy:
    """A deterministic policy.

    In a box ``action = low + (high - low) * (squash(network((features - mean) / std)) + 1) / 2``, of which the first
    ``action size`` outputs are read: an actor's log standard deviations may follow. Of finitely many actions the one
    with the largest output.

    Args:
        network: from features to outputs.
        observation_space: of the dataset.
        action_space: of the dataset.
        observation_mean: of the features, shape ``(features,)``; default 0.
        observation_std: shape ``(features,)``, positive; default 1.
        encoder: from observations to features; default all of the space.
        actions: from outputs to actions; default the space with its own bounds.
        squash: how outputs come into the unit box: ``tanh``, or cut off at its faces.
        activation: between the network's layers.
    """

    def __init__(
        self,
        network: nn.Sequential,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        observation_mean: Tensor | None = None,
        observation_std: Tensor | None = None,
        encoder: ObservationEncoder | None = None,
        actions: ActionEncoder | None = None,
        squash: Squash = "tanh",
        activation: Activation = "relu",
    ) -> None:
        self.network = network.float().eval()
        self.observation_space = observation_space
        self.action_space = action_space
        self.encoder = encoder or ObservationEncoder(chosen_leaves(observation_space, (), "the policy"))
        self.actions = actions or action_encoder(action_space, ([], []), (), (), "the policy")
        size = self.encoder.size
        self.observation_mean = torch.zeros(size) if observation_mean is None else observation_mean.float()
        self.observation_std = torch.ones(size) if observation_std is None else observation_std.float()
        self.squash: Squash = squash
        self.activation: Activation = activation

    def __call__(self, observations: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Actions ``(n, *action shape)`` for n observations, each the only one that was seen."""
        return self.act([[observation] for observation in observations])

    def act(self, histories: Sequence[Sequence[Any]]) -> np.ndarray:
        """Actions ``(n, *action shape)`` for n episodes, of each the observations so far, newest last.

        Only policies that look at several frames read more than the newest.
        """
        return self.from_features(self.encoder.encode(histories))

    def from_features(self, features: Tensor) -> np.ndarray:
        """Actions ``(n, *action shape)`` for features ``(n, size)``."""
        with torch.no_grad():
            outputs = self.network((features - self.observation_mean) / self.observation_std)
        if isinstance(self.actions, ActionBranches):
            return self.actions.from_indices(branch_values(outputs, self.actions.counts).argmax(-1).numpy())
        means = outputs[:, : self.actions.size].numpy()
        return self.actions.from_unit(np.tanh(means) if self.squash == "tanh" else np.clip(means, -1, 1))

    def save(self, path: Path, about: dict[str, Any] | None = None) -> None:
        """Write weights, normalisation, spaces and ``about`` (JSON values) to one safetensors file."""
        tensors = {f"network.{name}": value.contiguous() for name, value in self.network.state_dict().items()}
        tensors |= {"observation_mean": self.observation_mean, "observation_std": self.observation_std}
        box = self.actions if isinstance(self.actions, ActionBox) else None
        header = {
            "format": FORMAT,
            "observation_space": serialize_space(self.observation_space),
            "action_space": serialize_space(self.action_space),
            "observation_keys": [leaf.name for leaf in self.encoder.leaves],
            "frame_stack": self.encoder.frame_stack,
            "action_low": box.low.reshape(-1).tolist() if box else [],
            "action_high": box.high.reshape(-1).tolist() if box else [],
            "squash": self.squash,
            "activation": self.activation,
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
            observation_space: Any = deserialize_space(header["observation_space"])
            action_space: Any = deserialize_space(header["action_space"])
            leaves = chosen_leaves(observation_space, header["observation_keys"], str(path))
            encoder = ObservationEncoder(leaves, int(header["frame_stack"]))
            bounds = header["action_low"], header["action_high"]
            prefix = "network."
            weights = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            return cls(
                network_of(weights, encoder, header["activation"]),
                observation_space,
                action_space,
                tensors["observation_mean"],
                tensors["observation_std"],
                encoder,
                action_encoder(action_space, ([], []), *bounds, str(path)),
                header["squash"],
                header["activation"],
            )
        except (OSError, LookupError, ValueError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
            raise UserError(f"cannot read the policy {path}: {type(error).__name__}: {error}") from error


def network_of(
    weights: Mapping[str, Tensor], encoder: ObservationEncoder, activation: Activation = "relu"
) -> nn.Sequential:
    """The network that these weights (``0.weight``, ``0.bias``, ``2.weight``, …, ``torso.…``) belong to."""
    numbered = [name for name in weights if re.fullmatch(r"\d+\.weight", name)]
    in_order = [weights[name] for name in sorted(numbered, key=lambda name: int(name.split(".")[0]))]
    matrices = [weight for weight in in_order if weight.dim() > 1]
    normed = len(in_order) > len(matrices)
    sizes = (matrices[0].shape[-1], *(matrix.shape[-2] for matrix in matrices))
    members = len(matrices[0]) if matrices[0].dim() == 3 else 1
    with torch.device("meta"):  # No numbers are drawn for weights that are there already.
        layers = mlp(*sizes, activation=activation, layer_norm=normed, members=members)
    if encoder.has_images:
        layers = behind_images(ImageTorso(encoder), layers)
    layers.load_state_dict(dict(weights), assign=True)
    return layers
