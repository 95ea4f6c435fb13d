"""Batches drawn ahead, and data mapped or held: the same training, bit for bit, and nothing left running."""

import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from tensordict import TensorDict

from iq_offline.config import RunConfig
from iq_offline.data import replay as replays
from iq_offline.data.prefetch import Prefetcher
from iq_offline.errors import UserError
from iq_offline.experiment import obtain
from iq_offline.training import checkpoint
from iq_offline.training.offline import InterruptedTrainingError, Training, train
from iq_offline.training.setup import choose_data, population, prepare
from iq_offline.training.training import Population
from tests.training.program import (
    EXPERT,
    INTERRUPTED,
    OTHER,
    assert_same_run,
    assert_same_tensors,
    configuration,
    rows_without_time,
    run_training,
    weights,
    with_iq_learn,
    write_config,
    write_datasets,
)
from tests.warm import Started

LATEST = Path("checkpoint/latest.safetensors")


@pytest.fixture(autouse=True)
def datasets(own_folders: None) -> None:
    write_datasets()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Any:
    """After any of these tests."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def with_prefetch(config: RunConfig, prefetch: int) -> RunConfig:
    return replace(config, training=replace(config.training, prefetch=prefetch))


def prepared(config: RunConfig) -> Training:
    parts = [obtain(part.dataset) for part in config.data.suboptimal]
    return prepare(config, choose_data(config, obtain(EXPERT), parts))


# ---------------------------------------------------------------------------------------------------- drawn ahead


@pytest.mark.parametrize(
    ("algorithm", "suboptimal"),
    [("iq_learn", True), ("iq_learn", False), ("bc", False), ("valuedice", False), ("sqil", True)],
)
def test_the_same_run_with_batches_drawn_ahead(algorithm: str, suboptimal: bool, tmp_path: Path):
    config = configuration(algorithm, suboptimal=suboptimal)
    run_training(config, tmp_path / "plain")
    for prefetch in (1, 3):
        run_training(with_prefetch(config, prefetch), tmp_path / str(prefetch))
        assert_same_run(tmp_path / "plain", tmp_path / str(prefetch))


@pytest.mark.parametrize(
    ("number", "resumed_with"), [(signal.SIGINT, 0), (signal.SIGTERM, 2), (signal.SIGINT, 3), (signal.SIGTERM, 0)]
)
def test_interrupted_and_resumed(number: signal.Signals, resumed_with: int, tmp_path: Path):
    """At step 16 of 60, by a signal; resumed with and without drawing ahead it ends as one that never did either."""
    config = configuration(suboptimal=True, snapshots=0)
    train(prepared(config), config.training, tmp_path / "straight")
    folder = tmp_path / "broken"
    ahead = with_prefetch(config, 3)
    with pytest.raises(InterruptedTrainingError, match="step 16 "):
        train(
            prepared(ahead),
            replace(ahead.training, snapshots=4),
            folder,
            on_snapshot=lambda step, actor: signal.raise_signal(number),
        )
    assert checkpoint.load(folder / LATEST)[1]["step"] == 16
    again = with_prefetch(config, resumed_with)
    train(prepared(again), again.training, folder)
    assert rows_without_time(folder) == rows_without_time(tmp_path / "straight")
    assert_same_tensors(weights(folder / LATEST), weights(tmp_path / "straight" / LATEST))


def test_interrupted_at_every_step_and_resumed(tmp_path: Path):
    """Each session makes one step, with another number of batches drawn ahead; the last one is told to stop as well."""
    config = configuration(gradient_steps=12, checkpoint_every=100, log_every=5, snapshots=0)
    train(prepared(config), config.training, tmp_path / "straight")
    for session in range(12):
        ahead = with_prefetch(config, session % 4)
        training = prepared(ahead)
        update = training.update

        def updated(update: Any = update) -> Any:
            signal.raise_signal(signal.SIGTERM)
            return update()

        training.update = updated
        with pytest.raises(InterruptedTrainingError, match=f"step {session + 1} "):
            train(training, ahead.training, tmp_path / "broken")
    train(prepared(config), config.training, tmp_path / "broken")  # Nothing is left to do.
    assert_same_tensors(weights(tmp_path / "broken" / LATEST), weights(tmp_path / "straight" / LATEST))
    assert rows_without_time(tmp_path / "broken") == rows_without_time(tmp_path / "straight")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_process_that_is_ended_from_outside(number: signal.Signals, tmp_path: Path):
    config = configuration(suboptimal=True, gradient_steps=300, log_every=7, checkpoint_every=25, snapshots=5)
    run_training(config, tmp_path / "straight")
    file, folder = write_config(with_prefetch(config, 3), tmp_path / "config.toml"), tmp_path / "broken"
    program = Started("-m", "tests.training.program", str(file), str(folder))
    while program.poll() is None and not (folder / LATEST).exists():
        time.sleep(0.005)
    program.send_signal(number)
    output = program.communicate(timeout=60)
    assert program.returncode == (INTERRUPTED if number == signal.SIGTERM else -number), output
    assert 25 <= checkpoint.load(folder / LATEST)[1]["step"] < 300
    run_training(with_prefetch(config, 3), folder)
    assert_same_run(tmp_path / "straight", folder)


def test_a_population_that_draws_ahead():
    """Also when its state is taken up by one that does not, or draws further ahead."""
    configs = [configuration(seed=seed) for seed in range(3)]

    def members(prefetch: int) -> Population:
        ahead = [with_prefetch(config, prefetch) for config in configs]
        return population(ahead, [choose_data(config, obtain(EXPERT), []) for config in ahead])

    def after(together: Population, updates: int) -> list[dict[str, torch.Tensor]]:
        for _ in range(updates):
            together.update()
        states = [{name: value.clone() for name, value in one.state().items()} for one in together.members]
        together.close()
        return states

    straight = after(members(0), 12)
    for found, expected in zip(after(members(3), 12), straight, strict=True):
        assert_same_tensors(found, expected)
    for first, second in ((3, 0), (0, 2), (1, 3)):
        begun, other = after(members(first), 5), members(second)
        for one, state in zip(other.members, begun, strict=True):
            one.load_state(state)
        for found, expected in zip(after(other, 7), straight, strict=True):
            assert_same_tensors(found, expected)


class BrokenError(Exception):
    """Of a test."""


def test_no_thread_is_left_when_something_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In a callback, in a loss, in the draws, or by Ctrl-C twice: the fixture looks."""
    config = with_prefetch(configuration(), 3)
    before = threading.active_count()

    def fail(*arguments: Any) -> NoReturn:
        raise BrokenError

    def fail_with_note(done: int, total: int, note: str = "") -> None:
        raise BrokenError

    with pytest.raises(BrokenError):
        train(prepared(config), config.training, tmp_path / "snapshot", on_snapshot=fail)
    assert threading.active_count() == before
    with pytest.raises(BrokenError):
        train(prepared(config), config.training, tmp_path / "progress", progress=fail_with_note)
    assert threading.active_count() == before
    diverging = with_iq_learn(replace(config, training=replace(config.training, log_every=1)), chi2_alpha=1e-44)
    with pytest.raises(UserError, match="stopped being finite"):
        train(prepared(diverging), diverging.training, tmp_path / "diverging")
    assert threading.active_count() == before

    def twice(step: int, actor: TensorDict) -> None:
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.05)  # Two that come before Python looks are one.
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(prepared(config), config.training, tmp_path / "twice", on_snapshot=twice)
    assert threading.active_count() == before
    training = prepared(config)
    monkeypatch.setattr(training.replay, "sample", fail)
    with pytest.raises(BrokenError):
        train(training, config.training, tmp_path / "draws")
    assert threading.active_count() == before


