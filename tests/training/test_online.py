"""Training in the environment: what enters the batches, what is never read, and going on bit for bit."""

import math
import multiprocessing
import re
import shutil
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.config import DataConfig, EvaluationConfig, IQLearnConfig, RunConfig, Suboptimal, resolved
from iq_offline.config.online import OnlineConfig
from iq_offline.data.replay import Replay
from iq_offline.environments.make import evaluation_environment
from iq_offline.environments.vector import VectorStepper
from iq_offline.errors import UserError
from iq_offline.experiment import environments, obtain, run, stages, train_policies
from iq_offline.learning.agents import normalized
from iq_offline.learning.agents.learned_reward import LearnedReward
from iq_offline.run import Run, require_same_run
from iq_offline.training import checkpoint
from iq_offline.training.offline import LATEST, InterruptedTrainingError, step_reached, train
from iq_offline.training.online import OnlineTraining
from iq_offline.training.setup import choose_data, prepare
from iq_offline.training.tracking import read_metrics
from iq_offline.training.training import StepError
from tests.environments.worlds import (
    as_given,
    endless_dataset,
    environment_dataset,
    online_config,
    point_dataset,
)
from tests.helpers import point_mass_dataset
from tests.training.program import QUIET, assert_same_run, weights, write_config


def trained(config: RunConfig, folder: Path) -> None:
    """A whole training, without the evaluation after it."""
    one = Run(config, folder)
    one.data = choose_data(config, obtain(config.data.expert), [])
    one.begin((), environments(one, QUIET) if config.is_online else None)
    one.step = step_reached(folder)
    train_policies([one], QUIET)
    assert one.outcome is None


def begun(config: RunConfig, folder: Path) -> OnlineTraining:
    """A fresh training with its environments."""
    one = Run(config, folder)
    one.data = choose_data(
        config, obtain(config.data.expert), [obtain(part.dataset) for part in config.data.suboptimal]
    )
    one.begin((), environments(one, QUIET))
    assert isinstance(one.training, OnlineTraining)
    return one.training


