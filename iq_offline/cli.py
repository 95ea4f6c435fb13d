"""The command line: ``iq-offline`` and the modules in ``iq_offline.recipes``. Errors are one line; torch comes late."""

import atexit
import dataclasses
import gc
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from iq_offline.command import guarded, parse, run_command, split_debug, without_sections
from iq_offline.config import (
    ALGORITHMS,
    LABELS,
    Algorithm,
    BCConfig,
    DataConfig,
    EvaluationConfig,
    GAILConfig,
    IQLearnConfig,
    OnlineConfig,
    RunConfig,
    SQILConfig,
    TrainingConfig,
    ValueDICEConfig,
    from_table,
    load_recipe,
    next_recipe,
    saved_config,
)
from iq_offline.config.iq_learn import set_by_hand, undecided
from iq_offline.config.online import MEETS_ENVIRONMENTS
from iq_offline.data.views import short
from iq_offline.dataset_cli import Datasets, run_dataset_command
from iq_offline.errors import UserError
from iq_offline.files import as_file_name
from iq_offline.run_table import print_table
from iq_offline.sweep_cli import Report, Results, Sweep, run_sweep_command

atexit.register(gc.freeze)  # Else all that torch is made of is gone through before the end, for half a second.

Unprefixed = tyro.conf.arg(name="")

FROM_SCRATCH, FINE_TUNING = 300_000, 100_000
"""Steps in the environment where none are given."""

MIXTURE_WARNING = (
    "note: the soft actor-critic step on mixtures with suboptimal data is known to score near zero offline; "
    "--iq-learn.policy lookahead is the default for that reason"
)


@dataclasses.dataclass(frozen=True)
class RunArguments:
    """What a training command takes: the recipe's configuration, and what changes no result."""

    data: Annotated[DataConfig, Unprefixed]
    training: Annotated[TrainingConfig, Unprefixed]
    iq_learn: IQLearnConfig
    bc: BCConfig
    valuedice: ValueDICEConfig
    sqil: SQILConfig
    gail: GAILConfig
    online: OnlineConfig
    evaluation: EvaluationConfig
    meets_environment: Annotated[bool, tyro.conf.arg(name="online")] = False
    """Train in the environment as well, without its reward: for 300,000 steps, or --online.env-steps. --no-online: what
    an online recipe is on fixed data alone."""
    algorithms: tuple[Algorithm, ...] = ("bc", "iq_learn")
    """Learners to train, one after another, on the same data."""
    seed: int = 0
    """Draws the networks, the batches and the trajectories."""
    fast: bool = False
    """A rehearsal of every part in seconds. Its scores are not results."""
    output: Path | None = None
    """Folder for the runs; default runs/RECIPE/…"""
    download: bool = False
    """Fetch Minari datasets that are not on this machine (needs a network)."""
    trust_env: bool = False
    """Evaluate in the environment that a dataset names even where no installed package registers it: runs its code."""
    tensorboard: bool = False
    """Also write TensorBoard event files (needs the extra)."""
    debug: bool = False
    """Show tracebacks."""


OF_A_RUN = ("seed", "fast", "data", "training", *ALGORITHMS, "online", "evaluation")
"""What :class:`RunArguments` and ``RunConfig`` share."""


def run_recipe(name: str, arguments: Sequence[str] | None = None) -> int:
    """A training command: the recipe of that name with overrides from the command line. Returns the exit code."""
    arguments = without_sections(sys.argv[1:] if arguments is None else arguments, ("data", "training"))

    def command() -> None:
        recipe, algorithms = load_recipe(name)
        values: dict[str, Any] = {key: getattr(recipe, key) for key in OF_A_RUN} | {"algorithms": algorithms}
        default = RunArguments(**values, meets_environment=recipe.is_online)
        about = f"Train on fixed data, evaluate afterwards. Recipe {recipe.recipe}. Only --online meets an environment."
        prog = f"iq-offline train {name}"
        given = parse(RunArguments, arguments, prog=prog, description=about, default=default)
        if "--no-online" in arguments and given.online.env_steps != recipe.online.env_steps:
            raise UserError(f"--no-online and --online.env-steps {given.online.env_steps}: leave one of them out")
        if recipe.is_online and not given.meets_environment:
            given = dataclasses.replace(given, online=OnlineConfig())
        elif given.meets_environment and not (recipe.is_online or given.online.env_steps):
            given = dataclasses.replace(given, online=dataclasses.replace(given.online, env_steps=FROM_SCRATCH))
        then = next_recipe(name)
        more = load_recipe(then)[0] if then else None
        _train(recipe.recipe, given, more and more.recipe)
        if more and not _names_data(arguments) and not given.online.env_steps:
            output = given.output and given.output / more.recipe
            print()
            _train(more.recipe, dataclasses.replace(given, data=more.data, output=output))

    return guarded(command, "--debug" in arguments)


