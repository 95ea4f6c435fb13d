"""The configuration of a run: data, learner, budget, evaluation. Frozen, validated, saved with every run.

Defaults < a recipe (TOML) < command-line overrides. Importing this file imports neither torch nor gymnasium.
"""

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import tomli_w
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from tyro.constructors import PrimitiveConstructorSpec

from iq_offline.errors import UserError, nearest
from iq_offline.files import shipped
from iq_offline.online_config import OnlineConfig, checked_online

Algorithm = Literal["iq_learn", "bc"]
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)
LABELS: dict[str, str] = {"iq_learn": "IQ-Learn", "bc": "BC"}
"""The algorithms' names for people."""

STRICT = ConfigDict(extra="forbid")

Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Rate = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, config=STRICT)
class Suboptimal:
    """A part of the suboptimal data: a dataset, or some of its episodes."""

    dataset: str
    """A built-in dataset or any Minari id."""
    episodes: Positive | None = None
    """How many of its episodes, drawn by the run's seed; all where none is given."""
    hidden: bool = False
    """These are trajectories of the expert's dataset without their label: never the labelled or the held-out ones."""


def _as_suboptimal(value: Any) -> Any:
    """``NAME``, ``NAME:EPISODES`` and ``NAME:EPISODES:hidden`` in place of a table."""
    if not isinstance(value, str):
        return value
    words = re.fullmatch(r"(?P<dataset>.+?)(:(?P<episodes>\d+))?(?P<hidden>:hidden)?", value)
    if words is None:
        return value
    episodes = words["episodes"]
    return {"dataset": words["dataset"], "episodes": episodes and int(episodes), "hidden": bool(words["hidden"])}


def mixture_words(part: Suboptimal) -> str:
    """``NAME``, ``NAME:EPISODES`` or ``NAME:EPISODES:hidden``."""
    return part.dataset + (f":{part.episodes}" if part.episodes else "") + (":hidden" if part.hidden else "")


def _from_words(words: list[str]) -> Suboptimal:
    return from_table(Suboptimal, _as_suboptimal(words[0]), f"--suboptimal {words[0]}")


SuboptimalPart = Annotated[
    Suboptimal,
    BeforeValidator(_as_suboptimal),
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="NAME[:EPISODES[:hidden]]",
        instance_from_str=_from_words,
        is_instance=lambda value: isinstance(value, Suboptimal),
        str_from_instance=lambda part: [mixture_words(part)],
    ),
]


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Which fixed data the learner sees."""

    expert: str = "hopper/expert"
    """Dataset of the demonstrations: a built-in one (hopper/expert) or any Minari id (mujoco/hopper/expert-v0)."""
    num_expert_trajectories: Positive = 1
    """Expert trajectories to learn from. Nested: the 5 of a seed contain its 3, which contain its 1."""
    subsample: Positive = 1
    """Keep every k-th transition of each trajectory, with its true next state; the first is drawn per trajectory."""
    suboptimal: tuple[SuboptimalPart, ...] = ()
    """Other behaviour, mixed in without labels: datasets, or some episodes of them."""
    suboptimal_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of each batch that comes from the suboptimal data, where there are any."""
    held_out_trajectories: Annotated[int, Field(ge=0)] = 5
    """Expert trajectories to keep from training and measure the policy on, if so many are left."""
    observation_keys: tuple[str, ...] = ()
    """Parts of a Dict or Tuple observation to learn from, in this order (state.speed is a part of state). Default: all.
    """
    frame_stack: Positive = 1
    """Images seen at once: the newest and those before it."""
    action_low: tuple[float, ...] = ()
    """In place of the lower bounds of the dataset's action box: one number for all dimensions, or one for each."""
    action_high: tuple[float, ...] = ()
    """In place of the upper bounds."""


