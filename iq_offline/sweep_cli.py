"""The command line of sweeps: ``iq-offline sweep | results | report``."""

import dataclasses
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from pydantic import Field
from pydantic.dataclasses import dataclass

from iq_offline.config import STRICT, Algorithm, Positive, label
from iq_offline.errors import UserError

if TYPE_CHECKING:
    import polars as pl

    from iq_offline.sweeps import grid
    from iq_offline.sweeps.launch import Launcher
    from iq_offline.sweeps.published import Published


NAMED = tyro.conf.arg(name="sweep")
"""Of the options, in the help."""


@dataclass(frozen=True, config=STRICT)
class SweepOptions:
    """How a sweep is run. Only --set and --fast change its runs."""

    output: Path | None = None
    """Folder of the sweep; default runs/NAME. A sweep that is there goes on."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Configuration of every run, over what the file says: --set data.subsample=20 training.gradient_steps=5000."""
    fast: bool = False
    """Rehearse every run with a tiny budget, in a folder of its own. The scores are not results."""
    launcher: Literal["local", "ray"] = "local"
    """Where runs happen: processes on this machine, or tasks on a Ray cluster (needs the [ray] extra)."""
    workers: Positive | None = None
    """Runs at a time on this machine; default one for each core."""
    ray_address: str | None = None
    """An existing Ray cluster (such as ray://head:10001 or auto); default one of its own on this machine."""
    cpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Processors that Ray gives each run."""
    gpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """GPUs, or the share of one, that Ray gives each run on a GPU."""
    population: Positive | None = None
    """Learners to train as one program at most; default many on a GPU, one on a CPU."""
    baseline: Algorithm = "bc"
    """The algorithm that the others are compared with in the tables, paired by seed."""
    wait: bool = True
    """Wait for runs that other processes are doing in the same folder, and take over those of a process that dies."""
    download: bool = False
    """Fetch Minari datasets that are not on this machine (needs a network)."""
    trust_env: bool = False
    """Evaluate in the environment that a dataset names even where no installed package registers it: runs its code."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Train and score every run of a sweep's file, then print the tables and draw the figures.

    The same command goes on where it was cut off; a second process on the same folder shares the work.
    """

    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SWEEP")]
    """A shipped sweep (hopper_expert_count) or the path of a TOML file."""
    options: Annotated[SweepOptions, NAMED] = SweepOptions()


@dataclasses.dataclass(frozen=True)
class Results:
    """Print what the runs in a folder say together, and write it as Parquet, CSV, Markdown and LaTeX."""

    folder: tyro.conf.Positional[Path]
    """Of a sweep, or any folder with runs in it."""
    output: Path | None = None
    """Folder for the tables; default FOLDER/results."""
    baseline: Algorithm = "bc"
    """The algorithm that the others are compared with, paired by seed."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page about the runs in a folder: answer, figures, tables, configuration, videos."""

    folder: tyro.conf.Positional[Path]
    """Of a sweep, or any folder with runs in it."""
    output: Path | None = None
    """The page, or a folder for it; default FOLDER/report.html."""
    baseline: Algorithm = "bc"
    """The algorithm that the others are compared with, paired by seed."""
    video: bool = True
    """Show the policy at each number of trajectories, where its environment can be drawn."""


@dataclasses.dataclass(frozen=True)
class ExpertCount:
    """How many expert trajectories does a dataset need? Trains and scores learners on each number of them."""

    dataset: str
    """A built-in dataset (hopper/expert) or any Minari id (mujoco/hopper/expert-v0)."""
    counts: tuple[int, ...] = (1, 3, 5, 10, 25)
    """Numbers of expert trajectories."""
    seeds: int = 5
    """Learners for each number: seeds 0, 1, …"""
    algorithms: tuple[Algorithm, ...] = ("bc", "iq_learn")
    """Learners to compare."""
    options: Annotated[SweepOptions, NAMED] = SweepOptions()


