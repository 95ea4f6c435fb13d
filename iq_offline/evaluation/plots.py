"""Pictures of a run: the policy's score along the training, and its losses."""

import textwrap
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib

from iq_offline.config import LABELS, label
from iq_offline.files import write_atomically
from iq_offline.training.tracking import Row

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which all kinds of colour vision tell apart, without the yellow that is hard to see on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1)), (0, (8, 2, 1, 2, 1, 2)))
"""Five: without a common factor with the markers, forty lines in a row differ also where they are printed in grey."""

SAME_BYTES: Any = {"svg.hashsalt": "iq_offline", "svg.fonttype": "none", "pdf.fonttype": 42}
"""The same figure is the same file; text stays text, in fonts that journals take."""
DPI = 150
TITLE = 64
"""Letters that fit above a panel."""
NO_DATE = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def plot_run(path: Path, summary: dict[str, Any], metrics: Sequence[Row], diagnostics: Sequence[Row]) -> None:
    """Two panels: returns of the averaged policy at the snapshots; the losses, and its error on held-out data.

    Without returns there is the second alone.
    """
    panels = 2 if summary["curve"] else 1
    figure, axes = plt.subplots(1, panels, figsize=(4.5 * panels, 3.4), constrained_layout=True, squeeze=False)
    right = axes[0, -1]
    for name in ("critic/loss", "actor/loss", "actor/squared_error"):
        if points := _points(metrics, name):
            right.plot(*zip(*points, strict=True), label=name, linewidth=1)
    if points := _points(diagnostics, "held_out/error"):
        right.plot(*zip(*points, strict=True), "o-", label="held-out error", linewidth=1, markersize=3, color=COLORS[6])
    right.set_xlabel("gradient steps")
    if panels == 2:
        _returns(axes[0, 0], [summary])
        right.set_title("training")
    else:
        right.set_title(about(summary), fontsize=9)
    right.set_yscale("symlog", linthresh=0.01, subs=range(2, 10))
    lowest, highest = right.get_ylim()
    if lowest > 0.01 and highest < 10 * lowest:  # There may be no power of ten in sight.
        right.yaxis.set_minor_formatter("{x:g}")
    right.legend(frameon=False, fontsize=8)
    save(figure, path)


def plot_comparison(path: Path, summaries: Sequence[dict[str, Any]], diagnostics: Sequence[Sequence[Row]]) -> None:
    """One panel: the algorithms' returns along their training, on the same data; without returns their errors.

    Args:
        path: of the picture.
        summaries: of the runs.
        diagnostics: of each run its rows.
    """
    figure, axes = plt.subplots(figsize=(5.6, 3.4), constrained_layout=True)
    if any(summary["curve"] for summary in summaries):
        _returns(axes, summaries)
    else:
        _errors(axes, summaries, diagnostics)
    save(figure, path)


def _points(rows: Sequence[Row], name: str) -> list[tuple[Any, Any]]:
    return [(row["gradient_steps"], row[name]) for row in rows if name in row]


def _errors(axes: Any, summaries: Sequence[dict[str, Any]], diagnostics: Sequence[Sequence[Row]]) -> None:
    looks = styles(summary["algorithm"] for summary in summaries)
    for summary, rows in zip(summaries, diagnostics, strict=True):
        if points := _points(rows, "held_out/error"):
            name = summary["algorithm"]
            axes.plot(*zip(*points, strict=True), label=label(name), markersize=3.5, linewidth=1.5, **looks[name])
    axes.set(xlabel="gradient steps", ylabel="error on held-out trajectories")
    axes.set_title(about(summaries[0]), fontsize=9)
    if axes.lines:
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8)
    else:
        axes.text(0.5, 0.5, "neither returns nor held-out trajectories", ha="center", transform=axes.transAxes)


def _returns(axes: Any, summaries: Sequence[dict[str, Any]]) -> None:
    first, looks = summaries[0], styles(summary["algorithm"] for summary in summaries)
    for summary in summaries:
        name = summary["algorithm"]
        steps = [point.get("env_steps", point["gradient_steps"]) for point in summary["curve"]]
        means = [point["return_mean"] for point in summary["curve"]]
        axes.plot(steps, means, label=label(name), markersize=3.5, linewidth=1.5, **looks[name])
        low = [min(point["returns"]) for point in summary["curve"]]
        high = [max(point["returns"]) for point in summary["curve"]]
        axes.fill_between(steps, low, high, color=looks[name]["color"], alpha=0.15, linewidth=0)
    for name, dashes in (("expert", "-"), ("random", ":")):
        if first[f"{name}_return"] is not None:
            axes.axhline(first[f"{name}_return"], color="black", linestyle=dashes, linewidth=1, label=name)
    if first.get("start") and first["curve"]:
        axes.axhline(first["curve"][0]["return_mean"], color="grey", linestyle="--", linewidth=1, label="offline")
    axes.set_title(about(first), fontsize=9)
    steps = "environment steps" if first.get("env_steps") else "gradient steps"
    axes.set(xlabel=steps, ylabel="return (mean, lowest to highest)")
    axes.legend(frameon=False, fontsize=8)


def about(summary: dict[str, Any]) -> str:
    """Of which data a run is, in lines that fit above a panel."""
    count, subsample = summary["num_expert_trajectories"], summary["subsample"]
    plural = "trajectory" if count == 1 else "trajectories"
    seen = (
        f"{count} complete expert {plural}" if subsample == 1 else f"1 step in {subsample} of {count} expert {plural}"
    )
    labelled, *others = summary["dataset_ids"]
    lines = [*(["fast: not a result"] if summary["fast"] else []), labelled, f"{seen}, seed {summary['seed']}"]
    if others:
        lines.append(f"without labels: {', '.join(others)}")
    return "\n".join(textwrap.fill(line, TITLE, break_on_hyphens=False) for line in lines)


def style(position: int) -> dict[str, Any]:
    """Colour, marker and dashes of the line at a position: any two of the first forty differ in marker or dashes."""
    cycles = {"color": COLORS, "marker": MARKERS, "linestyle": DASHES}
    return {name: cycle[position % len(cycle)] for name, cycle in cycles.items()}


def styles(algorithms: Iterable[str]) -> dict[str, dict[str, Any]]:
    """How each algorithm is drawn: those in ``LABELS`` alike in every picture, others after them by their names."""
    others = sorted(set(algorithms) - set(LABELS))
    return {name: style(position) for position, name in enumerate([*LABELS, *others])}


def rendered(figure: Figure, file_format: str, dpi: int = DPI) -> bytes:
    """A figure as the bytes of a ``png``, ``svg`` or ``pdf`` file: the same figure gives the same bytes."""
    picture = BytesIO()
    with matplotlib.rc_context(SAME_BYTES):
        figure.savefig(picture, format=file_format, dpi=dpi, metadata=NO_DATE[file_format])
    return picture.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all, and forget it. The same one that is there already is left alone."""
    layout = figure.get_layout_engine()
    if layout is not None:  # The same picture in three quarters of the time: savefig draws once more to lay it out.
        figure.set_dpi(DPI)
        layout.execute(figure)
        figure.set_layout_engine("none")
    content = rendered(figure, "png")
    plt.close(figure)
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, content)
