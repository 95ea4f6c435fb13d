"""What of the data is imitated: gone through as a whole at intervals, while training goes on."""

import torch
from tensordict import TensorDict

from iq_offline.data.replay import Replay, Selection
from iq_offline.learning.agents.chosen import Appraisal, ChosenImitation


class Chooser:
    """Renews the returns and the weights of all rows.

    Args:
        agent: appraises rows, and chooses among them.
        replay: of which it notes the returns (kinds ``suboptimal`` and ``expert``) and weighs all rows (``imitated``).
        suboptimal: whole episodes.
        expert: the labelled rows.
        every: gradient steps between two renewals.
    """

    def __init__(
        self,
        agent: ChosenImitation,
        replay: Replay,
        suboptimal: tuple[Selection, ...],
        expert: Selection,
        every: int,
    ) -> None:
        self.agent = agent
        self.replay = replay
        self.every = every
        self.labelled = len(expert.rows)
        following = [torch.from_numpy(part.rows).diff() == 1 for part in (*suboptimal, expert)]
        self.last = torch.cat([torch.cat([~follows, follows.new_ones(1)]) for follows in following])

    @torch.no_grad()
    def renew(self, parameters: TensorDict) -> None:
        """Appraise every row with the networks as they are now."""
        rows = Appraisal.of_all([self.agent.appraise(parameters, batch) for batch in self.replay.walk("imitated")])
        if not rows.is_finite():
            return  # There is nothing to choose by: the training ends with its next row of metrics, and says why.
        returns, weights = self.agent.choose(rows, self.last, self.labelled)
        if returns is not None:
            self.replay.note("suboptimal", planned_return=returns[: -self.labelled])
            self.replay.note("expert", planned_return=returns[-self.labelled :])
        self.replay.weigh("imitated", weights)
