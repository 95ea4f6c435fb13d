"""Training the experts that the built-in datasets are recorded from (stable-baselines3, the ``[experts]`` extra).

This is ordinary reinforcement learning and the only place of the project where a reward trains anything. It runs once,
at home; users get the weights. Every ``evaluate_every`` steps the policy of that moment is saved and scored over whole
episodes, so that the tiers of a dataset card can be chosen from one and the same training.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from iq_offline.data.catalog import ExpertTraining
from iq_offline.environments.rollout import Act, acting, rollout
from iq_offline.errors import UserError
from iq_offline.files import write_atomically
from iq_offline.learning.networks import mlp
from iq_offline.learning.policy import Policy

EVALUATION_EPISODES = 20
EVALUATION_SEED = 1_000_000
DISTURBANCE = 0.2
"""Standard deviation of the noise on the actions in the second evaluation, as a fraction of half the action box."""
EVALUATIONS = "evaluations.ndjson"


def train_expert(
    environment_id: str,
    training: ExpertTraining,
    folder: Path,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Train to ``training.steps`` environment steps in ``folder``, or go on from the state that is there.

    Writes ``policies/step-XXXXXXX.safetensors`` and a row of ``evaluations.ndjson`` at every evaluation, and the
    algorithm's whole state (replay included) in ``state/`` every ``training.save_every`` steps. A resumed training
    begins a new episode, so it is not bit for bit the uninterrupted one.

    Returns:
        The evaluation rows: steps, what :func:`score` measures, seconds.

    Raises:
        UserError: stable-baselines3 is missing, or the folder holds a training with other settings.
    """
    try:
        import stable_baselines3
        from stable_baselines3.common.callbacks import BaseCallback
        from stable_baselines3.common.noise import NormalActionNoise
    except ImportError as error:
        raise UserError("training an expert needs stable-baselines3: pip install 'iq-offline[experts]'") from error
    torch.set_num_threads(1)
    settings = json.dumps({"environment": environment_id, **asdict(replace(training, versions={}))}, indent=2)
    settings_file = folder / "training.json"
    if settings_file.exists() and settings_file.read_text() != settings:
        raise UserError(f"{folder} holds a training with other settings: choose another --output")
    write_atomically(settings_file, settings)

    algorithm = getattr(stable_baselines3, training.algorithm)
    environment = gymnasium.make(environment_id)
    state = folder / "state"
    if state.is_dir():
        model = algorithm.load(state / "model.zip", env=environment, force_reset=True)
        model.load_replay_buffer(state / "replay.pkl")
    else:
        policy = {"net_arch": list(training.hidden_sizes)}
        arguments = dict(training.arguments)
        model = algorithm("MlpPolicy", environment, seed=training.seed, policy_kwargs=policy, **arguments)

    def explore(steps: int) -> None:
        deviations = [deviation for start, deviation in training.action_noise if start <= steps]
        if deviations:
            size = environment.action_space.shape[0]  # type: ignore[index]
            model.action_noise = NormalActionNoise(np.zeros(size), np.full(size, deviations[-1]))

    explore(model.num_timesteps)

    rows = _rows(folder, model.num_timesteps)
    started = time.monotonic() - (rows[-1]["seconds"] if rows else 0.0)
    judges = [gymnasium.make(environment_id) for _ in range(EVALUATION_EPISODES)]

    class Watch(BaseCallback):
        """Evaluate and save at the fixed intervals."""

        def _on_step(self) -> bool:
            steps = self.num_timesteps
            if any(steps == start for start, _ in training.action_noise):
                explore(steps)
            if steps % training.evaluate_every == 0:
                policy = _policy_of(self.model, environment)
                policy.save(policy_file(folder, steps), {"environment": environment_id, "steps": steps})
                row = {"steps": steps, **score(policy, judges), "seconds": round(time.monotonic() - started, 1)}
                rows.append(row)
                write_atomically(folder / EVALUATIONS, "".join(json.dumps(row) + "\n" for row in rows))
                report(row)
            if steps % training.save_every == 0:
                _save_state(self.model, state)
            return True

    remaining = training.steps - model.num_timesteps
    if remaining > 0:
        model.learn(remaining, callback=Watch(), reset_num_timesteps=False)
    return rows


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


def _policy_of(model: Any, environment: gymnasium.Env) -> Policy:
    """The deterministic actor of a stable-baselines3 TD3 or SAC model, as a policy of ours."""
    actor = model.policy.actor
    head = actor.mu
    trunk = getattr(actor, "latent_pi", None)
    layers = [layer for part in (trunk, head) if part is not None for layer in part.modules()]
    linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    network = mlp(linear[0].in_features, *(layer.out_features for layer in linear))
    ours = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    for target, source in zip(ours, linear, strict=True):
        target.load_state_dict(source.state_dict())
    return Policy(network, environment.observation_space, environment.action_space)  # type: ignore[arg-type]


def _save_state(model: Any, state: Path) -> None:
    temporary = state.with_suffix(".new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    model.save(temporary / "model.zip")
    model.save_replay_buffer(temporary / "replay.pkl")
    shutil.rmtree(state, ignore_errors=True)
    temporary.rename(state)
