"""The loop of every training. Nothing here builds an environment, reads a reward, or looks at a return.

On fixed data nothing below does, either; an online training collects before its updates (``training/online.py``).
"""

import math
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.config import TrainingConfig
from iq_offline.errors import InterruptedCommandError, UserError
from iq_offline.learning.agents import Metrics
from iq_offline.learning.learner import Learner, sorted_leaves
from iq_offline.provenance import commits_in_words, made_with
from iq_offline.signals import polite_signals
from iq_offline.training import checkpoint
from iq_offline.training.tracking import MetricsLog, Progress, silent
from iq_offline.training.training import Population, StepError, Training

LATEST = Path("checkpoint", "latest.safetensors")
PARTS = {
    "average": "the averaged policy",
    "parameters": "the networks' weights",
    "optimizer": "the optimiser's moments",
}
"""Of a learner's state, in words."""
SHOWN = ("critic/loss", "actor/loss", "actor/squared_error")


class InterruptedTrainingError(InterruptedCommandError):
    """Ctrl-C or a polite kill: the state is in the checkpoint."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step:,} of the training; the same command goes on from there")


def train(
    training: Training,
    config: TrainingConfig,
    folder: Path,
    progress: Progress = silent,
    on_snapshot: Callable[[int, TensorDict], None] = lambda step, actor: None,
    tensorboard: bool = False,
) -> None:
    """One run by itself, as :func:`train_together` runs several; ``on_snapshot`` gets the step and the averaged actor.

    Raises:
        UserError: a loss is not finite (the last good checkpoint is kept), or the disk is full.
        InterruptedTrainingError: after SIGINT or SIGTERM, with the state saved.
    """

    def snapshot(member: int, step: int) -> None:
        on_snapshot(step, training.learner.average)

    (failure,) = train_together(training, config, [folder], progress, snapshot, tensorboard)
    if failure:
        raise failure


def train_together(
    training: Training | Population,
    config: TrainingConfig,
    folders: Sequence[Path],
    progress: Progress = silent,
    on_snapshot: Callable[[int, int], None] = lambda member, step: None,
    tensorboard: bool = False,
    snapshot_steps: Collection[int] | None = None,
) -> list[UserError | None]:
    """Run to the end of the budget, from the checkpoints in the members' folders where there are some.

    Every member gets its own ``metrics.ndjson`` and ``checkpoint/latest.safetensors``, the same files as alone: what
    began together may go on alone, and the other way round. A resumed training ends with the same bits as an
    uninterrupted one of the same members. Metrics are averaged on the device between rows; only a row waits for them.

    Args:
        training: the fresh state; overwritten by the checkpoints', which are all of one step.
        config: budget and intervals.
        folders: of the members' runs.
        progress: told of every row.
        on_snapshot: called with the member's number and the step.
        tensorboard: also write event files.
        snapshot_steps: the steps after which it is; default those of ``config``.

    Returns:
        For each member None, or how it failed: a loss was not finite. Its last good checkpoint is kept, and the others
        go on without it.

    Raises:
        UserError: the disk is full.
        InterruptedTrainingError: after SIGINT or SIGTERM, with the state saved.
    """
    checkpoint.settle([folder / LATEST for folder in folders])
    share = 1 / len(folders)
    runs = [_Run(member, folder, share, tensorboard) for member, folder in zip(training.members, folders, strict=True)]
    learner, total = training.learner, config.gradient_steps
    if any(run.saved_step != learner.step for run in runs):
        raise ValueError("the checkpoints of a population are all of one step")
    snapshot_steps = config.snapshot_steps if snapshot_steps is None else snapshot_steps
    sums: Metrics = {name: torch.stack([run.sums[name] for run in runs]) for name in runs[0].sums}
    going = list(enumerate(runs))
    with polite_signals() as stop_asked:

        def waiting() -> bool:
            progress(learner.step, total, _shown([run for _, run in going]))
            return not stop_asked()

        try:
            while learner.step < total and going:
                count = learner.step % config.log_every
                updating = training.collect_due(waiting)
                if updating:
                    count += 1
                    for name, value in training.update().items():
                        sums[name] = sums[name] + value if name in sums else value
                step = learner.step
                logging = updating and (step % config.log_every == 0 or step == total)
                saving = updating and (step % config.checkpoint_every == 0 or step == total)
                snapping = updating and step in snapshot_steps
                stopping = stop_asked()
                if not (logging or saving or stopping or snapping):
                    continue
                going = _finite(learner, going, sums, count)
                if logging and going:
                    sums = {}
                    for _, run in going:
                        run.write_row()
                    progress(step, total, _shown([run for _, run in going]))
                if snapping:
                    for member, _ in going:
                        on_snapshot(member, step)
                if saving or stopping:
                    _save(going, sums)
                if stopping:
                    break
            if stop_asked() and going:
                raise InterruptedTrainingError(learner.step)
        except StepError as fault:
            going = _finite(learner, going, sums, config.log_every)
            if going:
                _save(going, sums)
                saved = f"the state after step {learner.step:,} is saved, and the same command goes on from there"
                raise UserError(f"{fault}; {saved} ({folders[0]})") from fault
        finally:
            for run in runs:
                run.log.close()
            training.close()
    return [run.failure for run in runs]


def _finite(
    learner: Learner, going: "Sequence[tuple[int, _Run]]", sums: Metrics, count: int
) -> "list[tuple[int, _Run]]":
    """The members that have not failed, all with their means over the ``count`` updates since the last row."""
    columns = {name: value.reshape(-1).tolist() for name, value in sums.items()}
    whole = _whole_parts(learner)
    for member, run in going:
        run.means = {name: column[member] / count for name, column in columns.items()}
    return [
        (member, run) for member, run in going if run.is_finite([part for part in PARTS if not whole[part][member]])
    ]


def _whole_parts(learner: Learner) -> dict[str, list[bool]]:
    """For each of :data:`PARTS` and each member whether all of it is finite: of many members in one go."""
    whole: dict[str, Tensor] = {}
    for name, tensor in learner.state().items():
        if not name.endswith("step"):  # One for all members, and only counted up.
            finite, part = tensor.reshape(learner.members, -1).isfinite().all(1), name.split("/")[0]
            whole[part] = whole[part] & finite if part in whole else finite
    return {part: values.tolist() for part, values in whole.items()}


def _save(going: "Sequence[tuple[int, _Run]]", sums: Metrics) -> None:
    """The checkpoints of the members that go on, all or none."""
    for member, run in going:
        run.sums = {name: value.reshape(-1)[member] for name, value in sums.items()}
    checkpoint.save_all({run.file: run.state() for _, run in going})


class _Run:
    """A member of what is trained, with its folder: its rows, its checkpoint, and how it failed.

    Args:
        training: goes back to the checkpoint in the folder, if there is one.
        folder: of the run.
        share: of the time that passes what counts as this run's.
        tensorboard: also write event files.
    """

    def __init__(self, training: Training, folder: Path, share: float, tensorboard: bool) -> None:
        self.training = training
        self.folder = folder
        self.file = folder / LATEST
        self.saved_step = 0
        self.failure: UserError | None = None
        self.sums: Metrics = {}
        self.means: dict[str, float] = {}
        self._seconds_before, self._share = 0.0, share
        self.commits = [made_with()[0]]
        if self.file.exists():
            tensors, values = checkpoint.load(self.file)
            training.load_state(tensors)
            device = sorted_leaves(training.learner.average)[0].device
            self.sums = {
                name.removeprefix("sums/"): value.to(device)
                for name, value in tensors.items()
                if name.startswith("sums/")
            }
            self.saved_step, self._seconds_before = values["step"], values["seconds"]
            before = values.get("commits", [None])
            self.commits = before if before[-1:] == self.commits else before + self.commits
        self.log = MetricsLog(folder, self.saved_step, tensorboard)
        self._first_step, self._started = self.saved_step, time.monotonic()
        self._first_env_steps, self.env_rate = training.env_steps, 0.0

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As a checkpoint holds it."""
        self.saved_step = self.training.learner.step
        tensors = self.training.state() | {f"sums/{name}": value for name, value in self.sums.items()}
        return tensors, {"step": self.saved_step, "seconds": self._seconds(), "commits": self.commits}

    def write_row(self) -> None:
        """The means, the time behind them, and how fast this session goes."""
        step = self.training.learner.step
        seconds = time.monotonic() - self._started
        pace = (step - self._first_step) / seconds
        timing = {"time/seconds": round(self._seconds(), 3), "time/steps_per_second": round(pace, 1)}
        if self.training.env_steps:
            self.env_rate = (self.training.env_steps - self._first_env_steps) / seconds
            timing["time/env_steps_per_second"] = round(self.env_rate, 1)
        self.log.write({"gradient_steps": step, **self.means, **self.training.row(), **timing})

    def _seconds(self) -> float:
        """Of all sessions: its share of the time, so that those of runs trained together add up to what they took."""
        return self._seconds_before + self._share * (time.monotonic() - self._started)

    def is_finite(self, broken_parts: Sequence[str]) -> bool:
        """Whether the means and all that a checkpoint holds of the learner are; else the run has failed."""
        learner = self.training.learner
        broken = [name for name, value in self.means.items() if not math.isfinite(value)]
        broken += [PARTS[part] for part in broken_parts]
        if broken:
            kept = f"the checkpoint of step {self.saved_step:,} is kept" if self.saved_step else "no checkpoint yet"
            softer = " or a larger chi2_alpha" * (("coefficients", "chi2_alpha") in learner.parameters.keys(True))
            self.failure = UserError(
                f"{', '.join(broken)} stopped being finite by step {learner.step:,}; {kept}: "
                f"try lower learning rates{softer} ({self.folder})"
            )
        return not broken


def _shown(runs: Sequence[_Run]) -> str:
    """What a progress bar says of the members: the mean of their losses, and what they have of the environment."""
    names = [name for name in SHOWN if name in runs[0].means]
    words = [f"{name} {sum(run.means[name] for run in runs) / len(runs):.4g}" for name in names]
    if steps := runs[0].training.env_steps:
        words = [f"{steps:,} env steps, {runs[0].env_rate:.0f}/s", *words]
    return "  ".join(words)


def seconds_and_commit(folder: Path) -> tuple[float, str | None]:
    """Wall-clock seconds of training behind the checkpoint in a run folder, and the code's commit, of all sessions."""
    values = checkpoint.load(folder / LATEST)[1]
    return float(values["seconds"]), commits_in_words(values.get("commits", [None]))


def step_reached(folder: Path) -> int:
    """Gradient steps behind the checkpoint in a run folder; 0 where there is none."""
    return int(checkpoint.load(folder / LATEST)[1]["step"]) if (folder / LATEST).exists() else 0
