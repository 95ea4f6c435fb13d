"""The loop: determinism, resumption after any kind of end, broken losses, schedules and averages."""

import math
import os
import random
import shutil
import signal
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from iq_offline.config import RunConfig
from iq_offline.errors import UserError
from iq_offline.experiment import obtain
from iq_offline.learning.learner import named_leaves
from iq_offline.training import checkpoint
from iq_offline.training.offline import InterruptedTrainingError, Training, seconds_and_commit, train
from iq_offline.training.setup import choose_data, prepare
from iq_offline.training.tracking import read_metrics
from tests.data_helpers import python
from tests.training.program import (
    EXPERT,
    INTERRUPTED,
    assert_same_run,
    assert_same_tensors,
    configuration,
    rows_without_time,
    run_training,
    train_together,
    weights,
    with_iq_learn,
    write_config,
    write_datasets,
)
from tests.warm import Started

LATEST = Path("checkpoint/latest.safetensors")
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(autouse=True)
def datasets(own_folders: None) -> None:
    write_datasets()


def prepared(config: RunConfig) -> Training:
    return prepare(
        config, choose_data(config, obtain(EXPERT), [obtain(part.dataset) for part in config.data.suboptimal])
    )


RECOIL = {"policy": "advantage_weighted", "value": "expectile", "value_states": "suboptimal"}


@pytest.mark.parametrize(
    ("algorithm", "suboptimal", "terms"),
    [
        ("iq_learn", False, {}),
        ("iq_learn", True, {}),
        ("iq_learn", True, RECOIL),
        ("bc", False, {}),
        ("valuedice", True, {}),
        ("sqil", True, {}),
    ],
)
def test_the_same_seed_twice_is_the_same_run(algorithm: str, suboptimal: bool, terms: dict[str, str], tmp_path: Path):
    config = with_iq_learn(configuration(algorithm, suboptimal=suboptimal), **terms)
    for name in ("one", "two"):
        torch.manual_seed(random.randrange(1000))  # Nothing outside the configuration decides.
        torch.rand(random.randrange(10))
        run_training(config, tmp_path / name)
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "suboptimal"), [("bc", False), ("iq_learn", False), ("iq_learn", True), ("valuedice", True)]
)
def test_compiled_is_the_same_but_for_rounding(algorithm: str, suboptimal: bool, tmp_path: Path):
    """And bit for bit where it was cut off. In processes of their own: the tests' checks of types are not compiled."""

    def trained(config: RunConfig, name: str, cut: bool = False) -> Path:
        program = start(write_config(config, tmp_path / f"{name}.toml"), tmp_path / name)
        if cut:
            wait_for_checkpoint(program, tmp_path / name / LATEST)
            program.send_signal(signal.SIGINT)
        errors = program.communicate(timeout=300)[1]
        assert program.returncode == (INTERRUPTED if cut else 0), errors
        return tmp_path / name

    plain = configuration(algorithm, suboptimal=suboptimal, dtype="float64")
    compiled = replace(plain, training=replace(plain.training, compile=True))
    expected, found = weights(trained(plain, "plain") / LATEST), weights(trained(compiled, "compiled") / LATEST)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-8, msg=name)
    assert any(not torch.equal(found[name], value) for name, value in expected.items()), "nothing was compiled"
    longer = replace(compiled, training=replace(compiled.training, gradient_steps=1000))
    trained(longer, "cut", cut=True)
    assert_same_run(trained(longer, "whole"), trained(longer, "cut"))


@pytest.mark.slow
def test_compiled_after_others_it_is_the_same_bits(tmp_path: Path):
    """Sizes that a process has compiled for before do not decide how it compiles for others."""
    small, large = (configuration("bc", compile=True, batch_size=size) for size in (16, 24))
    files = [str(write_config(one, tmp_path / f"{name}.toml")) for name, one in (("small", small), ("large", large))]
    code = "import sys; from tests.training.program import *\n" + (
        "for file, folder in zip(sys.argv[1::2], sys.argv[2::2]):\n"
        "    run_training(from_table(RunConfig, read_toml(Path(file)), file), Path(folder))"
    )
    for order in ([(0, "first"), (1, "after")], [(1, "alone")]):
        given = [word for index, name in order for word in (files[index], str(tmp_path / name))]
        done = python("-c", code, *given)
        assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "alone", tmp_path / "after")