class Watched:
    """A stepper that writes down what passes through it."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.keeps_state = inner, inner.keeps_state
        self.last: Any = None
        self.seen: list[tuple[Any, ...]] = []
        self.ended = 0

    def reset(self, seeds: Sequence[int | None]) -> Any:
        found = self.inner.reset(seeds)
        self.last = found if self.last is None else self.last
        for lane, seed in enumerate(seeds):
            if seed is not None:
                self.last[lane] = found[lane]
        return found

    def step(self, actions: np.ndarray) -> Any:
        found = self.inner.step(actions)
        observation, _, terminated, truncated = found
        for lane in range(len(actions)):
            self.seen.append((*self.last[lane], *actions[lane], *observation[lane], float(terminated[lane])))
        self.last = observation.copy()
        self.ended += int((terminated | truncated).sum())
        return found

    def state(self) -> list[Any]:
        return self.inner.state()

    def load_state(self, states: list[Any]) -> None:
        self.inner.load_state(states)

    def close(self) -> None:
        self.inner.close()


def test_the_replay_holds_every_step_and_no_other(tmp_path: Path):
    """Neither the way from an episode's end to the next one's start, nor anything twice; truncation is no end."""
    point_dataset(radius=0.9)
    training = begun(online_config(env_steps=240, start_steps=200, updates_per_env_step=1.0), tmp_path / "run")
    watched = Watched(training.stepper)
    training.stepper = watched
    for _ in range(100):
        training.collect()
    assert watched.ended > 10
    batch = training.table.gather(training.table.numbered[: training.table.count])
    parts = [batch["observation"], batch["action"], batch["next", "observation"], batch["next", "terminated"][:, None]]
    rows = torch.cat(parts, -1).numpy()
    expected = np.array(watched.seen, np.float32)
    order = [np.lexsort(table.T) for table in (rows, expected)]
    np.testing.assert_array_equal(rows[order[0]], expected[order[1]])
    ends = Counter(expected[:, -1].tolist())
    assert ends[1.0] > 3, "some episodes left the circle"
    assert watched.ended - ends[1.0] > 3, "others were cut off by the time limit, and stay without an end"


@pytest.mark.parametrize("dataset", ["test/point-v0", "test/pole-v0"])
@pytest.mark.parametrize("group", ["acting", "other"])
def test_networks_that_are_not_finite_are_no_fault_of_the_environment(group: str, dataset: str, tmp_path: Path):
    """They break between two logs, and the next thing that happens is a step in the environment."""
    point_dataset() if dataset == "test/point-v0" else environment_dataset(dataset, "CartPole-v1")
    config = online_config(dataset)
    config = replace(config, training=replace(config.training, log_every=20, checkpoint_every=20))
    training = begun(config, tmp_path / "run")
    learner = training.learner
    broken = {"acting": learner.agent.averaged, "other": "reward"}[group]
    update = learner.update

    def breaking(batch: TensorDict, noise: TensorDict) -> Any:
        metrics = update(batch, noise)
        if learner.step == 25:
            with torch.no_grad():
                learner.parameters[broken, "0.bias"].fill_(math.nan)
        return metrics

    learner.update = breaking  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"stopped being finite by step .*; the checkpoint of step 20 is kept"):
        train(training, config.stage, tmp_path / "run")
    saved = weights(tmp_path / "run" / LATEST)
    assert all(value.isfinite().all() for value in saved.values())


@pytest.mark.parametrize("suboptimal", [False, True])
def test_every_batch_has_exact_fractions(suboptimal: bool, tmp_path: Path):
    point_dataset()
    point_mass_dataset("test/other-v0", 3, 25, seed=1, noise=1.0)
    config = online_config(online_fraction=0.25)
    others = (Suboptimal("test/other-v0"),) if suboptimal else ()
    data = replace(config.data, suboptimal=others, suboptimal_fraction=1 / 3)
    config = resolved(replace(config, data=data, training=replace(config.training, batch_size=32)))
    training = begun(config, tmp_path / "run")
    for _ in range(3):
        training.update()
        batch = training.replay.sample()
        sizes = {str(kind): len(batch[kind, "action"]) for kind in batch.keys()}  # noqa: SIM118
        assert sizes == ({"expert": 16, "suboptimal": 8, "online": 8} if suboptimal else {"expert": 24, "online": 8})
        lived = {
            tuple(row)
            for row in training.table.gather(training.table.numbered[: training.table.count])["action"].tolist()
        }
        assert all(tuple(row) in lived for row in batch["online", "action"].tolist())
        assert not any(tuple(row) in lived for row in batch["expert", "action"].tolist())
    with pytest.raises(UserError, match=r"batch_size 32 with online_fraction 0\.01 leaves 32 fixed and 0 online rows"):
        begun(replace(config, online=replace(config.online, online_fraction=0.01)), tmp_path / "none")


@pytest.mark.parametrize(
    ("actions", "algorithm"),
    [(actions, algorithm) for actions in ("continuous", "discrete") for algorithm in ("iq_learn", "sqil", "valuedice")]
    + [("continuous", "gail")],
)
def test_rewards_reach_nothing(actions: str, algorithm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With every reward NaN the weights, the data and the random states are the same bits; returns are not."""
    if actions == "continuous":
        point_dataset("test/point-v0")
        config = online_config()
    else:
        environment_dataset("test/pole-v0", "CartPole-v1")
        config = online_config("test/pole-v0")
    config = replace(config, algorithm=algorithm)
    trained(config, tmp_path / "paid")
    step = VectorStepper.step

    def unpaid(self: VectorStepper, actions: np.ndarray) -> Any:
        observation, rewards, *ends = step(self, actions)
        return observation, np.full_like(rewards, np.nan), *ends

    monkeypatch.setattr(VectorStepper, "step", unpaid)
    trained(config, tmp_path / "unpaid")
    saved = [weights(tmp_path / name / LATEST) for name in ("paid", "unpaid")]
    different = [name for name, value in saved[0].items() if not torch.equal(value, saved[1][name])]
    assert set(different) <= {"online/returns", "online/finished"}
    assert different
    for name in ("policy.safetensors", "snapshots/step-0000040.safetensors"):
        one, other = (weights(tmp_path / folder / name) for folder in ("paid", "unpaid"))
        assert all(torch.equal(one[key], other[key]) for key in one)
    rows = [read_metrics(tmp_path / name / "metrics.ndjson") for name in ("paid", "unpaid")]
    assert any("episode/return" in row for row in rows[0])
    assert not any("episode/return" in row for row in rows[1])
    assert [row["env_steps"] for row in rows[0]] == [26.0, 30.0, 36.0, 40.0, 46.0, 50.0, 56.0, 60.0]