@dataclass(frozen=True, config=STRICT)
class TrainingConfig:
    """Networks, budget and averaging: the same for every algorithm."""

    gradient_steps: Positive = 10_000
    """Updates in all. The result is the averaged policy after the last one: no checkpoint is chosen."""
    batch_size: Positive = 256
    """Transitions in each batch, all kinds together."""
    hidden_sizes: tuple[Positive, ...] = (256, 256)
    """Units in the hidden layers of every network."""
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the moving average of the actor's weights."""
    cosine_schedule: bool = True
    """Let the learning rates fall to zero along a cosine."""
    normalize_observations: bool = True
    """Shift and scale observations by the mean and deviation of the chosen data."""
    log_every: Positive = 100
    """Steps between rows of metrics."""
    checkpoint_every: Positive = 2_000
    """Steps between checkpoints."""
    snapshots: Annotated[int, Field(ge=0)] = 10
    """Averaged policies kept along the way, for the curve only; they are evaluated after training."""
    prefetch: Annotated[int, Field(ge=0)] = 0
    """Batches drawn ahead in a thread: for images, and data that do not fit in memory. The result is the same."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of the training."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1, …"""
    torch_threads: Positive = 1
    """Threads of torch. One is fastest for networks this small on busy machines; the last bits depend on it."""


@dataclass(frozen=True, config=STRICT)
class IQLearnConfig:
    """Coefficients of IQ-Learn: of the soft actor-critic policy step, and of choosing from suboptimal data."""

    discount: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Gamma."""
    divergence: Literal[
        "chi_squared", "hellinger", "kl", "reverse_kl", "jensen_shannon", "total_variation", "wasserstein"
    ] = "chi_squared"
    """Between policy and expert. Only chi_squared is tuned; the last two bound the reward, or its slopes."""
    chi2_alpha: Annotated[float, Field(gt=0)] = 0.5
    """The paper's alpha in phi(x) = x - x²/(4 alpha)."""
    temperature: Annotated[float, Field(gt=0)] = 0.001
    """Entropy coefficient, fixed."""
    value_states: Literal["auto", "expert", "mixture", "initial"] = "auto"
    """States of the value term; auto is expert without suboptimal data and mixture with it."""
    chi2_states: Literal["auto", "expert", "mixture"] = "auto"
    """Transitions of the chi-squared term; auto as above."""
    gradient_penalty: Annotated[float, Field(ge=0)] = 0.3
    """Weight of E_E[|dQ/da|²] at the expert's actions, added to the critic's loss. 0: the paper's loss."""
    constraint_weight: Annotated[float, Field(ge=0)] = 10.0
    """total_variation, wasserstein: of E[max(0, |r| - 1/2)²] over the batch; of E_E[max(0, |dQ| - 1)²]."""
    behavior_anchor: Annotated[float, Field(ge=0)] = 10.0
    """Weight of E_E[|tanh(mean(s)) - a|²] in the actor's loss. 0: the paper's policy step."""
    actor_follows_critic: bool = True
    """Off: the actor's loss is the anchor alone, the control that shows how much of a score is the anchor's."""
    critic_learning_rate: Rate = 1e-3
    """Adam's, at the start."""
    actor_learning_rate: Rate = 3e-4
    """Adam's, at the start."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Adam's momentum for both. At the usual 0.9 critic and actor circle around the expert instead of settling."""
    target_update_rate: Rate = 0.005
    """How fast the target critic follows."""
    policy: Literal["auto", "soft_actor_critic", "lookahead", "survival", "weighted", "best_episodes"] = "auto"
    """Where the policy comes from. soft_actor_critic: from Q (with finitely many actions, its softmax). lookahead: by
    imitating what of the suboptimal data leads to where the expert is. auto: lookahead where there are such data.
    Controls: survival looks ahead for the ends of episodes alone; weighted and best_episodes do not look ahead, and
    imitate single transitions and whole episodes by their reward."""
    reward_penalty: Annotated[float, Field(ge=0)] = 1.0
    """Choosing: weight of E[max(0, |dr| - 1)²] between labelled and suboptimal transitions."""
    reward_learning_rate: Rate = 3e-4
    """Choosing: Adam's, at the start, for the implied reward and the value."""
    choose_every: Positive = 250
    """Choosing: gradient steps after which all suboptimal data are gone through anew (about 4 s a million rows)."""
    lasting: Positive = 50
    """lookahead: an episode comes to a value if it keeps it up for so many steps on average, or for all that it has."""
    relevance: Annotated[float, Field(ge=0)] = 40.0
    """lookahead, best_episodes: how sharply rows are preferred that come near the expert's value."""
    least_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """lookahead, best_episodes: of the suboptimal data, what is relevant at least, as an effective number of rows."""
    outlier_error: Annotated[float, Field(gt=0)] = 0.5
    """Choosing: as bc.outlier_error, for the actor. Some of what is imitated is not the expert's."""


