"""Policies on the dataset's own observations and actions, and their files."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import safetensors.torch
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from iq_offline.config import Activation
from iq_offline.data.actions import action_encoder
from iq_offline.data.spaces import ObservationEncoder, chosen_leaves
from iq_offline.errors import UserError
from iq_offline.learning.networks import Hidden, mlp, network
from iq_offline.learning.policy import Policy, Squash
from iq_offline.training import checkpoint
from tests.space_helpers import SQUARE

LOW, HIGH = np.array([[-2.0, 0.0], [1.0, -10.0]], np.float32), np.array([[-1.0, 5.0], [1.5, 30.0]], np.float32)
MEAN, STD = torch.tensor([1.0, -50.0, 0.0, 3.0, 2.0, 1000.0]), torch.tensor([0.1, 20.0, 1.0, 4.0, 0.5, 300.0])


@pytest.fixture
def policy() -> Policy:
    """Observations of shape (3, 2), actions of shape (2, 2), and log standard deviations behind the means."""
    torch.manual_seed(4)
    observation_space = Box(-np.inf, np.inf, (3, 2), np.float64)
    return Policy(mlp(6, 8, 7, 8), observation_space, Box(LOW, HIGH, dtype=np.float32), MEAN, STD)


def some_observations(count: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((count, 6)) * 3
    return (noise * STD.numpy() + MEAN.numpy()).reshape(count, 3, 2)


def test_actions_follow_the_formula(policy: Policy):
    observations = some_observations(40)
    weights = {name: value.numpy().astype(np.float64) for name, value in policy.network.state_dict().items()}
    inputs = (observations.reshape(40, 6) - MEAN.numpy()) / STD.numpy()
    hidden = np.maximum(inputs @ weights["0.weight"].T + weights["0.bias"], 0)
    hidden = np.maximum(hidden @ weights["2.weight"].T + weights["2.bias"], 0)
    unit = np.tanh((hidden @ weights["4.weight"].T + weights["4.bias"])[:, :4]).reshape(40, 2, 2)
    actions = policy(observations)
    assert actions.shape == (40, 2, 2)
    assert actions.dtype == np.float32
    np.testing.assert_allclose(actions, LOW + (HIGH - LOW) * (unit + 1) / 2, atol=1e-4)
    assert all(action in policy.action_space for action in actions)


def test_huge_outputs_stay_inside_the_box(policy: Policy):
    with torch.no_grad():
        policy.network[-1].bias[:] = torch.tensor([1e4, -1e4, 1e4, -1e4, 0, 0, 0, 0])  # type: ignore[index]
    (action,) = policy(some_observations(1))
    np.testing.assert_array_equal(action, [[HIGH[0, 0], LOW[0, 1]], [HIGH[1, 0], LOW[1, 1]]])


def test_round_trip_gives_identical_actions_and_spaces(policy: Policy, tmp_path: Path):
    file = tmp_path / "deep" / "policy.safetensors"
    policy.save(file, {"seed": 3})
    again = Policy.load(file)
    np.testing.assert_array_equal(again(some_observations(40)), policy(some_observations(40)))
    assert again.observation_space == policy.observation_space
    assert again.action_space == policy.action_space


def test_the_same_policy_is_saved_as_the_same_bytes(policy: Policy, tmp_path: Path):
    for name, about in (("one", {"seed": 3, "algorithm": "bc"}), ("two", {"algorithm": "bc", "seed": 3})):
        policy.save(tmp_path / name, about)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_a_policy_is_not_normalised_by_leaves_it_alone():
    torch.manual_seed(0)
    spaces = Box(-np.inf, np.inf, (2,), np.float64), Box(-1.0, 1.0, (1,), np.float32)
    network = mlp(2, 1)
    observations = np.array([[0.3, -0.7]])
    expected = np.tanh(network(torch.tensor(observations).float()).detach().numpy())
    np.testing.assert_allclose(Policy(network, *spaces)(observations), expected, atol=1e-6)


@pytest.mark.parametrize("keep", [0, 4, 30, 500, -1])
def test_a_cut_file_is_a_user_error(policy: Policy, tmp_path: Path, keep: int):
    file = tmp_path / "policy.safetensors"
    policy.save(file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"policy\.safetensors"):
        Policy.load(file)


def test_missing_and_foreign_files_are_user_errors(tmp_path: Path):
    with pytest.raises(UserError, match="nothing"):
        Policy.load(tmp_path / "nothing.safetensors")
    with pytest.raises(UserError):
        Policy.load(tmp_path)
    (tmp_path / "text").write_text("not a policy at all, but long enough to look like a header")
    with pytest.raises(UserError, match="text"):
        Policy.load(tmp_path / "text")
    (tmp_path / "plain").write_bytes(safetensors.torch.save({"0.weight": torch.zeros(2, 2)}))
    with pytest.raises(UserError, match="not a policy"):
        Policy.load(tmp_path / "plain")
    checkpoint.save(tmp_path / "checkpoint", {"0.weight": torch.zeros(2, 2)}, {"step": 1})
    with pytest.raises(UserError, match="not a policy"):
        Policy.load(tmp_path / "checkpoint")


def test_a_damaged_header_is_a_user_error(policy: Policy, tmp_path: Path):
    """Its format is right, but something else in it was lost or changed."""
    file = tmp_path / "policy.safetensors"
    policy.save(file)
    whole = file.read_bytes()
    changes = (
        (b"action_space", b"action_spice"),
        (b"observation_mean", b"observation_meen"),
        (b"4.weight", b"9.weight"),
    )
    for found, put in changes:
        assert found in whole
        file.write_bytes(whole.replace(found, put))
        with pytest.raises(UserError, match=r"policy\.safetensors"):
            Policy.load(file)


# ---------------------------------------------------------------------------------------------------- other spaces


ROBOT = Dict(
    {
        "camera": Box(0, 255, (9, 8, 3), np.uint8),
        "front": Box(0, 255, (2, 36, 40), np.uint8),
        "mission": Text(5),
        "pair": Tuple([Discrete(3, start=-1), MultiBinary(2)]),
        "state": Box(-np.inf, np.inf, (2, 2), np.float64),
    }
)
KEYS = ["state", "front", "pair", "camera"]


def robot_policy(action_space: gymnasium.Space, frame_stack: int = 2) -> Policy:
    torch.manual_seed(0)
    encoder = ObservationEncoder(chosen_leaves(ROBOT, KEYS, "the test"), frame_stack)
    actions = action_encoder(action_space, ([-1.0, -2.0], [1.0, 2.0]), (), (), "the test")
    outputs = 2 * actions.size if isinstance(action_space, Box) else sum(actions.counts)  # type: ignore[union-attr]
    layers = network(encoder, Hidden((32,)), outputs)
    with torch.no_grad():
        layers[-1].bias.zero_()  # type: ignore[operator, union-attr]  # So that observations tell.
        layers[-1].weight.normal_()  # type: ignore[operator, union-attr]
    std = torch.rand(encoder.size) + 5
    return Policy(layers, ROBOT, action_space, torch.randn(encoder.size), std, encoder, actions)


def robot_histories(count: int) -> list[list[Any]]:
    """Episodes of one, two, … observations."""
    ROBOT.seed(3)
    return [[ROBOT.sample() for _ in range(1 + index % 4)] for index in range(count)]


ACTION_SPACES = [
    Discrete(5, start=3),
    SQUARE,
    MultiBinary(3),
    Box(np.array([-1, -np.inf], np.float32), np.array([np.inf, 0.5], np.float32)),
]


@pytest.mark.parametrize("space", ACTION_SPACES, ids=lambda space: type(space).__name__)
def test_round_trip_of_parts_images_and_any_actions(space: gymnasium.Space, tmp_path: Path):
    policy = robot_policy(space)
    histories = robot_histories(12)
    actions = policy.act(histories)
    assert len({action.tobytes() for action in actions}) > 1
    assert all(action in space for action in actions)
    assert actions.shape == (12, *space.shape)  # type: ignore[misc]
    file = tmp_path / "policy.safetensors"
    policy.save(file)
    again = Policy.load(file)
    np.testing.assert_array_equal(again.act(histories), actions)
    features = policy.encoder.encode(histories)
    np.testing.assert_array_equal(again.from_features(features), policy.from_features(features))
    assert (again.observation_space, again.action_space) == (policy.observation_space, policy.action_space)
    assert again.encoder == policy.encoder
    assert again.actions == policy.actions
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def test_only_image_policies_look_back():
    policy = robot_policy(Discrete(5))
    (history,) = [robot_histories(4)[3]]
    assert len(history) == 4
    features = policy.encoder.encode([history])
    torch.testing.assert_close(policy.encoder.encode([history[2:]]), features, rtol=0, atol=0)
    assert not torch.equal(policy.encoder.encode([history[3:]]), features)
    numbers = Policy(mlp(4, 2), Box(-1, 1, (4,)), Box(-1, 1, (1,)))
    states = [[np.full(4, t / 9) for t in range(5)]]
    np.testing.assert_array_equal(numbers.act(states), numbers(np.array(states[0][-1:])))


@pytest.mark.parametrize("space", ACTION_SPACES[:3], ids=lambda space: type(space).__name__)
def test_of_finitely_many_actions_the_largest_output_wins_in_each_branch(space: gymnasium.Space):
    policy = robot_policy(space)
    histories = robot_histories(12)
    inputs = (policy.encoder.encode(histories) - policy.observation_mean) / policy.observation_std
    outputs = policy.network(inputs).detach().numpy()
    counts = {Discrete: (5,), MultiDiscrete: (2, 3, 4, 1), MultiBinary: (2, 2, 2)}[type(space)]  # type: ignore[index]
    starts = {Discrete: [3], MultiDiscrete: [0, -1, 2, 5], MultiBinary: [0, 0, 0]}[type(space)]  # type: ignore[index]
    best = np.stack([part.argmax(1) for part in np.split(outputs, np.cumsum(counts)[:-1], 1)], 1) + starts
    np.testing.assert_array_equal(policy.act(histories).reshape(12, -1), best)


NONLINEAR = {
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "tanh": np.tanh,
}


def normed(values: np.ndarray) -> np.ndarray:
    """Of mean 0 and deviation 1 in each row."""
    return (values - values.mean(-1, keepdims=True)) / np.sqrt(values.var(-1, keepdims=True) + 1e-5)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("activation", ["relu", "elu", "tanh"])
@pytest.mark.parametrize("squash", ["tanh", "clip"])
def test_what_is_between_the_layers_survives(squash: Squash, activation: Activation, layer_norm: bool, tmp_path: Path):
    """Also what it means, by numpy."""
    torch.manual_seed(1)
    network = mlp(6, 8, 7, 4, activation=activation, layer_norm=layer_norm)
    spaces = Box(-np.inf, np.inf, (3, 2), np.float64), Box(LOW, HIGH, dtype=np.float32)
    for module in network.modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.uniform_(module.bias, -1, 1)
    policy = Policy(network, *spaces, MEAN, STD, squash=squash, activation=activation)
    observations = 9 * some_observations(40)
    weights = {name: value.numpy().astype(np.float64) for name, value in policy.network.state_dict().items()}
    hidden = (observations.reshape(40, 6) - MEAN.numpy()) / STD.numpy()
    first, second, last = (0, 3, 6) if layer_norm else (0, 2, 4)
    for layer in (first, second):
        hidden = hidden @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
        if layer_norm:
            hidden = normed(hidden) * weights[f"{layer + 1}.weight"] + weights[f"{layer + 1}.bias"]
        hidden = NONLINEAR[activation](hidden)
    raw = hidden @ weights[f"{last}.weight"].T + weights[f"{last}.bias"]
    unit = (np.tanh(raw) if squash == "tanh" else np.clip(raw, -1, 1)).reshape(40, 2, 2)
    if activation != "tanh" and not layer_norm:
        assert (np.abs(raw) > 1).any(), "nothing here is cut off"
    actions = policy(observations)
    np.testing.assert_allclose(actions, LOW + (HIGH - LOW) * (unit + 1) / 2, atol=1e-3)
    policy.save(tmp_path / "policy")
    again = Policy.load(tmp_path / "policy")
    assert (again.squash, again.activation) == (squash, activation)
    np.testing.assert_array_equal(again(observations), actions)


def test_bounds_given_in_place_of_the_spaces_survive(tmp_path: Path):
    space = Box(-1, 1, (2,))
    actions = action_encoder(space, ([], []), (-0.5, -0.1), (0.25,), "the test")
    torch.manual_seed(0)
    policy = Policy(mlp(3, 2), Box(-1, 1, (3,)), space, actions=actions)
    policy.save(tmp_path / "policy")
    again = Policy.load(tmp_path / "policy")
    assert again.actions == actions
    observations = 99 * np.random.default_rng(0).standard_normal((20, 3))
    np.testing.assert_array_equal(again(observations), policy(observations))
    assert again(observations).min(0).tolist() == pytest.approx([-0.5, -0.1], abs=1e-3)
    assert again(observations).max(0).tolist() == pytest.approx([0.25, 0.25], abs=1e-3)