@pytest.mark.parametrize(
    ("dataset", "copies", "at"), [("CartPole-v1", 2, 70), ("Pendulum-v1", 1, 135), ("Hopper-v5", 2, 70)]
)
def test_resumed_is_uninterrupted_bit_for_bit(
    dataset: str, copies: int, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In the middle of episodes, after steps that were not saved."""
    environment_dataset("test/world-v0", dataset)
    config = online_config("test/world-v0", environments=copies, replay_size=100, env_steps=160, start_steps=100)
    trained(config, tmp_path / "whole")

    class CutError(Exception):
        pass

    collect, left = OnlineTraining.collect, [at]

    def cut(self: OnlineTraining) -> None:
        left[0] -= 1
        if not left[0]:
            raise CutError
        collect(self)

    monkeypatch.setattr(OnlineTraining, "collect", cut)
    with pytest.raises(CutError):
        trained(config, tmp_path / "cut")
    step = checkpoint.load(tmp_path / "cut" / LATEST)[1]["step"]
    assert 0 < step < config.stage.gradient_steps
    monkeypatch.setattr(OnlineTraining, "collect", collect)
    trained(config, tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_where_no_state_can_be_saved_new_episodes_begin_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    point_dataset()
    config = online_config()
    said: list[str] = []
    options = replace(QUIET, say=said.append)
    collect, left = OnlineTraining.collect, [27]

    def cut(self: OnlineTraining) -> None:
        left[0] -= 1
        if not left[0]:
            raise RuntimeError("cut")
        collect(self)

    monkeypatch.setattr(OnlineTraining, "collect", cut)
    with pytest.raises(RuntimeError, match="cut"):
        run(config, tmp_path / "run", options)
    assert any("the state of Point-v0 cannot be saved" in line for line in said)
    before = weights(tmp_path / "run" / LATEST)
    monkeypatch.setattr(OnlineTraining, "collect", collect)
    run(config, tmp_path / "run", options)
    after = weights(tmp_path / "run" / LATEST)
    assert int(after["online/env_steps"]) == 60
    assert (after["online/episodes"] > before["online/episodes"]).all()
    held = [found["online/table/numbered"] for found in (before, after)]
    assert len(held[0]) == int(before["online/env_steps"])
    assert len(held[1]) == 60, "what was collected before is kept"


@pytest.mark.parametrize("warmup", [0, 10])
def test_an_offline_policy_is_kept_as_far_as_it_resembled_the_expert(warmup: int, tmp_path: Path):
    """It is looked at once, when the actor begins to move; the hold fades all the while."""
    point_dataset()
    given, folder = as_given(start="offline", critic_warmup=warmup), tmp_path / "run"
    given = replace(given, iq_learn=IQLearnConfig(reward_learning_rate=0.03))
    run(given, folder, QUIET)
    (folder / LATEST).unlink()
    training = begun(stages(given, folder)[-1], folder)
    learner, looked = training.learner, []
    agent = learner.agent
    assert isinstance(agent, LearnedReward)
    seen = agent.resemblance

    def look(parameters: TensorDict, batch: TensorDict) -> Tensor:
        looked.append((learner.step, seen(parameters, batch)))
        return looked[-1][1]

    agent.resemblance = look
    held, steps = training.online.start_anchor, learner.gradient_steps
    for step in range(13):
        training.update()
        trust = float(looked[0][1]) if looked else 1.0
        assert float(learner.parameters["start", "weight"]) == pytest.approx(held * (1 - step / steps) * trust)
    assert [step for step, _ in looked] == [warmup]
    assert training.row()["actor/held"] == float(learner.parameters["start", "weight"])
    assert 0 < float(looked[0][1]) < 1
    training.close()


@pytest.mark.parametrize(("algorithm", "critic"), [("iq_learn", "critic"), ("valuedice", "nu")])
def test_fine_tuning_begins_with_the_offline_run_whole(algorithm: Any, critic: str, tmp_path: Path):
    """Nothing holds ValueDICE's actor once it moves."""
    point_dataset()
    given, folder = as_given(start="offline", critic_warmup=10), tmp_path / "run"
    given = replace(given, algorithm=algorithm, iq_learn=IQLearnConfig(policy="soft_actor_critic"))
    run(given, folder, QUIET)
    offline = weights(folder / "offline" / LATEST)
    (folder / LATEST).unlink()
    training = begun(stages(given, folder)[-1], folder)
    state = training.learner.state()
    assert training.learner.step == 0
    for name, value in state.items():
        if name in ("step", "parameters/start/weight", "parameters/start/trust") or name.startswith(
            "parameters/coefficients"
        ):
            continue
        theirs = name.replace("parameters/actor/", "average/").replace("parameters/start/actor/", "average/")
        raised = 100.0 if name.endswith("critic/2.bias") and algorithm == "iq_learn" else 0.0  # 2 alpha / (1 - gamma)
        assert torch.equal(value, offline[f"learner/{theirs}"] + raised), name
    policy, first = (
        weights(folder / name) for name in ("offline/policy.safetensors", "snapshots/step-0000000.safetensors")
    )
    assert all(torch.equal(policy[name], first[name]) for name in policy), "what is scored first is the offline policy"

    before = {name: value.clone() for name, value in state.items()}
    for _ in range(10):
        training.update()
    after = {name: value.clone() for name, value in training.learner.state().items()}
    still = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert all(name in still for name in after if "actor" in name or name.startswith("average/"))
    assert f"parameters/{critic}/0.weight" in after
    assert not any(name in still for name in after if name.startswith(f"parameters/{critic}/"))
    training.update()
    moved = training.learner.state()
    assert all(not torch.equal(moved[name], after[name]) for name in moved if name.startswith("parameters/actor/"))
    assert ("parameters/start/weight" in moved) == (algorithm == "iq_learn")
    if algorithm == "iq_learn":
        assert all(
            torch.equal(moved[name], after[name]) for name in moved if name.startswith("parameters/start/actor/")
        )
        held = training.online.start_anchor * (1 - 10 / training.learner.gradient_steps)
        assert float(moved["parameters/start/weight"]) == pytest.approx(held), "what the last update saw"
    training.close()


@pytest.mark.parametrize(
    ("bound", "given"), [(1.0, {}), (4.0, {}), (4.0, {"action_low": (-1.0,), "action_high": (1.0,)})]
)
def test_a_score_in_another_action_box_is_said_to_be_one(bound: float, given: Any, tmp_path: Path):
    """As the online stage would refuse it; what was trained for nothing is not thrown away."""
    point_dataset(bound=bound)
    config = replace(stages(as_given(start="offline"), tmp_path)[0], algorithm="bc")
    config = replace(config, data=replace(config.data, **given))
    said: list[str] = []
    summary = run(config, tmp_path / "run", replace(QUIET, say=said.append))
    assert len(summary["returns"]) == config.evaluation.episodes
    notes = [line for line in said if "scored all the same" in line]
    assert len(notes) == (bound == 4.0 and not given)
    assert all("its actions go from -4 to 4 in dimension 0" in note for note in notes)


def test_an_online_run_is_no_start(tmp_path: Path):
    """Its rewards are counted from the lowest one already, and its data are more than the fixed ones."""
    point_dataset()
    config = online_config(env_steps=40)
    trained(config, tmp_path / "online")
    with pytest.raises(UserError, match="online is an online run already: the same command that began it goes on"):
        begun(online_config(start=str(tmp_path / "online")), tmp_path / "tuned")
    assert not (tmp_path / "tuned").exists()


def test_runs_without_a_critic_lend_their_policy(tmp_path: Path):
    """Behaviour cloning gives its actor; with finitely many actions, Q's softmax is its policy."""
    point_dataset()
    given = as_given(start="offline")
    given = replace(given, training=replace(given.training, actors=1))
    offline = replace(stages(given, tmp_path)[0], algorithm="bc")
    trained(offline, tmp_path / "bc")
    (config,) = stages(as_given(start=str(tmp_path / "bc")), tmp_path)
    assert config.training.actors == 1, "as there"
    training = begun(config, tmp_path / "tuned")
    saved, state = weights(tmp_path / "bc" / LATEST), training.learner.state()
    for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
        assert torch.equal(state[f"parameters/actor/{name}"], saved[f"learner/average/{name}"])
    training.close()

    environment_dataset("test/pole-v0", "CartPole-v1")
    offline = resolved(replace(offline, data=DataConfig("test/pole-v0", held_out_trajectories=1)))
    trained(offline, tmp_path / "pole")
    training = begun(online_config("test/pole-v0", start=str(tmp_path / "pole")), tmp_path / "tuned-pole")
    agent: Any = training.learner.agent
    saved = weights(tmp_path / "pole" / LATEST)
    batch = Replay(*_expert(training)).sample()["expert"]
    q = agent._branches(training.learner.parameters["critic"], batch["observation"]).detach()
    hidden = torch.nn.functional.elu(
        batch["observation"] @ saved["learner/average/0.weight"].T + saved["learner/average/0.bias"]
    )
    logits = hidden @ saved["learner/average/2.weight"].T + saved["learner/average/2.bias"]
    probability = torch.softmax(q[:, 0] / agent.config.temperature, -1)
    torch.testing.assert_close(probability, torch.softmax(logits, -1))
    training.close()

    of_q = replace(offline, algorithm="iq_learn", iq_learn=IQLearnConfig(policy="soft_actor_critic"))
    trained(resolved(of_q), tmp_path / "of-q")
    dice = replace(as_given("test/pole-v0", start=str(tmp_path / "of-q")), algorithm="valuedice")
    training = begun(resolved(dice), tmp_path / "tuned-dice")
    saved, own = weights(tmp_path / "of-q" / LATEST), training.learner.state()
    temperature = float(saved["learner/parameters/coefficients/temperature"])
    for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
        scaled = saved[f"learner/average/{name}"] / (temperature if name[0] == "2" else 1)
        torch.testing.assert_close(own[f"parameters/actor/{name}"], scaled)
    training.close()

    regressed = replace(offline, algorithm="iq_learn", iq_learn=IQLearnConfig(policy="advantage_weighted"))
    trained(resolved(regressed), tmp_path / "regressed")
    in_q = replace(as_given("test/pole-v0"), iq_learn=IQLearnConfig(policy="soft_actor_critic"))
    in_q = replace(in_q, online=replace(in_q.online, start=str(tmp_path / "regressed")))
    training = begun(resolved(in_q), tmp_path / "tuned-regressed")
    agent, state = training.learner.agent, normalized(training.learner.parameters, batch["observation"])
    saved = weights(tmp_path / "regressed" / LATEST)
    hidden = torch.nn.functional.elu(state @ saved["learner/average/0.weight"].T + saved["learner/average/0.bias"])
    logits = hidden @ saved["learner/average/2.weight"].T + saved["learner/average/2.bias"]
    q = agent._branches(training.learner.parameters["critic"], state).detach()
    torch.testing.assert_close(torch.softmax(q[:, 0] / agent.config.temperature, -1), torch.softmax(logits, -1))
    training.close()

    trained(replace(offline, algorithm="iq_learn"), tmp_path / "soft")
    training = begun(online_config("test/pole-v0", start=str(tmp_path / "soft")), tmp_path / "tuned-soft")
    agent = training.learner.agent
    before = Run(replace(offline, algorithm="iq_learn"), tmp_path / "soft")
    before.data = choose_data(before.config, obtain("test/pole-v0"), [])
    before.training = prepare(before.config, before.data)
    before.training.load_state(weights(tmp_path / "soft" / LATEST))
    theirs: Any = before.training.learner.agent
    assert agent.config.temperature == pytest.approx(100 * theirs.config.temperature)
    state = normalized(training.learner.parameters, batch["observation"])
    logits = theirs._branches(before.training.learner.average, state) / theirs.config.temperature
    q = agent._branches(training.learner.parameters["critic"], state) / agent.config.temperature
    torch.testing.assert_close(torch.softmax(q, -1), torch.softmax(logits, -1), atol=1e-4, rtol=1e-3)
    target = {name: value for name, value in training.learner.state().items() if "target_critic" in name}
    assert target
    assert all(
        torch.equal(value, training.learner.state()[name.replace("target_", "")]) for name, value in target.items()
    )
    training.close()


@pytest.mark.parametrize("dataset", ["test/point-v0", "test/pole-v0"])
def test_a_q_goes_on_with_its_policy_and_its_rewards(dataset: str, tmp_path: Path):
    """Though the temperature is another, and all rewards are counted from the lowest one."""
    if dataset == "test/point-v0":
        point_dataset()
    else:
        environment_dataset(dataset, "CartPole-v1")
    given = replace(as_given(dataset, start="offline"), iq_learn=IQLearnConfig(policy="soft_actor_critic"))
    offline, online = stages(given, tmp_path)
    trained(offline, tmp_path / "offline")
    training = begun(online, tmp_path / "online")
    assert (offline.iq_learn.absorbing_value, online.iq_learn.absorbing_value) == ("zero", "raised")
    old = prepare(offline, choose_data(offline, obtain(dataset), [])).learner
    old.load_state(
        {
            name.removeprefix("learner/"): value
            for name, value in weights(tmp_path / "offline" / LATEST).items()
            if name.startswith("learner/")
        }
    )
    new, rows = training.learner, Replay(*_expert(training)).sample()["expert"]
    finite = dataset == "test/pole-v0"
    before, after = (float(stage.iq_learn.temperature) for stage in (offline, online))
    ratio = after / before if finite else 1.0
    assert not finite or ratio == pytest.approx(10)
    raised = 2 * online.iq_learn.chi2_alpha / (1 - online.iq_learn.discount)
    agents: Any = old.agent, new.agent
    state, action = normalized(new.parameters, rows["observation"]), agents[1].as_input(rows["action"])
    for group, source in (("critic", old.average if finite else old.parameters["critic"]), ("target_critic", None)):
        theirs = agents[0].q(source if source is not None else old.parameters[group], state, action)
        mine = agents[1].q(new.parameters[group], state, action)
        torch.testing.assert_close(mine, ratio * theirs + raised, rtol=0, atol=1e-3)
    training.close()


def _expert(training: OnlineTraining) -> tuple[Any, ...]:
    """For a replay of the expert's rows alone."""
    replay = training.replay
    own = Replay({}, {"expert": 64}, 0, replay.tables, {"expert": replay.piles["expert"]})
    return {}, own.batch_sizes, 0, own.tables, {"expert": own.piles["expert"]}


def test_a_warm_up_without_an_end_is_refused(tmp_path: Path):
    """Nothing would come of the fine-tuning but what it began with. From scratch there is none."""
    point_dataset()
    offline = stages(as_given(start="offline"), tmp_path)[0]
    trained(offline, tmp_path / "offline")
    with pytest.raises(UserError, match=r"online\.critic_warmup = 40 of 40 updates leaves none"):
        begun(online_config(start=str(tmp_path / "offline"), critic_warmup=40), tmp_path / "tuned")
    begun(online_config(start=str(tmp_path / "offline"), critic_warmup=39), tmp_path / "last").close()
    begun(online_config(critic_warmup=2_000), tmp_path / "scratch").close()


def test_an_offline_run_has_no_warm_up(tmp_path: Path):
    """Also where its configuration says what it would be fine-tuned from."""
    point_dataset()
    config = resolved(replace(as_given(env_steps=0, start="somewhere"), algorithm="bc"))
    data = choose_data(config, obtain(config.data.expert), [])
    training = prepare(config, data)
    before = [value.clone() for value in training.learner.parameters["actor"].values()]
    training.update()
    assert training.learner.actor_held == 0
    assert not any(map(torch.equal, before, training.learner.parameters["actor"].values()))


def test_what_learns_nothing_from_fixed_data_has_no_offline_half(tmp_path: Path):
    for algorithm in ("gail", "sqil"):
        config = replace(as_given(start="offline"), algorithm=algorithm)
        with pytest.raises(UserError, match=f"online.start = 'offline': {algorithm} learns nothing from these fixed"):
            stages(config, tmp_path)
    mixed = replace(config, data=replace(config.data, suboptimal=(Suboptimal("hopper/random"),)))
    assert [stage.algorithm for stage in stages(mixed, tmp_path)] == ["sqil", "sqil"]


def test_the_first_point_of_the_curve_survives_a_failure_before_the_first_update(tmp_path: Path):
    """The checkpoint is of step 0 then, and the networks of a resumed run are not loaded yet where that point is."""
    broken = tmp_path / "broken"
    point_dataset(fault="raise", after=3, while_there=str(broken))
    trained(stages(as_given(start="offline"), tmp_path)[0], tmp_path / "offline")
    config = online_config(start=str(tmp_path / "offline"), environments=1)
    broken.touch()
    with pytest.raises(UserError, match="a wheel came off"):
        trained(config, tmp_path / "tuned")
    broken.unlink()
    trained(config, tmp_path / "tuned")
    offline = weights(tmp_path / "offline/policy.safetensors")
    first = weights(tmp_path / "tuned/snapshots/step-0000000.safetensors")
    assert all(torch.equal(offline[name], first[name]) for name in offline)


def test_the_first_point_of_the_curve_is_of_what_the_training_begins_with(tmp_path: Path):
    """Not of an earlier beginning, killed before its first checkpoint: the offline run may have gone on since."""
    point_dataset()
    trained(stages(as_given(start="offline"), tmp_path)[0], tmp_path / "offline")
    config, first = (
        online_config(start=str(tmp_path / "offline")),
        tmp_path / "tuned/snapshots/step-0000000.safetensors",
    )
    Run(config, tmp_path / "tuned").claim()
    first.parent.mkdir()
    shutil.copy(tmp_path / "offline/snapshots/step-0000010.safetensors", first)
    trained(config, tmp_path / "tuned")
    offline, found = weights(tmp_path / "offline/policy.safetensors"), weights(first)
    assert all(torch.equal(offline[name], found[name]) for name in offline)


def test_an_environment_that_dies_at_a_checkpoint_leaves_one_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    environment_dataset("test/pole-v0", "CartPole-v1")
    config = online_config("test/pole-v0", environments=2, in_processes="yes")
    saved = VectorStepper.state

    def killed(stepper: VectorStepper) -> Any:
        stepper.vector.processes[0].kill()
        stepper.vector.processes[0].join()
        return saved(stepper)

    with monkeypatch.context() as patch:
        patch.setattr(VectorStepper, "state", killed)
        with pytest.raises(UserError, match=r"died in a saving of its state; the state after step (\d+) is saved"):
            trained(config, tmp_path / "run")
    assert step_reached(tmp_path / "run") == config.training.checkpoint_every
    trained(config, tmp_path / "run")
    assert step_reached(tmp_path / "run") == config.stage.gradient_steps


def test_a_curve_ends_with_the_final_policy(tmp_path: Path):
    """Also where the budget is shorter than the way to the first evaluation."""
    point_dataset()
    config = replace(online_config(evaluate_every=5_000), evaluation=EvaluationConfig(2))
    summary = run(config, tmp_path / "run", QUIET)
    assert [point["env_steps"] for point in summary["curve"]] == [0, 60]
    assert summary["curve"][-1]["returns"] == summary["returns"]


def test_another_start_is_refused(tmp_path: Path):
    point_dataset()
    config = online_config(start=str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="holds no offline run to start from"):
        begun(config, tmp_path / "a")
    offline, _ = stages(as_given(start="offline"), tmp_path)
    trained(offline, tmp_path / "small")
    wider = replace(
        config,
        training=replace(config.training, hidden_sizes=(9,)),
        online=replace(config.online, start=str(tmp_path / "small")),
    )
    with pytest.raises(UserError, match="has other networks than this run"):
        begun(wider, tmp_path / "b")
    other = replace(wider, training=config.training, data=replace(config.data, num_expert_trajectories=2))
    with pytest.raises(UserError, match="was trained on another selection of data than this run's"):
        begun(other, tmp_path / "c")


@pytest.mark.parametrize("absorbing_value", ["zero", "raised"])
def test_rewards_are_raised_once(absorbing_value: Any, tmp_path: Path):
    """An offline critic that counts from the lowest reward already is not moved again."""
    point_dataset()
    terms = IQLearnConfig(policy="soft_actor_critic", absorbing_value=absorbing_value)
    given = as_given()
    given = replace(given, data=replace(given.data, suboptimal=(Suboptimal("test/point-v0"),)))
    (offline,) = stages(replace(given, online=OnlineConfig(), iq_learn=terms), tmp_path)
    run(offline, tmp_path / "offline", QUIET)
    online = replace(given.online, start=str(tmp_path / "offline"))
    config = replace(given, online=online, iq_learn=IQLearnConfig(policy="soft_actor_critic"))
    training = begun(stages(config, tmp_path)[-1], tmp_path / "tuned")
    theirs = weights(tmp_path / "offline" / LATEST)["learner/parameters/critic/2.bias"]
    moved = training.learner.state()["parameters/critic/2.bias"] - theirs
    assert moved.tolist() == pytest.approx([0.0 if absorbing_value == "raised" else 100.0], abs=1e-4)
    training.close()


def test_an_environment_without_a_time_limit_is_cut_as_it_is_scored(tmp_path: Path):
    endless_dataset("test/swing-v0")
    config = online_config("test/swing-v0", environments=1, env_steps=80, start_steps=70)
    training = begun(config, tmp_path / "run")
    watched = Watched(training.stepper)
    training.stepper = watched
    for _ in range(70):
        training.collect()
    assert watched.ended == 2, "after 30 steps each, as the longest recorded one has"
    training.close()


def test_online_runs_are_told_apart_by_all_of_their_options(tmp_path: Path):
    """``online.start_steps`` is no spelling of ``online.start``."""
    config, folder = online_config(), tmp_path / "run"
    folder.mkdir()
    write_config(config, folder / "config.toml")
    require_same_run(config, folder)
    for name, value in (("start_steps", 30), ("start_anchor", 3.0)):
        other = replace(config, online=replace(config.online, **{name: value}))
        with pytest.raises(UserError, match=f"holds another configuration .online.{name} is"):
            require_same_run(other, folder)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file: choose another --output"):
        require_same_run(config, tmp_path / "file")


def test_a_run_that_cannot_begin_leaves_no_environments_behind(tmp_path: Path):
    point_dataset()
    config = online_config(start=str(tmp_path / "nothing"), environments=2, in_processes="yes")
    with pytest.raises(UserError, match="holds no offline run to start from"):
        run(config, tmp_path / "run", QUIET)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("data", {"observation_keys": ("state",)}),
        ("data", {"frame_stack": 4}),
        ("data", {"action_low": (-2.0,)}),
        ("data", {"action_high": (2.0, 3.0)}),
        ("training", {"activation": "tanh"}),
        ("training", {"normalize_observations": False}),
    ],
)
def test_a_start_whose_networks_mean_something_else_is_refused(section: str, changes: dict[str, Any], tmp_path: Path):
    """No weight's shape tells."""
    point_dataset()
    offline, _ = stages(as_given(start="offline"), tmp_path)
    trained(offline, tmp_path / "offline")
    other = replace(offline, **{section: replace(getattr(offline, section), **changes)})
    write_config(other, tmp_path / "offline" / "config.toml")
    ((key, theirs),) = changes.items()
    theirs, ours = (
        list(value) if isinstance(value, tuple) else value
        for value in (theirs, getattr(getattr(offline, section), key))
    )
    words = f"other networks than this run ({section}.{key} is {theirs!r} there and {ours!r} here)"
    with pytest.raises(UserError, match=re.escape(words)):
        begun(online_config(start=str(tmp_path / "offline")), tmp_path / "tuned")
    write_config(offline, tmp_path / "offline" / "config.toml")
    begun(online_config(start=str(tmp_path / "offline")), tmp_path / "tuned").close()


