"""Pictures of a sweep: scores against the number of trajectories or of each learner, along the training, and of all.

Every function takes rows of finished runs and returns a figure; :func:`save_figure` writes it. A panel is for what is
learned from: a dataset, or a kind of suboptimal data. Lines are interquartile means over seeds with 95% bootstrap
bands. They differ in colour, marker and dashes, so a grey print can be read; text
has 7 points or more at any width, and the legend is outside of the axes.
"""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator

from iq_offline.data import views
from iq_offline.errors import UserError
from iq_offline.evaluation.plots import rendered, styles
from iq_offline.files import write_atomically
from iq_offline.sweeps import panels
from iq_offline.sweeps.lines import (
    SCORE,
    SUBSAMPLE,
    Measure,
    known,
    looks,
    measure_of,
    named_lines,
    points,
)
from iq_offline.sweeps.published import Published
from iq_offline.sweeps.statistics import Estimate, estimate, interquartile_mean, performance_profile
from iq_offline.sweeps.words import COUNT, EXPERT, SUBOPTIMAL

FORMATS = ("png", "svg", "pdf")
COLUMN, PAGE = 3.3, 6.8
"""Inches: one column of a paper of two, and both."""
NAME = 26
"""Letters of a learner's name in a line, beside its row."""
STEPS = {"gradient_steps": "gradient steps", "env_steps": "steps in the environment"}
THRESHOLDS = 301
LOWEST = -1.0
"""Where profiles begin at the latest: a few lost runs far below random would squeeze everything else."""


def save_figure(figure: Figure, path: Path, formats: Iterable[str] = FORMATS) -> list[Path]:
    """Write a figure as ``PATH.png``, ``PATH.svg`` and ``PATH.pdf``, each whole or not at all; where they are.

    The same figure gives the same bytes.
    """
    files = {path.with_name(f"{path.name}.{kind}"): rendered(figure, kind, dpi=200) for kind in formats}
    for file, content in files.items():
        write_atomically(file, content)
    return list(files)


def expert_counts(
    runs: pl.DataFrame, varied: Sequence[str] = (), width: float = PAGE, published: Sequence[Published] = ()
) -> Figure:
    """Score against the number of expert trajectories: a panel for all data, a line for each learner.

    Where no run of a panel has a score, it shows the returns, or else the errors on held-out trajectories.

    Args:
        runs: one row a finished run.
        varied: further keys of the configuration that get lines of their own.
        width: of the figure, in inches.
        published: others' numbers on these datasets, as thin grey lines among the scores.

    Raises:
        UserError: nothing to draw, no such key, or different configurations that would be one line.
    """
    runs = named_lines(runs, varied, ("data", COUNT))
    shown = looks(runs)
    measured = _measured(runs, "data")
    figure, grid = panels.panels(len(measured), width, least=2.2)
    drawn: list[Estimate] = []
    for axes, (panel, measure) in zip(grid, measured, strict=True):
        counts, lines = sorted(panel[COUNT].unique()), panel["line"].unique(maintain_order=True)
        for position, name in enumerate(lines):
            found = points(panel.filter(line=name), COUNT, measure)
            aside = 0.5 * (position + 0.5) / len(lines) - 0.25 if len(counts) == 1 else 0.0
            panels.line(axes, [(count + aside, value) for count, value in found], name, shown[name])
            drawn += [value for _, value in found]
        if measure == SCORE:
            panels.references(axes.axhline)
            panels.mean_of_data(axes, panel, {name: shown[name] for name in lines})
            panels.returns_beside(axes, panel)
            panels.published(axes, panel, published)
        panels.titled(axes, panel["data"][0], _joined("expert trajectories", _kept(panel)), measure.label)
        panels.counted(axes, counts)
    panels.legend(figure, grid)
    panels.caption(figure, _dataset(runs), *panels.said_of(drawn), _without(runs, measured), _rehearsed(runs))
    return figure


