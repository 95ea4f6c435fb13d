"""Datasets damaged at random, read by the package and by plain h5py or Minari: ``python -m tests.data.fuzz_program``.

Prints a line of JSON a case: which damage, and what came of it, one of

    refused   a UserError, in words
    same      read, and equal to what h5py (or Minari) reads from the same damaged files
    wrong     read, and different from that
    leaked    another exception than a UserError
    crashed   the process died
    hung      it did not end in time
    as h5py   as one of the last three, and so does h5py alone: HDF5 2.0 reads forever where a global heap (which only
              pictures kept as JPEG have) is zeroed, and hands out memory never written where a chunk's size is;
              Arrow 26 aborts where a list ends before it begins

The program imports once and forks a worker, which works through the cases until one of them ends it; then it forks
the next, which starts after that case.
"""

import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text, Tuple
from minari import MinariDataset
from minari.serialization import deserialize_space
from PIL import Image

from iq_offline.data.cache import cached
from iq_offline.data.stream import open_source
from iq_offline.errors import UserError
from tests.data_helpers import counting_episodes, write_spaces_dataset
from tests.helpers import write_dataset
from tests.space_helpers import leaves

SECONDS = 3
"""Of computing, for one case; a case takes a hundredth of that."""

BYTES = 6_000_000_000
"""Address space of a worker: who asks for more gets a MemoryError, where a user's machine would begin to swap."""

MIXED = Dict(
    {
        "state": Dict({"position": Box(-1, 1, (2,), np.float64), "mode": Discrete(3, start=1)}),
        "pair": Tuple((MultiDiscrete([2, 3]), Box(-5, 5, (1,), np.float32))),
        "said": Text(5),
    }
)


def write(kind: str) -> Path:
    """A small dataset of one kind."""
    name, lengths = f"test/{kind}-v0", (4, 7, 5)
    if kind in ("plain", "arrow"):
        return write_dataset(name, counting_episodes(lengths), data_format="hdf5" if kind == "plain" else "arrow")
    if kind == "mixed":
        return write_spaces_dataset(name, MIXED, Box(-1, 1, (2,)), lengths=lengths)
    if kind == "discrete":
        return write_spaces_dataset(name, Discrete(5), Discrete(3, start=-1), lengths=lengths)
    side = 32 if kind == "jpeg" else 8  # Minari compresses from 32 on.
    return write_spaces_dataset(name, Box(0, 255, (side, side, 3), np.uint8), Box(-1, 1, (1,)), lengths=(3, 4))


KINDS = ("plain", "mixed", "discrete", "pixels", "jpeg", "arrow")

# ---------------------------------------------------------------------------------------------------- damages


def flip_bits(data: bytearray, generator: np.random.Generator) -> None:
    """One to three bits, each in any byte."""
    for place in generator.integers(0, len(data), generator.integers(1, 4)):
        data[place] ^= 1 << int(generator.integers(8))


def change_used_byte(data: bytearray, generator: np.random.Generator) -> None:
    """A byte that is not zero: in what describes the file rather than in its empty parts."""
    used = np.flatnonzero(np.frombuffer(data, np.uint8))
    data[int(generator.choice(used))] = int(generator.integers(256))


def change_several(data: bytearray, generator: np.random.Generator) -> None:
    """A run of up to eight bytes gets values that are often special: an address, a size, a number of dimensions."""
    place, count = int(generator.integers(len(data))), int(generator.choice([1, 2, 4, 8]))
    if generator.random() < 0.5:
        used = np.flatnonzero(np.frombuffer(data, np.uint8))
        place = int(generator.choice(used))
    value = int(generator.choice([0, 0xFF, 0x7F, 1, int(generator.integers(256))]))
    piece = bytes([value] * min(count, len(data) - place))
    data[place : place + len(piece)] = piece


def truncate(data: bytearray, generator: np.random.Generator) -> None:
    """The end is missing."""
    del data[int(generator.integers(len(data))) :]


def zero_block(data: bytearray, generator: np.random.Generator) -> None:
    """A block that was never written."""
    place, size = _block(data, generator)
    data[place : place + size] = bytes(size)


def copy_block(data: bytearray, generator: np.random.Generator) -> None:
    """A block stands where another should."""
    place, size = _block(data, generator)
    source = int(generator.integers(len(data) - size + 1))
    data[place : place + size] = data[source : source + size]


def insert_block(data: bytearray, generator: np.random.Generator) -> None:
    """A block stands there twice, and everything after it too late."""
    place, size = _block(data, generator)
    data[place:place] = data[place : place + size]


