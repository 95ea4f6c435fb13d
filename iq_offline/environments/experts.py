"""Training the experts that the built-in datasets are recorded from.

This is ordinary reinforcement learning (stable-baselines3 and sb3-contrib, the ``[experts]`` extra), and the only place
of the project where a reward trains anything. It runs once, at home; users get the weights. Every ``evaluate_every``
steps the policy of that moment is saved and scored over whole episodes, so that the tiers of a dataset card can be
chosen from one and the same training.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from torch import nn

from iq_offline.config import Activation
from iq_offline.data.catalog import ExpertTraining
from iq_offline.environments.expert_state import load_state, state_of
from iq_offline.environments.make import close, make
from iq_offline.environments.rollout import Act, acting, rollout
from iq_offline.errors import UserError
from iq_offline.files import write_atomically
from iq_offline.learning.networks import mlp
from iq_offline.learning.policy import Policy
from iq_offline.training import checkpoint

EVALUATION_EPISODES = 20
EVALUATION_SEED = 1_000_000
DISTURBANCE = 0.2
"""Standard deviation of the noise on the actions in the second evaluation, as a fraction of half the action box."""
EVALUATIONS = "evaluations.ndjson"
STATE = "state.safetensors"


def train_expert(
    environment_id: str,
    training: ExpertTraining,
    folder: Path,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Train to ``training.steps`` environment steps in ``folder``, or go on from the state that is there.

    Writes ``policies/step-XXXXXXX.safetensors`` and a row of ``evaluations.ndjson`` at every evaluation, and the
    state of PPO and TRPO in ``state.safetensors`` every ``training.save_every`` steps. A resumed training begins new
    episodes, so it is not bit for bit the uninterrupted one. The others, whose replay is large, begin again.

    Returns:
        The evaluation rows: steps, what :func:`score` measures, seconds.

    Raises:
        UserError: stable-baselines3 is missing, or the folder holds a training with other settings.
    """
    torch.set_num_threads(1)
    settings = json.dumps({"environment": environment_id, **asdict(replace(training, versions={}))}, indent=2)
    settings_file = folder / "training.json"
    if settings_file.exists() and settings_file.read_text() != settings:
        raise UserError(f"{folder} holds a training with other settings: choose another --output")
    algorithm = algorithm_of(training.algorithm)
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

    if training.later_arguments and not issubclass(algorithm, OnPolicyAlgorithm):
        raise UserError(f"later_arguments need PPO or TRPO: the state of {training.algorithm} is not kept")
    write_atomically(settings_file, settings)
    state = folder / STATE
    tensors, steps = _saved(state)
    rows = _rows(folder, steps)
    started = time.monotonic() - (rows[-1]["seconds"] if rows else 0.0)
    judges = make(environment_id, EVALUATION_EPISODES)

    def save(model: Any) -> dict[str, torch.Tensor]:
        tensors = state_of(model) if isinstance(model, OnPolicyAlgorithm) else {}
        if tensors:
            checkpoint.save(state, tensors, {"steps": model.num_timesteps})
        return tensors

    class Watch(BaseCallback):
        """Evaluate and save whenever a multiple of the interval is reached or passed."""

        before = steps

        def _on_step(self) -> bool:
            now, before = self.num_timesteps, self.before
            self.before = now
            if any(before < start <= now for start, _ in training.action_noise):
                _disturb(self.model, training, now)
            if now // training.evaluate_every > before // training.evaluate_every:
                policy = policy_of(self.model, judges[0])
                policy.save(policy_file(folder, now), {"environment": environment_id, "steps": now})
                row = {"steps": now, **score(policy, judges), "seconds": round(time.monotonic() - started, 1)}
                rows.append(row)
                write_atomically(folder / EVALUATIONS, "".join(json.dumps(row) + "\n" for row in rows))
                report(row)
            if now // training.save_every > before // training.save_every:
                save(self.model)
            return True

    watch = Watch()
    try:
        while steps < training.steps:
            model = _model(algorithm, environment_id, training, steps, tensors)
            _disturb(model, training, steps)
            until = min([start for start, _ in training.later_arguments if start > steps], default=training.steps)
            model.learn(until - steps, callback=watch, reset_num_timesteps=False)
            tensors, steps = save(model), model.num_timesteps
    finally:
        close(judges)
    return rows


def _saved(state: Path) -> tuple[dict[str, torch.Tensor], int]:
    """The tensors of a saved state and the environment steps behind it; none where there is none."""
    if not state.exists():
        return {}, 0
    tensors, values = checkpoint.load(state)
    return tensors, values["steps"]


def _model(
    algorithm: Any, environment_id: str, training: ExpertTraining, steps: int, tensors: dict[str, torch.Tensor]
) -> Any:
    """The algorithm as it was at that step, with the arguments from there on."""
    arguments = dict(training.arguments)
    for start, others in training.later_arguments:
        arguments |= others if start <= steps else {}
    environment = _environments(environment_id, training)
    policy = {"net_arch": list(training.hidden_sizes)} | arguments.pop("policy_kwargs", {})
    model = algorithm("MlpPolicy", environment, seed=training.seed, policy_kwargs=policy, device="cpu", **arguments)
    if steps:
        model.set_random_seed(training.seed + steps)  # Else it would draw again what it drew at the start.
        model.num_timesteps = steps
        load_state(model, tensors)
    return model


