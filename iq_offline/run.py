"""One run: its configuration, data and training, and the folder that belongs to it and to no other."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from iq_offline.config import RunConfig, flat, saved_config, saved_start, to_table, to_toml
from iq_offline.config.online import OFFLINE
from iq_offline.data.replay import ROWS_AT_ONCE, Selection, Table
from iq_offline.errors import UserError
from iq_offline.evaluation.rows import SUMMARY, is_finished, write_episodes
from iq_offline.files import disk_errors, read_json, write_atomically
from iq_offline.learning.policy import Policy
from iq_offline.training.offline import LATEST
from iq_offline.training.online import OnlineTraining, Stepper
from iq_offline.training.setup import Data, policy_of, prepare
from iq_offline.training.start import start_from
from iq_offline.training.training import Training

Summary = dict[str, Any]

OF_NO_RESULT = ("online.time_limit", "online.in_processes")
"""Keys that change nothing but how long the environment is waited for, and where it is: a run may go on with others."""
MEANINGS = (
    "data.observation_keys",
    "data.frame_stack",
    "data.action_low",
    "data.action_high",
    "training.activation",
    "training.normalize_observations",
)
"""Keys that say what goes into a network, through it and out of it, and that no weight's shape tells."""


@dataclass
class Run:
    """What a run consists of, step by step, and how it ended."""

    config: RunConfig
    folder: Path
    before: tuple[RunConfig, ...] = ()
    """The offline run that is trained first, in a folder within this one's, if there is one."""
    data: Data = field(init=False)
    training: Training = field(init=False)
    step: int = 0
    """That its checkpoint is of."""
    outcome: Summary | UserError | None = None

    def finished(self) -> Summary | None:
        """The summary that is there already, if it has scores of this evaluation. Else it gets another chance.

        Raises:
            UserError: the folder holds another run, or its summary is damaged.
        """
        require_same_run(self.config, self.folder)
        summary = self.scored()
        if summary and saved_config(self.folder / "config.toml").evaluation == self.config.evaluation:
            return summary
        return None

    def scored(self) -> Summary | None:
        """The summary that is there already, if it has scores, be they of another evaluation.

        Raises:
            UserError: it is damaged.
        """
        summary = read_json(self.folder / SUMMARY) if is_finished(self.folder) else None
        return summary if summary and summary["returns"] else None

    def begin(self, tables: Sequence[Table], stepper: Stepper | None = None) -> None:
        """Draw the networks, or take those that are fine-tuned, and make the folder its own.

        Args:
            tables: to draw from, where they are shared with other runs.
            stepper: of the environments, if the run is online.

        Raises:
            UserError: the run was begun on other data, the checkpoint is damaged, there is no space; the offline run
                to start from is none of these data, or has other networks.
        """
        self.training = prepare(self.config, self.data, tables)
        if isinstance(self.training, OnlineTraining):
            self.training.stepper = stepper
        start = self.offline_folder()
        if start is not None and not (self.folder / LATEST).exists():
            require_same_data(self.data, start, write=False)
            require_same_meaning(self.config)
            start_from(self.training.learner, start)
        self.claim()
        with disk_errors("starting a run", self.folder):
            require_same_data(self.data, self.folder)

    def claim(self) -> None:
        """Make the folder this run's; scores that are there keep the configuration that they are of.

        Raises:
            UserError: it holds another, or there is no space.
        """
        require_same_run(self.config, self.folder)
        with disk_errors("starting a run", self.folder):
            if not self.scored():
                write_atomically(self.folder / "config.toml", to_toml(self.config))

    def replace_summary(self, summary: Summary) -> None:
        """Write the summary, the rows and the configuration they are of: at no time does one belong to another."""
        file = self.folder / SUMMARY
        file.unlink(missing_ok=True)
        write_atomically(self.folder / "config.toml", to_toml(self.config))
        write_episodes(self.folder, summary, self.config)
        write_atomically(file, json.dumps(summary, indent=2, allow_nan=False))

    def offline_folder(self) -> Path | None:
        """Of the run that this one fine-tunes."""
        start = self.config.online.start
        return Path(start) if start and self.config.is_online else None

    def policy(self) -> Policy:
        """The averaged policy as it is now."""
        learner = self.training.learner
        return policy_of(self.data, learner.average, learner.parameters["normalizer"], self.config.training.activation)

    def save_policy(self, name: str) -> None:
        """Write the averaged policy, and what it is of, into the folder."""
        about = {"algorithm": self.config.algorithm, "recipe": self.config.recipe, "seed": self.config.seed}
        with disk_errors("saving a policy", self.folder):
            self.policy().save(self.folder / name, about | {"gradient_steps": self.training.learner.step})