def test_the_schedule_of_steps():
    """Every update has the steps it asks for, and the last one all of them."""
    for config in (
        OnlineConfig(1000, start_steps=100),
        OnlineConfig(1000, start_steps=100, updates_per_env_step=0.5, environments=4),
        OnlineConfig(999, start_steps=10, updates_per_env_step=2.0, environments=3),
        OnlineConfig(1500, start_steps=1000, updates_per_env_step=1 / 3),
        OnlineConfig(3001, start_steps=1000, updates_per_env_step=0.1),
    ):
        steps = [config.env_steps_before(update) for update in range(config.gradient_steps + 1)]
        assert steps[0] == 0
        assert steps[-1] == config.env_steps
        assert all(step % config.environments == 0 for step in steps)
        lived = np.array(steps[1:-1]) - config.start_steps
        updates = np.arange(1, len(steps) - 1)
        assert (lived >= updates / config.updates_per_env_step - 1e-9).all()
        assert (lived < updates / config.updates_per_env_step + config.environments + 1).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"algorithm": "bc"},
            "algorithm 'bc' has no online stage: use 'iq_learn' or 'valuedice' or 'sqil' or 'gail', or",
        ),
        ({"online": OnlineConfig(1000)}, "env_steps = 1000 leaves no updates after online.start_steps = 1000"),
        ({"online": OnlineConfig(3001, environments=2)}, "is no multiple of online.environments = 2"),
        ({"training": {"prefetch": 2}}, "prefetch must be 0"),
        ({"iq_learn": {"policy": "survival"}}, "online it is 'learned_reward' or 'soft_"),
    ],
)
def test_what_cannot_be_online_is_refused(changes: dict[str, Any], words: str):
    config = RunConfig(online=OnlineConfig(5000), data=DataConfig(suboptimal=(Suboptimal("hopper/random"),)))
    for name, value in changes.items():
        config = replace(
            config, **{name: replace(getattr(config, name), **value) if isinstance(value, dict) else value}
        )
    with pytest.raises(UserError, match=words):
        resolved(config)


