"""The parts that pictures of a sweep share: panels, lines with bands, what 0 and 1 mean, the legend and the caption."""

import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from iq_offline.evaluation.plots import DASHES
from iq_offline.sweeps.published import Published
from iq_offline.sweeps.statistics import Estimate
from iq_offline.sweeps.words import COUNT, EXPERT

SMALL, MEDIUM = 7, 8
"""Points."""
GREY, LIGHT = "#666666", "#999999"
ROW = 1.75
"""Inches that a row of panels is high, with its title and labels."""
TOUCHING = 0.07
"""Labels nearer than this share of the axis would touch."""
MARGIN = 0.06
"""Of the axis, beyond the first and the last count."""
SAME_DATA = 0.02
"""Normalised: means of data that differ by less are drawn as one."""
BAND, BAR = "band: 95% bootstrap interval", "bar: 95% bootstrap interval"
DOTS = "dots: single seeds"


def panels(
    count: int,
    width: float,
    least: float,
    height: float = ROW,
    same_y: bool = False,
    beside: float = 0.0,
    group: int = 1,
) -> tuple[Figure, list]:
    """A figure of ``count`` axes, as many beside each other as are ``least`` inches wide; all sizes in inches.

    Args:
        count: of the axes.
        width: of the figure.
        least: width of the axes.
        height: of a row of axes.
        same_y: whether they share their y-axis, which only the first of a row is labelled with.
        beside: what these labels take.
        group: how many axes belong together: they are in a row where there is room, or else in equal parts.
    """
    columns = max(1, min(count, int((width - beside) / least)))
    columns = next((c for c in range(min(columns, group), 1, -1) if group % c == 0), columns)
    rows = -(-count // columns)
    columns = -(-count // rows)  # Five panels are three and two, not four and one.
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=same_y).ravel()
    for spare in grid[count:]:
        spare.remove()
    return figure, list(grid[:count])


def titled(axes: Axes, title: str, x: str, y: str) -> None:
    """Title, in lines that do not reach the panel's neighbours, and labels of a panel."""
    figure, spec = axes.figure, axes.get_subplotspec()
    assert isinstance(figure, Figure)
    assert spec is not None
    letters = int(figure.get_figwidth() / spec.get_gridspec().ncols * 72 / (0.6 * MEDIUM))
    lines = [textwrap.fill(part, letters, break_long_words=False) for part in title.split("\n")]
    axes.set_title("\n".join(lines), fontsize=MEDIUM)
    axes.set_xlabel(x, fontsize=SMALL)
    axes.set_ylabel(y, fontsize=SMALL)
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)


def line(axes: Axes, points: list[tuple[float, Estimate]], name: str, look: dict[str, Any], marker: float = 4) -> None:
    """Values with their band; an error bar where a point with an interval has no neighbour to make a band with."""
    x = np.array([place for place, _ in points], float)
    value, low, high = np.array([(one.value, one.low, one.high) for _, one in points]).T
    axes.plot(x, value, label=name, markersize=marker, linewidth=1.3, zorder=3, **look)
    axes.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0)
    sure = np.pad(np.isfinite(low), 1)
    alone = sure[1:-1] & ~sure[:-2] & ~sure[2:]
    if alone.any():
        reach = [(value - low)[alone], (high - value)[alone]]
        axes.errorbar(x[alone], value[alone], reach, fmt="none", ecolor=look["color"], capsize=2.5, linewidth=1)


def row(axes: Axes, place: float, seeds: Sequence[float], middle: Estimate, look: dict[str, Any]) -> None:
    """Every seed as a faint dot, their interquartile mean, and its interval as a bar."""
    color = look["color"]
    below = [place + 0.22] * len(seeds)
    axes.plot(seeds, below, "o", color=color, alpha=0.35, markersize=3, markeredgewidth=0, zorder=2)
    axes.hlines(place, middle.low, middle.high, color=color, linewidth=2, zorder=3)
    axes.plot(middle.value, place, look["marker"], color=color, markersize=5, markeredgecolor="white", zorder=4)


def same_x(grid: Sequence[Axes]) -> None:
    """The same ends of the x-axis for all."""
    ends = [axes.get_xlim() for axes in grid]
    for axes in grid:
        axes.set_xlim(min(low for low, _ in ends), max(high for _, high in ends))


def references(draw: Callable) -> None:
    """What a score of 1 and of 0 mean, by ``axes.axhline`` or ``axes.axvline``."""
    draw(1, color=GREY, linewidth=0.9, linestyle="-", label="expert", zorder=1)
    draw(0, color=GREY, linewidth=0.9, linestyle=":", label="random", zorder=1)


def published(axes: Axes, panel: pl.DataFrame, curves: Sequence[Published]) -> None:
    """Others' scores on the panel's dataset, in thin grey lines that differ in their dashes."""
    kinds = list(dict.fromkeys(f"{curve.learner}, {curve.source}" for curve in curves))
    random = panel["random_return"].drop_nulls().to_list()
    for curve in curves:
        if curve.expert in panel[EXPERT] and random:
            name = f"{curve.learner}, {curve.source}"
            look: dict[str, Any] = {"color": LIGHT, "linestyle": DASHES[(1 + kinds.index(name)) % len(DASHES)]}
            look |= {"linewidth": 0.9, "marker": ".", "markersize": 3, "zorder": 1.5}
            shown = f" {name}" if name.startswith("_") else name  # Such a label is kept out of the legend.
            axes.plot(curve.num_expert_trajectories, curve.scores(random[0]), label=shown, **look)