def require_same_run(config: RunConfig, folder: Path) -> None:
    """A run folder belongs to one configuration.

    Raises:
        UserError: it holds another, or something that is no run at all.
    """
    file = folder / "config.toml"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another --output")
    if not file.exists():
        if folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise UserError(f"{folder} is not empty and holds no run: choose another --output")
        return
    saved = saved_config(file)
    free = (*OF_NO_RESULT, "online.start") if _is_same_start(saved, config, folder) else OF_NO_RESULT
    keys = [key for key in flat(to_table(config)) if key not in free]
    if (folder / LATEST).exists() or not (folder / SUMMARY).exists():  # It can be scored again, or never was.
        keys = [key for key in keys if not key.startswith("evaluation.")]
    different = _differences(saved, config, keys)
    if different:
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise UserError(f"{folder} holds another configuration ({different[0]}{more}): choose another --output")


def _is_same_start(saved: RunConfig, config: RunConfig, folder: Path) -> bool:
    """Whether a run that has begun, and the same one by its configuration now, may begin with one offline run.

    However that is spelled. One that is not where it was has been moved; so has, or was copied, the offline half that
    lies in the run's own folder.
    """
    theirs, ours = saved.online.start, config.online.start
    if not (theirs and ours):
        return theirs == ours
    half = (folder / OFFLINE).resolve()
    was, now = Path(theirs).resolve(), Path(ours).resolve()
    return was == now or not was.exists() or (now == half and half.exists())


def require_same_meaning(config: RunConfig) -> None:
    """A run can begin with networks of fixed data alone that read and answer what its own would.

    Args:
        config: of the run that goes on; where nothing is known of the offline run nothing is compared.

    Raises:
        UserError: they would not.
    """
    start, saved = config.online.start, saved_start(config)
    if saved is None:
        return
    if saved.is_online:
        raise UserError(f"{start} is an online run already: the same command that began it goes on with it")
    different = _differences(saved, config, MEANINGS)
    if different:
        raise UserError(f"{start} has other networks than this run ({different[0]}): it cannot start from there")


def _differences(saved: RunConfig, config: RunConfig, keys: Iterable[str]) -> list[str]:
    """In words, which of these keys have other values in a saved configuration."""
    theirs, ours = flat(to_table(saved)), flat(to_table(config))
    return [f"{key} is {theirs[key]!r} there and {ours[key]!r} here" for key in keys if ours[key] != theirs[key]]


def require_same_data(data: Data, folder: Path, write: bool = True) -> None:
    """Write the manifest of the run's data, or hold it against the one that is there.

    Args:
        data: of the run.
        folder: of the run, or of one that must have been on the same data.
        write: where there is none; else the folder is that of the run that this one starts from.

    Raises:
        UserError: the run was begun on other data.
    """
    held_out = () if data.held_out is None else (data.held_out,)
    kinds = ["expert", *("suboptimal" for _ in data.suboptimal), *("held_out" for _ in held_out)]
    chosen = zip(kinds, (*data.seen, *held_out), strict=True)
    manifest = json.dumps([{"kind": kind} | _manifest(selection) for kind, selection in chosen], indent=2)
    file = folder / "data.json"
    if file.exists() and file.read_text() != manifest:
        if not write:
            raise UserError(
                f"{folder} was trained on another selection of data than this run's: give both the same data.* and "
                "seed, or another online.start"
            )
        raise UserError(
            f"{folder} was begun on other data than {data.expert.data.source.id} holds now: choose another --output"
        )
    if write:
        write_atomically(file, manifest)


def _manifest(selection: Selection) -> dict[str, Any]:
    digest = hashlib.sha256(selection.rows.tobytes())
    ids = selection.data.source.episode_ids
    rows = torch.from_numpy(selection.rows)
    for name, values in selection.data.steps.items():
        for wanted in (rows, rows + 1) if name.startswith("observation") else (rows,):
            for some in wanted.split(ROWS_AT_ONCE):  # What is chosen may not fit in memory.
                digest.update(values[some].numpy().tobytes())
    return {
        "dataset": selection.data.source.id,
        "trajectories": len(selection.trajectories),
        "first_trajectories": [ids[position] for position in selection.trajectories[:100]],
        "transitions": len(selection.rows),
        "sha256": digest.hexdigest(),
    }