def test_gail_refuses_finitely_many_actions(tmp_path: Path):
    environment_dataset("test/pole-v0", "CartPole-v1")
    with pytest.raises(UserError, match="gail is for actions in a box"):
        begun(replace(online_config("test/pole-v0"), algorithm="gail"), tmp_path / "run")


def test_online_terms_are_over_the_mixture():
    config = resolved(RunConfig(online=OnlineConfig(5000)))
    assert (config.iq_learn.value_states, config.iq_learn.chi2_states) == ("mixture", "mixture")
    assert (config.iq_learn.policy, config.iq_learn.temperature) == ("learned_reward", 0.1)
    assert resolved(config) == config
    assert (config.stage.gradient_steps, config.training.gradient_steps) == (4000, 10_000)
    assert math.isclose(config.online.online_fraction, 0.5)


def test_each_stage_decides_for_itself(tmp_path: Path):
    """What a user decided holds in both, also where it is what auto would be in one of them."""
    config = RunConfig(online=OnlineConfig(5000, start="offline"))
    offline, online = (stage.iq_learn for stage in stages(config, tmp_path))
    assert (offline.value_states, offline.absorbing_value, offline.temperature) == ("expert", "zero", 0.001)
    assert (online.value_states, online.policy, online.temperature) == ("mixture", "learned_reward", 0.1)
    own = replace(config, iq_learn=IQLearnConfig(temperature=0.1, policy="soft_actor_critic"))
    offline, online = (stage.iq_learn for stage in stages(own, tmp_path))
    assert (offline.absorbing_value, offline.temperature) == ("zero", 0.1)
    assert (online.absorbing_value, online.temperature) == ("raised", 0.1)
    terms: Any = {"policy": "learned_reward"}, {"policy": "soft_actor_critic", "chi2_states": "mixture"}
    for given in terms:
        offline, online = stages(replace(config, iq_learn=IQLearnConfig(**given)), tmp_path)
        assert (offline.iq_learn.policy, offline.iq_learn.chi2_states) == ("soft_actor_critic", "expert")
        assert online.iq_learn.policy == given["policy"], "what fixed data cannot have is for the second stage"
    mixed = replace(config, data=DataConfig(suboptimal=(Suboptimal("hopper/random"),)))
    before, after = stages(mixed, tmp_path)
    assert (before.iq_learn.policy, after.iq_learn.policy) == ("lookahead", "learned_reward")
    assert (before.is_online, after.online.start) == (False, str(tmp_path / "offline"))
    assert stages(after, tmp_path / "elsewhere") == (after,), "a saved configuration is a recipe"


