"""From a configuration and cached data to a training that is ready to run. Every draw comes from the run's seed."""

import os
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import torch
from tensordict import TensorDict

from iq_offline.config import Activation, RunConfig, resolved
from iq_offline.data.actions import ActionBox, ActionBranches, ActionEncoder, action_encoder
from iq_offline.data.cache import CachedSource
from iq_offline.data.online import OnlinePile, OnlineTable
from iq_offline.data.prefetch import Prefetcher
from iq_offline.data.replay import Replay, Selection, Table, feature_statistics, select, tables_of
from iq_offline.data.spaces import ObservationEncoder, check_compatible, chosen_leaves
from iq_offline.errors import UserError
from iq_offline.files import cache_folder, disk_errors
from iq_offline.learning.agents import Agent, UnitBox, tensors, unit_box_of
from iq_offline.learning.agents.bc import BC
from iq_offline.learning.agents.chosen import CHOSEN_COEFFICIENTS, POLICIES, ChosenImitation
from iq_offline.learning.agents.gail import GAIL, GAIL_COEFFICIENTS
from iq_offline.learning.agents.iq_learn import COEFFICIENTS, IN_SAMPLE_COEFFICIENTS
from iq_offline.learning.agents.iq_learn_continuous import ContinuousIQLearn
from iq_offline.learning.agents.iq_learn_discrete import DiscreteIQLearn
from iq_offline.learning.agents.iq_learn_reward import ContinuousRewardIQLearn, DiscreteRewardIQLearn
from iq_offline.learning.agents.soft_q import SoftActorCritic
from iq_offline.learning.agents.sqil import SQIL_COEFFICIENTS, ContinuousSQIL, DiscreteSQIL
from iq_offline.learning.agents.valuedice import VALUEDICE_COEFFICIENTS, ContinuousValueDICE, DiscreteValueDICE
from iq_offline.learning.learner import Learner
from iq_offline.learning.networks import Hidden
from iq_offline.learning.policy import Policy, network_of
from iq_offline.training.chooser import Chooser
from iq_offline.training.online import OnlineTraining
from iq_offline.training.start import updates_held
from iq_offline.training.training import Population, Training

FACTORS = {
    "iq_learn": (*COEFFICIENTS, *IN_SAMPLE_COEFFICIENTS, *CHOSEN_COEFFICIENTS),
    "bc": (),
    "valuedice": VALUEDICE_COEFFICIENTS,
    "sqil": SQIL_COEFFICIENTS,
    "gail": GAIL_COEFFICIENTS,
}
"""For each algorithm the keys of its section that are factors in a loss: they may differ within a population."""


@dataclass(frozen=True)
class Data:
    """The fixed data of a run, and how they are read."""

    expert: Selection
    suboptimal: tuple[Selection, ...]
    held_out: Selection | None
    """Expert trajectories that training never sees."""
    observations: ObservationEncoder
    actions: ActionEncoder

    @property
    def seen(self) -> tuple[Selection, ...]:
        """All that is trained on."""
        return (self.expert, *self.suboptimal)

    @property
    def kinds(self) -> dict[str, Sequence[Selection]]:
        """For each kind of a batch what it is drawn from."""
        return {
            "expert": [self.expert],
            "initial": [self.expert],
            "suboptimal": self.suboptimal,
            "imitated": (*self.suboptimal, self.expert),
        }

    @property
    def actions_outside_box(self) -> int:
        """Transitions whose action is outside the box and will be clipped to it."""
        if not isinstance(self.actions, ActionBox):
            return 0
        low, high = (torch.from_numpy(bound.reshape(-1)) for bound in (self.actions.low, self.actions.high))
        count = 0
        for selection in self.seen:
            actions = selection.data.steps["action"][torch.from_numpy(selection.rows)]
            count += int(((actions < low) | (actions > high)).any(-1).sum())
        return count


