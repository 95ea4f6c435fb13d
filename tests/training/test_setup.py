"""From a configuration and data to a training: who is labelled, and how a batch is shared out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from iq_offline.config import Suboptimal
from iq_offline.errors import UserError
from iq_offline.experiment import obtain
from iq_offline.training.setup import choose_data, prepare
from tests.training.program import EXPERT, OTHER, configuration, write_datasets


@pytest.fixture(autouse=True)
def datasets(own_folders: None) -> None:
    write_datasets()


def test_labelled_trajectories_are_never_among_the_suboptimal_ones():
    config = configuration()
    parts = (Suboptimal(EXPERT), Suboptimal(OTHER))
    config = replace(config, data=replace(config.data, suboptimal=parts, held_out_trajectories=0))
    expert = obtain(EXPERT)
    data = choose_data(config, expert, [expert, obtain(OTHER)])
    labelled, hidden = data.expert.trajectories.tolist(), data.suboptimal[0].trajectories.tolist()
    assert len(labelled) == 2
    assert sorted(labelled + hidden) == [0, 1, 2, 3]
    assert sorted(data.suboptimal[1].trajectories.tolist()) == [0, 1, 2]


def test_suboptimal_data_of_which_nothing_is_left_is_a_user_error():
    """All trajectories of the only suboptimal dataset are labelled as expert."""
    config = configuration(suboptimal=True)
    config = replace(config, data=replace(config.data, num_expert_trajectories=4))
    expert = obtain(EXPERT)
    with pytest.raises(UserError, match=EXPERT):
        prepare(config, choose_data(config, expert, [expert])).update()


@pytest.mark.parametrize(("fraction", "others"), [(0.5, 8), (0.25, 4), (0.9, 14)])
def test_a_batch_is_shared_out_by_the_fraction(fraction: float, others: int):
    config = configuration(suboptimal=True)
    config = replace(config, data=replace(config.data, suboptimal_fraction=fraction))
    batch = prepare(config, choose_data(config, obtain(EXPERT), [obtain(OTHER)])).replay.sample()
    assert {kind: len(batch[kind, "observation"]) for kind in ("expert", "suboptimal")} == {
        "expert": 16 - others,
        "suboptimal": others,
    }


@pytest.mark.parametrize(("fraction", "batch_size"), [(0.99, 16), (0.01, 16), (0.5, 1)])
def test_no_kind_is_left_without_rows(fraction: float, batch_size: int):
    """Rounding must not leave a mean over nothing, which is not a number, nor drop the mixture silently."""
    config = configuration(suboptimal=True, batch_size=batch_size)
    config = replace(config, data=replace(config.data, suboptimal_fraction=fraction))
    data = choose_data(config, obtain(EXPERT), [obtain(OTHER)])
    try:
        training = prepare(config, data)
    except UserError:
        return
    batch = training.replay.sample()
    assert min(len(batch[kind, "observation"]) for kind in ("expert", "suboptimal")) >= 1


def test_observations_are_normalised_by_what_the_run_sees():
    config = configuration("bc", dtype="float64")
    data = choose_data(config, obtain(EXPERT), [])
    rows = torch.from_numpy(data.expert.rows)
    observations = data.expert.data.steps["observation_0"][rows].double().numpy()
    normalizer = prepare(config, data).learner.parameters["normalizer"]
    np.testing.assert_allclose(normalizer["mean"], observations.mean(0), atol=1e-9)
    np.testing.assert_allclose(normalizer["std"], observations.std(0), atol=1e-9)
    plain = replace(config, training=replace(config.training, normalize_observations=False))
    normalizer = prepare(plain, data).learner.parameters["normalizer"]
    assert normalizer["mean"].tolist() == [0.0] * 4
    assert normalizer["std"].tolist() == [1.0] * 4
