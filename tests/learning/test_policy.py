"""Policies on the dataset's own observations and actions, and their files."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from gymnasium.spaces import Box

from iq_offline.errors import UserError
from iq_offline.learning.networks import mlp
from iq_offline.learning.policy import Policy
from iq_offline.training import checkpoint

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
