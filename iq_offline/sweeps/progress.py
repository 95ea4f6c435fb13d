"""What a sweep shows while it goes on. All is read from the run folders: so runs done by other processes show, too."""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from iq_offline.sweeps.folders import finished, log_file, run_folder

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

LINE_EVERY = 30.0
"""Seconds between lines about the whole sweep where there is no terminal."""
LOOK_EVERY = 1.0
"""Seconds between looks at the folders, or more where a look is slow."""
LOOKING = 0.05
"""Share of the time that may be spent on looking."""
TAIL = 8192
ROWS = 20
"""Runs shown at most."""

Stamp = tuple[int, ...]


@dataclass
class Sight:
    """What is known of an unfinished run."""

    total: int
    first: Stamp
    """Times of change of its files at the start: where they differ now, somebody works on it."""
    steps: int = 0
    steps_before: int = 0
    steps_per_second: float = 0.0
    running: bool = False
    stamp: Stamp = ()


@dataclass
class Watch:
    """How far the runs of a sweep are.

    Args:
        folder: of the sweep.
        totals: gradient steps of every run.
    """

    folder: Path
    totals: Mapping[str, int]
    done: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.started: float | None = None
        """When somebody was first seen to work: starting the workers says nothing about the pace."""
        self.next_look = 0.0
        self.gained = 0
        """Gradient steps of runs that were finished since the start."""
        self.sights: dict[str, Sight] = {}
        for name, total in self.totals.items():
            if finished(self.folder, name):
                self.done.add(name)
            else:
                stamp = self._stamp(name)
                steps, rate = self._last_row(name)
                self.sights[name] = Sight(total, stamp, steps, steps, rate, stamp=stamp)

    def look(self, hurry: bool = False) -> bool:
        """Read the folders again, unless that was done only just now; says whether it was done."""
        begun = time.monotonic()
        if begun < self.next_look and not hurry:
            return False
        for name in list(self.sights):
            if finished(self.folder, name):
                self.finish(name)
            else:
                self._look_at(name)
        now = time.monotonic()
        if self.started is None and self.running():
            self.started = begun
        self.next_look = now + max(LOOK_EVERY, (now - begun) / LOOKING)
        return True

    def finish(self, name: str) -> None:
        """A run is done."""
        sight = self.sights.pop(name, None)
        if sight is not None:
            self.done.add(name)
            self.gained += sight.total - sight.steps_before

    def fail(self, name: str) -> None:
        """A run will not be done."""
        if self.sights.pop(name, None) is not None:
            self.failed.add(name)

    def running(self) -> dict[str, Sight]:
        """Runs that somebody works on, as far as can be seen."""
        return {name: sight for name, sight in self.sights.items() if sight.running}

    def share(self) -> float:
        """Of all gradient steps, those that are done."""
        left = sum(sight.total - sight.steps for sight in self.sights.values())
        return 1 - left / max(1, sum(self.totals.values()))

    def seconds_left(self) -> float | None:
        """At the pace so far, evaluations included; None while there is none."""
        gained = self.gained + sum(sight.steps - sight.steps_before for sight in self.sights.values())
        left = sum(sight.total - sight.steps for sight in self.sights.values())
        if self.started is None or gained <= 0:
            return None
        return left * (time.monotonic() - self.started) / gained

    def headline(self) -> str:
        """``12 of 50 runs done, 1 failed, 2 running, about 3 min left``."""
        parts = [f"{len(self.done)} of {len(self.totals)} runs done"]
        parts += [f"{len(self.failed)} failed"] * bool(self.failed)
        parts += [f"{len(self.running())} running"] * bool(self.running())
        left = self.seconds_left()
        return ", ".join(parts + ([f"about {in_words(left)} left"] if left and self.sights else []))

    def _look_at(self, name: str) -> None:
        sight, stamp = self.sights[name], self._stamp(name)
        if stamp == sight.stamp:
            return
        sight.stamp = stamp
        sight.running = stamp != sight.first
        sight.steps, sight.steps_per_second = self._last_row(name)
        sight.steps_before = min(sight.steps_before, sight.steps)  # A resumed run goes back to its checkpoint first.

    def _stamp(self, name: str) -> Stamp:
        stamp = []
        for file in (self._metrics(name), log_file(self.folder, name)):
            try:
                stamp.append(os.stat(file).st_mtime_ns)
            except OSError:
                stamp.append(0)
        return tuple(stamp)

    def _last_row(self, name: str) -> tuple[int, float]:
        """Gradient steps, and steps a second, of the last whole row of a run's metrics."""
        try:
            with open(self._metrics(name), "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
                lines = file.read().split(b"\n")
            row = json.loads(lines[-2])
        except (OSError, IndexError, ValueError):
            return 0, 0.0
        return int(row["gradient_steps"]), float(row.get("time/steps_per_second", 0.0))

    def _metrics(self, name: str) -> Path:
        return run_folder(self.folder, name) / "metrics.ndjson"


@runtime_checkable
class Display(Protocol):
    """Where a sweep's progress is shown."""

    def say(self, line: str) -> None:
        """Something happened."""
        ...

    def refresh(self) -> None:
        """Called all the time."""
        ...


@contextmanager
def display(watch: Watch) -> Iterator[Display]:
    """A bar and a row for every running run on a terminal; lines now and then elsewhere."""
    if not sys.stderr.isatty():
        yield Lines(watch)
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        yield Bars(watch, live)


class Lines:
    """For files and pipes: a line when something happens, and one about the whole every half minute at most."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.last = time.monotonic()

    def say(self, line: str) -> None:
        """Print it."""
        print(line, file=sys.stderr, flush=True)

    def refresh(self) -> None:
        """Print how far all is, if that was not done lately."""
        self.watch.look()
        if time.monotonic() - self.last >= LINE_EVERY:
            self.last = time.monotonic()
            self.say(f"sweep: {self.watch.headline()}")


class Bars:
    """For terminals."""

    def __init__(self, watch: Watch, live: "Live") -> None:
        self.watch = watch
        self.live = live
        self.refresh()

    def say(self, line: str) -> None:
        """Print it above the bars."""
        self.live.console.print(line, markup=False, highlight=False)
        self._draw()

    def refresh(self) -> None:
        """Draw the bars again, if there was a look at the folders."""
        if self.watch.look():
            self._draw()

    def _draw(self) -> None:
        self.live.update(self._drawn(), refresh=True)

    def _drawn(self) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        rows = Table.grid(padding=(0, 2))
        running = self.watch.running()
        for name, sight in list(running.items())[:ROWS]:
            steps = f"{sight.steps:,}/{sight.total:,}"
            doing = "evaluating" if sight.steps >= sight.total else f"{sight.steps_per_second:.0f}/s"
            doing = doing if sight.steps else "starting"
            rows.add_row(Text(name), ProgressBar(sight.total, sight.steps, 24), Text(steps), Text(doing, "dim"))
        more = [Text(f"and {len(running) - ROWS} more", "dim")] * (len(running) > ROWS)
        whole = Table.grid(padding=(0, 2))
        whole.add_row(ProgressBar(1.0, self.watch.share(), 40), Text(self.watch.headline()))
        return Group(whole, rows, *more)


def in_words(seconds: float) -> str:
    """``40 s``, ``3 min``, ``2 h 10 min``."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
