"""The command line of ``iq-offline datasets``: what each command takes, and which function does it."""

import csv
import dataclasses
from pathlib import Path
from typing import Annotated

import tyro


@dataclasses.dataclass(frozen=True)
class ListDatasets:
    """List the built-in datasets and those in the local Minari folder."""


@dataclasses.dataclass(frozen=True)
class BuildDataset:
    """Record built-in datasets from their cards into the local Minari folder."""

    names: tyro.conf.Positional[tuple[str, ...]]
    """hopper/expert, hopper/medium, …"""


@dataclasses.dataclass(frozen=True)
class DownloadDataset:
    """Fetch a dataset into the local Minari folder (needs a network)."""

    name: tyro.conf.Positional[str]
    """On the Minari server, such as mujoco/hopper/expert-v0, or elsewhere: hf://… or gcp://…"""


@dataclasses.dataclass(frozen=True)
class InspectDataset:
    """Print what a dataset is (episodes, returns, spaces, actions, repetitions) and draw it."""

    name: tyro.conf.Positional[str]
    """A built-in dataset (hopper/expert) or any Minari id that is here (mujoco/hopper/expert-v0)."""
    picture: Path | None = None
    """PNG file to draw to; default the id with dashes, in the current folder."""


@dataclasses.dataclass(frozen=True)
class CheckDataset:
    """Print everything irregular in a dataset, and what training does about each.

    Exit code 0 where training takes the dataset, whatever it warns of; 2 where training would refuse it, or nothing can
    be read.
    """

    name: tyro.conf.Positional[str]
    """A built-in dataset (hopper/expert) or any Minari id that is here (mujoco/hopper/expert-v0)."""


@dataclasses.dataclass(frozen=True)
class TrainExpert:
    """Train the expert of a card again, as its weights were made (needs the [experts] extra). Resumes by itself."""

    name: tyro.conf.Positional[str]
    """The card: hopper, …"""
    output: Path | None = None
    """Folder of the training; default runs/experts/NAME."""
    write_card: bool = False
    """At the end write the tiers' weights and the card into the checkout's datasets folder."""


@dataclasses.dataclass(frozen=True)
class Cache:
    """Show where the cache of tensors is and how large, or empty it."""

    clear: bool = False
    """Delete it."""


@dataclasses.dataclass(frozen=True)
class ImportLog:
    """Make a dataset of a log: Parquet, CSV or NDJSON files with a row for every step, or npz files of arrays."""

    files: tyro.conf.Positional[tuple[str, ...]]
    """Files, globs in quotes, or folders; all of one kind."""
    id: str
    """Of the new dataset: company/driving-v0"""
    observation: tuple[str, ...]
    """Columns that make an observation: speed,lane,gap. A column of lists or a 2-D array gives several numbers; a name
    with a comma in it stands in double quotes: '"pos,x",speed'."""
    action: tuple[str, ...]
    """Columns that make an action: steer,brake"""
    episode: str | None = None
    """Column that tells the episodes apart; without it every file is one."""
    time: str | None = None
    """Column that rows are sorted by, numbers or times; without it they are in their order already."""
    terminal: str | None = None
    """Column that is true (or 1) in the row in which an episode ended for good."""
    truncated: str | None = None
    """Column that is true in the row in which an episode was cut off."""
    reward: str | None = None
    """Column of rewards; training reads none."""
    next_observation: str | None = None
    """Prefix of the columns that hold what each observation became: with next_, next_speed belongs to speed."""
    discrete: bool = False
    """Action columns hold choices among alternatives."""
    continuous: bool = False
    """Action columns hold amounts, even if all are whole numbers."""
    action_low: tuple[float, ...] = ()
    """Least value of each number of the action, or one for all; default: the least in the log."""
    action_high: tuple[float, ...] = ()
    """Greatest value, likewise."""
    max_gap: float | None = None
    """A longer step in time cuts the episode: seconds, or the unit of a numeric time; default 1.5 median steps."""
    replace: bool = False
    """Put the new dataset in the place of one of the same id."""


@dataclasses.dataclass(frozen=True)
class Datasets:
    """Datasets: list, build, import logs, download, inspect, check, train experts, look after the cache."""

    action: (
        Annotated[ListDatasets, tyro.conf.subcommand("list")]
        | Annotated[BuildDataset, tyro.conf.subcommand("build")]
        | Annotated[ImportLog, tyro.conf.subcommand("import")]
        | Annotated[DownloadDataset, tyro.conf.subcommand("download")]
        | Annotated[InspectDataset, tyro.conf.subcommand("inspect")]
        | Annotated[CheckDataset, tyro.conf.subcommand("check")]
        | Annotated[TrainExpert, tyro.conf.subcommand("train-expert")]
        | Annotated[Cache, tyro.conf.subcommand("cache")]
    )


DatasetAction = (
    ListDatasets | BuildDataset | ImportLog | DownloadDataset | InspectDataset | CheckDataset | TrainExpert | Cache
)


def run_dataset_command(action: DatasetAction) -> None:
    """Do what was asked for."""
    if isinstance(action, ListDatasets):  # Before the others' imports, which take seconds.
        from iq_offline.dataset_listing import list_datasets

        list_datasets()
        return
    from iq_offline import dataset_commands as commands

    match action:
        case BuildDataset(names):
            commands.build_datasets(names)
        case ImportLog():
            _import(action)
        case DownloadDataset(name):
            commands.download_dataset(name)
        case InspectDataset(name, picture):
            from iq_offline.inspect_command import inspect

            inspect(name, picture)
        case CheckDataset(name):
            from iq_offline.inspect_command import check

            check(name)
        case TrainExpert(name, output, write):
            commands.train_card(name, output or Path("runs/experts") / name, write)
        case Cache(clear):
            commands.manage_cache(clear)


def _import(given: ImportLog) -> None:
    from iq_offline.data.logs import Actions, Columns
    from iq_offline.dataset_commands import import_files
    from iq_offline.inspect_command import check

    observation, action = (
        tuple(name.strip() for line in csv.reader(words, skipinitialspace=True) for name in line if name.strip())
        for words in (given.observation, given.action)
    )
    roles = (given.episode, given.time, given.terminal, given.truncated, given.reward, given.next_observation)
    actions = Actions(given.discrete, given.continuous, given.action_low, given.action_high)
    columns = Columns(observation, action, *roles)
    import_files(given.files, given.id, columns, actions, given.max_gap, given.replace)
    check(given.id)
