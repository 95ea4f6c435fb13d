"""Real workers on this machine: killed, interrupted, shared with another process."""

import os
import random
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from iq_offline.sweeps import local
from iq_offline.sweeps.launch import run_sweep
from iq_offline.sweeps.local import LocalLauncher, available_cores
from iq_offline.sweeps.work import log_file
from tests.sweeps.processes import alive, assert_undisturbed, begun, start_sweep, wait_until, workers_of
from tests.sweeps.program import planned
from tests.training.program import INTERRUPTED, write_datasets

LONG = 1500
"""Gradient steps that take a few seconds."""


@pytest.fixture(autouse=True)
def datasets(own_folders: None) -> None:
    write_datasets()


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "sweep"
    environment = []

    def kill() -> None:
        wait_until(lambda: begun(folder, "seed0"))
        (worker,) = workers_of(folder, "seed0")
        environment.extend(Path(f"/proc/{worker}/environ").read_text().split("\0"))
        os.kill(worker, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    launcher = LocalLauncher(1)
    outcome = run_sweep(planned(2, gradient_steps=LONG), folder, launcher)
    killer.join()
    assert outcome.done == ("seed0", "seed1")
    assert "seed0: its worker died (killed by SIGKILL (out of memory?)): trying again" in capsys.readouterr().err
    first, second = workers_of(folder, "seed0")
    assert first != second
    assert workers_of(folder, "seed1") == [second], "a worker stays for many tasks"
    assert not alive(second)
    assert "OMP_NUM_THREADS=1" in environment
    assert_undisturbed(folder, 2, LONG, tmp_path / "straight")


def test_a_worker_that_cannot_start_is_a_failure_with_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "START", "import sys; sys.exit('no such library')")
    outcome = run_sweep(planned(1), tmp_path, LocalLauncher(2))
    (failure,) = outcome.failed
    assert failure.error == "its worker died 4 times; the last was exit code 1"
    assert failure.last_lines.splitlines() == ["no such library"] * 4


def test_no_more_workers_than_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "START", "import sys; sys.exit(1)")
    launcher = LocalLauncher(50)
    assert launcher.free() == 50
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(local.subprocess, "Popen", lambda *a, **k: started.append(a) or popen(*a, **k))
    run_sweep(planned(2), tmp_path, launcher)
    assert len(started) == 8, "two tasks, tried four times"
    assert not launcher.workers


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended_in_any_way_the_workers_end_and_the_same_command_goes_on(number: signal.Signals, tmp_path: Path):
    folder = tmp_path / "sweep"
    program = start_sweep(folder, 4, LONG)
    wait_until(lambda: sum(begun(folder, f"seed{seed}") for seed in range(4)) >= min(2, available_cores()))
    workers = [worker for seed in range(4) for worker in workers_of(folder, f"seed{seed}")]
    program.send_signal(number)
    output, errors = program.communicate(timeout=60)
    wait_until(lambda: not any(map(alive, workers)), 20)
    if number == signal.SIGKILL:
        assert program.returncode == -number
    else:
        assert program.returncode == INTERRUPTED, errors
        assert re.fullmatch(r"interrupted: [0-3] of 4 runs are done; the same command goes on", errors.splitlines()[-1])
        assert "Traceback" not in errors
    logs = "".join(log_file(folder, f"seed{seed}").read_text() for seed in range(4) if begun(folder, f"seed{seed}"))
    assert "interrupted: stopped at step " in logs, "the checkpoint was saved first"

    again = start_sweep(folder, 4, LONG)
    output, errors = again.communicate(timeout=120)
    assert output.splitlines() == ["done seed0 seed1 seed2 seed3", "failed"], errors
    assert_undisturbed(folder, 4, LONG, tmp_path / "straight")


@pytest.mark.slow
def test_two_processes_share_the_runs(tmp_path: Path):
    folder = tmp_path / "sweep"
    programs = [start_sweep(folder, 8, 600) for _ in range(2)]
    for program in programs:
        output, errors = program.communicate(timeout=180)
        assert output.splitlines() == ["done " + " ".join(f"seed{seed}" for seed in range(8)), "failed"], errors
        assert program.returncode == 0
    workers = [workers_of(folder, f"seed{seed}") for seed in range(8)]
    assert [len(one) for one in workers] == [1] * 8, "each run is begun once"
    assert_undisturbed(folder, 8, 600, tmp_path / "straight")


@pytest.mark.slow
def test_killed_ten_times_a_sweep_ends_as_if_nothing_had_happened(tmp_path: Path):
    folder, steps = tmp_path / "sweep", 6000

    def written() -> list[tuple[Path, int]]:
        return [(file, file.stat().st_mtime_ns) for file in sorted(folder.glob("runs/*/checkpoint/latest.safetensors"))]

    for number in range(10):
        before, program = written(), start_sweep(folder, 4, steps)
        if number % 2:  # While trainings go on; the others while processes start, or a little later.
            wait_until(lambda before=before: written() != before)
        time.sleep(random.uniform(0, 2 if number % 2 else 8))
        program.kill()
        program.communicate()
    output, errors = start_sweep(folder, 4, steps).communicate(timeout=300)
    assert output.splitlines() == ["done seed0 seed1 seed2 seed3", "failed"], errors
    assert_undisturbed(folder, 4, steps, tmp_path / "straight")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 64),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "250000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 1),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/job\n0::/\n",
                "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        ({"proc/self/cgroup": "rubbish"}, 64),
    ],
)
def test_cores(files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_cores(tmp_path) == cores


def test_the_cores_of_this_machine():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
