"""What ``iq-offline datasets …`` does, apart from reading its arguments."""

import json
import math
from pathlib import Path

from iq_offline.data import cache, catalog
from iq_offline.data.logs import Actions, Columns, Imported, import_log
from iq_offline.environments.cards import tiers_from, write_card
from iq_offline.environments.experts import train_expert
from iq_offline.errors import UserError, nearest
from iq_offline.experiment import build
from iq_offline.files import cache_folder
from iq_offline.training.tracking import patient_progress


def build_datasets(names: tuple[str, ...]) -> None:
    """Record built-in datasets, replacing those that are there."""
    known = catalog.builtin_names()
    for name in names:
        if name not in known:
            raise UserError(f"no built-in dataset {name!r}{nearest(name, known)} (there are: {', '.join(known)})")
    if not names:
        raise UserError(f"which? One or more of: {', '.join(known)}")
    for name in names:
        print(f"{catalog.minari_id(name)}: {build(name)}")


def download_dataset(name: str) -> None:
    """Fetch a dataset into the local Minari folder, unless it is there."""
    builtin = catalog.builtin_of(name)
    if builtin:
        raise UserError(f"{name!r} is built in: iq-offline datasets build {name} records it, without a network")
    path = catalog.locate(name)
    print(f"{name}: {path} (was there already)" if path else f"{name}: {catalog.download(name)}")


def import_files(
    files: tuple[str, ...], identifier: str, columns: Columns, actions: Actions, max_gap: float | None, replace: bool
) -> None:
    """Make a dataset of a log, and say what was found in it."""
    with patient_progress(f"importing {identifier}") as progress:
        imported = import_log(files, identifier, columns, actions, max_gap, replace, progress)
    print_import(imported, columns)


def print_import(imported: Imported, columns: Columns) -> None:
    """What became of a log: a line for everything that was found in it."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=110, highlight=False)
    counts = imported.counts
    title = f"{imported.id}: {counts.episodes:,} episodes, {counts.transitions:,} transitions"
    table = Table(title=title, title_justify="left")
    for column in ("in the log", "", "what became of it"):
        table.add_column(column, justify="left" if column else "right")
    for what, number, outcome in findings(imported, columns):
        table.add_row(what, f"{number:,}", outcome)
    console.print(table)
    console.print(f"observations {imported.observation_space}", soft_wrap=True)
    console.print(f"actions {imported.action_space}", soft_wrap=True)
    console.print(f"in {imported.path.parent}", soft_wrap=True)
    counts = imported.counts
    if columns.time and counts.episodes > 2 * counts.episodes_in_log and counts.gaps > counts.episodes_in_log:
        console.print(
            f"note: {counts.episodes_in_log:,} episodes became {counts.episodes:,}, as every step over "
            f"{imported.max_gap:.4g} is a gap: --max-gap allows longer ones",
            soft_wrap=True,
        )


def findings(imported: Imported, columns: Columns) -> list[tuple[str, int, str]]:
    """What was found, how often, what became of it. Gaps, duplicates and nulls are named even where there are none."""
    counts = imported.counts
    looked_for = "every episode is one row" if math.isnan(imported.max_gap) else f"a step over {imported.max_gap:.4g}"
    gap = f"gaps ({looked_for})" if columns.time else "gaps (not looked for: no --time)"
    always = [
        ("rows", counts.rows, f"{counts.rows_written:,} used, in {counts.episodes:,} of Minari's episodes"),
        ("episodes", counts.episodes_in_log, f"{counts.terminated:,} of Minari's end in a terminal state"),
        (gap, counts.gaps, "episode split"),
        ("rows of the same time and values", counts.identical_duplicates, "dropped"),
        ("rows of the same time, other values", counts.contradicting_duplicates, "dropped: the first one counts"),
        ("rows with a null in the observation", counts.rows_without_observation, "dropped, episode split"),
    ]
    nulls = "dropped, episode split" if columns.next_observation is not None else "episode split; observation kept"
    sometimes = [
        ("rows with a null in the action", counts.rows_without_action, nulls),
        ("rows without an episode", counts.rows_without_episode, "dropped"),
        (
            "episodes that go on in another file",
            counts.episodes_continued * (columns.time is None),
            "joined in the order of the files (no --time)",
        ),
        ("rows without a time", counts.rows_without_time, "dropped"),
        ("rows before the time of the row above", counts.out_of_order, "sorted"),
        ("next observations that do not come", counts.jumps, "episode split"),
        ("ends inside an episode", counts.ends_inside, "episode split"),
        ("terminal rows that are dropped", counts.ends_lost, "their episodes end truncated"),
        ("single rows between splits", counts.short_pieces, "dropped: no next state"),
        ("last actions", counts.last_actions, "dropped: the state they led to is not in the log"),
        ("actions outside the given bounds", counts.actions_outside, "kept; training clips them"),
        (
            "transitions without a reward",
            counts.rewards_unknown * (columns.reward is not None),
            "NaN; training reads none",
        ),
    ]
    return always + [row for row in sometimes if row[1]]


def train_card(name: str, folder: Path, write: bool) -> None:
    """Train the expert of a card; afterwards show its tiers, or write them into the checkout."""
    card = catalog.load_card(name)
    if card.training is None:
        print(f"{name} needs no training: its expert is a controller")
        if write:
            print(f"wrote {write_card(name, card, folder, [])}")
        return
    print(f"{card.training.algorithm} on {card.environment}, {card.training.steps:,} steps, in {folder}")
    rows = train_expert(card.environment, card.training, folder, lambda row: print(json.dumps(row), flush=True))
    for tier, row in tiers_from(rows, card.references.random_return, card.training).items():
        print(f"{tier}: step {row['steps']:,}, return {row['return_mean']} ± {row['return_std']}")
    if write:
        print(f"wrote {write_card(name, card, folder, rows)}")


def manage_cache(clear: bool) -> None:
    """Print the cache's folder and size; delete it if asked to."""
    folder = cache_folder()
    if clear:
        print(f"{folder}: {cache.clear() / 1e6:.1f} MB freed")
        if left := cache.size():
            print(f"{left / 1e6:.1f} MB are left, which another process is filling")
        return
    print(f"{folder}: {cache.size() / 1e6:.1f} MB")
