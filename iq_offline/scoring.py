"""What a trained run is worth: its policies acted out, the summary, the picture. The training is over by then."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec

from iq_offline.config import LABELS, DataConfig, RunConfig
from iq_offline.data.irregularity import few
from iq_offline.data.stream import Source
from iq_offline.environments.fit import check_fit
from iq_offline.environments.make import built, evaluation_environment, with_time_limit, wrappers_left_out
from iq_offline.errors import UserError
from iq_offline.evaluation.held_out import held_out_error
from iq_offline.evaluation.plots import plot_run
from iq_offline.evaluation.scores import (
    along_the_way,
    evaluate,
    mean_return,
    normalized_score,
    references,
    score_error,
    why_unscored,
)
from iq_offline.evaluation.selection import health, read_diagnostics
from iq_offline.files import disk_errors
from iq_offline.learning.policy import Policy
from iq_offline.provenance import made_with
from iq_offline.run import Run, Summary
from iq_offline.training.offline import seconds_and_commit
from iq_offline.training.tracking import patient_progress, progress_bar, read_metrics

UNSURE = 0.03
"""A standard error of a score beyond which it is said: whoever compares two such scores compares episodes."""


def evaluate_run(run: Run, say: Callable[[str], None], trust_env: bool = False) -> Summary:
    """Score the final policy, and the snapshots for the curve; write the summary and the picture."""
    config, policy, data, folder = run.config, run.policy(), run.data, run.folder
    source = data.expert.data.source
    started = time.monotonic()
    returns: list[float] = []
    curve: list[dict[str, Any]] = []
    expert = random = score = data_return = None
    meaning, online, environment = "not evaluated", None, None
    left_out = wrappers_left_out(source, trust_env)
    try:
        environment = evaluation_environment(source, trust_env)
        limited = with_time_limit(environment, data.expert.data.longest)
        if isinstance(limited, EnvSpec) and limited is not environment:
            say(
                f"note: {limited.id} has no time limit: episodes are cut after {limited.max_episode_steps:,} steps, as "
                "many as the longest recorded one has"
            )
        environment = limited
        with patient_progress("random actions, for the scores") as progress:
            known = references(source, environment, progress)
        returns, curve = _score_all(config, policy, environment, folder)
    except UserError as error:
        if run.scored():  # By another evaluation: those scores are better than none.
            raise
        say(f"trained, but not evaluated: {error}")
    else:
        meaning = known.source
        score = normalized_score(float(np.mean(returns)), known)
        measured = known.expert_return, known.random_return, mean_return(data.seen)
        expert, random, data_return = (value if math.isfinite(value) else None for value in measured)
        if reason := why_unscored(known):
            say(f"note: no normalised score: {reason}")
        error = score_error(returns, known)
        if error is not None and error > UNSURE and not config.fast:
            say(
                f"note: {LABELS[config.algorithm]}'s {len(returns)} episodes differ so much that its score is good to "
                f"± {error:.2f}; evaluation.episodes = {4 * len(returns)} halves that"
            )
        if config.is_online:
            online = along_the_way(curve, known)
        elif other := _other_box(environment, source, config.data, left_out):
            say(f"note: scored all the same, but {other}")
    if environment is not None and left_out:
        did = "evaluated" if returns else "its environment was built"
        words = f"{did} without the wrappers {few(left_out)} that {source.id} names"
        say(f"note: {words}: they are code; --trust-env runs it")
    diagnostics = read_diagnostics(folder)
    seconds, commit = seconds_and_commit(folder)
    summary = {
        "schema": 1,
        "recipe": config.recipe,
        "algorithm": config.algorithm,
        "dataset_ids": [selection.data.source.id for selection in data.seen],
        "num_expert_trajectories": config.data.num_expert_trajectories,
        "subsample": config.data.subsample,
        "seed": config.seed,
        "gradient_steps": config.stage.gradient_steps,
        "fast": config.fast,
        "seconds": round(seconds, 2),
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
        "health": health(diagnostics, config.is_online).table(),
        "versions": made_with()[1],
        "git_commit": commit,
    }
    if config.is_online:
        summary |= {"env_steps": config.online.env_steps, "start": config.online.start, "online": online}
    with disk_errors("writing the summary", folder):
        plot_run(folder / "curve.png", summary, read_metrics(folder / "metrics.ndjson"), diagnostics)
        run.replace_summary(summary)
    return summary


def _other_box(
    environment: str | EnvSpec, source: Source, data: DataConfig, left_out: tuple[str, ...]
) -> UserError | None:
    """Why the environment's actions may mean something else than the dataset's: they are of another box."""
    name = environment if isinstance(environment, str) else environment.id
    with built(environment, 1) as (one,):
        try:
            check_fit(name, one, source, data, left_out)
        except UserError as error:
            return error
    return None


def _score_all(
    config: RunConfig, policy: Policy, environment: str | EnvSpec, folder: Path
) -> tuple[list[float], list[dict[str, Any]]]:
    """Returns of the final policy, and of the snapshots. The snapshots come after: nothing is chosen among them."""
    options, last = config.evaluation, config.stage.gradient_steps
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
            point = {"gradient_steps": step, "return_mean": float(np.mean(some)), "returns": some}
            curve.append(point | ({"env_steps": config.online.env_steps_before(step)} if config.is_online else {}))
    return returns, curve
