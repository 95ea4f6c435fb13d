"""What a training tells: metrics on disk (NDJSON always, TensorBoard if wanted) and progress on the screen."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from iq_offline.errors import UserError
from iq_offline.files import disk_errors, write_atomically

Row = dict[str, float]


@runtime_checkable
class Progress(Protocol):
    """A bar that someone watches."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Move to ``done`` of ``total``."""
        ...


def silent(done: int, total: int, note: str = "") -> None:
    """A progress that nobody watches."""


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar with rate and time left on a terminal; a line now and then where the output is a file or a pipe."""
    if sys.stderr.isatty():
        with _terminal_bar(title) as progress:
            yield progress
    else:
        yield _plain_lines(title)


@contextmanager
def _terminal_bar(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, note="", rate="")

        def update(done: int, total: int, note: str = "") -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, note=note, rate=f"{speed:.0f}/s" if speed else "")

        yield update


def _plain_lines(title: str) -> Progress:
    last, first, started = -1, 0, time.monotonic()

    def update(done: int, total: int, note: str = "") -> None:
        nonlocal last, first, started
        tenth = 10 * done // total
        if tenth == last:
            return
        if last < 0:  # What was done in an earlier session is no part of the rate.
            first, started = done, time.monotonic()
        last = tenth
        seconds = time.monotonic() - started
        rate = f"{(done - first) / seconds:.0f}/s" if done > first and seconds else ""
        words = [f"{title}: {done}/{total}", *filter(None, (rate, note))]
        print("  ".join(words), file=sys.stderr, flush=True)

    return update


PATIENCE = 2.0
"""Seconds after which a patient progress is shown."""


@contextmanager
def patient_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that is shown only where there is something to wait for."""
    started = time.monotonic()
    with ExitStack() as stack:
        shown: Progress | None = None

        def update(done: int, total: int) -> None:
            nonlocal shown
            if shown is None and time.monotonic() - started > PATIENCE:
                shown = stack.enter_context(progress_bar(title))
            if shown is not None:
                shown(done, total, "")

        yield update


class MetricsLog:
    """Rows of metrics in ``metrics.ndjson``; a resumed run drops the rows after its checkpoint and goes on.

    Args:
        folder: of the run.
        from_step: rows of later gradient steps are dropped.
        tensorboard: also write event files to ``folder/tensorboard`` (the ``[tensorboard]`` extra).
    """

    def __init__(self, folder: Path, from_step: int, tensorboard: bool = False) -> None:
        self.path = folder / "metrics.ndjson"
        self._board = _summary_writer(folder / "tensorboard", from_step) if tensorboard else None
        rows = [row for row in read_metrics(self.path) if row["gradient_steps"] <= from_step]
        with disk_errors("writing metrics", folder):
            write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in rows))
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115

    def write(self, row: Row) -> None:
        """Append one row; its step is ``gradient_steps``."""
        with disk_errors("writing metrics", self.path.parent):
            self._file.write((json.dumps(row) + "\n").encode())
        if self._board:
            for name, value in row.items():
                self._board.add_scalar(name, value, int(row["gradient_steps"]))

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board:
            self._board.close()


def read_metrics(path: Path) -> list[Row]:
    """The whole rows of a metrics file; a last line that was cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


def _summary_writer(folder: Path, from_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs an extra: pip install '.[tensorboard]' in the checkout") from error
    return SummaryWriter(str(folder), purge_step=from_step + 1)