def mean_of_data(axes: Axes, panel: pl.DataFrame, looks: dict[str, dict[str, Any]]) -> None:
    """The data's own mean return, normalised, where it is not the expert's: once if all lines had the same data."""
    data, same = _means(panel)
    if data.is_empty():
        return
    for name, look in {"": {"color": GREY}}.items() if same else looks.items():
        part = data.filter((pl.col("line") == name) | same)
        means = part.group_by(COUNT).agg(pl.col("mean").mean()).sort(COUNT)
        x, y = means[COUNT].to_numpy(), means["mean"].to_numpy()
        if len(x) == 1:
            x, y = x + np.array([-0.5, 0.5]), np.repeat(y, 2)
        told = "mean of the data" + f" of {name}" * (not same)
        axes.plot(x, y, color=look["color"], linewidth=0.9, linestyle=(0, (4, 3)), label=told, zorder=1)


def mean_across(axes: Axes, panel: pl.DataFrame) -> None:
    """The same across the rows of a panel, where all of them had the same data."""
    data, same = _means(panel)
    if data.height and same:
        look = {"color": GREY, "linewidth": 0.9, "linestyle": (0, (4, 3))}
        axes.axvline(float(data["mean"].to_numpy().mean()), label="mean of the data", zorder=1, **look)


def _means(panel: pl.DataFrame) -> tuple[pl.DataFrame, bool]:
    """The runs' means of their data, none where these are the expert's; and whether all lines had the same data."""
    width = pl.col("expert_return") - pl.col("random_return")
    data = panel.with_columns(mean=(pl.col("data_return") - pl.col("random_return")) / width)
    data = data.filter(pl.col("mean").is_finite().fill_null(False))
    if ((data["mean"] - 1).abs() < SAME_DATA).all():
        return data.clear(), True
    spread = data.group_by(COUNT, "seed").agg(pl.col("mean").max() - pl.col("mean").min())["mean"]
    return data, bool((spread < SAME_DATA).all())


def returns_beside(axes: Axes, panel: pl.DataFrame) -> None:
    """Raw returns at the right, where all runs of the panel have the same references."""
    pairs = panel.select("expert_return", "random_return").drop_nulls().unique().rows()
    if len(pairs) != 1 or pairs[0][0] == pairs[0][1]:
        return
    expert, random = pairs[0]
    width = expert - random
    scales = (lambda score: random + score * width, lambda value: (value - random) / width)
    right = axes.secondary_yaxis("right", functions=scales)
    right.set_ylabel("return", fontsize=SMALL)
    right.tick_params(labelsize=SMALL)


def counted(axes: Axes, counts: list[int]) -> None:
    """Ticks at the counts and nowhere else, by their logarithms, or equally spaced where labels would touch.

    Args:
        axes: with everything drawn.
        counts: ascending, each once.
    """
    first, last = counts[0], counts[-1]
    if len(counts) == 1:
        ends = first - 0.5, first + 0.5
    elif np.diff(np.log(counts)).min() > TOUCHING * np.log(last / first):
        axes.set_xscale("log")
        ends = first * (last / first) ** -MARGIN, last * (last / first) ** MARGIN
    else:
        places, known = np.arange(-1, len(counts) + 1), [2 * first - counts[1], *counts, 2 * last - counts[-2]]
        scales = (lambda count: np.interp(count, known, places), lambda place: np.interp(place, places, known))
        axes.set_xscale("function", functions=scales)
        ends = scales[1](-MARGIN * (len(counts) - 1)), scales[1]((1 + MARGIN) * (len(counts) - 1))
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlim(*ends)


def legend(figure: Figure, grid: Sequence[Axes]) -> None:
    """One for all panels, below them, in as many columns as there is room for; the figure grows by its height."""
    handles = {name: handle for axes in grid for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    if not handles:
        return
    names = [wrapped(name, figure.get_figwidth() - 0.6) for name in handles]
    longest = max(len(part) for name in names for part in name.split("\n"))
    columns = max(1, min(len(names), int(figure.get_figwidth() * 72 / (0.55 * SMALL * longest + 34))))
    drawn = figure.legend(
        list(handles.values()),
        names,
        loc="outside lower center",
        ncols=columns,
        fontsize=SMALL,
        frameon=False,
        handlelength=2.8,
        columnspacing=1.2,
    )
    for text in drawn.get_texts():
        text.set_parse_math(False)  # A name may have dollars in it.
    tallest = max(1 + name.count("\n") for name in names)
    figure.set_figheight(figure.get_figheight() + 0.15 * tallest * -(-len(names) // columns) + 0.1)


def caption(figure: Figure, *parts: str) -> None:
    """What is drawn, above the panels; the figure grows by its height."""
    text = wrapped("; ".join(filter(None, parts)), figure.get_figwidth())
    figure.suptitle(text, fontsize=SMALL, color=GREY)
    figure.set_figheight(figure.get_figheight() + 0.13 * (1 + text.count("\n")) + 0.1)


def seeds(counts: Iterable[int]) -> str:
    """Of how many runs the points are: "one seed", "5 seeds" or "3 to 5 seeds"."""
    few, many = min(counts := list(counts)), max(counts)
    if many == 1:
        return "one seed"
    return f"{many} seeds" if few == many else f"{few} to {many} seeds"


def said_of(estimates: Sequence[Estimate], interval: str = BAND) -> tuple[str, str]:
    """Of how many seeds the points are, and what their interval is drawn as, if any has one."""
    of = seeds(one.runs for one in estimates)
    return (of, "") if of == "one seed" else (f"interquartile mean over {of}", interval)


def wrapped(text: str, width: float) -> str:
    """In lines of about so many inches, in small print."""
    return textwrap.fill(text, int(width * 72 / (0.52 * SMALL)))
