"""Which pictures a folder of runs has something to show in, and drawing them."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from iq_offline.errors import UserError
from iq_offline.sweeps import plots
from iq_offline.sweeps.results import COUNT, EXPERT, varied
from iq_offline.training.tracking import patient_progress


def figures_of(runs: pl.DataFrame, curves: pl.DataFrame, width: float = plots.PAGE) -> Iterator[tuple[str, Figure]]:
    """Name and figure, the answer to the sweep's question first; each is closed when the next is asked for.

    Args:
        runs: one row a finished run.
        curves: one row for each run and snapshot.
        width: of the figures, in inches.
    """
    lines = [key for key in varied(runs) if key not in ("algorithm", EXPERT, COUNT)]
    drawings = {
        "expert_counts": lambda: plots.expert_counts(runs, lines, width),
        "learning_curves": lambda: plots.learning_curves(curves, lines, width),
        "performance_profiles": lambda: plots.performance_profiles(runs, lines, width),
        "heat_map": lambda: plots.heat_map(runs, lines, width),
    }
    if curves.height == 0 or curves["gradient_steps"].n_unique() < 2:
        del drawings["learning_curves"]
    if runs[EXPERT].n_unique() < 2:
        del drawings["heat_map"]
    for name, draw in drawings.items():
        try:
            figure = draw()
        except UserError:  # Nothing to draw: no scores, say.
            continue
        yield name, figure
        plt.close(figure)


def write_figures(folder: Path, runs: pl.DataFrame, curves: pl.DataFrame) -> list[Path]:
    """Every figure as PNG, SVG and PDF, for both columns of a page, and ``…-column`` for one."""
    written, widths = [], {"": plots.PAGE, "-column": plots.COLUMN}
    with patient_progress("drawing") as progress:
        for number, (suffix, width) in enumerate(widths.items()):
            for name, figure in figures_of(runs, curves, width):
                written += plots.save_figure(figure, folder / f"{name}{suffix}")
                progress(number, len(widths))
    return written
