"""The loop over any launcher, with one that works in this process and can be told what to report."""

import fcntl
import os
import signal
import time
from collections import defaultdict, deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from iq_offline.config import DataConfig, OnlineConfig
from iq_offline.config.online import OFFLINE
from iq_offline.errors import UserError
from iq_offline.evaluation.rows import EPISODES, SUMMARY
from iq_offline.sweeps import launch
from iq_offline.sweeps.grid import PlannedRun
from iq_offline.sweeps.launch import Died, InterruptedSweepError, Launcher, Result, run_sweep
from iq_offline.sweeps.work import Outcome, Task, log_file, require_usable, run_folder, work
from tests.data_helpers import make_read_only, tmpfs
from tests.sweeps.program import planned
from tests.training.program import write_datasets


@pytest.fixture(autouse=True)
def quick(own_folders: None, monkeypatch: pytest.MonkeyPatch) -> None:
    write_datasets()
    monkeypatch.setattr(launch, "LOOK_AGAIN", 0.05)
    monkeypatch.setattr(launch, "TICK", 0.01)


class Here:
    """Does tasks in this process, unless told what to report of them; remembers what it was given."""

    def __init__(self, slots: int = 2, **told: Any) -> None:
        self.slots = slots
        self.told: dict[str, deque[Any]] = defaultdict(deque, {name: deque(results) for name, results in told.items()})
        self.tasks: list[list[str]] = []
        self.results: list[Result] = []
        self.inside = False

    def __enter__(self) -> "Here":
        self.inside = True
        return self

    def __exit__(self, *_: object) -> None:
        self.inside = False

    def free(self) -> int:
        return self.slots - len(self.results)

    def start(self, task: Task) -> None:
        assert self.inside
        names = [run.name for run in task.runs]
        self.tasks.append(names)
        told = self.told[names[0]]
        answer = told.popleft() if told else work
        result: Any = answer(task) if callable(answer) else answer
        self.results.append((task, result))

    def wait(self, seconds: float) -> list[Result]:
        results, self.results = self.results, []
        time.sleep(0 if results else seconds)
        return results


class Untouchable(Here):
    def __enter__(self) -> "Here":
        raise AssertionError("there is nothing to do")


def test_it_is_a_launcher():
    assert isinstance(Here(), Launcher)


def test_all_runs_are_done_and_a_second_call_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tasks = planned(3)
    outcome = run_sweep(tasks, tmp_path, Here())
    assert outcome.done == ("seed0", "seed1", "seed2")
    assert (outcome.failed, outcome.elsewhere) == ((), ())
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["seed0", "seed1", "seed2"]
    assert lines[-1].endswith("(3 of 3)")
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert run_sweep(tasks, tmp_path, Untouchable()) == outcome
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == files
    assert capsys.readouterr().err == ""


def test_a_failed_run_is_reported_with_the_end_of_its_log_and_the_others_go_on(tmp_path: Path):
    tasks = planned(3)
    unknown = replace(tasks[0][0].config, data=DataConfig("test/nowhere-v0"))
    tasks[0] = (PlannedRun("bad", unknown),)
    outcome = run_sweep(tasks, tmp_path, Here())
    assert outcome.done == ("seed1", "seed2")
    (failure,) = outcome.failed
    assert failure.name == "bad"
    assert "test/nowhere-v0" in failure.error
    assert failure.log == log_file(tmp_path, "bad")
    assert failure.last_lines.splitlines()[-1] == f"error: {failure.error}"

    launcher = Here()
    assert len(run_sweep(tasks, tmp_path, launcher).failed) == 1
    assert launcher.tasks == [["bad"]], "failed runs are tried again by the next call, and only they"


def test_a_rehearsal_of_two_stages_with_few_steps_is_begun(tmp_path: Path):
    """As given, its env_steps are fewer than the start_steps that --fast makes less."""
    ((run,),) = planned(1)
    online = OnlineConfig(400, OFFLINE)
    two = PlannedRun("two", replace(run.config, algorithm="iq_learn", fast=True, online=online))
    launcher = Here(two=[[Outcome("two", "done")]])
    assert run_sweep([(two,)], tmp_path, launcher).done == ("two",)
    assert launcher.tasks == [["two"]]


def test_the_longest_come_first(tmp_path: Path):
    short, long, longest = planned(1, gradient_steps=5), planned(1, gradient_steps=7), planned(2, gradient_steps=6)
    short, long = ([(replace(run, name=name),) for ((run,),) in [runs]] for name, runs in [("s", short), ("l", long)])
    launcher = Here(1)
    run_sweep([*short, *long, (longest[0][0], longest[1][0])], tmp_path, launcher)
    assert launcher.tasks == [["seed0", "seed1"], ["l"], ["s"]]


def test_a_sweep_that_is_stopped_has_all_learners_for_some_seeds(tmp_path: Path):
    runs = [
        replace(run, name=f"{algorithm}{run.config.seed}", config=replace(run.config, algorithm=algorithm))
        for algorithm in ("bc", "iq_learn")
        for ((run,),) in zip(planned(2, gradient_steps=5), strict=True)
    ]
    launcher = Here(1)
    run_sweep([(run,) for run in runs], tmp_path, launcher)
    assert launcher.tasks == [["iq_learn0"], ["bc0"], ["iq_learn1"], ["bc1"]]


def test_a_task_whose_worker_died_is_tried_three_times_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    launcher = Here(seed0=[Died("killed by SIGKILL")] * 3, seed1=[Died("killed by SIGKILL")] * 5)
    outcome = run_sweep(planned(3), tmp_path, launcher)
    assert outcome.done == ("seed0", "seed2")
    (failure,) = outcome.failed
    assert (failure.name, failure.error) == ("seed1", "its worker died 4 times; the last was killed by SIGKILL")
    assert [sum(name in task for task in launcher.tasks) for name in ("seed0", "seed1", "seed2")] == [4, 4, 1]
    assert "seed0: its worker died (killed by SIGKILL): trying again" in capsys.readouterr().err


