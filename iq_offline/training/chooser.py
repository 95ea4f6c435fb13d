"""What of the suboptimal data is imitated: gone through as a whole at intervals, while training goes on."""

import torch
from tensordict import TensorDict

from iq_offline.data.replay import Replay, Selection
from iq_offline.learning.agents.chosen import Appraisal, ChosenImitation


class Chooser:
    """Renews the returns and the weights of the suboptimal data's rows.

    Args:
        agent: appraises rows, and chooses among them.
        replay: of which it notes the returns (kind ``suboptimal``) and weighs the rows (kind ``imitated``).
        suboptimal: whole episodes.
        every: gradient steps between two renewals.
    """

    def __init__(self, agent: ChosenImitation, replay: Replay, suboptimal: tuple[Selection, ...], every: int) -> None:
        self.agent = agent
        self.replay = replay
        self.every = every
        lengths = torch.cat([torch.from_numpy(part.data.lengths[part.trajectories]) for part in suboptimal])
        self.last = torch.zeros(int(lengths.sum()), dtype=torch.bool)
        self.last[lengths.cumsum(0) - 1] = True

    @torch.no_grad()
    def renew(self, parameters: TensorDict) -> None:
        """Appraise every row with the networks as they are now."""
        rows, expert = (self._appraise(parameters, kind) for kind in ("suboptimal", "expert"))
        returns, weights = self.agent.choose(rows, expert, self.last)
        if returns is not None:
            self.replay.note("suboptimal", planned_return=returns)
        self.replay.weigh("imitated", weights)

    def _appraise(self, parameters: TensorDict, kind: str) -> Appraisal:
        parts = [self.agent.appraise(parameters, batch) for batch in self.replay.walk(kind)]
        return Appraisal.of_all(parts)