def test_the_environment_that_is_stepped_is_the_one_to_evaluate_in(tmp_path: Path):
    """With what its metadata say of it."""
    point_dataset(radius=0.7)
    training = begun(online_config(), tmp_path / "run")
    stepper: Any = training.stepper
    assert stepper.vector.envs[0].unwrapped.radius == 0.7
    assert evaluation_environment(obtain("test/point-v0").source).kwargs == {"radius": 0.7}  # type: ignore[union-attr]
    training.close()


@pytest.mark.parametrize(
    "online",
    [
        OnlineConfig(5000, start_steps=4000, evaluate_every=500),
        OnlineConfig(9999, evaluate_every=5000),
        OnlineConfig(3000, environments=7, updates_per_env_step=0.3, evaluate_every=400),
        OnlineConfig(60, start_steps=20, evaluate_every=100),
    ],
)
def test_policies_are_kept_at_steps_in_the_environment(online: OnlineConfig):
    """At the first update from each multiple on: none is skipped, but for those before the first update."""
    steps = sorted(online.snapshot_steps)
    assert steps[-1] == online.gradient_steps
    for update in range(1, online.gradient_steps):
        before, now = (online.env_steps_before(step) // online.evaluate_every for step in (update - 1, update))
        assert (update in steps) == (now > (0 if update == 1 else before)), update


def test_a_stop_is_heard_while_the_first_steps_are_taken(tmp_path: Path):
    """Which may take minutes; what was collected is kept, and the end is the same."""
    environment_dataset("test/pole-v0", "CartPole-v1")
    config = online_config("test/pole-v0", start_steps=40, env_steps=80)
    straight, folder = tmp_path / "straight", tmp_path / "broken"
    trained(config, straight)
    training = begun(config, folder)
    inner, taken = training.collect, 0

    def counted() -> None:
        nonlocal taken
        inner()
        taken += 1
        if taken == 5:
            signal.raise_signal(signal.SIGINT)

    training.collect = counted  # type: ignore[method-assign]
    shown: list[tuple[int, str]] = []
    with pytest.raises(InterruptedTrainingError):
        train(training, config.stage, folder, lambda done, total, note="": shown.append((done, note)))
    assert taken == 5
    tensors, values = checkpoint.load(folder / LATEST)
    assert (values["step"], int(tensors["online/env_steps"])) == (0, 10)
    assert shown[-1] == (0, "10 env steps, 0/s"), "it says that it is under way"
    trained(config, folder)
    assert_same_run(straight, folder)


def test_after_a_reset_that_failed_another_episode_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whose layout cannot be built for one seed is not asked for it for ever."""
    point_dataset()
    training = begun(online_config(), tmp_path / "run")
    assert training.stepper is not None
    asked: list[Sequence[int | None]] = []
    reset = training.stepper.reset

    def flaky(seeds: Sequence[int | None]) -> Any:
        asked.append(seeds)
        if len(asked) < 3:
            raise StepError("no layout found")
        return reset(seeds)

    monkeypatch.setattr(training.stepper, "reset", flaky)
    lanes = range(training.online.environments)
    for _ in range(2):
        with pytest.raises(StepError):
            training._begin(lanes)
    training._begin(lanes)
    assert len({seeds[0] for seeds in asked}) == 3
    training.close()


@pytest.mark.parametrize("start", ["offline", ""])
def test_drawing_ahead_is_for_the_offline_half(start: str, tmp_path: Path):
    given = as_given(start=start)
    given = replace(given, training=replace(given.training, prefetch=2))
    if start:
        assert [stage.training.prefetch for stage in stages(given, tmp_path)] == [2, 0]
    else:
        with pytest.raises(UserError, match="prefetch must be 0"):
            stages(given, tmp_path)
