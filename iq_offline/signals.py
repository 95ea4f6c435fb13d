"""Ending politely: Ctrl-C and SIGTERM are noted, and whoever works stops where all is saved."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def polite_signals() -> Iterator[Callable[[], bool]]:
    """Collect SIGINT and SIGTERM instead of dying of them; yields whether one came. A second one is obeyed at once."""
    received: list[int] = []
    try:
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def note(number: int, frame: Any) -> None:
            received.append(number)
            for known, handler in previous.items():
                signal.signal(known, handler)

        for number in previous:
            signal.signal(number, note)
    except ValueError:  # Not the main thread: whoever started it handles its signals.
        previous = {}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
