"""The networks: plain multilayer perceptrons, convolutions in front where there are images, and what actors speak in.

Continuous actions here live in the unit box [-1, 1]: the dataset's box is mapped to it by the agents.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iq_offline.config import Activation, Normed
from iq_offline.data.spaces import ObservationEncoder, channels_last, image_shape

ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "elu": nn.ELU, "tanh": nn.Tanh}

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0

Batch = Float[Tensor, "*members batch size"]


@dataclass(frozen=True)
class Hidden:
    """The hidden layers of all networks of an agent."""

    sizes: tuple[int, ...]
    activation: Activation = "relu"
    """In the network that acts. All others have ReLU, whose second derivative is nothing to compute."""
    layer_norm: Normed = "none"
    """Where layers are normalised (arXiv:1607.06450), before the activation: everywhere, or where nothing acts."""
    actors: int = 1
    """With actions in a box: so many networks act together, by the mean of their actions."""


def mlp(*sizes: int, activation: Activation = "relu", layer_norm: bool = False, members: int = 1) -> nn.Sequential:
    """Linear layers from ``sizes[0]`` inputs to ``sizes[-1]`` outputs; between them LayerNorm if asked, activations.

    ``members``: so many of these networks side by side, drawn independently, which act together (:class:`MeanAction`).
    """
    linear = nn.Linear if members == 1 else partial(Members, members)
    *hidden, last = pairwise(sizes)
    layers: list[nn.Module] = []
    for inputs, outputs in hidden:
        layers += [linear(inputs, outputs), *([nn.LayerNorm(outputs)] * layer_norm), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, linear(*last), *([MeanAction()] * (members > 1)))


class Members(nn.Module):
    """A linear layer of each of several networks side by side, drawn as torch draws them."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(members, outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw them anew."""
        bound = self.weight.shape[-1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, inputs: Tensor) -> Tensor:
        """``(batch, inputs)`` for all, or ``(members, batch, inputs)``, to ``(members, batch, outputs)``."""
        return members_linear(inputs, self.weight, self.bias)


