"""The state of an expert's training as tensors: what PPO and TRPO need to go on, without pickle."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from iq_offline.training.training import under

STATISTICS = ("obs_rms", "ret_rms")
NUMBERS = ("mean", "var", "count")


def state_of(model: Any) -> dict[str, Tensor]:
    """Weights, the optimiser's moments and the running statistics of a stable-baselines3 model, by name."""
    tensors = {f"policy/{name}": value for name, value in model.policy.state_dict().items()}
    for index, moments in model.policy.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in moments.items()}
    for name, statistics in _statistics(model).items():
        for number in NUMBERS:
            tensors[f"{name}/{number}"] = torch.as_tensor(np.asarray(getattr(statistics, number), np.float64))
    return tensors


def load_state(model: Any, tensors: dict[str, Tensor]) -> None:
    """Bring a fresh model to a state that :func:`state_of` gave."""
    model.policy.load_state_dict(under("policy/", tensors))
    optimizer = model.policy.optimizer
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in under("optimizer/", tensors).items():
        index, moment = name.split("/")
        moments.setdefault(int(index), {})[moment] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    for name, statistics in _statistics(model).items():
        numbers = under(f"{name}/", tensors)
        statistics.mean, statistics.var = (numbers[number].numpy().copy() for number in ("mean", "var"))
        statistics.count = float(numbers["count"])


def _statistics(model: Any) -> dict[str, Any]:
    normalizer = model.get_vec_normalize_env()
    return {} if normalizer is None else {name: getattr(normalizer, name) for name in STATISTICS}
