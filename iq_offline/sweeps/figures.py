"""Which pictures a folder of runs has something to show in, and drawing them."""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import polars as pl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from iq_offline.sweeps import plots
from iq_offline.sweeps.answers import settings_of
from iq_offline.sweeps.published import Published
from iq_offline.sweeps.results import METRICS, TASK
from iq_offline.sweeps.words import COUNT, EXPERT
from iq_offline.training.tracking import patient_progress

FOR_PROFILES = 5
"""Scores of a line, on average, from which on the shares of runs above a score say something."""

DRAWINGS = ("expert_counts", "learners", "learning_curves", "performance_profiles", "heat_map")
Draw = Callable[[float], Figure]
"""From a width in inches."""


def drawings_of(runs: pl.DataFrame, curves: pl.DataFrame, published: Sequence[Published] = ()) -> dict[str, Draw]:
    """The pictures by name, the answer to the sweep's question first.

    Args:
        runs: one row a finished run.
        curves: one row for each run and snapshot.
        published: others' numbers, to draw beside.
    """
    lines = settings_of(runs, besides=TASK)
    scores = runs["score"].count()
    drawings: dict[str, Draw] = {}
    if any(runs[metric].count() for metric in METRICS):
        if runs[COUNT].n_unique() > 1:
            drawings["expert_counts"] = lambda width: plots.expert_counts(runs, lines, width, published)
        else:
            drawings["learners"] = lambda width: plots.learners(runs, lines, width)
    if curves["return"].count() and curves["gradient_steps"].n_unique() > 1:
        drawings["learning_curves"] = lambda width: plots.learning_curves(curves, lines, width)
    if scores >= FOR_PROFILES * runs.select("algorithm", *lines).n_unique():
        drawings["performance_profiles"] = lambda width: plots.performance_profiles(runs, lines, width)
    if scores and runs[EXPERT].n_unique() > 1:
        drawings["heat_map"] = lambda width: plots.heat_map(runs, lines, width)
    return drawings


def write_figures(
    folder: Path, runs: pl.DataFrame, curves: pl.DataFrame, published: Sequence[Published] = ()
) -> list[Path]:
    """Every figure as PNG, SVG and PDF, for both columns of a page, and ``…-column`` for one.

    Those of earlier runs that do not apply to these any more are removed.
    """
    widths = {"": plots.PAGE, "-column": plots.COLUMN}
    written, drawings = [], drawings_of(runs, curves, published)
    for name, suffix, kind in product(set(DRAWINGS) - set(drawings), widths, plots.FORMATS):
        (folder / f"{name}{suffix}.{kind}").unlink(missing_ok=True)
    with patient_progress("drawing") as progress:
        for number, (suffix, width) in enumerate(widths.items()):
            for name, draw in drawings.items():
                figure = draw(width)
                written += plots.save_figure(figure, folder / f"{name}{suffix}")
                plt.close(figure)
                progress(number, len(widths))
    return written
