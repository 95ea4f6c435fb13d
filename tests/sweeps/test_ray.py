"""Real Ray: one started for the sweep, and a cluster that is there already."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from iq_offline.config import DataConfig
from iq_offline.errors import UserError
from iq_offline.sweeps import ray_launcher
from iq_offline.sweeps.grid import PlannedRun
from iq_offline.sweeps.launch import Launcher, run_sweep
from iq_offline.sweeps.ray_launcher import RayLauncher, require_reachable, work_on_node
from iq_offline.sweeps.work import Task, log_file
from tests.data_helpers import CHECKOUT, python
from tests.sweeps.processes import alive, assert_undisturbed, begun, start_sweep, wait_until, workers_of
from tests.sweeps.program import planned
from tests.training.program import INTERRUPTED, write_datasets

LONG = 3000
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": 32 * "a1"}


@pytest.fixture(autouse=True)
def datasets(own_folders: None) -> None:
    write_datasets()


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of a cluster of one node, which knows the tests' package but none of its datasets.

    It asks for a token, as Ray's clusters do where there is one.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hidden = ("MINARI_DATASETS_PATH", "IQ_OFFLINE_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    temporary = tempfile.mkdtemp(prefix="ray")  # Not the test's: paths of sockets are short.
    command = (
        f"--temp-dir={temporary}",
        f"--port={port}",
        "--num-cpus=2",
        "--include-dashboard=false",
        "--disable-usage-stats",
        "--block",
    )
    node = subprocess.Popen(
        [Path(sys.executable).parent / "ray", "start", "--head", "--node-ip-address=127.0.0.1", *command],
        env=environment | {"PYTHONPATH": str(CHECKOUT), **TOKEN},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"127.0.0.1:{port}"

    def listens() -> bool:
        assert node.poll() is None
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(listens)
        yield address
    finally:
        node.terminate()
        node.wait(30)
        shutil.rmtree(temporary)


@pytest.mark.slow
def test_done_failed_and_killed_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """One run cannot be done, and the worker of another is killed in the midst of it."""
    monkeypatch.setenv("RAY_ADDRESS", "10.255.255.1:6379")  # Not asked for: Ray must not listen to it.
    folder, tasks = tmp_path / "sweep", planned(3, gradient_steps=LONG)
    unknown = replace(tasks[0][0].config, data=DataConfig("test/nowhere-v0"))

    niceness = []

    def kill() -> None:
        wait_until(lambda: begun(folder, "seed1"))
        (worker,) = workers_of(folder, "seed1")
        niceness.append(os.getpriority(os.PRIO_PROCESS, worker))
        os.kill(worker, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    launcher = RayLauncher()
    assert isinstance(launcher, Launcher)
    outcome = run_sweep([*tasks, (PlannedRun("bad", unknown),)], folder, launcher)
    killer.join()
    assert niceness == [os.getpriority(os.PRIO_PROCESS, 0)], "as much of a processor as a local worker gets"
    assert outcome.done == ("seed0", "seed1", "seed2")
    (failure,) = outcome.failed
    assert (failure.name, failure.log) == ("bad", log_file(folder, "bad"))
    assert "test/nowhere-v0" in failure.error
    assert [len(workers_of(folder, f"seed{seed}")) for seed in range(3)] == [1, 2, 1]
    output, errors = capfd.readouterr()
    assert output == ""
    assert "worker died" in (folder / "logs" / "ray.log").read_text(), "what Ray itself says"
    assert "seed1: its worker died (worker crashed): trying again\n" in errors
    assert all(line.startswith(("seed", "bad: failed: ", "sweep: ")) for line in errors.splitlines()), errors
    assert not any(alive(worker) for seed in range(3) for worker in workers_of(folder, f"seed{seed}"))
    assert_undisturbed(folder, 3, LONG, tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_cluster_that_is_there(number: signal.Signals, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Disturbed, the workers end, the cluster stays, and the same command goes on; the nodes find the datasets."""
    for name, value in TOKEN.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "sweep"
    program = start_sweep(folder, 3, LONG, "ray", cluster)
    wait_until(lambda: begun(folder, "seed0") and begun(folder, "seed1"), running=program)
    workers = [worker for name in ("seed0", "seed1") for worker in workers_of(folder, name)]
    program.send_signal(number)
    output, errors = program.communicate(timeout=60)
    wait_until(lambda: not any(map(alive, workers)), 30)
    if number == signal.SIGINT:
        assert program.returncode == INTERRUPTED, errors
        assert re.fullmatch(r"interrupted: [0-3] of 3 runs are done; the same command goes on", errors.splitlines()[-1])
        logs = "".join(log_file(folder, f"seed{seed}").read_text() for seed in range(2))
        assert "interrupted: stopped at step " in logs, "the checkpoint was saved first"
    again = start_sweep(folder, 3, LONG, "ray", cluster)
    output, errors = again.communicate(timeout=120)
    assert output.splitlines() == ["done seed0 seed1 seed2", "failed"], errors
    assert_undisturbed(folder, 3, LONG, tmp_path / "straight")


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token_says_so(cluster: str, monkeypatch: pytest.MonkeyPatch):
    for name in TOKEN:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=f"^no Ray cluster can be reached at {cluster}: it asks for a token: set RAY_A"):
        require_reachable(cluster)


@pytest.mark.slow
def test_a_ray_of_its_own_writes_no_token_into_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in TOKEN:
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    program = start_sweep(tmp_path / "sweep", 1, 3, "ray")
    output, errors = program.communicate(timeout=120)
    assert output.splitlines() == ["done seed0", "failed"], errors
    assert not list(home.rglob("*token*"))


@pytest.mark.slow
def test_killed_with_a_ray_of_its_own_nothing_is_left_running(tmp_path: Path):
    folder = tmp_path / "sweep"
    program = start_sweep(folder, 1, 10 * LONG, "ray")
    wait_until(lambda: begun(folder, "seed0"), running=program)
    (worker,) = workers_of(folder, "seed0")
    program.kill()
    program.communicate()
    wait_until(lambda: not alive(worker), 30)


def test_without_ray_it_says_what_to_install():
    code = "import sys; sys.modules['ray'] = None; from iq_offline.sweeps.ray_launcher import RayLauncher as R; from "
    done = python("-c", code + "iq_offline.cli import guarded; sys.exit(guarded(R))")
    assert done.returncode == 2
    assert done.stderr == "error: the ray launcher needs an extra: pip install '.[ray]' in the checkout\n"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no-such-host.invalid:6379"])
def test_an_address_where_nothing_is_is_one_line(address: str, tmp_path: Path):
    with pytest.raises(UserError, match=f"^no Ray cluster can be reached at {address}: [^\n]+$"):
        run_sweep(planned(1), tmp_path, RayLauncher(address))


def test_no_cluster_to_be_found_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # Others may run a cluster on this machine.
    with pytest.raises(UserError, match=r"^no Ray cluster can be reached at auto: [^\n]+$"):
        require_reachable("auto")


def test_something_else_at_the_address_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_launcher, "ANSWER", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=f"^no Ray cluster answers at {address}$"):
            require_reachable(address)


def test_a_node_that_does_not_see_the_folder_says_so(tmp_path: Path):
    task = Task(planned(1)[0], tmp_path / "not" / "shared")
    with pytest.raises(UserError, match=r"does not see .*/not/shared: choose an --output on a disk that all nodes"):
        work_on_node(task)
    assert not (tmp_path / "not").exists()
