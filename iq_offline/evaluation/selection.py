"""Trust without an environment: what recorded transitions say of a training, and a verdict on it in words.

Nobody with fixed data alone can choose by return. Expert trajectories that training never saw, the labelled ones and
the suboptimal data are looked at again and again while it goes on; nothing is chosen by it, no update depends on it.
How well each number ranks the true returns of trained policies is measured in ``docs/results.md``.

    training, data -> rows of numbers along the training -> healthy, under- or overfitting, or diverging
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tensordict import TensorDict

from iq_offline.data.actions import ActionBranches
from iq_offline.data.replay import Kinds, Replay, Selection, tables_of
from iq_offline.evaluation.held_out import constant_error
from iq_offline.files import disk_errors, read_json, write_atomically
from iq_offline.learning.agents import Metrics
from iq_offline.training.setup import Data
from iq_offline.training.training import Training

DIAGNOSTICS = "diagnostics.ndjson"
AT_MOST = 5_000
"""Transitions of each kind that are looked at; of images a tenth of it."""
Row = dict[str, float]

WORSE = 1.25
"""An error this many times its lowest has risen,"""
UNSEEN = 0.002
"""if it is by more than this: ten wrong actions in 5,000;"""
FEW = 3
"""and, with finitely many actions, by more wrong ones than so many."""
APART, LEARNED = 100, 3e-4
"""A held-out error so many times the labelled one, or this where that is less, is of what was learned by heart."""
BEYOND = 2.0
"""Values this many times what bounded rewards can add up to have left the data."""
NO_BETTER = 0.9
"""Of the error of one action for all states: whoever errs more has learned next to nothing from the states."""
NEAR_BOUND = 0.95
"""A reward beyond this share of its bound is saturated."""


def watches(trainings: Sequence[Training], data: Sequence[Data]) -> "list[Watch]":
    """One for each of these trainings of one program; what they look at of a dataset is in one table."""
    kinds = [watched(one) for one in data]
    mean = trainings[0].learner.parameters["normalizer", "mean"]
    tables = tables_of(kinds, data[0].observations, mean.dtype, str(mean.device))
    finite = isinstance(data[0].actions, ActionBranches)
    return [
        Watch(training, Replay(of, {}, 0, tables), finite, _constant_error(of, one))
        for training, of, one in zip(trainings, kinds, data, strict=True)
    ]


def _constant_error(of: Kinds, data: Data) -> float | None:
    """On the held-out transitions that are looked at; None where there are none."""
    return constant_error(of["labelled"][0], of["held_out"][0], data.actions) if "held_out" in of else None


def watched(data: Data) -> Kinds:
    """Of each kind at most so many transitions, the same whenever this is asked: one from each of as many stretches.

    Which one of its stretch is drawn: steps of a fixed width would meet episodes of one length at the same ages.
    """
    held_out = () if data.held_out is None else (data.held_out,)
    kinds = {"labelled": (data.expert,), "held_out": held_out, "suboptimal": data.suboptimal}
    generator, at_most = np.random.default_rng(0), AT_MOST // 10 if data.observations.has_images else AT_MOST
    chosen: dict[str, list[Selection]] = {}
    for kind, parts in kinds.items():
        every = max(1, math.ceil(sum(len(part.rows) for part in parts) / at_most))
        for part in parts:
            first = np.arange(0, len(part.rows), every)
            last = np.minimum(first + every, len(part.rows))
            chosen.setdefault(kind, []).append(replace(part, rows=part.rows[generator.integers(first, last)]))
    return chosen


class Watch:
    """The same transitions under the networks as they are now.

    Args:
        training: whose networks are looked at; the averaged policy in the place of the current one.
        replay: with the transitions. Kinds: ``labelled``, ``held_out`` and ``suboptimal``, those that there are.
        finite: whether actions are finitely many, so that an error is a share of wrong ones.
        constant_error: of one action for all held-out states, where there are any.
    """

    def __init__(self, training: Training, replay: Replay, finite: bool, constant_error: float | None) -> None:
        self.training = training
        self.replay = replay
        self.finite = finite
        self.constant_error = constant_error

    @torch.no_grad()
    def look(self) -> Row:
        """Means over each kind of what the agent says of its transitions, and three numbers against their bounds.

        ``reward_margin``: how much more is implied for the held-out expert than for the suboptimal data, of what can
        be. ``reward_saturation``: the share of rewards at their bound, where the objective has one on both sides.
        ``one_wrong``, with finitely many actions: what one of them adds to the kind's error.
        ``value_of_bound``: the largest |Q| or |V|, of what rewards at the bound would add up to.
        """
        agent = self.training.learner.agent
        found = {kind: self._all(kind) for kind in self.replay.piles}
        row: Row = {"gradient_steps": self.training.learner.step}
        if self.constant_error is not None:
            row["held_out/constant_error"] = self.constant_error
        for kind, of in found.items():
            row |= {f"{kind}/{name}": float(value.double().mean()) for name, value in of.items()}
            row |= {f"{kind}/one_wrong": 1 / len(of["error"])} if self.finite else {}
        sizes = self.training.replay.batch_sizes
        experts, *others = (sizes.get(kind, 0) for kind in ("expert", "suboptimal", "online"))
        bound = agent.reward_bound(experts / (experts + sum(others)))
        if not bound:
            return row
        apart = [found[kind]["reward"] for kind in ("held_out", "suboptimal") if kind in found]
        rewards = torch.cat(apart or [found["labelled"]["reward"]])
        row["reward_saturation"] = float((rewards.abs() > NEAR_BOUND * bound).double().mean())
        if len(apart) == 2:
            row["reward_margin"] = float(apart[0].mean() - apart[1].mean()) / (2 * bound)
        if "value" in found["labelled"]:
            largest = max(float(of["value"].abs().max()) for of in found.values())
            row["value_of_bound"] = largest * (1 - agent.discount) / bound
        return row

    def append(self, folder: Path) -> None:
        """Write what is seen now into the run's folder, after what was seen at earlier steps."""
        step = self.training.learner.step
        rows = [*(row for row in read_diagnostics(folder) if row["gradient_steps"] < step), self.look()]
        with disk_errors("writing diagnostics", folder):
            write_atomically(folder / DIAGNOSTICS, "".join(json.dumps(row) + "\n" for row in rows))

    def _all(self, kind: str) -> Metrics:
        """What the agent says of every transition of a kind."""
        learner = self.training.learner
        agent = learner.agent
        parameters = TensorDict({**dict(learner.parameters.items()), agent.averaged: learner.average})
        found = [agent.diagnose(parameters, rows) for rows in self.replay.walk(kind)]
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}


