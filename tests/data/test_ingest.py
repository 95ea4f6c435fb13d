"""Filling a cache that is killed, interrupted, shared, or lied to: whole in the end, or a clear error."""

import errno
import json
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
import pytest
import torch

from iq_offline import files
from iq_offline.data import cache, ingest
from iq_offline.data.cache import cached
from iq_offline.data.stream import Source, open_source
from iq_offline.errors import UserError
from iq_offline.files import cache_folder, resumable_folder
from tests.data_helpers import change_metadata, counting_episodes, snapshot, stored_array, tmpfs
from tests.helpers import write_dataset

LENGTHS = [4, 3, 6, 2, 5, 7]
NAME = "test/many-v0"


@pytest.fixture(autouse=True)
def a_journal_after_every_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "JOURNAL_EVERY", 0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # A killed process loses nothing that it wrote.


def many(identifier: str = NAME) -> Source:
    """A dataset of six episodes, whose numbers say where they stand."""
    return open_source(write_dataset(identifier, counting_episodes(LENGTHS)))


def uninterrupted(source: Source) -> dict[str, str]:
    """Hashes of the files of a cache that was filled at one go; it is removed again."""
    cached(source)
    whole = contents()
    cache.clear()
    return whole


def contents() -> dict[str, str]:
    """Every file of the caches, hidden ones too, by its path."""
    return {name: digest for name, digest in snapshot(cache_folder()).items() if digest}


def partial() -> Path:
    """The only folder that a killed ingestion left to go on with."""
    (folder,) = cache_folder().glob(".*.partial")
    return folder


def assert_right(source: Source) -> None:
    """The cache holds the dataset's values (which count, see ``counting_episodes``), and opens without being filled."""
    seen: list[int] = []
    data = cached(source, lambda done, total: seen.append(done))
    assert seen == []
    with h5py.File(source.path / "main_data.hdf5") as file:
        stored = [stored_array(file, i, "observations")[()] for i in range(len(LENGTHS))]
        actions = [stored_array(file, i, "actions")[()] for i in range(len(LENGTHS))]
    np.testing.assert_array_equal(data.steps["observation_0"].numpy(), np.concatenate(stored).astype(np.float32))
    padded = [np.concatenate([one, np.zeros_like(one[:1])]) for one in actions]
    np.testing.assert_array_equal(data.steps["action"].numpy(), np.concatenate(padded))
    ends = np.concatenate([[*[0.0] * (length - 1), 1.0, 0.0] for length in LENGTHS])
    np.testing.assert_array_equal(data.steps["terminated"].numpy(), ends.astype(np.float32))
    assert data.lengths.tolist() == LENGTHS
    assert data.manifest["action_min"] == np.concatenate(actions).min(0).tolist()
    assert data.manifest["action_max"] == np.concatenate(actions).max(0).tolist()


class Process:
    """A forked process that fills a cache, and stops after the episode ``hold`` until it is let go on or killed."""

    def __init__(self, source: Source, hold: int, before: Callable[[], object] = lambda: None) -> None:
        self._seen, tell = os.pipe()
        wait, self._go = os.pipe()
        self.id = os.fork()
        if not self.id:
            os.close(self._seen)
            os.close(self._go)

            def progress(done: int, total: int) -> None:
                os.write(tell, bytes([done]))
                if done == hold:
                    os.read(wait, 1)

            code = 1
            try:
                before()
                cached(source, progress)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(tell)
        os.close(wait)
        self.seen: list[int] = []
        while self.seen[-1:] != [hold] and (more := os.read(self._seen, 1)):
            self.seen += more

    def go_on(self) -> list[int]:
        """To its end; returns which episodes it was done with, all together."""
        os.write(self._go, b"x")
        assert self._ended() == 0
        return self.seen

    def kill(self) -> None:
        """At once, without a chance to tidy."""
        os.kill(self.id, signal.SIGKILL)
        assert self._ended() == -signal.SIGKILL

    def exit_code(self) -> int:
        """Of one that is not held."""
        return self._ended()

    def _ended(self) -> int:
        while more := os.read(self._seen, 100):
            self.seen += more
        os.close(self._seen)
        os.close(self._go)
        return os.waitstatus_to_exitcode(os.waitpid(self.id, 0)[1])


def killed(source: Source, hold: int) -> None:
    """An ingestion that is killed when it is done with episode ``hold``, whose journal ends one before."""
    Process(source, hold).kill()


def fill(source: Source) -> list[int]:
    """Fill the cache here; returns which episodes were read."""
    seen: list[int] = []
    cached(source, lambda done, total: seen.append(done))
    return seen


