"""From a configuration and cached data to a training that is ready to run. Every draw comes from the run's seed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tensordict import TensorDict

from iq_offline.config import RunConfig
from iq_offline.data.cache import CachedSource
from iq_offline.data.replay import Replay, Selection, observation_statistics, select
from iq_offline.data.spaces import check_compatible, check_learnable
from iq_offline.errors import UserError
from iq_offline.learning.agents import Agent, Metrics, UnitBox, tensors
from iq_offline.learning.agents.bc import BC
from iq_offline.learning.agents.iq_learn import IQLearn
from iq_offline.learning.learner import Learner, stacked
from iq_offline.learning.policy import Policy, network_of
from iq_offline.training.offline import Training


@dataclass(frozen=True)
class Data:
    """The fixed data of a run."""

    expert: Selection
    suboptimal: tuple[Selection, ...]

    @property
    def seen(self) -> tuple[Selection, ...]:
        """All of it."""
        return (self.expert, *self.suboptimal)


def choose_data(config: RunConfig, expert: CachedSource, suboptimal: Sequence[CachedSource]) -> Data:
    """Draw the run's trajectories. Those labelled as expert are never among the suboptimal ones.

    Raises:
        UserError: fewer trajectories than asked for, or suboptimal data that do not fit the expert's.
    """
    generator = np.random.default_rng(_seeds(config.seed)["trajectories"])
    chosen = select(expert, config.data.num_expert_trajectories, config.data.subsample, generator)
    others = []
    for data in suboptimal:
        check_compatible(expert.source, data.source)
        labelled = chosen.trajectories.tolist() if data.source.path == expert.source.path else ()
        others.append(select(data, None, 1, generator, without=labelled))
        if not len(others[-1].rows):
            raise UserError(f"{data.source.id} has no trajectories left as suboptimal data: all are labelled expert")
    return Data(chosen, tuple(others))


def prepare(config: RunConfig, data: Data) -> Training:
    """A fresh training: networks drawn, replay ready."""
    seeds, options = _seeds(config.seed), config.training
    dtype = getattr(torch, options.dtype)
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device = {options.device!r} cannot be used here: {reason}") from error
    mean, std = observation_statistics(data.seen)
    if not options.normalize_observations:
        mean, std = torch.zeros_like(mean), torch.ones_like(std)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds["networks"])
        agent = make_agent(config, data)
        parameters = agent.initial_parameters(mean, std).to(dtype).to(options.device)
    learner = Learner(
        agent, parameters, options.gradient_steps, options.average_decay, cosine_schedule=options.cosine_schedule
    )
    rows = {"expert": options.batch_size, "initial": options.batch_size}
    if data.suboptimal:
        rows["suboptimal"] = round(options.batch_size * config.data.suboptimal_fraction)
        rows["expert"] -= rows["suboptimal"]
        if not all(rows.values()):
            raise UserError(
                f"batch_size {options.batch_size} with suboptimal_fraction {config.data.suboptimal_fraction} "
                f"leaves {rows['expert']} expert and {rows['suboptimal']} suboptimal rows: both need some"
            )
    kinds = {"expert": [data.expert], "initial": [data.expert], "suboptimal": list(data.suboptimal)}
    replay = Replay(
        {kind: kinds[kind] for kind in agent.kinds},
        {kind: rows[kind] for kind in agent.kinds},
        seeds["batches"],
        dtype,
        options.device,
    )
    noise = torch.Generator(options.device).manual_seed(seeds["noise"])
    return Training(learner, replay, noise)


def make_agent(config: RunConfig, data: Data) -> Agent:
    """The configured algorithm for the data's spaces."""
    observation, action = check_learnable(data.expert.data.source)
    dtype = getattr(torch, config.training.dtype)
    bounds = (torch.as_tensor(bound.reshape(-1), dtype=dtype) for bound in (action.low, action.high))
    unit_box = UnitBox(*(bound.to(config.training.device) for bound in bounds))
    sizes = int(np.prod(observation.shape)), int(np.prod(action.shape))
    hidden = config.training.hidden_sizes
    if config.algorithm == "bc":
        return BC(config.bc, *sizes, unit_box, hidden)
    return IQLearn(config.iq_learn, *sizes, unit_box, hidden, suboptimal=bool(data.suboptimal))


def policy_of(data: Data, actor: TensorDict, normalizer: TensorDict) -> Policy:
    """An actor's parameters as a policy on the dataset's own observations and actions."""
    observation, action = check_learnable(data.expert.data.source)
    weights = {name: value.detach().cpu().float() for name, value in tensors(actor).items()}
    return Policy(network_of(weights), observation, action, normalizer["mean"].cpu(), normalizer["std"].cpu())


class Population(Training):
    """Several trainings of one algorithm and budget as one program; each keeps its data, draws and networks."""

    def __init__(self, members: Sequence[Training]) -> None:
        first = members[0].learner
        parameters = stacked([member.learner.parameters.detach().clone() for member in members])
        learner = Learner(
            first.agent,
            parameters,
            first.gradient_steps,
            first.average_decay,
            cosine_schedule=first.cosine_schedule,
            population=True,
        )
        super().__init__(learner, members[0].replay, members[0].noise)
        self.members = members

    def generators(self) -> dict[str, torch.Generator]:
        """Those of all members."""
        members = enumerate(self.members)
        return {f"{index}/{name}": each for index, member in members for name, each in member.generators().items()}

    def update(self) -> Metrics:
        """One gradient step of every learner, each on its own batch; metrics have one number a learner."""
        batches = [member.replay.sample() for member in self.members]
        noise = [member.draw_noise(batch) for member, batch in zip(self.members, batches, strict=True)]
        return self.learner.update(stacked(batches), stacked(noise))


def population(configs: Sequence[RunConfig], data: Sequence[Data]) -> Population:
    """The population of runs that differ in their seed and in which trajectories of the same spaces they see.

    Raises:
        UserError: runs differ in more than that, so that one program cannot train them.
    """
    shared = {(replace(config, seed=0, data=configs[0].data), bool(config.data.suboptimal)) for config in configs}
    if len(shared) > 1:
        raise UserError("runs of one population may differ in seed and data only: train the others on their own")
    sources = [one.expert.data.source for one in data]
    if any(
        (s.observation_space, s.action_space) != (sources[0].observation_space, sources[0].action_space)
        for s in sources
    ):
        raise UserError(
            "runs of one population need the same observation and action spaces: train the others on their own"
        )
    return Population([prepare(config, chosen) for config, chosen in zip(configs, data, strict=True)])


def _seeds(seed: int) -> dict[str, int]:
    """Independent seeds for everything a run draws."""
    names = ("trajectories", "networks", "batches", "noise")
    words = np.random.SeedSequence(seed).generate_state(len(names), np.uint64)
    return {name: int(word >> np.uint64(1)) for name, word in zip(names, words, strict=True)}
