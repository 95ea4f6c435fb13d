"""What a worker does with a task, wherever it runs: each run once, under a lock, its output in a log.

A sweep's folder holds ``runs/NAME`` (as :mod:`iq_offline.experiment` leaves it), ``logs/NAME.log`` and
``locks/NAME.lock``. The lock of a run is held while it is worked on, and the system frees it when the process dies: so
any number of processes on one folder share its runs, and none is done twice.
"""

import ctypes
import errno
import fcntl
import os
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from iq_offline.errors import InterruptedCommandError, UserError
from iq_offline.experiment import Options, run_together
from iq_offline.files import disk_errors
from iq_offline.run import Summary
from iq_offline.sweeps.folders import finished, log_file, run_folder
from iq_offline.sweeps.grid import PlannedRun

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
"""Environment of a worker: read when libraries are imported. A run's ``torch_threads`` still decides torch's."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""How a file system says that it cannot lock files."""


@dataclass(frozen=True)
class Task:
    """Runs that one worker does: usually one; several where they train as one program."""

    runs: tuple[PlannedRun, ...]
    folder: Path
    """Of the sweep; absolute."""
    trust_env: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a run. ``elsewhere``: another process holds its lock; ``interrupted``: its state is saved."""

    name: str
    state: Literal["done", "failed", "elsewhere", "interrupted"]
    note: str = ""
    """One line: what failed, or how it went."""


def require_usable(folder: Path) -> None:
    """See that a sweep can be written here, and that locks work.

    Raises:
        UserError: it cannot, or they do not.
    """
    with disk_errors("starting a sweep", folder):
        for name in ("runs", "logs", "locks"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder / "locks") as file:
            take(file, folder)


def take(file: IO[Any], folder: Path) -> bool:
    """Lock an open file, if nobody has; the lock lasts until the file is closed or the process is dead.

    Raises:
        UserError: the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise UserError(
            f"{folder} is on a disk without file locks (flock), which keep runs from being done twice: "
            "choose another --output"
        ) from error
    return True


def work(task: Task) -> list[Outcome]:
    """Do the runs of a task that are not finished and that nobody else does. Never raises what a run raised."""
    with ExitStack() as locks:
        outcomes, ours = [], []
        for planned in task.runs:
            file = task.folder / "locks" / f"{planned.name}.lock"
            try:
                with disk_errors("locking a run", file.parent):
                    file.parent.mkdir(parents=True, exist_ok=True)
                    taken = take(locks.enter_context(open(file, "ab")), task.folder)
            except UserError as error:
                outcomes.append(Outcome(planned.name, "failed", str(error)))
                continue
            if finished(task.folder, planned.name):  # Only now: another process may just have let go of it.
                outcomes.append(Outcome(planned.name, "done", "was finished already"))
            elif not taken:
                outcomes.append(Outcome(planned.name, "elsewhere"))
            else:
                ours.append(planned)
        return outcomes + _do(ours, task)


def _do(runs: Sequence[PlannedRun], task: Task) -> list[Outcome]:
    """The runs of a task that are this worker's: one by itself, several as one program with the log of the first."""
    if not runs:
        return []
    names = [planned.name for planned in runs]
    try:
        with disk_errors("writing a log", task.folder):
            for name in names[1:]:
                with output_to(log_file(task.folder, name)):
                    print(f"{_session(name)}: trained together with {names[0]}: see its log")
            with output_to(log_file(task.folder, names[0])):
                print(_session(", ".join(names)))
                return _outcomes(runs, task)
    except UserError as error:  # Not even the log can be written.
        return [Outcome(name, "failed", str(error)) for name in names]


def _session(names: str) -> str:
    return f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {names}: process {os.getpid()} on {socket.gethostname()}"


def _outcomes(runs: Sequence[PlannedRun], task: Task) -> list[Outcome]:
    """Train and score; whatever is raised becomes the outcome of all."""
    folders = [run_folder(task.folder, planned.name) for planned in runs]
    names = [planned.name for planned in runs]
    options = Options(trust_env=task.trust_env)
    try:
        results = run_together([planned.config for planned in runs], folders, options)
    except (InterruptedCommandError, KeyboardInterrupt) as interruption:
        print(f"interrupted: {interruption}")
        return [_ended(task, name, Outcome(name, "interrupted")) for name in names]
    except UserError as error:
        results = [error for _ in names]
    except Exception as error:
        traceback.print_exc()
        if len(runs) > 1:
            print("now each by itself: the others are not to fail with it")
            return _apart(runs, task)
        note = f"{type(error).__name__}: " + " ".join(str(error).split())
        return [_ended(task, name, Outcome(name, "failed", note)) for name in names]
    outcomes = []
    for name, result in zip(names, results, strict=True):
        if isinstance(result, UserError):
            note = " ".join(str(result).split())
            print(f"error: {note}" if len(names) == 1 else f"error: {name}: {note}")
            outcomes.append(Outcome(name, "failed", note))
        else:
            outcomes.append(Outcome(name, "done", _how_it_went(result)))
    return outcomes


def _apart(runs: Sequence[PlannedRun], task: Task) -> list[Outcome]:
    """One after another, until one is interrupted."""
    outcomes: list[Outcome] = []
    for planned in runs:
        if any(outcome.state == "interrupted" for outcome in outcomes):
            outcomes.append(_ended(task, planned.name, Outcome(planned.name, "interrupted")))
        else:
            outcomes += _outcomes([planned], task)
    return outcomes


def _ended(task: Task, name: str, otherwise: Outcome) -> Outcome:
    """What became of one of several runs when something ended them all: some may have been finished before."""
    return Outcome(name, "done", "finished") if finished(task.folder, name) else otherwise


def _how_it_went(summary: Summary) -> str:
    seconds = summary["seconds"] + summary["evaluation_seconds"]
    score = summary["normalized_score"]
    if not summary["returns"]:
        return f"{seconds:.0f} s, not evaluated"
    return f"{seconds:.0f} s, " + (
        f"score {score:.3f}" if score is not None else f"return {summary['return_mean']:.1f}"
    )


@contextmanager
def output_to(file: Path) -> Iterator[None]:
    """Whatever this process prints, C code included, goes to the end of a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a", buffering=1) as log, ExitStack() as stack:
        flush_c = ctypes.CDLL(None).fflush
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        flush_c(None)
        for descriptor in (1, 2):
            saved = os.dup(descriptor)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, descriptor)
            os.dup2(log.fileno(), descriptor)
        stack.callback(flush_c, None)
        stack.enter_context(redirect_stdout(log))
        stack.enter_context(redirect_stderr(log))
        yield
