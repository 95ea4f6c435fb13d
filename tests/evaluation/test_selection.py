"""Diagnostics without an environment: each number by hand, and the verdicts on made-up trainings."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from iq_offline.config import DataConfig, IQLearnConfig, RunConfig, Suboptimal, TrainingConfig, resolved
from iq_offline.data import replay
from iq_offline.evaluation import selection
from iq_offline.evaluation.held_out import held_out_error
from iq_offline.evaluation.selection import Row, Watch, health, read_diagnostics, watched, watches
from iq_offline.experiment import Options, obtain, run
from iq_offline.training.setup import Data, choose_data, policy_of, prepare
from iq_offline.training.training import Training
from tests.environments.worlds import environment_dataset
from tests.helpers import point_mass_dataset

QUIET = Options(say=lambda line: None)


def configuration(algorithm: Any = "iq_learn", mixed: bool = True, policy: Any = "auto", steps: int = 20) -> RunConfig:
    parts = (Suboptimal("test/wild-v0"), Suboptimal("test/expert-v0", 2, hidden=True)) if mixed else ()
    return resolved(
        RunConfig(
            algorithm=algorithm,
            data=DataConfig("test/expert-v0", 2, subsample=3, suboptimal=parts, held_out_trajectories=3),
            training=TrainingConfig(steps, batch_size=16, hidden_sizes=(16,), snapshots=4, log_every=5),
            iq_learn=IQLearnConfig(policy=policy, choose_every=5, lasting=5, chi2_alpha=0.3, discount=0.9),
        )
    )


@pytest.fixture(autouse=True)
def _datasets() -> None:
    point_mass_dataset("test/expert-v0", 9, 20, seed=0)
    point_mass_dataset("test/wild-v0", 7, 20, seed=1, noise=2.0)


def prepared(config: RunConfig) -> tuple[Training, Data]:
    parts = [obtain(part.dataset) for part in config.data.suboptimal]
    data = choose_data(config, obtain("test/expert-v0"), parts)
    return prepare(config, data), data


def watch(training: Training, data: Data) -> Watch:
    return watches([training], [data])[0]


@pytest.mark.parametrize("algorithm", ["bc", "iq_learn", "valuedice", "sqil"])
def test_the_held_out_error_is_the_averaged_policy_s(algorithm: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(replay, "ROWS_AT_ONCE", 7)
    config = configuration(algorithm)
    training, data = prepared(config)
    for _ in range(5):
        training.update()
    assert data.held_out is not None
    learner = training.learner
    policy = policy_of(data, learner.average, learner.parameters["normalizer"], config.training.activation)
    row = watch(training, data).look()
    assert row["gradient_steps"] == 5
    assert row["held_out/error"] == pytest.approx(held_out_error(policy, data.held_out).error, rel=1e-5)
    assert row["labelled/error"] == pytest.approx(held_out_error(policy, data.expert).error, rel=1e-5)


def test_rewards_and_their_bounds_by_hand():
    """Of IQ-Learn on a mixture: r = Q - gamma V(s'), V by the policy's mean action."""
    training, data = prepared(configuration(policy="soft_actor_critic"))
    training.update()
    agent, parameters = training.learner.agent, training.learner.parameters
    row = watch(training, data).look()
    rewards: dict[str, list[float]] = {"held_out": [], "suboptimal": []}
    largest = 0.0
    (column,) = (data.expert.data.column(leaf) for leaf in data.observations.leaves)
    with torch.no_grad():
        acting = TensorDict({**dict(parameters.items()), "actor": training.learner.average})
        for kind, parts in {
            "held_out": [data.held_out],
            "suboptimal": data.suboptimal,
            "expert": [data.expert],
        }.items():
            for part in parts:
                assert part is not None
                for index in part.rows:
                    now, after = (
                        torch.from_numpy(np.asarray(part.data.steps[column][i]))[None].float()
                        for i in (index, index + 1)
                    )
                    state, following = (
                        (x - parameters["normalizer", "mean"]) / parameters["normalizer", "std"] for x in (now, after)
                    )
                    action = torch.from_numpy(np.asarray(part.data.steps["action"][index]))[None].float()
                    q = agent.q(parameters["critic"], state, agent.as_input(action))  # type: ignore[attr-defined]
                    none = torch.zeros(1, 2)
                    v = agent.value(acting, "critic", following, none)  # type: ignore[attr-defined]
                    ended = float(part.data.steps["terminated"][index])
                    largest = max(largest, abs(q.item()))
                    if kind in rewards:
                        rewards[kind].append((q - 0.9 * (1 - ended) * v).item())
    means = {kind: float(np.mean(values)) for kind, values in rewards.items()}
    assert row["held_out/reward"] == pytest.approx(means["held_out"], abs=1e-5)
    assert row["suboptimal/reward"] == pytest.approx(means["suboptimal"], abs=1e-5)
    assert row["reward_margin"] == pytest.approx((means["held_out"] - means["suboptimal"]) / 2.4, abs=1e-5)
    assert row["value_of_bound"] == pytest.approx(largest * 0.1 / 1.2, rel=1e-4)
    assert row["reward_saturation"] == 0


@pytest.mark.parametrize(
    ("algorithm", "mixed", "policy", "bound"),
    [
        ("bc", True, "auto", None),
        ("iq_learn", False, "auto", 0.0),
        ("iq_learn", True, "soft_actor_critic", 1.2),
        ("iq_learn", True, "lookahead", 1.2),
        ("iq_learn", True, "weighted", 1.2),
        ("iq_learn", True, "survival", None),
        ("valuedice", False, "auto", 0.0),
        ("valuedice", True, "auto", 0.0),
        ("sqil", True, "auto", 1.0),
    ],
)
def test_who_knows_what(algorithm: str, mixed: bool, policy: str, bound: float | None):
    training, data = prepared(configuration(algorithm, mixed, policy))
    row = watch(training, data).look()
    kinds = ["labelled", "held_out"] + ["suboptimal"] * mixed
    assert all(f"{kind}/error" in row for kind in kinds)
    assert ("held_out/reward" in row) == (bound is not None)
    assert ("reward_margin" in row) == bool(bound and mixed)
    assert ("value_of_bound" in row) == bool(bound and policy != "weighted")
    assert training.learner.agent.reward_bound(0.5) == pytest.approx(bound or 0.0)


@pytest.mark.parametrize(("share", "expected"), [(0.9, 0), (0.96, 1), (1.05, 1)])
def test_rewards_at_the_bound_are_saturated(share: float, expected: float, monkeypatch: pytest.MonkeyPatch):
    training, data = prepared(configuration(policy="lookahead"))
    agent = training.learner.agent
    said = agent.diagnose

    def diagnose(parameters: TensorDict, rows: TensorDict) -> dict[str, torch.Tensor]:
        return {**said(parameters, rows), "reward": torch.full((len(rows),), -share * 1.2)}

    monkeypatch.setattr(agent, "diagnose", diagnose)
    assert watch(training, data).look()["reward_saturation"] == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 1.2),
        ({"chi2_states": "expert"}, 0.0),
        ({"temperature": 0.5}, 0.0),
        ({"divergence": "total_variation"}, 0.5),
        ({"divergence": "kl"}, 0.0),
    ],
)
def test_bounds_of_the_soft_actor_critic(changes: dict[str, Any], expected: float):
    config = configuration(policy="soft_actor_critic")
    training, _ = prepared(replace(config, iq_learn=replace(config.iq_learn, **changes)))
    bound = training.learner.agent.reward_bound
    assert bound(0.5) == pytest.approx(expected)
    assert bound(0.2) == pytest.approx(2.5 * expected if expected == 1.2 else expected)


def test_looking_changes_nothing():
    """Training with a look at every step is bit for bit the training without."""
    ends = []
    for looking in (False, True):
        training, data = prepared(configuration())
        watching = watch(training, data)
        for _ in range(12):
            training.update()
            if looking:
                watching.look()
        ends.append(training.state())
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_no_more_than_so_many_transitions_are_looked_at_and_those_of_all_ages(monkeypatch: pytest.MonkeyPatch):
    """Also where a stretch is as long as an episode."""
    _, data = prepared(configuration())
    monkeypatch.setattr(selection, "AT_MOST", 9)
    chosen = {kind: [part.rows for part in parts] for kind, parts in watched(data).items()}
    counts = {kind: sum(map(len, rows)) for kind, rows in chosen.items()}
    assert counts == {"labelled": 7, "held_out": 9, "suboptimal": 9}
    wild, hidden = chosen["suboptimal"]
    assert set(wild) <= set(data.suboptimal[0].rows)
    assert set(hidden) <= set(data.suboptimal[1].rows)
    starts = data.suboptimal[0].data.starts
    assert len({int(row - starts[starts <= row].max()) for row in wild}) > 3
    again = watched(data)["held_out"]
    assert all((rows == part.rows).all() for rows, part in zip(chosen["held_out"], again, strict=True))


def test_a_run_leaves_its_diagnostics_and_a_verdict(tmp_path: Path):
    config = configuration("bc", mixed=False)
    summary = run(config, tmp_path / "run", QUIET)
    rows = read_diagnostics(tmp_path / "run")
    assert [row["gradient_steps"] for row in rows] == [5, 10, 15, 20]
    assert (
        summary["health"] == health(rows).table() == json.loads((tmp_path / "run/summary.json").read_text())["health"]
    )
    none = replace(config, training=replace(config.training, snapshots=0))
    run(none, tmp_path / "none", QUIET)
    assert read_diagnostics(tmp_path / "none") == rows[-1:], "the last step is always looked at"


def test_going_back_in_time_forgets_what_came_later(tmp_path: Path):
    """A run that was cut off after a look and before its checkpoint looks again."""
    training, data = prepared(configuration("bc", mixed=False))
    watching = watch(training, data)
    start = {name: value.clone() for name, value in training.state().items()}
    for _ in range(3):
        watching.append(tmp_path)
        training.update()
    assert [row["gradient_steps"] for row in read_diagnostics(tmp_path)] == [0, 1, 2]
    training.load_state(start)
    training.update()
    watching.append(tmp_path)
    assert [row["gradient_steps"] for row in read_diagnostics(tmp_path)] == [0, 1]
    training.load_state(start)
    training.replay.generator.manual_seed(
        99
    )  # What cannot be resumed bit for bit comes to the same step by other rows.
    training.update()
    watching.append(tmp_path)
    assert read_diagnostics(tmp_path)[-1] == watching.look()


def test_one_wrong_action_by_hand():
    """Of finitely many, where an error is the share of wrong ones."""
    environment_dataset("test/pole-v0", "CartPole-v1")
    config = configuration("bc", mixed=False)
    config = replace(config, data=replace(config.data, expert="test/pole-v0", num_expert_trajectories=1))
    data = choose_data(config, obtain("test/pole-v0"), [])
    row = watch(prepare(config, data), data).look()
    assert data.held_out is not None
    assert row["labelled/one_wrong"] == 1 / len(data.expert.rows)
    assert row["held_out/one_wrong"] == 1 / len(data.held_out.rows)


def rows(held_out: list[float], labelled: list[float], **last: float) -> list[Row]:
    pairs = enumerate(zip(held_out, labelled, strict=True), 1)
    made: list[Row] = [{"gradient_steps": i * 100, "held_out/error": h, "labelled/error": t} for i, (h, t) in pairs]
    made[-1] |= last
    return made


@pytest.mark.parametrize(
    ("made", "verdict", "words"),
    [
        (rows([0.5, 0.2, 0.1], [0.5, 0.2, 0.1]), "healthy", "did not rise: 0.1"),
        (rows([0.5, 0.1, 0.12], [0.5, 0.1, 0.01]), "healthy", "is 0.12, 0.1 at its lowest"),
        (rows([0.0, 0.0002], [0.0, 0.0]), "healthy", "is 0.0002, 0 at its lowest"),
        (rows([0.5, 0.1, 0.2], [0.5, 0.1, 0.01]), "overfitting", "from 0.1 at step 200 to 0.2"),
        (rows([0.5, 0.1, 0.2], [0.5, 0.1, 0.2]), "diverging", "labelled data themselves rose from 0.1"),
        (rows([0.5, 0.4, 0.3], [0.5, 0.01, 0.4]), "diverging", "labelled data themselves rose from 0.01"),
        (rows([0.5, 0.1], [0.5, 0.1], value_of_bound=3.21), "diverging", "3.2 times"),
        (rows([0.5, 0.1], [0.5, 0.1], value_of_bound=math.nan), "diverging", "nan times"),
        (rows([0.5, 0.1], [0.5, 0.1], value_of_bound=0.9), "healthy", "did not rise"),
        (rows([0.5, 0.04], [0.5, 0.00035]), "overfitting", "0.04 where the labelled one is 0.00035"),
        (rows([0.5, 0.031], [0.5, 0.0]), "overfitting", "0.031 where the labelled one is 0"),
        (rows([0.5, 0.029], [0.5, 0.0]), "healthy", "did not rise"),
        (
            rows([0.5, 0.3], [0.5, 0.29], **{"held_out/constant_error": 0.32}),
            "underfitting",
            "is 0.3, and that of the labelled expert's mean action in every state 0.32",
        ),
        (
            rows([0.5, 0.3], [0.5, 0.29], **{"held_out/constant_error": 0.3, "held_out/one_wrong": 0.01}),
            "underfitting",
            "is 0.3, and that of the labelled expert's commonest action in every state 0.3",
        ),
        (rows([0.5, 0.28], [0.5, 0.28], **{"held_out/constant_error": 0.32}), "healthy", "did not rise"),
        (rows([0.5, 0.3], [0.5, 0.0], **{"held_out/constant_error": 0.3}), "overfitting", "0.3 where"),
        (rows([0.5], [0.5]), "unknown", "less than two"),
        ([{"gradient_steps": i, "labelled/error": 1.0} for i in (1, 2)], "unknown", "held_out_trajectories"),
        (
            [{"gradient_steps": i, "labelled/error": float(i)} for i in (1, 2)],
            "diverging",
            "from 1 at step 1 to 2",
        ),
        ([], "unknown", "less than two"),
        (rows([0.1, 0.1], [0.0, 0.04], **{"labelled/one_wrong": 0.04}), "healthy", "did not rise"),
        (rows([0.1, 0.1], [0.0, 0.16], **{"labelled/one_wrong": 0.04}), "diverging", "from 0 at step 100 to 0.16"),
        (rows([0.1, 0.2], [0.1, 0.1], **{"held_out/one_wrong": 0.04}), "healthy", "is 0.2, 0.1 at its lowest"),
        (rows([0.1, 0.25], [0.1, 0.1], **{"held_out/one_wrong": 0.04}), "overfitting", "from 0.1 at step 100 to 0.25"),
    ],
)
def test_verdicts(made: list[Row], verdict: str, words: str):
    found = health(made)
    online = health(made, online=True)
    assert online.verdict == ("diverging" if "times what rewards" in found.reason else "unknown")
    assert found.verdict == verdict
    assert words in found.reason