def read_diagnostics(folder: Path) -> list[Row]:
    """The rows in a run's folder; none where nothing was written.

    Raises:
        UserError: they are damaged.
    """
    file = folder / DIAGNOSTICS
    return read_json(file, lines=True) if file.exists() else []


@dataclass(frozen=True)
class Health:
    """What the diagnostics of a run come to."""

    verdict: Literal["healthy", "underfitting", "overfitting", "diverging", "unknown"]
    reason: str

    def table(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def health(rows: Sequence[Row], online: bool = False) -> Health:
    """A verdict on a training from its diagnostics, oldest first.

    Diverging: values beyond what bounded rewards can add up to, or errors that rose on labelled data themselves.
    Overfitting: the error rose on held-out trajectories and not on labelled ones, or is far from theirs. Underfitting:
    on held-out trajectories one action for all states would do as well. Unknown: nothing was held out, or there was one
    look only. Online it is unknown unless values diverge: who meets states of its own leaves recorded actions for
    better reasons than these, and has returns to be judged by.
    """
    last = rows[-1] if rows else {}
    of_bound = last.get("value_of_bound", 0.0)
    if not of_bound <= BEYOND:
        return Health("diverging", f"values are {of_bound:.1f} times what rewards within their bound add up to")
    if online:
        return Health("unknown", "online, recorded data alone do not tell")
    if len(rows) < 2:
        return Health("unknown", "less than two looks along the training (training.snapshots)")
    risen = _rise(rows, "labelled/error")
    if risen:
        return Health("diverging", f"the error on the labelled data themselves rose {risen}")
    if "held_out/error" not in last:
        return Health("unknown", "no expert trajectories are held out (data.held_out_trajectories)")
    risen = _rise(rows, "held_out/error")
    if risen:
        return Health("overfitting", f"the held-out error rose {risen}, the labelled one did not")
    held_out, labelled = last["held_out/error"], last["labelled/error"]
    if held_out > APART * max(labelled, LEARNED):
        return Health("overfitting", f"the held-out error is {held_out:.4g} where the labelled one is {labelled:.2g}")
    constant = last.get("held_out/constant_error", math.inf)
    if held_out > NO_BETTER * constant:
        action = "commonest" if "held_out/one_wrong" in last else "mean"
        return Health(
            "underfitting",
            f"the held-out error is {held_out:.4g}, and that of the labelled expert's {action} action in every state "
            f"{constant:.4g}",
        )
    lowest = min(row["held_out/error"] for row in rows)
    if held_out <= STEADY * lowest:
        return Health("healthy", f"the held-out error did not rise: {held_out:.4g}")
    return Health("healthy", f"the held-out error is {held_out:.4g}, {lowest:.4g} at its lowest: too little to tell")


STEADY = 1.05
"""Times its lowest, up to which an error is said not to have risen."""


def _rise(rows: Sequence[Row], name: str) -> str:
    """From where to where an error rose; empty where it did not."""
    best = min(rows, key=lambda row: row[name])
    now, then = rows[-1][name], best[name]
    one_wrong = rows[-1].get(name.replace("error", "one_wrong"), 0.0)
    if now <= WORSE * then or now <= then + max(UNSEEN, FEW * one_wrong):
        return ""
    return f"from {then:.4g} at step {int(best['gradient_steps']):,} to {now:.4g}"