def choose_data(config: RunConfig, expert: CachedSource, suboptimal: Sequence[CachedSource]) -> Data:
    """Draw the run's trajectories. The labelled, the held-out and the hidden ones never overlap.

    Args:
        config: of the run.
        expert: the dataset of the demonstrations.
        suboptimal: the datasets of ``config.data.suboptimal``, in its order.

    Raises:
        UserError: fewer trajectories than asked for, suboptimal data that do not fit the expert's, or spaces that
            cannot be learned from.
    """
    options, seed = config.data, _seeds(config.seed)["trajectories"]
    generator = np.random.default_rng(seed)
    labelled = select(expert, options.num_expert_trajectories, options.subsample, generator)
    source, manifest = expert.source, expert.manifest
    leaves = chosen_leaves(source.observation_space, options.observation_keys, source.id)
    observations = ObservationEncoder(leaves, options.frame_stack)
    recorded = manifest["action_min"], manifest["action_max"]
    bounds = options.action_low, options.action_high
    actions = action_encoder(source.action_space, recorded, *bounds, source.id)

    taken = _stored(labelled)
    held_out = None
    seen = source.positions_of(source.with_other_pieces(taken))
    spare = min(options.held_out_trajectories, int((np.delete(expert.lengths, seen) > 0).sum()))
    if spare:
        own = np.random.default_rng(seed)
        held_out = select(expert, spare, 1, own, without=seen, from_end=True)
        taken |= source.with_other_pieces(_stored(held_out))
    others = []
    expert.require_finite(leaves)
    for part, data in zip(options.suboptimal, suboptimal, strict=True):
        check_compatible(source, data.source)
        data.require_finite(leaves)
        same = data.source.path == source.path
        if part.hidden and not same:
            raise UserError(f"{part.dataset} cannot be hidden: hidden trajectories are of the expert's, {source.id}")
        without = data.source.positions_of(taken) if same else []
        own = np.random.default_rng(seed) if part.hidden else generator
        chosen = select(data, part.episodes, 1, own, without, from_end=part.hidden)
        if same:
            taken |= _stored(chosen)
        if not len(chosen.rows):
            raise UserError(
                f"{data.source.id} has no trajectories left: all are labelled expert or held out, or pieces of such "
                "recordings; lower held_out_trajectories or num_expert_trajectories"
            )
        others.append(chosen)
    return Data(labelled, tuple(others), held_out, observations, actions)


def _stored(selection: Selection) -> set[int]:
    """Ids of the chosen episodes in the storage, which views of one dataset share."""
    return {selection.data.source.episode_ids[position] for position in selection.trajectories}


def shared_tables(configs: Sequence[RunConfig], data: Sequence[Data]) -> list[Table]:
    """One table for each dataset, with all that these runs of one program see of it."""
    if not configs:
        return []
    options = configs[0].training
    return tables_of([one.kinds for one in data], data[0].observations, getattr(torch, options.dtype), options.device)


def prepare(config: RunConfig, data: Data, tables: Sequence[Table] = ()) -> Training:
    """A fresh training: networks drawn, replay ready.

    Args:
        config: of the run.
        data: chosen for it.
        tables: to draw from, where they are shared with other runs; default its own.

    Returns:
        The training; an :class:`OnlineTraining` still lacks its environments.
    """
    seeds, options = _seeds(config.seed), config.stage
    dtype = getattr(torch, options.dtype)
    require_device(options.device, options.compile)
    mean, std = feature_statistics(data.expert, data.suboptimal, data.observations)
    if not options.normalize_observations:
        measured, fixed_mean, fixed_std = data.observations.constants()
        mean = torch.where(measured, torch.zeros_like(mean), fixed_mean)
        std = torch.where(measured, torch.ones_like(std), fixed_std)
    with torch.random.fork_rng(devices=[]):
        agent = make_agent(config, data)
        held = updates_held(config, agent)
        torch.manual_seed(seeds["networks"])  # Only now: making an agent draws as often as it has networks.
        parameters = agent.initial_parameters(mean, std)
        if config.is_fine_tuning and config.online.start_anchor and isinstance(agent, SoftActorCritic):
            parameters["start"] = agent.start_group(parameters)
        parameters = parameters.to(dtype).to(options.device)
    learner = Learner(
        agent,
        parameters,
        options.gradient_steps,
        options.average_decay,
        cosine_schedule=options.cosine_schedule,
        weight_decay=options.weight_decay,
        actor_held=held,
        input_decay=options.input_decay,
        compiled=options.compile,
    )
    rows = rows_in_batch(config)
    sizes = {kind: rows[kind] for kind in agent.kinds}
    fixed = {kind: data.kinds[kind] for kind in agent.kinds if kind != "online"}
    tables = tables or shared_tables([config], [data])
    noise = torch.Generator(options.device).manual_seed(seeds["noise"])
    if config.is_online:
        online, seed = config.online, seeds["environments"]
        capacity = min(online.replay_size, 2 * online.env_steps)  # Room for an end after every step.
        table = OnlineTable(data.expert.data, data.observations, dtype, options.device, online.environments, capacity)
        growing = {"online": OnlinePile(table, len(tables))}
        replay = Replay(fixed, sizes, seeds["batches"], [*tables, table], growing)
        exploration = torch.Generator(options.device).manual_seed(seed)
        return OnlineTraining(
            learner,
            replay,
            noise,
            online=online,
            table=table,
            actions=data.actions,
            exploration=exploration,
            seed=seed,
        )
    replay = Replay(fixed, sizes, seeds["batches"], tables)
    prefetcher = Prefetcher(replay, options.prefetch) if options.prefetch else None
    every = config.iq_learn.choose_every
    chooser = (
        Chooser(agent, replay, data.suboptimal, data.expert, every) if isinstance(agent, ChosenImitation) else None
    )
    return Training(learner, replay, noise, prefetcher, chooser)


