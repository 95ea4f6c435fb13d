"""Which environments are built: those that are installed, never code that a dataset names unasked."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.envs.classic_control import PendulumEnv

from iq_offline.data.cache import cached
from iq_offline.data.stream import Source, episode_returns, open_source
from iq_offline.environments.make import evaluation_environment, make, surroundings, wrappers_left_out
from iq_offline.errors import UserError
from tests.data_helpers import change_metadata, counting_episodes
from tests.helpers import write_dataset

EVIL = """
from pathlib import Path
import gymnasium
Path({mark!r}).write_text("was here")
class Env(gymnasium.envs.classic_control.PendulumEnv): pass
class Wrapper(gymnasium.Wrapper): pass
"""


def specification(**changes: Any) -> str:
    """JSON of Pendulum's specification with changes."""
    return json.dumps(json.loads(gymnasium.spec("Pendulum-v1").to_json()) | changes)


def source_with(data_format: str | None = None, **metadata: str) -> Source:
    folder = write_dataset("test/small-v0", counting_episodes([3]), data_format=data_format)
    change_metadata(folder, **metadata)
    return open_source(folder)


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the importable module ``evil_module`` writes when somebody imports it."""
    (tmp_path / "code").mkdir()
    mark = tmp_path / "mark"
    (tmp_path / "code" / "evil_module.py").write_text(EVIL.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)
    return mark


def test_the_environment_it_was_recorded_in() -> None:
    found = evaluation_environment(source_with(env_spec=specification()))
    (environment,) = make(found, 1)
    assert isinstance(environment.unwrapped, PendulumEnv)
    assert environment.spec is not None
    assert (environment.spec.id, environment.spec.max_episode_steps) == ("Pendulum-v1", 200)


def test_the_evaluation_environment_comes_first() -> None:
    other = gymnasium.spec("MountainCarContinuous-v0").to_json()
    (environment,) = make(evaluation_environment(source_with(env_spec=specification(), eval_env_spec=other)), 1)
    assert environment.spec is not None
    assert environment.spec.id == "MountainCarContinuous-v0"


def test_arguments_and_time_limits_of_the_dataset_are_kept() -> None:
    text = specification(kwargs={"g": 3.0}, max_episode_steps=17)
    (environment,) = make(evaluation_environment(source_with(env_spec=text)), 1)
    assert environment.unwrapped.g == 3.0  # type: ignore[attr-defined]
    environment.reset(seed=0)
    ends = [environment.step(environment.action_space.sample())[3] for _ in range(17)]
    assert ends == [False] * 16 + [True]


def test_specifications_of_older_gymnasium() -> None:
    """As in datasets recorded with Gymnasium 0.28 and 0.29."""
    text = specification(autoreset=False, apply_api_compatibility=False)
    (environment,) = make(evaluation_environment(source_with(env_spec=text)), 1)
    assert isinstance(environment.unwrapped, PendulumEnv)


@pytest.mark.parametrize("text", ["{", "[]", "3", "{}", '{"id": 5}', '{"id": "no version and no entry"}'])
def test_malformed_specifications(text: str) -> None:
    source = source_with(env_spec=specification(), eval_env_spec=text)
    with pytest.raises(UserError):
        make(evaluation_environment(source), 1)


def test_no_environment_named() -> None:
    with pytest.raises(UserError, match="test/small-v0 names no environment"):
        evaluation_environment(source_with())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"id": "Evil-v0", "entry_point": "evil_module:Env"}, "Evil-v0, which no installed package registers.*trust"),
        ({"entry_point": "evil_module:Env"}, "other code for Pendulum-v1.*evil_module:Env.*--trust-env"),
        ({"id": "evil_module:Pendulum-v1", "entry_point": "evil_module:Env"}, "registers"),
        ({"id": "evil_module:Pendulum-v1"}, "registers"),
        ({"entry_point": None}, "Pendulum-v1"),
    ],
)
@pytest.mark.parametrize("key", ["env_spec", "eval_env_spec"])
def test_code_that_is_not_installed_is_not_run(key: str, changes: dict[str, Any], expected: str, mark: Path) -> None:
    source = source_with(**({"env_spec": specification()} | {key: specification(**changes)}))
    with pytest.raises(UserError, match=expected):
        make(evaluation_environment(source), 1)
    assert not mark.exists()


def test_wrappers_that_a_dataset_names_are_not_run(mark: Path) -> None:
    wrapper = {"name": "Wrapper", "entry_point": "evil_module:Wrapper", "kwargs": None}
    source = source_with(env_spec=specification(additional_wrappers=[wrapper]))
    (environment,) = make(evaluation_environment(source), 1)
    assert isinstance(environment.unwrapped, PendulumEnv)
    assert surroundings(source).wrappers_left_out == ("Wrapper",)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("wrappers", "names"),
    [
        ([], ()),
        (None, ()),
        ([{"name": "Flat", "entry_point": "a:Flat", "kwargs": {}}, {"name": "Rescale"}], ("Flat", "Rescale")),
        ([{"entry_point": "a:Flat"}, {"name": 3}, "Flat"], ("unnamed", "3", "unnamed")),
        ([{"name": "Flat\x1b[2J"}], (r"Flat\x1b[2J",)),
        ("Flat", ("unnamed",)),
        (7, ("unnamed",)),
        ({"name": "Flat"}, ("Flat",)),
    ],
)
def test_wrappers_that_are_left_out_are_named(wrappers: Any, names: tuple[str, ...]) -> None:
    """In whatever state the metadata are; of the environment that is built."""
    text = specification(additional_wrappers=wrappers)
    source = source_with(env_spec=text)
    assert wrappers_left_out(source) == surroundings(source).wrappers_left_out == names
    assert wrappers_left_out(source, trust=True) == ()
    other = gymnasium.spec("MountainCarContinuous-v0").to_json()
    for expected, metadata in (
        ((), {"env_spec": text, "eval_env_spec": other}),
        (names, {"env_spec": other, "eval_env_spec": text}),
        *(((), {"env_spec": odd}) for odd in ("{", "[]", "3", 3, None)),
    ):
        assert wrappers_left_out(replace(source, metadata=metadata)) == expected


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_reading_data_runs_nothing(data_format: str, mark: Path) -> None:
    if data_format == "arrow":
        pytest.importorskip("pyarrow")
    text = specification(id="Evil-v0", entry_point="evil_module:Env")
    source = source_with(data_format, env_spec=text, eval_env_spec=text)
    assert cached(source).steps["observation_0"][3].tolist() == [0.0, 3.0]
    episode_returns(source)
    assert not mark.exists()


def test_trust_runs_it(mark: Path) -> None:
    source = source_with(env_spec=specification(entry_point="evil_module:Env"))
    (environment,) = make(evaluation_environment(source, trust=True), 1)
    assert mark.exists()
    assert type(environment.unwrapped).__module__ == "evil_module"


def test_environments_that_cannot_be_built() -> None:
    with pytest.raises(UserError, match="cannot build the environment Nothing-v0"):
        make("Nothing-v0", 1)
    broken = evaluation_environment(source_with(env_spec=specification(kwargs={"no_such_argument": 1})))
    with pytest.raises(UserError, match="cannot build the environment Pendulum-v1") as caught:
        make(broken, 1)
    assert "\n" not in str(caught.value)


def test_instances_are_independent() -> None:
    one, two = make("Pendulum-v1", 2)
    one.reset(seed=0)
    two.reset(seed=0)
    state = two.unwrapped.state.copy()  # type: ignore[attr-defined]
    one.step(one.action_space.sample())
    assert (two.unwrapped.state == state).all()  # type: ignore[attr-defined]


def test_mujoco_warns_once_and_writes_no_file(tmp_path: Path) -> None:
    program = """
from iq_offline.environments.make import make
for environment in make("HalfCheetah-v5", 2):
    environment.reset(seed=0)
    for _ in range(2):
        environment.unwrapped.set_state(environment.unwrapped.init_qpos, environment.unwrapped.init_qvel + 1e30)
        environment.step(environment.action_space.low)
"""
    folder = tmp_path / "here"
    folder.mkdir()
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, cwd=folder, capture_output=True, text=True, timeout=120)
    assert [line for line in done.stderr.splitlines() if "MuJoCo" in line or "deprecated" in line] == [
        "MuJoCo: Nan, Inf or huge value in QVEL at DOF 0. The simulation is unstable. Time = 0.0000."
    ]
    assert not list(folder.iterdir())
