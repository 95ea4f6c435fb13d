"""Batches that are drawn ahead are the batches that would have been drawn."""

import threading

import pytest
import torch
from tensordict import TensorDict

from iq_offline.data.prefetch import Prefetcher
from iq_offline.data.replay import Replay


class Counting(Replay):
    """Draws numbers in the place of transitions, and can be told to fail."""

    def __init__(self, fails_at: int | None = None) -> None:  # No data: only the generator counts here.
        self.generator = torch.Generator().manual_seed(3)
        self.drawn = 0
        self.fails_at = fails_at

    def sample(self) -> TensorDict:
        self.drawn += 1
        if self.drawn == self.fails_at:
            raise OSError("the disk is gone")
        return TensorDict({"drawn": torch.randint(1_000_000, (4,), generator=self.generator)})


def plain(count: int) -> list[list[int]]:
    replay = Counting()
    return [replay.sample()["drawn"].tolist() for _ in range(count)]


@pytest.mark.parametrize("depth", [1, 3])
def test_the_same_batches_in_the_same_order(depth: int):
    ahead = Prefetcher(Counting(), depth)
    assert [ahead.sample()["drawn"].tolist() for _ in range(20)] == plain(20)
    ahead.close()


@pytest.mark.parametrize("stop_after", [0, 1, 7])
def test_its_state_is_that_of_the_last_batch_handed_out(stop_after: int):
    ahead = Prefetcher(Counting(), 4)
    for _ in range(stop_after):
        ahead.sample()
    state = ahead.get_state()
    ahead.close()
    other = Prefetcher(Counting(), 2)
    other.sample()
    other.set_state(state)
    assert [other.sample()["drawn"].tolist() for _ in range(5)] == plain(stop_after + 5)[stop_after:]
    other.close()


def test_closed_it_goes_on_where_it_was():
    ahead = Prefetcher(Counting(), 3)
    first = [ahead.sample()["drawn"].tolist() for _ in range(4)]
    before = threading.active_count()
    ahead.close()
    assert threading.active_count() == before - 1
    ahead.close()
    assert first + [ahead.sample()["drawn"].tolist() for _ in range(4)] == plain(8)
    ahead.close()


def test_an_error_in_the_thread_is_raised_where_the_batch_is_wanted():
    ahead = Prefetcher(Counting(fails_at=3), 2)
    assert [ahead.sample()["drawn"].tolist() for _ in range(2)] == plain(2)
    with pytest.raises(OSError, match="the disk is gone"):
        ahead.sample()
    ahead.close()
