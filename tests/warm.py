"""Commands in processes of their own that need not import everything first, which is most of what a short one takes.

``python -m tests.warm SOCKET`` imports the package and runs nothing of it. Asked for a command it forks: what then runs
is a process with its own memory, environment, folder, output, exit code and death. Unlike one that a user starts it has
the hash seed of all others, the checkout as the first place of modules, and what imports read of the environment from
before (``OMP_NUM_THREADS`` is 1), and what it imported is not taken apart at its end. What starting, importing and
ending do by themselves, and what may depend on the order of sets, is for tests that start Python afresh
(``data_helpers.python``).
"""

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from functools import cache
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parent.parent
LONGEST = 300.0
"""Seconds that a command may take."""
IMPORTED = (
    *("iq_offline.cli", "iq_offline.dataset_commands", "iq_offline.inspect_command", "iq_offline.run"),
    *("iq_offline.evaluation.plots", "iq_offline.sweeps.report", "iq_offline.sweeps.figures", "iq_offline.sweeps.work"),
)


class Started:
    """``python -m MODULE …`` or ``python -c CODE …`` on its way, in a folder; the environment is the test's.

    As ``subprocess.Popen``, with output that is there at the end.
    """

    def __init__(self, *arguments: str, cwd: Path = CHECKOUT) -> None:
        self.returncode: int | None = None
        self.output, self.errors = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self.answers, theirs = socket.socketpair()
        asked = {"arguments": arguments, "cwd": str(cwd), "environment": dict(os.environ)}
        request = json.dumps(asked).encode()
        files = [self.output.fileno(), self.errors.fileno(), theirs.fileno()]
        with theirs:
            socket.send_fds(_server(), [len(request).to_bytes(8, "big")], files)
            _server().sendall(request)
        self.answers.settimeout(LONGEST)
        self.pid = _number(self.answers)

    def send_signal(self, number: int) -> None:
        """To the process itself, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        """The exit code, None before the end."""
        try:
            return self.wait(0)
        except BlockingIOError:
            return None

    def wait(self, timeout: float = LONGEST) -> int:
        """The exit code, negative where a signal ended it. At most so many seconds."""
        if self.returncode is None:
            self.answers.settimeout(timeout)
            self.returncode = _number(self.answers)
            self.answers.close()
        return self.returncode

    def communicate(self, timeout: float = LONGEST) -> tuple[str, str]:
        """What it printed, and what on stderr, once it has ended; killed where that takes longer."""
        try:
            self.wait(timeout)
        except TimeoutError:
            self.send_signal(signal.SIGKILL)
            raise
        said = []
        for file in (self.output, self.errors):
            file.seek(0)
            said.append(file.read().decode())
        return said[0], said[1]


def warm_python(*arguments: str, cwd: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
    """The same to its end."""
    started = Started(*arguments, cwd=cwd)
    output, errors = started.communicate()
    return subprocess.CompletedProcess(arguments, started.wait(), output, errors)


@cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        subprocess.Popen(
            [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    atexit.register(ours.close)  # Which ends it.
    return ours


def _number(connection: socket.socket) -> int:
    received = connection.recv(8, socket.MSG_WAITALL)
    if not received:
        raise EOFError("whoever waits for the command has ended")
    return int.from_bytes(received, "big", signed=True)


def _serve(descriptor: int) -> None:
    """Until the connection ends; in a forked process, a command."""
    for name in IMPORTED:
        __import__(name)
    gc.freeze()  # What all have in common is nobody's to collect.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Those who wait for the commands.
    connection = socket.socket(fileno=descriptor)
    while True:
        head, files, _, _ = socket.recv_fds(connection, 8, 3)
        if not head:
            return
        asked = json.loads(connection.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            process = os.fork()
            if process == 0:
                connection.close()
                os.close(files.pop())
                _become(asked, files)
            _tell_of(process, files[-1])
        for file in files:
            os.close(file)


def _tell_of(process: int, answers: int) -> None:
    """Send a process's number, and its exit code at its end."""
    os.write(answers, process.to_bytes(8, "big"))
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os.write(answers, code.to_bytes(8, "big", signed=True))
    os._exit(0)


def _become(asked: dict[str, Any], files: list[int]) -> None:
    """Run a command as ``python`` would, with what it prints going to two files."""
    for file, usual in zip(files, (1, 2), strict=True):
        os.dup2(file, usual)
        os.close(file)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["cwd"])
    kind, what, *rest = asked["arguments"]
    sys.argv = [kind, *rest]
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
        _leave(0)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        _leave(end.code if isinstance(end.code, int) else 1 if end.code else 0)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        _leave(1)


def _leave(code: int) -> None:
    """End as Python does, but for taking apart all that was imported: most of what a short command would take."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
