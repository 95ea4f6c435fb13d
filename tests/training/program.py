"""From a dataset's name to a saved policy through the pieces of an experiment; also as a program of its own.

``python -m tests.training.program CONFIG.toml FOLDER [CONFIG.toml FOLDER …]`` trains until done or killed; several runs
together.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from iq_offline.config import (
    DataConfig,
    IQLearnConfig,
    RunConfig,
    Suboptimal,
    TrainingConfig,
    from_table,
    read_toml,
    resolved,
    to_toml,
)
from iq_offline.errors import UserError
from iq_offline.experiment import Options, obtain, run_together, train_policies
from iq_offline.learning.policy import Policy
from iq_offline.run import Run
from iq_offline.training.setup import Data, choose_data, prepare
from iq_offline.training.tracking import read_metrics
from tests.helpers import point_mass_dataset

EXPERT, OTHER = "test/expert-v0", "test/other-v0"
INTERRUPTED = 130
QUIET = Options(say=lambda text: None)


def write_datasets() -> None:
    """A little expert data and a little of something worse."""
    point_mass_dataset(EXPERT, 4, 25, seed=0)
    point_mass_dataset(OTHER, 3, 25, seed=1, noise=1.0)


def configuration(algorithm: str = "iq_learn", seed: int = 0, suboptimal: bool = False, **training: Any) -> RunConfig:
    """A small run; keywords override its training options."""
    options: dict[str, Any] = {
        "gradient_steps": 60,
        "batch_size": 16,
        "hidden_sizes": (16, 16),
        "average_decay": 0.95,
        "log_every": 10,
        "checkpoint_every": 20,
        "snapshots": 3,
    }
    return resolved(
        RunConfig(
            algorithm=algorithm,  # type: ignore[arg-type]
            seed=seed,
            data=DataConfig(EXPERT, num_expert_trajectories=2, suboptimal=(Suboptimal(OTHER),) if suboptimal else ()),
            training=TrainingConfig(**options | training),
            iq_learn=IQLearnConfig(choose_every=7),
        )
    )


def with_iq_learn(config: RunConfig, **changes: Any) -> RunConfig:
    """The configuration with other coefficients of IQ-Learn."""
    return dataclasses.replace(config, iq_learn=IQLearnConfig(**dataclasses.asdict(config.iq_learn) | changes))


def run_training(config: RunConfig, folder: Path) -> Policy:
    """Everything between a dataset and a trained policy."""
    torch.set_num_threads(1)
    sources = [obtain(name, QUIET) for name in (config.data.expert, *(part.dataset for part in config.data.suboptimal))]
    return train_policy(config, choose_data(config, sources[0], sources[1:]), folder)


def train_policy(config: RunConfig, data: Data, folder: Path) -> Policy:
    """A policy trained on chosen data."""
    run = Run(config, folder)
    run.data, run.training = data, prepare(config, data)
    train_policies([run], QUIET)
    if isinstance(run.outcome, UserError):
        raise run.outcome
    return run.policy()


def train_together(configs: Sequence[RunConfig], folders: Sequence[Path]) -> list[str | None]:
    """Runs as one population, but for the evaluation; for each why it failed."""
    return [
        str(outcome) if isinstance(outcome, UserError) else None for outcome in run_together(configs, folders, QUIET)
    ]


def write_config(config: RunConfig, file: Path) -> Path:
    """The configuration as the program takes it."""
    file.write_text(to_toml(config))
    return file


def weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    return safetensors.torch.load_file(file)


def rows_without_time(folder: Path) -> list[dict[str, float]]:
    """The run's metrics without those that a clock decides."""
    rows = read_metrics(folder / "metrics.ndjson")
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def assert_same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Names, types and every bit."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype, name
        assert torch.equal(value, other[name]), name


def assert_same_run(one: Path, other: Path) -> None:
    """Policies, snapshots, final state and metrics of two run folders, bit for bit."""
    snapshots = [sorted(file.name for file in (folder / "snapshots").iterdir()) for folder in (one, other)]
    assert snapshots[0] == snapshots[1]
    files = ["policy.safetensors", "checkpoint/latest.safetensors", *(f"snapshots/{name}" for name in snapshots[0])]
    for name in files:
        assert_same_tensors(weights(one / name), weights(other / name))
    assert rows_without_time(one) == rows_without_time(other)


def main() -> None:
    """Train; exits with INTERRUPTED after a polite signal."""
    from iq_offline.training.offline import InterruptedTrainingError

    configs = [from_table(RunConfig, read_toml(Path(file)), file) for file in sys.argv[1::2]]
    folders = [*map(Path, sys.argv[2::2])]
    try:
        if len(configs) == 1:
            run_training(configs[0], folders[0])
        else:
            train_together(configs, folders)
    except InterruptedTrainingError as interruption:
        print(interruption)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
