"""Tables in words: numbers rounded as said, and text that neither Markdown, LaTeX nor the screen takes for its own."""

import re
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest

from iq_offline.sweeps.results import comparisons_of, read_episodes, runs_of, summary_of, varied
from iq_offline.sweeps.tables import as_latex, as_markdown, as_table, overview_of, print_frame, write_tables
from tests.data_helpers import snapshot
from tests.sweeps.made_up import write_run

SUMMARY = pl.DataFrame(
    {
        "algorithm": ["bc", "iq_learn"],
        "data.expert": ["a/b-v0", "a_b/c-v1"],
        "data.num_expert_trajectories": [1, 25],
        "data.suboptimal": ["[]", '[{"dataset": "c/d-v0", "episodes": 3, "hidden": true}]'],
        "iq_learn.temperature": [0.001, 1e-05],
        "n": [5, 1],
        "iqm": [0.98765, -0.00004],
        "low": [0.5, float("nan")],
        "high": [1.0, float("nan")],
        "mean": [0.98765, 1234.5678],
        "worst": [0.1, 0.0],
        "return_mean": [3512.345, None],
        "seconds": [41.6, 0.2],
    }
)


def test_the_evaluation_s_seed_is_not_taken_for_the_learner_s() -> None:
    frame = pl.DataFrame({"evaluation.seed": [1], "seed": [2], "training.gradient_steps": [3]})
    assert as_table(frame)[0] == ["evaluation seed", "seed", "gradient steps"]


def test_numbers_are_rounded_as_said() -> None:
    headings, cells, numbers = as_table(SUMMARY)
    assert numbers == [False, False, True, False, *[True] * 8]
    assert headings == [
        *("learner", "dataset", "trajectories", "suboptimal data", "seeds"),
        *("IQM", "95% from", "to", "mean", "worst", "return", "seconds"),
    ]
    assert cells == [
        [*("BC", "a/b-v0", "1", "none", "5", "0.988", "0.500", "1.000", "0.988", "0.100", "3512.3", "42")],
        [
            *(
                "IQ-Learn",
                "a_b/c-v1",
                "25",
                "3 experts hidden",
                "1",
                "-0.000",
                "",
                "",
                "1234.568",
                "0.000",
                "",
                "0",
            )
        ],
    ]


def test_settings_are_told_in_the_learners_names() -> None:
    """And suboptimal data by their kind; a list of single runs keeps every key."""
    noisy, trips = ('[{"dataset": "ant/noisy"}]', '[{"dataset": "c/trips-v0", "episodes": 3}]')
    frame = pl.DataFrame(
        {
            "algorithm": ["bc", "bc", "iq_learn", "iq_learn"],
            "data.suboptimal": [noisy, noisy, noisy, trips],
            "bc.imitate": ["expert", "everything", "expert", "expert"],
            "iq_learn.policy": ["lookahead", "lookahead", "survival", "best_episodes"],
            "iqm": [0.1, 0.2, 0.3, 0.4],
        }
    )
    headings, rows, _ = as_table(frame)
    assert headings == ["learner", "suboptimal data", "IQM"]
    assert rows == [
        ["BC, labelled only", "noisy", "0.100"],
        ["BC, everything", "noisy", "0.200"],
        ["survival only", "noisy", "0.300"],
        ["IQ-Learn, best episodes", "trips (3 episodes)", "0.400"],
    ]
    headings, rows, _ = as_table(frame.with_columns(run=pl.lit("x")))
    assert headings == ["learner", "suboptimal data", "imitate", "policy", "IQM", "run"]
    assert rows[3] == ["IQ-Learn", "c/trips-v0 (3 episodes)", "expert", "best_episodes", "0.400", "x"]


def test_settings_that_differ_one_at_a_time_make_no_columns() -> None:
    """Neither those of the learner nor those of the training; where they are crossed, the training's do."""
    frame = pl.DataFrame(
        {
            "algorithm": ["iq_learn"] * 3 + ["bc"],
            "iq_learn.chi2_alpha": [0.5, 0.17, 0.5, 0.5],
            "training.layer_norm": ["none", "none", "all", "none"],
            "iqm": [0.1, 0.2, 0.3, 0.4],
        }
    )
    headings, rows, _ = as_table(frame)
    assert headings == ["learner", "IQM"]
    assert [row[0] for row in rows][:3] == ["IQ-Learn", "IQ-Learn, chi2 alpha 0.17", "IQ-Learn, layer norm all"]
    crossed = pl.concat([frame[:3], frame[1:2].with_columns(pl.lit("all").alias("training.layer_norm"))])
    headings, rows, _ = as_table(crossed)
    assert headings == ["learner", "layer norm", "IQM"]
    assert rows[3] == ["IQ-Learn, chi2 alpha 0.17", "all", "0.200"]


