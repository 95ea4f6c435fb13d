"""Which files a log is made of, in which order, and whether any that belong to it would be left out."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from iq_offline.errors import UserError, nearest

KINDS = {".parquet": "Parquet", ".pq": "Parquet", ".csv": "CSV", ".ndjson": "NDJSON", ".jsonl": "NDJSON", ".npz": "npz"}
COMPRESSED = (".gz", ".zst", ".bz2", ".xz", ".zip", ".lz4", ".br", ".snappy")
"""Endings of files that may hold a log, and are not read."""
RELATED = (".tsv", ".feather", ".arrow", ".avro", ".xlsx")
"""Endings of kinds of logs that are not read: in a folder they are not passed over as notes and pictures are."""


def kind_of(path: Path) -> str:
    """What its ending says that a file is; empty where that is nothing which is read."""
    return KINDS.get(path.suffix.lower(), "")


def find_files(sources: Sequence[str]) -> list[Path]:
    """The files behind paths, globs and folders, each once, in the order of the numbers in their names.

    Raises:
        UserError: nothing there, a kind that is not read, or files that a folder or a glob would leave out unsaid.
    """
    if not sources:
        raise UserError(
            "no files given: name them before --observation and --action, which take every word that follows"
        )
    found = {path.resolve(): path for source in sources for path in _matching(source)}  # By whatever names it has.
    return sorted(found.values(), key=lambda path: (_words(path), str(path)))


def _matching(source: str) -> list[Path]:
    path = Path(source).expanduser()
    if path.exists() and not path.is_dir():
        if not kind_of(path):
            raise UserError(f"{source}: {path.suffix or 'no ending'} is not read; known are {', '.join(KINDS)}")
        return [path]
    if path.is_dir():
        entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    else:
        entries = [Path(file) for file in glob.glob(str(path), recursive=True)]
    _refuse_passed_over(source, entries)
    found = [entry for entry in entries if kind_of(entry) and entry.is_file()]
    if not found:
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        what = f"no {', '.join(KINDS)} file in the folder" if path.is_dir() else "no such file"
        raise UserError(f"{source}: {what}{nearest(path.name, beside) if not path.is_dir() else ''}")
    return found


def _refuse_passed_over(source: str, entries: Sequence[Path]) -> None:
    """Stop where part of a log would be left out unsaid: of another kind, compressed, or in a folder inside."""
    known = set(entries)
    for entry in sorted(entries, key=_words):
        inside = entry.rglob("*") if entry.is_dir() else ()
        shown = [file for file in inside if not any(part.startswith(".") for part in file.relative_to(entry).parts)]
        for file in (entry, *shown):
            if file.suffix.lower() in COMPRESSED and kind_of(file.with_suffix("")):
                raise UserError(f"{source}: {file} is compressed: unpack it, or name the files that are meant")
            if file == entry and file.suffix.lower() in RELATED and file.is_file():
                raise UserError(
                    f"{source}: {file} is of a kind that is not read ({', '.join(KINDS)} are): make it one of these, "
                    "or name the files that are meant"
                )
            if file not in known and kind_of(file) and file.is_file():
                folder, ending = entry.parent, f"*{file.suffix}"
                raise UserError(
                    f"{source}: {file} lies in a folder inside: say {str(folder / '**' / ending)!r} to read it too, "
                    f"{str(folder / ending)!r} to leave it out"
                )


def _words(file: Path) -> list[str | int]:
    """Words and numbers in turn, so that part-2 comes before part-10."""
    return [int(word) if place % 2 else word for place, word in enumerate(re.split(r"(\d+)", str(file)))]