@dataclass(frozen=True, config=STRICT)
class BCConfig:
    """Coefficients of behavior cloning."""

    loss: Literal["squared_error", "robust", "likelihood"] = "squared_error"
    """Squared error of tanh(mean); the same, but hardly counting actions far off; or minus the log-likelihood."""
    learning_rate: Rate = 3e-4
    """Adam's, at the start."""
    imitate: Literal["expert", "everything"] = "expert"
    """The labelled expert alone, or the suboptimal data as well, in the shares of a batch."""
    outlier_error: Annotated[float, Field(gt=0)] = 0.5
    """robust: the error that counts half of what it would (root mean square over an action; half a box is 1)."""


@dataclass(frozen=True, config=STRICT)
class EvaluationConfig:
    """How a finished policy is scored. Nothing here reaches the training."""

    episodes: Positive = 10
    """Whole episodes with the mean action."""
    seed: Seed = 10_000
    """Seed of the first episode; the others follow."""


@dataclass(frozen=True, config=STRICT)
class RunConfig:
    """One learner's run, whole."""

    recipe: str = "custom"
    """Name of the recipe, which is also the folder under runs/."""
    algorithm: Algorithm = "iq_learn"
    """Which learner."""
    seed: Seed = 0
    """Draws the networks, the batches and the trajectories."""
    fast: bool = False
    """A rehearsal with a tiny budget: every part runs, the score is not a result."""
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    iq_learn: IQLearnConfig = IQLearnConfig()
    bc: BCConfig = BCConfig()
    online: OnlineConfig = OnlineConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def is_online(self) -> bool:
        """Whether training meets the environment."""
        return self.online.env_steps > 0

    @property
    def stage(self) -> TrainingConfig:
        """The training section as this run follows it: online, the budget is that of the steps in the environment."""
        if not self.is_online:
            return self.training
        snapshots = self.online.env_steps // self.online.evaluate_every
        return dataclasses.replace(self.training, gradient_steps=self.online.gradient_steps, snapshots=snapshots)


Config = TypeVar("Config")


def from_table(kind: type[Config], table: dict[str, Any], source: str) -> Config:
    """A configuration dataclass from a TOML table.

    Raises:
        UserError: a key does not exist (the nearest is suggested) or a value does not fit; ``source`` names the file.
    """
    try:
        return TypeAdapter(kind).validate_python(table)
    except ValidationError as error:
        raise UserError(f"{source}: {explain(error, kind)}") from error


def to_table(config: Any) -> dict[str, Any]:
    """Plain tables and values for TOML or JSON, without what is not set."""
    return TypeAdapter(type(config)).dump_python(config, mode="json", exclude_none=True)


def to_toml(config: Any) -> str:
    """The resolved configuration as TOML text."""
    return tomli_w.dumps(to_table(config))


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables within tables as one, with dotted keys: ``data.subsample``."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return values


