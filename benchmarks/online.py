"""What the environment costs: an online update with its step against updates alone; one process or several.

    python benchmarks/online.py [--dataset hopper/expert] [--rounds 15]
    python benchmarks/online.py --copies 1 2 4 8    # environments alone, in one process and in several

Turns alternate on one thread, and the medians of the turns' ratios are printed. Against the same update without the
step, 1 would be an environment that costs nothing; against the offline update of the same algorithm (another learner:
online the reward and two critics are networks of their own) it is how much longer fine-tuning takes than training.
Rows go to ``benchmarks/results/online_speed.ndjson``.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iq_offline.config import DataConfig, OnlineConfig, RunConfig, resolved
from iq_offline.environments.make import evaluation_environment
from iq_offline.environments.vector import VectorStepper
from iq_offline.experiment import Options, obtain
from iq_offline.provenance import git_commit
from iq_offline.training.online import OnlineTraining
from iq_offline.training.setup import choose_data, prepare

RESULTS = Path(__file__).parent / "results" / "online_speed.ndjson"
QUIET = Options(say=lambda line: None)
IN_A_TURN, VECTOR_STEPS = 20, 200


def seconds(do: Callable[[], object]) -> float:
    """Of one call, in a turn of several."""
    started = time.perf_counter()
    for _ in range(IN_A_TURN):
        do()
    return (time.perf_counter() - started) / IN_A_TURN


def stepper_of(name: str, online: OnlineConfig) -> VectorStepper:
    """The environments that a dataset names."""
    source = obtain(name, QUIET).source
    return VectorStepper(evaluation_environment(source), source, online)


def updates(name: str, rounds: int) -> dict[str, Any]:
    """One gradient step for each step in one environment, against the same without it, and against the offline one."""
    online = OnlineConfig(env_steps=1_000_000, in_processes="no")
    configs = [resolved(RunConfig(data=DataConfig(name), online=section)) for section in (OnlineConfig(), online)]
    data = choose_data(configs[0], obtain(name, QUIET), [])
    fixed, meeting = (prepare(config, data) for config in configs)
    assert isinstance(meeting, OnlineTraining)
    meeting.stepper = stepper_of(name, online)
    for training in (fixed, meeting):
        training.update()
    before, kinds = meeting.env_steps, (fixed.update, meeting.collect, meeting.update)
    turns = [[seconds(kind) for kind in kinds] for _ in range(rounds + 1)][1:]
    assert meeting.env_steps - before == (rounds + 1) * IN_A_TURN, "an update found its step done"
    meeting.close()
    offline, step, update = (statistics.median(column) for column in zip(*turns, strict=True))
    return {
        "what": "speed of online updates with a step each",
        "of_the_same_without_it": round(statistics.median(update / (step + update) for _, step, update in turns), 3),
        "of_offline_updates": round(statistics.median(offline / (step + update) for offline, step, update in turns), 3),
        "offline_update_ms": round(1e3 * offline, 3),
        "step_ms": round(1e3 * step, 3),
        "online_update_ms": round(1e3 * update, 3),
    }


def steps(name: str, copies: int) -> dict[str, Any]:
    """Steps per second of all copies together, without a policy."""
    row: dict[str, Any] = {"what": "steps of environments per second", "copies": copies}
    for where in ("no", "yes"):
        stepper = stepper_of(name, OnlineConfig(environments=copies, in_processes=where))
        space, generator = stepper.vector.single_action_space, np.random.default_rng(0)
        stepper.reset(list(range(copies)))
        started, ended, episodes = time.perf_counter(), np.zeros(copies, bool), copies
        for _ in range(VECTOR_STEPS):
            if ended.any():
                stepper.reset([episodes + lane if done else None for lane, done in enumerate(ended)])
                episodes += copies
            space.seed(int(generator.integers(2**31)))
            _, _, terminated, truncated = stepper.step(np.stack([space.sample() for _ in range(copies)]))
            ended = terminated | truncated
        pace = copies * VECTOR_STEPS / (time.perf_counter() - started)
        row["in_processes" if where == "yes" else "in_one"] = round(pace, 1)
        stepper.close()
    return row


def main() -> None:
    """Measure, print, append rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="hopper/expert")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--copies", type=int, nargs="*", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    name = arguments.dataset
    rows = [steps(name, copies) for copies in arguments.copies] or [updates(name, arguments.rounds)]
    about = {"dataset": name, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    about |= {"torch": torch.__version__, "git_commit": git_commit()}
    with RESULTS.open("a") as file:
        for row in rows:
            print(json.dumps(row))
            file.write(json.dumps(row | about) + "\n")


if __name__ == "__main__":
    main()