def members_linear(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What :class:`Members` computes, with parameters from outside.

    In one operator: a sum on top of the products would read and write all of them once more, which takes as long.
    """
    return torch.baddbmm(bias.unsqueeze(-2), inputs.expand(len(weight), -1, -1), weight.mT)


class MeanAction(nn.Module):
    """Of several networks' outputs those of one squashed Gaussian, whose mode is the mean of their actions.

    Not of what these are before the squashing, where one that is far off decides.
    """

    def forward(self, outputs: Tensor) -> Tensor:
        """``(members, batch, twice)`` to ``(batch, twice)``, as :func:`gaussian` reads them."""
        before, raw = outputs.chunk(2, dim=-1)
        action = torch.tanh(before).mean(-3).clamp(-1 + 1e-6, 1 - 1e-6)
        return torch.cat([torch.atanh(action), raw.mean(-3)], -1)


def network(
    encoder: ObservationEncoder, hidden: Hidden, outputs: int, extra: int = 0, acts: bool = False, members: int = 1
) -> nn.Sequential:
    """A perceptron on the features of observations and ``extra`` more inputs, behind convolutions if it sees images.

    ``acts``: whether it is the network that acts; ``members``: as for :func:`mlp`.
    """
    normed = hidden.layer_norm == "all" or (hidden.layer_norm == "critics" and not acts)
    activation = hidden.activation if acts else "relu"
    torso = ImageTorso(encoder) if encoder.has_images else None
    inputs = (torso.size if torso else encoder.size) + extra
    layers = mlp(inputs, *hidden.sizes, outputs, activation=activation, layer_norm=normed, members=members)
    return behind_images(torso, layers) if torso else layers


def behind_images(torso: "ImageTorso", layers: nn.Sequential) -> nn.Sequential:
    """The layers, which keep their names, behind convolutions named ``torso``."""
    return nn.Sequential(OrderedDict([("torso", torso), *layers.named_children()]))


class ImageTorso(nn.Module):
    """Each image through convolutions of its own; all other features, and what follows them, pass by.

    Large images (36 pixels and more) meet the three layers of Mnih et al. (Nature, 2015), small ones two of stride two.
    """

    def __init__(self, encoder: ObservationEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.images = nn.ModuleDict()
        self.size = 0
        for index, (leaf, width) in enumerate(zip(encoder.leaves, encoder.widths, strict=True)):
            if not leaf.is_image:
                self.size += width
                continue
            height, across, channels = image_shape(leaf.shape)
            inputs = channels * encoder.frame_stack
            if min(height, across) >= 36:
                layers = [nn.Conv2d(inputs, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU()]
                layers += [nn.Conv2d(64, 64, 3, 1), nn.ReLU()]
            else:
                layers = [nn.Conv2d(inputs, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU()]
            self.images[str(index)] = nn.Sequential(*layers, nn.Flatten())
            with torch.no_grad():
                self.size += self.images[str(index)](torch.zeros(1, inputs, height, across)).shape[1]

    def forward(self, features: Tensor) -> Tensor:
        """``(batch, features + extra)`` to ``(batch, size + extra)``."""
        parts, start = [], 0
        for index, (leaf, width) in enumerate(zip(self.encoder.leaves, self.encoder.widths, strict=True)):
            part = features[:, start : start + width]
            start += width
            if leaf.is_image:
                height, across, channels = image_shape(leaf.shape)
                stack = self.encoder.frame_stack
                if channels_last(leaf.shape):
                    part = part.reshape(-1, stack, height, across, channels).movedim(-1, 2)
                part = self.images[str(index)](part.reshape(-1, stack * channels, height, across))
            parts.append(part)
        return torch.cat([*parts, features[:, start:]], -1)


def branch_values(
    outputs: Float[Tensor, "batch total"], counts: tuple[int, ...]
) -> Float[Tensor, "batch branches choices"]:
    """A network's outputs as one row of values for each branch of finitely many actions.

    Branches with fewer choices than the widest are filled up with minus infinity, which no softmax gives weight to.
    """
    widest = max(counts)
    branches = [
        nn.functional.pad(part, (0, widest - part.shape[-1]), value=-math.inf) for part in outputs.split(counts, -1)
    ]
    return torch.stack(branches, -2)


def chosen_branches(logits: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Log pi(a|s) of a softmax summed over its branches, and 1 for each row whose likeliest action is another one.

    Args:
        logits: ``(batch, branches, counts)``, from :func:`branch_values`.
        action: indices, ``(batch, branches)``.
    """
    log_probability = torch.log_softmax(logits, -1).gather(-1, action.unsqueeze(-1)).squeeze(-1).sum(-1)
    return log_probability, (logits.argmax(-1) != action).any(-1).to(logits.dtype)


def drawn_branches(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Indices ``(batch, branches)`` drawn from the softmax of each branch; logits from :func:`branch_values`.

    Raises:
        ArithmeticError: the logits are not finite.
    """
    probability = _finite(torch.softmax(logits, -1))
    drawn = torch.multinomial(probability.flatten(0, 1), 1, generator=generator)
    return drawn.reshape(probability.shape[:-1])


def drawn_squashed(outputs: Float[Tensor, "*members batch twice"], generator: torch.Generator) -> Batch:
    """Actions in the unit box drawn from the squashed Gaussian that an actor's outputs describe.

    Raises:
        ArithmeticError: the outputs are not finite.
    """
    mean, std = gaussian(_finite(outputs))
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    return sample_squashed(mean, std, noise)[0]


def _finite(outputs: Tensor) -> Tensor:
    """These, before anything acts by them: who acts has to wait for them anyway."""
    if not outputs.isfinite().all():
        raise ArithmeticError("what the policy gives is not finite any more")
    return outputs


def gaussian(outputs: Float[Tensor, "*members batch twice"]) -> tuple[Batch, Batch]:
    """Mean and standard deviation, before the squashing, from an actor's outputs; log std in [-5, 2]."""
    mean, raw = outputs.chunk(2, dim=-1)
    log_std = LOG_STD_MIN + (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(raw) + 1) / 2
    return mean, log_std.exp()


def sample_squashed(mean: Batch, std: Batch, noise: Batch) -> tuple[Batch, Float[Tensor, "*members batch"]]:
    """Actions tanh(mean + std noise) in the unit box, and their log-densities.

    Args:
        mean: before the squashing.
        std: before the squashing, positive.
        noise: standard normal.
    """
    before = mean + std * noise
    log_normal = -0.5 * noise.square() - std.log() - 0.5 * math.log(2 * math.pi)
    return torch.tanh(before), (log_normal - _log_tanh_slope(before)).sum(-1)


def squashed_log_probability(
    mean: Batch, std: Batch, action: Float[Tensor, "batch size"]
) -> Float[Tensor, "*members batch"]:
    """Log-density of actions of the unit box; those at its faces are read as 1e-6 inside it."""
    before = torch.atanh(action.clamp(-1 + 1e-6, 1 - 1e-6))
    log_normal = -0.5 * ((before - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)
    return (log_normal - _log_tanh_slope(before)).sum(-1)


def _log_tanh_slope(before: Batch) -> Batch:
    """log(1 - tanh(x)²), written so that it neither overflows nor loses digits for large |x|."""
    return 2 * (math.log(2) - before - nn.functional.softplus(-2 * before))
