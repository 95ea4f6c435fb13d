"""The configuration of a run: data, learner, budget, evaluation. Frozen, validated, saved with every run.

Defaults < a recipe (TOML) < command-line overrides. Importing this file imports neither torch nor gymnasium.
"""

import dataclasses
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass
from tyro.constructors import PrimitiveConstructorSpec

from iq_offline.config.baselines import BCConfig, GAILConfig, SQILConfig, ValueDICEConfig
from iq_offline.config.iq_learn import STRICT, IQLearnConfig, Positive, decided, require_terms_that_fit
from iq_offline.config.online import OnlineConfig, checked_online
from iq_offline.config.tables import flat, from_table, nested, not_shipped, read_toml
from iq_offline.config.tables import to_table as to_table
from iq_offline.config.tables import to_toml as to_toml
from iq_offline.errors import UserError
from iq_offline.files import shipped

Algorithm = Literal["iq_learn", "bc", "valuedice", "sqil", "gail"]
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)
LABELS: dict[str, str] = {
    "iq_learn": "IQ-Learn",
    "bc": "BC",
    "valuedice": "ValueDICE",
    "sqil": "SQIL",
    "gail": "GAIL",
}
"""The algorithms' names for people."""


def label(algorithm: str) -> str:
    """An algorithm's name in plain words."""
    return LABELS.get(algorithm, algorithm.replace("_", " "))


Activation = Literal["relu", "elu", "tanh"]
Normed = Literal["none", "critics", "all"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True, config=STRICT)
class Suboptimal:
    """A part of the suboptimal data: a dataset, or some of its episodes."""

    dataset: str
    """A built-in dataset or any Minari id, or some episodes of it: NAME[0-99,120]."""
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
    """Dataset of the demonstrations: a built-in one (hopper/expert) or any Minari id (mujoco/hopper/expert-v0). In
    brackets the ids of its episodes, where not all are meant: "hopper/expert[0-29,40]"."""
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
    """Transitions in each batch, of all kinds. Drawn besides: what is imitated, where that is chosen, as many as there
    are suboptimal ones; and start states, where the value is theirs, as many as in the batch. Cloning the labelled
    steps beside suboptimal data reads their share alone."""
    hidden_sizes: tuple[Positive, ...] = (256, 256)
    """Units in the hidden layers of every network."""
    actors: Positive | Literal["auto"] = "auto"
    """With actions in a box: networks that act together, by the mean of their actions. What each makes up where nothing
    was shown cancels out. auto: 5; for ValueDICE, and where the policy begins in the environment, 1; a run that goes on
    with another's networks has as many as that."""
    activation: Activation = "elu"
    """Between the layers of the network that acts. Other networks have relu."""
    layer_norm: Normed = "none"
    """Where hidden layers are normalised: in all networks, or in those that do not act. Networks that act together have
    gain and bias of it in common."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Adam's, decoupled: all weights shrink by this share of the learning rate at every step."""
    input_decay: Annotated[float, Field(ge=0)] = 0.0
    """The same for the first layer alone of the network that acts (behind the convolutions, where there are images): it
    forgets features which tell it nothing."""
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the moving average of the actor's weights."""
    cosine_schedule: bool = True
    """Let the learning rates fall to zero along a cosine."""
    normalize_observations: bool = True
    """Shift and scale observations by mean and deviation of the labelled expert's, and so that none of these is further
    than 4 from 0."""
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
    compile: bool = False
    """Translate the losses into machine code first, by torch.compile: up to a minute of waiting the first time, then
    updates that are about a tenth faster. Needs a C++ compiler. Other last bits than without. Such runs are trained one
    at a time, never as one program."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1, …"""
    torch_threads: Positive = 1
    """Threads of torch. One is fastest for networks this small on busy machines; the last bits depend on it."""

    @property
    def snapshot_steps(self) -> frozenset[int]:
        """The updates after which the averaged policy is kept, evenly spaced."""
        total, count = self.gradient_steps, self.snapshots
        return frozenset(math.ceil(total * number / count) for number in range(1, count + 1))


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
    valuedice: ValueDICEConfig = ValueDICEConfig()
    sqil: SQILConfig = SQILConfig()
    gail: GAILConfig = GAILConfig()
    online: OnlineConfig = OnlineConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def is_online(self) -> bool:
        """Whether training meets the environment."""
        return self.online.env_steps > 0

    @property
    def is_fine_tuning(self) -> bool:
        """Whether it goes on from an offline run."""
        return self.is_online and bool(self.online.start)

    @property
    def stage(self) -> TrainingConfig:
        """The training section as this run follows it: online, the budget is that of the steps in the environment."""
        if not self.is_online:
            return self.training
        return dataclasses.replace(self.training, gradient_steps=self.online.gradient_steps)

    @property
    def snapshot_steps(self) -> frozenset[int]:
        """The updates after which the averaged policy is kept, the last one among them if there are any."""
        return self.online.snapshot_steps if self.is_online else self.training.snapshot_steps


BETTER_ALONE = ("valuedice",)
"""Learners that act by one network where others act by several (``docs/results.md``)."""