@pytest.mark.parametrize("algorithm", ["iq_learn", "bc", "valuedice", "sqil"])
def test_another_seed_is_another_run(algorithm: str, tmp_path: Path):
    results = []
    for seed in (0, 1):
        config = configuration(algorithm, seed, suboptimal=algorithm == "sqil")
        config = replace(config, data=replace(config.data, num_expert_trajectories=4))
        run_training(config, tmp_path / str(seed))
        results.append(weights(tmp_path / str(seed) / "policy.safetensors"))
    assert all(
        (results[0][name] - results[1][name]).abs().max() > 0.01 for name in ("network.0.weight", "network.2.bias")
    )
    rows = [rows_without_time(tmp_path / str(seed)) for seed in (0, 1)]
    assert all(one["actor/squared_error"] != other["actor/squared_error"] for one, other in zip(*rows, strict=True))


def test_training_does_not_touch_the_global_generator(tmp_path: Path):
    before = torch.get_rng_state()
    run_training(configuration(gradient_steps=5), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)


def start(config_file: Path, folder: Path) -> Started:
    return Started("-m", "tests.training.program", str(config_file), str(folder))


def wait_for_checkpoint(program: Started, file: Path) -> None:
    while program.poll() is None and not file.exists():
        time.sleep(0.001)
    assert program.poll() is None, f"ended too early: {program.communicate()}"


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL])
def test_ended_at_a_random_moment_and_resumed_a_run_ends_as_if_nothing_had_happened(
    number: signal.Signals, tmp_path: Path
):
    config = configuration(suboptimal=True, gradient_steps=300, log_every=7, checkpoint_every=25, snapshots=5)
    file, folder = write_config(config, tmp_path / "config.toml"), tmp_path / "broken"
    run_training(config, tmp_path / "straight")
    program = start(file, folder)
    wait_for_checkpoint(program, folder / LATEST)
    time.sleep(random.uniform(0, 0.1))
    program.send_signal(number)
    output, errors = program.communicate(timeout=60)
    stopped_at = checkpoint.load(folder / LATEST)[1]["step"]
    assert 25 <= stopped_at < 300
    if number == signal.SIGINT:
        assert program.returncode == INTERRUPTED, errors
        assert f"step {stopped_at:,} " in output
    else:
        assert program.returncode == -number
        assert stopped_at % 25 == 0
    assert not (folder / "policy.safetensors").exists()

    run_training(config, folder)
    assert_same_run(tmp_path / "straight", folder)


