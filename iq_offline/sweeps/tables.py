"""The tables of a sweep for people and for papers: on the screen, as Markdown and LaTeX, as CSV and Parquet."""

import re
from collections.abc import Mapping
from io import BytesIO
from itertools import product
from math import floor, isfinite, log10
from pathlib import Path
from typing import NamedTuple

import polars as pl

from iq_offline.config import label
from iq_offline.files import write_atomically
from iq_offline.sweeps.answers import number_with_interval
from iq_offline.sweeps.words import (
    COUNT,
    EXPERT,
    SUBOPTIMAL,
    as_words,
    by_numbers,
    key_in_words,
    keys_in_names,
    kinds_in_words,
    with_lines,
)

HEADINGS = {
    "algorithm": "learner",
    "line": "learner",
    "data.expert": "dataset",
    "data.num_expert_trajectories": "trajectories",
    "data.suboptimal": "suboptimal data",
    "n": "seeds",
    "iqm": "IQM",
    "return_mean": "return",
    "low": "95% from",
    "high": "to",
}
"""In place of the columns' names; others are named as keys are."""
MEASURES = (("iqm", "low", "high", "mean", "worst", "difference"), ("score",), ("held_out_error",))
"""Columns of each group have the same number of decimals."""
RETURNS = ("return", "return_mean", "expert_return", "random_return", "data_return")


class Table(NamedTuple):
    """A frame in words."""

    headings: list[str]
    rows: list[list[str]]
    numbers: list[bool]
    """Of each column whether it holds numbers, which stand on the right."""


def as_table(frame: pl.DataFrame) -> Table:
    """A frame in words.

    Returns have one decimal, seconds none, scores and errors three, or more where all of them are small. Settings of
    learners are told in their names; a list of single runs, which has the column ``run``, keeps each key apart.
    """
    frame = frame if "run" in frame.columns else _named(frame)
    short = [HEADINGS.get(name, name if " " in name else key_in_words(name)) for name in frame.columns]
    whole = [name if " " in name else name.replace(".", " ").replace("_", " ") for name in frame.columns]
    headings = [one if short.count(one) == 1 else other for one, other in zip(short, whole, strict=True)]
    groups = [[name for name in group if name in frame.columns] for group in MEASURES]
    decimals = {name: _decimals(frame.select(group)) for group in groups for name in group}
    rows = [
        [_cell(name, value, decimals) for name, value in zip(frame.columns, row, strict=True)]
        for row in frame.iter_rows()
    ]
    return Table(headings, rows, [column.dtype.is_numeric() for column in frame])


def _named(frame: pl.DataFrame) -> pl.DataFrame:
    """With learners in the place of algorithms and their keys, and with the kinds of suboptimal data by their names."""
    if SUBOPTIMAL in frame.columns:
        frame = frame.with_columns(pl.Series(SUBOPTIMAL, kinds_in_words(frame), pl.String))
    if "algorithm" not in frame.columns:
        return frame
    own = keys_in_names(frame)
    return with_lines(frame, own).with_columns(algorithm=pl.col("line").cast(pl.String)).drop("line", *own)


def overview_of(summary: pl.DataFrame) -> pl.DataFrame:
    """A row a learner, a column for each kind of suboptimal data: "0.912 (0.850 to 0.950)".

    Empty where there is one kind, or one algorithm.

    Args:
        summary: of :func:`iq_offline.sweeps.results.summary_of`.
    """
    if not {SUBOPTIMAL, "algorithm"}.issubset(summary.columns) or summary[SUBOPTIMAL].n_unique() == 1:
        return pl.DataFrame()
    place = [name for name in (EXPERT, COUNT) if name in summary.columns and summary[name].n_unique() > 1]
    own = [name for name in summary.columns if "." in name and name not in (SUBOPTIMAL, EXPERT, COUNT)]
    kinds = kinds_in_words(summary)
    cells = [number_with_interval(cell) for cell in summary.rows(named=True)]
    named = with_lines(summary, own).with_columns(pl.Series("kind", kinds), pl.Series("cell", cells))
    table = named.sort(*place, "line").pivot("kind", index=[*place, "line"], values="cell")
    return table.select(*place, pl.col("line").cast(pl.String), *sorted(set(kinds), key=by_numbers))


def _decimals(numbers: pl.DataFrame) -> int:
    """Three, or as many as the largest number needs to have three digits."""
    sizes = [abs(value) for row in numbers.iter_rows() for value in row if value is not None and isfinite(value)]
    largest = max(sizes, default=0.0)
    return 3 if largest >= 0.1 or largest < 1e-12 else 2 - floor(log10(largest))


def _cell(name: str, value: object, decimals: Mapping[str, int]) -> str:
    if value is None or value != value:  # NaN differs from itself.
        return ""
    if name == "algorithm":
        return label(str(value))
    if name in decimals:
        return f"{value:{'+' if name == 'difference' else ''}.{decimals[name]}f}"
    if name in RETURNS:
        return f"{value:.1f}"
    if name in ("seconds", "evaluation_seconds"):
        return f"{value:.0f}"
    return str(value) if name == "run" else as_words(value)


def as_markdown(frame: pl.DataFrame) -> str:
    """A pipe table."""
    headings, rows, numbers = as_table(frame)
    sides = ["---:" if number else "---" for number in numbers]
    lines = (headings, sides, *([_on_one_line(cell).replace("|", "&#124;") for cell in row] for row in rows))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def as_latex(frame: pl.DataFrame) -> str:
    """A tabular in the style of the package booktabs."""
    headings, rows, numbers = as_table(frame)
    sides = "".join("r" if number else "l" for number in numbers)
    head, *body = (" & ".join(_escaped(cell) for cell in cells) + r" \\" for cells in (headings, *rows))
    lines = [rf"\begin{{tabular}}{{{sides}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    text = "".join(special.get(sign, "\\" + sign if sign in "&%$#_{}" else sign) for sign in _on_one_line(text))
    return "{}" + text if text.startswith(("[", "*")) else text  # Else they were options of the line's end before.


def _on_one_line(text: str) -> str:
    return re.sub(r"[\r\n]+", " ", text)


def print_frame(frame: pl.DataFrame, title: str, caption: str = "") -> None:
    """A table on the screen."""
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    headings, rows, numbers = as_table(frame)
    table = RichTable(caption=Text(caption) if caption else None, caption_justify="left")
    for heading, number in zip(headings, numbers, strict=True):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    widest = Console(width=10_000).measure(table).maximum  # In a narrow window, too: long lines beat cut words.
    console = Console(width=max(widest, Console().width), highlight=False)
    console.print(title, markup=False)
    console.print(table)


def write_tables(folder: Path, frames: dict[str, pl.DataFrame]) -> list[Path]:
    """Each frame as NAME.parquet, .csv, .md and .tex in a folder; of one that is empty no older files stay."""
    written = []
    kinds = {"parquet": _as_parquet, "csv": pl.DataFrame.write_csv, "md": as_markdown, "tex": as_latex}
    for (name, frame), (kind, content_of) in product(frames.items(), kinds.items()):
        file = folder / f"{name}.{kind}"
        if frame.width:
            write_atomically(file, content_of(frame))
            written.append(file)
        else:
            file.unlink(missing_ok=True)
    return written


def _as_parquet(frame: pl.DataFrame) -> bytes:
    content = BytesIO()
    frame.write_parquet(content)
    return content.getvalue()
