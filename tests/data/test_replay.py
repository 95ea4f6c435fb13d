"""Which transitions are chosen, and what the batches drawn from them hold."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import minari
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from tensordict import TensorDict

from iq_offline.config import DataConfig, RunConfig, Suboptimal
from iq_offline.data import replay as replays
from iq_offline.data.cache import CachedSource
from iq_offline.data.replay import Replay, Selection, feature_statistics, sample_together, select, tables_of
from iq_offline.data.spaces import ObservationEncoder, chosen_leaves
from iq_offline.errors import UserError
from iq_offline.training.setup import choose_data
from tests.data_helpers import cached_dataset, counting_episodes, random_episodes

NUMBERS = itertools.count()
LENGTHS = [7, 1, 12, 5, 30, 9, 3, 11]


@pytest.fixture
def data() -> CachedSource:
    """Eight counting episodes, every other one terminated."""
    return cached_dataset("test/counting-v0", counting_episodes(LENGTHS, terminated=[True, False] * 4))


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def encoder_of(selection: Selection, **options: Any) -> ObservationEncoder:
    """Everything that the selection's dataset observes."""
    source = selection.data.source
    return ObservationEncoder(chosen_leaves(source.observation_space, (), source.id), **options)


def replay_of(
    kinds: dict[str, Sequence[Selection]], batch_sizes: dict[str, int], seed: int, dtype: torch.dtype = torch.float32
) -> Replay:
    encoder = encoder_of(next(iter(kinds.values()))[0])
    return Replay(kinds, batch_sizes, seed, tables_of([kinds], encoder, dtype))


def statistics_of(selection: Selection, others: Sequence[Selection] = ()) -> tuple[torch.Tensor, torch.Tensor]:
    return feature_statistics(selection, others, encoder_of(selection))


def times(selection: Selection) -> dict[int, list[int]]:
    """For each chosen episode the times of its chosen transitions, by what the stored numbers say."""
    chosen: dict[int, list[int]] = {int(episode): [] for episode in selection.trajectories}
    for row in selection.rows:
        episode, time = selection.data.steps["observation_0"][row].int().tolist()
        chosen[episode].append(time)
    return chosen


def rows_of(batch: TensorDict) -> list[tuple[Any, ...]]:
    """A batch as plain rows: episode, time, next episode, next time, action, terminated."""
    following = batch["next", "observation"]
    parts = batch["observation"], following, batch["action"], batch["next", "terminated"][:, None]
    return [tuple(row) for row in torch.cat(parts, 1).tolist()]


# ---------------------------------------------------------------------------------------------------- selections


def test_everything_is_every_transition_once(data: CachedSource) -> None:
    chosen = times(select(data, None, 1, generator()))
    assert chosen == {episode: list(range(length)) for episode, length in enumerate(LENGTHS)}


@pytest.mark.parametrize("subsample", [1, 2, 4, 20])
def test_selections_are_nested(data: CachedSource, subsample: int) -> None:
    picked = {count: select(data, count, subsample, generator(3)) for count in (1, 3, 5, 8)}
    whole = times(picked[8])
    for count, selection in picked.items():
        assert selection.trajectories.tolist() == picked[8].trajectories[:count].tolist()
        assert len(set(selection.trajectories.tolist())) == count
        assert selection.rows.tolist() == picked[8].rows[: len(selection.rows)].tolist()
        assert times(selection) == {episode: whole[episode] for episode in selection.trajectories.tolist()}