def learners(runs: pl.DataFrame, varied: Sequence[str] = (), width: float = PAGE) -> Figure:
    """Score of each learner with one number of expert trajectories: a panel for all data, a row for each learner.

    A row has the interquartile mean, its interval, and every seed as a faint dot.

    Args:
        runs: as of :func:`expert_counts`.
        varied: further keys of the configuration that get rows of their own.
        width: of the figure, in inches.

    Raises:
        UserError: as :func:`expert_counts`.
    """
    runs = named_lines(runs, varied, ("data", COUNT))
    own = styles(runs["algorithm"])
    rows = dict(runs.select("line", "algorithm").unique(maintain_order=True).rows())
    measured = _measured(runs, "data")
    names = [textwrap.fill(name, NAME) for name in rows]
    beside = 0.55 * panels.SMALL / 72 * max(len(part) for name in names for part in name.split("\n"))
    tall = 0.19 * sum(1 + 0.5 * name.count("\n") for name in names) + 0.65
    kinds = runs[SUBOPTIMAL].n_unique() // max(1, runs[EXPERT].n_unique())
    figure, grid = panels.panels(len(measured), width, 1.55, tall, same_y=True, beside=beside, group=kinds)
    drawn: list[Estimate] = []
    for axes, (panel, measure) in zip(grid, measured, strict=True):
        for place, (name, algorithm) in enumerate(rows.items()):
            seeds = panel.filter(line=name)[measure.column].to_list()
            if seeds:
                drawn.append(estimate([seeds]))
                panels.row(axes, place, seeds, drawn[-1], own[algorithm])
        if measure == SCORE:
            panels.references(axes.axvline)
            panels.mean_across(axes, panel)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
        panels.titled(axes, panel["data"][0], measure.label, "")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    panels.same_x([axes for axes, (_, measure) in zip(grid, measured, strict=True) if measure == SCORE])
    panels.legend(figure, grid)
    amount = _joined(_trajectories(runs[COUNT][0]), _kept(runs))
    parts = _dataset(runs), amount, *panels.said_of(drawn, panels.BAR), panels.DOTS
    panels.caption(figure, *parts, _without(runs, measured), _rehearsed(runs))
    return figure


def learning_curves(curves: pl.DataFrame, varied: Sequence[str] = (), width: float = PAGE) -> Figure:
    """Score along the training: a panel for all data and each number of expert trajectories.

    Along the steps in the environment where any run has some; what has none is left out then.

    Args:
        curves: one row for each run and gradient step.
        varied: as of :func:`expert_counts`.
        width: of the figure, in inches.

    Raises:
        UserError: as :func:`expert_counts`.
    """
    along = "env_steps" if curves["env_steps"].count() else "gradient_steps"
    curves = named_lines(curves.filter(pl.col(along).is_not_null()), varied, ("data", COUNT, along))
    shown = looks(curves)
    measured = _measured(curves, "data", COUNT)
    alike = {measure for _, measure in measured} == {SCORE}
    figure, grid = panels.panels(len(measured), width, least=1.6, same_y=alike)
    drawn: list[Estimate] = []
    for axes, (panel, measure) in zip(grid, measured, strict=True):
        for name in panel["line"].unique(maintain_order=True):
            found = points(panel.filter(line=name), along, measure)
            panels.line(axes, found, name, shown[name], marker=3)
            drawn += [value for _, value in found]
        if measure == SCORE:
            panels.references(axes.axhline)
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        beside = alike and axes.get_subplotspec().colspan.start > 0
        title = f"{panel['data'][0]}\n{_trajectories(panel[COUNT][0])}"
        panels.titled(axes, title, STEPS[along], "" if beside else measure.label)
    panels.legend(figure, grid)
    kept = f"trajectories: {_kept(curves)}" if _kept(curves) else ""
    panels.caption(figure, _dataset(curves), *panels.said_of(drawn), kept, _rehearsed(curves))
    return figure