def _names_data(arguments: Sequence[str]) -> bool:
    """Whether data are chosen on the command line, be they those of the recipe."""
    options = {word.partition("=")[0].replace("_", "-") for word in arguments if word.startswith("--")}
    return not options.isdisjoint(f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(DataConfig))


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _train(recipe: str, given: RunArguments, beside: str | None = None) -> None:
    """Train and evaluate the algorithms, and print what came out; ``beside``: a folder that may be among theirs."""
    table = {key: getattr(given, key) for key in OF_A_RUN} | {"recipe": recipe}
    algorithms = given.algorithms
    if given.online.env_steps:
        algorithms = tuple(name for name in algorithms if name in MEETS_ENVIRONMENTS)
    configs = [from_table(RunConfig, table | {"algorithm": name}, "command line") for name in algorithms]
    if not configs:
        known = f"{', '.join(ALGORITHMS)} can, online {' and '.join(MEETS_ENVIRONMENTS)}"
        raise UserError(f"--algorithms names none that can be trained: {known}")
    from iq_offline.experiment import Options, draw_comparison, run_all

    options = Options(given.download, given.trust_env, given.tensorboard, _say)
    if left_out := [LABELS[name] for name in given.algorithms if name not in algorithms]:
        options.say(f"note: {', '.join(left_out)} has no online stage, and is left out")
    plain = given.iq_learn.policy == "soft_actor_critic"
    if plain and given.data.suboptimal and "iq_learn" in given.algorithms and not given.online.env_steps:
        options.say(MIXTURE_WARNING)
    folder = given.output or default_folder(recipe, given)
    summaries = run_all(configs, folder, options, beside)
    print_table(summaries, given.data.suboptimal)
    draw_comparison(folder, summaries)  # After the table, for which nothing need be written.
    print(f"runs, curves and policies: {folder}")


@dataclasses.dataclass(frozen=True)
class FinetuneArguments:
    """What fine-tuning takes besides the offline run's own configuration."""

    online: Annotated[OnlineConfig, Unprefixed]
    training: Annotated[TrainingConfig, Unprefixed]
    iq_learn: IQLearnConfig
    evaluation: EvaluationConfig
    fast: bool = False
    """A rehearsal of every part in seconds. Its scores are not results."""
    output: Path | None = None
    """Folder of the run; default runs/finetune/…"""
    download: bool = False
    """Fetch Minari datasets that are not on this machine (needs a network)."""
    trust_env: bool = False
    """Step the environment that a dataset names even where no installed package registers it: runs its code."""
    tensorboard: bool = False
    """Also write TensorBoard event files (needs the extra)."""
    debug: bool = False
    """Show tracebacks."""


def run_finetune(folder: Path, arguments: Sequence[str]) -> int:
    """``iq-offline finetune RUN_DIR``: an offline run goes on in the environment. Returns the exit code."""
    arguments = without_sections(arguments, ("online", "training"))

    def command() -> None:
        offline = offline_run(folder)
        online = OnlineConfig(FINE_TUNING, str(folder.resolve()))
        default = FinetuneArguments(
            online=online,
            training=dataclasses.replace(offline.training, prefetch=0),  # Fixed data's alone, and changes no result.
            iq_learn=undecided(offline.iq_learn),
            evaluation=offline.evaluation,
            fast=offline.fast,
        )
        about = f"Go on with {folder} in the environment: no reward is read, and the fixed data stay in every batch."
        prog = f"iq-offline finetune {folder}"
        given = parse(FinetuneArguments, arguments, prog=prog, description=about, default=default)
        changes = {name: getattr(given, name) for name in ("online", "training", "iq_learn", "evaluation", "fast")}
        config = dataclasses.replace(offline, algorithm="iq_learn", **changes)
        from iq_offline.experiment import Options, run

        options = Options(given.download, given.trust_env, given.tensorboard, _say)
        name = "-".join(folder.resolve().parts[-2:]) + ("-fast" if given.fast else "")
        target = given.output or Path("runs") / "finetune" / name
        for note in _on_the_start(folder, offline, given.iq_learn, target):
            _say(f"note: {note}")
        print_table([run(config, target, options)], config.data.suboptimal)
        print(f"the run, its curve and its policy: {target}")

    return guarded(command, "--debug" in arguments)


