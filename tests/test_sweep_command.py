"""``iq-offline sweep``: what it says at the end, and options that make no sense."""

import shutil
from pathlib import Path

import polars as pl
import pytest

from iq_offline import sweep_cli
from iq_offline.cli import main
from iq_offline.sweeps import launch
from iq_offline.sweeps.results import curves_of, read_episodes, runs_of, varied
from iq_offline.sweeps.work import Outcome
from tests.environments.worlds import COMMAND, environment_dataset
from tests.sweeps.made_up import write_run
from tests.sweeps.run_folders import sweep_table, write_sweep
from tests.sweeps.test_launch import Here
from tests.training.program import EXPERT, write_datasets
from tests.warm import warm_python

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


HALVES = """
sweep = "halves"
data = { expert = "test/pole-v0", held_out_trajectories = 1 }
training = { gradient_steps = 20, hidden_sizes = [8], batch_size = 16, snapshots = 0, log_every = 5 }
online = { start = "offline", env_steps = 80, start_steps = 20, evaluate_every = 40, critic_warmup = 10 }
evaluation = { episodes = 2 }
[grid]
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
        ("--baseline gail", "sweep small has no runs of gail: give --baseline bc"),
        ("--set seed", "--set seed: must be KEY=VALUE"),
        ("--set seed --set data.subsample=2", "--set seed: must be KEY=VALUE"),
        ("--ray-address auto", "--ray-address needs --launcher ray"),
        ("--cpus 2", "--cpus needs --launcher ray"),
        ("--launcher ray --workers 2", "--workers is for --launcher local"),
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
    monkeypatch.setattr(sweep_cli, "tabulate", lambda *_, **__: None)
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
        (
            "data.suboptimal_fraction = [0.3, 0.5]",
            ["data.suboptimal_fraction, which has no effect on what is trained here"],
        ),
        ("data.frame_stack = [1, 4]", ["data.frame_stack, which has no effect on what is trained here"]),
        ("online.start_anchor = [0.1, 0.5]", ["online.start_anchor, which has no effect on what is trained here"]),
    ],
)
def test_what_is_varied_in_vain_is_said(
    line: str, expected: list[str], file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path(file).read_text().replace('["bc"]', '["bc", "iq_learn"]')
    Path(file).write_text(text + line + "\n")
    monkeypatch.setattr(launch, "run_sweep", lambda *_, **__: launch.SweepOutcome(()))  # It is said before.
    assert main(["sweep", file, "--output", f"{file}.out"]) == 0
    notes = [said for said in capsys.readouterr().err.splitlines() if said.startswith("note: the runs differ in ")]
    assert notes == [f"note: the runs differ in {said}" for said in expected]


def test_what_is_missing_is_said_and_older_tables_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seed that diverged is as much a result as the others."""
    table = sweep_table(counts=(1,), seeds=2)
    write_sweep(tmp_path, table, lambda config: None if (config.algorithm, config.seed) == ("iq_learn", 1) else 0.5)
    assert main(["results", str(tmp_path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 of the sweep's 4 runs failed or are not finished, and are left out" in printed
    assert (tmp_path / "results" / "comparisons.md").exists()
    assert main(["results", str(tmp_path), "--baseline", "iq_learn"]) == 0
    assert "IQ-Learn" in (tmp_path / "results" / "comparisons.md").read_text()
    assert main(["results", str(tmp_path), "--baseline", "sqil"]) == 2
    assert "has no runs of sqil: give --baseline bc or iq_learn" in capsys.readouterr().err
    for run in (tmp_path / "runs").glob("*algorithm=bc*"):
        shutil.rmtree(run)
    capsys.readouterr()
    assert main(["results", str(tmp_path)]) == 0
    assert "compare" not in capsys.readouterr().out, "there is one learner"
    assert not list((tmp_path / "results").glob("comparisons.*")), "of runs that are not here any more"


def test_what_is_not_compared_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for algorithm, steps in (("bc", 100), ("valuedice", 100), ("iq_learn", 200)):
        for seed in (0, 1):
            own = {"algorithm": algorithm, "seed": seed, "training.gradient_steps": steps}
            write_run(tmp_path / f"{algorithm}{seed}", [], own, held_out=0.5)

    def said(*words: str) -> str:
        assert main(["results", str(tmp_path), *words]) == 0
        return " ".join(capsys.readouterr().out.split())

    printed = said()
    assert "6 runs (lower is better)" in printed
    assert "difference to BC, paired by seed (lower is better)" in printed
    why = "BC has no run with the same data, budget and seed"
    assert f"1 setting of another learner is not compared: {why}" in printed
    shutil.rmtree(tmp_path / "valuedice0")
    shutil.rmtree(tmp_path / "valuedice1")
    printed = said()
    assert f"1 setting of another learner is not compared: {why}" in printed
    assert "difference to" not in printed
    assert "2 settings of other learners" not in said("--baseline", "iq_learn")
    write_run(tmp_path / "valuedice", [], {"algorithm": "valuedice", "training.gradient_steps": 100}, held_out=0.5)
    shutil.rmtree(tmp_path / "bc0")
    shutil.rmtree(tmp_path / "bc1")
    assert "Nothing of BC is there to compare with: give --baseline iq_learn or valuedice" in said()


def test_a_run_without_its_summary_is_missing_and_not_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path, sweep_table(counts=(1,), seeds=3), lambda _: 0.5)
    (cut,) = (tmp_path / "runs").glob("*algorithm=bc*seed=1")
    (cut / "summary.json").unlink()
    assert main(["results", str(tmp_path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "5 runs" in printed
    assert "1 of the sweep's 6 runs failed or are not finished, and are left out" in printed
    assert pl.read_parquet(tmp_path / "results" / "summary.parquet")["n"].to_list() == [2, 3]


def test_a_sweep_s_file_of_an_older_version_is_no_obstacle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its runs' rows can be read; what was planned cannot."""
    write_sweep(tmp_path, sweep_table(counts=(1,), seeds=2), lambda config: 0.5 if config.seed else None)
    file = tmp_path / "sweep.toml"
    file.write_text(file.read_text().replace("chi2_alpha", "chi2_alpha_of_old"))
    assert main(["results", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert ", 2 runs" in printed.out.splitlines()[0]
    (note,) = printed.err.splitlines()
    assert note.startswith(f"note: runs that were not begun are not counted: {file}: unknown key")


@pytest.mark.slow
def test_a_run_of_two_stages_is_done_and_done_again(own_folders: None, tmp_path: Path) -> None:
    """The offline half has rows of its own; the same command finds everything finished."""
    environment_dataset("test/pole-v0", "CartPole-v1")
    (tmp_path / "halves.toml").write_text(HALVES)
    folder = tmp_path / "out"
    command = ("-c", COMMAND, "sweep", str(tmp_path / "halves.toml"), "--workers", "1", "--output", str(folder))
    done = warm_python(*command)
    assert done.returncode == 0, done.stderr
    assert ", 2 runs" in done.stdout.splitlines()[0]
    runs = runs_of(read_episodes(folder)).sort("seed", "online.env_steps")
    assert runs.select("seed", "online.env_steps", "online.start", "iq_learn.temperature").rows() == [
        (seed, *stage) for seed in (0, 1) for stage in ((0, "", 0.001), (80, "offline", 0.1))
    ]
    assert varied(runs) == ["online.env_steps"]
    points = curves_of(read_episodes(folder)).filter(pl.col("online.env_steps") > 0, seed=0)
    assert points["env_steps"].to_list() == [0, 40, 80]
    again = warm_python(*command)
    assert (again.returncode, "was finished already" in again.stderr) == (0, False), again.stderr


def test_a_misspelt_baseline_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", str(tmp_path), "--baseline", "iqlearn"]) == 2
    assert "'--baseline'" in capsys.readouterr().err
