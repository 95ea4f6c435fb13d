"""Checkpoints: round trips, damage, and disks that are full."""

import errno
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from iq_offline.errors import UserError
from iq_offline.training import checkpoint
from tests.training.program import assert_same_tensors

CHECKOUT = Path(__file__).parents[2]


def some_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All kinds of tensors that a training saves, and more."""
    torch.manual_seed(0)
    tensors = {
        "learner/parameters/actor/0.weight": torch.randn(5, 3),
        "learner/parameters/actor/0.weight transposed": torch.randn(3, 5).t(),
        "learner/parameters/critic/0.bias": torch.randn(4).double().requires_grad_(),
        "learner/step": torch.tensor(12),
        "sums/critic/loss": torch.tensor(-0.0),
        "odd": torch.tensor([float("nan"), float("inf"), -float("inf"), 1e-45]),
        "empty": torch.zeros(0, 3),
        "random/noise": torch.Generator().manual_seed(3).get_state(),
        "flags": torch.tensor([True, False]),
    }
    return tensors, {"step": 12, "seconds": 1.5, "words": "größer", "nested": {"list": [1, 2.5, None]}}


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype
        and value.shape == other[name].shape
        and value.detach().contiguous().numpy().tobytes() == other[name].detach().contiguous().numpy().tobytes()
        for name, value in one.items()
    )


def test_round_trip(tmp_path: Path):
    tensors, values = some_state()
    file = tmp_path / "deep" / "latest.safetensors"
    checkpoint.save(file, tensors, values)
    loaded, loaded_values = checkpoint.load(file)
    assert same_bits(loaded, tensors)
    assert loaded_values == values
    assert [entry.name for entry in file.parent.iterdir()] == ["latest.safetensors"]


def test_a_restored_generator_goes_on_where_it_was(tmp_path: Path):
    generator = torch.Generator().manual_seed(5)
    torch.randn(7, generator=generator)
    checkpoint.save(tmp_path / "file", {"random": generator.get_state()}, {})
    expected = torch.randn(5, generator=generator)
    again = torch.Generator()
    again.set_state(checkpoint.load(tmp_path / "file")[0]["random"])
    assert torch.equal(torch.randn(5, generator=again), expected)


def test_saving_replaces_the_whole(tmp_path: Path):
    checkpoint.save(tmp_path / "file", {"old": torch.zeros(3)}, {"step": 1})
    checkpoint.save(tmp_path / "file", {"new": torch.ones(2)}, {"step": 2})
    tensors, values = checkpoint.load(tmp_path / "file")
    assert_same_tensors(tensors, {"new": torch.ones(2)})
    assert values == {"step": 2}


def save_many(folder: Path, step: int, count: int = 3) -> None:
    checkpoint.save_all(
        {folder / str(i) / "latest.safetensors": ({"i": torch.tensor([i, step])}, {"step": step}) for i in range(count)}
    )


def settled(folder: Path, count: int = 3) -> list[int]:
    """The steps of the checkpoints after settling; nothing else is left beside them."""
    files = [folder / str(i) / "latest.safetensors" for i in range(count)]
    checkpoint.settle(files)
    assert all(list(file.parent.iterdir()) == [file] for file in files if file.exists())
    loaded = [checkpoint.load(file) for file in files if file.exists()]
    for i, (tensors, values) in enumerate(loaded):
        assert tensors["i"].tolist() == [i, values["step"]]
    return [values["step"] for _, values in loaded]


def test_one_that_had_ended_before_does_not_part_the_others(tmp_path: Path):
    """Three are known; the third's run had failed at step 10, and the process was killed between two renames."""
    save_many(tmp_path, 10)
    save_many(tmp_path, 20, count=2)
    second = tmp_path / "1" / "latest.safetensors"
    second.rename(second.with_suffix(".pending"))
    checkpoint.save(second, {"i": torch.tensor([1, 10])}, {"step": 10})
    assert settled(tmp_path) == [20, 20, 10]


class KilledError(BaseException):
    """As if the process had ended here."""


