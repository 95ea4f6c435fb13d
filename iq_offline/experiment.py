"""The one function behind every front door: a configuration goes in, a run folder comes out.

    config -> data -> train (offline) -> evaluate -> summary

A run folder holds config.toml, data.json, metrics.ndjson, checkpoint/, snapshots/, policy.safetensors, summary.json and
curve.png (``docs/runs.md`` describes each). A finished run is not run again; a cut-off one goes on.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec

from iq_offline.config import ALGORITHMS, RunConfig, flat, from_table, read_toml, resolved, to_table, to_toml
from iq_offline.data import catalog
from iq_offline.data.actions import ActionBox, is_open
from iq_offline.data.cache import CachedSource, cached
from iq_offline.data.replay import ROWS_AT_ONCE, Selection
from iq_offline.data.stream import open_source
from iq_offline.environments.make import evaluation_environment
from iq_offline.environments.record import record
from iq_offline.errors import UserError
from iq_offline.evaluation.held_out import held_out_error
from iq_offline.evaluation.plots import plot_comparison, plot_run
from iq_offline.evaluation.rows import write_episodes
from iq_offline.evaluation.scores import evaluate, mean_return, normalized_score, references
from iq_offline.files import disk_errors, write_atomically
from iq_offline.learning.policy import Policy
from iq_offline.provenance import git_commit, package_versions
from iq_offline.training.offline import Training, seconds_trained, train
from iq_offline.training.setup import Data, choose_data, policy_of, prepare, require_device
from iq_offline.training.tracking import progress_bar, read_metrics

Summary = dict[str, Any]
LARGE = 100_000_000
"""Bytes of one selection from which on it is said where it is read from."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What a user may allow or ask for that changes no result."""

    download: bool = False
    trust_env: bool = False
    tensorboard: bool = False
    say: Say = print


def run(config: RunConfig, folder: Path, options: Options = Options()) -> Summary:
    """Train and evaluate one learner in ``folder``, or go on with what is there.

    Raises:
        UserError: bad data or configuration, a folder that holds another run, no space, a loss that is not finite.
        InterruptedTrainingError: Ctrl-C; the state is saved.
    """
    config = resolved(config)
    torch.set_num_threads(config.training.torch_threads)
    require_same_run(config, folder)
    summary_file = folder / "summary.json"
    summary = json.loads(summary_file.read_text()) if summary_file.exists() else None
    if summary and summary["returns"]:  # One that could not be scored gets another chance: nothing is trained again.
        options.say(f"{folder} is finished already: nothing to train")
        return summary
    require_device(config.training.device)
    names = (config.data.expert, *(part.dataset for part in config.data.suboptimal))
    sources = {name: obtain(name, options) for name in dict.fromkeys(names)}
    data = choose_data(config, sources[names[0]], [sources[name] for name in names[1:]])
    say_what_is_special(data, options)
    training = prepare(config, data)
    if max(table.bytes for tables in training.replay.tables.values() for table in tables) > LARGE:
        options.say(training.replay.where())
    with disk_errors("starting a run", folder):
        write_atomically(folder / "config.toml", to_toml(config))
        require_same_data(data, folder)
    policy = train_policy(config, training, data, folder, options)
    return evaluate_run(config, policy, data, folder, options)


def obtain(name: str, options: Options = Options()) -> CachedSource:
    """A dataset's tensors: recorded or downloaded first where need be, then cached.

    Raises:
        UserError: there is no such dataset here (near names are suggested), or its data are not usable.
    """
    path = catalog.locate(name)
    if path is None:
        builtin = catalog.builtin_of(name)
        if builtin:
            path = build(name, options.say)
        elif options.download:
            options.say(f"downloading {name}")
            path = catalog.download(name)
        else:
            raise catalog.not_found(name)
    source = open_source(path)
    with progress_bar(f"caching {source.id}") as progress:
        return cached(source, progress if source.total_steps > 200_000 else lambda done, total: None)