def performance_profiles(runs: pl.DataFrame, varied: Sequence[str] = (), width: float = PAGE) -> Figure:
    """Of each algorithm the share of its runs above any score, over the tasks that all algorithms have runs on.

    A task is a panel's data with a number of expert trajectories; seeds are resampled within tasks for the band.

    Raises:
        UserError: as :func:`expert_counts`; or no run has a score.
    """
    runs = _scored(named_lines(runs, varied, ("data", COUNT)))
    shown = looks(runs)
    tasks = runs.group_by("data", COUNT).agg(pl.col("line").n_unique())
    shared = tasks.filter(pl.col("line") == len(shown))
    used = runs if shared.is_empty() else runs.join(shared, on=("data", COUNT), how="semi", maintain_order="left")
    scores = used["score"].to_numpy()
    thresholds = np.linspace(max(min(0, scores.min()), LOWEST) - 0.05, max(1, scores.max()) + 0.05, THRESHOLDS)
    figure, (axes,) = panels.panels(1, width, least=width, height=2.2)
    sizes, banded = [], False
    for position, (name, look) in enumerate(shown.items()):
        cells = [cell["score"].to_list() for cell in used.filter(line=name).partition_by("data", COUNT)]
        profile = performance_profile(cells, thresholds)
        every = position * THRESHOLDS // (8 * len(shown)), THRESHOLDS // 8
        axes.plot(thresholds, profile.share, label=name, markevery=every, markersize=4, linewidth=1.3, **look)
        axes.fill_between(thresholds, profile.low, profile.high, color=look["color"], alpha=0.18, linewidth=0)
        sizes += map(len, cells)
        banded |= bool(np.isfinite(profile.low).all())
    panels.references(axes.axvline)
    axes.set(xlim=(thresholds[0], thresholds[-1]), ylim=(-0.03, 1.03))
    panels.titled(axes, "", SCORE.label, "share of runs above it")
    over = f"{len(shared)} task{'s' * (len(shared) > 1)}" if len(shared) else "each on tasks of its own"
    more = len(tasks) - len(shared)
    lacking = f"{more} task{'s' * (more > 1)} left out that not all have runs on" if more and len(shared) else ""
    panels.legend(figure, [axes])
    panels.caption(figure, f"{over}, {panels.seeds(sizes)}", panels.BAND * banded, lacking, _rehearsed(runs))
    return figure


def heat_map(runs: pl.DataFrame, varied: Sequence[str] = (), width: float = PAGE) -> Figure:
    """The interquartile mean of every learner on all data, a panel for each number of expert trajectories.

    Raises:
        UserError: as :func:`expert_counts`; or no run has a score.
    """
    named = named_lines(runs, varied, ("data", COUNT))
    cells = _scored(named).partition_by("line", "data", COUNT)
    lines, counts = list(looks(named)), sorted(named[COUNT].unique())
    datasets = named["data"].unique().sort().to_list()
    values = np.full((len(counts), len(datasets), len(lines)), np.nan)
    for cell in cells:
        where = counts.index(cell[COUNT][0]), datasets.index(cell["data"][0]), lines.index(cell["line"][0])
        values[where] = interquartile_mean(cell["score"].to_list())
    letters = max(8, int(0.6 * width * 72 / len(lines) / (0.55 * panels.SMALL)))
    upright = max(len(word) for name in lines for word in name.split()) > letters
    below = 0.55 * panels.SMALL / 72 * max(map(len, lines)) if upright else 0.0
    height = len(counts) * (0.27 * len(datasets) + 0.25) + 0.9 + below
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(len(counts), 1, squeeze=False, sharex=True)[:, 0]
    meshes = [_cells(axes, part) for axes, part in zip(grid, values, strict=True)]
    for axes, count in zip(grid, counts, strict=True):
        axes.set_title(_joined(_trajectories(count), _kept(named)), fontsize=panels.MEDIUM)
        axes.set_yticks(np.arange(len(datasets)) + 0.5, [_broken(name, width) for name in datasets])
        ticks = lines if upright else [textwrap.fill(name, letters, break_on_hyphens=False) for name in lines]
        axes.set_xticks(np.arange(len(lines)) + 0.5, ticks, rotation=90 * upright)
        axes.tick_params(labelsize=panels.SMALL, length=0)
    beyond = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}
    ends = beyond[int(np.nanmin(values) < 0), int(np.nanmax(values) > 1)]
    bar = figure.colorbar(meshes[0], ax=list(grid), location="bottom", extend=ends, aspect=30, pad=0.02)
    bar.set_label(SCORE.label, fontsize=panels.SMALL)
    bar.ax.tick_params(labelsize=panels.SMALL)
    missing = "hatched: no scores" if np.isnan(values).any() else ""
    over = f"interquartile mean over {panels.seeds(map(len, cells))}"
    panels.caption(figure, _dataset(named), over, missing, _rehearsed(named))
    return figure