@pytest.mark.parametrize("before", [0, 20])
@pytest.mark.parametrize("survived", range(7))
def test_several_are_replaced_together_or_not_at_all(
    survived: int, before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Killed before each of the renames: three that end a pending file, three that put it in its place."""
    if before:
        save_many(tmp_path, before)
    left, replace = survived, os.replace

    def fail(*arguments: Any, **options: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:

        def killed(*paths: Any) -> None:
            nonlocal left
            if left == 0:
                patch.setattr(Path, "unlink", fail)  # Who is dead does not clean up.
                raise KilledError
            left -= 1
            replace(*paths)

        patch.setattr(os, "replace", killed)
        if survived < 6:
            with pytest.raises(KilledError):
                save_many(tmp_path, 40)
        else:
            save_many(tmp_path, 40)
    for file in tmp_path.rglob(".latest*"):  # Temporary names, which nobody reads.
        file.unlink()
    assert settled(tmp_path) == [40 if survived >= 3 else 20] * (3 if before or survived >= 3 else 0)
    save_many(tmp_path, 60)
    assert settled(tmp_path) == [60] * 3


def test_of_a_full_disk_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not even the files of those that were written before it was full."""
    save_many(tmp_path, 20)
    write, writes = checkpoint.write_atomically, 0

    def full(*arguments: Any) -> None:
        nonlocal writes
        writes += 1
        if writes == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomically", full)
        with pytest.raises(UserError, match="no space left while writing a checkpoint"):
            save_many(tmp_path, 40)
    assert not list(tmp_path.rglob("*.pending"))
    assert settled(tmp_path) == [20] * 3


def test_one_that_is_settled_alone_keeps_what_was_written_whole(tmp_path: Path):
    file = tmp_path / "run" / "latest.safetensors"
    checkpoint.save(file, {}, {"step": 20})
    checkpoint.save(file.with_suffix(".pending"), {}, {"step": 40})
    checkpoint.settle([file])
    assert checkpoint.load(file)[1] == {"step": 40}
    assert list(file.parent.iterdir()) == [file]


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path: Path):
    """All bytes of the header, and every few of the tensors."""
    tensors, values = some_state()
    file = tmp_path / "latest.safetensors"
    checkpoint.save(file, tensors, values)
    whole = file.read_bytes()
    header_size = 8 + int.from_bytes(whole[:8], "little")
    assert header_size < 3000
    assert checkpoint.FORMAT.encode() in whole[:header_size]
    generator = random.Random(0)
    unnoticed = []
    for position in [*range(header_size), *range(header_size, len(whole), 41)]:
        damaged = bytearray(whole)
        damaged[position] ^= generator.choice([0x01, 0x20, 0x80, 0xFF])
        file.write_bytes(damaged)
        try:
            loaded, loaded_values = checkpoint.load(file)
        except UserError as error:
            if str(file) not in str(error):
                unnoticed.append((position, f"the file is not named in: {error}"))
        except Exception as error:  # Collected: each is a traceback in a user's face.
            unnoticed.append((position, repr(error)))
        else:
            if not same_bits(loaded, tensors) or loaded_values != values:
                unnoticed.append((position, "loaded something else"))
    assert unnoticed == []


def test_the_same_state_is_saved_as_the_same_bytes(tmp_path: Path):
    for name in ("one", "two", "three"):
        checkpoint.save(tmp_path / name, *some_state())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == (tmp_path / "three").read_bytes()


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, -300, -1])
def test_a_cut_file_is_a_user_error(keep: int, tmp_path: Path):
    file = tmp_path / "latest.safetensors"
    checkpoint.save(file, *some_state())
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"latest\.safetensors"):
        checkpoint.load(file)


def test_foreign_and_missing_files_are_user_errors(tmp_path: Path):
    (tmp_path / "plain").write_bytes(safetensors.torch.save({"weight": torch.zeros(2)}))
    (tmp_path / "other").write_bytes(
        safetensors.torch.save({"weight": torch.zeros(2)}, {"format": "iq_offline.policy/1"})
    )
    (tmp_path / "pickle").write_bytes(b"\x80\x04\x95" + bytes(200))
    for name in ("plain", "other", "pickle", "missing"):
        with pytest.raises(UserError, match=name):
            checkpoint.load(tmp_path / name)


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from iq_offline.errors import UserError
from iq_offline.training import checkpoint

file = Path(sys.argv[1])
checkpoint.save(file, {"weight": torch.ones(10)}, {"step": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save(file, {"weight": torch.zeros(100_000)}, {"step": 2})
except UserError as error:
    print(error)
    sys.exit(7)
"""


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path):
    file = tmp_path / "latest.safetensors"
    command = [sys.executable, "-c", FULL_DISK, str(file)]
    result = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 7, result.stderr
    assert "no space left" in result.stdout
    assert str(tmp_path) in result.stdout
    tensors, values = checkpoint.load(file)
    assert_same_tensors(tensors, {"weight": torch.ones(10)})
    assert values == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["latest.safetensors"]
