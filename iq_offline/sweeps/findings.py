"""What a folder of runs holds, read once for the report: a sweep's folder, or any other with runs in it."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from iq_offline.config import read_toml
from iq_offline.evaluation.rows import SUMMARY, is_finished
from iq_offline.files import read_json
from iq_offline.sweeps import grid
from iq_offline.sweeps.folders import finished, folders_in, log_file, state_of_log
from iq_offline.sweeps.results import (
    COUNT,
    FIRST,
    NothingToCompareError,
    configuration,
    curves_of,
    metric_of,
    read_episodes,
    runs_of,
    varied,
)

CONFIG = "config.toml"


@dataclass(frozen=True)
class Findings:
    """Everything that a report says, as data."""

    folder: Path
    sweep: grid.Sweep | None
    """None where the folder is no sweep's."""
    runs: pl.DataFrame
    """One row a finished run."""
    curves: pl.DataFrame
    """One row a run and snapshot."""
    summaries: dict[str, dict[str, Any]]
    """Of the finished runs, by the names in ``runs``."""
    unfinished: dict[str, str] = field(default_factory=dict)
    """Runs that are not finished, and how they stand."""
    metric: str | None = None
    """What runs are compared by; None where nothing was measured."""

    @property
    def by(self) -> list[str]:
        """Keys that tell cells apart, the learner and the number of trajectories always among them."""
        more = [key for key in varied(self.runs) if key not in FIRST]
        return [key for key in FIRST if key in ("algorithm", COUNT) or self.runs[key].n_unique() > 1] + more

    @property
    def question(self) -> str:
        """Of the sweep; else what the folder is."""
        if self.sweep:
            return self.sweep.question or f"Sweep {self.sweep.name}"
        return f"Runs in {self.folder.resolve().name}"

    @property
    def fast(self) -> bool:
        """Whether some runs are rehearsals."""
        return bool(self.runs["fast"].any())

    @property
    def progress(self) -> str:
        """``37 of 50 runs are done``."""
        total = planned(self.runs, self.sweep, self.unfinished)
        return f"{total - len(self.unfinished)} of {total} run{'s are' if total > 1 else ' is'} done"

    def of_all(self, name: str) -> list[str]:
        """The different values of an entry of the summaries, in words."""
        return sorted({str(summary.get(name)) for summary in self.summaries.values()})


def findings_in(folder: Path) -> Findings:
    """Read what is there.

    Raises:
        UserError: no such folder, no finished run in it, or a file that cannot be read.
    """
    sweep, episodes = sweep_in(folder), read_episodes(folder)
    runs, curves = runs_of(episodes), curves_of(episodes)
    try:
        metric = metric_of(runs)
    except NothingToCompareError:
        metric = None
    summaries = {name: read_json(folder / name / SUMMARY) for name in runs["run"]}
    return Findings(folder, sweep, runs, curves, summaries, unfinished_in(folder, sweep), metric)


def sweep_in(folder: Path) -> grid.Sweep | None:
    """The sweep whose folder this is, if it is one's.

    Raises:
        UserError: its file cannot be read.
    """
    file = folder / grid.FILE
    return grid.sweep_of(read_toml(file), str(file), folder.name) if file.is_file() else None


def unfinished_in(folder: Path, sweep: grid.Sweep | None) -> dict[str, str]:
    """Runs in a folder that are not finished, and how they stand: of a sweep all that it plans."""
    if sweep:
        missing = [run.name for run in sweep.runs() if not finished(folder, run.name)]
        return {f"runs/{name}": state_of_log(log_file(folder, name)) for name in missing}
    begun = [run for run, names in folders_in(folder) if CONFIG in names and not is_finished(run)]
    return {str(run.relative_to(folder)): "begun, not finished" for run in begun}


def planned(runs: pl.DataFrame, sweep: grid.Sweep | None, unfinished: Collection[str]) -> int:
    """How many runs are to be done: of a sweep those that it plans, however many halves of them have rows."""
    return len(sweep.runs()) if sweep else runs.height + len(unfinished)


def same_and_different(runs: pl.DataFrame) -> tuple[list[list[str]], list[list[str]]]:
    """The runs' resolved configuration in words: keys with one value, and keys with their several values."""
    same, different = [], []
    for key in configuration(runs.columns):
        values = runs[key].unique().sort().to_list()
        if len(values) == 1:
            same.append([key, str(values[0])])
        else:
            different.append([key, ", ".join(map(str, values))])
    return same, different
