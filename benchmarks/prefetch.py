"""What drawing batches ahead is worth: python benchmarks/prefetch.py [--steps 120]. Needs two idle cores.

BC with batches of 256, one torch thread, on numbers (11 observations, 3 actions) and on pictures (84 by 84, four
of them stacked), each held in memory and read from the memory-mapped cache. Medians of the repetitions, in one run, of

    step       a step of training without prefetch: a batch is drawn, then learned from
    draw       what the drawing takes of it
    ahead      a step with prefetch = 2
    ratio      ahead / step: what can be hidden is draw / step
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import gymnasium
import minari
import numpy as np
import torch
from minari.data_collector import EpisodeBuffer
from tensordict import TensorDict

from iq_offline.config import DataConfig, RunConfig, TrainingConfig
from iq_offline.data import replay
from iq_offline.data.cache import cached
from iq_offline.data.stream import open_source
from iq_offline.provenance import git_commit, package_versions
from iq_offline.training.setup import choose_data, prepare, shared_tables
from iq_offline.training.training import Training

RESULTS = Path(__file__).parent / "results" / "prefetch.ndjson"
EPISODES, STEPS = 20, 500
SPACES = {
    "numbers": gymnasium.spaces.Box(-np.inf, np.inf, (11,), np.float64),
    "pictures": gymnasium.spaces.Box(0, 255, (84, 84, 1), np.uint8),
}


def write_dataset(name: str) -> None:
    """Noise of a space, through Minari."""
    space, generator = SPACES[name], np.random.default_rng(0)
    shape = (STEPS + 1, *space.shape)
    noise = generator.integers(0, 256, shape) if name == "pictures" else generator.standard_normal(shape)
    episode = EpisodeBuffer(
        observations=noise.astype(space.dtype),  # type: ignore[arg-type]
        actions=generator.uniform(-1, 1, (STEPS, 3)).astype(np.float32),  # type: ignore[arg-type]
        rewards=[0.0] * STEPS,
        terminations=[False] * STEPS,
        truncations=[False] * (STEPS - 1) + [True],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            f"benchmark/{name}-v0",
            [episode] * EPISODES,
            observation_space=space,
            action_space=gymnasium.spaces.Box(-1, 1, (3,), np.float32),
            jpeg_encoding=False,
        )


def milliseconds(training: Training, steps: int) -> tuple[float, float]:
    """Of a step of training, and of its drawing: wall clock, averaged, after a few steps to warm up."""
    drawn = 0.0
    draw = training.next_batch

    def timed() -> TensorDict:
        nonlocal drawn
        start = time.perf_counter()
        batch = draw()
        drawn += time.perf_counter() - start
        return batch

    for _ in range(2):
        training.update()
    training.next_batch = timed
    start = time.perf_counter()
    for _ in range(steps):
        training.update()
    training.next_batch = draw
    return 1000 * (time.perf_counter() - start) / steps, 1000 * drawn / steps


def main() -> None:
    """Measure, print, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--repetitions", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    os.environ |= {"MINARI_DATASETS_PATH": str(folder / "datasets"), "IQ_OFFLINE_CACHE": str(folder / "cache")}
    rows = []
    try:
        for name in SPACES:
            write_dataset(name)
            data = cached(open_source(folder / f"datasets/benchmark/{name}-v0/data"))
            images = name == "pictures"
            options = DataConfig(f"benchmark/{name}-v0", EPISODES, frame_stack=4 if images else 1)
            plainly = RunConfig(algorithm="bc", data=options, training=TrainingConfig(prefetch=0))
            ahead = replace(plainly, training=TrainingConfig(prefetch=2))
            chosen = choose_data(plainly, data, [])
            calls = arguments.steps // (20 if images else 1)
            for place, share in {"memory": 0.5, "disk": 0.0}.items():
                replay.MEMORY_SHARE = share
                tables = shared_tables([plainly], [chosen])
                trainings = [prepare(config, chosen, tables) for config in (plainly, ahead)]
                for repetition in range(arguments.repetitions):
                    (step, draw), (step_ahead, _) = (milliseconds(training, calls) for training in trainings)
                    row = {"data": name, "held_in": place, "repetition": repetition}
                    row |= {"step": step, "draw": draw, "ahead": step_ahead}
                    rows.append(row)
                trainings[1].close()
    finally:
        shutil.rmtree(folder)
    about = {"commit": git_commit(), "versions": package_versions()}
    RESULTS.write_text("".join(json.dumps(row | about) + "\n" for row in rows))
    print(f"{'data':10}{'held in':10}{'step':>9}{'draw':>8}{'ahead':>9}{'ratio':>9}   (milliseconds)")
    for name in SPACES:
        for place in ("memory", "disk"):
            some = [row for row in rows if (row["data"], row["held_in"]) == (name, place)]
            step, draw, ahead = (statistics.median(row[key] for row in some) for key in ("step", "draw", "ahead"))
            ratio = statistics.median(row["ahead"] / row["step"] for row in some)
            print(f"{name:10}{place:10}{step:9.2f}{draw:8.2f}{ahead:9.2f}{ratio:9.2f}")


if __name__ == "__main__":
    main()