def say_what_is_special(data: Data, options: Options) -> None:
    """One line for whatever training does to these data that their owner might not expect."""
    source = data.expert.data.source
    outside = data.actions_outside_box
    if outside:
        total = sum(len(selection.rows) for selection in data.seen)
        options.say(f"{source.id}: {outside} of {total} actions are outside the box and clipped")
    actions = data.actions
    if isinstance(actions, ActionBox) and is_open(np.stack([actions.space.low, actions.space.high])).any():
        options.say(
            f"{source.id}: its action box has no bounds: taken from {actions.low.min():.4g} to "
            f"{actions.high.max():.4g}, the range of its actions (action_low and action_high override it)"
        )


def build(name: str, say: Say = print) -> Path:
    """Record a built-in dataset from its card; says so where the bytes are not the card's."""
    builtin = catalog.builtin_of(name)
    if builtin is None:
        raise catalog.not_found(name)
    card, tier = builtin
    stem = catalog.minari_id(name).split("/")[1]
    with progress_bar(f"recording {stem}/{tier}") as progress:
        recording = record(stem, tier, card, progress)
    expected = card.datasets[tier].content_hash
    if recording.content_hash != expected:
        say(
            f"{recording.id}: recorded {recording.content_hash[:15]}, its card has {expected[:15] or 'no hash'}: "
            f"other versions or another processor; its mean return is {recording.returns.mean():.1f}, "
            f"the card's {card.datasets[tier].return_mean}"
        )
    return recording.path


def require_same_run(config: RunConfig, folder: Path) -> None:
    """A run folder belongs to one configuration.

    Raises:
        UserError: it holds another, or something that is no run at all.
    """
    file = folder / "config.toml"
    if not file.exists():
        if folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise UserError(f"{folder} is not empty and holds no run: choose another --output")
        return
    theirs, ours = flat(to_table(from_table(RunConfig, read_toml(file), str(file)))), flat(to_table(config))
    different = [f"{key} is {theirs[key]!r} there and {ours[key]!r} here" for key in ours if ours[key] != theirs[key]]
    if different:
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise UserError(f"{folder} holds another configuration ({different[0]}{more}): choose another --output")


def require_same_data(data: Data, folder: Path) -> None:
    """Write the manifest of the run's data, or hold it against the one that is there.

    Raises:
        UserError: the run was begun on other data.
    """
    held_out = () if data.held_out is None else (data.held_out,)
    kinds = ["expert", *("suboptimal" for _ in data.suboptimal), *("held_out" for _ in held_out)]
    chosen = zip(kinds, (*data.seen, *held_out), strict=True)
    manifest = json.dumps([{"kind": kind} | _manifest(selection) for kind, selection in chosen], indent=2)
    file = folder / "data.json"
    if file.exists() and file.read_text() != manifest:
        raise UserError(
            f"{folder} was begun on other data than {data.expert.data.source.id} holds now: choose another --output"
        )
    write_atomically(file, manifest)


def train_policy(config: RunConfig, training: Training, data: Data, folder: Path, options: Options) -> Policy:
    """Train to the end of the budget and save the averaged policy. No environment exists yet."""
    about = {"algorithm": config.algorithm, "recipe": config.recipe, "seed": config.seed}
    learner = training.learner

    def policy_now() -> Policy:
        return policy_of(data, learner.average, learner.parameters["normalizer"])

    def snapshot(step: int, _: Any) -> None:
        with disk_errors("saving a snapshot", folder):
            policy_now().save(folder / "snapshots" / f"step-{step:07d}.safetensors", about | {"gradient_steps": step})

    with progress_bar(f"training {config.algorithm}") as progress:
        train(training, config.training, folder, progress, snapshot, options.tensorboard)
    policy = policy_now()
    with disk_errors("saving the policy", folder):
        policy.save(folder / "policy.safetensors", about | {"gradient_steps": learner.step})
    return policy


