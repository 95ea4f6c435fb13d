"""Drawing batches ahead of the training, in a thread: worth it where batches are large or come from the disk."""

import queue
import threading

from tensordict import TensorDict
from torch import Tensor

from iq_offline.data.replay import Replay


class Prefetcher:
    """A replay whose batches are drawn ahead. The same batches in the same order, and the same state between them.

    Args:
        replay: drawn from by the thread alone from the first :meth:`sample` on.
        depth: batches to keep ready.
    """

    def __init__(self, replay: Replay, depth: int) -> None:
        self._replay = replay
        self._depth = depth
        self._ready: queue.Queue[tuple[TensorDict, Tensor] | Exception] = queue.Queue(depth)
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._state = replay.generator.get_state()

    def sample(self) -> TensorDict:
        """The next batch."""
        if self._thread is None:
            self._stop = threading.Event()
            self._ready = queue.Queue(self._depth)
            self._thread = threading.Thread(target=self._draw, args=(self._ready, self._stop), daemon=True)
            self._thread.start()
        drawn = self._ready.get()
        if isinstance(drawn, Exception):
            self.close()  # Its thread has ended: who asks again gets another.
            raise drawn
        batch, self._state = drawn
        return batch

    def get_state(self) -> Tensor:
        """Of the generator, as it was after the last batch that was handed out."""
        return self._state

    def set_state(self, state: Tensor) -> None:
        """Forget what was drawn ahead and go on from there."""
        self.close()
        self._state = state
        self._replay.generator.set_state(state)

    def close(self) -> None:
        """End the thread; :meth:`sample` starts another where the last batch left off."""
        if self._thread is None:
            return
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.01)
            except queue.Empty:
                continue
        self._thread = None
        self._replay.generator.set_state(self._state)

    def _draw(self, ready: "queue.Queue[tuple[TensorDict, Tensor] | Exception]", stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                batch = self._replay.sample()
                ready.put((batch, self._replay.generator.get_state()))
        except Exception as error:
            ready.put(error)
