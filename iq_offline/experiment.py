"""The one function behind every front door: a configuration goes in, a run folder comes out.

    config -> data -> train (offline) -> evaluate -> summary

A run folder holds config.toml, data.json, metrics.ndjson, checkpoint/, snapshots/, policy.safetensors, summary.json and
curve.png (``docs/runs.md`` describes each). A finished run is not run again; a cut-off one goes on.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iq_offline.config import ALGORITHMS, LABELS, DataConfig, OnlineConfig, RunConfig, resolved, saved_start
from iq_offline.config.online import OFFLINE, has_offline_half
from iq_offline.data import catalog, views
from iq_offline.data.actions import ActionBox, is_open
from iq_offline.data.cache import CachedSource, cached
from iq_offline.data.irregularity import few
from iq_offline.data.replay import where
from iq_offline.data.stream import open_source, view_of
from iq_offline.data.subsampling import ALIKE, PLENTY, better_distance
from iq_offline.environments.make import CANNOT_TRAIN, evaluation_environment, with_time_limit, wrappers_left_out
from iq_offline.environments.record import record
from iq_offline.environments.vector import VectorStepper
from iq_offline.errors import UserError
from iq_offline.evaluation.plots import plot_comparison
from iq_offline.evaluation.selection import read_diagnostics, watches
from iq_offline.files import disk_errors
from iq_offline.provenance import made_with
from iq_offline.run import Run, Summary, require_same_run
from iq_offline.scoring import evaluate_run
from iq_offline.training.checkpoint import settle
from iq_offline.training.idle import idle_keys, set_in_vain
from iq_offline.training.offline import LATEST, step_reached, train_together
from iq_offline.training.setup import (
    Data,
    choose_data,
    require_device,
    require_one_program,
    require_trainable,
    shared_tables,
)
from iq_offline.training.tracking import progress_bar
from iq_offline.training.training import Population

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


def run(config: RunConfig, folder: Path, options: Options = Options(), is_half: bool = False) -> Summary:
    """Train and evaluate one learner in ``folder``, or go on with what is there.

    Args:
        config: as given.
        folder: of the run.
        options: what changes no result.
        is_half: another stage follows, which may read what this one does not.

    Raises:
        UserError: bad data or configuration, a folder that holds another run, no space, a loss that is not finite.
        InterruptedTrainingError: Ctrl-C; the state is saved.
    """
    (outcome,) = run_together([config], [folder], options, is_half)
    if isinstance(outcome, UserError):
        raise outcome
    return outcome


def stages(config: RunConfig, folder: Path) -> tuple[RunConfig, ...]:
    """What is run one after the other, each with its own ``auto`` decided: an offline run first, where it is asked for.

    The online run then starts from its folder, and says so in its configuration, which is a recipe of its own. Where a
    run goes on with another's networks, as many of them act as acted there.
    """
    if not has_offline_half(config):
        whole = resolved(config)
        start = saved_start(config) if config.is_online and config.training.actors == "auto" else None
        return (_with_actors_of(start, whole) if start else whole,)
    # Drawing ahead is for fixed data alone, and changes no result.
    whole = resolved(replace(config, training=replace(config.training, prefetch=0)))
    online = replace(whole.online, start=str((folder / OFFLINE).absolute()))
    terms = {"policy": "learned_reward", "absorbing_value": "raised"}  # Fixed data cannot have them: they are online's.
    if not config.data.suboptimal:
        terms |= {"value_states": "mixture", "chi2_states": "mixture"}
    free = {name: "auto" for name, value in terms.items() if getattr(config.iq_learn, name) == value}
    before: Any = replace(config, online=OnlineConfig(), iq_learn=replace(config.iq_learn, **free))
    half = resolved(before)
    return half, _with_actors_of(half, replace(whole, online=online))


def _with_actors_of(start: RunConfig, config: RunConfig) -> RunConfig:
    return replace(config, training=replace(config.training, actors=start.training.actors))


def run_together(
    configs: Sequence[RunConfig], folders: Sequence[Path], options: Options = Options(), is_half: bool = False
) -> list[Summary | UserError]:
    """Runs of one program (``training.setup.program_of``), trained at once and then evaluated one after another.

    Each has its own folder, and in it what :func:`run` would have left: who began together can go on alone, and the
    other way round. Finished runs are left as they are; those that were cut off at different steps are trained apart.

    Args:
        configs: as given.
        folders: one a run.
        options: what changes no result.
        is_half: as for :func:`run`.

    Returns:
        For each run its summary, or why there is none: the others went on.

    Raises:
        UserError: the runs are not of one program, or two have one folder; no space.
        InterruptedTrainingError: Ctrl-C; the states are saved.
    """
    made_with()  # Before anything that takes its time.
    parts = [stages(config, folder) for config, folder in zip(configs, folders, strict=True)]
    runs = [Run(last, folder, tuple(before)) for (*before, last), folder in zip(parts, folders, strict=True)]
    require_one_program([run.config for run in runs])
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("two runs cannot have one folder")
    torch.set_num_threads(runs[0].config.training.torch_threads)

    def finish(run: Run) -> None:
        run.outcome = run.finished()
        if run.outcome:
            options.say(f"{run.folder} is finished already: nothing to train")
        elif run.scored():
            options.say(f"{run.folder} is trained already: only scored anew, for its evaluation was another")

    def load(run: Run) -> None:
        if run.config.training.compile:
            say_once("note: the first update waits for the compiler, up to a minute; the next run finds what it made")
        require_device(run.config.training.device, run.config.training.compile)
        parts = [source(part.dataset) for part in run.config.data.suboptimal]
        run.data = choose_data(run.config, source(run.config.data.expert), parts)
        say_what_is_special(run.data, run.config.data, say_once)
        whole = (*run.before, run.config)
        for key in () if is_half else set_in_vain(whole, idle_keys(whole, run.data)):
            say_once(f"note: {key} has no effect on what {LABELS[run.config.algorithm]} learns from these data")

    def train_offline_half(one: Run) -> None:
        for half in () if (one.folder / LATEST).exists() else one.before:
            require_trainable(one.config, one.data)  # What cannot be is said before the offline half is trained,
            environments(one, said_once).close()
            one.claim()  # and leaves no folder that the command, put right, would find taken.
            run(half, one.folder / OFFLINE, said_once, is_half=True)

    def begin(run: Run) -> None:
        with ExitStack() as closed_if_refused:
            stepper = environments(run, said_once) if run.config.is_online else None
            if stepper is not None:
                closed_if_refused.callback(stepper.close)
            run.begin(tables, stepper)
            closed_if_refused.pop_all()
        run.step = step_reached(run.folder)

    def score(run: Run) -> None:
        run.outcome = evaluate_run(run, options.say, options.trust_env)

    source, say_once = cache(lambda name: obtain(name, options)), cache(options.say)
    said_once = replace(options, say=say_once)
    waiting = _each(train_offline_half, _each(load, _each(finish, runs)))
    tables = shared_tables([run.config for run in waiting], [run.data for run in waiting])
    if any(table.bytes > LARGE for table in tables):
        options.say(where(tables))
    settle([run.folder / LATEST for run in waiting])
    waiting = _each(begin, waiting)
    for step in sorted({run.step for run in waiting}):
        together = [run for run in waiting if run.step == step]
        train_policies(together, options)
        _each(score, together)
    return [run.outcome for run in runs if run.outcome is not None]


def _each(stage: Callable[[Run], None], runs: Sequence[Run]) -> list[Run]:
    """Take every run that has not ended one stage further; those that cannot go on end. Returns those that do."""
    for run in runs:
        if run.outcome is None:
            try:
                stage(run)
            except UserError as error:
                run.outcome = error
    return [run for run in runs if run.outcome is None]


def environments(run: Run, options: Options) -> VectorStepper:
    """What an online run steps.

    Raises:
        UserError: the data name no environment that may be built, or its spaces are others.
    """
    source = run.data.expert.data.source
    environment = evaluation_environment(source, options.trust_env, CANNOT_TRAIN)
    environment = with_time_limit(environment, run.data.expert.data.longest)
    stepper = VectorStepper(environment, source, run.config.online, run.config.data)
    if left_out := wrappers_left_out(source, options.trust_env):
        words = f"{stepper.name} is stepped without the wrappers {few(left_out)} that {source.id} names"
        options.say(f"note: {words}: they are code; --trust-env runs it")
    if not stepper.keeps_state:
        options.say(
            f"note: the state of {stepper.name} cannot be saved: after an interruption its episodes begin anew, and "
            "the result is not the same bits as without it"
        )
    return stepper


def obtain(name: str, options: Options = Options()) -> CachedSource:
    """A dataset's tensors: recorded or downloaded first where need be, then cached.

    Raises:
        UserError: there is no such dataset here (near names are suggested), or its data are not usable.
    """
    name, ids = views.parsed(name)
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
    source = view_of(open_source(path), ids)
    with progress_bar(f"caching {source.id}") as progress:
        return cached(source, progress if source.total_steps > 200_000 else lambda done, total: None)


def say_what_is_special(data: Data, asked_for: DataConfig, say: Say) -> None:
    """One line for whatever their owner might not expect of these data, or of what training does to them."""
    source, subsample = data.expert.data.source, asked_for.subsample
    for part, chosen in zip(asked_for.suboptimal, data.suboptimal, strict=True):
        there = int((chosen.data.lengths > 0).sum())
        if part.episodes is None and len(chosen.trajectories) < there:
            say(
                f"note: {len(chosen.trajectories)} of {there} episodes of {views.short(part.dataset)} are learned "
                "from: the others are labelled, held out, or pieces of recordings that are"
            )
    if better := better_distance(data.expert, data.observations, subsample):
        say(
            f"note: {source.id}: steps {subsample} apart show one phase of a motion that repeats itself, and vary less "
            f"than {ALIKE} times as much as all steps of their trajectory; with --subsample {better} at least "
            f"{PLENTY} times"
        )
    outside = data.actions_outside_box
    if outside:
        total = sum(len(selection.rows) for selection in data.seen)
        say(f"{source.id}: {outside} of {total} actions are outside the box and clipped")
    actions = data.actions
    if isinstance(actions, ActionBox) and is_open(np.stack([actions.space.low, actions.space.high])).any():
        say(
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


def train_policies(runs: Sequence[Run], options: Options) -> None:
    """Train to the end of the budget and save the averaged policies. On fixed data no environment exists yet.

    A run whose loss stops being finite ends with that; the others are trained without it.
    """
    members = [run.training for run in runs]
    together = Population(members) if len(members) > 1 else members[0]
    first = runs[0].config

    watching = watches(members, [run.data for run in runs])

    def snapshot(member: int, step: int) -> None:
        runs[member].save_policy(f"snapshots/step-{step:07d}.safetensors")
        watching[member].append(runs[member].folder)

    title = f"training {first.algorithm}" + (f" × {len(runs)}" if len(runs) > 1 else "")
    folders = [run.folder for run in runs]
    first_point = "snapshots/step-0000000.safetensors"  # What the environment has not touched.
    for run in runs:
        is_kept = (run.folder / LATEST).exists() and (run.folder / first_point).exists()
        if run.config.is_online and not run.step and not is_kept:
            run.save_policy(first_point)
    with progress_bar(title) as progress:
        failures = train_together(
            together, first.stage, folders, progress, snapshot, options.tensorboard, first.snapshot_steps
        )
    for run, watch, failure in zip(runs, watching, failures, strict=True):
        if failure:
            run.outcome = failure
        else:
            run.save_policy("policy.safetensors")
            watch.append(run.folder)


COMPARISON = "comparison.png"
ABOUT_RUNS = ("results", "report.html")
"""What ``iq-offline results`` and ``iq-offline report`` leave beside runs."""


def run_all(
    configs: Sequence[RunConfig], folder: Path, options: Options = Options(), beside: str | None = None
) -> list[Summary]:
    """Several algorithms on the same data, each in a folder of its name. A picture of all: :func:`draw_comparison`.

    Args:
        configs: one an algorithm.
        folder: of all of them.
        options: as for :func:`run`.
        beside: a name in the folder that is not ours and may be there.

    Raises:
        UserError: as :func:`run`; every folder is looked at before anything starts.
    """
    ours = {COMPARISON, *ABOUT_RUNS, *ALGORITHMS, beside}
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another --output")
    if folder.exists() and not ours.issuperset(name for name in os.listdir(folder) if not name.startswith(".")):
        raise UserError(f"{folder} holds other things than runs: choose another --output")
    for config in configs:
        require_same_run(stages(config, folder / config.algorithm)[-1], folder / config.algorithm)
    once = replace(options, say=cache(options.say))  # What is special about the data is so for each of them.
    return [run(config, folder / config.algorithm, once) for config in configs]


def draw_comparison(folder: Path, summaries: Sequence[Summary]) -> None:
    """The picture of all of a folder's runs.

    Raises:
        UserError: it is another than the one that is there, and cannot be written.
    """
    with disk_errors("drawing the comparison", folder):
        rows = [read_diagnostics(folder / summary["algorithm"]) for summary in summaries]
        plot_comparison(folder / COMPARISON, summaries, rows)
