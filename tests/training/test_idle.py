"""Keys without an effect: named where someone set them, and nobody is told of what they did not set."""

from dataclasses import replace

import pytest

from iq_offline.config import BCConfig, IQLearnConfig, OnlineConfig, RunConfig, resolved
from iq_offline.experiment import obtain
from iq_offline.training.idle import idle_keys, set_in_vain
from iq_offline.training.setup import choose_data, make_agent
from tests.training.program import EXPERT, configuration, write_datasets


def in_vain(config: RunConfig) -> list[str]:
    config = resolved(config)
    data = choose_data(config, obtain(EXPERT), [obtain(part.dataset) for part in config.data.suboptimal])
    return set_in_vain(config, idle_keys(config, data, make_agent(config, data)))


@pytest.fixture(autouse=True)
def datasets(own_folders: None) -> None:
    write_datasets()


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("suboptimal", [False, True])
@pytest.mark.parametrize("algorithm", ["bc", "iq_learn", "valuedice"])
def test_the_defaults_are_nobodys_wish(algorithm: str, suboptimal: bool, fast: bool):
    given = replace(configuration(algorithm, suboptimal=suboptimal), iq_learn=IQLearnConfig(), fast=fast)
    assert in_vain(given) == []


def test_what_was_set_in_vain_is_named():
    alone = configuration("iq_learn")
    data = replace(alone.data, suboptimal_fraction=0.3)
    given = replace(alone, data=data, iq_learn=IQLearnConfig(lasting=9), online=OnlineConfig(start_anchor=0.1))
    assert in_vain(given) == ["data.suboptimal_fraction", "iq_learn.lasting", "online.start_anchor"]
    assert in_vain(replace(configuration("bc"), iq_learn=IQLearnConfig(lasting=9))) == [], "another learner's"
    assert in_vain(replace(configuration("bc"), bc=BCConfig(outlier_error=0.1))) == ["bc.outlier_error"]
    assert in_vain(replace(configuration("bc"), bc=BCConfig("robust", outlier_error=0.1))) == []


def test_what_is_read_elsewhere_is_not_in_vain():
    mixed = configuration("iq_learn", suboptimal=True)
    data = replace(mixed.data, suboptimal_fraction=0.3)
    assert in_vain(replace(mixed, data=data, iq_learn=IQLearnConfig(lasting=9))) == []
