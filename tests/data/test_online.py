"""The ring: what it holds against a plain list, whatever is lived through and however small it is."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iq_offline.data.cache import CachedSource, cached
from iq_offline.data.online import OnlinePile, OnlineTable
from iq_offline.data.replay import Replay
from iq_offline.data.spaces import ObservationEncoder, chosen_leaves
from iq_offline.data.stream import open_source
from tests.data_helpers import cached_dataset, counting_episodes, write_spaces_dataset

IMAGES = Box(0, 255, (8, 8, 1), np.uint8)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CachedSource]:
    """A dataset of two numbers and one of images, for their columns."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("MINARI_DATASETS_PATH", "IQ_OFFLINE_CACHE"):
            patch.setenv(variable, str(tmp_path_factory.mktemp(variable)))
        numbers = cached_dataset("test/numbers-v0", counting_episodes([3]))
        folder = write_spaces_dataset("test/images-v0", IMAGES, Box(-1, 1, (2,), np.float32))
        images = cached(open_source(folder))
    return {"numbers": numbers, "images": images}


def encoder_of(data: CachedSource, frames: int = 1) -> ObservationEncoder:
    return ObservationEncoder(chosen_leaves(data.source.observation_space, (), "test"), frames)


class Plain:
    """What a table should hold: each transition as numbers, in a list, forgotten from its front."""

    def __init__(self, lanes: int, frames: int) -> None:
        self.frames = frames
        self.history: list[list[list[int]]] = [[] for _ in range(lanes)]
        self.transitions: list[list[tuple[Any, ...]]] = [[] for _ in range(lanes)]
        self.clock = 0

    def observe(self, lane: int, first: bool) -> int:
        self.clock = (self.clock + 1) % 250
        if first:
            self.history[lane].append([])
        self.history[lane][-1].append(self.clock)
        return self.clock

    def frames_at(self, lane: int, back: int) -> tuple[int, ...]:
        episode = self.history[lane][-1]
        last = len(episode) - 1 - back
        return tuple(episode[max(last - i, 0)] for i in reversed(range(self.frames)))


def rows(data: CachedSource, values: list[int]) -> dict[str, Tensor]:
    if "images" in data.source.id:
        return {"observation_0": torch.tensor(values, dtype=torch.uint8)[:, None].expand(-1, 64)}
    return {"observation_0": torch.tensor([[value, -value] for value in values], dtype=torch.float32)}


