"""Training on fixed data. Nothing here, or below, builds an environment, reads a reward, or looks at a return."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.config import TrainingConfig
from iq_offline.data.prefetch import Prefetcher
from iq_offline.data.replay import Replay
from iq_offline.errors import InterruptedCommandError, UserError
from iq_offline.learning.agents import Metrics
from iq_offline.learning.learner import Learner, leaves_of
from iq_offline.signals import polite_signals
from iq_offline.training import checkpoint
from iq_offline.training.tracking import MetricsLog, Progress, silent

SHOWN = ("critic/loss", "actor/loss", "actor/squared_error")


class InterruptedTrainingError(InterruptedCommandError):
    """Ctrl-C or a polite kill: the state is in the checkpoint."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step:,} of the training; the same command goes on from there")


@dataclass
class Training:
    """All that a training consists of besides its budget: what learns, what it sees, what it draws."""

    learner: Learner
    replay: Replay
    noise: torch.Generator
    prefetcher: Prefetcher | None = None

    def draw_noise(self, batch: TensorDict) -> TensorDict:
        """Standard normal numbers for every row of every kind, as many as the agent asks for."""
        shape = self.learner.agent.noise_shape
        like = batch["expert", "observation"]
        draws = {
            kind: torch.randn(
                len(batch[kind, "observation"]), *shape, generator=self.noise, dtype=like.dtype, device=like.device
            )
            for kind in map(str, batch.keys())
        }
        return TensorDict(draws if shape else {})

    def update(self) -> Metrics:
        """One gradient step on one batch."""
        batch = self.next_batch()
        return self.learner.update(batch, self.draw_noise(batch))

    def next_batch(self) -> TensorDict:
        """From the replay, or from what was drawn ahead."""
        return (self.prefetcher or self.replay).sample()

    def generators(self) -> dict[str, torch.Generator | Prefetcher]:
        """Everything that draws, by name."""
        return {"noise": self.noise, "replay": self.prefetcher or self.replay.generator}

    def close(self) -> None:
        """End what runs in the background; the training can go on afterwards."""
        if self.prefetcher:
            self.prefetcher.close()

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed training needs, random generators included."""
        random = {f"random/{name}": generator.get_state() for name, generator in self.generators().items()}
        return {f"learner/{name}": value for name, value in self.learner.state().items()} | random

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go back to a state that :meth:`state` gave."""
        prefix = "learner/"
        self.learner.load_state({n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)})
        for name, generator in self.generators().items():
            generator.set_state(tensors[f"random/{name}"])


def train(
    training: Training,
    config: TrainingConfig,
    folder: Path,
    progress: Progress = silent,
    on_snapshot: Callable[[int, TensorDict], None] = lambda step, actor: None,
    tensorboard: bool = False,
) -> None:
    """Run to the end of the budget, from the checkpoint in ``folder`` where there is one.

    Writes ``metrics.ndjson`` and ``checkpoint/latest.safetensors``. A resumed training ends with the same bits as an
    uninterrupted one. Metrics are averaged on the device between rows; only a row waits for them.

    Args:
        training: the fresh state; overwritten by the checkpoint's.
        config: budget and intervals.
        folder: of the run.
        progress: told of every row.
        on_snapshot: called with the step and the averaged actor, ``config.snapshots`` times and evenly spaced.
        tensorboard: also write event files.

    Raises:
        UserError: a loss is not finite (the last good checkpoint is kept), or the disk is full.
        InterruptedTrainingError: after SIGINT or SIGTERM, with the state saved.
    """
    file = folder / "checkpoint" / "latest.safetensors"
    learner, total = training.learner, config.gradient_steps
    sums: Metrics = {}
    seconds = 0.0
    if file.exists():
        tensors, values = checkpoint.load(file)
        training.load_state(tensors)
        sums = {name.removeprefix("sums/"): value for name, value in tensors.items() if name.startswith("sums/")}
        seconds = values["seconds"]
    log = MetricsLog(folder, learner.step, tensorboard)
    started = time.monotonic() - seconds

    def save() -> None:
        state = training.state() | {f"sums/{name}": value for name, value in sums.items()}
        values: dict[str, Any] = {"step": learner.step, "seconds": time.monotonic() - started}
        checkpoint.save(file, state, values)

    def require_finite(means: dict[str, float]) -> None:
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        if not all(leaf.isfinite().all() for leaf in leaves_of(learner.average)):
            broken.append("the averaged policy")
        if broken:
            kept = f"the checkpoint of step {checkpoint.load(file)[1]['step']:,} is kept" if file.exists() else ""
            raise UserError(
                f"{', '.join(broken)} stopped being finite by step {learner.step:,}; {kept or 'no checkpoint yet'}: "
                f"try lower learning rates or a larger chi2_alpha ({folder})"
            )

    with polite_signals() as stop_asked:
        try:
            while learner.step < total:
                since = learner.step % config.log_every
                for name, value in training.update().items():
                    sums[name] = sums[name] + value if name in sums else value
                step = learner.step
                logging = step % config.log_every == 0 or step == total
                saving = step % config.checkpoint_every == 0 or step == total
                stopping = stop_asked()
                snapping = step * config.snapshots // total > (step - 1) * config.snapshots // total
                if not (logging or saving or stopping or snapping):
                    continue
                means = {name: float(value) / (since + 1) for name, value in sums.items()}
                require_finite(means)
                if logging:
                    sums = {}
                    elapsed = time.monotonic() - started
                    timing = {"time/seconds": round(elapsed, 3), "time/steps_per_second": round(step / elapsed, 1)}
                    log.write({"gradient_steps": step, **means, **timing})
                    shown = "  ".join(f"{name} {means[name]:.4g}" for name in SHOWN if name in means)
                    progress(step, total, shown)
                if snapping:
                    on_snapshot(step, learner.average)
                if saving or stopping:
                    save()
                if stopping and step < total:
                    raise InterruptedTrainingError(step)
        finally:
            log.close()
            training.close()


def seconds_trained(folder: Path) -> float:
    """Wall-clock seconds of training behind the checkpoint in a run folder, all sessions together."""
    return float(checkpoint.load(folder / "checkpoint" / "latest.safetensors")[1]["seconds"])
