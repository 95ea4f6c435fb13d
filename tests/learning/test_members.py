"""Several networks that act together: drawn and regressed one by one, acting by the mean of their actions."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from tensordict import TensorDict
from torch import Tensor, nn

from iq_offline.config import BCConfig, IQLearnConfig, ValueDICEConfig
from iq_offline.config.iq_learn import decided
from iq_offline.learning.agents import call, call_members, tensors, together
from iq_offline.learning.agents.bc import BC
from iq_offline.learning.agents.iq_learn_continuous import ContinuousIQLearn
from iq_offline.learning.agents.valuedice import ContinuousValueDICE
from iq_offline.learning.dice import off_orthogonal
from iq_offline.learning.networks import Hidden, Members, gaussian, mlp
from iq_offline.learning.policy import Policy
from tests.learning.test_agents import ENCODER, MEAN, STD, UNIT_BOX, draw_batch
from tests.training.program import configuration, run_training, train_together, weights, write_datasets

MEMBERS, SIZES = 3, (4, 7, 5, 6)


def drawn(layer_norm: bool = False) -> tuple[nn.Sequential, list[nn.Sequential]]:
    """Networks that act together, and the same ones apart."""
    torch.manual_seed(0)
    whole = mlp(*SIZES, activation="elu", layer_norm=layer_norm, members=MEMBERS).double()
    apart = []
    for member in range(MEMBERS):
        one = mlp(*SIZES, activation="elu", layer_norm=layer_norm).double()
        weights = {
            name: value[member] if isinstance(whole[int(name.split(".")[0])], Members) else value
            for name, value in whole.state_dict().items()
        }
        one.load_state_dict(weights)
        apart.append(one)
    return whole, apart


def parameters_of(network: nn.Sequential) -> TensorDict:
    return TensorDict({name: value.detach() for name, value in network.named_parameters()})


@pytest.mark.parametrize("layer_norm", [False, True])
def test_they_act_by_the_mean_of_their_actions(layer_norm: bool):
    whole, apart = drawn(layer_norm)
    states = 3 * torch.randn(9, 4, dtype=torch.float64)
    each = torch.stack([one(states) for one in apart])
    parameters = parameters_of(whole)
    torch.testing.assert_close(call_members(whole, parameters, states), each)
    mean, std = gaussian(call(whole, parameters, states))
    torch.testing.assert_close(torch.tanh(mean), torch.tanh(each[..., :3]).mean(0))
    torch.testing.assert_close(std, gaussian(torch.cat([mean, each[..., 3:].mean(0)], -1))[1])
    torch.testing.assert_close(together(whole, each), whole(states))
    torch.testing.assert_close(whole(states), call(whole, parameters, states))


def test_one_network_is_its_own_mean():
    torch.manual_seed(0)
    network, states = mlp(*SIZES), torch.randn(9, 4)
    each = call_members(network, parameters_of(network), states)
    assert each.shape == (1, 9, 6)
    assert torch.equal(together(network, each), network(states))


def test_they_are_drawn_as_torch_draws_its_layers():
    """Uniformly within one over the root of the inputs, and each another one."""
    torch.manual_seed(0)
    layer = Members(50, 16, 8)
    bound = 16**-0.5
    for values in (layer.weight, layer.bias):
        assert values.abs().max() <= bound
        assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert values.flatten(1).unique(dim=0).shape[0] == 50


def test_where_all_members_are_at_a_face_of_the_box_nothing_overflows():
    network = mlp(2, 4, members=2)
    with torch.no_grad():
        network[0].weight.zero_()  # type: ignore[union-attr]
        network[0].bias.fill_(60.0)  # type: ignore[union-attr]
    outputs = network(torch.zeros(1, 2))
    assert outputs.isfinite().all()
    assert torch.tanh(outputs[0, 0]).item() == pytest.approx(1, abs=2e-6)
    (slope,) = torch.autograd.grad(outputs.sum(), network[0].weight)  # type: ignore[arg-type]
    assert slope.isfinite().all()


def gradients(loss: Tensor, parameters: TensorDict) -> dict[str, Tensor]:
    weights = tensors(parameters["actor"])
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))


def agents(members: int) -> list[Any]:
    hidden = Hidden((7, 5), "elu", actors=members)
    clones = [BC(BCConfig(loss), ENCODER, UNIT_BOX, hidden) for loss in ("squared_error", "robust", "likelihood")]
    config = decided(IQLearnConfig(behavior_anchor=1e9, gradient_penalty=0.0, adam_beta1=0.9), mixed=False)
    return [*clones, ContinuousIQLearn(config, ENCODER, UNIT_BOX, hidden)]


@pytest.mark.parametrize("which", range(4), ids=["squared_error", "robust", "likelihood", "anchor"])
def test_each_regresses_by_itself(which: int):
    """Its gradient is what it would have alone, over the number of members; so Adam moves it as it would alone."""
    torch.manual_seed(1)
    batch, noise = draw_batch(False)
    several, one = agents(MEMBERS)[which], agents(1)[which]
    parameters = several.initial_parameters(torch.from_numpy(MEAN), torch.from_numpy(STD)).double()

    def of(agent: Any, values: TensorDict) -> dict[str, Tensor]:
        for leaf in tensors(values["actor"]).values():
            leaf.requires_grad_()
        return gradients(agent.phases[-1].loss(values, batch, noise)[0], values)

    found = of(several, parameters)
    for member in range(MEMBERS):
        alone = parameters.detach().clone()
        alone["actor"] = TensorDict(
            {name: value[member].clone() for name, value in parameters["actor"].detach().items()}
        )
        for name, value in of(one, alone).items():
            largest = float(value.abs().max())  # Beside the anchor's the gradient of Q and of the entropy is nothing.
            torch.testing.assert_close(found[name][member] * MEMBERS, value, rtol=1e-6, atol=max(1e-9, 1e-8 * largest))


def test_a_policy_of_several_is_saved_and_read(tmp_path: Any):
    network = mlp(4, 8, 6, activation="elu", members=MEMBERS)
    space, actions = Box(-np.inf, np.inf, (4,)), Box(-2.0, 2.0, (3,))
    policy = Policy(network, space, actions, activation="elu")
    policy.save(tmp_path / "policy.safetensors")
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    read = Policy.load(tmp_path / "policy.safetensors")
    np.testing.assert_array_equal(read(observations), policy(observations))
    outputs = call_members(network, parameters_of(network), torch.from_numpy(observations))
    expected = 2 * torch.tanh(outputs[..., :3]).mean(0)
    np.testing.assert_allclose(read(observations), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("algorithm", ["bc", "iq_learn"])
def test_runs_of_several_train_together_as_alone(algorithm: str, own_folders: None, tmp_path: Any):
    """As one program, too; the layers normalised, and the first ones shrinking."""
    write_datasets()
    options: dict[str, Any] = {"actors": 3, "layer_norm": "all", "input_decay": 0.5, "dtype": "float64"}
    configs = [configuration(algorithm, seed=seed, **options) for seed in (0, 1)]
    for config in configs:
        run_training(config, tmp_path / f"alone-{config.seed}")
    folders = [tmp_path / f"together-{config.seed}" for config in configs]
    assert train_together(configs, folders) == [None, None]
    for config, folder in zip(configs, folders, strict=True):
        assert weights(folder / "policy.safetensors")["network.0.weight"].shape == (3, 16, 4)
        alone = weights(tmp_path / f"alone-{config.seed}" / "policy.safetensors")
        for name, value in weights(folder / "policy.safetensors").items():
            torch.testing.assert_close(value, alone[name], rtol=1e-5, atol=1e-6, msg=name)


def test_products_of_units_are_those_of_each_member():
    weights = torch.randn(MEMBERS, 5, 4)
    torch.testing.assert_close(off_orthogonal(weights), torch.stack([*map(off_orthogonal, weights)]).mean())


def test_the_orthogonal_penalty_is_as_heavy_for_several_as_for_one():
    """The mean over networks, of their weights alone: their biases beside one another are a matrix as well."""
    config = ValueDICEConfig(orthogonal_penalty=0.5)
    agent = ContinuousValueDICE(config, ENCODER, UNIT_BOX, Hidden((7, 5), actors=MEMBERS))
    parameters = agent.initial_parameters(torch.from_numpy(MEAN), torch.from_numpy(STD)).double()
    batch, noise = draw_batch(False)
    expected = torch.stack(
        [off_orthogonal(value) for name, value in tensors(parameters["actor"]).items() if name.endswith("weight")]
    ).sum()
    parameters["coefficients", "orthogonal_penalty"] = torch.tensor(0.0).double()
    without = agent.actor_loss(parameters, batch, noise)[0]
    parameters["coefficients", "orthogonal_penalty"] = torch.tensor(0.5).double()
    torch.testing.assert_close(agent.actor_loss(parameters, batch, noise)[0] - without, 0.5 * expected)
