"""What training together brings: python benchmarks/population.py [--device cpu] [--learners 1 8 32 128] [--seconds 10].

Learners × gradient steps per second of populations on one complete Hopper trajectory with the default networks and
batches, seeds 0, 1, …: every learner has its own trajectory, draws and networks. Each measurement is repeated, the
sizes in turn, so that what else the machine does meets all of them. A GPU is waited for before a clock is read.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from iq_offline.config import RunConfig, TrainingConfig, resolved
from iq_offline.data.cache import CachedSource
from iq_offline.experiment import obtain
from iq_offline.provenance import git_commit, package_versions
from iq_offline.training.setup import choose_data, population, prepare
from iq_offline.training.training import Population, Training

RESULTS = Path(__file__).parent / "results" / "population.ndjson"
WARM_UP = 3


def learners(algorithm: str, count: int, device: str, expert: CachedSource) -> Training | Population:
    """So many fresh learners as one program; one alone is stepped as a run by itself is."""
    base = resolved(RunConfig(algorithm=algorithm, training=TrainingConfig(device=device)))  # type: ignore[arg-type]
    configs = [replace(base, seed=seed) for seed in range(count)]
    data = [choose_data(config, expert, []) for config in configs]
    return population(configs, data) if count > 1 else prepare(configs[0], data[0])


def seconds_per_step(training: Training | Population, device: str, at_least: float) -> tuple[float, int]:
    """Wall-clock seconds of one update of all, and over how many updates they were averaged."""

    def updates(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            training.update()
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once = updates(WARM_UP) / WARM_UP
    steps = max(WARM_UP, int(at_least / once))
    return updates(steps) / steps, steps


def main() -> None:
    """Measure, print, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--learners", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--algorithms", nargs="+", default=["bc", "iq_learn"])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement, at least")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device: str = arguments.device
    name = torch.cuda.get_device_name(device) if device != "cpu" else "cpu"
    about = {"device": name, "torch_threads": arguments.threads, "commit": git_commit(), "versions": package_versions()}
    expert = obtain("hopper/expert")
    rows: list[dict[str, Any]] = []
    for algorithm in arguments.algorithms:
        trained = {count: learners(algorithm, count, device, expert) for count in arguments.learners}
        for repetition, count in product(range(arguments.repetitions), arguments.learners):
            seconds, steps = seconds_per_step(trained[count], device, arguments.seconds)
            row = {"algorithm": algorithm, "learners": count, "repetition": repetition, "steps": steps}
            rows.append(row | {"seconds_per_step": seconds, "learner_steps_per_second": count / seconds} | about)
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{name}, {arguments.threads} thread(s): medians of {arguments.repetitions}")
    print("algorithm   learners   ms a step   learners × steps / s   to one alone")
    for algorithm in arguments.algorithms:
        speeds = {
            count: statistics.median(
                row["learner_steps_per_second"]
                for row in rows
                if (row["algorithm"], row["learners"]) == (algorithm, count)
            )
            for count in arguments.learners
        }
        for count, speed in speeds.items():
            ratio = speed / speeds[min(speeds)]
            print(f"{algorithm:11} {count:8}   {1000 * count / speed:9.2f}   {speed:20.0f}   {ratio:12.2f}")


if __name__ == "__main__":
    main()
