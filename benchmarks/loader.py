"""How fast data come in, as ratios within one run: python benchmarks/loader.py [--episodes 1000] [--steps 1000].

Writes a synthetic Minari dataset (11 float64 observations, 3 float32 actions, rewards) into a temporary folder and
compares, medians of the repetitions, files warm in the page cache:

    ingest     making the cache / reading the same leaves (observations, actions, terminations) with h5py
    reopen     making the cache / opening it again
    batch      drawing a batch of 256 / five index_select calls on plain tensors
    memory     growth of anonymous resident memory (RssAnon: without the page cache) while making the cache
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import torch
from minari.data_collector import EpisodeBuffer

from iq_offline.data.cache import CachedSource, cached, clear
from iq_offline.data.replay import Replay, select, tables_of
from iq_offline.data.spaces import ObservationEncoder, chosen_leaves
from iq_offline.data.stream import Source, open_source
from iq_offline.provenance import git_commit, package_versions

RESULTS = Path(__file__).parent / "results" / "loader.ndjson"


def write_dataset(episodes: int, steps: int) -> None:
    """The synthetic dataset, through Minari."""
    generator = np.random.default_rng(0)
    buffers = [
        EpisodeBuffer(
            observations=generator.standard_normal((steps + 1, 11)),  # type: ignore[arg-type]
            actions=generator.uniform(-1, 1, (steps, 3)).astype(np.float32),  # type: ignore[arg-type]
            rewards=generator.standard_normal(steps).tolist(),
            terminations=[False] * steps,
            truncations=[False] * (steps - 1) + [True],
        )
        for _ in range(episodes)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            "benchmark/loader-v0",
            buffers,
            observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (11,), np.float64),
            action_space=gymnasium.spaces.Box(-1, 1, (3,), np.float32),
        )


def read_leaves(source: Source) -> None:
    """What h5py takes for the leaves that the cache is made of."""
    with h5py.File(source.path / "main_data.hdf5") as file:
        for index in range(source.total_episodes):
            group = file[f"episode_{index}"]
            for name in ("observations", "actions", "terminations"):
                group[name][()]  # type: ignore[index]


def seconds(action: Callable[[], object], calls: int = 1) -> float:
    """Wall-clock seconds of one call, averaged over ``calls``."""
    start = time.perf_counter()
    for _ in range(calls):
        action()
    return (time.perf_counter() - start) / calls


def anonymous_megabytes() -> float:
    """Resident memory of this process that belongs to no file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this system does not report RssAnon")


def peak_growth(action: Callable[[], object]) -> float:
    """Megabytes by which anonymous memory grew at most during a call, sampled every 2 ms."""
    peak = start = anonymous_megabytes()
    running = True

    def watch() -> None:
        nonlocal peak
        while running:
            peak = max(peak, anonymous_megabytes())
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    action()
    running = False
    thread.join()
    return peak - start


def measure_batch(data: CachedSource) -> tuple[float, float]:
    """Seconds for a batch of 256, and for five plain index_select calls of as many rows."""
    encoder = ObservationEncoder(chosen_leaves(data.source.observation_space, (), data.source.id))
    kinds = {"expert": [select(data, None, 1, np.random.default_rng(0))]}
    replay = Replay(kinds, {"expert": 256}, 0, tables_of([kinds], encoder))
    columns = [torch.randn(data.steps["action"].shape[0], size) for size in (11, 3, 11, 1, 1)]
    draws = cycle(torch.randint(len(columns[0]), (256,)) for _ in range(2000))  # New rows each time, as in training.

    def plain() -> None:
        rows = next(draws)
        for column in columns:
            column.index_select(0, rows)

    for action in (replay.sample, plain):  # Warm-up.
        seconds(action, 200)
    return seconds(replay.sample, 2000), seconds(plain, 2000)


def main() -> None:
    """Measure, print, and append the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    os.environ |= {"MINARI_DATASETS_PATH": str(folder / "datasets"), "IQ_OFFLINE_CACHE": str(folder / "cache")}
    try:
        write_dataset(arguments.episodes, arguments.steps)
        source = open_source(folder / "datasets/benchmark/loader-v0/data")
        read_leaves(source)
        memory = peak_growth(lambda: cached(source))
        rows = []
        for repetition in range(arguments.repetitions):
            clear()
            reading, ingesting = seconds(lambda: read_leaves(source)), seconds(lambda: cached(source))
            reopening = seconds(lambda: cached(source), 20)
            batch, plain = measure_batch(cached(source))
            row = {"read": reading, "ingest": ingesting, "reopen": reopening, "batch": batch, "index_select": plain}
            rows.append({"repetition": repetition, **row, "memory_megabytes": memory})
    finally:
        shutil.rmtree(folder)
    about = {"episodes": arguments.episodes, "steps": arguments.steps, "commit": git_commit()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(json.dumps(row | about | {"versions": package_versions()}) + "\n" for row in rows))
    median = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    print(f"ingest / h5py reading the same leaves   {median['ingest'] / median['read']:.2f}")
    print(f"first opening / second opening          {median['ingest'] / median['reopen']:.0f}")
    print(f"batch of 256 / five index_select        {median['batch'] / median['index_select']:.2f}")
    print(f"growth of anonymous memory              {memory:.0f} MB")


if __name__ == "__main__":
    main()