def test_an_overview_has_a_row_a_learner_and_a_column_a_kind_of_data() -> None:
    kinds = [f'[{{"dataset": "ant/{name}", "episodes": {count}}}]' for name, count in (("x", 100), ("x", 20))]
    summary = pl.DataFrame(
        {
            "algorithm": ["bc", "bc", "iq_learn"],
            "data.suboptimal": [*kinds, kinds[0]],
            "data.num_expert_trajectories": [1, 1, 1],
            "iqm": [0.1, 0.25, 0.98765],
            "low": [0.05, float("nan"), 0.9],
            "high": [0.15, float("nan"), 1.0],
        }
    )
    headings, rows, _ = as_table(overview_of(summary))
    assert headings == ["learner", "x (20 episodes)", "x (100 episodes)"]
    assert rows == [
        ["IQ-Learn", "", "0.988 (0.900 to 1.000)"],
        ["BC", "0.250", "0.100 (0.050 to 0.150)"],
    ]
    two = pl.concat([summary, summary.with_columns(pl.lit(3).cast(pl.Int64).alias("data.num_expert_trajectories"))])
    headings, rows, _ = as_table(overview_of(two))
    assert [row[:2] for row in rows] == [["1", "IQ-Learn"], ["1", "BC"], ["3", "IQ-Learn"], ["3", "BC"]]
    assert overview_of(summary.head(1)).is_empty()
    assert overview_of(summary.drop("data.suboptimal")).is_empty()
    alone = summary.filter(algorithm="bc").drop("algorithm").with_columns(pl.Series("bc.imitate", ["expert", "all"]))
    assert overview_of(alone).is_empty(), "a sweep of one algorithm has no column of that name"


def test_differences_have_a_sign() -> None:
    frame = pl.DataFrame({"algorithm": ["bc"], "minus": ["IQ-Learn"], "pairs": [5], "difference": [0.12345]})
    frame = frame.with_columns(low=pl.lit(-0.1), high=pl.lit(0.35), verdict=pl.lit(None))
    assert as_table(frame)[1] == [["BC", "IQ-Learn", "5", "+0.123", "-0.100", "0.350", ""]]


def test_small_errors_keep_three_digits() -> None:
    """Errors on held-out trajectories would be 0.000 all over otherwise; a table has as many decimals in each row."""
    small = {
        "algorithm": ["bc", "iq_learn"],
        "iqm": [0.00123, 0.01234],
        "low": [0.001, 0.01],
        "high": [0.002, 0.0345678],
    }
    assert [row[1:] for row in as_table(pl.DataFrame(small))[1]] == [
        ["0.0012", "0.0010", "0.0020"],
        ["0.0123", "0.0100", "0.0346"],
    ]
    tiny = pl.DataFrame({"difference": [-1.234e-6, 1e-7], "low": [None, -2e-6], "high": [None, 0.0]})
    assert as_table(tiny)[1] == [["-0.00000123", "", ""], ["+0.00000010", "-0.00000200", "0.00000000"]]


def test_markdown() -> None:
    lines = as_markdown(SUMMARY.select("algorithm", "n", "iqm", "low")).splitlines()
    assert lines == [
        "| learner | seeds | IQM | 95% from |",
        "| --- | ---: | ---: | ---: |",
        "| BC | 5 | 0.988 | 0.500 |",
        "| IQ-Learn | 1 | -0.000 |  |",
    ]