def _disturb(model: Any, training: ExpertTraining, steps: int) -> None:
    """Set the noise on actions that the schedule has for that step."""
    from stable_baselines3 import TD3
    from stable_baselines3.common.noise import NormalActionNoise

    deviation = [0.0, *(deviation for start, deviation in training.action_noise if start <= steps)][-1]
    if isinstance(model, TD3):
        half = _center_and_half(model.action_space)[1]
        model.action_noise = NormalActionNoise(np.zeros_like(half), deviation * half)
    else:
        model.get_env().set_attr("deviation", deviation)


def algorithm_of(name: str) -> Any:
    """The class of that name in stable-baselines3 or in sb3-contrib.

    Raises:
        UserError: a package is missing, or neither has such an algorithm.
    """
    try:
        import sb3_contrib
        import stable_baselines3
    except ImportError as error:
        raise UserError("training an expert needs an extra: pip install '.[experts]' in the checkout") from error
    found = getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name, None)
    if found is None:
        raise UserError(f"neither stable-baselines3 nor sb3-contrib has an algorithm {name!r}")
    return found


class Disturbed(gymnasium.ActionWrapper):
    """Noise on every action on its way to the environment, so that what is learned there does not need perfection."""

    deviation = 0.0
    """Of the noise, as a fraction of half the action box."""

    def action(self, action: np.ndarray) -> np.ndarray:
        """The disturbed action, inside the box."""
        space = self.action_space
        if not self.deviation or not isinstance(space, Box):
            return action
        noise = self.np_random.standard_normal(space.shape) * self.deviation * (space.high - space.low) / 2
        return np.clip(action + noise, space.low, space.high).astype(space.dtype)


def _environments(environment_id: str, training: ExpertTraining) -> Any:
    """The environments of a training side by side, each disturbed, all of it normalised if asked for."""
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    def one() -> gymnasium.Env:
        return Disturbed(Monitor(make(environment_id, 1)[0]))

    side_by_side = DummyVecEnv([one] * training.environments)
    if not training.normalize:
        return side_by_side
    discount = float(training.arguments.get("gamma", 0.99))
    epsilon = training.normalize_epsilon
    # Observations are not clipped: a policy of ours does not clip them either.
    return VecNormalize(side_by_side, gamma=discount, clip_obs=math.inf, epsilon=epsilon)


def policy_file(folder: Path, steps: int) -> Path:
    """Where :func:`train_expert` keeps the policy of that step."""
    return folder / "policies" / f"step-{steps:07d}.safetensors"


def _rows(folder: Path, steps: int) -> list[dict[str, Any]]:
    file = folder / EVALUATIONS
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [row for row in rows if row["steps"] <= steps]


def score(policy: Policy, judges: list[gymnasium.Env]) -> dict[str, float]:
    """Returns over whole episodes, undisturbed, and with noise on every action (``disturbed_…``)."""
    plain, lengths = _episodes(judges, acting(policy, 0.0))
    disturbed, _ = _episodes(judges, acting(policy, DISTURBANCE))
    return {
        "return_mean": round(float(plain.mean()), 2),
        "return_std": round(float(plain.std()), 2),
        "return_min": round(float(plain.min()), 2),
        "length_mean": float(lengths.mean()),
        "disturbed_mean": round(float(disturbed.mean()), 2),
        "disturbed_std": round(float(disturbed.std()), 2),
    }


def _episodes(judges: list[gymnasium.Env], act: Act) -> tuple[np.ndarray, np.ndarray]:
    episodes = list(rollout(judges, act, range(EVALUATION_SEED, EVALUATION_SEED + len(judges))))
    lengths = [len(episode.rewards) for episode in episodes]
    return np.array([episode.total_return for episode in episodes]), np.array(lengths)


def policy_of(model: Any, environment: gymnasium.Env) -> Policy:
    """The deterministic actor of a stable-baselines3 model as a policy of ours.

    TD3 and SAC squash their outputs, DQN has one for each action, PPO and TRPO act without a box: there the box is
    folded into the last layer, and what is outside is clipped.
    """
    policy, space = model.policy, environment.action_space
    mean = std = None
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        mean = torch.as_tensor(normalizer.obs_rms.mean)
        std = torch.as_tensor(np.sqrt(normalizer.obs_rms.var + normalizer.epsilon))
    activation: Activation
    if hasattr(policy, "mlp_extractor"):
        parts, activation = (policy.mlp_extractor.policy_net, policy.action_net), "tanh"
    elif hasattr(policy, "q_net"):
        parts, activation = (policy.q_net.q_net,), "relu"
    else:
        parts, activation = (getattr(policy.actor, "latent_pi", nn.Identity()), policy.actor.mu), "relu"
    layers = [layer for part in parts for layer in part.modules() if isinstance(layer, nn.Linear)]
    network = mlp(layers[0].in_features, *(layer.out_features for layer in layers), activation=activation)
    ours = [layer for layer in network if isinstance(layer, nn.Linear)]
    for target, source in zip(ours, layers, strict=True):
        target.load_state_dict(source.state_dict())
    if activation == "tanh" and isinstance(space, Box):
        center, half = (torch.as_tensor(v, dtype=torch.float32) for v in _center_and_half(space))
        with torch.no_grad():
            ours[-1].weight /= half[:, None]
            ours[-1].bias.sub_(center).div_(half)
    return Policy(
        network,
        environment.observation_space,
        space,
        mean,
        std,
        squash="clip" if activation == "tanh" else "tanh",
        activation=activation,
    )


def _center_and_half(space: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of an action box, flat."""
    return (space.high + space.low).reshape(-1) / 2, (space.high - space.low).reshape(-1) / 2
