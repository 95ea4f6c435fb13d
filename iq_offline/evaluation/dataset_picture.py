"""A dataset on one page: returns, lengths, how far every dimension reaches, and first frames."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from iq_offline.data.inspection import Facts
from iq_offline.data.spaces import channels_last, image_shape
from iq_offline.data.spread import Spread
from iq_offline.data.survey import Survey
from iq_offline.evaluation.plots import plt, save

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8A8A8A"
"""Of a palette that all kinds of colour vision can tell apart; every colour also has a shape of its own."""
WIDTH = 5.6
MAX_BARS = 50
MAX_STRIPS = 3
LINEAR_REACH = 30
"""Deviations up to which the scale of the observations is linear."""


def draw_dataset(path: Path, survey: Survey, facts: Facts) -> None:
    """Write the picture of a dataset as PNG."""
    measured = {
        name: spread
        for name, spread in survey.observations.items()
        if not (spread.leaf.is_image or spread.leaf.is_categorical) and spread.size
    }
    strips = [(name, frames) for name, frames in survey.frames.items() if frames][:MAX_STRIPS]
    drawn_actions = facts.action_table is not None or facts.action_counts is not None
    heights = [1.7] + [1.8] * bool(measured) + [1.8] * drawn_actions + [1.1] * len(strips)
    figure = plt.figure(figsize=(WIDTH, sum(heights) + 0.4), constrained_layout=True)
    figure.suptitle(survey.source.id, fontsize=10)
    rows = iter(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    left, right = next(rows).subplots(1, 2)
    finite = facts.returns is not None
    returns = survey.episodes.filter(pl.col("return").is_finite())["return"].to_numpy()
    _histogram(left, returns if finite else np.empty(0), "return", facts.rewards_note or "no rewards")
    _histogram(right, survey.episodes["steps"].drop_nulls().to_numpy(), "steps in the episode", "no episodes")
    left.set_ylabel("episodes")
    if measured:
        _observations(next(rows).subplots(), measured)
    if facts.action_table is not None:
        _box_actions(next(rows).subplots(), facts.action_table)
    elif facts.action_counts is not None:
        _counted_actions(next(rows).subplots(), facts.action_counts)
    for name, frames in strips:
        _strip(next(rows), name, frames)
    save(figure, path)


def _histogram(axes: Any, values: np.ndarray, label: str, without: str) -> None:
    axes.set_xlabel(label)
    _small(axes)
    if not len(values):
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, _wrapped(without), ha="center", va="center", transform=axes.transAxes, fontsize=8)
        return
    if values.min() == values.max():  # One bar, wherever it is: a histogram of a point has no width.
        axes.bar([0], [len(values)], width=0.3, color=BLUE)
        axes.set(xlim=(-1, 1), xticks=[0], xticklabels=[f"all {values[0]:,.6g}"])
    else:
        bins = min(30, max(5, int(2 * np.sqrt(len(values)))))
        axes.hist(values, bins=bins, color=BLUE, edgecolor="white", linewidth=0.4)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _observations(axes: Any, measured: dict[str, Spread]) -> None:
    """Of every dimension the smallest and largest value, in its own deviations from its mean."""
    with np.errstate(invalid="ignore", divide="ignore"):
        below = np.concatenate([(spread.min - spread.mean) / spread.std for spread in measured.values()])
        above = np.concatenate([(spread.max - spread.mean) / spread.std for spread in measured.values()])
    low, high = np.nan_to_num(below, posinf=0, neginf=0), np.nan_to_num(above, posinf=0, neginf=0)
    low, high, places, together = _bundled(low, high)
    axes.axhline(0, color=GREY, linewidth=0.6)
    axes.axhspan(-1, 1, color=GREY, alpha=0.25, linewidth=0, label="one deviation from the mean")
    axes.vlines(places, low, high, color=BLUE, linewidth=_line_width(len(low)), label="smallest to largest")
    still = (low == 0) & (high == 0)
    if still.any():
        axes.plot(places[still], low[still], "x", color=ORANGE, markersize=4, label="never changes")
    reach = max(float(np.abs([low, high]).max()), 1.5)
    if reach > LINEAR_REACH:
        axes.set_yscale("symlog", linthresh=10, linscale=1.5)
        axes.set_yticks([tick for tick in (-1e4, -1e3, -100, -10, 0, 10, 100, 1e3, 1e4) if abs(tick) <= 3 * reach])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    _name_parts(axes, {name: spread.size for name, spread in measured.items()})
    _finish(axes, "observation dimension", "deviations from mean", together, len(below), len(measured))


def _box_actions(axes: Any, table: pl.DataFrame) -> None:
    """Of every dimension, in units of its box: smallest, mean, largest."""
    bounded = table["low"].is_finite().all() and table["high"].is_finite().all()
    name = "the box" if bounded else "the recorded range"
    table = table.with_columns(
        low=pl.when(pl.col("low").is_finite()).then("low").otherwise("min"),
        high=pl.when(pl.col("high").is_finite()).then("high").otherwise("max"),
    )
    middle, half = (table["low"] + table["high"]) / 2, (table["high"] - table["low"]) / 2
    half = np.where(half.to_numpy() > 0, half.to_numpy(), 1.0)
    unit = {name: np.nan_to_num((table[name] - middle).to_numpy() / half) for name in ("min", "mean", "max")}
    std = np.nan_to_num(table["std"].to_numpy() / half)
    low, high, places, together = _bundled(unit["min"], unit["max"])
    for bound in (-1, 1):
        axes.axhline(bound, color="black", linewidth=0.8, linestyle="--", label=name if bound > 0 else None)
    width = _line_width(len(low))
    axes.vlines(places, low, high, color=BLUE, linewidth=width / 2.5, label="smallest to largest")
    if together == 1:
        axes.vlines(
            places,
            unit["mean"] - std,
            unit["mean"] + std,
            color=BLUE,
            linewidth=width,
            alpha=0.45,
            label="mean ± deviation",
        )
        axes.plot(places, unit["mean"], "o", color=ORANGE, markersize=3, label="mean")
    _finish(axes, "action dimension", "units of the box", together, len(table))


def _counted_actions(axes: Any, table: pl.DataFrame) -> None:
    """How often each of finitely many actions was taken."""
    shown = table.head(MAX_BARS)
    places = np.arange(len(shown))
    axes.bar(places, shown["share"].fill_nan(0).to_numpy(), width=0.7, color=BLUE)
    axes.set_ylim(0)
    branches = table["branch"].n_unique()
    edges = np.flatnonzero(np.diff(shown["branch"].to_numpy())) + 0.5
    for edge in edges:
        axes.axvline(edge, color=GREY, linewidth=0.6, linestyle=":")
    every = max(1, len(shown) // 20)
    axes.set_xticks(places[::every], [str(action) for action in shown["action"].to_list()[::every]])
    cut = f" (the first {MAX_BARS} of {len(table):,})" if len(table) > MAX_BARS else ""
    label = "action" if branches == 1 else f"actions of the {branches} branches, one after another"
    axes.set(xlabel=label + cut, ylabel="share of steps")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    _small(axes)


def _strip(part: Any, name: str, frames: Sequence[np.ndarray]) -> None:
    """First frames side by side."""
    part.suptitle(f"{name}: first frame of {len(frames)} episode{'s' * (len(frames) > 1)}", fontsize=8)
    for axes, frame in zip(part.subplots(1, len(frames), squeeze=False)[0], frames, strict=True):
        axes.imshow(_as_picture(frame), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_axis_off()


def _as_picture(frame: np.ndarray) -> np.ndarray:
    """What can be shown of a frame: its colours, or of any other number of channels the last."""
    _, _, channels = image_shape(frame.shape)
    if frame.ndim == 3 and not channels_last(frame.shape):
        frame = np.moveaxis(frame, 0, -1)
    return frame if frame.ndim == 2 or channels == 3 else frame[:, :, -1]


def _bundled(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Neighbours together, the widest of them, so that the bars can be seen; their places; how many make a bar."""
    together = -(-len(low) // MAX_BARS)
    starts = np.arange(0, len(low), together)
    places = (starts + np.minimum(starts + together, len(low)) - 1) / 2
    return np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts), places, together


