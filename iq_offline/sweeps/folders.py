"""Where things are in a sweep's folder. Nothing here imports torch."""

from pathlib import Path


def run_folder(folder: Path, name: str) -> Path:
    """Where a run of the sweep is."""
    return folder / "runs" / name


def log_file(folder: Path, name: str) -> Path:
    """What a run of the sweep printed, in all sessions."""
    return folder / "logs" / f"{name}.log"


def summary_file(folder: Path, name: str) -> Path:
    """The numbers of a finished run of the sweep."""
    return run_folder(folder, name) / "summary.json"


def finished(folder: Path, name: str) -> bool:
    """A run is finished when its summary is there, scored or not."""
    return summary_file(folder, name).exists()


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