def run_sweep_command(given: Sweep | Results | Report) -> None:
    """Do one of the commands."""
    if isinstance(given, Sweep):
        from iq_offline.sweeps.grid import load_sweep

        sweep(load_sweep(given.file, changes_of(given.options)), given.options)
    elif isinstance(given, Results):
        from iq_offline.sweeps.findings import planned, sweep_in, unfinished_in
        from iq_offline.sweeps.results import read_episodes, require_baseline, runs_of

        runs = runs_of(read_episodes(given.folder))
        require_baseline(given.baseline, runs["algorithm"], given.folder)
        try:
            sweep_there = sweep_in(given.folder)
        except UserError as error:  # As of an older version: the runs' own rows can still be read.
            sweep_there = None
            print(f"note: runs that were not begun are not counted: {error}", file=sys.stderr)
        missing = unfinished_in(given.folder, sweep_there)
        total = planned(runs, sweep_there, missing)
        tabulate(runs, given.output or given.folder / "results", given.baseline, len(missing), total)
    else:
        from iq_offline.sweeps.report import write_report

        print(f"report: {write_report(given.folder, given.output, given.video, given.baseline)}")


def expert_count(given: ExpertCount) -> None:
    """``python -m iq_offline.recipes.expert_count``: the sweep that needs no file."""
    from iq_offline.data.views import short
    from iq_offline.files import as_file_name
    from iq_offline.sweeps.grid import sweep_of

    table = {
        "sweep": "expert_count-" + as_file_name(short(given.dataset)),
        "question": f"How many expert trajectories does {short(given.dataset)} need?",
        "data": {"expert": given.dataset},
        "grid": {
            "algorithm": list(given.algorithms),
            "data.num_expert_trajectories": list(given.counts),
            "seeds": given.seeds,
        },
    }
    sweep(sweep_of(table, "command line", "expert_count", changes_of(given.options)), given.options)