def _name_parts(axes: Any, sizes: dict[str, int]) -> None:
    """A line between the leaves, and their names where there are several and room."""
    if len(sizes) == 1:
        return
    ends = np.cumsum(list(sizes.values()))
    for name, size, end in zip(sizes, sizes.values(), ends, strict=True):
        if end < ends[-1]:
            axes.axvline(end - 0.5, color="black", linewidth=0.6, linestyle=":")
        room = int(70 * size / ends[-1])
        if room >= min(len(name), 4):
            text = name if len(name) <= room else name[: room - 1] + "…"
            place = end - size / 2 - 0.5, 1.01
            axes.text(*place, text, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=7)


def _finish(axes: Any, label: str, unit: str, together: int, dimensions: int, parts: int = 1) -> None:
    axes.set_xlim(-0.6, dimensions - 0.4)
    bundled = f" (a bar: the widest of {together} neighbours)" if together > 1 else ""
    axes.set(xlabel=label + bundled, ylabel=unit)
    if dimensions <= 24:
        axes.set_xticks(range(dimensions))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    place = (0.5, 1.0 if parts == 1 else 1.12)  # Above the names of the parts.
    style = {"frameon": False, "fontsize": 7, "handlelength": 1.4, "borderaxespad": 0.2}
    axes.legend(**style, ncols=4, loc="lower center", bbox_to_anchor=place)
    _small(axes)


def _small(axes: Any) -> None:
    axes.tick_params(labelsize=8)
    for part in (axes.xaxis.label, axes.yaxis.label):
        part.set_fontsize(8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _line_width(bars: int) -> float:
    return float(np.clip(200 / max(bars, 1), 2.5, 10))


def _wrapped(text: str, width: int = 28) -> str:
    return textwrap.fill(text, width)