def _on_the_start(folder: Path, offline: RunConfig, given: IQLearnConfig, target: Path) -> Iterator[str]:
    """What someone may not expect of how a run is fine-tuned, unless that has begun."""
    from iq_offline.training.offline import LATEST, step_reached

    if (target / LATEST).exists() or not (folder / LATEST).exists():
        return
    reached, planned = step_reached(folder), offline.training.gradient_steps
    if reached < planned:
        yield f"{folder} is not at its end: its networks are those of step {reached:,} of {planned:,}"
    if offline.algorithm in MEETS_ENVIRONMENTS and offline.algorithm != "iq_learn":
        learner, critic = LABELS[offline.algorithm], "nu" if offline.algorithm == "valuedice" else "critic"
        yield (
            f"{learner}'s policy goes on by IQ-Learn; {learner} itself goes on, with its {critic}, where a recipe has "
            "the run as online.start: iq-offline train RUN_DIR/config.toml --online.start RUN_DIR --online.env-steps "
            f"{FINE_TUNING}{' --prefetch 0' * bool(offline.training.prefetch)}"
        )
    by_hand = set_by_hand(offline.iq_learn, bool(offline.data.suboptimal)) if offline.algorithm == "iq_learn" else ()
    for name in by_hand:
        if getattr(given, name) == "auto":
            value, option = getattr(offline.iq_learn, name), f"--iq-learn.{name.replace('_', '-')}"
            yield f"iq_learn.{name} = {value} is the offline run's; here it is decided anew ({option} sets it)"


def offline_run(folder: Path) -> RunConfig:
    """The configuration of an offline run's folder.

    Raises:
        UserError: it is none; folders of several runs are told apart.
    """
    if not (folder / "config.toml").exists():
        inside = [name for name in LABELS if (folder / name / "config.toml").exists()]
        if inside:
            raise UserError(f"{folder} holds several runs: give {' or '.join(str(folder / name) for name in inside)}")
        raise UserError(f"{folder} is no run: config.toml is missing")
    config = saved_config(folder / "config.toml")
    if config.is_online:
        raise UserError(f"{folder} is an online run already: the same command that began it goes on with it")
    return config


def default_folder(recipe: str, given: RunArguments) -> Path:
    """``runs/RECIPE/hopper-expert-n1-k1-seed0`` and the like: what most often changes is in the name."""
    data = given.data
    words = [
        as_file_name(short(data.expert)),
        f"n{data.num_expert_trajectories}",
        f"k{data.subsample}",
        f"seed{given.seed}",
    ]
    words += [
        f"{as_file_name(short(part.dataset))}{part.episodes or ''}{'-hidden' if part.hidden else ''}"
        for part in data.suboptimal
    ]
    online = given.online
    words += ["finetuned" if online.start else "online"] * bool(online.env_steps) + ["fast"] * given.fast
    return Path("runs") / recipe / "-".join(words)


@dataclasses.dataclass(frozen=True)
class Finetune:
    """Go on with an offline run in the environment: iq-offline finetune RUN_DIR [--env-steps 100000]."""

    arguments: tyro.conf.Positional[tuple[str, ...]] = ()
    """The run's folder and overrides; 'iq-offline finetune RUN_DIR --help' lists them."""


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a recipe: iq-offline train RECIPE [overrides]. RECIPE is a shipped name or the path of a TOML file."""

    arguments: tyro.conf.Positional[tuple[str, ...]] = ()
    """The recipe and its overrides; 'iq-offline train RECIPE --help' lists them."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Offline-first imitation on Minari datasets. Anywhere, --debug shows tracebacks."""

    command: (
        Annotated[Train, tyro.conf.subcommand("train")]
        | Annotated[Finetune, tyro.conf.subcommand("finetune")]
        | Annotated[Sweep, tyro.conf.subcommand("sweep")]
        | Annotated[Results, tyro.conf.subcommand("results")]
        | Annotated[Report, tyro.conf.subcommand("report")]
        | Annotated[Datasets, tyro.conf.subcommand("datasets")]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """``iq-offline``."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug, words = split_debug(arguments)
    if len(words) > 1 and words[0] == "train" and not words[1].startswith("-"):
        return run_recipe(words[1], debug + words[2:])
    if len(words) > 1 and words[0] == "finetune" and not words[1].startswith("-"):
        return run_finetune(Path(words[1]), debug + words[2:])

    def command(given: Arguments) -> None:
        chosen = given.command
        if isinstance(chosen, Train):
            raise UserError("which recipe? iq-offline train hopper_offline --help")
        if isinstance(chosen, Finetune):
            raise UserError("which run? iq-offline finetune RUN_DIR --env-steps 100000")
        if isinstance(chosen, Datasets):
            run_dataset_command(chosen.action)
        else:
            run_sweep_command(chosen)

    return run_command(Arguments, command, "iq-offline", arguments)