def require_trainable(config: RunConfig, data: Data) -> None:
    """What :func:`prepare` refuses, before anything is read or drawn for it.

    Raises:
        UserError: the algorithm is not for these data, the warm-up is longer than the budget, or a batch lacks a kind.
    """
    with torch.random.fork_rng(devices=[]):
        updates_held(config, make_agent(config, data))
    rows_in_batch(config)


def rows_in_batch(config: RunConfig) -> dict[str, int]:
    """How many rows of each kind a batch holds.

    Raises:
        UserError: a kind would have none.
    """
    whole, fraction = config.training.batch_size, config.data.suboptimal_fraction
    online = round(whole * config.online.online_fraction) if config.is_online else 0
    size = whole - online
    if config.is_online and not (size and online):
        raise UserError(
            f"batch_size {whole} with online_fraction {config.online.online_fraction} leaves {size} fixed and {online} "
            "online rows: both need some"
        )
    if not config.data.suboptimal:
        return {"expert": size, "initial": whole, "online": online}
    suboptimal = round(size * fraction)
    expert = size - suboptimal
    if not expert or not suboptimal:
        raise UserError(
            f"batch_size {size} with suboptimal_fraction {fraction} leaves {expert} expert and {suboptimal} "
            "suboptimal rows: both need some"
        )
    rows = {"expert": expert, "suboptimal": suboptimal, "imitated": suboptimal}
    return rows | {"initial": whole, "online": online}


def require_device(device: str, compiled: bool = False) -> None:
    """Whether torch can use a device here, and compile for it.

    What compiling leaves for the next time goes into the cache folder.

    Raises:
        UserError: it cannot.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device = {device!r} cannot be used here: {reason}") from error
    if compiled:
        folder = cache_folder() / "compiled"
        with disk_errors("compiling", folder):
            folder.mkdir(parents=True, exist_ok=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
        _require_compiler(device)


@cache
def _require_compiler(device: str) -> None:
    """By compiling something small, which takes seconds: once in a process, failures aside."""
    warnings.filterwarnings("ignore", message=".*_prims_common.check.*")  # Torch's, of a part of its own.
    try:
        torch.compile(torch.abs)(torch.zeros(8, device=device))
    except RuntimeError as error:
        reason = next((line for line in str(error).splitlines() if not line.endswith("raised:")), "")
        raise UserError(
            f"training.compile cannot be used here, it needs a C++ compiler (on a GPU Triton): {reason}"
        ) from error


AGENTS: dict[str, tuple[Callable[..., Agent], Callable[..., Agent] | None]] = {
    "iq_learn": (ContinuousIQLearn, DiscreteIQLearn),
    "learned_reward": (ContinuousRewardIQLearn, DiscreteRewardIQLearn),
    "valuedice": (ContinuousValueDICE, DiscreteValueDICE),
    "sqil": (ContinuousSQIL, DiscreteSQIL),
    "gail": (GAIL, None),
}
"""Those with a critic, for actions in a box and for finitely many."""


def make_agent(config: RunConfig, data: Data) -> Agent:
    """The configured algorithm for the data's spaces."""
    config = resolved(config)
    options, observations, actions = config.training, data.observations, data.actions
    hidden = Hidden(options.hidden_sizes, options.activation, options.layer_norm, int(options.actors))
    mixed = bool(data.suboptimal)
    others = ("suboptimal",) * mixed + ("online",) * config.is_online
    taken: ActionBranches | UnitBox
    if isinstance(actions, ActionBranches):
        taken = actions
    else:
        taken = unit_box_of(actions, getattr(torch, options.dtype), options.device)
    if config.algorithm == "bc":
        both = config.bc.imitate == "everything" and mixed
        return BC(config.bc, observations, taken, hidden, ("expert", "suboptimal") if both else ("expert",))
    own = getattr(config, config.algorithm)
    if config.algorithm == "iq_learn" and (chosen := POLICIES.get(own.policy)):
        return chosen(own, observations, taken, hidden)
    rewarded = config.algorithm == "iq_learn" and own.policy == "learned_reward"
    in_a_box, of_branches = AGENTS["learned_reward" if rewarded else config.algorithm]
    kind = of_branches if isinstance(taken, ActionBranches) else in_a_box
    if kind is None:
        raise UserError("gail is for actions in a box; with finitely many there are iq_learn, valuedice and sqil")
    return kind(own, observations, taken, hidden, others)


