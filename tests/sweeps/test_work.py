"""What a worker does with a task: once, under a lock, its output in the log."""

import ctypes
import errno
import fcntl
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from iq_offline.config import DataConfig
from iq_offline.errors import UserError
from iq_offline.evaluation.rows import EPISODES, SUMMARY
from iq_offline.sweeps import work as module
from iq_offline.sweeps.grid import PlannedRun
from iq_offline.sweeps.work import Task, finished, log_file, output_to, require_usable, run_folder, work
from tests.data_helpers import make_read_only, tmpfs
from tests.sweeps.program import planned
from tests.training.program import assert_same_run, run_training, write_datasets


@pytest.fixture(autouse=True)
def datasets(own_folders: None) -> None:
    write_datasets()


def states(task: Task) -> list[str]:
    return [outcome.state for outcome in work(task)]


def task_of(folder: Path, seeds: int = 1, **training: Any) -> Task:
    return Task(tuple(run for group in planned(seeds, **training) for run in group), folder)


def test_a_run_is_done_once_and_its_output_is_in_its_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    task = task_of(tmp_path / "sweep")
    assert states(task) == ["done"]
    assert finished(task.folder, "seed0")
    log = log_file(task.folder, "seed0").read_text()
    assert log.startswith("--- ")
    assert f"seed0: process {os.getpid()} on " in log.splitlines()[0]
    assert "training bc: 60/60" in log
    assert "names no environment" in log
    assert capfd.readouterr() == ("", "")
    run_training(task.runs[0].config, tmp_path / "alone")
    assert_same_run(tmp_path / "alone", run_folder(task.folder, "seed0"))

    changed = (run_folder(task.folder, "seed0") / "summary.json").stat().st_mtime_ns
    assert [outcome.note for outcome in work(task)] == ["was finished already"]
    assert (run_folder(task.folder, "seed0") / "summary.json").stat().st_mtime_ns == changed
    assert log_file(task.folder, "seed0").read_text() == log


def test_runs_of_one_task_train_together_and_the_log_of_the_first_has_it_all(tmp_path: Path):
    task = task_of(tmp_path, 3)
    assert states(replace(task, runs=task.runs[1:2])) == ["done"]
    assert [(outcome.name, outcome.state) for outcome in work(task)] == [
        ("seed1", "done"),
        ("seed0", "done"),
        ("seed2", "done"),
    ]
    first, other = (log_file(tmp_path, name).read_text().splitlines() for name in ("seed0", "seed2"))
    assert f"seed0, seed2: process {os.getpid()} on " in first[0]
    assert len(first) > 1
    assert [line.split(": ", 2)[2] for line in other] == ["trained together with seed0: see its log"]


def test_a_run_without_its_rows_is_scored_again(tmp_path: Path):
    """And its policy is the one that was there."""
    task = task_of(tmp_path)
    work(task)
    rows, policy = (run_folder(tmp_path, "seed0") / name for name in (EPISODES, "policy.safetensors"))
    whole = policy.read_bytes()
    rows.unlink()
    assert not finished(tmp_path, "seed0")
    (outcome,) = work(task)
    assert (outcome.state, "was finished already" in outcome.note) == ("done", False)
    assert rows.exists()
    assert policy.read_bytes() == whole


def test_a_run_that_another_holds_is_left_alone(tmp_path: Path):
    task = task_of(tmp_path, 2)
    require_usable(tmp_path)
    with open(tmp_path / "locks" / "seed0.lock", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert states(task) == ["elsewhere", "done"]
        assert not run_folder(tmp_path, "seed0").exists()
        assert not log_file(tmp_path, "seed0").exists()
    assert states(task) == ["done", "done"]


def test_a_finished_run_whose_lock_is_still_held_is_done(tmp_path: Path):
    task = task_of(tmp_path)
    work(task)
    with open(tmp_path / "locks" / "seed0.lock", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert states(task) == ["done"]


def test_names_may_be_paths(tmp_path: Path):
    ((run,),) = planned(1)
    task = Task((PlannedRun("n1/seed0", run.config),), tmp_path)
    assert states(task) == ["done"]
    assert (tmp_path / "runs" / "n1" / "seed0" / "summary.json").exists()
    assert (tmp_path / "logs" / "n1" / "seed0.log").exists()


def test_what_a_run_raises_is_its_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ((run,),) = planned(1)
    unknown = replace(run, config=replace(run.config, data=DataConfig("test/nowhere-v0")))
    (outcome,) = work(Task((unknown,), tmp_path))
    assert outcome.state == "failed"
    assert "test/nowhere-v0" in outcome.note
    assert "\n" not in outcome.note
    assert log_file(tmp_path, "seed0").read_text().splitlines()[-1] == f"error: {outcome.note}"

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("in a\nrun")

    monkeypatch.setattr(module, "run_together", broken)
    (outcome,) = work(Task((run,), tmp_path))
    assert (outcome.state, outcome.note) == ("failed", "ZeroDivisionError: in a run")
    assert "Traceback" in log_file(tmp_path, "seed0").read_text()


def test_what_was_finished_before_the_others_failed_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(configs: Any, folders: list[Path], options: Any) -> None:
        folders[1].mkdir(parents=True)
        for file in (SUMMARY, EPISODES):
            (folders[1] / file).write_text("{}")
        raise ZeroDivisionError("in a run")

    monkeypatch.setattr(module, "run_together", broken)
    assert states(task_of(tmp_path, 3)) == ["failed", "done", "failed"]


def test_a_bug_that_one_of_a_group_has_costs_the_others_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = module.run_together

    def broken(configs: Any, folders: list[Path], options: Any) -> Any:
        if any(config.seed == 1 for config in configs):
            raise ZeroDivisionError("in a run")
        return whole(configs, folders, options)

    monkeypatch.setattr(module, "run_together", broken)
    assert states(task_of(tmp_path, 3)) == ["done", "failed", "done"]


def test_an_interrupted_run_interrupts_its_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    called = []

    def interrupted(*_: Any) -> None:
        called.append(True)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run_together", interrupted)
    assert states(task_of(tmp_path, 3)) == ["interrupted"] * 3
    assert len(called) == 1


def test_output_of_python_and_of_c_goes_to_the_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    file = tmp_path / "new" / "a.log"
    library = ctypes.CDLL(None)
    for number in (1, 2):
        print("before")
        with output_to(file):
            print("python", number)
            print("errors", number, file=sys.stderr)
            library.puts(f"c {number}".encode())
            os.write(2, b"descriptor\n")
        library.puts(b"after")
    library.fflush(None)
    written = file.read_text()
    assert all(f"{word} {number}\n" in written for word in ("python", "errors", "c") for number in (1, 2))
    assert written.count("descriptor\n") == 2
    out, err = capfd.readouterr()
    assert sorted(out.split()) == ["after", "after", "before", "before"]
    assert err == ""


def test_a_read_only_folder_is_one_line(tmp_path: Path):
    with tmpfs(tmp_path / "disk") as disk:
        require_usable(disk)
        make_read_only(disk)
        with pytest.raises(UserError, match=f"not allowed to write while starting a sweep in {disk}"):
            require_usable(disk)
        (outcome,) = work(task_of(disk))
        assert outcome.state == "failed"
        assert "not allowed to write" in outcome.note


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_one_line(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with pytest.raises(UserError, match=r"without file locks \(flock\)"):
        require_usable(tmp_path)