def evaluate_run(config: RunConfig, policy: Policy, data: Data, folder: Path, options: Options) -> Summary:
    """Score the final policy, and the snapshots for the curve; write the summary and the picture."""
    source = data.expert.data.source
    started = time.monotonic()
    returns: list[float] = []
    curve: list[dict[str, Any]] = []
    expert = random = score = data_return = None
    meaning = "not evaluated"
    try:
        environment = evaluation_environment(source, options.trust_env)
        known = references(source, environment)
        returns, curve = _score_all(config, policy, environment, folder)
    except UserError as error:
        options.say(f"trained, but not evaluated: {error}")
    else:
        meaning = known.source
        score = normalized_score(float(np.mean(returns)), known)
        data_return = mean_return(data.seen)
        expert, random = (
            value if math.isfinite(value) else None for value in (known.expert_return, known.random_return)
        )
    summary = {
        "schema": 1,
        "recipe": config.recipe,
        "algorithm": config.algorithm,
        "dataset_ids": [selection.data.source.id for selection in data.seen],
        "num_expert_trajectories": config.data.num_expert_trajectories,
        "subsample": config.data.subsample,
        "seed": config.seed,
        "gradient_steps": config.training.gradient_steps,
        "fast": config.fast,
        "seconds": round(seconds_trained(folder), 2),
        "evaluation_seconds": round(time.monotonic() - started, 2),
        "returns": returns,
        "return_mean": float(np.mean(returns)) if returns else None,
        "return_std": float(np.std(returns)) if returns else None,
        "expert_return": expert,
        "random_return": random,
        "data_return": data_return,
        "normalized_score": score,
        "references": meaning,
        "curve": curve,
        "held_out": None if data.held_out is None else held_out_error(policy, data.held_out).table(),
        "versions": package_versions(),
        "git_commit": git_commit(),
    }
    with disk_errors("writing the summary", folder):
        plot_run(folder / "curve.png", summary, read_metrics(folder / "metrics.ndjson"))
        write_episodes(folder, summary, config)
        write_atomically(folder / "summary.json", json.dumps(summary, indent=2, allow_nan=False))
    return summary


def _score_all(
    config: RunConfig, policy: Policy, environment: str | EnvSpec, folder: Path
) -> tuple[list[float], list[dict[str, Any]]]:
    """Returns of the final policy, and of the snapshots. The snapshots come after: nothing is chosen among them."""
    options, last = config.evaluation, config.training.gradient_steps
    files = sorted((folder / "snapshots").glob("step-*.safetensors"))
    steps = [int(file.stem.removeprefix("step-")) for file in files]
    total, done = options.episodes * (1 + len([step for step in steps if step < last])), 0
    with progress_bar(f"evaluating {config.algorithm}") as progress:

        def scored(policy: Policy) -> list[float]:
            return evaluate(policy, environment, options.episodes, options.seed, finished)

        def finished(_: Any) -> None:
            nonlocal done
            done += 1
            progress(done, total)

        returns = scored(policy)
        curve = []
        for step, file in zip(steps, files, strict=True):
            some = scored(Policy.load(file)) if step < last else returns
            curve.append({"gradient_steps": step, "return_mean": float(np.mean(some)), "returns": some})
    return returns, curve


def _manifest(selection: Selection) -> dict[str, Any]:
    digest = hashlib.sha256(selection.rows.tobytes())
    rows = torch.from_numpy(selection.rows)
    for name, values in selection.data.steps.items():
        for wanted in (rows, rows + 1) if name.startswith("observation") else (rows,):
            for some in wanted.split(ROWS_AT_ONCE):  # What is chosen may not fit in memory.
                digest.update(values[some].numpy().tobytes())
    return {
        "dataset": selection.data.source.id,
        "trajectories": len(selection.trajectories),
        "first_trajectories": selection.trajectories[:100].tolist(),
        "transitions": len(selection.rows),
        "sha256": digest.hexdigest(),
    }


COMPARISON = "comparison.png"


def run_all(configs: Sequence[RunConfig], folder: Path, options: Options = Options()) -> list[Summary]:
    """Several algorithms on the same data, each in a folder of its name, and a picture of all of them.

    Raises:
        UserError: as :func:`run`; every folder is looked at before anything starts.
    """
    ours = {COMPARISON, *ALGORITHMS}
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another --output")
    if folder.exists() and not ours.issuperset(name for name in os.listdir(folder) if not name.startswith(".")):
        raise UserError(f"{folder} holds other things than runs: choose another --output")
    for config in configs:
        require_same_run(resolved(config), folder / config.algorithm)
    summaries = [run(config, folder / config.algorithm, options) for config in configs]
    with disk_errors("drawing the comparison", folder):
        plot_comparison(folder / COMPARISON, summaries)
    return summaries