def test_a_failed_draw_can_be_tried_again():
    """The disk was away for a moment: the same batch comes when it is back, and nobody waits for a dead thread."""
    plain, ahead = prepared(configuration()).replay, prepared(configuration()).replay
    expected = [plain.sample()["expert", "action"] for _ in range(6)]
    draw, failures = ahead.sample, [3, 3]
    drawn = 0

    def sometimes() -> TensorDict:
        nonlocal drawn
        if failures and drawn == failures[0]:
            failures.pop()
            raise OSError("the disk is gone")
        drawn += 1
        return draw()

    ahead.sample = sometimes  # type: ignore[method-assign]
    prefetcher = Prefetcher(ahead, 2)
    got, errors = [], 0
    while len(got) < 6:
        try:
            got.append(prefetcher.sample()["expert", "action"])
        except OSError:
            errors += 1
    prefetcher.close()
    assert errors == 2
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


# ---------------------------------------------------------------------------------------------------- mapped or held


@pytest.mark.parametrize(("algorithm", "suboptimal"), [("iq_learn", True), ("bc", False)])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_held_in_memory_or_read_from_disk(
    algorithm: str, suboptimal: bool, prefetch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = with_prefetch(configuration(algorithm, suboptimal=suboptimal), prefetch)
    for name, share in (("held", 0.5), ("mapped", 0.0)):
        monkeypatch.setattr(replays, "MEMORY_SHARE", share)
        assert [table.is_held for table in prepared(config).replay.tables] == [name == "held"] * (1 + suboptimal)
        run_training(config, tmp_path / name)
    assert_same_run(tmp_path / "held", tmp_path / "mapped")


def test_some_held_and_some_read_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The expert's few trajectories fit, the others do not."""
    config = configuration(suboptimal=True)
    run_training(config, tmp_path / "held")
    expert, _ = prepared(config).replay.tables
    monkeypatch.setattr(replays, "free_memory", lambda device: 2 * expert.bytes)
    tables = prepared(config).replay.tables
    assert [table.is_held for table in tables] == [True, False]
    assert "read from the cache on disk" in replays.where(tables)
    run_training(config, tmp_path / "mixed")
    assert_same_run(tmp_path / "held", tmp_path / "mixed")


def test_where_says_which(monkeypatch: pytest.MonkeyPatch):
    """2 of 4 trajectories of 25 steps: 52 rows of 4 + 2 + 1 numbers; and one of 75 steps of the others."""
    config = configuration(suboptimal=True)
    replay = prepared(config).replay
    assert [table.bytes for table in replay.tables] == [52 * 7 * 4, 3 * 26 * 7 * 4]
    assert replays.where(replay.tables) == "0 MB of transitions are held in RAM"
    assert "suboptimal" in replay.batch_sizes
    assert config.data.suboptimal[0].dataset == OTHER
    monkeypatch.setattr(replays, "MEMORY_SHARE", 0.0)
    where = replays.where(prepared(config).replay.tables)
    assert where == "0 MB of transitions are read from the cache on disk: they do not fit in RAM"


def test_only_selections_that_fit_in_the_share_are_held(monkeypatch: pytest.MonkeyPatch):
    """To the byte."""
    config = configuration()
    (table,) = prepared(config).replay.tables
    needed = table.bytes
    for free, held in ((2 * needed, True), (2 * needed - 1, False)):
        monkeypatch.setattr(replays, "free_memory", lambda device: free)  # noqa: B023
        assert [table.is_held for table in prepared(config).replay.tables] == [held]