def test_of_a_task_of_several_only_what_is_left_is_tried_again(tmp_path: Path):
    """Two of three were done when the worker died; of the last the log tells how far it came."""

    def die(task: Task) -> Died:
        assert [outcome.state for outcome in work(replace(task, runs=task.runs[:2]))] == ["done", "done"]
        return Died("killed by SIGKILL")

    launcher = Here(seed0=[die])
    (group,) = zip(*planned(3), strict=True)
    outcome = run_sweep([group], tmp_path, launcher)
    assert outcome.done == ("seed0", "seed1", "seed2")
    assert launcher.tasks == [["seed0", "seed1", "seed2"], ["seed2"]]


def test_one_run_that_kills_its_workers_does_not_take_its_group_along(tmp_path: Path):
    launcher = Here(seed0=[Died("killed by SIGKILL")] * 9)
    (group,) = zip(*planned(3), strict=True)
    outcome = run_sweep([group], tmp_path, launcher)
    assert outcome.done == ("seed1", "seed2")
    assert [failure.name for failure in outcome.failed] == ["seed0"]
    assert [sum(name in task for task in launcher.tasks) for name in ("seed0", "seed1", "seed2")] == [4, 3, 3]


def test_a_worker_that_was_told_to_stop_by_others_is_one_that_died(tmp_path: Path):
    interrupted = [[Outcome("seed0", "interrupted")]]
    assert run_sweep(planned(2), tmp_path, Here(seed0=interrupted)).done == ("seed0", "seed1")
    assert run_sweep(planned(1), tmp_path / "2", Here(seed0=interrupted * 4)).failed[0].name == "seed0"


def test_runs_of_others_are_waited_for_and_taken_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The other process holds two runs: one it finishes, with the other it dies."""
    require_usable(tmp_path)
    held = [open(tmp_path / "locks" / f"seed{seed}.lock", "ab") for seed in (0, 1)]  # noqa: SIM115
    for file in held:
        fcntl.flock(file, fcntl.LOCK_EX)
    looks = 0

    class Other(Here):
        def start(self, task: Task) -> None:
            nonlocal looks
            looks += 1
            if looks == 6:
                run_folder(tmp_path, "seed0").mkdir(parents=True)
                for file in (SUMMARY, EPISODES):
                    (run_folder(tmp_path, "seed0") / file).write_text("{}")
            if looks == 8:
                for file in held:
                    file.close()
            super().start(task)

    outcome = run_sweep(planned(3), tmp_path, Other())
    assert outcome.done == ("seed0", "seed1", "seed2")
    assert not log_file(tmp_path, "seed0").exists(), "the other did it"
    assert log_file(tmp_path, "seed1").read_text().count("--- ") == 1
    errors = capsys.readouterr().err
    assert errors.count("waiting for them") == 1
    assert "died" not in errors


def test_runs_of_others_are_left_out_where_nobody_waits(tmp_path: Path):
    require_usable(tmp_path)
    with open(tmp_path / "locks" / "seed1.lock", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        outcome = run_sweep(planned(3), tmp_path, Here(), wait=False)
    assert (outcome.done, outcome.elsewhere) == (("seed0", "seed2"), ("seed1",))


def test_a_run_that_others_finished_meanwhile_is_not_started(tmp_path: Path):
    def finish_all(task: Task) -> list[Outcome]:
        for ((run,),) in [[group] for group in planned(3)]:
            work(Task((run,), tmp_path))
        return [Outcome("seed0", "done")]

    launcher = Here(1, seed0=[finish_all])
    assert len(run_sweep(planned(3), tmp_path, launcher).done) == 3
    assert launcher.tasks == [["seed0"]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_signal_leaves_the_launcher_and_says_how_far_all_is(number: int, tmp_path: Path):
    def interrupt(task: Task) -> list[Outcome]:
        os.kill(os.getpid(), number)
        return work(task)

    launcher = Here(1, seed1=[interrupt])
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(InterruptedSweepError, match=r"^2 of 3 runs are done; the same command goes on$"):
        run_sweep(planned(3), tmp_path, launcher)
    assert not launcher.inside
    assert launcher.tasks == [["seed0"], ["seed1"]]
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert len(run_sweep(planned(3), tmp_path, Here()).done) == 3


def test_a_second_signal_ends_the_waiting(tmp_path: Path):
    class Slow(Here):
        def __exit__(self, *_: object) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

    def interrupt(task: Task) -> list[Outcome]:
        os.kill(os.getpid(), signal.SIGINT)
        return work(task)

    with pytest.raises(InterruptedSweepError):
        run_sweep(planned(2), tmp_path, Slow(seed0=[interrupt]))


def test_folders_that_cannot_be_written_are_one_line(tmp_path: Path):
    with tmpfs(tmp_path / "disk") as disk:
        make_read_only(disk)
        with pytest.raises(UserError, match=f"not allowed to write while starting a sweep in {disk}"):
            run_sweep(planned(1), disk / "sweep", Untouchable())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file where a folder is needed"):
        run_sweep(planned(1), tmp_path / "file", Untouchable())


def test_a_finished_sweep_may_be_read_only(tmp_path: Path):
    with tmpfs(tmp_path / "disk") as disk:
        run_sweep(planned(1), disk, Here())
        make_read_only(disk)
        assert run_sweep(planned(1), disk, Untouchable()).done == ("seed0",)


def test_names_are_unique(tmp_path: Path):
    with pytest.raises(ValueError, match="two runs of one name"):
        run_sweep(planned(1) * 2, tmp_path, Here())
