"""Adding a dataset to the Minari root as a whole: written beside it under a hidden name, then renamed."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    """A hidden Minari root inside the real one, where Minari writes until a dataset is whole (:func:`install`)."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".recording-") as name, datasets_in(Path(name)):
        yield Path(name)


def install(identifier: str, temporary: Path, root: Path) -> Path:
    """Rename a finished dataset from the temporary root into the real one; one that is there is replaced as a whole.

    Returns:
        The folder that holds the dataset's ``metadata.json``.
    """
    target = root / identifier
    target.parent.mkdir(parents=True, exist_ok=True)
    _namespace_files(temporary, root)
    replaced = temporary / "replaced"
    if target.exists():
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
