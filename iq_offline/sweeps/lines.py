"""Which runs belong to one line of a picture and how it looks, and what is measured."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from iq_offline.config import is_others
from iq_offline.errors import UserError, nearest
from iq_offline.evaluation.plots import style, styles
from iq_offline.sweeps.statistics import Estimate, estimate
from iq_offline.sweeps.words import with_data, with_lines

SUBSAMPLE = "data.subsample"


class Measure(NamedTuple):
    """What a panel shows: a column, and its name in plain words."""

    column: str
    label: str


SCORE = Measure("score", "normalised score")
HELD_OUT = {"squared_error": "held-out squared error", "wrong_actions": "held-out share of wrong actions"}


def named_lines(frame: pl.DataFrame, varied: Sequence[str], cell: Sequence[str]) -> pl.DataFrame:
    """The rows by their ``line`` and ``data``, both in plain words, in the order of the legend; each seed once a cell.

    Args:
        frame: rows with ``run``, ``algorithm``, ``seed`` and the configuration as columns with dotted names.
        varied: keys of the configuration that tell lines apart, besides the algorithm, as of
            :func:`iq_offline.sweeps.words.with_lines`.
        cell: columns that place a row within its line, ``data`` among them if need be.

    Raises:
        UserError: no rows; no such key; or a seed twice in a cell, with different configurations: as runs of one
            configuration they would look surer than they are. Where the configurations are the same one is kept.
    """
    if frame.is_empty():
        raise UserError("there are no runs to draw")
    for key in varied:
        if key not in frame.columns:
            raise UserError(f"no configuration key {key!r}{nearest(key, frame.columns)}")
    frame = with_data(with_lines(frame, varied)).sort("line", *cell, "seed", "run")
    _refuse_mixtures(frame, ("line", *cell, "seed"))
    return frame.unique(("line", *cell, "seed"), keep="first", maintain_order=True)


def looks(frame: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Of each line its colour, marker and dashes: an algorithm's own where it has one line, else by position."""
    lines = dict(frame.select("line", "algorithm").unique(maintain_order=True).rows())
    if len(set(lines.values())) == len(lines):
        own = styles(lines.values())
        return {line: own[algorithm] for line, algorithm in lines.items()}
    return {line: style(position) for position, line in enumerate(lines)}


def measure_of(panel: pl.DataFrame) -> Measure | None:
    """The score; where no row has one the return; where no row has that, the error on held-out trajectories."""
    kinds = panel["held_out_measure"].drop_nulls().unique().to_list() if "held_out_measure" in panel.columns else []
    held_out = HELD_OUT.get(kinds[0], str(kinds[0])) if len(kinds) == 1 else "held-out error"
    measures = (SCORE, Measure("return", "return"), Measure("held_out_error", held_out))
    return next((one for one in measures if one.column in panel.columns and len(known(panel, one))), None)


def known(rows: pl.DataFrame, measure: Measure) -> pl.DataFrame:
    """The rows whose measure is a finite number."""
    return rows.filter(pl.col(measure.column).cast(pl.Float64).is_finite().fill_null(False))


def points(rows: pl.DataFrame, along: str, measure: Measure) -> list[tuple[Any, Estimate]]:
    """The interquartile mean over the seeds at each value of a column, ascending, with its interval."""
    groups = known(rows, measure).sort(along, maintain_order=True).partition_by(along, maintain_order=True)
    return [(group[along][0], estimate([group[measure.column].to_list()])) for group in groups]


def _refuse_mixtures(frame: pl.DataFrame, cell: Sequence[str]) -> None:
    for group in frame.filter(pl.struct(cell).is_duplicated()).partition_by(cell):
        first = group.row(0, named=True)
        different = [
            column
            for column in group.columns
            if "." in column
            and not is_others(column, first["algorithm"])
            and len({repr(value) for value in group[column].to_list()}) > 1
        ]
        if different:
            raise UserError(
                f"{group['run'][0]} and {group['run'][1]} are both seed {first['seed']} of {first['line']} but differ "
                f"in {' and '.join(different)}: tell lines apart by that too, or leave some of the runs out"
            )
