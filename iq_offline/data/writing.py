"""Adding a dataset to the Minari root as a whole: written beside it under a hidden name, then renamed."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from iq_offline.files import LOCK, held

TEMPORARY = ".recording-"
REPLACED = ".replaced"
"""Inside the temporary root: a dataset that gives way to a new one, under its own name."""
AN_EPISODE = 15_000
"""Bytes that Minari's HDF5 takes for an episode beside its arrays, and half a percent more."""
UNWRITTEN = 40_000_000
"""Bytes of an open HDF5 file that may wait in memory, about."""
Episode = TypeVar("Episode")


@contextmanager
def datasets_in(root: Path) -> Iterator[None]:
    """Let Minari keep its datasets in ``root`` for a while."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


@contextmanager
def temporary_root(root: Path) -> Iterator[Path]:
    """A hidden Minari root inside the real one, where Minari writes until a dataset is whole (:func:`install`).

    What processes left that were killed goes; a dataset that one of them had just moved out of the way comes back.
    """
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(f"{TEMPORARY}*"):
        _tidy(left, root)
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(dir=root, prefix=TEMPORARY))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        lock = held(folder)
        if lock is not None:
            stack.enter_context(lock)
        stack.enter_context(datasets_in(folder))
        yield folder


def _tidy(left: Path, root: Path) -> None:
    """Remove a temporary root, unless its process lives."""
    lock = held(left) if (left / LOCK).exists() else None
    if lock is None:
        return
    with lock:
        for metadata in [*(left / REPLACED).rglob("data/metadata.json")]:
            dataset = metadata.parent.parent
            target = root / dataset.relative_to(left / REPLACED)
            if not target.exists():
                os.rename(dataset, target)
        shutil.rmtree(left, ignore_errors=True)


def while_they_fit(episodes: Iterable[Episode], root: Path, row: int, rows: int, count: int) -> Iterator[Episode]:
    """Hand episodes on to Minari as long as they will fit on the disk.

    A full disk that keeps HDF5 from closing its file ends the process by a fatal signal.

    Args:
        episodes: to be written in HDF5.
        root: where.
        row: bytes of a transition.
        rows: how many there will be, about; what is beyond is looked at as it comes.
        count: of the episodes, likewise.

    Raises:
        OSError: they do not fit.
    """
    expected = row * rows + AN_EPISODE * count
    for number, episode in enumerate(episodes):
        least = expected if number == 0 else min(UNWRITTEN, expected * max(count - number, 1) // max(count, 1))
        if shutil.disk_usage(root).free < least:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(root))
        yield episode


def install(identifier: str, temporary: Path, root: Path) -> Path:
    """Rename a finished dataset from the temporary root into the real one; one that is there is replaced as a whole.

    Returns:
        The folder that holds the dataset's ``metadata.json``.
    """
    target, replaced = root / identifier, temporary / REPLACED / identifier
    target.parent.mkdir(parents=True, exist_ok=True)
    _namespace_files(temporary, root)
    replaced.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):  # Nothing is there, or another process is replacing it.
        os.rename(target, replaced)
    try:
        os.rename(temporary / identifier, target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            if replaced.exists():  # The old one is better than none.
                os.rename(replaced, target)
            raise
        # Another process has just written the same dataset: keep that one.
    return target / "data"


def _namespace_files(temporary: Path, root: Path) -> None:
    """Minari keeps a file of metadata in every folder of a namespace: bring those that are not there yet."""
    for file in temporary.rglob("namespace_metadata.json"):
        target = root / file.relative_to(temporary)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
