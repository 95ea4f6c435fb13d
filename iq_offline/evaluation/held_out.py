"""How close a policy comes to expert trajectories that training never saw: no environment, no reward."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from iq_offline.data.actions import ActionBox, ActionEncoder
from iq_offline.data.replay import ROWS_AT_ONCE, Selection, Table
from iq_offline.learning.policy import Policy


@dataclass(frozen=True)
class HeldOutError:
    """The error of a policy on held-out transitions."""

    measure: str
    """``squared_error``: E[|pi(s) - a|²] in the unit box of actions; ``wrong_actions``: the share that is not the
    expert's."""
    error: float
    trajectories: int
    transitions: int

    def table(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def constant_error(labelled: Selection, held_out: Selection, actions: ActionEncoder) -> float:
    """The error on held-out transitions of one action for all states.

    Of the labelled expert's mean action in the unit box, or its commonest choice: who is no better has learned nothing
    that the observations tell.
    """
    known, asked = (one.data.steps["action"][torch.from_numpy(one.rows)].numpy() for one in (labelled, held_out))
    if not isinstance(actions, ActionBox):
        choices, counts = np.unique(known, axis=0, return_counts=True)
        return float((asked != choices[counts.argmax()]).any(-1).mean())
    mean = actions.to_unit(known).mean(0)
    return float(np.square(actions.to_unit(asked) - mean).sum(-1).mean())


def held_out_error(policy: Policy, selection: Selection) -> HeldOutError:
    """Compare the policy's actions with the expert's on every transition of the selection."""
    table = Table(selection.data, [selection.rows], policy.encoder, torch.float32, "cpu")
    total = 0.0
    for places in table.places(selection.rows).split(ROWS_AT_ONCE):
        batch = table.gather(places)
        chosen, recorded = policy.from_features(batch["observation"]), batch["action"].numpy()
        if isinstance(policy.actions, ActionBox):
            difference = policy.actions.to_unit(chosen) - policy.actions.to_unit(recorded)
            total += float(np.square(difference).sum())
        else:
            total += float((policy.actions.stored(chosen) != recorded).any(-1).sum())
    measure = "squared_error" if isinstance(policy.actions, ActionBox) else "wrong_actions"
    count = len(selection.rows)
    return HeldOutError(measure, total / count, len(selection.trajectories), count)
