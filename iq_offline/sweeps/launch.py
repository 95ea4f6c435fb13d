"""Doing the runs of a sweep, whatever does them: one loop over any launcher.

A finished run is never run again, a cut-off one goes on from its checkpoint, a failed one does not stop the others.
Runs that another process works on are left to it, and looked at again until they are done or that process is dead.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from iq_offline.config import resolved
from iq_offline.errors import InterruptedCommandError
from iq_offline.signals import polite_signals
from iq_offline.sweeps.folders import finished, log_file
from iq_offline.sweeps.grid import PlannedRun
from iq_offline.sweeps.progress import Display, Watch, display
from iq_offline.sweeps.work import Outcome, Task, require_usable
from iq_offline.training.setup import program_of

RETRIES = 3
"""How often a task is given to another worker when its worker died."""
LOOK_AGAIN = 2.0
"""Seconds after which runs that another process had are tried again."""
TICK = 0.5
LAST_LINES = 12


@dataclass(frozen=True)
class Died:
    """The worker of a task is gone."""

    how: str


Result: TypeAlias = tuple[Task, list[Outcome] | Died]


@runtime_checkable
class Launcher(Protocol):
    """Somewhere to do tasks (:func:`iq_offline.sweeps.work.work`).

    Leaving its context stops what is running: trainings save their checkpoints first.
    """

    def __enter__(self) -> object: ...

    def __exit__(self, *_: object) -> None: ...

    def free(self) -> int:
        """How many tasks can be started now."""
        ...

    def start(self, task: Task) -> None:
        """Begin a task; does not wait for it."""
        ...

    def wait(self, seconds: float) -> list[Result]:
        """What came to an end, after at most so many seconds."""
        ...


@dataclass(frozen=True)
class Failure:
    """A run that failed: why, and what it said last."""

    name: str
    error: str
    log: Path
    last_lines: str


@dataclass(frozen=True)
class SweepOutcome:
    """Names of the runs that are done and of those that were left to other processes; what failed."""

    done: tuple[str, ...]
    failed: tuple[Failure, ...] = ()
    elsewhere: tuple[str, ...] = ()


class InterruptedSweepError(InterruptedCommandError):
    """Ctrl-C or a polite kill: every run is finished, saved, or not begun."""

    def __init__(self, done: int, total: int) -> None:
        super().__init__(f"{done} of {total} runs are done; the same command goes on")


def run_sweep(
    tasks: Sequence[tuple[PlannedRun, ...]],
    folder: Path,
    launcher: Launcher,
    *,
    wait: bool = True,
    trust_env: bool = False,
) -> SweepOutcome:
    """Do all runs of a sweep that are not done, together with any other process that is given the same.

    The datasets must be on this machine already: workers fetch and record none.

    Args:
        tasks: the runs, in groups that one worker does together.
        folder: of the sweep.
        launcher: what does them; not yet entered. Where nothing is to be done it is left alone.
        wait: for runs that other processes work on, to take them over if those die. Else they are left out.
        trust_env: evaluate in environments that no installed package registers.

    Raises:
        UserError: the folder cannot be written or locked in, or the launcher cannot start.
        InterruptedSweepError: after SIGINT or SIGTERM, with every run finished, saved, or not begun.
    """
    folder = folder.absolute()
    names = [run.name for group in tasks for run in group]
    if len(set(names)) < len(names):
        raise ValueError("two runs of one name")
    if all(finished(folder, name) for name in names):
        return SweepOutcome(tuple(names))
    require_usable(folder)
    watch = Watch(folder, {run.name: resolved(run.config).stage.gradient_steps for group in tasks for run in group})
    with polite_signals() as stop_asked, display(watch) as shown:
        sweep = _Sweep([Task(group, folder, trust_env) for group in tasks], watch, shown, wait)
        try:
            with launcher:
                while not stop_asked() and sweep.step(launcher):
                    pass
                if stop_asked():
                    shown.say("stopping: trainings save their checkpoints; Ctrl-C again stops at once")
        except KeyboardInterrupt:
            if not stop_asked():
                raise
        if stop_asked():
            raise InterruptedSweepError(sum(finished(folder, name) for name in names), len(names))
    failed = tuple(sweep.failed[name] for name in names if name in sweep.failed)
    elsewhere = {run.name for task in map(unfinished, sweep.elsewhere) for run in task.runs}
    done = tuple(name for name in names if name not in sweep.failed and name not in elsewhere)
    return SweepOutcome(done, failed, tuple(name for name in names if name in elsewhere))


ON_A_GPU = 64
"""Learners that train as one program there, where nothing else is asked for."""


def tasks_of(runs: Sequence[PlannedRun], together: int | None = None) -> list[tuple[PlannedRun, ...]]:
    """The runs in the groups that one worker does together, as one program.

    Args:
        runs: in the order in which they are wanted.
        together: at most so many in a group; default: many on a GPU, each run by itself on a CPU.
    """
    programs: dict[Hashable, list[PlannedRun]] = {}
    for planned in runs:
        programs.setdefault(program_of(planned.config), []).append(planned)
    groups = []
    for members in programs.values():
        most = together or (ON_A_GPU if members[0].config.training.device.startswith("cuda") else 1)
        groups += [tuple(members[first : first + most]) for first in range(0, len(members), most)]
    order = {planned.name: place for place, planned in enumerate(runs)}
    return sorted(groups, key=lambda group: order[group[0].name])


def unfinished(task: Task) -> Task:
    """The task without the runs that are done."""
    return replace(task, runs=tuple(run for run in task.runs if not finished(task.folder, run.name)))


def last_lines(file: Path) -> str:
    """The end of a log."""
    try:
        with open(file, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - 8192))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-LAST_LINES:])
    except OSError:
        return ""


def _longest_first(task: Task) -> tuple[int, int, bool]:
    """By steps: one that was begun last would be waited for by all others. Then by seed, BC's last, which are short.

    A sweep that is stopped has all learners for some seeds.
    """
    configs = [resolved(run.config) for run in task.runs]  # As given, a rehearsal's budget may have no updates.
    return -sum(config.stage.gradient_steps for config in configs), configs[0].seed, configs[0].algorithm == "bc"


class _Sweep:
    """What is still to be done, and what became of the rest."""

    def __init__(self, tasks: Sequence[Task], watch: Watch, shown: Display, wait: bool) -> None:
        self.waiting = deque(sorted(tasks, key=_longest_first))
        self.running = 0
        self.elsewhere: list[Task] = []
        self.look_again = 0.0
        self.said_waiting = False
        self.deaths: Counter[str] = Counter()
        self.failed: dict[str, Failure] = {}
        self.watch = watch
        self.shown = shown
        self.wait = wait

    def step(self, launcher: Launcher) -> bool:
        """Start what can be started, hear what ended; says whether something is left to do."""
        if self.wait and self.elsewhere and not self.waiting and time.monotonic() >= self.look_again:
            self.waiting.extend(self.elsewhere)
            self.elsewhere = []
        while self.waiting and launcher.free() > 0:
            task = unfinished(self.waiting.popleft())
            if task.runs:
                launcher.start(task)
                self.running += 1
        for task, result in launcher.wait(TICK):
            self.running -= 1
            if isinstance(result, Died):
                self._try_again(task, result.how)
            else:
                self._note(task, result)
        self.shown.refresh()
        return bool(self.waiting or self.running or (self.elsewhere and self.wait))

    def _note(self, task: Task, outcomes: Sequence[Outcome]) -> None:
        """Whatever became of the runs of a task."""
        states = {outcome.name: outcome.state for outcome in outcomes}
        for outcome in outcomes:
            if outcome.state == "done":
                self.watch.finish(outcome.name)
                self.shown.say(f"{outcome.name}: {outcome.note} ({len(self.watch.done)} of {len(self.watch.totals)})")
            elif outcome.state == "failed":
                self._fail(task, outcome.name, outcome.note)
        elsewhere = replace(task, runs=tuple(run for run in task.runs if states[run.name] == "elsewhere"))
        if elsewhere.runs:
            self.elsewhere.append(elsewhere)
            self.look_again = time.monotonic() + LOOK_AGAIN
            if self.wait and not self.waiting and not self.running and not self.said_waiting:
                self.said_waiting = True
                self.shown.say("what is left is being done by other processes: waiting for them")
        interrupted = replace(task, runs=tuple(run for run in task.runs if states[run.name] == "interrupted"))
        if interrupted.runs:
            self._try_again(interrupted, "told to stop")

    def _try_again(self, task: Task, how: str) -> None:
        """A worker is gone, its task is not: its runs go on from their checkpoints, or that was tried too often."""
        key = task.runs[0].name
        self.deaths[key] += 1
        if len(task.runs) > 1 and self.deaths[key] > 1:
            self.shown.say(f"{key}: its worker died ({how}): trying each of its {len(task.runs)} runs by itself")
            self.waiting.extendleft(replace(task, runs=(run,)) for run in reversed(task.runs))
        elif self.deaths[key] <= RETRIES:
            self.shown.say(f"{key}: its worker died ({how}): trying again")
            self.waiting.appendleft(task)
        else:
            for run in unfinished(task).runs:
                self._fail(task, run.name, f"its worker died {self.deaths[key]} times; the last was {how}")

    def _fail(self, task: Task, name: str, error: str) -> None:
        log = log_file(task.folder, name)
        if not log.exists():  # The worker did not come to begin it.
            log = log_file(task.folder, "workers")
        self.failed[name] = Failure(name, error, log, last_lines(log))
        self.watch.fail(name)
        self.shown.say(f"{name}: failed: {error}")
