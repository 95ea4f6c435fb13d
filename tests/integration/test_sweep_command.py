"""``iq-offline sweep`` and ``results``, and the module expert_count: what comes out, and what is refused.

One small sweep is done once; the tests look at it, or at copies of it. Figures are drawn in the slow tests alone.
"""

import dataclasses
import io
import json
import os
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import polars as pl
import pytest

from iq_offline import sweep_cli
from iq_offline.cli import main, run_command
from iq_offline.config import RunConfig, from_table, read_toml
from iq_offline.errors import UserError
from iq_offline.evaluation.rows import EPISODES
from iq_offline.sweep_cli import ExpertCount, expert_count
from iq_offline.sweeps.grid import Sweep, sweep_of
from iq_offline.sweeps.launch import Failure, SweepOutcome
from tests.data_helpers import (
    CHECKOUT,
    PROGRESS,
    change_metadata,
    make_read_only,
    python,
    random_episodes,
    small_dataset,
    snapshot,
    the_error,
    tmpfs,
)
from tests.helpers import write_dataset
from tests.sweeps.made_up import write_run, write_runs

pytestmark = pytest.mark.xdist_group("one sweep")
"""The sweep that most of these look at is made once."""

NAME = "test/pendulum-v0"
TEXT = f"""
question = "Does it run?"

[data]
expert = "{NAME}"

[training]
gradient_steps = 20
hidden_sizes = [8]
batch_size = 8
snapshots = 2

[evaluation]
episodes = 2

[grid]
algorithm = ["bc", "iq_learn"]
data.num_expert_trajectories = [1, 2]
seeds = 2
"""
NAMES = [
    f"algorithm={algorithm},num_expert_trajectories={count},seed={seed}"
    for algorithm in ("bc", "iq_learn")
    for count in (1, 2)
    for seed in (0, 1)
]
TABLES = [f"{name}.{kind}" for name in ("comparisons", "runs", "summary") for kind in ("csv", "md", "parquet", "tex")]
LOCAL = ("--workers", "1")


def write_pendulum() -> None:
    """Six episodes of 20 steps of the pendulum, and what their returns are normalised by."""
    written = random_episodes(np.random.default_rng(0), [20] * 6, (3,), (1,))
    folder = write_dataset(NAME, written, -2, 2, env_spec_id="Pendulum-v1")
    change_metadata(folder, ref_min_score=-1200.0, ref_max_score=-150.0)


@dataclasses.dataclass(frozen=True)
class Done:
    """A sweep that is done: what is where, and what was printed."""

    root: Path
    """Of the dataset, its cache, and ``cwd``: the folder that the command was given in."""
    out: str
    err: str

    @property
    def folder(self) -> Path:
        return self.root / "cwd" / "runs" / "mine"


def prepare(root: Path, patch: pytest.MonkeyPatch) -> None:
    """The dataset, and the file ``cwd/mine.toml``."""
    for variable, name in (("MINARI_DATASETS_PATH", "minari"), ("IQ_OFFLINE_CACHE", "cache")):
        (root / name).mkdir(exist_ok=True)
        patch.setenv(variable, str(root / name))
    write_pendulum()
    (root / "cwd").mkdir()
    (root / "cwd" / "mine.toml").write_text(TEXT)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The sweep of TEXT."""
    root, out, err = tmp_path_factory.mktemp("sweep"), io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        prepare(root, patch)
        patch.chdir(root / "cwd")
        patch.setattr(sweep_cli, "draw", lambda *_: None)
        code = main(["sweep", "mine.toml", *LOCAL])
    assert code == 0, err.getvalue()
    return Done(root, out.getvalue(), err.getvalue())


@pytest.fixture
def finished(first: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of its folder below the current folder, where its file ``mine.toml`` is, too; the dataset is there."""
    shutil.copytree(first.root, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "cwd" / "runs" / "mine"


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take seconds to draw."""
    monkeypatch.setattr(sweep_cli, "draw", lambda *_: None)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a small dataset in Minari's root and a good file ``mine.toml``."""
    small_dataset("test/small-v0")
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "mine.toml").write_text(TEXT.replace(NAME, "test/small-v0"))
    return folder


