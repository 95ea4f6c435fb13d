"""The error on held-out trajectories: by hand, on transitions that training never saw."""

import json
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

from iq_offline.config import DataConfig, RunConfig, TrainingConfig, resolved
from iq_offline.data.cache import cached
from iq_offline.data.stream import open_source
from iq_offline.evaluation import held_out
from iq_offline.evaluation.held_out import constant_error, held_out_error
from iq_offline.training.setup import Data, choose_data, policy_of, prepare
from tests.data_helpers import write_spaces_dataset
from tests.space_helpers import at, expected_actions
from tests.training.program import train_policy

OBSERVED = Dict({"camera": Box(0, 255, (9, 8, 2), np.uint8), "state": Box(-1, 1, (3,)), "which": Discrete(3)})


def prepared(space: gymnasium.Space, **options: object) -> tuple[RunConfig, Data]:
    write_spaces_dataset("test/any-v0", OBSERVED, space, lengths=[6, 5, 7, 4, 9, 3])
    data = DataConfig("test/any-v0", 2, held_out_trajectories=3, frame_stack=2, **options)  # type: ignore[arg-type]
    training = TrainingConfig(20, batch_size=8, hidden_sizes=(8,), snapshots=0)
    config = resolved(RunConfig(algorithm="bc", data=data, training=training))
    source = minari.load_dataset("test/any-v0").storage.data_path
    return config, choose_data(config, cached(open_source(Path(str(source)))), [])


@pytest.mark.parametrize("at_once", [4, 4096])
@pytest.mark.parametrize(
    ("space", "low"),
    [
        (Discrete(4, start=2), ()),
        (MultiDiscrete([3, 2], start=[1, 0]), ()),
        (Box(-2, 2, (2,)), ()),
        (Box(-2, 2, (2,)), (-1.0, -0.5)),
        (Box(np.array([-2, -np.inf], np.float32), 2, (2,)), ()),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, gymnasium.Space) else "own" if not value else "given",
)
def test_the_error_is_that_of_the_policy_on_minaris_episodes(
    space: gymnasium.Space, low: tuple[float, ...], at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acting live on the held-out episodes, one observation after another, and counting."""
    monkeypatch.setattr(held_out, "ROWS_AT_ONCE", at_once)
    config, data = prepared(space, action_low=low)
    policy = train_policy(config, data, tmp_path / "run")
    assert data.held_out is not None
    found = held_out_error(policy, data.held_out)
    stored = list(minari.load_dataset("test/any-v0").iterate_episodes())
    errors = []
    for index in data.held_out.trajectories:
        episode = stored[index]
        seen = [at(OBSERVED, episode.observations, t) for t in range(len(episode.actions))]
        acted = policy.act([seen[: t + 1] for t in range(len(seen))])
        if isinstance(space, Box):
            lows, highs = data.actions.low, data.actions.high  # type: ignore[union-attr]
            unit = [np.clip(2 * (values - lows) / (highs - lows) - 1, -1, 1) for values in (acted, episode.actions)]
            errors += np.square(unit[0] - unit[1]).sum(1).tolist()
        else:
            wrong = expected_actions(space, acted) != expected_actions(space, episode.actions)
            errors += wrong.any(1).astype(float).tolist()
    assert found.error == pytest.approx(np.mean(errors), rel=1e-4)
    assert found.measure == ("squared_error" if isinstance(space, Box) else "wrong_actions")
    assert (found.trajectories, found.transitions) == (3, len(errors))
    assert json.loads(json.dumps(found.table())) == found.table()
    assert found.error > 0


def test_a_policy_that_knows_the_answers_makes_no_error() -> None:
    """And the opposite one nothing but errors."""
    config, data = prepared(Discrete(2))
    assert data.held_out is not None
    steps = data.held_out.data.steps
    source = data.held_out.data
    state = source.column(data.observations.leaves[1])
    assert steps[state].shape[1] == 3
    rows = torch.from_numpy(data.held_out.rows)
    training = prepare(config, data)
    policy = policy_of(
        data, training.learner.average, training.learner.parameters["normalizer"], config.training.activation
    )
    answers = {tuple(steps[state][row].tolist()): int(steps["action"][row]) for row in rows}
    assert len(answers) == len(rows)
    for flip, expected in ((0, 0.0), (1, 1.0)):

        def knowing(features: torch.Tensor, flip: int = flip) -> np.ndarray:
            found = [answers[tuple(row.tolist())] ^ flip for row in features[:, -6:-3]]
            return policy.actions.from_indices(np.array(found)[:, None])  # type: ignore[union-attr]

        policy.from_features = knowing  # type: ignore[method-assign]
        assert held_out_error(policy, data.held_out).error == expected


@pytest.mark.parametrize("low", [(), (-1.0, -0.5)], ids=["own", "given"])
def test_the_error_of_one_amount_for_all_states(low: tuple[float, ...]) -> None:
    """Of the labelled mean in [-1, 1], actions outside clipped to it."""
    _, data = prepared(Box(-2, 2, (2,)), action_low=low)
    assert data.held_out is not None
    stored = list(minari.load_dataset("test/any-v0").iterate_episodes())
    least = np.array(low or (-2.0, -2.0))

    def unit(trajectories: np.ndarray) -> np.ndarray:
        actions = np.concatenate([stored[index].actions for index in trajectories]).astype(np.float64)
        return np.clip(2 * (actions - least) / (2 - least) - 1, -1, 1)

    apart = unit(data.held_out.trajectories) - unit(data.expert.trajectories).mean(0)
    found = constant_error(data.expert, data.held_out, data.actions)
    assert found == pytest.approx(np.square(apart).sum(1).mean(), rel=1e-6)


@pytest.mark.parametrize("space", [Discrete(3, start=2), MultiDiscrete([3, 2], start=[1, 0])], ids=str)
def test_the_error_of_one_choice_for_all_states(space: gymnasium.Space) -> None:
    _, data = prepared(space)
    assert data.held_out is not None
    stored = list(minari.load_dataset("test/any-v0").iterate_episodes())
    known, asked = (
        [tuple(np.atleast_1d(action)) for index in part.trajectories for action in stored[index].actions]
        for part in (data.expert, data.held_out)
    )
    commonest = [choice for choice in known if known.count(choice) == max(map(known.count, known))]
    shares = {sum(choice != one for choice in asked) / len(asked) for one in commonest}
    assert constant_error(data.expert, data.held_out, data.actions) in shares
