"""What ``iq-offline datasets inspect`` and ``check`` print."""

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from iq_offline.data import catalog, views
from iq_offline.data.inspection import Facts, facts_of
from iq_offline.data.irregularities import irregularities
from iq_offline.data.irregularity import Irregularity, Surroundings, few
from iq_offline.data.stream import Source, open_source, view_of
from iq_offline.data.survey import Survey, survey
from iq_offline.environments.make import surroundings
from iq_offline.errors import UserError
from iq_offline.files import as_file_name, disk_errors
from iq_offline.training.tracking import patient_progress

MAX_ROWS = 24
"""Dimensions or actions that a table shows one by one."""


def inspect(name: str, picture: Path | None) -> None:
    """Print what a dataset is, and draw it.

    Raises:
        UserError: it is not here, cannot be read at all, or the picture cannot be written.
    """
    source = _open(name)
    picture = picture or Path(as_file_name(views.short(name) if "[" in name else source.id) + ".png")
    if picture.suffix.lower() != ".png" or picture.is_dir():
        raise UserError(f"--picture {picture}: a picture is a PNG file, give a path that ends in .png")
    built = _surroundings(source)
    with patient_progress(f"reading {source.id}") as progress:
        seen = survey(source, progress)
    facts = facts_of(seen)
    print_facts(seen, facts, built)
    from iq_offline.evaluation.dataset_picture import draw_dataset

    with disk_errors("drawing the dataset", picture.parent):
        draw_dataset(picture, seen, facts)
    print(f"picture: {picture}")


def check(name: str) -> None:
    """Print everything irregular in a dataset, and what training does about it.

    Raises:
        UserError: it is not here, cannot be read at all, or training would refuse it.
    """
    source = _open(name)
    built = _surroundings(source)
    environment = built if isinstance(built, Surroundings) else None
    with patient_progress(f"checking {source.id}") as progress:
        seen = survey(source, progress, environment.action_space if environment else None)
    found = irregularities(seen, environment)
    print(f"{source.id}: {len(seen.episodes):,} episodes, {seen.episodes['steps'].sum():,} steps")
    if found:
        print_irregularities(found)
    else:
        print("nothing irregular")
    if environment is None:
        print(f"not held against an environment: {built}")
    refused = [one.what for one in found if one.severity == "refused"]
    if refused:
        raise UserError(f"training would refuse {source.id}: {'; '.join(refused)}")


def print_facts(seen: Survey, facts: Facts, built: Surroundings | str) -> None:
    """All of ``inspect`` but the picture."""
    source, known = seen.source, facts.references
    ends = ", ".join(f"{count:,} {name}" for name, count in facts.ends.items())
    lines = {
        "storage": f"{facts.storage}, {facts.bytes / 1e6:,.1f} MB in {source.path}",
        "log": facts.log,
        "environment": _environment_words(built) if isinstance(built, Surroundings) else built,
        "episodes": f"{len(seen.episodes):,}; at the end {ends}",
        "steps": f"{seen.episodes['steps'].sum():,}",
        "rewards": facts.rewards_note,
        "references": known and f"expert {known.expert_return:.1f}, random {known.random_return:.1f} ({known.source})",
        "repeated": f"{facts.repeated_transitions:,} of {facts.transitions:,} pairs of observation and action, "
        f"{facts.repeated_episodes:,} whole episodes",
    }
    print(source.id)
    _print_table([], [(label, words) for label, words in lines.items() if words])
    summaries = {"steps in an episode": facts.lengths, "return": facts.returns}
    columns = ["", "min", "25%", "median", "75%", "max", "mean"]
    _print_table(columns, [(name, *map(_number, astuple(one))) for name, one in summaries.items() if one])
    print("observations")
    _print_table(facts.leaves.columns, facts.leaves.head(MAX_ROWS).rows(), len(facts.leaves))
    print(f"actions: {facts.actions}")
    if facts.action_table is not None:
        columns = ["dimension", "min", "max", "mean", "deviation", "at the lower bound", "at the upper"]
        rows = facts.action_table.select("dimension", "min", "max", "mean", "std", "at_low", "at_high").rows()
        shown = [(str(row[0]), *map(_number, row[1:5]), *map(_percent, row[5:])) for row in rows[:MAX_ROWS]]
        _print_table(columns, shown, len(rows))
    if facts.action_counts is not None:
        counts = facts.action_counts
        columns = counts.columns if counts["branch"].n_unique() > 1 else counts.columns[1:]
        rows = counts.select(columns).rows()
        shown = [(*map(str, row[:-2]), f"{row[-2]:,}", _percent(row[-1])) for row in rows[:MAX_ROWS]]
        _print_table(columns, shown, len(rows))


def _environment_words(built: Surroundings) -> str:
    left_out = few(built.wrappers_left_out)
    return f"{built.name}, can be built here" + (f", without the wrappers {left_out} (code)" if left_out else "")


def print_irregularities(found: Sequence[Irregularity]) -> None:
    """One table, the gravest first."""
    rows = [(one.severity, one.what, one.where, f"{one.count:,} {_unit(one)}", one.training) for one in found]
    _print_table(["", "what", "where", "count", "training"], rows, lines=True)


def _open(name: str) -> Source:
    name, ids = views.parsed(name)
    path = catalog.locate(name)
    if path is None and catalog.builtin_of(name):
        raise UserError(f"{name!r} is built in and not recorded here yet: iq-offline datasets build {name}")
    if path is None:
        raise catalog.not_found(name, how=f"iq-offline datasets download {name}")
    return view_of(open_source(path), ids)


def _surroundings(source: Source) -> Surroundings | str:
    """The environment, or why it cannot be had."""
    try:
        return surroundings(source)
    except UserError as error:
        return str(error).removeprefix(f"{source.id} ")


def _print_table(
    columns: Sequence[str], rows: Sequence[tuple[str, ...]], total: int | None = None, lines: bool = False
) -> None:
    """Rows under their columns, plain ones where there are no columns; numbers to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=lines) if columns else Table.grid(padding=(0, 2))
    for index, column in enumerate(columns):
        cells = [row[index].rstrip("%").replace(",", "") for row in rows]
        table.add_column(column, justify="right" if index and all(map(_is_number, cells)) else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(width=110, highlight=False)
    console.print(table)
    if total is not None and total > len(rows):
        print(f"… and {total - len(rows):,} more")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(value: float) -> str:
    return f"{value:,.6g}" if abs(value) >= 1_000 else f"{value:.4g}"


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _unit(one: Irregularity) -> str:
    return one.unit.removesuffix("s") if one.count == 1 else one.unit
