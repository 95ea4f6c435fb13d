"""``iq-offline datasets list``: apart from the other commands, which import torch, so that a look takes a moment."""

from rich.console import Console
from rich.table import Table

from iq_offline.data import catalog
from iq_offline.errors import UserError


def list_datasets() -> None:
    """Print the built-in datasets and the local ones."""
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
        from iq_offline.data.stream import open_source

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
