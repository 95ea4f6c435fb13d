"""What a training command prints: the scores of its runs, and what recorded data alone say of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from iq_offline.config import LABELS, Suboptimal
from iq_offline.data.views import short

if TYPE_CHECKING:
    from iq_offline.run import Summary


def print_table(summaries: "Sequence[Summary]", suboptimal: Sequence[Suboptimal] = ()) -> None:
    """Expert, random and each algorithm: returns, normalised scores, error on held-out trajectories, seconds."""
    from rich.console import Console
    from rich.table import Table

    first = summaries[0]
    sampled = "complete" if first["subsample"] == 1 else f"subsampled every {first['subsample']} steps"
    count = first["num_expert_trajectories"]
    title = f"{first['dataset_ids'][0]}: {count} expert {'trajectory' if count == 1 else 'trajectories'}, {sampled}"
    if suboptimal:
        title += f"\nwithout labels: {' and '.join(map(in_words, suboptimal))}"
    table = Table(caption_justify="left")
    measured = next((summary["held_out"]["measure"] for summary in summaries if summary.get("held_out")), None)
    held_out = "held-out " + (measured or "error").replace("_", " ")
    for column in ("", "return", "± std", "normalised", held_out, "seconds"):
        table.add_column(column, justify="right" if column else "left")
    for name in ("expert", "random"):
        value = first[f"{name}_return"]
        if value is not None:
            table.add_row(name, f"{value:.1f}", "", "1.000" if name == "expert" else "0.000", "", "")
    for summary in summaries:
        mean, score = summary["return_mean"], summary["normalized_score"]
        cells = (f"{mean:.1f}", f"{summary['return_std']:.1f}") if mean is not None else ("not evaluated", "")
        normalized = f"{score:.3f}" if score is not None else ""
        label = LABELS[summary["algorithm"]]
        error = f"{summary['held_out']['error']:.4f}" if summary.get("held_out") else ""
        table.add_row(label, *cells, normalized, error, f"{summary['seconds']:.0f}")
    if first["fast"]:
        table.caption = "--fast: a rehearsal, not a result"
    console = Console(width=100, highlight=False)
    console.print(title)
    console.print(table)
    for summary in summaries:
        if online := summary.get("online"):
            console.print(f"{LABELS[summary['algorithm']]}, {online_words(summary['env_steps'], online)}")
        found = summary.get("health")
        if found:
            label = LABELS[summary["algorithm"]]
            console.print(f"{label}, by recorded data alone: {found['verdict']} ({found['reason']})")


def in_words(part: Suboptimal) -> str:
    """``hopper/random``, or ``30 hidden trajectories of hopper/expert``."""
    count = f"{part.episodes} " if part.episodes else ""
    hidden = "hidden " if part.hidden else ""
    dataset = short(part.dataset)
    return f"{count}{hidden}trajectories of {dataset}" if count or hidden else dataset


def online_words(env_steps: int, online: dict[str, Any]) -> str:
    """How the environment changed a score, in a line."""
    words = [f"{env_steps:,} steps in the environment"]
    if online["start_score"] is not None:
        words.append(f"{online['start_score']:.3f} before them, never under {online['lowest_score']:.3f}")
        reached = online["env_steps_to_expert_level"]
        words.append("0.95 not reached" if reached is None else f"0.95 from {reached:,} steps on")
    return ": ".join((words[0], "; ".join(words[1:]))) if words[1:] else words[0]
