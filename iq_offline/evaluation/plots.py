"""Pictures of a run: the policy's score along the training, and its losses."""

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
NO_DATE = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def plot_run(path: Path, summary: dict[str, Any], metrics: Sequence[Row], diagnostics: Sequence[Row]) -> None:
    """Two panels: returns of the averaged policy at the snapshots; the losses, and its error on held-out data."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    _returns(left, [summary])
    for name in ("critic/loss", "actor/loss", "actor/squared_error"):
        points = [(row["gradient_steps"], row[name]) for row in metrics if name in row]
        if points:
            right.plot(*zip(*points, strict=True), label=name, linewidth=1)
    points = [(row["gradient_steps"], row["held_out/error"]) for row in diagnostics if "held_out/error" in row]
    if points:
        right.plot(*zip(*points, strict=True), "o-", label="held-out error", linewidth=1, markersize=3, color=COLORS[6])
    right.set(xlabel="gradient steps", title="training")
    right.set_yscale("symlog", linthresh=0.01)
    right.legend(frameon=False, fontsize=8)
    save(figure, path)


def plot_comparison(path: Path, summaries: Sequence[dict[str, Any]]) -> None:
    """One panel: the algorithms' returns along their training, on the same data."""
    figure, axes = plt.subplots(figsize=(5.6, 3.4), constrained_layout=True)
    _returns(axes, summaries)
    save(figure, path)


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
    count, subsample = first["num_expert_trajectories"], first["subsample"]
    plural = "trajectory" if count == 1 else "trajectories"
    seen = (
        f"{count} complete expert {plural}" if subsample == 1 else f"1 step in {subsample} of {count} expert {plural}"
    )
    labelled, *others = first["dataset_ids"]
    title = f"{labelled}\n{seen}, seed {first['seed']}"
    if others:
        title += f"\nwithout labels: {', '.join(others)}"
    axes.set_title(title + (" (fast: not a result)" if first["fast"] else ""), fontsize=9)
    steps = "environment steps" if first.get("env_steps") else "gradient steps"
    axes.set(xlabel=steps, ylabel="return (mean, lowest to highest)")
    axes.legend(frameon=False, fontsize=8)


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
