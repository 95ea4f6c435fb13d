"""Files replaced as a whole: what a killed writer leaves, and writers that meet."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from iq_offline import files
from iq_offline.errors import UserError
from iq_offline.files import read_json, resumable_folder, write_atomically

CHECKOUT = Path(__file__).parents[1]

KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from iq_offline.files import write_atomically

os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
write_atomically(Path(sys.argv[1]), "never seen")
"""


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.is_file())


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path):
    """It may be a replay of gigabytes."""
    file, other = tmp_path / "state.safetensors", tmp_path / ".state.safetensors.notes"
    write_atomically(file, "old")
    other.write_text("a file of the user's")
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, str(file)]
    for _ in range(2):
        assert subprocess.run(command, cwd=CHECKOUT, check=False).returncode == -signal.SIGKILL
        assert len(names(tmp_path)) == 3
    assert file.read_text() == "old"
    write_atomically(file, "new")
    assert names(tmp_path) == [other.name, file.name]
    assert file.read_text() == "new"


def test_another_writer_that_lives_is_left_alone(tmp_path: Path):
    file, replace = tmp_path / "rows.json", os.replace

    def slow(source: str, target: Path) -> None:
        patch.setattr(os, "replace", replace)
        write_atomically(file, "second")
        assert Path(source).read_text() == "first"
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", slow)
        write_atomically(file, "first")
    assert names(tmp_path) == ["rows.json"]
    assert file.read_text() == "first"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_who_may_read_is_as_the_user_says(umask: int, tmp_path: Path):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", "one")
        write_atomically(tmp_path / "file", "two")
        with resumable_folder(tmp_path / "folder") as folder:
            (folder / "inside").write_text("three")
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("file", "folder")]
    assert modes == [0o666 & ~umask, 0o777 & ~umask]


def write_often(file: Path, letter: str) -> None:
    for _ in range(200):
        write_atomically(file, letter * 1000)


def test_many_writers_at_once_leave_one_whole_file(tmp_path: Path):
    file = tmp_path / "shared"
    with ProcessPoolExecutor(4, get_context("spawn")) as pool:
        for done in [pool.submit(write_often, file, letter) for letter in "abcd"]:
            done.result()
    assert names(tmp_path) == ["shared"]
    assert file.read_text() in {letter * 1000 for letter in "abcd"}


@pytest.mark.parametrize("content", [b"", b'{"step": 1, "rew', b"\xff\xfe\x00", b'{"step": 1}\n{"st'])
@pytest.mark.parametrize("lines", [True, False])
def test_a_damaged_json_file_is_named(content: bytes, lines: bool, tmp_path: Path):
    file = tmp_path / "rows.json"
    file.write_bytes(content)
    if lines and not content:
        assert read_json(file, lines) == []
        return
    with pytest.raises(UserError, match=f"{file} is cut or damaged .*: remove it, and give the command"):
        read_json(file, lines)


def test_json_is_read(tmp_path: Path):
    write_atomically(tmp_path / "rows.json", '{"step": 1}\n{"step": 2}\n')
    write_atomically(tmp_path / "one.json", '{\n"step": [1]\n}')
    assert read_json(tmp_path / "rows.json", lines=True) == [{"step": 1}, {"step": 2}]
    assert read_json(tmp_path / "one.json") == {"step": [1]}


def test_a_disk_without_locks_is_written_to_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_locks(*arguments: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    write_atomically(tmp_path / "a", "one")
    (tmp_path / ".a.abcdefgh.part").write_text("may be written to now")
    write_atomically(tmp_path / "a", "two")
    assert names(tmp_path) == [".a.abcdefgh.part", "a"]