def drawn(table: OnlineTable) -> list[tuple[Any, ...]]:
    """All that can be drawn, in the order it was lived through."""
    batch = table.gather(table.numbered[: table.count])
    width = 64 if table.encoder.has_images else 2
    found = []
    for i in range(table.count):
        now, then = (
            part[i].reshape(-1, width)[:, 0].tolist() for part in (batch["observation"], batch["next", "observation"])
        )
        found.append((tuple(now), batch["action"][i, 0].item(), tuple(then), batch["next", "terminated"][i].item()))
    return sorted(found)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["on", "on", "on", "terminated", "truncated"]), min_size=2, max_size=2), max_size=60
    ),
    st.integers(10, 40),
    st.sampled_from([("numbers", 1), ("images", 1), ("images", 3)]),
    st.integers(0, 60),
)
def test_the_ring_is_a_list_forgotten_from_its_front(
    sources: dict[str, CachedSource], steps: list[list[str]], capacity: int, kind: tuple[str, int], reload_at: int
):
    name, frames = kind
    data = sources[name]

    def fresh() -> OnlineTable:
        return OnlineTable(data, encoder_of(data, frames), torch.float32, "cpu", 2, capacity)

    table, plain = fresh(), Plain(2, frames)
    table.begin([0, 1], rows(data, [plain.observe(lane, True) for lane in (0, 1)]))
    for number, ends in enumerate(steps):
        if number == reload_at:
            again = fresh()
            again.load_state({name: value.clone() for name, value in table.state().items()})
            table = again
        actions = torch.tensor([[number / 100, 0.0], [number / 100, 1.0]])
        before = [plain.frames_at(lane, 0) for lane in (0, 1)]
        values = [plain.observe(lane, False) for lane in (0, 1)]
        table.add(actions, torch.tensor([end == "terminated" for end in ends]), rows(data, values))
        for lane in (0, 1):
            one = before[lane], actions[lane, 0].item(), plain.frames_at(lane, 0), float(ends[lane] == "terminated")
            plain.transitions[lane].append(one)
        over = [lane for lane in (0, 1) if ends[lane] != "on"]
        if over:
            table.begin(over, rows(data, [plain.observe(lane, True) for lane in over]))
        found = drawn(table)
        assert len(found) <= capacity
        # Of each lane a run of the newest, at least as many as there is room for where every step ends an episode.
        sizes = [(i, j) for i in range(len(plain.transitions[0]) + 1) for j in range(len(plain.transitions[1]) + 1)]
        assert any(
            i + j == len(found)
            and found
            == sorted(
                plain.transitions[0][len(plain.transitions[0]) - i :]
                + plain.transitions[1][len(plain.transitions[1]) - j :]
            )
            for i, j in sizes
            if i + j == len(found)
        )
        room = max(capacity // 2, 2 * frames + 1)
        assert len(found) >= 2 * min(number + 1, room // 2 - frames)
        assert table.current().shape == (2, (64 if name == "images" else 2) * frames)


@pytest.mark.parametrize(("name", "frames"), [("numbers", 1), ("images", 1), ("images", 3)])
def test_a_full_ring_never_holds_more_than_its_capacity(sources: dict[str, CachedSource], name: str, frames: int):
    """Also in one long episode, at the first time round."""
    for capacity in (10, 11, 14, 20, 40):
        data, plain = sources[name], Plain(2, frames)
        table = OnlineTable(data, encoder_of(data, frames), torch.float32, "cpu", 2, capacity)
        table.begin([0, 1], rows(data, [plain.observe(lane, True) for lane in (0, 1)]))
        counts = []
        for _ in range(60):
            after = rows(data, [plain.observe(lane, False) for lane in (0, 1)])
            table.add(torch.zeros(2, 2), torch.zeros(2, dtype=torch.bool), after)
            counts.append(table.count)
        assert max(counts) == 2 * (capacity // 2)


def test_draws_are_uniform_over_what_is_there_and_repeat(sources: dict[str, CachedSource]):
    data = sources["numbers"]
    table = OnlineTable(data, encoder_of(data), torch.float64, "cpu", 1, 1000)
    table.begin([0], rows(data, [0]))
    for number in range(20):
        table.add(torch.tensor([[number / 100, 0.0]]), torch.tensor([False]), rows(data, [number + 1]))
    replays = [Replay({}, {"online": 5000}, 3, [table], {"online": OnlinePile(table, 0)}) for _ in range(2)]
    first, second = (replay.sample()["online"] for replay in replays)
    assert torch.equal(first["action"], second["action"])
    assert first["observation"].dtype == torch.float64
    assert torch.equal(first["next", "observation"][:, 0], first["observation"][:, 0] + 1)
    counts = np.bincount(first["observation"][:, 0].long().numpy(), minlength=20)
    assert len(counts) == 20
    assert abs(counts - 250).max() < 80, "five standard deviations"


def test_a_state_has_no_rows_that_were_never_written(sources: dict[str, CachedSource]):
    data = sources["numbers"]
    table = OnlineTable(data, encoder_of(data), torch.float32, "cpu", 2, 1000)
    assert table.state()["columns/action"].shape == (0, 2)
    table.load_state(table.state())
    table.begin([0, 1], rows(data, [1, 2]))
    table.add(torch.zeros(2, 2), torch.tensor([True, False]), rows(data, [3, 4]))
    assert table.state()["columns/action"].shape == (4, 2)
