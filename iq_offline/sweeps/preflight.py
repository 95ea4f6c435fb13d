"""What is looked at before the first run of a sweep: that every run will find its data, its device and its folder."""

import dataclasses
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from iq_offline.errors import UserError
from iq_offline.experiment import Options, obtain, require_same_run
from iq_offline.files import disk_errors
from iq_offline.sweeps.grid import PlannedRun
from iq_offline.training.setup import choose_data, make_agent, require_device
from iq_offline.training.tracking import patient_progress


def check_runs(runs: Sequence[PlannedRun], folder: Path, options: Options) -> None:
    """Obtain every dataset of a sweep and choose every run's data, so that what would fail fails now.

    Args:
        runs: all of the sweep's.
        folder: of the sweep.
        options: whether datasets may be downloaded.

    Raises:
        UserError: the folder cannot be written to, a dataset is not there or holds too few trajectories, spaces cannot
            be learned from, a device is not there, or a run's folder holds another run. The run is named.
    """
    with disk_errors("starting a sweep", folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    try:
        _check(runs, folder, options)
    except BaseException:
        with suppress(OSError):
            folder.rmdir()  # Where it was not there before, it is empty.
        raise


def _check(runs: Sequence[PlannedRun], folder: Path, options: Options) -> None:
    for device in dict.fromkeys(run.config.training.device for run in runs):
        require_device(device)
    configs = [run.config for run in runs]
    names = [name for config in configs for name in (config.data.expert, *(p.dataset for p in config.data.suboptimal))]
    sources = {name: obtain(name, options) for name in dict.fromkeys(names)}
    seen = set()
    with patient_progress("checking the runs") as progress:
        for number, run in enumerate(runs):
            config = run.config
            require_same_run(config, folder / "runs" / run.name)
            what = dataclasses.replace(config, evaluation=type(config.evaluation)())
            if what in seen:
                continue
            seen.add(what)
            try:
                parts = [sources[part.dataset] for part in config.data.suboptimal]
                make_agent(config, choose_data(config, sources[config.data.expert], parts))
            except UserError as error:
                raise UserError(f"run {run.name} cannot be trained: {error}; no run was started") from error
            progress(number + 1, len(runs))
