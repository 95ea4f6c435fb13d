"""Looking at the workers of a sweep from outside, to disturb them."""

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iq_offline.sweeps.work import log_file, run_folder
from tests.data_helpers import start_python
from tests.sweeps.program import planned
from tests.training.program import assert_same_run, run_training


def wait_until(
    condition: Callable[[], Any], seconds: float = 90.0, running: subprocess.Popen[str] | None = None
) -> Any:
    """What the condition gives once it is true; a program that should make it so may not end before."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert running is None or running.poll() is None, running.communicate()
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)
    return value


def workers_of(folder: Path, name: str) -> list[int]:
    """Processes that began a run, as its log has them."""
    log = log_file(folder, name)
    text = log.read_text() if log.exists() else ""
    return [int(number) for number in re.findall(r"^--- .*: process (\d+) on", text, re.M)]


def begun(folder: Path, name: str) -> bool:
    """A checkpoint is there."""
    return (run_folder(folder, name) / "checkpoint" / "latest.safetensors").exists()


def alive(process: int) -> bool:
    """It is there, and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def start_sweep(folder: Path, seeds: int, steps: int, *launcher: str) -> subprocess.Popen[str]:
    """The small sweep as a program of its own."""
    return start_python("-m", "tests.sweeps.program", str(folder), str(seeds), str(steps), *launcher)


def assert_undisturbed(folder: Path, seeds: int, steps: int, other: Path) -> None:
    """The runs of a sweep are, bit for bit, what one after another in this process would have given."""
    for (run,) in planned(seeds, gradient_steps=steps):
        run_training(run.config, other / run.name)
        assert_same_run(other / run.name, run_folder(folder, run.name))
