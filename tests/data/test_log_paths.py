"""Which files an import reads, in which order, and what it will not leave out in silence."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from iq_offline.data.log_paths import find_files
from iq_offline.errors import UserError


def folder_of(path: Path, names: Sequence[str]) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).touch()
    return path


def found(sources: Sequence[str | Path], folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in find_files([str(source) for source in sources])]


NUMBERED = ["part-1.csv", "part-2.csv", "part-10.csv"]


def test_files_come_in_the_order_of_their_numbers_however_they_are_named(tmp_path: Path) -> None:
    """A shell puts part-10 before part-2."""
    folder_of(tmp_path, [*NUMBERED, "notes.txt", ".part-3.csv"])
    one_by_one = [tmp_path / name for name in ("part-10.csv", "part-1.csv", "part-2.csv", "part-1.csv")]
    assert found(one_by_one, tmp_path) == NUMBERED
    assert found([tmp_path], tmp_path) == found([tmp_path / "*"], tmp_path) == NUMBERED
    assert found([tmp_path / "part-10.csv", tmp_path / "*[12].csv"], tmp_path) == NUMBERED
    assert found([tmp_path / "part-10.csv"], tmp_path) == NUMBERED[2:]


def test_a_number_that_is_no_digit_is_a_word(tmp_path: Path) -> None:
    folder_of(tmp_path, ["²/1.csv", "²/2.csv"])
    assert found([tmp_path / "²"], tmp_path) == ["²/1.csv", "²/2.csv"]


@pytest.mark.parametrize("source", ["", "*", "part-*"])
@pytest.mark.parametrize("name", ["part-3.csv.gz", "part-3.CSV.zst", "part-3.ndjson.bz2", "part-3.jsonl.xz"])
def test_compressed_files_are_not_left_out_in_silence(name: str, source: str, tmp_path: Path) -> None:
    folder_of(tmp_path, [*NUMBERED, name])
    with pytest.raises(UserError, match=rf"{re.escape(name)} is compressed: unpack it, or name the files"):
        find_files([str(tmp_path / source)])
    assert found([tmp_path / "*.csv"], tmp_path) == NUMBERED


@pytest.mark.parametrize("source", ["", "*"])
@pytest.mark.parametrize("name", ["sub/part-3.csv", "sub/deep/part-3.csv", "sub.csv/part-3.csv"])
def test_folders_inside_are_not_left_out_in_silence(name: str, source: str, tmp_path: Path) -> None:
    folder_of(tmp_path, [*NUMBERED, name])
    whole, direct = str(tmp_path / "**" / "*.csv"), str(tmp_path / "*.csv")
    with pytest.raises(UserError) as caught:
        find_files([str(tmp_path / source)])
    assert str(caught.value).endswith(
        f"{name} lies in a folder inside: say {whole!r} to read it too, {direct!r} to leave it out"
    )
    if not name.startswith("sub.csv"):
        assert found([direct], tmp_path) == NUMBERED
    assert found([whole], tmp_path) == [*NUMBERED, name]


def test_other_things_inside_are_passed_over(tmp_path: Path) -> None:
    folder_of(tmp_path, [*NUMBERED, ".old/part-0.csv", "sub/.part-0.csv", "sub/notes.txt", "notes.txt.gz", ".b.csv.gz"])
    assert found([tmp_path], tmp_path) == found([tmp_path / "*"], tmp_path) == NUMBERED


def test_no_files_at_all() -> None:
    """As the last word of a command they would be taken for the names of columns."""
    with pytest.raises(UserError, match="no files given: name them before --observation and --action, which take"):
        find_files([])