@contextmanager
def same_times(file: Path) -> Iterator[None]:
    """Change a file without a trace: to the cache it is the same dataset."""
    before = file.stat()
    yield
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def spoil(source: Source, episodes: range) -> None:
    """Make every number of the observations of some episodes NaN, unseen."""
    file = source.path / "main_data.hdf5"
    with same_times(file):
        with h5py.File(file) as opened:
            chunks = [
                stored_array(opened, i, "observations").id.get_chunk_info(k)
                for i in episodes
                for k in range(stored_array(opened, i, "observations").id.get_num_chunks())
            ]
        with open(file, "r+b") as raw:
            for chunk in chunks:
                assert chunk.byte_offset
                raw.seek(chunk.byte_offset)
                raw.write(np.full(chunk.size // 8, np.nan).tobytes())


# ---------------------------------------------------------------------------------------------------- kills


def test_finished_episodes_are_not_read_again() -> None:
    """Those in the journal are spoilt after the kill: whoever reads them again fails."""
    source = many()
    whole = uninterrupted(source)
    killed(source, 4)
    spoil(source, range(3))
    assert fill(source) == [4, 5, 6]
    assert contents() == whole
    cache.clear()
    with pytest.raises(UserError, match="not finite: 32 in observation, first in episode 0"):
        cached(source)


@pytest.mark.parametrize("hold", range(1, 7))
def test_killed_after_any_episode(hold: int) -> None:
    source = many()
    whole = uninterrupted(source)
    killed(source, hold)
    assert all(Path(name).parent == partial() for name in contents())
    assert fill(source) == list(range(hold, 7))
    assert contents() == whole
    assert_right(source)


def test_the_journal_is_written_after_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row has 20 bytes: 5 + 4 rows in the first two episodes, 7 in the third."""
    monkeypatch.setattr(ingest, "JOURNAL_EVERY", 180)
    source = many()
    whole = uninterrupted(source)
    killed(source, 3)
    assert not (partial() / "journal.json").exists()
    killed(source, 5)
    assert json.loads((partial() / "journal.json").read_text())
    spoil(source, range(3))
    assert fill(source) == [4, 5, 6]
    assert contents() == whole


def test_killed_again_and_again() -> None:
    source = many()
    whole = uninterrupted(source)
    for hold, expected in ((2, [1, 2]), (4, [2, 3, 4]), (5, [4, 5]), (6, [5, 6])):
        process = Process(source, hold)
        process.kill()
        assert process.seen == expected
    assert fill(source) == [6]
    assert contents() == whole
    assert_right(source)


def die_at_call(number: int) -> None:
    """Kill this process just before its so manyeth call that changes the disk."""
    left = number

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    for name in ("fsync", "replace", "rename", "unlink", "chmod", "posix_fallocate", "mkdir", "rmdir"):
        if hasattr(os, name):
            setattr(os, name, dying(getattr(os, name)))


def test_killed_between_any_two_calls_that_change_the_disk() -> None:
    """Before each fsync, rename, removal, … in turn; the next ends with the same bytes as an uninterrupted one."""
    source = many()
    whole = uninterrupted(source)
    number, ended = 0, -1
    while ended:
        ended = Process(source, 0, lambda: die_at_call(number)).exit_code()  # noqa: B023
        assert ended in (0, -signal.SIGKILL)
        cached(source)
        left = contents()
        for name in [name for name in left if Path(name).name == files.LOCK]:
            assert Path(name).stat().st_size == 0  # Killed after the folder had its name and before the lock was gone.
            del left[name]
        assert left == whole, f"killed before call {number}"
        assert all(
            files.LOCK not in file for file in json.loads(next(cache_folder().rglob("manifest.json")).read_text())
        )
        shutil.rmtree(cache_folder())
        number += 1
    assert number > 40


# ---------------------------------------------------------------------------------------------------- several at once


def test_one_of_two_is_killed() -> None:
    """The other ends with a whole cache; a third goes on from what the killed one left, while the second works."""
    source = many()
    whole = uninterrupted(source)
    first, second = Process(source, 4), Process(source, 2)
    first.kill()
    third = Process(source, 5)
    assert third.seen == [4, 5]
    assert third.go_on() == [4, 5, 6]
    assert second.go_on() == [1, 2, 3, 4, 5, 6]
    assert contents() == whole
    assert_right(source)


def test_the_one_without_the_journal_is_killed() -> None:
    source = many()
    whole = uninterrupted(source)
    first, second = Process(source, 2), Process(source, 4)
    second.kill()
    assert first.go_on() == [1, 2, 3, 4, 5, 6]
    assert {name: digest for name, digest in contents().items() if name in whole} == whole
    assert_right(source)
    cache.clear()
    assert list(cache_folder().iterdir()) == []


def test_many_at_once_with_kills() -> None:
    """Eight fill one cache, half of them die somewhere; it is right in the end, and nothing failed but by the kill."""
    source = many()
    for round_ in range(3):
        processes = [Process(source, 1 + (round_ + index) % 6) for index in range(8)]
        for process in processes[::2]:
            process.kill()
        for process in processes[1::2]:
            process.go_on()
        assert_right(source)
        cache.clear()


def test_different_datasets_do_not_wait_for_each_other() -> None:
    """One that is held up, by a slow disk say, blocks no other."""
    one, other = many("test/one-v0"), many("test/other-v0")
    held = Process(one, 3)
    assert fill(other) == [1, 2, 3, 4, 5, 6]
    assert_right(other)
    assert held.go_on() == [1, 2, 3, 4, 5, 6]
    assert_right(one)


def test_the_same_dataset_is_not_waited_for_either() -> None:
    source = many()
    held = Process(source, 3)
    assert fill(source) == [1, 2, 3, 4, 5, 6]
    held.go_on()
    assert_right(source)


def test_nobody_gets_into_a_folder_that_is_being_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another that comes before any of the last calls of the first gets a folder of its own, and leaves no lock."""
    path = tmp_path / "folders" / "wanted"
    tried: list[str] = []
    inside = False

    def intruding(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal inside
            if not inside and finishing:
                inside = True
                with suppress(InterruptedError), resumable_folder(path) as folder:
                    tried.append(name)
                    assert sorted(file.name for file in folder.iterdir()) in ([], [files.LOCK]), name
                    assert not (folder / "first").exists()
                    raise InterruptedError
                inside = False
            return real(*arguments, **options)

        return call

    finishing = False
    for name in ("fsync", "rename", "unlink"):
        monkeypatch.setattr(os, name, intruding(name, getattr(os, name)))
    with resumable_folder(path) as folder:
        (folder / "first").write_text("first")
        finishing = True
    finishing = False
    assert "rename" in tried
    assert sorted(file.name for file in path.iterdir()) == ["first"]
    assert [entry.name for entry in path.parent.iterdir()] == ["wanted"]


# ---------------------------------------------------------------------------------------------------- journals


def test_another_layout_does_not_go_on_from_this_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    source = many()
    killed(source, 4)
    monkeypatch.setattr(cache, "LAYOUT", cache.LAYOUT + 1)
    assert fill(source) == [1, 2, 3, 4, 5, 6]
    assert_right(source)


def test_a_dataset_that_was_written_again_is_read_again() -> None:
    """Of the same name, size and shapes, only later."""
    source = many()
    killed(source, 4)
    file = source.path / "main_data.hdf5"
    with h5py.File(file, "r+") as opened:
        stored_array(opened, 0, "observations")[:] += 1
    assert fill(source) == [1, 2, 3, 4, 5, 6]
    assert_right(source)


def test_the_journal_of_another_dataset_is_not_used() -> None:
    """Its folder under the other's name: someone tidied by hand."""
    one = many("test/one-v0")
    backwards = counting_episodes(LENGTHS)
    for episode in backwards:
        episode[0][:] *= -1
    other = open_source(write_dataset("test/other-v0", backwards))
    killed(one, 4)
    taken = partial()
    killed(other, 1)
    (theirs,) = [folder for folder in cache_folder().glob(".*.partial") if folder != taken]
    shutil.rmtree(theirs)
    taken.rename(theirs)
    assert fill(other) == [1, 2, 3, 4, 5, 6]
    assert_right(other)


def change_number(name: str, change: Callable[[Any], Any]) -> Callable[[str], str]:
    """Another value wherever in the journal that name stands."""

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: change(part) if key == name else changed(part) for key, part in value.items()}
        return value

    def damage(text: str) -> str:
        new = json.dumps(changed(json.loads(text)))
        assert new != text
        return new

    return damage


JOURNALS: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "half": lambda text: text[: len(text) // 2],
    "zeros": lambda text: "\0" * len(text),
    "a list": lambda text: "[]",
    "a number": lambda text: "7",
    "nothing in it": lambda text: "{}",
    "no digest": lambda text: json.dumps({"state": json.loads(text)["state"]}),
    "another field": change_number("state", lambda state: state | {"more": 1}),
    "a field less": change_number("state", lambda state: {"rows": state["rows"]}),
    "rows beyond the file": change_number("rows", lambda rows: 10_000),
    "too few rows": change_number("rows", lambda rows: rows - 1),
    "rows before the file": change_number("rows", lambda rows: -3),
    "no rows": change_number("rows", lambda rows: 0),
    "rows in words": change_number("rows", lambda rows: "many"),
    "rows that are a fraction": change_number("rows", lambda rows: rows + 0.5),
    "rows missing": change_number("rows", lambda rows: None),
    "lengths in another order": change_number("lengths", lambda lengths: lengths[::-1]),
    "an episode less": change_number("lengths", lambda lengths: lengths[:-1]),
    "episodes more": change_number("lengths", lambda lengths: lengths * 3),
    "lengths in words": change_number("lengths", lambda lengths: "abc"),
    "a length in words": change_number("lengths", lambda lengths: [*lengths[:-1], "6"]),
    "another smallest action": change_number("action_min", lambda low: [-7.0, -7.0]),
    "actions of another size": change_number("action_max", lambda high: [0.0]),
    "actions in words": change_number("action_max", lambda high: "high"),
    "bad values that were none": change_number("not_finite", lambda counts: {"observation": [3, 0]}),
    "bad actions that were none": change_number("not_finite_actions", lambda counts: [1, 0]),
    "counts in words": change_number("not_finite", lambda counts: "none"),
}


@pytest.mark.parametrize("damage", JOURNALS)
def test_a_damaged_journal_is_not_believed(damage: str) -> None:
    source = many()
    whole = uninterrupted(source)
    killed(source, 4)
    journal = partial() / "journal.json"
    journal.write_text(JOURNALS[damage](journal.read_text()))
    assert fill(source) == [1, 2, 3, 4, 5, 6]
    assert contents() == whole


@pytest.mark.parametrize("file", ["observation_0.memmap", "action.memmap", "terminated.memmap", "meta.json"])
@pytest.mark.parametrize("damage", ["gone", "empty", "half", "longer"])
def test_damaged_files_beside_the_journal(file: str, damage: str) -> None:
    source = many()
    whole = uninterrupted(source)
    killed(source, 4)
    path = partial() / file
    if damage == "gone":
        path.unlink()
    else:
        size = path.stat().st_size
        os.truncate(path, {"empty": 0, "half": size // 2, "longer": size + 8}[damage])
    assert fill(source) == [1, 2, 3, 4, 5, 6]
    assert contents() == whole
    assert_right(source)


def test_every_byte_of_a_journal_counts() -> None:
    """Flipped anywhere, it is not believed, or says the same."""
    source = many()
    whole = uninterrupted(source)
    killed(source, 4)
    kept = {file.name: file.read_bytes() for file in partial().iterdir()}
    folder = partial()
    text = kept["journal.json"]
    for place in range(0, len(text), 9):
        shutil.rmtree(cache_folder())
        folder.mkdir(parents=True)
        for name, data in kept.items():
            (folder / name).write_bytes(data)
        damaged = bytearray(text)
        damaged[place] ^= 1 << place % 8
        (folder / "journal.json").write_bytes(damaged)
        seen = fill(source)
        assert seen in ([1, 2, 3, 4, 5, 6], [4, 5, 6])
        assert contents() == whole, f"byte {place} of {text!r}"


# ---------------------------------------------------------------------------------------------------- other ends


def test_an_interruption_is_gone_on_with() -> None:
    source = many()
    whole = uninterrupted(source)

    def interrupt(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(source, interrupt)
    assert (partial() / "journal.json").exists()
    assert fill(source) == [4, 5, 6]
    assert contents() == whole


def test_bad_data_leave_nothing() -> None:
    source = many()
    spoil(source, range(4, 5))
    with pytest.raises(UserError, match="not finite"):
        cached(source)
    assert list(cache_folder().iterdir()) == []


def test_bad_data_before_and_after_a_kill_are_all_counted() -> None:
    """Twelve numbers in an episode that is in the journal, sixteen in one that is read after it."""
    source = many()
    spoil(source, range(1, 2))
    spoil(source, range(5, 6))
    killed(source, 4)
    with pytest.raises(UserError, match="not finite: 24 in observation, first in episode 1"):
        cached(source)
    assert list(cache_folder().iterdir()) == []


def test_an_error_of_ours_leaves_nothing() -> None:
    """Only an interruption is gone on with."""

    def fail(done: int, total: int) -> NoReturn:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        cached(many(), fail)
    assert list(cache_folder().iterdir()) == []


def test_the_disk_fills_while_the_journal_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows have their place from the beginning; what fails is the journal, or the manifest."""
    source = many()
    with tmpfs(tmp_path / "small", "1m") as disk:
        monkeypatch.setenv("IQ_OFFLINE_CACHE", str(disk / "cache"))
        filler = disk / "filler"

        def fill_disk(done: int, total: int) -> None:
            if done == 3:
                with suppress(OSError), open(filler, "wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))

        with pytest.raises(UserError, match=f"no space left while caching {NAME} in {disk}"):
            cached(source, fill_disk)
        assert list((disk / "cache").iterdir()) == []
        filler.unlink()
        assert fill(source) == [1, 2, 3, 4, 5, 6]
        assert_right(source)


def test_a_disk_that_is_too_small_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the killed one reserved is still there: going on needs no more."""
    source = many()
    with tmpfs(tmp_path / "small", "1m") as disk:
        monkeypatch.setenv("IQ_OFFLINE_CACHE", str(disk / "cache"))
        killed(source, 4)
        with suppress(OSError), open(disk / "filler", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        os.truncate(disk / "filler", (disk / "filler").stat().st_size - 65536)  # Journals, manifest.
        assert fill(source) == [4, 5, 6]
        assert_right(source)


def test_a_disk_that_is_too_small_for_what_a_kill_left_beside_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before its first journal: there is nothing to go on with, and its space is free."""
    source = open_source(write_dataset(NAME, counting_episodes([15_000, 15_000])))
    with tmpfs(tmp_path / "small", "1m") as disk:
        monkeypatch.setenv("IQ_OFFLINE_CACHE", str(disk))
        killed(source, 1)
        assert not (partial() / ingest.JOURNAL).exists()
        assert fill(source) == [1, 2]
        assert cached(source).lengths.tolist() == [15_000, 15_000]


@pytest.mark.parametrize("steps", [2**40, 2**46])
def test_more_steps_than_any_disk_holds(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said with the number that is to blame; the space that there is stays free for others meanwhile."""
    source = many()
    change_metadata(source.path, total_steps=steps)
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: pytest.fail("reserves"))
    words = rf"no space left while caching {NAME} in .*promise {steps:,} steps; iq-offline datasets check {NAME} says"
    with pytest.raises(UserError, match=words):
        cached(open_source(source.path))
    assert list(cache_folder().iterdir()) == []


def test_clear_removes_what_was_left_to_go_on_with() -> None:
    source = many()
    killed(source, 3)
    first, second = Process(source, 4), Process(source, 2)
    first.kill()
    second.kill()
    assert len(list(cache_folder().iterdir())) == 2
    assert cache.size() > 0
    assert cache.clear() > 0
    assert list(cache_folder().iterdir()) == []
    assert fill(source) == [1, 2, 3, 4, 5, 6]


def test_a_lock_is_neither_in_a_finished_cache_nor_in_its_manifest() -> None:
    source = many()
    killed(source, 3)
    assert (partial() / files.LOCK).exists(), "left by the killed one"
    data = cached(source)
    (folder,) = cache_folder().iterdir()
    names = {file.name for file in folder.iterdir()}
    assert names == {"manifest.json", *data.manifest["files"]}
    assert names == {"manifest.json", "meta.json", *(f"{name}.memmap" for name in data.steps)}
    assert torch.equal(data.steps["terminated"].unique(), torch.tensor([0.0, 1.0]))


def test_clear_leaves_what_is_being_filled() -> None:
    """It would kill the training that fills it, or a third would begin to fill under the first one's hands."""
    source = many()
    whole = uninterrupted(source)
    first, second = Process(source, 3), Process(source, 2)
    finished = cache_folder() / ("0" * 20)
    finished.mkdir()
    (finished / "manifest.json").write_text("{}")
    cache.clear()
    assert not finished.exists()
    assert len(list(cache_folder().iterdir())) == 2
    first.go_on()
    second.go_on()
    assert contents() == whole


def test_a_folder_that_is_removed_by_hand_while_it_is_filled(tmp_path: Path) -> None:
    """Whoever comes next gets the name; the first one's work is not mixed with its."""
    path, partial = tmp_path / "wanted", tmp_path / ".wanted.partial"

    def fill() -> None:
        with resumable_folder(path):
            shutil.rmtree(partial)
            with suppress(KeyboardInterrupt), resumable_folder(path) as other:
                (other / "mine").write_text("half")
                raise KeyboardInterrupt

    with pytest.raises(UserError, match="was removed while it was being filled: try again"):
        fill()
    assert (partial / "mine").read_text() == "half"
    assert not path.exists()


def test_where_a_disk_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with resumable_folder(tmp_path / "wanted") as folder:
        (folder / "file").write_text("whole")
    assert (tmp_path / "wanted" / "file").read_text() == "whole"