BEFORE: dict[str, Any] = {"training.activation": "relu", "training.actors": 1}
"""What runs of older versions had that lack a key; where it is not here, what is the default now."""


def saved_config(file: Path) -> RunConfig:
    """The configuration of a run that has begun, by its ``config.toml``.

    Raises:
        UserError: it cannot be read.
    """
    return from_table(RunConfig, nested(BEFORE | flat(read_toml(file))), str(file))


def saved_start(config: RunConfig) -> RunConfig | None:
    """The configuration of the run that this one goes on with; None where there is none, or it has no ``config.toml``.

    Raises:
        UserError: it cannot be read.
    """
    return config_in(Path(config.online.start)) if config.online.start else None


def config_in(folder: Path) -> RunConfig | None:
    """The configuration of a run's folder, by :func:`saved_config`; None where it has none."""
    file = folder / "config.toml"
    return saved_config(file) if file.exists() else None


def resolved(config: RunConfig) -> RunConfig:
    """The configuration with every ``auto`` decided and ``fast`` applied.

    Raises:
        UserError: terms that need suboptimal data where there are none, or that do not go together; what cannot be
            online.
    """
    mixed = bool(config.data.suboptimal) or config.is_online
    config = dataclasses.replace(config, iq_learn=decided(config.iq_learn, mixed, config.is_online))
    if config.training.actors == "auto":
        begins_online = config.is_online and not config.online.start
        actors = 1 if begins_online or config.algorithm in BETTER_ALONE else 5
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, actors=actors))
    if config.algorithm == "iq_learn":
        if config.iq_learn.policy == "learned_reward" and not config.is_online:
            raise UserError(
                "iq_learn.policy = 'learned_reward' needs the environment: give --online (online.env_steps), or use "
                "'auto'"
            )
        require_terms_that_fit(config.iq_learn, mixed)
    if config.fast:
        steps = min(200, config.training.gradient_steps)
        pauses = {"checkpoint_every": max(1, steps // 2), "log_every": max(1, steps // 10), "snapshots": 2}
        training = dataclasses.replace(config.training, gradient_steps=steps, **pauses)
        evaluation = dataclasses.replace(config.evaluation, episodes=2)
        chosen_often = dataclasses.replace(config.iq_learn, choose_every=min(config.iq_learn.choose_every, 50))
        config = dataclasses.replace(config, training=training, evaluation=evaluation, iq_learn=chosen_often)
    if config.is_online:
        config = dataclasses.replace(config, online=checked_online(config))
    if config.algorithm == "bc" and config.bc.imitate == "everything" and not config.data.suboptimal:
        raise UserError(
            "bc.imitate = 'everything' needs suboptimal data: give --suboptimal (data.suboptimal), or use 'expert'"
        )
    if config.algorithm == "gail" and not config.is_online:
        raise UserError("gail needs the environment: give --online (online.env_steps)")
    if config.algorithm == "sqil" and not mixed:
        raise UserError(
            "sqil needs suboptimal or online data: give --suboptimal (data.suboptimal); on expert data alone every "
            "reward is 1 and nothing tells actions apart (its regularised behavioral cloning is iq_learn with "
            "value_states = 'expert')"
        )
    return config


def is_others(key: str, algorithm: Any) -> bool:
    """Whether a dotted key belongs to the section of another algorithm, so that this one does not read it."""
    section = key.split(".")[0]
    return section in ALGORITHMS and section != algorithm


def recipe_table(name: str) -> dict[str, Any]:
    """What a shipped recipe, or any by the path of its TOML file, holds of a run.

    Raises:
        UserError: no such recipe (near names suggested), not TOML, or ``algorithms`` is no list.
    """
    return _recipe(name)[0]


def next_recipe(name: str) -> str | None:
    """The recipe whose data a training command goes on with after this one: its ``then``.

    Raises:
        UserError: as :func:`recipe_table`, or ``then`` is no name.
    """
    return _recipe(name)[1]


def _recipe(name: str) -> tuple[dict[str, Any], str | None]:
    path = Path(name) if name.endswith(".toml") else shipped("recipes") / f"{name}.toml"
    if not path.is_file():
        raise not_shipped("recipe", name)
    table = read_toml(path)
    algorithms = table.get("algorithms", [])
    if not isinstance(algorithms, list):
        raise UserError(f"{path}: algorithms = {algorithms!r}: must be a list of names, such as ['bc', 'iq_learn']")
    then = table.pop("then", None)
    if not isinstance(then, str | None):
        raise UserError(f"{path}: then = {then!r}: must be the name of a recipe")
    return table, then


def load_recipe(name: str) -> tuple[RunConfig, tuple[str, ...]]:
    """A recipe and the algorithms it compares: its ``algorithm``, or the list ``algorithms``.

    Raises:
        UserError: as :func:`recipe_table`, or a wrong key or value in it.
    """
    table = recipe_table(name)
    algorithms = table.pop("algorithms", None) or [table.get("algorithm", RunConfig().algorithm)]
    configs = [from_table(RunConfig, table | {"algorithm": algorithm}, name) for algorithm in algorithms]
    return configs[0], tuple(algorithms)