def _block(data: bytearray, generator: np.random.Generator) -> tuple[int, int]:
    size = min(int(2 ** generator.uniform(3, 12)), len(data))
    place = int(generator.integers(len(data) - size + 1))
    if generator.random() < 0.5:  # As disks do it.
        place = min(place // 512 * 512, len(data) - size)
    return place, size


DAMAGES: list[Callable[[bytearray, np.random.Generator], None]] = [
    *[flip_bits, change_used_byte, change_several] * 2,
    truncate,
    zero_block,
    copy_block,
    insert_block,
]


def damage(folder: Path, generator: np.random.Generator) -> str:
    """Damage one file of a dataset; returns how, in words."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.stat().st_size)
    data_files = [file for file in files if file.name != "metadata.json"]
    chosen = files if generator.random() < 0.3 else data_files
    file = chosen[int(generator.integers(len(chosen)))]
    how = DAMAGES[int(generator.integers(len(DAMAGES)))]
    data = bytearray(file.read_bytes())
    how(data, generator)
    file.write_bytes(data)
    return f"{how.__name__} in {file.relative_to(folder)}"


# ---------------------------------------------------------------------------------------------------- reading


def expected(folder: Path) -> dict[str, np.ndarray]:
    """The rows of a cache as they follow from plain h5py's or Minari's reading, and the metadata alone."""
    metadata = json.loads((folder / "metadata.json").read_text())
    observation_space = deserialize_space(metadata["observation_space"])
    action_space = deserialize_space(metadata["action_space"])
    rows: dict[str, list[np.ndarray]] = {}
    count = int(metadata["total_episodes"])
    read = _read_by_h5py if metadata.get("data_format", "hdf5") == "hdf5" else _read_by_minari
    for observations, actions, terminations in read(folder, metadata, observation_space, count):
        parts = [(space, part) for _, space, part in leaves(observation_space, observations) if part is not None]
        for index, (space, part) in enumerate(parts):
            rows.setdefault(f"observation_{index}", []).append(_stored(space, np.asarray(part)))
        acts = _stored(action_space, np.asarray(actions))
        rows.setdefault("action", []).append(np.concatenate([acts, np.zeros_like(acts[:1])]))
        rows.setdefault("terminated", []).append(np.append(np.asarray(terminations).astype(np.float32), 0))
    return {name: np.concatenate(arrays) for name, arrays in rows.items()}


def _read_by_h5py(folder: Path, metadata: dict[str, Any], space: Any, count: int) -> Any:
    jpeg = metadata.get("jpeg_encoding", True)

    def read(group: h5py.Group, name: str, part: Any) -> Any:
        if isinstance(part, Dict):
            return {key: read(cast(h5py.Group, group[name]), key, inner) for key, inner in part.spaces.items()}
        if isinstance(part, Tuple):
            inside = cast(h5py.Group, group[name])
            return tuple(read(inside, f"_index_{i}", inner) for i, inner in enumerate(part.spaces))
        if isinstance(part, Text):
            return None  # Nobody learns from words: they are not read.
        values = cast(h5py.Dataset, group[name])[()]
        if jpeg and isinstance(part, Box) and part.dtype == np.uint8 and len(part.shape) == 3 and part.shape[0] > 31:
            return np.stack([np.array(Image.open(io.BytesIO(row.tobytes()))) for row in values])
        return values

    with h5py.File(folder / "main_data.hdf5") as file:
        for index in range(count):
            group = cast(h5py.Group, file[f"episode_{index}"])
            yield (
                read(group, "observations", space),
                *(cast(h5py.Dataset, group[name])[()] for name in ("actions", "terminations")),
            )


def _read_by_minari(folder: Path, metadata: dict[str, Any], space: Any, count: int) -> Any:
    for episode in MinariDataset(folder).iterate_episodes(list(range(count))):
        yield episode.observations, episode.actions, episode.terminations


def _stored(space: Any, values: np.ndarray) -> np.ndarray:
    rows = values.reshape(len(values), -1)
    if isinstance(space, Discrete):
        return rows.astype(np.int64) - space.start
    if isinstance(space, MultiDiscrete):
        return rows.astype(np.int64) - space.start.reshape(-1)
    with np.errstate(over="ignore"):
        return rows.astype(np.uint8 if space.dtype == np.uint8 else np.float32)


def outcome(folder: Path) -> tuple[str, str]:
    """What the package makes of a dataset, held against the other reading."""
    try:
        data = cached(open_source(folder))
    except UserError as error:
        return "refused", str(error)
    except Exception:
        return "leaked", traceback.format_exc()
    try:
        rows = expected(folder)
    except Exception:
        return "wrong", "read, where the other reading fails: " + traceback.format_exc()
    if rows.keys() != data.steps.keys():
        return "wrong", f"{sorted(rows)} and {sorted(data.steps)}"
    for name, values in rows.items():
        mine = data.steps[name].numpy()
        if mine.shape != values.reshape(mine.shape).shape or not np.array_equal(
            mine, values.reshape(mine.shape), equal_nan=True
        ):
            if has_cut_chunks(folder):
                return "as h5py", f"{name}: a chunk that is not stored whole"
            return "wrong", f"{name}: {mine.ravel()[:20]} and {values.ravel()[:20]}"
    return "same", ""


def has_cut_chunks(folder: Path) -> bool:
    """Whether the index of an array that is not compressed says of a chunk that less of it is stored than it holds."""
    cut = []

    def look(name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset) and found.chunks and not found.id.get_create_plist().get_nfilters():
            whole = int(np.prod(found.chunks)) * found.id.get_type().get_size()
            chunks = [found.id.get_chunk_info(index) for index in range(found.id.get_num_chunks())]
            cut.extend(name for chunk in chunks if chunk.size != whole)

    with suppress(Exception), h5py.File(folder / "main_data.hdf5") as file:
        for index in range(len(file)):
            for name in ("observations", "actions", "terminations"):
                part = cast(h5py.Group, file[f"episode_{index}"])[name]
                look(name, part)
                if isinstance(part, h5py.Group):
                    part.visititems(look)
    return bool(cut)


def limit() -> None:
    """What a worker may take."""
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # Also ends what never comes back from C.
    warnings.simplefilter("ignore")


def ends_h5py_too(pristine: Path, kind: str, seed: int, case: int) -> bool:
    """Whether plain reading dies of the same damage, or never ends."""
    worker = os.fork()
    if not worker:
        limit()
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(shutil.copytree(pristine, f"{temporary}/data"))
            damage(folder, np.random.default_rng((seed, KINDS.index(kind), case)))
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            with suppress(Exception):
                expected(folder)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) < 0


def work(pristine: Path, kind: str, seed: int, first: int, count: int) -> None:
    """The cases from ``first`` on; reports the start of each, for the case that it is also the end."""
    limit()
    os.fsync = lambda descriptor: None  # No test of the disk.
    for case in range(first, count):
        generator = np.random.default_rng((seed, KINDS.index(kind), case))
        with tempfile.TemporaryDirectory() as temporary:
            os.environ["IQ_OFFLINE_CACHE"] = f"{temporary}/cache"
            folder = Path(shutil.copytree(pristine, f"{temporary}/data"))
            how = damage(folder, generator)
            print(json.dumps({"case": case, "how": how}), flush=True)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            result, detail = outcome(folder)
            signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps({"case": case, "how": how, "result": result, "detail": detail}), flush=True)


def run(kind: str, seed: int, count: int) -> None:
    """All cases of a kind, one worker after the other; each case is printed once."""
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["MINARI_DATASETS_PATH"] = temporary
        ready = os.fork()
        if not ready:
            write(kind)
            os._exit(0)
        os.waitpid(ready, 0)
        pristine = Path(temporary) / "test" / f"{kind}-v0" / "data"
        first = 0
        while first < count:
            reading, writing = os.pipe()
            worker = os.fork()
            if not worker:
                os.close(reading)
                os.dup2(writing, 1)
                try:
                    work(pristine, kind, seed, first, count)
                finally:
                    sys.stdout.flush()
                    os._exit(0)
            os.close(writing)
            last: dict[str, Any] = {"case": first - 1, "result": "none"}
            with open(reading) as lines:
                for line in lines:
                    last = json.loads(line)
                    if "result" in last:
                        print(json.dumps({"kind": kind, "seed": seed} | last), flush=True)
            status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
            if "result" not in last:
                ended = {
                    "result": "hung" if status == -signal.SIGPROF else "crashed",
                    "detail": f"exit status {status}",
                }
                if ends_h5py_too(pristine, kind, seed, last["case"]):
                    ended["result"] = "as h5py"
                print(json.dumps({"kind": kind, "seed": seed} | last | ended), flush=True)
            elif last["case"] != count - 1:
                raise RuntimeError(f"a worker ended after {last}, status {status}")
            first = last["case"] + 1


if __name__ == "__main__":
    for each in sys.argv[3:] or KINDS:
        run(each, int(sys.argv[1]), int(sys.argv[2]))
