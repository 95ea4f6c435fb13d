"""Every row is given what belongs to it: its return, its weight, and whether the row below follows it."""

import math

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.config import DataConfig, RunConfig, Suboptimal, TrainingConfig, resolved
from iq_offline.experiment import obtain
from iq_offline.learning.agents.chosen import Appraisal, ChosenImitation
from iq_offline.training.chooser import Chooser
from iq_offline.training.setup import choose_data, prepare
from tests.helpers import point_mass_dataset


class Reader(ChosenImitation):
    """Says of a row what its observation is, and keeps what it is told of the rows."""

    def __init__(self) -> None:
        pass

    def appraise(self, parameters: TensorDict, rows: TensorDict) -> Appraisal:
        seen = rows["observation"][:, 0]
        return Appraisal(seen, seen, seen)

    def returns(self, rows: Appraisal, last: Tensor) -> Tensor:
        self.last = last
        return 10 * rows.reward

    def weigh(self, rows: Appraisal, expert: Appraisal, last: Tensor) -> Tensor:
        self.labelled = len(expert.reward)
        return rows.reward - rows.reward.min() + 1


@pytest.mark.parametrize("subsample", [1, 5])
def test_rows_get_what_is_theirs(subsample: int) -> None:
    """Two parts, one of them hidden; labelled rows that follow each other or do not."""
    point_mass_dataset("test/expert-v0", 9, 20, seed=0)
    point_mass_dataset("test/wild-v0", 3, 7, seed=1, noise=1.0)
    suboptimal = (Suboptimal("test/wild-v0"), Suboptimal("test/expert-v0", 4, hidden=True))
    config = resolved(
        RunConfig(
            data=DataConfig("test/expert-v0", 2, subsample=subsample, suboptimal=suboptimal, held_out_trajectories=1),
            training=TrainingConfig(10, hidden_sizes=(4,)),
        )
    )
    data = choose_data(config, obtain("test/expert-v0"), [obtain("test/wild-v0"), obtain("test/expert-v0")])
    training = prepare(config, data)
    reader = Reader()
    Chooser(reader, training.replay, data.suboptimal, data.expert, 1).renew(training.learner.parameters)
    labelled = 2 * (20 // subsample)
    assert (len(reader.last), reader.labelled) == (3 * 7 + 4 * 20 + labelled, labelled)
    ends = [7, 14, 21, 41, 61, 81, 101]
    ends += [121, 141] if subsample == 1 else range(102, 102 + labelled)
    assert (reader.last.nonzero().squeeze(-1) + 1).tolist() == ends
    for _ in range(5):
        batch = training.next_batch()
        for kind in ("expert", "suboptimal"):
            assert torch.equal(batch[kind, "planned_return"], 10 * batch[kind, "observation"][:, 0])
    others = torch.cat([batch["observation"][:, 0] for batch in training.replay.walk("suboptimal")])
    weights = torch.cat([others - others.min() + 1, torch.ones(labelled)])
    cumulative = training.replay.piles["imitated"].cumulative
    assert cumulative is not None
    torch.testing.assert_close(cumulative.diff().float(), weights[1:])

    reader.appraise = lambda parameters, rows: Appraisal(*[torch.full((len(rows["observation"]),), math.nan)] * 3)  # type: ignore[method-assign]
    Chooser(reader, training.replay, data.suboptimal, data.expert, 1).renew(training.learner.parameters)
    kept = training.replay.piles["imitated"].cumulative
    assert kept is cumulative, "what was chosen by numbers is not thrown away for what is none"
