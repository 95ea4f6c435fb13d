"""Tables in words: numbers rounded as said, and text that neither Markdown, LaTeX nor the screen takes for its own."""

import re
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest

from iq_offline.sweeps.results import comparisons_of, read_episodes, runs_of, summary_of, varied
from iq_offline.sweeps.tables import as_latex, as_markdown, as_table, print_frame, write_tables
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
    headings, cells = as_table(SUMMARY)
    assert headings == [
        *("learner", "dataset", "trajectories", "suboptimal data", "temperature", "seeds"),
        *("IQM", "95% from", "to", "mean", "worst", "return", "seconds"),
    ]
    assert cells == [
        [*("BC", "a/b-v0", "1", "none", "0.001", "5", "0.988", "0.500", "1.000", "0.988", "0.100", "3512.3", "42")],
        [
            *(
                "IQ-Learn",
                "a_b/c-v1",
                "25",
                "c/d-v0:3:hidden",
                "1e-05",
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


def test_differences_have_a_sign() -> None:
    frame = pl.DataFrame({"algorithm": ["bc"], "minus": ["iq_learn"], "pairs": [5], "difference": [0.12345]})
    frame = frame.with_columns(low=pl.lit(-0.1), high=pl.lit(0.35), verdict=pl.lit(None))
    assert as_table(frame)[1] == [["BC", "IQ-Learn", "5", "+0.123", "-0.100", "0.350", ""]]
    assert as_table(frame.with_columns(minus=pl.lit("bc, loss likelihood")))[1][0][1] == "BC, loss likelihood"


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


def test_empty_frames() -> None:
    nothing = pl.DataFrame()
    assert as_table(nothing) == ([], [])
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
