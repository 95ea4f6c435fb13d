"""What ``iq-offline datasets …`` does, apart from reading its arguments."""

import json
from pathlib import Path

from iq_offline.data import cache, catalog
from iq_offline.data.stream import open_source
from iq_offline.environments.cards import tiers_from, write_card
from iq_offline.environments.experts import train_expert
from iq_offline.errors import UserError, nearest
from iq_offline.experiment import build
from iq_offline.files import cache_folder


def list_datasets() -> None:
    """Print the built-in datasets and the local ones."""
    from rich.console import Console
    from rich.table import Table

    local = catalog.local_ids()
    table = Table(title=f"built in (recorded on first use into {catalog.minari_root()})", title_justify="left")
    for column in ("name", "environment", "episodes", "return", "here"):
        table.add_column(column)
    for name in catalog.builtin_names():
        card, tier = catalog.builtin_of(name) or (None, "")
        if card:
            about = card.datasets[tier]
            mean = f"{about.return_mean:.0f} ± {about.return_std:.0f}" if about.return_mean is not None else ""
            here = "yes" if catalog.minari_id(name) in local else ""
            table.add_row(name, card.environment, str(about.episodes), mean, here)
    console = Console(width=110)
    console.print(table)
    others = [name for name in local if not name.startswith(f"{catalog.NAMESPACE}/")]
    if others:
        table = Table(title="other Minari datasets here", title_justify="left")
        for column in ("id", "environment", "episodes", "steps"):
            table.add_column(column)
        for name in others:
            try:
                source = open_source(catalog.minari_root() / name / "data")
            except UserError as error:
                table.add_row(name, f"not usable: {error}", "", "")
            else:
                numbers = (str(source.total_episodes), str(source.total_steps))
                table.add_row(name, source.environment_id or "", *numbers)
        console.print(table)


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
    for tier, row in tiers_from(rows, card.references.random_return).items():
        print(f"{tier}: step {row['steps']:,}, return {row['return_mean']} ± {row['return_std']}")
    if write:
        print(f"wrote {write_card(name, card, folder, rows)}")


def manage_cache(clear: bool) -> None:
    """Print the cache's folder and size; delete it if asked to."""
    folder = cache_folder()
    if clear:
        print(f"{folder}: {cache.clear() / 1e6:.1f} MB freed")
        return
    print(f"{folder}: {cache.size() / 1e6:.1f} MB")
