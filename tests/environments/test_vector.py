"""Stepping side by side: against environments stepped by hand, in one process and in several; saved states; faults."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from iq_offline.config.online import OnlineConfig
from iq_offline.data.stream import Source, open_source
from iq_offline.environments import vector
from iq_offline.environments.make import calm_mujoco
from iq_offline.environments.saved import Lane
from iq_offline.environments.vector import VectorStepper
from iq_offline.errors import UserError
from iq_offline.training.training import StepError
from tests.data_helpers import CHECKOUT
from tests.environments.worlds import Point, environment_dataset, point_dataset, specification

SAVED = (
    *("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"),
    *("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "Swimmer-v5", "InvertedPendulum-v5"),
)
"""Environments whose state can be saved."""


def point_source(**kwargs: Any) -> Source:
    from iq_offline.data import catalog

    point_dataset("test/point-v0", **kwargs)
    path = catalog.locate("test/point-v0")
    assert path is not None
    return open_source(path)


def stepper_of(
    source: Source, count: int = 2, in_processes: str = "no", time_limit: float = 30.0, **kwargs: Any
) -> VectorStepper:
    config = OnlineConfig(environments=count, in_processes=in_processes, time_limit=time_limit)  # type: ignore[arg-type]
    return VectorStepper(specification(**kwargs), source, config)


@pytest.mark.parametrize("in_processes", ["no", "yes"])
def test_each_copy_goes_the_way_of_one_stepped_by_hand(in_processes: str):
    source = point_source()
    stepper = stepper_of(source, 3, in_processes, radius=0.9)
    assert not stepper.keeps_state
    by_hand = [gymnasium.make(specification(radius=0.9)) for _ in range(3)]
    seeds = [5, 6, 7]
    found = stepper.reset(seeds)
    np.testing.assert_array_equal(found, [one.reset(seed=seed)[0] for one, seed in zip(by_hand, seeds, strict=True)])
    generator, ended = np.random.default_rng(0), np.zeros(3, bool)
    ends: set[tuple[bool, bool]] = set()
    for step in range(40):
        if ended.any():
            again = [100 * step + lane if done else None for lane, done in enumerate(ended)]
            fresh = stepper.reset(again)
            for lane, seed in enumerate(again):
                if seed is not None:
                    np.testing.assert_array_equal(fresh[lane], by_hand[lane].reset(seed=seed)[0])
        actions = generator.uniform(-1, 1, (3, 2)).astype(np.float32)
        observations, rewards, terminated, truncated = stepper.step(actions)
        for lane, one in enumerate(by_hand):
            observation, reward, *flags, _ = one.step(actions[lane])
            np.testing.assert_array_equal(observations[lane], observation)
            assert (rewards[lane], terminated[lane], truncated[lane]) == (reward, *flags)
            ends.add((bool(flags[0]), bool(flags[1])))
        ended = terminated | truncated
    stepper.close()
    assert {(True, False), (False, True)} <= ends, "both kinds of ends were seen"


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_state_goes_on_bit_for_bit(name: str):
    calm_mujoco()  # Else it writes its warnings into a file here.
    first, second = (Lane(gymnasium.make(name), 0) for _ in range(2))
    assert first.keeps_state()
    first.action_space.seed(0)
    first.reset(seed=3)
    for _ in range(9):
        first.step(first.action_space.sample())
    state = json.loads(json.dumps(first.lane_state()))
    second.reset(seed=99)
    for _ in range(4):
        second.step(second.action_space.sample())
    second.reset(seed=98)
    second.load_lane_state([state])
    for _ in range(40):
        action = first.action_space.sample()
        results = [one.step(action) for one in (first, second)]
        np.testing.assert_array_equal(results[0][0], results[1][0])
        assert results[0][1:4] == results[1][1:4]
        if results[0][2] or results[0][3]:
            np.testing.assert_array_equal(first.reset()[0], second.reset()[0])
    assert first.lane_state()["random"] == second.lane_state()["random"]


def test_what_is_not_known_is_not_said_to_be_saved():
    assert not Lane(gymnasium.make("LunarLander-v3"), 0).keeps_state()
    assert not Lane(gymnasium.make(specification()), 0).keeps_state()
    wrapped = gymnasium.wrappers.FrameStackObservation(gymnasium.make("CartPole-v1"), 2)
    assert not Lane(wrapped, 0).keeps_state(), "the frames of a wrapper are a state as well"


def test_states_pass_through_processes():
    environment_dataset("test/pole-v0", "CartPole-v1")
    from iq_offline.data import catalog

    path = catalog.locate("test/pole-v0")
    assert path is not None
    config = OnlineConfig(environments=2, in_processes="yes")
    first, second = (VectorStepper("CartPole-v1", open_source(path), config) for _ in range(2))
    try:
        assert first.keeps_state
        first.reset([1, 2])
        first.step(np.array([0, 1]))
        second.reset([0, 0])
        second.load_state(json.loads(json.dumps(first.state())))
        for actions in ([1, 1], [0, 1], [0, 0]):
            for one, other in zip(first.step(np.array(actions)), second.step(np.array(actions)), strict=True):
                np.testing.assert_array_equal(one, other)
    finally:
        first.close()
        second.close()


def test_a_process_that_dies_between_steps_is_one_line_when_its_state_is_asked_for():
    environment_dataset("test/pole-v0", "CartPole-v1")
    from iq_offline.data import catalog

    path = catalog.locate("test/pole-v0")
    assert path is not None
    stepper = VectorStepper("CartPole-v1", open_source(path), OnlineConfig(environments=2, in_processes="yes"))
    stepper.reset([1, 2])
    stepper.vector.processes[1].kill()
    stepper.vector.processes[1].join()
    with pytest.raises(StepError, match="CartPole-v1: the process of an environment died in a saving of its state"):
        stepper.state()
    stepper.close()


@pytest.mark.parametrize("in_processes", ["no", "yes"])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", "Point-v0 raised ZeroDivisionError in a step: a wheel came off$"),
        ("handle", "Point-v0 raised HandleError in a step: lost the handle, 50% done$"),
        ("two", r"Point-v0 raised SimulatorError in a step: no answer \(3\)$"),
        ("exit", "Point-v0 raised SystemExit in a step: gave up$"),
        ("pipe", "Point-v0 raised BrokenPipeError in a step: no simulator$"),
        ("bare", "Point-v0 raised AssertionError in a step$"),
        ("hang", "Point-v0 hangs: a step took more than 1 seconds"),
        ("shape", "Point-v0 raised ValueError in a step"),
        ("die", "Point-v0: the process of an environment died in a step"),
    ],
)
def test_faults_are_one_line(
    fault: str, words: str, in_processes: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    if (fault, in_processes) == ("die", "no"):
        pytest.skip("an environment that kills its process kills this test's where it has none of its own")
    (tmp_path / "broken").touch()
    limit = 1.0 if fault == "hang" else 60.0  # Long enough for a machine that is busy with other things.
    stepper = stepper_of(
        point_source(), 2, in_processes, limit, fault=fault, after=1, while_there=str(tmp_path / "broken")
    )
    handlers = signal.getsignal(signal.SIGALRM)
    stepper.reset([0, 1])
    stepper.step(np.zeros((2, 2), np.float32))
    with pytest.raises(StepError, match=words) as raised:
        stepper.step(np.zeros((2, 2), np.float32))
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")
    assert signal.getsignal(signal.SIGALRM) == handlers
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    stepper.close()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", "Point-v0 raised ZeroDivisionError in a {doing}: a wheel came off$"),
        ("exit", "Point-v0 raised SystemExit in a {doing}: gave up$"),
        ("pipe", "Point-v0 raised BrokenPipeError in a {doing}: no simulator$"),
        ("hang", "Point-v0 hangs: a {doing} took more than 1 seconds"),
    ],
)
@pytest.mark.parametrize("at", ["step", "reset"])
def test_a_fault_in_the_first_look_is_one_line_too(at: str, fault: str, words: str, tmp_path: Path):
    """Which is where steps are timed, before there is a vector."""
    (tmp_path / "broken").touch()
    faults: dict[str, Any] = {"fault": fault, "at": at, "after": 1, "while_there": str(tmp_path / "broken")}
    with pytest.raises(StepError, match=words.format(doing=at)):
        stepper_of(point_source(), 8, "auto", 1.0, radius=0.01, **faults)


@pytest.mark.parametrize("in_processes", ["no", "yes"])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", "Point-v0 raised ZeroDivisionError in a build: a wheel came off$"),
        ("handle", "Point-v0 raised HandleError in a build: lost the handle, 50% done$"),
        ("exit", "Point-v0 raised SystemExit in a build: gave up$"),
        ("hang", r"Point-v0 hangs: a build took more than 1 seconds \(online.time_limit, for a build at least 0.5\)$"),
    ],
)
@pytest.mark.parametrize("after", [0, 1])
def test_a_constructor_that_fails_is_one_line(
    after: int,
    fault: str,
    words: str,
    in_processes: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """Also where the first copy, which is only looked at, could be built."""
    (tmp_path / "broken").touch()
    monkeypatch.setattr(Point, "built", 0)
    monkeypatch.setattr(vector, "BUILD_SECONDS", 0.5)
    if (fault, after) in (("raise", 0), ("handle", 0)):
        words = "cannot build the environment Point-v0: "
    faults: dict[str, Any] = {"fault": fault, "at": "build", "after": after, "while_there": str(tmp_path / "broken")}
    with pytest.raises(UserError, match=words):
        stepper_of(point_source(), 2, in_processes, 1.0 if fault == "hang" else 60.0, **faults)
    assert capfd.readouterr() == ("", "")
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_slow_constructor_has_longer_than_a_step(monkeypatch: pytest.MonkeyPatch):
    built = Point.__init__

    def slowly(self: Point, **kwargs: Any) -> None:
        time.sleep(0.3)
        built(self, **kwargs)

    monkeypatch.setattr(Point, "__init__", slowly)
    source = point_source()
    for in_processes in ("no", "yes"):
        stepper_of(source, 2, in_processes, 0.2).close()


@pytest.mark.parametrize("in_processes", ["no", "yes"])
@pytest.mark.parametrize("fault", ["raise", "exit", "hang"])
def test_nothing_depends_on_a_close(fault: str, in_processes: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "broken").touch()
    faults: dict[str, Any] = {"fault": fault, "at": "close", "after": -1, "while_there": str(tmp_path / "broken")}
    stepper = stepper_of(point_source(), 2, in_processes, 0.5 if fault == "hang" else 30.0, **faults)
    stepper.close()
    stepper.close()
    assert capfd.readouterr() == ("", "")


def test_what_a_process_cannot_even_say_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "broken").touch()
    monkeypatch.setattr(vector, "LAST_WORDS_SECONDS", 0.5)
    stepper = stepper_of(point_source(), 2, "yes", 30.0, fault="unsendable", while_there=str(tmp_path / "broken"))
    stepper.reset([0, 1])
    with pytest.raises(StepError, match="Point-v0: the process of an environment died in a step"):
        stepper.step(np.zeros((2, 2), np.float32))


@pytest.mark.parametrize("in_processes", ["no", "yes"])
def test_what_environments_tell_besides_is_left_alone(in_processes: str):
    stepper = stepper_of(point_source(), 3, in_processes, ragged=True)
    stepper.reset([0, 1, 2])
    stepper.step(np.zeros((3, 2), np.float32))
    stepper.reset([None, 3, None])
    stepper.close()


def test_processes_end_quietly_when_their_parent_is_killed():
    """One in the middle of a step, and one that waits for its next."""
    point_source()
    program = """
