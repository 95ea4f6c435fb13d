"""What is looked at before the first run of a sweep: that every run will find its data, its device and its folder.

And whether what was trained and could not be scored can be scored by now.
"""

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from iq_offline.config import EvaluationConfig, RunConfig, flat, is_others, to_table
from iq_offline.data.stream import Source
from iq_offline.environments.make import CANNOT_EVALUATE, CANNOT_TRAIN, evaluation_environment
from iq_offline.errors import UserError
from iq_offline.experiment import Options, obtain, require_same_run, stages
from iq_offline.files import disk_errors
from iq_offline.run import Run
from iq_offline.sweeps.folders import finished, run_folder, summary_file
from iq_offline.sweeps.grid import PlannedRun
from iq_offline.training.idle import changed, idle_keys
from iq_offline.training.setup import choose_data, require_device, require_trainable
from iq_offline.training.tracking import patient_progress


def check_runs(runs: Sequence[PlannedRun], folder: Path, options: Options, here: bool = True) -> None:
    """Obtain every dataset of a sweep and choose every run's data, so that what would fail fails now.

    Args:
        runs: all of the sweep's.
        folder: of the sweep.
        options: whether datasets may be downloaded.
        here: the runs will happen on this machine, and need its devices.

    Raises:
        UserError: the folder cannot be written to, a dataset is not there or holds too few trajectories, spaces cannot
            be learned from, a device is not there, or a run's folder holds another run. The run is named.
    """
    new = [place for place in (folder, *folder.parents) if not os.path.exists(place)]
    try:
        with disk_errors("starting a sweep", folder):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        _check(runs, folder, options, here)
    except BaseException:
        with suppress(OSError):
            for place in new:
                place.rmdir()
        raise


def _check(runs: Sequence[PlannedRun], folder: Path, options: Options, here: bool) -> None:
    for device, compiled in dict.fromkeys(
        (run.config.training.device, run.config.training.compile) for run in runs if here
    ):
        require_device(device, compiled)
    configs = [run.config for run in runs]
    names = [name for config in configs for name in (config.data.expert, *(p.dataset for p in config.data.suboptimal))]
    sources = {name: obtain(name, options) for name in dict.fromkeys(names)}
    seen = set()
    idle_for: dict[str, set[str]] = {}
    wished: set[str] = set()
    held_out: dict[str, set[int]] = {}
    with patient_progress("checking the runs") as progress:
        for number, run in enumerate(runs):
            parts = stages(run.config, run_folder(folder, run.name))
            config = parts[-1]
            require_same_run(config, run_folder(folder, run.name))
            training = dataclasses.replace(config.training, device="cpu")
            what = dataclasses.replace(config, training=training, evaluation=EvaluationConfig())
            if what in seen:
                continue
            seen.add(what)
            try:
                others = [sources[part.dataset] for part in config.data.suboptimal]
                data = choose_data(config, sources[config.data.expert], others)
                left = 0 if data.held_out is None else len(data.held_out.trajectories)
                held_out.setdefault(config.data.expert, set()).add(left)
                idle = idle_keys(parts, data)
                wished |= changed(config, idle)
                idle_for[config.algorithm] = idle_for.get(config.algorithm, idle) & idle
                require_trainable(what, data)
            except UserError as error:
                raise UserError(f"run {run.name} cannot be trained: {error}; no run was started") from error
            progress(number + 1, len(runs))
    varied = _varied(configs)
    if "data.held_out_trajectories" not in varied:
        for name, counts in held_out.items():
            if len(counts) > 1 and not _may_be_scored(sources[name].source, options):
                options.say(_other_held_out(name, min(counts), max(counts)))
    for key in varied:
        readers = [idle for algorithm, idle in idle_for.items() if not is_others(key, algorithm)]
        idle = key in wished and all(key in idle for idle in readers)  # Or else it follows from what differs besides.
        if not idle and not key.startswith("evaluation."):
            continue
        why = "has no effect on what is trained here" if idle else "trains every learner again for each value"
        options.say(f"note: the runs differ in {key}, which {why}")


def _may_be_scored(source: Source, options: Options) -> bool:
    """Whether there is an environment for its policies: then errors are not what its runs are compared by."""
    try:
        evaluation_environment(source, options.trust_env)
    except UserError:
        return False
    return True


def _other_held_out(name: str, least: int, most: int) -> str:
    """That errors on held-out trajectories are not of the same ones, and what to do about that."""
    remedy = f"--set data.held_out_trajectories={least} is as many for all" if least else "some runs have none"
    return (
        f"note: {least} to {most} trajectories of {name} are held out, those that are left beside the labelled ones: "
        f"errors of different runs are not of the same trajectories ({remedy})"
    )


def _varied(configs: Sequence[RunConfig]) -> list[str]:
    tables = [flat(to_table(config)) for config in configs]
    return [key for key in tables[0] if any(table.get(key) != tables[0][key] for table in tables)]


def let_be_scored(runs: Sequence[PlannedRun], folder: Path, options: Options) -> None:
    """Say which runs cannot be scored here; take back the summaries without a score of those that can be by now.

    They count as not finished then: the sweep scores them, from their checkpoints.

    Args:
        runs: all of the sweep's.
        folder: of the sweep.
        options: whether environments that no installed package registers may be run.

    Raises:
        UserError: online runs have no environment that may be built.
    """
    for name in dict.fromkeys(run.config.data.expert for run in runs):
        online = any(run.config.is_online for run in runs if run.config.data.expert == name)
        try:
            evaluation_environment(
                obtain(name, options).source, options.trust_env, CANNOT_TRAIN if online else CANNOT_EVALUATE
            )
        except UserError as error:
            if online:
                raise
            options.say(f"note: {error}; these runs will have errors on held-out trajectories, and no score")
            continue
        for run in runs:
            if run.config.data.expert == name and finished(folder, run.name):
                place = run_folder(folder, run.name)
                if Run(stages(run.config, place)[-1], place).finished() is None:
                    with disk_errors("scoring a run again", place):
                        summary_file(folder, run.name).unlink(missing_ok=True)
