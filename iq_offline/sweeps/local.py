"""Workers on this machine: fresh Python processes that stay for many tasks, one thread each.

A worker is told by its connection when the sweep's process ends, however it ends: it then saves its run's checkpoint
and ends too. Workers stand in process groups of their own, so that Ctrl-C reaches the sweep's process alone.
"""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import SimpleQueue

from iq_offline.sweeps.launch import Died, Result
from iq_offline.sweeps.work import ONE_THREAD, Outcome, Task, work

PATIENCE = 30.0
"""Seconds that a worker has to save its checkpoint."""

START = "import sys; sys.path[:] = sys.argv[2:]; from iq_offline.sweeps.local import serve; serve(int(sys.argv[1]))"
"""What a worker runs. Unlike multiprocessing's spawn it does not import the user's script once more."""


@dataclass
class Worker:
    """A process, how to talk to it, and what it is doing."""

    process: subprocess.Popen[bytes]
    connection: Connection
    task: Task | None = None


class LocalLauncher:
    """A pool of processes on this machine.

    Args:
        workers: how many at most; default: the cores that this process may use. They start when there is work.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.limit = workers or available_cores()
        self.workers: list[Worker] = []

    def __enter__(self) -> "LocalLauncher":
        return self

    def __exit__(self, *_: object) -> None:
        """Let the workers save what they are doing, and end them; at once where this is interrupted again."""
        for worker in self.workers:
            worker.connection.close()
        deadline = time.monotonic() + PATIENCE
        try:
            for worker in self.workers:
                with suppress(subprocess.TimeoutExpired):
                    worker.process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for worker in self.workers:
                worker.process.kill()
                worker.process.wait()
            self.workers = []

    def free(self) -> int:
        """How many tasks can be started now."""
        return self.limit - sum(worker.task is not None for worker in self.workers)

    def start(self, task: Task) -> None:
        """Give a task to an idle worker, or to a new one."""
        worker = next((worker for worker in self.workers if worker.task is None), None) or self._new_worker(task.folder)
        worker.task = task
        with suppress(OSError):  # It has just died: the next wait finds that out.
            worker.connection.send(task)

    def wait(self, seconds: float) -> list[Result]:
        """What came to an end, after at most so many seconds."""
        ready = wait([worker.connection for worker in self.workers], seconds)
        return [result for worker in list(self.workers) if worker.connection in ready for result in self._hear(worker)]

    def _hear(self, worker: Worker) -> list[Result]:
        task = worker.task
        try:
            outcomes: list[Outcome] = worker.connection.recv()
        except (EOFError, OSError):
            self.workers.remove(worker)
            worker.connection.close()
            code = worker.process.wait()  # Only then are its locks free for certain.
            return [(task, Died(how_it_died(code)))] if task else []
        worker.task = None
        return [(task, outcomes)] if task else []

    def _new_worker(self, folder: Path) -> Worker:
        ours, theirs = Pipe()
        with theirs, open(folder / "logs" / "workers.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", START, str(theirs.fileno()), *map(os.path.abspath, sys.path)],
                env=os.environ | ONE_THREAD,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        self.workers.append(Worker(process, ours))
        return self.workers[-1]


def how_it_died(code: int) -> str:
    """A process's exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")


def serve(descriptor: int) -> None:
    """What a worker does: tasks from its connection, until that ends."""
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    tasks: SimpleQueue[Task | None] = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, tasks), daemon=True).start()
    while (task := tasks.get()) is not None:
        outcomes = work(task)
        with suppress(OSError):
            connection.send(outcomes)


def _receive(connection: Connection, tasks: "SimpleQueue[Task | None]") -> None:
    """Pass tasks on; at the end of the connection see to it that the process ends, its run's checkpoint saved."""
    with suppress(EOFError, OSError):
        while True:
            tasks.put(connection.recv())
    tasks.put(None)
    os.kill(os.getpid(), signal.SIGTERM)  # A training saves its checkpoint; anything else has nothing to save.
    time.sleep(PATIENCE)
    os._exit(1)


def available_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: those it may run on, or fewer where its control group has a quota.

    Args:
        root: of the file system.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(allowed, _quota(root))))


def _quota(root: Path) -> float:
    """Processors' worth of time that the control group and those above it give, versions 1 and 2."""
    least = math.inf
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
            group = mount / path.lstrip("/")  # Inside a container the mount is often the group itself.
            for folder in {mount, group, *(parent for parent in group.parents if parent.is_relative_to(mount))}:
                least = min(least, _quota_of(folder))
    return least


def _quota_of(folder: Path) -> float:
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return math.inf if int(quota) < 0 else int(quota) / int(period)
    return math.inf