import time
import numpy as np
from iq_offline.data import catalog
from tests.environments.test_vector import open_source, stepper_of

stepper = stepper_of(open_source(catalog.locate("test/point-v0")), 2, "yes", slow=1.0)
stepper.reset([0, 1])
stepper.vector.parent_pipes[0].send(("step", np.zeros(2, np.float32)))
time.sleep(0.3)
print("going on", flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"going on\n"
        parent.kill()
        assert parent.communicate(timeout=30) == (b"", b""), "read to the end: no process is left"


def test_the_first_look_takes_no_slow_environment_for_one_that_hangs():
    """A limit is for one step, and who needs long for one is looked at no longer than it takes to see that."""
    started = time.monotonic()
    stepper = stepper_of(point_source(), 8, "auto", 1.0, slow=0.4, radius=0.01)
    assert stepper.in_processes
    stepper.close()
    assert time.monotonic() - started < vector.LOOK_STEPS * 0.4


def test_a_first_step_that_compiles_says_nothing(monkeypatch: pytest.MonkeyPatch):
    step = Point.step

    def first_slowly(self: Point, action: np.ndarray) -> Any:
        if not self.steps:
            time.sleep(1.2)
        return step(self, action)

    monkeypatch.setattr(Point, "step", first_slowly)
    stepper = stepper_of(point_source(), 8, "auto")
    assert not stepper.in_processes
    stepper.close()


def test_processes_are_chosen_where_steps_are_slow():
    source = point_source()
    for slow, expected in ((0.0, False), (0.002, True)):
        stepper = stepper_of(source, 8, "auto", slow=slow)
        assert stepper.in_processes is expected
        stepper.close()
    assert not stepper_of(source, 1, "auto", slow=0.002).in_processes, "one copy gains nothing"
