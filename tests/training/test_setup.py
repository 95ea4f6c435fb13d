"""From a configuration and data to a training: who is labelled, and how a batch is shared out."""

import json
from dataclasses import replace
from pathlib import Path

import minari
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from hypothesis import given, settings
from hypothesis import strategies as st

from iq_offline.config import Activation, DataConfig, Normed, RunConfig, Suboptimal
from iq_offline.data.cache import CachedSource, cached
from iq_offline.data.replay import Selection
from iq_offline.data.stream import Source
from iq_offline.errors import UserError
from iq_offline.experiment import obtain
from iq_offline.learning.agents import call, normalized
from iq_offline.learning.agents.iq_learn_continuous import ContinuousIQLearn
from iq_offline.learning.networks import gaussian
from iq_offline.training.setup import choose_data, policy_of, prepare
from tests.data_helpers import counting_episodes, source_of
from tests.helpers import write_dataset
from tests.training.program import EXPERT, OTHER, configuration, write_datasets


@pytest.fixture(autouse=True)
def datasets(own_folders: None) -> None:
    write_datasets()


def test_labelled_trajectories_are_never_among_the_suboptimal_ones():
    config = configuration()
    parts = (Suboptimal(EXPERT), Suboptimal(OTHER))
    config = replace(config, data=replace(config.data, suboptimal=parts, held_out_trajectories=0))
    expert = obtain(EXPERT)
    data = choose_data(config, expert, [expert, obtain(OTHER)])
    labelled, hidden = data.expert.trajectories.tolist(), data.suboptimal[0].trajectories.tolist()
    assert len(labelled) == 2
    assert sorted(labelled + hidden) == [0, 1, 2, 3]
    assert sorted(data.suboptimal[1].trajectories.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_pieces_of_a_recording_are_held_out_together_or_not_at_all(seed: int):
    """Of eight episodes in four recordings two are labelled and two held out; what is left may be suboptimal."""
    path = write_dataset("test/cut-v0", counting_episodes([3] * 8))
    metadata = json.loads((path / "metadata.json").read_text())
    recordings = [0, 1, 2, 3, 3, 2, 1, 0]
    (path / "metadata.json").write_text(json.dumps(metadata | {"log": {"pieces_of": recordings}}))

    def of(selection: Selection) -> set[int]:
        return {recordings[index] for index in selection.trajectories}

    config = configuration()
    options = replace(config.data, expert="test/cut-v0", suboptimal=(Suboptimal("test/cut-v0"),))
    config = replace(config, seed=seed, data=replace(options, num_expert_trajectories=2, held_out_trajectories=2))
    expert = obtain("test/cut-v0")
    data = choose_data(config, expert, [expert])
    assert data.held_out is not None
    assert len(data.held_out.trajectories) == 2
    assert not of(data.held_out) & (of(data.expert) | of(data.suboptimal[0]))
    for count in (5, 7):  # Of at least three of the four, and of all.
        many = replace(config, data=replace(config.data, num_expert_trajectories=count, suboptimal=()))
        data = choose_data(many, expert, [])
        left = set(recordings) - of(data.expert)
        assert bool(left) == (data.held_out is not None)
        assert data.held_out is None or of(data.held_out) <= left


def test_suboptimal_data_of_which_nothing_is_left_is_a_user_error():
    """All trajectories of the only suboptimal dataset are labelled as expert."""
    config = configuration(suboptimal=True)
    config = replace(config, data=replace(config.data, num_expert_trajectories=4))
    expert = obtain(EXPERT)
    with pytest.raises(UserError, match=EXPERT):
        prepare(config, choose_data(config, expert, [expert])).update()


@pytest.mark.parametrize(("fraction", "others"), [(0.5, 8), (0.25, 4), (0.9, 14)])
def test_a_batch_is_shared_out_by_the_fraction(fraction: float, others: int):
    config = configuration(suboptimal=True)
    config = replace(config, data=replace(config.data, suboptimal_fraction=fraction))
    batch = prepare(config, choose_data(config, obtain(EXPERT), [obtain(OTHER)])).replay.sample()
    assert {kind: len(batch[kind, "observation"]) for kind in ("expert", "suboptimal")} == {
        "expert": 16 - others,
        "suboptimal": others,
    }


@pytest.mark.parametrize(("fraction", "batch_size"), [(0.99, 16), (0.01, 16), (0.5, 1)])
def test_no_kind_is_left_without_rows(fraction: float, batch_size: int):
    """Rounding must not leave a mean over nothing, which is not a number, nor drop the mixture silently."""
    config = configuration(suboptimal=True, batch_size=batch_size)
    config = replace(config, data=replace(config.data, suboptimal_fraction=fraction))
    data = choose_data(config, obtain(EXPERT), [obtain(OTHER)])
    with pytest.raises(UserError, match=r"leaves (0 expert|\d+ expert and 0 suboptimal).*: both need some"):
        prepare(config, data)


def test_iq_learn_begins_with_the_actor_and_sees_the_rows_of_behavior_cloning() -> None:
    """Of one seed: what is between their scores is the critic then, and no other draw of a network."""
    trainings = []
    for algorithm in ("bc", "iq_learn"):
        config = configuration(algorithm)
        trainings.append(prepare(config, choose_data(config, obtain(EXPERT), [])))
    bc, iq_learn = (dict(training.learner.parameters["actor"].items(True, True)) for training in trainings)
    assert bc.keys() == iq_learn.keys()
    assert all(torch.equal(value, iq_learn[name]) for name, value in bc.items())
    for _ in range(3):
        rows = [training.replay.sample()["expert"] for training in trainings]
        assert torch.equal(rows[0]["observation"], rows[1]["observation"])


@pytest.mark.parametrize("suboptimal", [False, True])
def test_observations_are_normalised_by_the_labelled_expert(suboptimal: bool):
    """By nobody else's, whose states may be far from where it acts."""
    config = configuration("bc", dtype="float64", suboptimal=suboptimal)
    data = choose_data(config, obtain(EXPERT), [obtain(OTHER)] * suboptimal)
    rows = torch.from_numpy(data.expert.rows)
    observations = data.expert.data.steps["observation_0"][rows].double().numpy()
    normalizer = prepare(config, data).learner.parameters["normalizer"]
    np.testing.assert_allclose(normalizer["mean"], observations.mean(0), atol=1e-9)
    np.testing.assert_allclose(normalizer["std"], observations.std(0), atol=1e-9)
    plain = replace(config, training=replace(config.training, normalize_observations=False))
    normalizer = prepare(plain, data).learner.parameters["normalizer"]
    assert normalizer["mean"].tolist() == [0.0] * 4
    assert normalizer["std"].tolist() == [1.0] * 4


@pytest.mark.parametrize(("activation", "layer_norm"), [("elu", "all"), ("tanh", "critics")])
def test_networks_are_those_of_the_configuration_and_their_policy_acts_as_they_do(
    activation: Activation, layer_norm: Normed
):
    config = configuration("iq_learn", activation=activation, layer_norm=layer_norm)
    data = choose_data(config, obtain(EXPERT), [])
    learner = prepare(config, data).learner
    agent = learner.agent
    assert isinstance(agent, ContinuousIQLearn)
    normed = [isinstance(net[1], torch.nn.LayerNorm) for net in (agent.actor, agent.critic)]
    assert normed == [layer_norm == "all", True]
    observations = data.expert.data.steps["observation_0"][:7].float()
    mean, _ = gaussian(call(agent.actor, learner.average, normalized(learner.parameters, observations)))
    acting = policy_of(data, learner.average, learner.parameters["normalizer"], activation)
    np.testing.assert_allclose(acting.from_features(observations), torch.tanh(mean).numpy(), atol=1e-6)


# ------------------------------------------------------------------------------- labelled, held out, hidden


def in_memory(episodes: int, name: str = "test/memory-v0") -> CachedSource:
    """Counting episodes of 1, 2, … steps that were never on a disk."""
    written = counting_episodes([1 + index % 4 for index in range(episodes)])
    space = Box(-np.inf, np.inf, (2,)), Box(-1, 1, (2,))
    source = Source(name, Path(name), {"total_episodes": episodes, "total_steps": 1}, *space)
    steps = {
        "observation_0": np.concatenate([episode[0] for episode in written]),
        "action": np.concatenate([np.concatenate([episode[1], np.zeros((1, 2))]) for episode in written]),
        "terminated": np.concatenate([[*episode[3], False] for episode in written]),
    }
    tensors = {key: torch.from_numpy(value).float() for key, value in steps.items()}
    lengths = np.array([len(episode[1]) for episode in written])
    return CachedSource(
        source, tensors, lengths, {"action_min": [0.0, 0.0], "action_max": [1.0, 1.0], "not_finite": {}}
    )


def ids(selection: Selection | None) -> list[int]:
    return [] if selection is None else selection.trajectories.tolist()


def rows(selection: Selection) -> set[int]:
    return set(selection.rows.tolist()) | set((selection.rows + 1).tolist())


chances = given(
    episodes=st.integers(1, 14),
    count=st.integers(1, 14),
    held_out=st.integers(0, 6),
    hidden=st.none() | st.integers(1, 6),
    others=st.none() | st.integers(1, 4),
    subsample=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@chances
def test_labelled_held_out_and_hidden_never_overlap(
    episodes: int, count: int, held_out: int, hidden: int | None, others: int | None, subsample: int, seed: int
) -> None:
    """Nor the unlabelled ones of the same dataset; what is chosen of another dataset changes none of them."""
    expert, stranger = in_memory(episodes), in_memory(3, "test/stranger-v0")
    name = expert.source.id
    parts = (Suboptimal(name, hidden, True), Suboptimal("test/stranger-v0", 2), Suboptimal(name, others))
    options = DataConfig(name, min(count, episodes), subsample, parts, held_out_trajectories=held_out)
    left = max(episodes - options.num_expert_trajectories - held_out, 0)
    hide = left if hidden is None else hidden
    config = RunConfig(seed=seed, data=options)
    sources = [expert, stranger, expert]
    enough = 0 < hide <= left and 0 < left - hide >= (others or 1)
    if not enough:
        with pytest.raises(UserError, match=name):
            choose_data(config, expert, sources)
        return
    data = choose_data(config, expert, sources)
    secret, theirs, plain = data.suboptimal
    groups = [ids(data.expert), ids(data.held_out), ids(secret), ids(plain)]
    every = [index for group in groups for index in group]
    assert len(every) == len(set(every))
    assert set(every) <= set(range(episodes))
    assert [len(group) for group in groups] == [
        options.num_expert_trajectories,
        held_out,
        hide,
        left - hide if others is None else others,
    ]
    assert len(ids(theirs)) == 2
    seen = [rows(data.expert), rows(secret), rows(plain), rows(data.held_out) if data.held_out else set()]
    assert sum(map(len, seen)) == len(set.union(*seen)), "a row of the cache is read by two of them"
    assert subsample == 1 or len(data.expert.rows) <= sum(expert.lengths[ids(data.expert)])
    for full in (secret, plain, *([data.held_out] if data.held_out else [])):
        assert len(full.rows) == expert.lengths[ids(full)].sum(), "only the labelled ones are subsampled"

    alone = choose_data(replace(config, data=replace(options, suboptimal=())), expert, [])
    assert ids(alone.expert) == ids(data.expert)
    assert ids(alone.held_out) == ids(data.held_out)
    assert alone.expert.rows.tolist() == data.expert.rows.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_held_out_and_hidden_stay_while_more_are_labelled(seed: int) -> None:
    """A sweep over the number of trajectories compares like with like, as long as there are enough."""
    expert = in_memory(20)
    parts = (Suboptimal("test/memory-v0", 6, True),)
    options = DataConfig("test/memory-v0", suboptimal=parts, held_out_trajectories=4)
    found = [
        choose_data(RunConfig(seed=seed, data=replace(options, num_expert_trajectories=n)), expert, [expert])
        for n in range(1, 11)
    ]
    most = ids(found[-1].expert)
    for n, data in enumerate(found, 1):
        assert ids(data.expert) == most[:n]
        assert ids(data.held_out) == ids(found[0].held_out)
        assert ids(data.suboptimal[0]) == ids(found[0].suboptimal[0])
        assert data.held_out is not None
        assert len(ids(data.held_out)) == 4
    fewer = choose_data(RunConfig(seed=seed, data=DataConfig(num_expert_trajectories=18)), expert, [])
    assert ids(fewer.held_out) == ids(found[0].held_out)[:2], "labels come first; what is left is held out"
    assert choose_data(RunConfig(data=DataConfig(num_expert_trajectories=20)), expert, []).held_out is None
    assert choose_data(RunConfig(data=DataConfig(held_out_trajectories=0)), expert, []).held_out is None


def test_seeds_hold_out_differently() -> None:
    expert = in_memory(14)
    chosen = {tuple(ids(choose_data(RunConfig(seed=seed), expert, []).held_out)) for seed in range(40)}
    assert len(chosen) > 35
    assert {index for each in chosen for index in each} == set(range(14))


def test_only_the_experts_own_trajectories_can_be_hidden() -> None:
    expert, other = in_memory(8), in_memory(8, "test/other-v0")
    config = RunConfig(data=DataConfig(suboptimal=(Suboptimal("test/other-v0", 2, True),)))
    with pytest.raises(UserError, match="test/other-v0 cannot be hidden: hidden trajectories are of the expert's"):
        choose_data(config, expert, [other])


def times_seen(selection: Selection) -> set[int]:
    """The stored episodes of a selection, by their numbers."""
    return set(selection.data.steps["observation_0"][torch.from_numpy(selection.rows)][:, 0].int().tolist())


def test_views_of_one_dataset_do_not_overlap() -> None:
    """Positions in a view are not the positions in another, nor in the whole dataset."""
    write_dataset("test/viewed-v0", counting_episodes([2, 3, 4, 5, 6, 7, 8, 9]))
    dataset = minari.load_dataset("test/viewed-v0")
    best, rest = (
        cached(source_of(dataset.filter_episodes(lambda episode, good=good: (episode.id >= 5) == good)))
        for good in (True, False)
    )
    whole = cached(source_of(dataset))
    parts = (Suboptimal("test/viewed-v0"),)
    for other, expected in ((whole, {0, 1, 2, 3, 4}), (rest, {0, 1, 2, 3, 4})):
        for seed in range(3):
            config = RunConfig(seed=seed, data=DataConfig("test/viewed-v0", 2, 1, parts, held_out_trajectories=1))
            data = choose_data(config, best, [other])
            assert data.held_out is not None
            labelled, held_out = times_seen(data.expert), times_seen(data.held_out)
            assert labelled | held_out == {5, 6, 7}
            assert times_seen(data.suboptimal[0]) == expected


def test_selected_observations_and_bounds_are_those_of_the_configuration() -> None:
    expert = in_memory(4)
    options = DataConfig(observation_keys=("observation",), frame_stack=3, action_low=(-3.0,), action_high=(0.5, 2.0))
    data = choose_data(RunConfig(data=options), expert, [])
    assert [leaf.name for leaf in data.observations.leaves] == ["observation"]
    assert data.observations.frame_stack == 3
    assert data.observations.size == 2, "only images are stacked"
    assert data.actions.low.tolist() == [-3, -3]  # type: ignore[union-attr]
    assert data.actions.high.tolist() == [0.5, 2]  # type: ignore[union-attr]