def changes_of(options: SweepOptions) -> dict[str, Any]:
    """What ``--set`` and ``--fast`` fix, by dotted key."""
    changes: dict[str, Any] = {"fast": True} if options.fast else {}
    for words in options.set:
        key, equals, value = words.partition("=")
        if not equals:
            raise UserError(f"--set {words}: must be KEY=VALUE, such as data.subsample=20")
        try:
            changes[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            changes[key] = value  # A word without quotation marks.
    return changes


def sweep(chosen: "grid.Sweep", options: SweepOptions) -> None:
    """Check everything, do the runs that are missing, then show what all of them say."""
    from iq_offline.experiment import Options
    from iq_offline.files import disk_errors, write_atomically
    from iq_offline.sweeps import grid, launch, preflight
    from iq_offline.sweeps.findings import unfinished_in
    from iq_offline.sweeps.results import NothingToCompareError, curves_of, read_episodes, require_baseline, runs_of

    say = lambda line: print(line, file=sys.stderr)  # noqa: E731
    folder = (options.output or Path("runs") / (chosen.name + "-fast" * bool(chosen.fixed.get("fast")))).absolute()
    runs, launcher = chosen.runs(), launcher_of(options)  # Ray may be missing: before anything is looked at.
    require_baseline(options.baseline, [run.config.algorithm for run in runs], f"sweep {chosen.name}")
    text = grid.claim_folder(chosen, folder)
    allowed = Options(options.download, options.trust_env, say=say)
    preflight.check_runs(runs, folder, allowed, here=options.ray_address is None)
    preflight.let_be_scored(runs, folder, allowed)
    if text is not None:
        with disk_errors("starting a sweep", folder):
            write_atomically(folder / grid.FILE, text)
    outcome = launch.run_sweep(
        launch.tasks_of(runs, options.population),
        folder,
        launcher,
        wait=options.wait,
        trust_env=options.trust_env,
    )
    try:
        if outcome.done:
            episodes = read_episodes(folder)
            finished = runs_of(episodes)
            missing = len(unfinished_in(folder, chosen))
            tabulate(finished, folder / "results", options.baseline, missing, len(runs))
            draw(finished, curves_of(episodes), folder / "figures", chosen.published)
    except NothingToCompareError as error:
        say(f"no tables: {error}")
    finally:  # Also where the tables cannot be written.
        for failure in outcome.failed:
            say(f"failed: {failure.name}: {failure.error}\n{failure.last_lines}\n({failure.log})")
        if outcome.elsewhere:
            say(f"{len(outcome.elsewhere)} runs go on in other processes")
        print(f"sweep: {folder} (iq-offline report makes one page of it)")
    if outcome.failed:
        raise UserError(f"{len(outcome.failed)} of {len(runs)} runs failed; the same command tries them again")


def draw(runs: "pl.DataFrame", curves: "pl.DataFrame", output: Path, published: "Sequence[Published]") -> None:
    """Write the figures."""
    from iq_offline.files import disk_errors
    from iq_offline.sweeps.figures import write_figures

    with disk_errors("drawing the figures", output):
        write_figures(output, runs, curves, published)
    print(f"figures: {output}")


def launcher_of(options: SweepOptions) -> "Launcher":
    """What does the runs."""
    if options.launcher == "ray":
        if options.workers is not None:
            raise UserError("--workers is for --launcher local: with Ray give --cpus, what each run gets")
        from iq_offline.sweeps.ray_launcher import RayLauncher

        return RayLauncher(options.ray_address, options.cpus, options.gpus)
    for name in ("ray_address", "cpus", "gpus"):
        if getattr(options, name) != getattr(SweepOptions, name):
            raise UserError(f"--{name.replace('_', '-')} needs --launcher ray")
    from iq_offline.sweeps.local import LocalLauncher

    return LocalLauncher(options.workers)


def tabulate(
    runs: "pl.DataFrame", output: Path, baseline: Algorithm = "bc", missing: int = 0, total: int | None = None
) -> None:
    """Print and write the tables.

    Args:
        runs: one row a finished run.
        output: folder of the tables.
        baseline: what the others are compared to.
        missing: runs of the same sweep that failed or are not finished.
        total: runs of the sweep, those that are missing among them; offline halves are none. Default: all are there.
    """
    from iq_offline.files import disk_errors
    from iq_offline.sweeps import results as tables_of
    from iq_offline.sweeps.tables import overview_of, print_frame, write_tables

    metric, by = tables_of.metric_of(runs), tables_of.varied(runs)
    left_out = runs[metric].null_count()
    total = runs.height if total is None else total
    summary = tables_of.summary_of(runs, by, metric)
    comparisons = tables_of.comparisons_of(runs, by, metric, baseline)
    said = {
        "--fast: a rehearsal, not a result": runs["fast"].any(),
        f"{missing} of the sweep's {total} runs failed or are not finished, and are left out": missing,
        f"{left_out} runs have no {metric.replace('_', ' ')} and are left out": left_out,
        "The runs were made with different versions of the code": runs["git_commit"].n_unique() > 1,
    }
    caption = ". ".join(words for words, holds in said.items() if holds)
    constant = ", ".join(sorted({str(value) for value in runs["data.expert"].unique()}))
    meaning = {"score": "normalised scores (0 random, 1 expert)", "return": "returns"}
    lower = " (lower is better)" if metric == "held_out_error" else ""
    title = f"{constant}: {meaning.get(metric, 'error on held-out trajectories')}, {total - missing} runs{lower}"
    print_frame(summary, title, caption)
    overview = overview_of(summary)
    if overview.height:
        print_frame(overview, f"interquartile means and 95% intervals, by the kind of suboptimal data{lower}")
    lacking = tables_of.not_compared(summary, comparisons, baseline)
    if comparisons.width:
        print_frame(comparisons, f"difference to {label(baseline)}, paired by seed{lower}", lacking)
    elif lacking:
        print(lacking)
    frames = {"runs": runs, "summary": summary, "overview": overview, "comparisons": comparisons}
    with disk_errors("writing the tables", output):
        write_tables(output, frames)
    print(f"tables: {output}")