Fails = Callable[..., str]


@pytest.fixture
def fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Run a command that must fail as the user's mistakes do, and change nothing; returns its one line."""

    def run(*arguments: object, command: Callable[[list[str]], int] = main) -> str:
        words = [str(argument) for argument in arguments]
        before = {path: text for path, text in snapshot(tmp_path).items() if not path.startswith(f"{tmp_path}/cache")}
        capsys.readouterr()
        assert command(words) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        after = {path: text for path, text in snapshot(tmp_path).items() if not path.startswith(f"{tmp_path}/cache")}
        assert after == before, "a failed command changed something on the disk"
        with pytest.raises(UserError):
            command([*words, "--debug"])
        return the_error(printed.err)

    return run


def count_command(arguments: list[str]) -> int:
    """``python -m iq_offline.recipes.expert_count`` in this process."""
    return run_command(ExpertCount, expert_count, "expert_count", arguments)


def succeeds(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, list[str]]:
    """Run a command that must work; what it prints, and its lines on stderr, progress aside."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out, [line for line in printed.err.splitlines() if not PROGRESS.match(line)]


def times(folder: Path) -> dict[Path, int]:
    """When the files of the runs were changed."""
    return {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------- what comes out


def test_every_run_is_there_with_its_rows(first: Done) -> None:
    folder = first.folder
    assert sorted(path.name for path in (folder / "runs").iterdir()) == NAMES
    assert sorted(path.name for path in (folder / "results").iterdir()) == TABLES
    assert sorted(path.stem for path in (folder / "logs").iterdir()) == [*NAMES, "workers"]
    for name in NAMES:
        config = from_table(RunConfig, read_toml(folder / "runs" / name / "config.toml"), name)
        assert config.recipe == "mine"
        summary = json.loads((folder / "runs" / name / "summary.json").read_text())
        rows = pl.read_parquet(folder / "runs" / name / EPISODES)
        final = rows.filter("is_final")
        assert final["return"].to_list() == summary["returns"]
        assert final["score"].mean() == pytest.approx(summary["normalized_score"])
        assert final["score"].mean() == pytest.approx((summary["return_mean"] + 1200) / 1050)
        assert rows["algorithm"].unique().to_list() == [config.algorithm]
        assert rows["data.num_expert_trajectories"].unique().to_list() == [config.data.num_expert_trajectories]
        assert rows["seed"].unique().to_list() == [config.seed]
        assert rows.filter(~pl.col("is_final"))["gradient_steps"].unique().to_list() == [10]


def test_what_is_printed(first: Done) -> None:
    lines = first.out.splitlines()
    assert lines[0] == f"{NAME}: normalised scores (0 random, 1 expert), 8 runs"
    assert len([line for line in lines if line.startswith(("│ BC ", "│ IQ-Learn "))]) == 4 + 2
    assert f"sweep: {first.folder} (iq-offline report makes one page of it)" in lines
    assert f"tables: {first.folder / 'results'}" in lines
    noted = [line for line in first.err.splitlines() if not PROGRESS.match(line)]
    assert sorted(line.split(": ")[0] for line in noted) == NAMES
    assert noted[-1].endswith("(8 of 8)")
    assert "Traceback" not in first.err


def test_the_documents_way_to_read_the_rows(first: Done) -> None:
    """The snippet of ``docs/recipes.md``."""
    rows = pl.scan_parquet(first.folder / "runs" / "*" / EPISODES)
    means = rows.filter("is_final").group_by("algorithm", "data.num_expert_trajectories").agg(pl.col("return").mean())
    assert means.collect().height == 4


def test_the_tables_say_what_the_rows_say(first: Done) -> None:
    folder = first.folder
    summary = pl.read_parquet(folder / "results" / "summary.parquet")
    assert summary.select("algorithm", "data.num_expert_trajectories", "n").rows() == [
        *(("bc", 1, 2), ("bc", 2, 2), ("iq_learn", 1, 2), ("iq_learn", 2, 2))
    ]
    comparisons = pl.read_parquet(folder / "results" / "comparisons.parquet")
    assert comparisons.select("algorithm", "minus", "pairs").unique().rows() == [("iq_learn", "BC", 2)]

    def score(algorithm: str, count: int, seed: int) -> float:
        name = f"algorithm={algorithm},num_expert_trajectories={count},seed={seed}"
        return json.loads((folder / "runs" / name / "summary.json").read_text())["normalized_score"]

    for row in summary.rows(named=True):
        scores = [score(row["algorithm"], row["data.num_expert_trajectories"], seed) for seed in (0, 1)]
        assert row["mean"] == pytest.approx(np.mean(scores))
        assert row["worst"] == pytest.approx(min(scores))
    for row in comparisons.rows(named=True):
        count = row["data.num_expert_trajectories"]
        expected = np.mean([score("iq_learn", count, seed) - score("bc", count, seed) for seed in (0, 1)])
        assert row["difference"] == pytest.approx(expected)


# ---------------------------------------------------------------------------------------------- again, more, less


@pytest.mark.usefixtures("no_figures")
def test_the_same_command_does_nothing_more(
    finished: Path, first: Done, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker is started, no environment built, no file of a run touched; the same tables are printed and written."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("iq_offline.sweeps.local.subprocess.Popen", never)
    monkeypatch.setattr(gymnasium, "make", never)
    before, tables = times(finished), snapshot(finished / "results")
    out, noted = succeeds(capsys, "sweep", "mine.toml", *LOCAL)
    assert noted == []
    assert out == first.out.replace(str(first.folder), str(finished))
    assert times(finished) == before
    assert snapshot(finished / "results") == tables


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_only_what_is_missing_is_done(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that was removed; until then, the tables are of the others."""
    policy = finished / "runs" / NAMES[2] / "policy.safetensors"
    whole = policy.read_bytes()
    shutil.rmtree(policy.parent)
    out, _ = succeeds(capsys, "results", finished)
    assert "7 runs" in out
    summary = pl.read_parquet(finished / "results" / "summary.parquet")
    assert summary["n"].to_list() == [2, 1, 2, 2]
    before = times(finished)
    out, noted = succeeds(capsys, "sweep", "mine.toml", *LOCAL)
    assert [line.split(":")[0] for line in noted] == [NAMES[2]]
    assert "8 runs" in out
    assert policy.read_bytes() == whole
    assert before.items() <= times(finished).items()


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_a_grid_grows(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = times(finished)
    Path("mine.toml").write_text(TEXT.replace("seeds = 2", "seeds = 3").replace("[1, 2]", "[2, 1]"))
    out, noted = succeeds(capsys, "sweep", "mine.toml", *LOCAL)
    assert len(noted) == 4
    assert all("seed=2" in line for line in noted)
    assert "12 runs" in out
    assert before.items() <= times(finished).items()
    out, noted = succeeds(capsys, "sweep", finished / "sweep.toml", *LOCAL)
    assert noted == []


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_a_rehearsal_has_a_folder_of_its_own(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(finished)
    grid = '[grid]\nseeds = 1\nalgorithm = ["bc"]'
    Path("mine.toml").write_text(TEXT.split("[grid]")[0] + grid)
    out, _ = succeeds(
        capsys, "sweep", "mine.toml", "--fast", *LOCAL, "--set", "training.batch_size=4", "data.subsample=2"
    )
    assert "--fast: a rehearsal, not a result" in " ".join(out.split())
    assert snapshot(finished) == before
    (run,) = Path("runs/mine-fast/runs").iterdir()
    config = from_table(RunConfig, read_toml(run / "config.toml"), "")
    assert (config.training.batch_size, config.data.subsample, config.training.gradient_steps) == (4, 2, 20)
    assert config.fast


@pytest.mark.slow
def test_whole_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes of their own: the sweep with its tables and figures; again, which changes nothing; the results."""
    prepare(tmp_path, monkeypatch)
    where: dict[str, Any] = {"cwd": tmp_path / "cwd", "env": os.environ | {"PYTHONPATH": str(CHECKOUT)}}
    folder = tmp_path / "cwd" / "runs" / "mine"
    command = ("-m", "iq_offline", "sweep", "mine.toml", *LOCAL)
    done = python(*command, **where)
    assert done.returncode == 0, done.stderr
    assert f"sweep: {folder}" in done.stdout
    names = {path.suffix for path in (folder / "figures").iterdir()}
    assert names == {".png", ".svg", ".pdf"}
    before = snapshot(folder)
    again = python(*command, **where)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    noted = [line for line in again.stderr.splitlines() if not PROGRESS.match(line)]
    assert all(line.startswith("drawing: ") for line in noted), noted
    assert snapshot(folder) == before
    results = python("-m", "iq_offline", "results", "runs/mine", **where)
    assert (results.returncode, results.stderr) == (0, "")
    assert done.stdout.startswith(results.stdout.split("tables: ")[0])
    assert snapshot(folder) == before


# ---------------------------------------------------------------------------------------------- results


def test_results_from_anywhere(finished: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tables = snapshot(finished / "results")
    shown = []
    for given in (finished, "runs/mine", "runs/mine/", "./runs/../runs/mine"):
        out, noted = succeeds(capsys, "results", given)
        assert noted == []
        shown.append(out.split("tables: ")[0])
        assert snapshot(finished / "results") == tables
    assert len(set(shown)) == 1
    out, _ = succeeds(capsys, "results", "runs/mine", "--output", tmp_path / "a b" / "tables")
    assert sorted(path.name for path in (tmp_path / "a b" / "tables").iterdir()) == TABLES
    assert out.endswith(f"tables: {tmp_path / 'a b' / 'tables'}\n")
    out, _ = succeeds(capsys, "results", "runs")
    assert "8 runs" in out
    out, _ = succeeds(capsys, "results", f"runs/mine/runs/{NAMES[0]}", "--output", tmp_path / "one")
    assert "1 runs" in out


def test_results_against_another_baseline(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = succeeds(capsys, "results", finished, "--baseline", "iq_learn")
    assert "difference to IQ-Learn" in out
    comparisons = pl.read_parquet(finished / "results" / "comparisons.parquet")
    assert comparisons.select("algorithm", "minus").unique().rows() == [("bc", "IQ-Learn")]


def test_results_of_runs_without_an_environment(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for algorithm, error in (("bc", 0.00123), ("iq_learn", 0.00456)):
        for seed in (0, 1):
            own = {"algorithm": algorithm, "seed": seed}
            write_run(here / "logs" / f"{algorithm}{seed}", [], own, held_out=error + seed / 1e5)
    out, _ = succeeds(capsys, "results", "logs")
    assert "error on held-out trajectories, 4 runs" in out
    assert "0.00456" in out
    assert "clearly above" not in out


def test_results_say_what_was_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, scores in enumerate(([0.5], [], [0.75])):
        write_run(here / "odd" / str(seed), scores, {"seed": seed})
    out, _ = succeeds(capsys, "results", "odd")
    assert "1 runs have no score and are left out" in " ".join(out.split())


def test_results_of_many_datasets_name_them(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for expert in ("a/b-v0", "c/d-v0"):
        write_runs(
            here / "two" / expert[0], {("bc", 1): [0.5, 0.6], ("iq_learn", 1): [0.7, 0.8]}, {"data.expert": expert}
        )
    out, _ = succeeds(capsys, "results", "two")
    assert out.startswith("a/b-v0, c/d-v0: normalised scores")
    assert len([line for line in out.splitlines() if "│ c/d-v0" in line]) == 3


def test_results_import_no_torch(first: Done, tmp_path: Path) -> None:
    """The whole command: neither torch nor anything else that takes a second to import."""
    code = (
        "import sys; from iq_offline.cli import main; "
        f"code = main(['results', {str(first.folder)!r}, '--output', {str(tmp_path / 'tables')!r}]); "
        "print(*sys.modules); sys.exit(code)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "polars" in loaded
    assert loaded.isdisjoint({"torch", "gymnasium", "minari", "tensordict", "mujoco", "matplotlib", "scipy", "h5py"})


@pytest.mark.usefixtures("no_figures")
def test_failures_are_named_whatever_the_tables_say(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, why each failed with the end of its log, and where that is."""
    log = here / "b.log"
    failures = (Failure("b", "it broke", log, "last line"),)
    monkeypatch.setattr("iq_offline.sweeps.launch.run_sweep", lambda *_, **__: SweepOutcome(("a",), failures))
    write_run(here / "runs" / "mine" / "runs" / "a", [], {"recipe": "mine"})
    (here / "runs" / "mine" / "sweep.toml").write_text(sweep_of(read_toml(here / "mine.toml"), "", "mine").to_toml())
    capsys.readouterr()
    assert main(["sweep", "mine.toml"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not PROGRESS.match(line)]
    assert lines[-4:] == [
        "failed: b: it broke",
        "last line",
        f"({log})",
        "error: 1 of 8 runs failed; the same command tries them again",
    ]


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"[grid]": "[other]"}, "the grid is empty"),
        ({"seeds = 2": "seed = []"}, "the grid is empty: seed has no values"),
        ({"data.num_expert": "data.num_exprt"}, "'data.num_exprt_trajectories'; did you mean 'data.num_expert_traj"),
        ({"[grid]": "[grid]\ntemperature = [1]"}, "unknown key 'temperature'; did you mean 'iq_learn.temperature'"),
        ({"batch_size": "batch_sizes"}, "unknown key 'training.batch_sizes'; did you mean 'training.batch_size'"),
        ({"[data]": "[data]\nnum_expert_trajectories = 2"}, "is fixed to 2 and varied by the grid"),
        ({"question": "seed = 3\nquestion"}, "seed is fixed to 3 and varied by the grid: leave one of them out"),
        ({"question": 'recipe = "hoper_offline"\nquestion'}, "no recipe 'hoper_offline'; did you mean 'hopper_off"),
        ({"[1, 2]": "[1, 0]"}, "data.num_expert_trajectories = 0"),
        ({'"iq_learn"]': '"iq_leern"]'}, "algorithm = 'iq_leern'"),
        ({"seeds = 2": "seeds = "}, "is not valid TOML"),
        ({"test/small": "test/smal"}, "no dataset 'test/smal-v0'"),
        ({"test/small-v0": "small"}, "'small' is neither a built-in dataset nor a Minari id"),
        ({"seeds = 2": "training.device = ['cpu', 'cuda:77']"}, "cuda:77"),
        ({"seeds = 2": "data.suboptimal = [[], ['test/none-v0']]"}, "no dataset 'test/none-v0'"),
        ({"seeds = 2": "data.observation_keys = [[], ['stat']]"}, "has no observation 'stat'"),
    ],
)
def test_mistakes_in_a_sweep_s_file(change: dict[str, str], expected: str, here: Path, fails: Fails) -> None:
    text = (here / "mine.toml").read_text()
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    (here / "mine.toml").write_text(text)
    assert expected in fails("sweep", "mine.toml", "--output", here / "out", *LOCAL)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["sweep"], "iq-offline sweep"),
        (["sweep", "hopper_expert_cont"], "no sweep 'hopper_expert_cont'; did you mean 'hopper_expert_count'"),
        (["sweep", "nothing.toml"], "no sweep 'nothing.toml'"),
        (["sweep", "mine.toml", "--set", "data.subsample"], "--set data.subsample: must be KEY=VALUE"),
        (["sweep", "mine.toml", "--set", "data.subsampel=3"], "did you mean 'data.subsample'"),
        (["sweep", "mine.toml", "--set", "seed=3"], "seed is fixed by the command line and varied by the grid"),
        (["sweep", "mine.toml", "--set", "training.dtype=float16"], "training.dtype = 'float16'"),
        (["sweep", "mine.toml", "--set", "training.hidden_sizes=[8,x]"], "training.hidden_sizes"),
        (["sweep", "mine.toml", "--launcher", "slurm"], "slurm"),
        (["sweep", "mine.toml", "--workers", "many"], "workers"),
        (["sweep", "mine.toml", "--worker", "2"], "--workers"),
        (["sweep", "mine.toml", "--workers", "0"], "workers = 0"),
        (["sweep", "mine.toml", "--workers", "-1"], "workers = -1"),
        (["sweep", "mine.toml", "--population", "0"], "population = 0"),
        (["sweep", "mine.toml", "--output", "x" * 300], "too long"),
        (["results", "x" * 300], "no folder xxx"),
        (["results", "mine.toml", "--baseline", "bcc"], "bcc"),
        (["results"], "results"),
        (["results", "nothing"], "no folder nothing: give the folder of a sweep or of runs"),
        (["results", "mine.toml"], "no folder mine.toml"),
        (["results", "."], "holds no finished run yet"),
        (["reslts", "."], "results"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_commands(arguments: list[str], expected: str, here: Path, fails: Fails) -> None:
    assert expected in fails(*arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--dataset"),
        (["--dataset", "test/smal-v0"], "no dataset 'test/smal-v0'"),
        (["--dataset", "../x-v0"], "neither a built-in dataset nor a Minari id"),
        (["--dataset", "test/small-v0", "--counts"], "the grid is empty: data.num_expert_trajectories has no values"),
        (["--dataset", "test/small-v0", "--counts", "0"], "data.num_expert_trajectories = 0"),
        (["--dataset", "test/small-v0", "--seeds", "0"], "seeds = 0"),
        (["--dataset", "test/small-v0", "--algorithms", "dac"], "dac"),
        (["--dataset", "test/small-v0", "--algorithms"], "the grid is empty: algorithm has no values"),
        (["--dataset", "test/small-v0", "--set", "seed=3"], "seed is fixed by the command line and varied by the grid"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_commands_of_expert_count(arguments: list[str], expected: str, here: Path, fails: Fails) -> None:
    line = fails(*arguments, "--output", here / "out", command=count_command)
    assert expected in line


def test_more_trajectories_than_there_are_are_named_before_anything_starts(here: Path, fails: Fails) -> None:
    """The first run that asks for them, the dataset, and how many it holds."""
    (here / "mine.toml").write_text((here / "mine.toml").read_text().replace("[1, 2]", "[1, 3, 4, 25]"))
    line = fails("sweep", "mine.toml", "--output", here / "out", *LOCAL)
    assert line == (
        "error: run algorithm=bc,num_expert_trajectories=4,seed=0 cannot be trained: "
        "test/small-v0 holds 3 trajectories, 4 were asked for; no run was started"
    )
    arguments = ("--dataset", "test/small-v0", "--counts", "1", "9", "--output", here / "out")
    line = fails(*arguments, command=count_command)
    assert "num_expert_trajectories=9,seed=0 cannot be trained: test/small-v0 holds 3 trajectories" in line


@pytest.mark.parametrize("output", [None, "new/inner/sweep", "empty"])
def test_a_refused_sweep_leaves_the_folders_as_they_were(output: str | None, here: Path, fails: Fails) -> None:
    """Neither those above the sweep's, nor an empty one of the user's that it would have used."""
    (here / "mine.toml").write_text((here / "mine.toml").read_text().replace("[1, 2]", "[1, 4]"))
    (here / "empty").mkdir()
    assert "4 were asked for" in fails("sweep", "mine.toml", *LOCAL, *(["--output", output] if output else []))


def test_the_folder_of_another_sweep(finished: Path, fails: Fails) -> None:
    text = Path("mine.toml").read_text()
    for old, new, expected in (
        ("batch_size = 8", "batch_size = 9", "holds another sweep (training.batch_size is 8 there, 9 here)"),
        ("[1, 2]", "[1, 3]", "runs that this one has not, such as algorithm=bc,num_expert_trajectories=2,seed=0"),
        ("seeds = 2", "training.snapshots = [2]", "is fixed to 2 and varied"),
        ("data.num_expert_trajectories = [1, 2]", "", "holds another sweep, mine, which varies data.num_expert_traj"),
        ("question", 'sweep = "other"\nquestion', "holds another configuration (recipe is 'mine' there and 'other'"),
    ):
        Path("mine.toml").write_text(text.replace(old, new, 1))
        line = fails("sweep", "mine.toml", "--output", "runs/mine", *LOCAL)
        assert expected in line
        assert str(finished) in line or "fixed" in line
    Path("mine.toml").write_text(text)
    assert "holds another sweep" in fails("sweep", "hopper_expert_count", "--output", "runs/mine")


def test_folders_of_something_else(here: Path, fails: Fails) -> None:
    (here / "notes").mkdir()
    (here / "notes" / "precious.txt").write_text("precious")
    for output in ("notes", "mine.toml", "notes/precious.txt/inner"):
        line = fails("sweep", "mine.toml", "--output", output, *LOCAL)
        assert str(here / output.removesuffix("/inner")) in line
    write_runs(here / "runs" / "mine", {("bc", 1): [0.5]})
    assert "is not empty and holds no sweep: choose another --output" in fails("sweep", "mine.toml")


def test_a_read_only_folder(here: Path, fails: Fails, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk") as disk:
        make_read_only(disk)
        for output in (disk, disk / "new" / "sweep"):
            line = fails("sweep", "mine.toml", "--output", output, *LOCAL)
            assert line.startswith(f"error: not allowed to write while starting a sweep in {output}")


def test_tables_that_cannot_be_written(finished: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """They are on the screen all the same; then it is one line."""
    with tmpfs(tmp_path / "disk") as disk:
        shutil.copytree(finished, disk / "mine", ignore=shutil.ignore_patterns("results"))
        make_read_only(disk)
        for arguments, expected in (
            ([disk / "mine"], f"not allowed to write while writing the tables in {disk / 'mine' / 'results'}"),
            ([finished, "--output", "mine.toml"], "mine.toml is a file where a folder is needed"),
            ([finished, "--output", "mine.toml/inner"], "is a file where a folder is needed"),
        ):
            capsys.readouterr()
            assert main(["results", *map(str, arguments)]) == 2
            printed = capsys.readouterr()
            assert "8 runs" in printed.out
            assert expected in the_error(printed.err)
            assert len(printed.err.splitlines()) == 1


@pytest.mark.usefixtures("no_figures")
def test_a_sweep_whose_runs_cannot_be_compared_is_done_all_the_same(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No environment and no trajectories held out: trained, and said so. The command results has nothing to show."""
    monkeypatch.setattr("iq_offline.sweeps.launch.run_sweep", lambda *_, **__: SweepOutcome(("a",)))
    write_run(here / "runs" / "mine" / "runs" / "a", [], {"recipe": "mine"})
    (here / "runs" / "mine" / "sweep.toml").write_text(sweep_of(read_toml(here / "mine.toml"), "", "mine").to_toml())
    out, noted = succeeds(capsys, "sweep", "mine.toml")
    assert noted[-1] == "no tables: no run was scored, and none has an error on held-out trajectories"
    assert out.startswith(f"sweep: {here / 'runs' / 'mine'} (")
    assert main(["results", "runs/mine"]) == 2
    assert "no run was scored" in the_error(capsys.readouterr().err)


def test_a_read_only_sweep_can_be_summarised_elsewhere(
    finished: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with tmpfs(tmp_path / "disk") as disk:
        shutil.copytree(finished, disk / "mine")
        make_read_only(disk)
        out, _ = succeeds(capsys, "results", disk / "mine", "--output", tmp_path / "tables")
        assert "8 runs" in out


def test_real_processes(here: Path) -> None:
    """Exit code 2, one line, nothing else, and no file: also without a terminal and from another folder."""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    for *command, expected in (
        ("iq_offline", "sweep", "hopper_expert_cont", "did you mean 'hopper_expert_count'"),
        ("iq_offline.recipes.expert_count", "--counts", "1", "--dataset"),
    ):
        done = python("-m", *command, cwd=here, env=environment)
        assert (done.returncode, done.stdout) == (2, "")
        assert expected in the_error(done.stderr)
        assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in here.iterdir()] == ["mine.toml"]


# ---------------------------------------------------------------------------------------------- expert_count


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Sweep, sweep_cli.SweepOptions]]:
    """What the commands would have done."""
    seen: list[tuple[Sweep, sweep_cli.SweepOptions]] = []
    monkeypatch.setattr(sweep_cli, "sweep", lambda *given: seen.append(given))
    return seen


def test_expert_count_is_the_sweep_that_needs_no_file(chosen: list[tuple[Sweep, sweep_cli.SweepOptions]]) -> None:
    arguments = ["--dataset", "mujoco/hopper/expert-v0", "--counts", "1", "3", "5", "10", "25", "--seeds", "5"]
    assert count_command(arguments) == 0
    assert count_command(arguments[:2]) == 0
    table = {
        "data": {"expert": "mujoco/hopper/expert-v0"},
        "grid": {
            "algorithm": ["bc", "iq_learn"],
            "data.num_expert_trajectories": [1, 3, 5, 10, 25],
            "seeds": 5,
        },
    }
    expected = sweep_of(table, "", "expert_count-mujoco-hopper-expert-v0")
    assert len(expected.runs()) == 50
    for sweep, _ in chosen:
        assert sweep.runs() == expected.runs()
        assert sweep.question == "How many expert trajectories does mujoco/hopper/expert-v0 need?"


def test_expert_count_takes_the_options_of_a_sweep(chosen: list[tuple[Sweep, sweep_cli.SweepOptions]]) -> None:
    options = [
        "--set",
        "training.gradient_steps=50",
        "training.device=cuda:1",
        "data.suboptimal=['a/b-v0:3']",
        "--fast",
    ]
    arguments = ["--dataset", "hopper/expert", "--counts", "2", "--algorithms", "bc", "--seeds", "1", "--no-wait"]
    assert count_command([*arguments, *options, "--output", "elsewhere", "--workers", "3"]) == 0
    ((sweep, given),) = chosen
    assert (given.output, given.workers, given.wait, given.fast) == (Path("elsewhere"), 3, False, True)
    (run,) = sweep.runs()
    assert run.name == "algorithm=bc,num_expert_trajectories=2,seed=0"
    assert run.config.training.device == "cuda:1"
    assert run.config.data.suboptimal[0].dataset == "a/b-v0"
    assert (run.config.fast, run.config.training.gradient_steps) == (True, 50)


@pytest.mark.slow
def test_expert_count_as_users_run_it(here: Path) -> None:
    """On data without an environment: compared by the error on held-out trajectories."""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    small_dataset("test/more-v0", 6)
    settings = ("training.gradient_steps=20", "training.hidden_sizes=[8]", "data.held_out_trajectories=2")
    arguments = ("--dataset", "test/more-v0", "--counts", "1", "3", "--seeds", "2", *LOCAL, "--set", *settings)
    done = python("-m", "iq_offline.recipes.expert_count", *arguments, cwd=here, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("test/more-v0: error on held-out trajectories, 8 runs")
    folder = here / "runs" / "expert_count-test-more-v0"
    assert sorted(path.name for path in (folder / "runs").iterdir()) == [name.replace("=2,", "=3,") for name in NAMES]
    assert sorted(path.name for path in (folder / "results").iterdir()) == TABLES
    summary = pl.read_parquet(folder / "results" / "summary.parquet")
    assert summary["n"].to_list() == [2] * 4
    assert (summary["worst"] >= summary["mean"]).all()
    assert summary["return_mean"].null_count() == 4


# ---------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["sweep", "results", "report", "datasets", "train"]),
        (["train"], ["recipe"]),
        (["train", "hopper_offline"], ["--gradient-steps", "--suboptimal"]),
        (["sweep"], ["--output", "--set", "--fast", "--launcher", "--workers", "--no-wait", "--download", "FILE"]),
        (["results"], ["--output", "--baseline", "PATH"]),
        (["report"], ["--output", "--no-video"]),
        (["datasets"], ["list", "build", "import", "inspect", "check", "cache"]),
        *(
            (["datasets", name], ["--help"])
            for name in ("list", "build", "import", "download", "inspect", "check", "train-expert", "cache")
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help(arguments: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--help"])
    assert not stop.value.code
    printed = capsys.readouterr()
    assert printed.err == ""
    for words in expected:
        assert words.lower() in printed.out.lower(), printed.out


def test_help_of_the_module() -> None:
    done = python("-m", "iq_offline.recipes.expert_count", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("--dataset", "--counts", "--seeds", "--algorithms", "--output", "--set"):
        assert words in done.stdout