def test_latex() -> None:
    assert as_latex(SUMMARY.select("algorithm", "data.expert", "low")).splitlines() == [
        r"\begin{tabular}{llr}",
        r"\toprule",
        r"learner & dataset & 95\% from \\",
        r"\midrule",
        r"BC & a/b-v0 & 0.500 \\",
        r"IQ-Learn & a\_b/c-v1 &  \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


ODD = ["50% & more", "a_b^c~d", "#1 {x} $y$", "back\\slash", "<tag> \"quoted\" 'so'", "été", "--- ,, ``"]


@pytest.mark.parametrize("text", ODD)
def test_latex_takes_nothing_for_its_own(text: str) -> None:
    """Every sign that means something to LaTeX is escaped or a command's; the number of columns stays."""
    latex = as_latex(pl.DataFrame({"data.expert": [text, text], "n": [1, 2]}))
    rows = latex.splitlines()[4:6]
    for row in rows:
        assert row.endswith(r" \\")
        bare = re.sub(r"\\text(backslash|asciitilde|asciicircum)\{\}|\\[&%$#_{}]", "", row.removesuffix(r" \\"))
        assert bare.count("&") == 1
        assert not set(bare) & set("\\%$#_{}~^")


@pytest.mark.parametrize("text", ["[1pt] x", "*", "[", "* [x]"])
def test_no_cell_is_an_option_of_the_line_before(text: str) -> None:
    r"""LaTeX looks for a star and for brackets after ``\\`` and ``\midrule``, on the next line, too."""
    for row in as_latex(pl.DataFrame({"data.expert": [text, text]})).splitlines()[4:6]:
        assert row[0] not in "[*"


@pytest.mark.parametrize("text", ["a|b", "|", "a\\|b", "two\nlines", "two\r\nlines"])
def test_markdown_keeps_its_columns(text: str) -> None:
    markdown = as_markdown(pl.DataFrame({"data.expert": [text], "n": [1]}))
    (_, _, row) = markdown.splitlines()
    assert re.fullmatch(r"\| .+ \| 1 \|", row)
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 3, "bars between cells, and no others"


@pytest.mark.parametrize("text", ["[x]", "[1]", "[", "[bold] [/bold]", "[a/b", "[link=http://x]y[/link]"])
def test_words_that_begin_with_a_bracket(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As the folder of a run may: neither a list, nor a style of the screen."""
    frame = pl.DataFrame({"run": [text], "n": [1]})
    assert as_table(frame)[1] == [[text, "1"]]
    print_frame(frame, f"{text}: scores", text)
    printed = capsys.readouterr().out
    assert f"│ {text} " in printed
    assert printed.startswith(f"{text}: scores")
    assert printed.splitlines()[-1].strip() == text


def test_runs_in_words(tmp_path: Path) -> None:
    """No two columns have one heading; scores have three digits, returns and seconds fewer."""
    write_run(tmp_path / "a", [0.123456789, 0.2], {"seed": 1}, held_out=0.0123456789, data_return=290.06, seconds=9.87)
    headings, (cells,), _ = as_table(runs_of(read_episodes(tmp_path)))
    assert len(set(headings)) == len(headings)
    named = dict(zip(headings, cells, strict=True))
    assert {name: named[name] for name in ("run", "score", "return", "data return", "seconds", "held out error")} == {
        "run": "a",
        "score": "0.162",
        "return": "132.3",
        "data return": "290.1",
        "seconds": "10",
        "held out error": "0.0123",
    }
    assert (named["seed"], named["evaluation seed"], named["gradient steps"]) == ("1", "10000", "10000")


def test_empty_frames() -> None:
    nothing = pl.DataFrame()
    assert as_table(nothing) == ([], [], [])
    no_rows = SUMMARY.clear()
    assert as_table(no_rows)[1] == []
    assert len(as_markdown(no_rows).splitlines()) == 2
    assert r"\midrule" in as_latex(no_rows)


def test_files(tmp_path: Path) -> None:
    """Four of each frame that is not empty; Parquet and CSV have all digits and the keys' own names."""
    folder = tmp_path / "new" / "results"
    written = write_tables(folder, {"summary": SUMMARY, "comparisons": pl.DataFrame()})
    assert sorted(path.name for path in written) == ["summary.csv", "summary.md", "summary.parquet", "summary.tex"]
    assert sorted(folder.iterdir()) == sorted(written)
    assert pl.read_parquet(folder / "summary.parquet").equals(SUMMARY)
    read = pl.read_csv(folder / "summary.csv")
    assert read.columns == SUMMARY.columns
    assert read["iqm"].to_list() == SUMMARY["iqm"].to_list()
    assert read["data.suboptimal"].to_list() == SUMMARY["data.suboptimal"].to_list()
    assert (folder / "summary.md").read_text() == as_markdown(SUMMARY)
    assert (folder / "summary.tex").read_text() == as_latex(SUMMARY)
    before = snapshot(folder)
    write_tables(folder, {"summary": SUMMARY})
    assert snapshot(folder) == before


def test_tables_of_runs_that_have_nothing_to_say(tmp_path: Path) -> None:
    """Columns that are null from top to bottom can be written, too."""
    for seed in (0, 1):
        for algorithm in ("bc", "iq_learn"):
            write_run(tmp_path / f"{algorithm}{seed}", [], {"algorithm": algorithm, "seed": seed}, held_out=0.5)
    runs = runs_of(read_episodes(tmp_path))
    summary = summary_of(runs, varied(runs), "held_out_error")
    comparisons = comparisons_of(runs, varied(runs), "held_out_error")
    written = write_tables(tmp_path / "results", {"runs": runs, "summary": summary, "comparisons": comparisons})
    assert len(written) == 12
    assert as_table(comparisons)[1] == [["IQ-Learn", "BC", "2", "+0.000", "0.000", "0.000", ""]]


def test_the_screen_cuts_no_words(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a narrow window lines are long rather than cut; what looks like markup is text."""
    monkeypatch.setenv("COLUMNS", "30")
    name = "a-very-long-name-of-a-company/and-of-its-dataset-v0"
    frame = pl.DataFrame({"data.expert": [name, name], "iqm": [0.5, 0.25], "seconds": [1.0, 2.0]})
    print_frame(frame, f"{name}: scores", "left out: 3")
    printed = capsys.readouterr().out
    assert len([line for line in printed.splitlines() if name in line and "│" in line]) == 2
    assert "0.500" in printed
    assert "left out: 3" in " ".join(printed.split())


def compiled(table: str, folder: Path) -> None:
    """Typeset a table, where LaTeX is installed."""
    program = shutil.which("pdflatex")
    if program is None:
        pytest.skip("LaTeX is not installed here")
    text = "\\documentclass{article}\\usepackage[utf8]{inputenc}\\usepackage{booktabs}\\begin{document}\n"
    (folder / "t.tex").write_text(f"{text}{table}\\end{{document}}\n")
    command = [program, "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_latex_compiles(tmp_path: Path) -> None:
    frame = pl.DataFrame({"data.expert": [*ODD], "iqm": [0.5] * len(ODD)})
    compiled(as_latex(frame), tmp_path)
