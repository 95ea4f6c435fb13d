"""Pictures of a run: the policy's score along the training, and its losses."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib

from iq_offline.config import LABELS
from iq_offline.files import write_atomically
from iq_offline.training.tracking import Row

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLORS = {"iq_learn": "#0072B2", "bc": "#D55E00"}
MARKERS = {"iq_learn": "o", "bc": "s"}


def plot_run(path: Path, summary: dict[str, Any], metrics: Sequence[Row]) -> None:
    """Two panels: returns of the averaged policy at the snapshots, and the losses."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    _returns(left, [summary])
    for name in ("critic/loss", "actor/loss", "actor/squared_error"):
        points = [(row["gradient_steps"], row[name]) for row in metrics if name in row]
        if points:
            right.plot(*zip(*points, strict=True), label=name, linewidth=1)
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
    first = summaries[0]
    for summary in summaries:
        name = summary["algorithm"]
        steps = [point["gradient_steps"] for point in summary["curve"]]
        means = [point["return_mean"] for point in summary["curve"]]
        style = {"color": COLORS[name], "marker": MARKERS[name], "markersize": 3.5, "linewidth": 1.5}
        axes.plot(steps, means, label=LABELS[name], **style)
        low = [min(point["returns"]) for point in summary["curve"]]
        high = [max(point["returns"]) for point in summary["curve"]]
        axes.fill_between(steps, low, high, color=COLORS[name], alpha=0.15, linewidth=0)
    for name, style in (("expert", "-"), ("random", ":")):
        if first[f"{name}_return"] is not None:
            axes.axhline(first[f"{name}_return"], color="black", linestyle=style, linewidth=1, label=name)
    count, subsample = first["num_expert_trajectories"], first["subsample"]
    plural = "trajectory" if count == 1 else "trajectories"
    seen = (
        f"{count} complete expert {plural}"
        if subsample == 1
        else f"every {subsample}th step of {count} expert {plural}"
    )
    title = f"{first['dataset_ids'][0]}\n{seen}, seed {first['seed']}"
    axes.set_title(title + (" (fast: not a result)" if first["fast"] else ""), fontsize=9)
    axes.set(xlabel="gradient steps", ylabel="return (mean, lowest to highest)")
    axes.legend(frameon=False, fontsize=8)


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG, whole or not at all, and forget it."""
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    plt.close(figure)
    write_atomically(path, picture.getvalue())