def _measured(rows: pl.DataFrame, *by: str) -> list[tuple[pl.DataFrame, Measure]]:
    """The rows of each panel that have its measure; panels with nothing to show are left out.

    Raises:
        UserError: that is all of them.
    """
    parts = rows.sort(by, maintain_order=True).partition_by(by, maintain_order=True)
    measures = [(part, measure_of(part)) for part in parts]
    found = [(known(part, measure), measure) for part, measure in measures if measure]
    if not found:
        raise UserError("no run has a score, a return or an error on held-out trajectories to draw")
    return found


def _scored(named: pl.DataFrame) -> pl.DataFrame:
    """The runs that have a score.

    Raises:
        UserError: none has; errors on held-out trajectories could not be compared between datasets.
    """
    scored = known(named, SCORE)
    if scored.is_empty():
        raise UserError("no run has a score to draw: they were not evaluated in an environment with known references")
    return scored


def _cells(axes: Axes, values: np.ndarray) -> Any:
    """Coloured cells with their numbers; hatched where there is none."""
    colors = colormaps["cividis"]
    mesh = axes.pcolormesh(np.ma.masked_invalid(values), cmap=colors, vmin=0, vmax=1, edgecolors="white", linewidth=1)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor="white", edgecolor="#BBBBBB", hatch="////", lw=0))
        else:
            ink = "white" if value < 0.5 else "black"
            place = column + 0.5, row + 0.5
            axes.text(*place, f"{value:.2f}", ha="center", va="center", fontsize=panels.SMALL, color=ink)
    return mesh


def _trajectories(count: int) -> str:
    return f"{count} expert {'trajectory' if count == 1 else 'trajectories'}"


def _kept(rows: pl.DataFrame) -> str:
    """``complete`` or ``1 step in 20``, where that holds for all of the trajectories."""
    kinds = rows[SUBSAMPLE].unique().to_list() if SUBSAMPLE in rows.columns else []
    if len(kinds) != 1:
        return ""
    return "complete" if kinds[0] == 1 else f"1 step in {kinds[0]}"


def _dataset(rows: pl.DataFrame) -> str:
    """The expert's dataset, where no panel is named after it."""
    experts = [views.short(expert) for expert in rows[EXPERT].unique()]
    return experts[0] if len(experts) == 1 and experts[0] not in rows["data"] else ""


def _without(runs: pl.DataFrame, measured: Sequence[tuple[pl.DataFrame, Measure]]) -> str:
    left = len(runs) - sum(len(panel) for panel, _ in measured)
    return f"{left} run{'s' * (left > 1)} without a value left out" if left else ""


def _joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _rehearsed(rows: pl.DataFrame) -> str:
    return "fast: not a result" if "fast" in rows.columns and rows["fast"].any() else ""


def _broken(name: str, width: float) -> str:
    """A dataset's name in two lines where it would take over a third of the width."""
    head, slash, tail = name.rpartition("/")
    return f"{head}{slash}\n{tail}" if len(name) * 0.55 * panels.SMALL > width * 72 / 3 and head else name
