"""Data that are larger than one would like: python benchmarks/scale.py [--episodes 10000] [--steps 1000].

Writes a synthetic Minari dataset (17 float32 observations, 6 float32 actions: about 1 GB of tensors at ten million
transitions), then measures, each in a process of its own where memory counts:

    ingest      resident memory at its peak, all of it and the part that belongs to no file, and seconds
    kill        SIGKILL when half of the episodes are in, then the same command again: share of the work it did anew
    batch       drawing 256 transitions from the memory-mapped cache / from the same selection held in RAM, disk warm
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import torch
from minari.data_collector import EpisodeBuffer

from iq_offline.data import replay as replays
from iq_offline.data.cache import cached
from iq_offline.data.replay import Replay, select, tables_of
from iq_offline.data.spaces import ObservationEncoder, chosen_leaves
from iq_offline.data.stream import open_source
from iq_offline.provenance import git_commit, package_versions

RESULTS = Path(__file__).parent / "results" / "scale.ndjson"
ID = "benchmark/scale-v0"

INGEST = """
import sys, time
from pathlib import Path
from iq_offline.data.cache import cached
from iq_offline.data.stream import open_source
start = time.perf_counter()
first = []
def progress(done, total):
    first.append(done)
    if len(first) % 50 == 1:
        print(done, flush=True)
cached(open_source(Path(sys.argv[1])), progress)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print("RESULT", first[0], time.perf_counter() - start, status["VmHWM"].split()[0], flush=True)
"""


def write_dataset(root: Path, episodes: int, steps: int) -> Path:
    """Minari writes the first episode and the metadata; the others are added to its file as Minari would."""
    generator = np.random.default_rng(0)
    observations = generator.standard_normal((steps + 1, 17)).astype(np.float32)
    actions = generator.uniform(-1, 1, (steps, 6)).astype(np.float32)
    buffer = EpisodeBuffer(
        observations=observations,  # type: ignore[arg-type]
        actions=actions,  # type: ignore[arg-type]
        rewards=[0.0] * steps,
        terminations=[False] * steps,
        truncations=[False] * (steps - 1) + [True],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            ID,
            [buffer],
            observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (17,), np.float32),
            action_space=gymnasium.spaces.Box(-1, 1, (6,), np.float32),
        )
    path = root / ID / "data"
    with h5py.File(path / "main_data.hdf5", "a", track_order=True) as file:
        for index in range(1, episodes):
            group = file.create_group(f"episode_{index}")
            group.attrs["id"], group.attrs["total_steps"] = index, steps
            group.create_dataset("observations", data=observations + np.float32(index))
            group.create_dataset("actions", data=actions)
            group.create_dataset("rewards", data=np.zeros(steps))
            for name in ("terminations", "truncations"):
                group.create_dataset(name, data=np.zeros(steps, bool))
    metadata = json.loads((path / "metadata.json").read_text())
    metadata |= {"total_episodes": episodes, "total_steps": episodes * steps}
    (path / "metadata.json").write_text(json.dumps(metadata))
    return path


def ingest(path: Path, kill_at: int | None = None) -> tuple[int, float, float] | None:
    """Run the ingestion: first episode it reported, seconds, megabytes at the peak; None if it was killed."""
    process = subprocess.Popen([sys.executable, "-c", INGEST, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        words = line.split()
        if words[0] == "RESULT":
            process.wait()
            return int(words[1]), float(words[2]), int(words[3]) / 1024
        if kill_at is not None and int(words[0]) >= kill_at:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return None
    raise RuntimeError("the ingestion failed")


def batch_microseconds(path: Path, held: bool) -> float:
    """Of a batch of 256 out of all transitions."""
    data = cached(open_source(path))
    encoder = ObservationEncoder(chosen_leaves(data.source.observation_space, (), ID))
    replays.MEMORY_SHARE = 0.9 if held else 0.0
    kinds = {"expert": [select(data, None, 1, np.random.default_rng(0))]}
    tables = tables_of([kinds], encoder)
    assert tables[0].is_held == held
    replay = Replay(kinds, {"expert": 256}, 0, tables)
    for _ in range(2000):
        replay.sample()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(2000):
            replay.sample()
        times.append((time.perf_counter() - start) / 2000)
    return 1e6 * float(np.median(times))


def main() -> None:
    """Measure, print, and keep the row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=1_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    os.environ |= {"MINARI_DATASETS_PATH": str(folder / "datasets"), "IQ_OFFLINE_CACHE": str(folder / "cache")}
    try:
        path = write_dataset(folder / "datasets", arguments.episodes, arguments.steps)
        whole = ingest(path)
        shutil.rmtree(folder / "cache")
        ingest(path, kill_at=arguments.episodes // 2)
        resumed = ingest(path)
        for file in (folder / "cache").rglob("*.memmap"):  # Warm.
            file.read_bytes()
        mapped, held = batch_microseconds(path, False), batch_microseconds(path, True)
    finally:
        shutil.rmtree(folder)
    assert whole is not None
    assert resumed is not None
    row = {
        "transitions": arguments.episodes * arguments.steps,
        "ingest_seconds": whole[1],
        "peak_megabytes": whole[2],
        "killed_at_episode": arguments.episodes // 2,
        "resumed_from_episode": resumed[0],
        "resumed_seconds": resumed[1],
        "resumed_peak_megabytes": resumed[2],
        "batch_mapped_microseconds": mapped,
        "batch_held_microseconds": held,
        "batch_ratio": mapped / held,
        "commit": git_commit(),
        "versions": package_versions(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(row) + "\n")
    for name, value in row.items():
        if name not in ("commit", "versions"):
            print(f"{name:28} {value:,.2f}")


if __name__ == "__main__":
    main()
