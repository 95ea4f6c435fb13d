"""Replacing a dataset as a whole: whoever is killed in it loses nothing, and leaves nothing for long."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from iq_offline.data import writing
from iq_offline.data.writing import install, temporary_root

NAME = "company/data/arm-v0"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "minari"


def write(folder: Path, words: str) -> None:
    (folder / NAME / "data").mkdir(parents=True)
    (folder / NAME / "data" / "metadata.json").write_text(words)


def replace(root: Path, words: str) -> None:
    with temporary_root(root) as temporary:
        write(temporary, words)
        install(NAME, temporary, root)


def stored(root: Path) -> dict[str, str]:
    """Every file below the root, hidden ones too."""
    return {str(file.relative_to(root)): file.read_text() for file in root.rglob("*") if file.is_file()}


def in_a_process(does: Callable[[], object]) -> int:
    """What became of it."""
    child = os.fork()
    if not child:
        try:
            does()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at_rename(number: int, root: Path) -> None:
    """Replace the dataset; the process dies after so many renames."""
    left, rename = number, os.rename

    def dying(*paths: Path) -> None:
        nonlocal left
        rename(*paths)
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    os.rename = dying  # type: ignore[assignment]
    replace(root, "new")


@pytest.mark.parametrize("number", [1, 2])
def test_killed_between_two_renames(number: int, root: Path) -> None:
    """The next that writes anything finds the old one, or the new one, under its name, and tidies."""
    write(root, "old")
    assert in_a_process(lambda: killed_at_rename(number, root)) == -signal.SIGKILL
    with temporary_root(root):
        pass
    assert stored(root) == {f"{NAME}/data/metadata.json": "old" if number == 1 else "new"}
    assert not [entry.name for entry in root.iterdir() if entry.name.startswith(".")]


def test_what_lives_is_left_alone(root: Path) -> None:
    with temporary_root(root) as first:
        write(first, "first")
        replace(root, "second")
        assert first.exists()
        install(NAME, first, root)
    assert stored(root) == {f"{NAME}/data/metadata.json": "first"}


def test_two_that_replace_at_the_same_moment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between one's look and its rename the other has moved the old one away."""
    write(root, "old")
    rename, others = os.rename, ["other"]

    def interrupted(*paths: Path) -> None:
        if others:
            replace(root, others.pop())
        rename(*paths)

    monkeypatch.setattr(writing.os, "rename", interrupted)
    replace(root, "mine")
    assert stored(root) == {f"{NAME}/data/metadata.json": "mine"}


def test_where_the_new_one_cannot_be_put_the_old_one_stays(root: Path) -> None:
    write(root, "old")
    with pytest.raises(FileNotFoundError), temporary_root(root) as temporary:
        install(NAME, temporary, root)
    assert stored(root) == {f"{NAME}/data/metadata.json": "old"}
