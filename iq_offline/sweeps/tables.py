"""The tables of a sweep for people and for papers: on the screen, as Markdown and LaTeX, as CSV and Parquet."""

from io import BytesIO
from pathlib import Path

import polars as pl

from iq_offline.config import LABELS
from iq_offline.files import write_atomically
from iq_offline.sweeps.results import as_words, key_in_words

HEADINGS = {
    "algorithm": "learner",
    "data.expert": "dataset",
    "data.num_expert_trajectories": "trajectories",
    "data.suboptimal": "suboptimal data",
    "n": "seeds",
    "iqm": "IQM",
    "return_mean": "return",
    "pairs": "pairs",
    "minus": "minus",
    "low": "95% from",
    "high": "to",
}
"""In place of the columns' names; others are named as keys are."""

Table = tuple[list[str], list[list[str]]]
"""Headings, and rows of words."""


def as_table(frame: pl.DataFrame) -> Table:
    """A frame in words: scores with three digits, returns and seconds with one or none."""
    headings = [HEADINGS.get(name, key_in_words(name)) for name in frame.columns]
    return headings, [
        [_cell(name, value) for name, value in zip(frame.columns, row, strict=True)] for row in frame.iter_rows()
    ]


def _cell(name: str, value: object) -> str:
    if value is None or value != value:  # NaN differs from itself.
        return ""
    if name in ("algorithm", "minus"):
        algorithm, *variant = str(value).split(", ", 1)
        return ", ".join([LABELS.get(algorithm, algorithm), *variant])
    if name in ("return", "return_mean", "seconds"):
        return f"{value:.0f}" if name == "seconds" else f"{value:.1f}"
    if name == "held_out_error":
        return f"{value:.4f}"
    if name in ("score", "iqm", "low", "high", "mean", "worst", "difference"):
        return f"{value:+.3f}" if name == "difference" else f"{value:.3f}"
    return as_words(value)


def is_number(name: str, frame: pl.DataFrame) -> bool:
    """Whether a column holds numbers, which stand on the right."""
    return frame[name].dtype.is_numeric()


def as_markdown(frame: pl.DataFrame) -> str:
    """A pipe table."""
    headings, rows = as_table(frame)
    sides = ["---:" if is_number(name, frame) else "---" for name in frame.columns]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, sides, *rows)) + "\n"


def as_latex(frame: pl.DataFrame) -> str:
    """A tabular in the style of the package booktabs."""
    headings, rows = as_table(frame)
    sides = "".join("r" if is_number(name, frame) else "l" for name in frame.columns)
    head, *body = (" & ".join(_escaped(cell) for cell in cells) + r" \\" for cells in (headings, *rows))
    lines = [rf"\begin{{tabular}}{{{sides}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(sign, "\\" + sign if sign in "&%$#_{}" else sign) for sign in text)


def print_frame(frame: pl.DataFrame, title: str, caption: str = "") -> None:
    """A table on the screen."""
    from rich.console import Console
    from rich.table import Table as RichTable

    headings, rows = as_table(frame)
    table = RichTable(caption=caption or None, caption_justify="left")
    for name, heading in zip(frame.columns, headings, strict=True):
        table.add_column(heading, justify="right" if is_number(name, frame) else "left")
    for row in rows:
        table.add_row(*row)
    widest = Console(width=10_000).measure(table).maximum  # In a narrow window, too: long lines beat cut words.
    console = Console(width=max(widest, Console().width), highlight=False)
    console.print(title)
    console.print(table)


def write_tables(folder: Path, frames: dict[str, pl.DataFrame]) -> list[Path]:
    """Each frame as NAME.parquet, .csv, .md and .tex in a folder, those that are empty left out."""
    written = []
    for name, frame in frames.items():
        if not frame.width:
            continue
        parquet = BytesIO()
        frame.write_parquet(parquet)
        contents = {"parquet": parquet.getvalue(), "csv": frame.write_csv()}
        contents |= {"md": as_markdown(frame), "tex": as_latex(frame)}
        for kind, content in contents.items():
            written.append(folder / f"{name}.{kind}")
            write_atomically(written[-1], content)
    return written