def test_seeds_choose_differently(data: CachedSource) -> None:
    orders = {tuple(select(data, 5, 1, generator(seed)).trajectories.tolist()) for seed in range(100)}
    assert len(orders) > 95
    assert {order[0] for order in orders} == set(range(8)), "some trajectory never comes first"


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(subsample=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_subsampling_keeps_every_kth(data: CachedSource, subsample: int, seed: int) -> None:
    selection = select(data, None, subsample, generator(seed))
    for episode, chosen in times(selection).items():
        assert chosen[0] < subsample, "a transition was skipped at the start"
        assert chosen == list(range(chosen[0], LENGTHS[episode], subsample))
        assert len(chosen) >= 1, "a short trajectory was lost"


def test_the_first_kept_transition_is_drawn_for_each_trajectory(data: CachedSource) -> None:
    """Of trajectory 4 (30 transitions), one in five: the first is uniform over the five."""
    firsts = [times(select(data, None, 5, generator(seed)))[4][0] for seed in range(400)]
    counts = np.bincount(firsts, minlength=5)
    assert len(counts) == 5
    assert chisquare(counts).pvalue > 1e-4


def test_the_first_kept_transition_differs_between_trajectories(data: CachedSource) -> None:
    firsts = {episode: chosen[0] for episode, chosen in times(select(data, None, 3, generator(1))).items()}
    assert len({firsts[episode] for episode in (0, 2, 3, 4, 5, 7)}) > 1


def test_too_many_trajectories(data: CachedSource) -> None:
    with pytest.raises(UserError, match="test/counting-v0 holds 8 trajectories, 9 were asked for"):
        select(data, 9, 1, generator())
    with pytest.raises(UserError, match=r"holds 8 trajectories \(6 of them .* not taken already\), 7 were asked for"):
        select(data, 7, 1, generator(), without=[0, 1])


def test_episodes_without_a_step_are_no_trajectories(data: CachedSource) -> None:
    """Drawn as the only one, such an episode left nothing to draw batches from."""
    lengths = data.lengths.copy()
    lengths[[1, 4, 6]] = 0
    some = replace(data, lengths=lengths)
    for seed in range(5):
        assert sorted(select(some, None, 3, generator(seed)).trajectories.tolist()) == [0, 2, 3, 5, 7]
        assert set(select(some, 5, 1, generator(seed), from_end=True).trajectories.tolist()) == {0, 2, 3, 5, 7}
    with pytest.raises(UserError, match=r"counting-v0 holds 8 trajectories \(5 of them with steps, and not taken"):
        select(some, 6, 1, generator())


def test_without_leaves_out(data: CachedSource) -> None:
    selection = select(data, None, 1, generator(), without=[2, 5])
    assert set(times(selection)) == {0, 1, 3, 4, 6, 7}


@pytest.mark.parametrize("seed", range(5))
def test_labelled_trajectories_are_never_suboptimal(data: CachedSource, seed: int) -> None:
    name = data.source.id
    config = RunConfig(seed=seed, data=DataConfig(name, 3, suboptimal=(Suboptimal(name),), held_out_trajectories=0))
    chosen = choose_data(config, data, [data])
    (other,) = chosen.suboptimal
    assert len(chosen.expert.trajectories) == 3
    assert set(times(chosen.expert)) | set(times(other)) == set(range(8))
    assert set(times(chosen.expert)).isdisjoint(times(other))
    assert set(chosen.expert.rows.tolist()).isdisjoint(other.rows.tolist())
    assert len(other.rows) == sum(LENGTHS) - len(chosen.expert.rows)


def test_the_experts_choice_does_not_depend_on_the_suboptimal_data(data: CachedSource) -> None:
    other = cached_dataset("test/other-v0", counting_episodes([4, 4]))
    options = DataConfig(num_expert_trajectories=3)
    config = RunConfig(seed=1, data=options)
    alone = choose_data(config, data, [])
    parts = (Suboptimal("test/other-v0"), Suboptimal("test/other-v0", 1))
    mixed = choose_data(replace(config, data=replace(options, suboptimal=parts)), data, [other, other])
    assert [len(part.trajectories) for part in mixed.suboptimal] == [2, 1]
    assert alone.expert.rows.tolist() == mixed.expert.rows.tolist()
    assert alone.held_out is not None
    assert mixed.held_out is not None
    assert alone.held_out.rows.tolist() == mixed.held_out.rows.tolist()


def test_no_trajectory_left_for_the_suboptimal_part(data: CachedSource) -> None:
    config = RunConfig(data=DataConfig(num_expert_trajectories=8, suboptimal=(Suboptimal("test/counting-v0"),)))
    with pytest.raises(UserError, match="test/counting-v0"):
        choose_data(config, data, [data])


# ---------------------------------------------------------------------------------------------------- batches


def test_rows_hold_their_true_next_observation(data: CachedSource) -> None:
    """Also the last transition of an episode; and terminated is the episode's end for good, truncated is not."""
    replay = replay_of({"expert": [select(data, None, 1, generator())]}, {"expert": 2000}, seed=0)
    batch = replay.sample()["expert"]
    seen = set()
    for episode, time, next_episode, next_time, first, second, terminated in rows_of(batch):
        assert (next_episode, next_time) == (episode, time + 1)
        assert (first, second) == (np.float32(episode / 100), np.float32(time / 1000))
        assert terminated == float(episode % 2 == 0 and time + 1 == LENGTHS[int(episode)])
        seen.add((episode, time))
    assert len(seen) == sum(LENGTHS), "2000 draws of 78 transitions met not all of them"


def test_batches_hold_minaris_values() -> None:
    written = random_episodes(np.random.default_rng(0), [5, 8, 3], (2, 2), (3,))
    data = cached_dataset("test/random-v0", written)
    selection = select(data, None, 1, generator())
    batch = replay_of({"expert": [selection]}, {"expert": 500}, seed=0).sample()["expert"]
    expected = {}
    for episode in minari.load_dataset("test/random-v0").iterate_episodes():
        states = episode.observations.reshape(len(episode.observations), 4).astype(np.float32)
        for t, action in enumerate(episode.actions):
            row = *states[t], *states[t + 1], *action, np.float32(episode.terminations[t])
            expected[tuple(map(float, row))] = 0
    for row in rows_of(batch):
        expected[row] += 1  # A row that is none of the dataset's transitions is a KeyError.
    assert all(expected.values())


def test_subsampled_rows_keep_their_true_next_state(data: CachedSource) -> None:
    selection = select(data, None, 4, generator(2))
    batch = replay_of({"expert": [selection]}, {"expert": 1000}, seed=0).sample()["expert"]
    seen: dict[int, set[int]] = {}
    for episode, time, next_episode, next_time, *_ in rows_of(batch):
        assert (next_episode, next_time) == (episode, time + 1)
        seen.setdefault(int(episode), set()).add(int(time))
    assert {episode: sorted(chosen) for episode, chosen in seen.items()} == times(selection)


def test_initial_states(data: CachedSource) -> None:
    """The first states of the chosen trajectories alone, whatever the subsampling, and nothing else of them."""
    selection = select(data, 4, 6, generator())
    batch = replay_of({"initial": [selection]}, {"initial": 300}, seed=0).sample()["initial"]
    assert set(batch.keys()) == {"observation"}
    assert {tuple(row) for row in batch["observation"].tolist()} == {(e, 0.0) for e in selection.trajectories.tolist()}


def test_exact_numbers_of_rows_in_every_batch(data: CachedSource) -> None:
    other = cached_dataset("test/other-v0", counting_episodes([400]))
    kinds: dict[str, Sequence[Selection]] = {
        "expert": [select(data, 2, 1, generator())],
        "suboptimal": [select(data, None, 1, generator()), select(other, None, 1, generator())],
        "initial": [select(data, 2, 1, generator())],
    }
    sizes = {"expert": 13, "suboptimal": 29, "initial": 7}
    replay = replay_of(kinds, sizes, seed=0)
    for _ in range(30):
        batch = replay.sample()
        assert {kind: batch[kind].batch_size for kind in batch.keys()} == {  # noqa: SIM118
            kind: torch.Size([size]) for kind, size in sizes.items()
        }
        for kind in ("expert", "suboptimal"):
            leaves = set(batch[kind].keys(include_nested=True, leaves_only=True))
            assert leaves == {"observation", "action", ("next", "observation"), ("next", "terminated")}
            assert batch[kind]["next", "terminated"].shape == (sizes[kind],)


def drawn(replay: Replay, kind: str, batches: int) -> np.ndarray:
    """Observations of many batches, (episode, time) each."""
    return torch.cat([replay.sample()[kind]["observation"] for _ in range(batches)]).int().numpy()


def test_draws_are_uniform(data: CachedSource) -> None:
    """Over transitions, not over trajectories; and independent of one another."""
    replay = replay_of({"expert": [select(data, None, 1, generator())]}, {"expert": 500}, seed=5)
    seen = drawn(replay, "expert", 40)
    starts = np.concatenate([[0], np.cumsum(LENGTHS)])
    index = starts[seen[:, 0]] + seen[:, 1]
    counts = np.bincount(index, minlength=sum(LENGTHS))
    assert len(counts) == sum(LENGTHS)
    assert chisquare(counts).pvalue > 1e-4
    pairs = np.bincount(seen[:-1, 0] * 8 + seen[1:, 0], minlength=64)
    shares = np.outer(LENGTHS, LENGTHS).ravel() / sum(LENGTHS) ** 2
    assert chisquare(pairs, shares * pairs.sum()).pvalue > 1e-4


def test_draws_follow_the_weights(data: CachedSource) -> None:
    """Of the kind that was weighed, and of no other; what has no weight never comes."""
    parts = [select(data, None, 1, generator())]
    replay = replay_of({"expert": parts, "suboptimal": parts}, {"expert": 10, "suboptimal": 500}, seed=5)
    weights = torch.arange(sum(LENGTHS)).double() % 4
    replay.weigh("suboptimal", weights)
    walked = torch.cat([batch["observation"] for batch in replay.walk("suboptimal")]).int().tolist()
    numbers = {tuple(row): number for number, row in enumerate(walked)}
    counts = np.bincount([numbers[tuple(row)] for row in drawn(replay, "suboptimal", 40)], minlength=len(weights))
    expected = (20_000 * weights / weights.sum()).numpy()
    assert not counts[expected == 0].any()
    assert chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-4
    assert any(weights[numbers[tuple(row)]] == 0 for row in drawn(replay, "expert", 40))


def test_a_walk_is_every_transition_in_order_and_notes_stay_with_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iq_offline.data.replay.ROWS_AT_ONCE", 7)
    sources = [cached_dataset(f"test/walked{index}-v0", counting_episodes(LENGTHS[index:])) for index in range(2)]
    parts = [select(source, None, 1, generator()) for source in sources]
    replay = replay_of({"expert": parts}, {"expert": 64}, seed=2)
    expected = np.concatenate([part.data.steps["observation_0"][torch.from_numpy(part.rows)] for part in parts])
    batches = list(replay.walk("expert"))
    assert max(len(batch) for batch in batches) == 7
    np.testing.assert_array_equal(torch.cat([batch["observation"] for batch in batches]), expected)

    before = replay.sample()["expert"]
    assert "mark" not in before
    replay.note("expert", mark=torch.from_numpy(expected).double() @ torch.tensor([100.0, 1.0]).double())
    batch = replay.sample()["expert"]
    torch.testing.assert_close(batch["mark"], batch["observation"].double() @ torch.tensor([100.0, 1.0]).double())


def test_what_was_noted_and_weighed_can_be_kept(data: CachedSource) -> None:
    parts = [select(data, None, 1, generator())]
    kept = replay_of({"expert": parts}, {"expert": 50}, seed=3)
    kept.note("expert", mark=torch.arange(sum(LENGTHS)))
    kept.weigh("expert", torch.arange(sum(LENGTHS)))
    again = replay_of({"expert": parts}, {"expert": 50}, seed=3)
    again.load_annotations(kept.annotations())
    one, other = kept.sample()["expert"], again.sample()["expert"]
    assert sorted(map(str, one.keys())) == sorted(map(str, other.keys()))
    assert torch.equal(one["mark"], other["mark"])
    assert torch.equal(one["observation"], other["observation"])


def test_several_sources_are_drawn_from_as_one() -> None:
    """In the proportion of their transitions: 10, 30 and 60 of a hundred; each transition as likely as any other."""
    sources = []
    for index, lengths in enumerate(([10], [10, 20], [25, 35])):
        written = counting_episodes(lengths)
        for episode in written:
            episode[0][:, 0] += 10 * index
        sources.append(cached_dataset(f"test/part{index}-v0", written))
    selections = [select(source, None, 1, generator()) for source in sources]
    seen = drawn(replay_of({"suboptimal": selections}, {"suboptimal": 400}, seed=1), "suboptimal", 50)
    counts = np.bincount(seen[:, 0] // 10, minlength=3)
    assert chisquare(counts, np.array([0.1, 0.3, 0.6]) * counts.sum()).pvalue > 1e-4
    each = np.unique(seen, axis=0, return_counts=True)[1]
    assert len(each) == 100
    assert chisquare(each).pvalue > 1e-4


def test_rows_of_several_sources_stay_whole() -> None:
    """State, action and next state of a row come from the same source."""
    first = cached_dataset("test/first-v0", counting_episodes([20]))
    written = counting_episodes([20, 20])[1:]
    second = cached_dataset("test/second-v0", written)
    selections = [select(source, None, 1, generator()) for source in (first, second)]
    batch = replay_of({"suboptimal": selections}, {"suboptimal": 200}, seed=0).sample()["suboptimal"]
    for episode, time, next_episode, next_time, first_action, second_action, terminated in rows_of(batch):
        assert (next_episode, next_time) == (episode, time + 1)
        assert (first_action, second_action) == (np.float32(episode / 100), np.float32(time / 1000))
        assert terminated == float(time == 19)


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_replays_sampled_together_give_what_each_gives_alone(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """From tables that they share, held in memory or not: one source a kind and several, the same ones and others."""
    monkeypatch.setattr(replays, "MEMORY_SHARE", share)
    sources = [cached_dataset(f"test/source{index}-v0", counting_episodes(LENGTHS[index:])) for index in range(4)]

    def kinds(seed: int) -> dict[str, Sequence[Selection]]:
        chosen = [select(source, 1 + seed, 1 + seed, generator(seed)) for source in sources]
        mixtures = ([chosen[1]], chosen[:3], [chosen[2]], [chosen[3], chosen[0]])
        return {"expert": [chosen[0]], "suboptimal": mixtures[seed], "initial": [chosen[0]]}

    choices = [kinds(seed) for seed in range(4)]
    sizes = {"expert": 5, "suboptimal": 11, "initial": 3}
    tables = tables_of(choices, encoder_of(choices[0]["expert"][0]))
    assert [table.is_held for table in tables] == [share > 0] * 4
    together = [Replay(each, sizes, seed, tables) for seed, each in enumerate(choices)]
    alone = [replay_of(each, sizes, seed) for seed, each in enumerate(choices)]
    for _ in range(10):
        batch = sample_together(together)
        assert batch.batch_size == (4,)
        for index, replay in enumerate(alone):
            assert (batch[index] == replay.sample()).all()


def test_rows_come_in_the_order_drawn(data: CachedSource) -> None:
    """Not sorted by the dataset that they are of."""
    other = cached_dataset("test/other-v0", counting_episodes([40]))
    parts = [select(data, None, 1, generator()), select(other, None, 1, generator())]
    batch = replay_of({"suboptimal": parts}, {"suboptimal": 100}, seed=4).sample()["suboptimal"]
    numbers = torch.randint(sum(LENGTHS) + 40, (100,), generator=torch.Generator().manual_seed(4))
    rows = [(part, row) for part in parts for row in part.rows]
    for found, number in zip(batch["observation"], numbers.tolist(), strict=True):
        part, row = rows[number]
        assert torch.equal(found, part.data.steps["observation_0"][row])


def test_tables_hold_what_is_wanted_of_them_once(data: CachedSource) -> None:
    """The rows of all selections of one dataset, those that follow, and no others."""
    some = [select(data, 2, 3, generator(seed)) for seed in range(3)]
    choices: list[dict[str, Sequence[Selection]]] = [{"expert": [one], "initial": [one]} for one in some]
    (table,) = tables_of(choices, encoder_of(some[0]))
    wanted = {int(row) + after for one in some for row in (*one.rows, *one.starts) for after in (0, 1)}
    assert len(table.columns["action"]) == len(wanted)
    for one in some:
        batch = table.gather(table.places(one.rows))
        assert torch.equal(batch["observation"], data.steps["observation_0"][torch.from_numpy(one.rows)])


def test_the_same_seed_draws_the_same_batches(data: CachedSource) -> None:
    def batches(seed: int) -> list[TensorDict]:
        selection = select(data, None, 1, generator())
        kinds: dict[str, Sequence[Selection]] = {"expert": [selection], "suboptimal": [selection, selection]}
        replay = replay_of(kinds, {"expert": 16, "suboptimal": 16}, seed)
        return [replay.sample() for _ in range(3)]

    for one, other in zip(batches(7), batches(7), strict=True):
        assert (one == other).all()
    assert not (batches(7)[0] == batches(8)[0]).all()
    assert not (batches(7)[0] == batches(7)[1]).all()


def test_draws_leave_torchs_global_generator_alone(data: CachedSource) -> None:
    state = torch.get_rng_state()
    replay = replay_of({"expert": [select(data, None, 1, generator())]}, {"expert": 16}, seed=0)
    first = replay.sample()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    again = replay_of({"expert": [select(data, None, 1, generator())]}, {"expert": 16}, seed=0)
    assert (again.sample() == first).all()


def test_float64_batches(data: CachedSource) -> None:
    selection = select(data, None, 1, generator())
    single, double = (
        replay_of({"expert": [selection]}, {"expert": 50}, 0, dtype).sample()
        for dtype in (torch.float32, torch.float64)
    )
    leaves = list(double.items(include_nested=True, leaves_only=True))
    assert len(leaves) == 4
    for name, value in leaves:
        assert value.dtype == torch.float64
        assert torch.equal(cast(torch.Tensor, value).float(), cast(torch.Tensor, single[name]))


# ---------------------------------------------------------------------------------------------------- statistics


def test_observation_statistics_are_numpys() -> None:
    written = random_episodes(np.random.default_rng(1), [50, 70, 31], (4,), (1,))
    for episode in written:
        episode[0][:] = episode[0] * 100 + 1000
    selection = select(cached_dataset("test/one-v0", written), 2, 3, generator())
    mean, std = statistics_of(selection)
    values = selection.data.steps["observation_0"].numpy()[selection.rows].astype(np.float64)
    assert len(values) == sum(len(chosen) for chosen in times_of_rows(selection).values())
    np.testing.assert_allclose(mean.numpy(), values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std.numpy(), values.std(0), rtol=1e-9)
    assert mean.dtype == std.dtype == torch.float64


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rests=st.integers(0, 250), jump=st.floats(-1e4, 1e4).filter(lambda jump: abs(jump) > 0.5), other=st.integers(2, 60)
)
def test_no_feature_is_further_than_four_from_zero(rests: int, jump: float, other: int) -> None:
    """One that rests and then jumps is scaled by its jumps; one without a tail is scaled by its deviation."""
    count = rests + other
    observations = np.zeros((count + 1, 2))
    observations[:count, 0] = jump * (np.arange(count) == rests)
    observations[:count, 1] = np.arange(count) % 2
    still = np.zeros(count, bool)
    episode = observations, np.zeros((count, 1), np.float32), np.zeros(count), still, np.arange(count) == count - 1
    selection = select(cached_dataset(f"test/jump{next(NUMBERS)}-v0", [episode]), None, 1, generator())
    std = statistics_of(selection)[1]
    values = selection.data.steps["observation_0"].double().numpy()[selection.rows]
    far = np.abs((values - values.mean(0)) / std.numpy()).max(0)
    assert far.max() <= 4 + 1e-9
    share = 1 / count
    expected = max(math.sqrt(share * (1 - share)), (1 - share) / 4)
    assert std[0].item() == pytest.approx(abs(np.float32(jump)) * expected)
    assert std[1].item() == pytest.approx(values[:, 1].std())


def test_others_are_no_further_than_a_hundred_from_zero() -> None:
    """What never varies in the labelled data, what hardly does, and what does: in theirs it may be anywhere."""
    labelled, wild = np.zeros((41, 3)), np.zeros((31, 3))
    labelled[:, 1], labelled[:, 2] = 1e-5 * (np.arange(41) % 2), np.arange(41) % 2
    wild[7], wild[9] = [3000.0, -2.0, 4.0], [-100.0, 1.0, -9.0]
    selections = []
    for name, values in (("still", labelled), ("wild", wild)):
        count = len(values) - 1
        rest = np.zeros((count, 1), np.float32), np.zeros(count), np.zeros(count, bool), np.arange(count) == count - 1
        selections.append(select(cached_dataset(f"test/{name}-v0", [(values, *rest)]), None, 1, generator()))
    mean, std = statistics_of(selections[0], selections[1:])
    assert mean.tolist() == pytest.approx([0, 5e-6, 0.5])
    assert std.tolist() == pytest.approx([30, 0.02, 0.5], rel=1e-4)
    assert statistics_of(selections[0])[1].tolist() == pytest.approx([1, 1e-3, 0.5])


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_largest_is_looked_for_in_all_of_the_data(sign: float) -> None:
    """Which is gone through in parts."""
    values = sign * np.sin(np.arange(250_001.0))[:, None]
    values[[3, 170_000]] = [[-30.0 * sign], [50.0 * sign]]
    ends = np.arange(250_000) == 249_999
    zeros = np.zeros(250_000)
    episode = (values, zeros.astype(np.float32)[:, None], zeros, np.zeros(250_000, bool), ends)
    mean, std = statistics_of(select(cached_dataset("test/long-v0", [episode]), None, 1, generator()))
    assert std.item() == pytest.approx((50 - sign * mean.item()) / 4)
    assert mean.item() == pytest.approx(values[:-1].mean(), abs=1e-6)


def times_of_rows(selection: Selection) -> dict[int, np.ndarray]:
    """For each chosen episode its chosen rows, by the cache's own bounds."""
    starts, lengths = selection.data.starts, selection.data.lengths
    inside = [(selection.rows >= starts[e]) & (selection.rows < starts[e] + lengths[e]) for e in selection.trajectories]
    return {int(e): selection.rows[mask] for e, mask in zip(selection.trajectories, inside, strict=True)}


def test_statistics_do_not_see_unchosen_data() -> None:
    written = counting_episodes([10, 10])
    data = cached_dataset("test/two-v0", written)
    selection = select(data, 1, 1, generator())
    mean, std = statistics_of(selection)
    episode = float(selection.trajectories[0])
    assert mean.tolist() == pytest.approx([episode, 4.5])
    assert std.tolist() == pytest.approx([1, np.std(np.arange(10))]), "a constant dimension is not scaled"


def test_a_constant_of_any_size_is_told_from_what_hardly_varies() -> None:
    episodes = random_episodes(np.random.default_rng(0), [200], (3,), (1,))
    for observations, *_ in episodes:
        observations[:, 0] = 0.1  # Its sum of squares over their number is not its square, in float64 either.
        observations[:, 1] = 1e6
        observations[:, 2] *= 1e-5
    mean, std = statistics_of(select(cached_dataset("test/still-v0", episodes), None, 1, generator()))
    assert mean[:2].tolist() == [np.float32(0.1), 1e6]
    assert std.tolist() == [1, 1, 1e-3]


def test_statistics_of_large_numbers() -> None:
    """Far from zero with a small spread: what the mean square minus the squared mean would lose in float32."""
    values = 1000 + np.random.default_rng(0).standard_normal((5001, 1))
    empty = np.zeros((5000, 1), np.float32)
    ends = np.arange(5000) == 4999
    path_data = [(values, empty, np.zeros(5000), np.zeros(5000, bool), ends)]
    data = cached_dataset("test/far2-v0", path_data)
    mean, std = statistics_of(select(data, None, 1, generator()))
    stored = values[:-1].astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(mean.numpy(), stored.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std.numpy(), stored.std(0), rtol=1e-6)
