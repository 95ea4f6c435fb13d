"""One update against the bare matrix products that it needs, on one core.

    python benchmarks/update.py [--dataset hopper/expert] [--rounds 15]

An update is recorded once: every matrix product of it, forward and backward, with the shapes and strides of its
operands. Then updates and those products alone are timed in turns, and the median of the turns' ratios is printed: 1
would be products and nothing else. Rows go to ``benchmarks/results/update.ndjson``.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from iq_offline.config import RunConfig, from_table, nested, resolved
from iq_offline.experiment import Options, obtain
from iq_offline.provenance import git_commit
from iq_offline.training.setup import choose_data, prepare
from iq_offline.training.training import Training

RESULTS = Path(__file__).parent / "results" / "update.ndjson"
IN_A_TURN = 20
PRODUCTS = {
    torch.ops.aten.mm.default: (0, 1),
    torch.ops.aten.addmm.default: (1, 2),
    torch.ops.aten.bmm.default: (0, 1),
    torch.ops.aten.baddbmm.default: (1, 2),
}
"""Operators that multiply matrices, and which arguments are the matrices."""
dataset = cache(lambda name: obtain(name, Options(say=lambda line: None)))


class Recorder(TorchDispatchMode):
    """Notes the operands of every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.operands: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every operator, those of the backward pass included."""
        if func in PRODUCTS:
            left, right = (args[index] for index in PRODUCTS[func])
            self.operands.append((_like(left), _like(right)))
        return func(*args, **(kwargs or {}))


def _like(tensor: Tensor) -> Tensor:
    """Random numbers that lie in memory as the tensor's do."""
    return torch.randn_like(tensor, memory_format=torch.preserve_format).detach()


def products_of(training: Training) -> tuple[Callable[[], None], int]:
    """The matrix products of an update as a function, and how many multiplications and additions they are."""
    with Recorder() as recorder:
        training.update()
    pairs = [(left, right, left @ right) for left, right in recorder.operands]
    operations = sum(2 * out.numel() * left.shape[-1] for left, _, out in pairs)

    def multiply() -> None:
        for left, right, out in pairs:
            torch.matmul(left, right, out=out)

    return multiply, operations


def seconds(do: Callable[[], object]) -> float:
    """Of one call, in a turn of several."""
    started = time.perf_counter()
    for _ in range(IN_A_TURN):
        do()
    return (time.perf_counter() - started) / IN_A_TURN


def measure(name: str, table: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Turns of both, after one of each to warm up. What is chosen from suboptimal data is chosen once, outside."""
    config = resolved(from_table(RunConfig, nested(table), name))
    parts = [dataset(part.dataset) for part in config.data.suboptimal]
    data = choose_data(config, dataset(config.data.expert), parts)
    plain = prepare(replace(config, training=replace(config.training, compile=False)), data)
    plain.update()
    multiply, operations = products_of(plain)
    training = prepare(config, data)
    training.update()
    turns = [(seconds(training.update), seconds(multiply)) for _ in range(rounds + 1)][1:]
    update, bare = (statistics.median(column) for column in zip(*turns, strict=True))
    return {
        "learner": name,
        "ratio": round(statistics.median(one / other for one, other in turns), 3),
        "update_ms": round(1e3 * update, 3),
        "products_ms": round(1e3 * bare, 3),
        "gigaflops": round(operations / bare / 1e9, 1),
        "products_of_an_update_megaflop": round(operations / 1e6, 1),
    }


def main() -> None:
    """Measure every learner, print a table, append rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="hopper/expert")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    name = arguments.dataset
    mixed = {"data.suboptimal": [f"{name}:10:hidden"], "iq_learn.choose_every": 10**9}
    learners = {
        "BC": {"algorithm": "bc"},
        "IQ-Learn": {"algorithm": "iq_learn"},
        "IQ-Learn, no gradient penalty": {"algorithm": "iq_learn", "iq_learn.gradient_penalty": 0.0},
        "IQ-Learn, looking ahead": {"algorithm": "iq_learn", **mixed},
    }
    learners |= {f"{learner}, compiled": table | {"training.compile": True} for learner, table in learners.items()}
    with RESULTS.open("a") as file:
        for learner, table in learners.items():
            row = measure(learner, {"data.expert": name, **table}, arguments.rounds)
            print(f"{learner:40} {row['ratio']:.2f}  ({row['update_ms']:.2f} ms, products {row['products_ms']:.2f} ms)")
            about = {"dataset": name, "threads": 1, "torch": torch.__version__, "git_commit": git_commit()}
            file.write(json.dumps(row | about) + "\n")


if __name__ == "__main__":
    main()
