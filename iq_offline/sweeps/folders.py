"""Where things are in a sweep's folder, and in any other with runs in it. Nothing here imports torch."""

import os
from collections.abc import Iterator
from pathlib import Path

from iq_offline.errors import UserError
from iq_offline.evaluation.rows import SUMMARY, is_finished


def run_folder(folder: Path, name: str) -> Path:
    """Where a run of the sweep is."""
    return folder / "runs" / name


def log_file(folder: Path, name: str) -> Path:
    """What a run of the sweep printed, in all sessions."""
    return folder / "logs" / f"{name}.log"


def summary_file(folder: Path, name: str) -> Path:
    """The numbers of a finished run of the sweep."""
    return run_folder(folder, name) / SUMMARY


def finished(folder: Path, name: str) -> bool:
    """Whether a run of the sweep is."""
    return is_finished(run_folder(folder, name))


def folders_in(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """This folder and all below it, with the names of their files.

    Links are followed; a folder that is there under two names is looked into once.

    Raises:
        UserError: one cannot be read: what is in it would be missing without a word.
    """
    seen = set()
    for here, inner, names in os.walk(folder, onerror=_refuse, followlinks=True):
        place = os.stat(here)
        if (place.st_dev, place.st_ino) in seen:
            inner.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        inner.sort()
        yield Path(here), names


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # It went while this looked.
        raise UserError(f"cannot read {error.filename} ({error.strerror}): let it be read, or move it away") from error


def state_of_log(file: Path) -> str:
    """How an unfinished run stands, by the last session in its log: ``not begun``, ``failed: …`` and so on."""
    try:
        session = file.read_text(errors="replace").rpartition("\n--- ")[2]
    except OSError:
        return "not begun"
    lines = [line for line in session.splitlines() if line.strip()]
    last = lines[-1].strip() if lines else ""
    if last.startswith("error: "):
        return "failed: " + last.removeprefix("error: ")
    if "Traceback (most recent call last):" in session:
        return f"failed: {last}"
    return "interrupted" if last.startswith("interrupted") else "begun, not finished"
