"""Workers of a Ray cluster, or of a Ray started here for the time of the sweep (the ``[ray]`` extra).

Every task of the sweep is a Ray task. The sweep's folder must be on a disk that all nodes share, at the same path, and
``iq_offline`` installed on all of them. The datasets are looked for where they are on this machine: the nodes are told
the values of ``MINARI_DATASETS_PATH`` and ``IQ_OFFLINE_CACHE``.
"""

import logging
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, redirect_stdout
from typing import Any

from iq_offline.errors import UserError
from iq_offline.sweeps.launch import Died, Result
from iq_offline.sweeps.local import PATIENCE, available_cores
from iq_offline.sweeps.work import ONE_THREAD, Outcome, Task, work

REACH = 5.0
"""Seconds for a first connection to a cluster."""
ANSWER = 60.0
"""Seconds for the cluster to take this process in."""
PENDING = 1000
"""Tasks handed to Ray at a time. It queues them, and a cluster that grows by itself sees how much there is to do."""
OBJECT_STORE = 80 * 2**20
"""Bytes of Ray's object store: tasks and outcomes are small."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",
}
"""What a user may set otherwise: Ray tells nobody, prints no hints, and its workers do not give way to everything else
on this machine (their niceness would be 15). Read when Ray is imported or started."""
ASKS_FOR_TOKEN = (
    "it asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN where ~/.ray/auth_token is not its own"
)
"""Ray sends a token to an address that was named only where it is told to: it is a secret."""
PASSED_ON = ("MINARI_DATASETS_PATH", "IQ_OFFLINE_CACHE")

PROBE = "import logging, ray, sys; ray.init(sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)"
"""Ray itself tries to connect for minutes and prints all along: so a process of its own tries first."""


class RayLauncher:
    """Tasks on Ray.

    Args:
        address: of a cluster, such as ``10.0.0.1:6379``, ``auto`` or ``ray://10.0.0.1:10001``; default: one on this
            machine with as many processors as this process may use, which ends with the sweep.
        cpus: processors that each task takes.
        gpus: GPUs, or the share of one, that each task takes whose runs train on a GPU.

    Raises:
        UserError: Ray is not installed.
    """

    def __init__(self, address: str | None = None, cpus: float = 1.0, gpus: float = 1.0) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            import ray
        except ImportError as error:
            raise UserError("the ray launcher needs an extra: pip install '.[ray]' in the checkout") from error
        self.ray: Any = ray
        self.address = address
        self.cpus, self.gpus = cpus, gpus
        self.pending: dict[Any, Task] = {}
        self.printing: ExitStack | None = None

    def __enter__(self) -> "RayLauncher":
        """Connect to the cluster, or start one here.

        Raises:
            UserError: the cluster cannot be reached, or no Ray can be started.
        """
        if self.address:
            require_reachable(self.address)
        else:  # A secret of this process: else Ray writes one into the user's home, and later clusters ask for it.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        here = {"num_cpus": available_cores(), "include_dashboard": False, "object_store_memory": OBJECT_STORE}
        environment = ONE_THREAD | {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        try:
            self.ray.init(
                address=self.address or "local",
                logging_level=logging.ERROR,
                log_to_driver=False,
                runtime_env={"env_vars": environment},
                **({} if self.address else here),
            )
        except Exception as error:
            doing = f"connect to {self.address}" if self.address else "start here"
            raise UserError(f"Ray cannot {doing}: {_one_line(error)}") from error
        self.remote = self.ray.remote(work_on_node)
        return self

    def __exit__(self, *_: object) -> None:
        """Let the tasks save what they are doing, and end them; at once where this is interrupted again."""
        try:
            for reference in self.pending:
                self.ray.cancel(reference)
            if self.pending:
                self.ray.wait(list(self.pending), num_returns=len(self.pending), timeout=PATIENCE)
        finally:
            self.pending = {}
            self.ray.shutdown()
            if self.printing:
                self.printing.close()
                self.printing = None

    def free(self) -> int:
        """How many tasks can be handed over now."""
        return PENDING - len(self.pending)

    def start(self, task: Task) -> None:
        """Hand a task to Ray.

        Raises:
            UserError: it needs a GPU, and this machine has none.
        """
        gpus = self.gpus if any(run.config.training.device.startswith("cuda") for run in task.runs) else 0
        if gpus and not self.address and self.ray.cluster_resources().get("GPU", 0) < gpus:
            raise UserError(f"Ray finds fewer GPUs on this machine than the {gpus:g} that a run on cuda takes")
        if not self.printing:  # Ray's threads print in this process whatever happens to a worker.
            self.printing = ExitStack()
            log = open(task.folder / "logs" / "ray.log", "a", buffering=1)  # noqa: SIM115
            self.printing.enter_context(redirect_stdout(self.printing.enter_context(log)))
        # The sweep tries again by itself; Ray would do so without asking whether the folder is still there.
        options = self.remote.options(num_cpus=self.cpus, num_gpus=gpus, max_retries=0, name=task.runs[0].name)
        self.pending[options.remote(task)] = task

    def wait(self, seconds: float) -> list[Result]:
        """What came to an end, after at most so many seconds."""
        if not self.pending:
            time.sleep(seconds)
            return []
        ended, others = self.ray.wait(list(self.pending), num_returns=1, timeout=seconds)
        if ended and others:
            ended += self.ray.wait(others, num_returns=len(others), timeout=0)[0]
        return [(self.pending.pop(reference), self._outcome(reference)) for reference in ended]

    def _outcome(self, reference: Any) -> list[Outcome] | Died:
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from error
            if isinstance(error.cause, ImportError):
                raise UserError(f"a node of the Ray cluster has not what a run needs: {error.cause}") from error
            raise
        except errors.RuntimeEnvSetupError as error:
            raise UserError(f"a node of the Ray cluster cannot start a worker: {_one_line(error)}") from error
        except errors.RayError as error:
            return Died(_words(type(error).__name__))


def work_on_node(task: Task) -> list[Outcome]:
    """Do a task on a node of the cluster.

    Raises:
        UserError: the node does not see the sweep's folder.
    """
    if not (task.folder / "locks").is_dir():
        raise UserError(
            f"the Ray node {socket.gethostname()} does not see {task.folder}: "
            "choose an --output on a disk that all nodes share"
        )
    return work(task)


def require_reachable(address: str) -> None:
    """See whether a Ray cluster answers at an address, without waiting for long.

    Raises:
        UserError: it does not.
    """
    try:
        place = re.fullmatch(r"(?:\w+://)?\[?(.+?)\]?:(\d+)", address)
        if place:
            socket.create_connection((place[1], int(place[2])), timeout=REACH).close()
        command = [sys.executable, "-c", PROBE, address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER, process_group=0, check=False)
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster can be reached at {address}: {_one_line(error)}") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"no Ray cluster answers at {address}") from error
    if done.returncode:
        last = next(
            (line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}"
        )
        why = ASKS_FOR_TOKEN if "AuthenticationError" in done.stderr else last.strip()
        raise UserError(f"no Ray cluster can be reached at {address}: {why}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _words(name: str) -> str:
    """``worker crashed`` of ``WorkerCrashedError``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Error")).lower()
