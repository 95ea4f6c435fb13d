"""The whole command: a log in, a report, a dataset that Minari opens and that a training takes."""

import re
from pathlib import Path

import minari
import numpy as np
import polars as pl
import pytest

from iq_offline.cli import main
from tests.data_helpers import QUICK, python, snapshot, the_error

ROLES = ("--episode", "trip_id", "--time", "t", "--observation", "speed,lane,gap", "--action", "steer,brake")
ID = "company/driving-v0"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six trips of 50 rows, in a current folder of their own: one with a hole, one that ends in a crash."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    generator = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "trip_id": np.repeat([f"trip {index}" for index in range(6)], 50),
            "t": np.tile(np.arange(50) / 10, 6),
            **{name: generator.standard_normal(300) for name in ("speed", "lane", "gap", "steer", "brake")},
            "crashed": np.arange(300) == 149,
        }
    )
    hole = (pl.col("trip_id") == "trip 1") & pl.col("t").is_between(2.05, 2.75)
    frame.filter(~hole).write_parquet(folder / "logs.parquet")
    return folder / "logs.parquet"


def imported(*more: str) -> list[str]:
    return ["datasets", "import", "logs.parquet", *ROLES, "--terminal", "crashed", "--id", ID, *more]


def test_a_log_becomes_a_dataset_that_trains(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(imported()) == 0
    report = capsys.readouterr().out
    assert f"{ID}: 7 episodes, 286 transitions" in report
    for line in (
        r"rows +│ +293 │ 293 used, in 7 of Minari's episodes",
        r"episodes +│ +6 │ 1 of Minari's end in a terminal state",
        r"gaps \(a step over 0\.15\) +│ +1 │ episode split",
        r"other values +│ +0 │",
        r"null in the observation +│ +0 │",
        r"last actions +│ +7 │ dropped: the state they led to is not in the log",
    ):
        assert re.search(line, report), f"{line} not in\n{report}"
    assert minari.load_dataset(ID).total_steps == 286

    code = main(
        ["train", "hopper_offline", "--expert", ID, "--num-expert-trajectories", "7", *QUICK, "--output", "runs"]
    )
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "not evaluated" in printed.out
    assert f"trained, but not evaluated: {ID} names no environment" in printed.err
    assert (Path("runs") / "bc" / "policy.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--observation", "sped"], r"logs\.parquet has no column 'sped'; did you mean 'speed'"),
        (["--observation", "trip_id"], r"column 'trip_id' holds no numbers but text \(String\), 'trip 0' in row 1"),
        (["--id", "driving"], r"--id 'driving' is no dataset id: namespace/name-vN"),
        (["--id", "t/x-v0"], r"namespace/name-vN \(letters, digits, - and _, the namespace two of them or more\)"),
        (["--max-gap", "0"], r"--max-gap 0: it takes a number over 0"),
        (["--action-low", "0", "--action-high", "0"], r"action column 'steer' goes from 0 to 0"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], expected: str, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(tmp_path)
    assert main(imported(*arguments)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(expected, the_error(printed.err)), printed.err
    assert snapshot(tmp_path) == before


def test_names_with_blanks_around_them_and_with_commas_in_them(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{trip}, {time}, {trip / 9}, {time / 7}" for trip in range(2) for time in range(5)]
    (log.parent / "blank.csv").write_text("\n".join(['trip, t, "pos,x", steer', *rows]).replace(', "', ',"'))
    roles = ["--episode", "trip", "--time", "t", "--id", "company/blank-v0"]
    command = ["datasets", "import", "blank.csv", *roles, "--observation", '"pos,x",t', "--action"]
    assert main([*command, "steer"]) == 0
    assert minari.load_dataset("company/blank-v0").storage.metadata["log"]["observation"] == ["pos,x", "t"]
    capsys.readouterr()
    assert main([*command, "pos,x", "--replace"]) == 2
    told = "has no column 'pos'; did you mean 'pos,x'?; a name with a comma in it stands in double quotes"
    assert told in capsys.readouterr().err


def test_a_second_time_needs_replace(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(imported()) == 0
    assert main(imported()) == 2
    assert "exists already" in the_error(capsys.readouterr().err)
    assert main(imported("--replace", "--max-gap", "10")) == 0
    assert minari.load_dataset(ID).total_episodes == 6


def test_a_log_that_falls_to_pieces_is_told_why(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the clock is uneven the usual step says little about the longest that is none too long."""
    frame = pl.read_parquet(log)
    uneven = np.cumsum(np.tile([0.1, 0.1, 0.2], len(frame))[: len(frame)])
    frame.with_columns(t=pl.Series(uneven)).write_parquet(log)
    assert main(imported()) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"note: 6 episodes became \d+, as every step over 0.15 is a gap: --max-gap allows longer", printed)
    assert main(imported("--replace", "--max-gap", "0.5")) == 0
    assert "note:" not in capsys.readouterr().out


@pytest.mark.slow
def test_in_a_process_of_its_own(log: Path) -> None:
    """A mistake while polars is reading does not leave the process hanging."""
    pl.DataFrame({"x": np.arange(200_000.0), "u": np.arange(200_000.0), "end": np.arange(200_000)}).write_csv(
        "long.csv"
    )
    arguments = ("--observation", "x", "--action", "u", "--terminal", "end", "--id", ID)
    done = python("-m", "iq_offline", "datasets", "import", str(log.parent / "long.csv"), *arguments, timeout=60)
    assert done.returncode == 2
    assert "column 'end' holds 2; a flag is true or false" in the_error(done.stderr)


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["datasets", "import", "--help"])
    text = capsys.readouterr().out
    for option in ("--episode", "--time", "--terminal", "--max-gap", "--discrete", "--replace", "--next-observation"):
        assert option in text
