"""Which environments a dataset's policies may act in, as a stepper of them is asked for."""

import contextlib
import json
from typing import Any

import gymnasium
import numpy as np
import pytest

from iq_offline.config import DataConfig, OnlineConfig
from iq_offline.data.stream import open_source
from iq_offline.environments.make import evaluation_environment
from iq_offline.environments.vector import VectorStepper
from iq_offline.errors import UserError
from tests.data_helpers import change_metadata, write_spaces_dataset
from tests.environments.worlds import Point, specification


def test_other_spaces_are_refused():
    folder = write_spaces_dataset("test/other-v0", gymnasium.spaces.Box(-1, 1, (5,)), Point.action_space)
    with pytest.raises(UserError, match=r"Point-v0: its observation space is Box of shape \(4,\), test/other-v0 has"):
        VectorStepper(specification(), open_source(folder), OnlineConfig())


@pytest.mark.parametrize(
    ("bounds", "bound", "given", "words"),
    [
        ((-1.0, 1.0), 1.0, {}, ""),
        ((-1.0, 1.0), 4.0, {}, "its actions go from -4 to 4 in dimension 0, those of test/box-v0 from -1 to 1: "),
        ((-1.0, 1.0), 0.5, {}, r"act in, the environment's is action_low = \[-0.5\] and action_high = \[0.5\]$"),
        ((-1.0, 1.0), 4.0, {"action_low": (-1.0,), "action_high": (1.0,)}, ""),
        ((-1.0, 1.0), 4.0, {"action_low": (-4.0,)}, "from -4 to 4"),
        ((-4.0, 1.0), 4.0, {"action_high": (4.0,)}, ""),
        ((-4.0, 1.0), 4.0, {}, "from -4 to 4 in dimension 0, those of test/box-v0 from -4 to 1: "),
        ((-np.inf, np.inf), 4.0, {}, ""),
        ((-1.0, 1.0), np.inf, {}, ""),
        ((-0.4, 0.4), float(np.float32(0.4)), {}, ""),
        ((-0.4, 0.4), 0.400001, {}, ""),
        ((-0.4, 0.4), 0.401, {}, "from -0.401 to 0.401 in dimension 0, those of test/box-v0 from -0.4 to 0.4: "),
        ((-0.0004, 0.0004), 0.0005, {}, "from -0.0005 to 0.0005"),
    ],
)
def test_another_action_box_is_refused(bounds: tuple[float, float], bound: float, given: Any, words: str):
    actions = gymnasium.spaces.Box(*bounds, (2,), np.float64)
    source = open_source(write_spaces_dataset("test/box-v0", Point.observation_space, actions))
    with pytest.raises(UserError, match=words) if words else contextlib.nullcontext() as raised:
        VectorStepper(specification(bound=bound), source, OnlineConfig(), DataConfig(**given)).close()
    if raised:
        assert str(raised.value).startswith("Point-v0: ")
        assert "\n" not in str(raised.value)
        assert "--trust-env" not in str(raised.value)


def test_an_action_box_that_differs_in_one_dimension_is_told_by_it():
    actions = gymnasium.spaces.Box(np.array([-1.0, -1.0]), np.array([1.0, 3.0]), dtype=np.float64)
    source = open_source(write_spaces_dataset("test/box-v0", Point.observation_space, actions))
    with pytest.raises(UserError, match="from -1 to 1 in dimension 1, those of test/box-v0 from -1 to 3: "):
        VectorStepper(specification(), source, OnlineConfig())


def test_an_action_box_that_a_wrapper_makes_needs_the_wrapper():
    rescale = {"name": "RescaleAction", "entry_point": "gymnasium.wrappers:RescaleAction"}
    rescale["kwargs"] = {"min_action": -1.0, "max_action": 1.0}  # type: ignore[assignment]
    text = json.dumps(json.loads(specification(bound=4.0).to_json()) | {"additional_wrappers": [rescale]})
    folder = write_spaces_dataset("test/box-v0", Point.observation_space, Point.action_space)
    change_metadata(folder, env_spec=text)
    source, config = open_source(folder), OnlineConfig()
    with pytest.raises(UserError, match=r"from -4 to 4 .* --trust-env .*RescaleAction"):
        VectorStepper(evaluation_environment(source), source, config)
    VectorStepper(evaluation_environment(source, trust=True), source, config).close()