@pytest.mark.parametrize(
    ("number", "algorithm", "suboptimal"),
    [
        (signal.SIGINT, "iq_learn", False),
        (signal.SIGTERM, "iq_learn", False),
        (signal.SIGTERM, "valuedice", False),
        (signal.SIGTERM, "valuedice", True),
        (signal.SIGTERM, "sqil", True),
    ],
)
def test_a_polite_signal_between_log_rows_saves_the_sums_too(
    number: signal.Signals, algorithm: str, suboptimal: bool, tmp_path: Path
):
    """The signal comes after step 14, so training stops after 15: log_every is 10, checkpoint_every 20."""
    config = configuration(algorithm, suboptimal=suboptimal, snapshots=0)
    run_training(config, tmp_path / "straight")
    folder = tmp_path / "broken"
    once = replace(config.training, snapshots=60 // 14)
    assert config.training.gradient_steps // once.snapshots == 15

    def interrupt(step: int, actor: TensorDict) -> None:
        os.kill(os.getpid(), number)

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(InterruptedTrainingError, match="step 16 "):
        train(prepared(config), once, folder, on_snapshot=interrupt)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    tensors, values = checkpoint.load(folder / LATEST)
    assert values["step"] == 16
    assert int(tensors["learner/step"]) == 16
    assert [row["gradient_steps"] for row in read_metrics(folder / "metrics.ndjson")] == [10]

    train(prepared(config), config.training, folder)
    assert rows_without_time(folder) == rows_without_time(tmp_path / "straight")
    assert_same_tensors(weights(folder / LATEST), weights(tmp_path / "straight" / LATEST))


def test_rows_written_after_the_checkpoint_and_a_cut_last_line_are_written_again(tmp_path: Path):
    """As a kill leaves them: a checkpoint of step 20, rows until 50, and half of the next."""
    config = configuration(gradient_steps=60)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    early = tmp_path / "early.safetensors"

    def keep(done: int, total: int, note: str = "") -> None:
        if done == 30:
            shutil.copy(straight / LATEST, early)

    train(prepared(config), config.training, straight, keep)
    assert checkpoint.load(early)[1]["step"] == 20
    (broken / "checkpoint").mkdir(parents=True)
    shutil.copy(early, broken / LATEST)
    lines = (straight / "metrics.ndjson").read_text().splitlines(keepends=True)
    (broken / "metrics.ndjson").write_text("".join(lines[:5]) + lines[5][:25])

    train(prepared(config), config.training, broken)
    assert rows_without_time(broken) == rows_without_time(straight)
    assert [row["gradient_steps"] for row in rows_without_time(broken)] == [10, 20, 30, 40, 50, 60]
    assert_same_tensors(weights(broken / LATEST), weights(straight / LATEST))


@pytest.mark.parametrize("terms", [{}, RECOIL], ids=["IQ-Learn", "ReCOIL"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_a_checkpoint_between_two_rows_holds_what_the_next_one_needs(
    device: str, terms: dict[str, str], tmp_path: Path
):
    config = with_iq_learn(configuration(suboptimal=bool(terms), checkpoint_every=15, device=device), **terms)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train(prepared(config), config.training, straight)

    def fail(step: int, actor: object) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):  # At step 20.
        train(prepared(config), config.training, broken, on_snapshot=fail)
    assert checkpoint.load(broken / LATEST)[1]["step"] == 15
    train(prepared(config), config.training, broken)
    assert rows_without_time(broken) == rows_without_time(straight)
    assert_same_tensors(weights(broken / LATEST), weights(straight / LATEST))


def test_a_finished_training_is_left_as_it_is(tmp_path: Path):
    config = configuration()
    policy_file, folder = tmp_path / "run" / "policy.safetensors", tmp_path / "run"
    run_training(config, folder)
    before, rows, seconds = weights(policy_file), rows_without_time(folder), seconds_and_commit(folder)[0]
    run_training(config, folder)
    assert_same_tensors(weights(policy_file), before)
    assert rows_without_time(folder) == rows
    assert seconds_and_commit(folder)[0] == seconds > 0


@pytest.mark.parametrize(("algorithm", "suboptimal"), [("iq_learn", True), ("bc", False)])
def test_rows_are_means_over_their_interval(algorithm: str, suboptimal: bool, tmp_path: Path):
    """Also the last one, which is shorter: 10 + 10 + 5 steps."""
    config = configuration(algorithm, suboptimal=suboptimal, gradient_steps=25, dtype="float64")
    train(prepared(config), config.training, tmp_path / "run")
    again = prepared(config)
    values = defaultdict(list)
    for _ in range(25):
        for name, value in again.update().items():
            values[name].append(value.item())
    rows = rows_without_time(tmp_path / "run")
    assert [row["gradient_steps"] for row in rows] == [10, 20, 25]
    for row, interval in zip(rows, (slice(0, 10), slice(10, 20), slice(20, 25)), strict=True):
        expected = {name: sum(column[interval]) / len(column[interval]) for name, column in values.items()}
        assert row == pytest.approx({"gradient_steps": row["gradient_steps"]} | expected, rel=1e-10)


def test_a_loss_that_overflows_stops_the_run_and_names_the_term(tmp_path: Path):
    """With an alpha this small the square overflows at once; where every step is logged, only its terms are named."""
    config = with_iq_learn(configuration(log_every=1), chi2_alpha=1e-44)
    with pytest.raises(UserError, match=r"critic/loss.*critic/chi2") as error:
        run_training(config, tmp_path / "run")
    assert "critic/expert_reward" not in str(error.value)
    assert "no checkpoint" in str(error.value)
    assert not (tmp_path / "run" / LATEST).exists()
    assert not (tmp_path / "run" / "policy.safetensors").exists()


@pytest.mark.parametrize(("group", "term"), [("critic", "critic/q"), ("actor", "actor/squared_error")])
def test_the_last_good_checkpoint_is_kept_when_a_loss_breaks(group: str, term: str, tmp_path: Path):
    """A run that goes well until step 20 and finds an infinity in its weights then."""
    config = configuration()
    folder = tmp_path / "run"
    train(prepared(config), replace(config.training, gradient_steps=60, snapshots=0), folder)
    training = prepared(config)
    training.learner.gradient_steps = 60
    early = prepared(config)
    for _ in range(20):
        early.update()
    checkpoint.save(folder / LATEST, early.state(), {"step": 20, "seconds": 1.0})
    good = (folder / LATEST).read_bytes()

    state = early.state()
    state[f"learner/parameters/{group}/0.bias"] = torch.full((16,), math.inf)
    training.load_state(state)
    poisoned = tmp_path / "poisoned"
    checkpoint.save(poisoned / LATEST, training.state(), {"step": 20, "seconds": 1.0})
    before = (poisoned / LATEST).read_bytes()
    with pytest.raises(UserError, match=term) as error:
        train(prepared(config), config.training, poisoned)
    assert "the checkpoint of step 20 is kept" in str(error.value)
    assert (poisoned / LATEST).read_bytes() == before
    assert (folder / LATEST).read_bytes() == good
    assert all(math.isfinite(value) for row in read_metrics(poisoned / "metrics.ndjson") for value in row.values())


@pytest.mark.parametrize("exponent", [-44, -42, -41, -39.9, -39.5, -37])
@pytest.mark.parametrize("learner", ["plain", "lookahead", "recoil"])
def test_weights_that_are_not_finite_are_never_saved_as_good(learner: str, exponent: float, tmp_path: Path):
    """A loss may be finite where its gradient overflows: the metrics of that step look fine, the weights are gone."""
    config = configuration(gradient_steps=1, checkpoint_every=1, snapshots=0, suboptimal=learner != "plain")
    recoil = {"policy": "advantage_weighted", "value": "expectile", "value_states": "suboptimal"}
    config = with_iq_learn(config, chi2_alpha=10.0**exponent, **(recoil if learner == "recoil" else {}))
    (failure,) = train_together([config], [tmp_path / "run"])
    if failure:
        assert "stopped being finite by step 1" in failure
        assert not (tmp_path / "run" / LATEST).exists()
    else:
        broken = [name for name, value in weights(tmp_path / "run" / LATEST).items() if not value.isfinite().all()]
        assert broken == []


@pytest.mark.parametrize("cosine", [True, False])
def test_learning_rates_follow_the_schedule(cosine: bool):
    """Against torch's own Adam and schedule on the same batches and losses, in float64."""
    steps = 20
    config = configuration("bc", gradient_steps=steps, cosine_schedule=cosine, dtype="float64")
    config = replace(config, bc=replace(config.bc, learning_rate=0.01))
    ours, theirs = prepared(config), prepared(config)
    parameters = theirs.learner.parameters.detach().clone()
    leaves = [leaf.requires_grad_() for _, leaf in named_leaves(parameters["actor"])]
    optimizer = torch.optim.Adam(leaves, 0.01, foreach=False)
    constant = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if cosine else constant
    (phase,) = theirs.learner.agent.phases
    for _ in range(steps):
        ours.update()
        optimizer.zero_grad()
        phase.loss(parameters, theirs.replay.sample(), TensorDict({}))[0].backward()
        optimizer.step()
        schedule.step()
    for (name, mine), reference in zip(named_leaves(ours.learner.parameters["actor"]), leaves, strict=True):
        torch.testing.assert_close(mine.detach(), reference.detach(), rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_the_average_is_warmed_up(decay: float):
    """After step t = 1, 2, … the average keeps min(decay, (1 + t) / (10 + t)) of itself."""
    training = prepared(configuration("bc", average_decay=decay, dtype="float64"))
    learner = training.learner
    average = learner.parameters["actor"].detach().clone()
    assert (learner.average == average).all()
    for step in range(1, 21):
        training.update()
        kept = min(decay, (1 + step) / (10 + step))
        average = average * kept + learner.parameters["actor"].detach() * (1 - kept)
        for (name, mine), (_, expected) in zip(named_leaves(learner.average), named_leaves(average), strict=True):
            torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12, msg=name)


def test_snapshots_come_evenly_and_hold_the_averaged_actor(tmp_path: Path):
    config = configuration("bc", gradient_steps=30, snapshots=3)
    steps, seen = [], []

    def note(step: int, actor: TensorDict) -> None:
        steps.append(step)
        seen.append(actor.clone())

    training = prepared(config)
    train(training, config.training, tmp_path / "run", on_snapshot=note)
    assert steps == [10, 20, 30]
    assert (seen[-1] == training.learner.average).all()
    again = prepared(config)
    for _ in range(10):
        again.update()
    assert all(torch.equal(leaf, seen[0][name]) for name, leaf in named_leaves(again.learner.average))


def test_as_many_snapshots_as_asked_for_when_the_budget_does_not_divide(tmp_path: Path):
    config = configuration("bc", gradient_steps=29, snapshots=10)
    steps: list[int] = []
    train(prepared(config), config.training, tmp_path / "run", on_snapshot=lambda step, actor: steps.append(step))
    assert len(steps) == 10
    assert steps[-1] == 29
