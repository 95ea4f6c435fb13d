"""Trust without an environment: what recorded transitions say of a training, and a verdict on it in words.

Nobody with fixed data alone can choose by return. Expert trajectories that training never saw, the labelled ones and
the suboptimal data are looked at again and again while it goes on; nothing is chosen by it, no update depends on it.
How well each number ranks the true returns of trained policies is measured in ``docs/results.md``.

    training, data -> rows of numbers along the training -> healthy, overfitting or diverging
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.data.replay import Selection, Table
from iq_offline.data.spaces import ObservationEncoder
from iq_offline.files import disk_errors, write_atomically
from iq_offline.learning.agents import Metrics
from iq_offline.training.setup import Data
from iq_offline.training.training import Training

DIAGNOSTICS = "diagnostics.ndjson"
AT_MOST = 5_000
"""Transitions of each kind that are looked at, evenly spaced; of images a tenth of it."""
AT_ONCE = 500
Row = dict[str, float]

WORSE = 1.25
"""An error this many times its lowest has risen."""
BEYOND = 2.0
"""Values this many times what bounded rewards can add up to have left the data."""
NEAR_BOUND = 0.95
"""A reward beyond this share of its bound is saturated."""


class Watch:
    """The same transitions under the networks as they are now.

    Args:
        training: whose networks are looked at; the averaged policy in the place of the current one.
        data: of the run. Kinds: ``labelled``, ``held_out`` and ``suboptimal``, those that there are.
    """

    def __init__(self, training: Training, data: Data) -> None:
        self.training = training
        held_out = () if data.held_out is None else (data.held_out,)
        kinds = {"labelled": (data.expert,), "held_out": held_out, "suboptimal": data.suboptimal}
        self.parts = {kind: self._evenly(parts, data.observations) for kind, parts in kinds.items() if parts}

    @torch.no_grad()
    def look(self) -> Row:
        """Means over each kind of what the agent says of its transitions, and three numbers against their bounds.

        ``reward_margin``: how much more is implied for the held-out expert than for the suboptimal data, of what can
        be. ``reward_saturation``: the share of rewards at their bound (4 alpha; chi-squared over the expert: 2 alpha).
        ``value_of_bound``: the largest |Q| or |V|, of what rewards at the bound would add up to.
        """
        agent = self.training.learner.agent
        found = {kind: self._all(parts) for kind, parts in self.parts.items()}
        row: Row = {"gradient_steps": self.training.learner.step}
        for kind, of in found.items():
            row |= {f"{kind}/{name}": float(value.double().mean()) for name, value in of.items()}
        bound = agent.reward_bound
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
        row = self.look()
        rows = [*(one for one in read_diagnostics(folder) if one["gradient_steps"] < row["gradient_steps"]), row]
        with disk_errors("writing diagnostics", folder):
            write_atomically(folder / DIAGNOSTICS, "".join(json.dumps(one) + "\n" for one in rows))

    def _evenly(self, parts: Sequence[Selection], encoder: ObservationEncoder) -> list[tuple[Table, Tensor]]:
        mean = self.training.learner.parameters["normalizer", "mean"]
        wanted = AT_MOST // 10 if encoder.has_images else AT_MOST
        every = math.ceil(sum(len(part.rows) for part in parts) / wanted)
        chosen = [(part.data, part.rows[::every].copy()) for part in parts]
        tables = [Table(data, [rows], encoder, mean.dtype, str(mean.device)) for data, rows in chosen]
        return [(table, table.places(rows)) for table, (_, rows) in zip(tables, chosen, strict=True)]

    def _all(self, parts: list[tuple[Table, Tensor]]) -> Metrics:
        """What the agent says of every transition of a kind."""
        learner = self.training.learner
        agent = learner.agent
        parameters = TensorDict({**dict(learner.parameters.items()), agent.averaged: learner.average})
        rows = (table.gather(places) for table, of in parts for places in of.split(AT_ONCE))
        found = [agent.diagnose(parameters, some) for some in rows]
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}


def read_diagnostics(folder: Path) -> list[Row]:
    """The rows in a run's folder; none where nothing was written."""
    file = folder / DIAGNOSTICS
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@dataclass(frozen=True)
class Health:
    """What the diagnostics of a run come to."""

    verdict: Literal["healthy", "overfitting", "diverging", "unknown"]
    reason: str

    def table(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def health(rows: Sequence[Row]) -> Health:
    """A verdict on a training from its diagnostics, oldest first.

    Diverging: values beyond what bounded rewards can add up to, or errors that rose on labelled data themselves.
    Overfitting: the error rose on held-out trajectories and not on labelled ones. Unknown: nothing was held out.
    """
    if not rows:
        return Health("unknown", "no diagnostics were written")
    last = rows[-1]
    of_bound = last.get("value_of_bound", 0.0)
    if of_bound > BEYOND:
        return Health("diverging", f"values are {of_bound:.1f} times what rewards within their bound add up to")
    if "held_out/error" not in last:
        return Health("unknown", "no expert trajectories are held out (data.held_out_trajectories)")
    best = min(rows, key=lambda row: row["held_out/error"])
    now, then = last["held_out/error"], best["held_out/error"]
    where = f"from {then:.4g} at step {int(best['gradient_steps']):,} to {now:.4g}"
    if now <= WORSE * then:
        level = "at its lowest" if now == then else f"{now / then:.2f} times its lowest"
        return Health("healthy", f"the held-out error is {level}, {now:.4g}")
    if last["labelled/error"] > WORSE * best["labelled/error"]:
        return Health("diverging", f"the error rose {where} on held-out trajectories, and on labelled ones too")
    return Health("overfitting", f"the held-out error rose {where}, the labelled one did not")
