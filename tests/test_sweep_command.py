"""``iq-offline sweep``: what it says at the end, and options that make no sense."""

from pathlib import Path

import pytest

from iq_offline import sweep_cli
from iq_offline.cli import main
from iq_offline.sweeps.work import Outcome
from tests.sweeps.test_launch import Here
from tests.training.program import EXPERT, write_datasets

FILE = f"""
sweep = "small"
[data]
expert = "{EXPERT}"
num_expert_trajectories = 4
[training]
gradient_steps = 5
snapshots = 0
[grid]
algorithm = ["bc"]
seeds = 2
"""


@pytest.fixture
def file(own_folders: None, tmp_path: Path) -> str:
    write_datasets()
    path = tmp_path / "small.toml"
    path.write_text(FILE)
    return str(path)


def test_failures_are_named_also_where_there_is_nothing_to_compare(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No environment, and no trajectory left to hold out."""
    name = "algorithm=bc,seed=1"
    launcher = Here()
    launcher.told[name].append([Outcome(name, "failed", "the disk caught fire")])
    monkeypatch.setattr(sweep_cli, "launcher_of", lambda options: launcher)
    assert main(["sweep", file, "--output", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert f"failed: {name}: the disk caught fire" in printed.err
    assert "no tables: no run was scored" in printed.err
    assert "error: 1 of 2 runs failed" in printed.err.splitlines()[-1]
    assert f"sweep: {tmp_path / 'out'}" in printed.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--workers 0", "workers = 0: input should be greater than or equal to 1"),
        ("--workers -1", "workers = -1: input should be greater than or equal to 1"),
        ("--population -1", "population = -1: input should be greater than or equal to 1"),
        ("--cpus -1", "cpus = -1.0: input should be greater than or equal to 0"),
        ("--set seed", "--set seed: must be KEY=VALUE"),
        ("--ray-address auto", "--ray-address needs --launcher ray"),
    ],
)
def test_options_that_make_no_sense(
    words: str, expected: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", file, "--output", str(tmp_path / "out"), *words.split()]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert expected in line
    assert not (tmp_path / "out").exists()


def test_a_rehearsal_s_own_file_goes_on_in_the_rehearsal_s_folder(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep_cli, "tabulate", lambda *_: None)
    monkeypatch.setattr(sweep_cli, "draw", lambda *_: None)
    launchers = [Here(), Here()]
    monkeypatch.setattr(sweep_cli, "launcher_of", lambda options: launchers.pop())
    assert main(["sweep", file, "--fast"]) == 0
    assert main(["sweep", "runs/small-fast/sweep.toml"]) == 0
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == ["small-fast"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("evaluation.seed = [1, 2]", ["evaluation.seed, which trains every learner again for each value"]),
        ("iq_learn.relevance = [1.0, 2.0]", ["iq_learn.relevance, which has no effect on what is trained here"]),
        ("iq_learn.temperature = [1.0, 2.0]", []),
    ],
)
def test_what_is_varied_in_vain_is_said(
    line: str, expected: list[str], file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path(file).read_text().replace('["bc"]', '["bc", "iq_learn"]')
    Path(file).write_text(text + line + "\n")
    monkeypatch.setattr(sweep_cli, "tabulate", lambda *_: None)
    monkeypatch.setattr(sweep_cli, "draw", lambda *_: None)
    monkeypatch.setattr(sweep_cli, "launcher_of", lambda options: Here())
    assert main(["sweep", file, "--output", f"{file}.out"]) == 0
    notes = [said for said in capsys.readouterr().err.splitlines() if said.startswith("note: the runs differ in ")]
    assert notes == [f"note: the runs differ in {said}" for said in expected]


def test_a_misspelt_baseline_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", str(tmp_path), "--baseline", "iqlearn"]) == 2
    assert "'--baseline'" in capsys.readouterr().err