def policy_of(data: Data, actor: TensorDict, normalizer: TensorDict, activation: Activation) -> Policy:
    """The parameters that act, as a policy on the dataset's own observations and actions."""
    source = data.expert.data.source
    weights = {name: value.detach().cpu().float() for name, value in tensors(actor).items()}
    return Policy(
        network_of(weights, data.observations, activation),
        source.observation_space,
        source.action_space,
        normalizer["mean"].cpu(),
        normalizer["std"].cpu(),
        data.observations,
        data.actions,
        activation=activation,
    )


def program_of(config: RunConfig) -> tuple[tuple[str, Hashable], ...]:
    """What runs must have in common to train as one population, by name: runs of equal programs can.

    They may differ in seed, in which trajectories and suboptimal data they see, in the coefficients of their losses,
    and in their evaluation. Where a gradient penalty is 0 its gradient is not computed at all: another program.
    """
    config = resolved(config)
    data, options = config.data, getattr(config, config.algorithm)
    spaces = ("expert", "observation_keys", "frame_stack", "action_low", "action_high")
    common = {"algorithm": config.algorithm} | {f"data.{name}": getattr(data, name) for name in spaces}
    common["data.suboptimal_fraction"] = data.suboptimal_fraction if data.suboptimal else 0.0
    common |= {f"training.{field.name}": getattr(config.training, field.name) for field in fields(config.training)}
    free = FACTORS[config.algorithm]
    own = {field.name: getattr(options, field.name) for field in fields(options) if field.name not in free}
    common |= {f"{config.algorithm}.{name}": value for name, value in own.items()}
    if config.is_online or config.training.compile:
        common["online.env_steps = 0, training.compile = false"] = hash(config)  # These train one at a time.
    for penalty in (name for name in free if name.endswith("_penalty")):
        common[f"{config.algorithm}.{penalty} > 0"] = getattr(options, penalty) > 0
    return tuple(common.items())


def require_one_program(configs: Sequence[RunConfig]) -> None:
    """Whether runs can train as one population.

    Raises:
        UserError: they differ in what one program cannot have two of; it is named.
    """
    programs = [dict(program_of(config)) for config in configs]
    names = dict.fromkeys(name for program in programs for name in program)
    different = [name for name in names if len({program.get(name) for program in programs}) > 1]
    if different:
        raise UserError(f"runs that train together need the same {', '.join(different)}: train the others on their own")


def population(configs: Sequence[RunConfig], data: Sequence[Data]) -> Population:
    """Fresh trainings of one program, as one.

    Raises:
        UserError: as :func:`require_one_program`.
    """
    require_one_program(configs)
    tables = shared_tables(configs, data)
    return Population([prepare(config, chosen, tables) for config, chosen in zip(configs, data, strict=True)])


def _seeds(seed: int) -> dict[str, int]:
    """Independent seeds for everything a run draws."""
    names = ("trajectories", "networks", "batches", "noise", "environments")  # New ones at the end: the others stay.
    words = np.random.SeedSequence(seed).generate_state(len(names), np.uint64)
    return {name: int(word >> np.uint64(1)) for name, word in zip(names, words, strict=True)}