def resolved(config: RunConfig) -> RunConfig:
    """The configuration with every ``auto`` decided and ``fast`` applied.

    Raises:
        UserError: terms over the mixture without suboptimal data; a divergence that the policy does not know; what
            cannot be online.
    """
    iq_learn = config.iq_learn
    states, policy = ("mixture", "lookahead") if config.data.suboptimal else ("expert", "soft_actor_critic")
    if config.is_online:
        states, policy = "mixture", "soft_actor_critic"
    chosen = {
        name: default if getattr(iq_learn, name) == "auto" else getattr(iq_learn, name)
        for name, default in {"value_states": states, "chi2_states": states, "policy": policy}.items()
    }
    for name, value in chosen.items():
        needs = value not in ("expert", "initial", "soft_actor_critic") and config.algorithm == "iq_learn"
        if needs and not (config.data.suboptimal or (config.is_online and value == "mixture")):
            raise UserError(f"iq_learn.{name} = {value!r} needs suboptimal data: give --suboptimal, or use 'auto'")
    if (
        iq_learn.divergence != "chi_squared"
        and chosen["policy"] != "soft_actor_critic"
        and config.algorithm == "iq_learn"
    ):
        raise UserError(
            f"iq_learn.divergence = {iq_learn.divergence!r} needs iq_learn.policy = 'soft_actor_critic': "
            f"{chosen['policy']!r} is by chi-squared alone"
        )
    config = dataclasses.replace(config, iq_learn=dataclasses.replace(iq_learn, **chosen))
    if config.fast:
        training = dataclasses.replace(
            config.training, gradient_steps=200, checkpoint_every=100, log_every=20, snapshots=2
        )
        evaluation = dataclasses.replace(config.evaluation, episodes=2)
        chosen_often = dataclasses.replace(config.iq_learn, choose_every=min(config.iq_learn.choose_every, 50))
        config = dataclasses.replace(config, training=training, evaluation=evaluation, iq_learn=chosen_often)
    if config.is_online:
        config = dataclasses.replace(config, online=checked_online(config))
    if config.algorithm == "bc" and config.bc.imitate == "everything" and not config.data.suboptimal:
        raise UserError("bc.imitate = 'everything' needs suboptimal data: give --suboptimal, or use 'expert'")
    return config


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Tables within tables from dotted keys: the inverse of :func:`flat`."""
    table: dict[str, Any] = {}
    for key, value in values.items():
        *above, last = key.split(".")
        inner = table
        for name in above:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return table


def is_others(key: str, algorithm: Any) -> bool:
    """Whether a dotted key belongs to the section of another algorithm, so that this one does not read it."""
    section = key.split(".")[0]
    return section in ALGORITHMS and section != algorithm


def recipe_table(name: str) -> dict[str, Any]:
    """What a shipped recipe, or any by the path of its TOML file, holds.

    Raises:
        UserError: no such recipe (near names suggested), not TOML, or ``algorithms`` is no list.
    """
    folder = shipped("recipes")
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.is_file():
        known = [file.stem for file in folder.glob("*.toml")]
        raise UserError(f"no recipe {name!r}{nearest(name, known)} (shipped: {', '.join(sorted(known))})")
    table = read_toml(path)
    algorithms = table.get("algorithms", [])
    if not isinstance(algorithms, list):
        raise UserError(f"{path}: algorithms = {algorithms!r}: must be a list of names, such as ['bc', 'iq_learn']")
    return table


def load_recipe(name: str) -> tuple[RunConfig, tuple[str, ...]]:
    """A recipe and the algorithms it compares: its ``algorithm``, or the list ``algorithms``.

    Raises:
        UserError: as :func:`recipe_table`, or a wrong key or value in it.
    """
    table = recipe_table(name)
    algorithms = table.pop("algorithms", None) or [table.get("algorithm", RunConfig().algorithm)]
    configs = [from_table(RunConfig, table | {"algorithm": algorithm}, name) for algorithm in algorithms]
    return configs[0], tuple(algorithms)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        UserError: it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error


def explain(error: ValidationError, kind: Any) -> str:
    """The first problem of a failed validation in one line."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "unexpected_keyword_argument":
        for part in problem["loc"][:-1]:
            fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
            kind = next((field.type for field in fields if field.name == part), None)
        known = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
        return f"unknown key {where!r}{nearest(str(problem['loc'][-1]), known)}"
    return f"{where} = {problem['input']!r}: {problem['msg'].lower()}"
