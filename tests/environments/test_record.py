"""Recording built-in datasets: the same twice, plain Minari, whole or not at all."""

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest
import tomli_w
import torch
from gymnasium.spaces import Box
from scipy.stats import kstest

from iq_offline.config import from_table, to_table
from iq_offline.data import catalog
from iq_offline.data.cache import cached
from iq_offline.data.catalog import Card
from iq_offline.data.stream import episode_returns, open_source
from iq_offline.environments.record import record
from iq_offline.errors import UserError
from iq_offline.learning.networks import mlp
from iq_offline.learning.policy import Policy
from tests.data_helpers import snapshot, start_python, tmpfs

EXPERT = "iq-offline/pendulum/expert-v0"


@pytest.fixture
def card(tmp_path: Path) -> Card:
    """A card of Pendulum-v1, whose policy is a random network."""
    torch.manual_seed(0)
    spaces = Box(-np.inf, np.inf, (3,)), Box(-2.0, 2.0, (1,))
    file = tmp_path / "policy.safetensors"
    Policy(mlp(3, 8, 1), *spaces).save(file)
    table = {
        "environment": "Pendulum-v1",
        "references": {"expert_return": -150.5, "random_return": -1200.25, "source": "measured by hand"},
        "training": {"algorithm": "SAC"},
        "datasets": {
            "expert": {"policy": str(file), "episodes": 12, "seed": 40, "training_steps": 7},
            "noisy": {"policy": str(file), "episodes": 3, "seed": 60, "action_noise": 0.1},
            "random": {"policy": "random", "episodes": 12, "seed": 80},
        },
    }
    return from_table(Card, table, "test")


def arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of a dataset's HDF5 file by its name."""
    found: dict[str, np.ndarray] = {}
    with h5py.File(path / "main_data.hdf5") as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def hidden(root: Path) -> list[Path]:
    return [path for path in root.rglob(".*") if path.name.startswith(".recording")]


@pytest.mark.parametrize("tier", ["expert", "noisy", "random"])
def test_recorded_twice_the_same(card: Card, tier: str) -> None:
    first = record("pendulum", tier, card)
    before = arrays(first.path)
    torch.manual_seed(99)
    np.random.default_rng(99)
    second = record("pendulum", tier, card)
    after = arrays(second.path)
    assert first.content_hash == second.content_hash
    assert first.content_hash.startswith("sha256:")
    assert before.keys() == after.keys()
    assert len(before) >= 5 * card.datasets[tier].episodes
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], name)
        assert values.dtype == after[name].dtype
    np.testing.assert_array_equal(first.returns, second.returns)


def test_another_seed_policy_or_noise_is_other_content(card: Card) -> None:
    about = card.datasets["noisy"]
    variants = {"as it is": about, "seed": dataclasses.replace(about, seed=61)}
    variants["noise"] = dataclasses.replace(about, action_noise=0.2)
    variants["random"] = dataclasses.replace(about, policy="random", action_noise=0.0)
    hashes = {
        record("pendulum", "noisy", dataclasses.replace(card, datasets={"noisy": variant})).content_hash
        for variant in variants.values()
    }
    assert len(hashes) == len(variants)


def test_recording_leaves_torchs_threads_alone(card: Card) -> None:
    """A training that records its data first has the threads of one that finds them."""
    torch.set_num_threads(2)
    try:
        record("pendulum", "noisy", card)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_opens_as_a_plain_minari_dataset(card: Card) -> None:
    recording = record("pendulum", "expert", card)
    assert (recording.id, recording.path) == (EXPERT, catalog.minari_root() / EXPERT / "data")
    assert catalog.locate(EXPERT) == recording.path
    assert EXPERT in minari.list_local_datasets()
    dataset = minari.load_dataset(EXPERT)
    assert dataset.total_episodes == 12
    assert dataset.total_steps == 12 * 200 == recording.lengths.sum()
    metadata = dataset.storage.metadata
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (-1200.25, -150.5)
    assert "measured by hand" in metadata["description"]
    assert metadata["algorithm_name"] == "SAC"
    assert any(line.startswith("gymnasium==") for line in metadata["requirements"])
    middle = minari.get_normalized_score(dataset, np.array([-150.5, -1200.25, (-150.5 - 1200.25) / 2]))
    np.testing.assert_allclose(middle, [1.0, 0.0, 0.5])
    for evaluation in (False, True):
        environment = dataset.recover_environment(eval_env=evaluation)
        assert environment.spec is not None
        assert environment.spec.id == "Pendulum-v1"
    raw = json.loads((recording.path / "metadata.json").read_text())
    assert json.loads(raw["env_spec"])["id"] == json.loads(raw["eval_env_spec"])["id"] == "Pendulum-v1"


def test_episodes_follow_from_their_recorded_seeds(card: Card) -> None:
    """Replaying the actions from each episode's seed gives the recorded observations, rewards and ends."""
    recording = record("pendulum", "expert", card)
    dataset, environment = minari.load_dataset(EXPERT), gymnasium.make("Pendulum-v1")
    seeds = [about["seed"] for about in dataset.storage.get_episode_metadata(list(range(12)))]
    assert seeds == list(range(40, 52))
    policy = Policy.load(Path(card.datasets["expert"].policy))
    for index, (seed, episode) in enumerate(zip(seeds, dataset.iterate_episodes(), strict=True)):
        observation = environment.reset(seed=int(seed))[0]
        np.testing.assert_array_equal(episode.observations[0], observation)
        for t, action in enumerate(episode.actions):
            observation, reward, terminated, truncated, _ = environment.step(action)
            np.testing.assert_array_equal(episode.observations[t + 1], observation)
            assert (episode.rewards[t], episode.terminations[t], episode.truncations[t]) == (
                reward,
                terminated,
                truncated,
            )
        np.testing.assert_allclose(episode.actions, policy(episode.observations[:-1]), atol=1e-5)
        assert recording.returns[index] == pytest.approx(episode.rewards.sum())
    np.testing.assert_allclose(episode_returns(open_source(recording.path)), recording.returns)


def test_noise_is_a_share_of_half_the_action_box(card: Card) -> None:
    record("pendulum", "noisy", card)
    policy = Policy.load(Path(card.datasets["noisy"].policy))
    for seed, episode in zip(range(60, 63), minari.load_dataset("iq-offline/pendulum/noisy-v0"), strict=True):
        generator = np.random.default_rng(seed)
        noise = np.stack([generator.standard_normal(1) for _ in range(200)])
        expected = np.clip(policy(episode.observations[:-1]) + 0.1 * 2.0 * noise, -2, 2)
        np.testing.assert_allclose(episode.actions, expected, atol=1e-5)
        assert episode.actions.dtype == np.float32


def test_random_actions_are_uniform_in_the_box(card: Card) -> None:
    record("pendulum", "random", card)
    dataset = minari.load_dataset("iq-offline/pendulum/random-v0")
    actions = np.concatenate([episode.actions for episode in dataset.iterate_episodes()])[:, 0]
    assert actions.dtype == np.float32
    assert kstest(actions, "uniform", args=(-2, 4)).pvalue > 1e-4
    assert dataset.storage.metadata["algorithm_name"] == "random"


def test_a_new_recording_replaces_the_old_one_as_a_whole(card: Card) -> None:
    record("pendulum", "expert", card)
    shorter = dataclasses.replace(card.datasets["expert"], episodes=2)
    recording = record("pendulum", "expert", dataclasses.replace(card, datasets={"expert": shorter}))
    assert {name.split("/")[0] for name in arrays(recording.path)} == {"episode_0", "episode_1"}
    assert minari.load_dataset(EXPERT).total_episodes == 2
    data = cached(open_source(recording.path))
    assert data.lengths.tolist() == [200, 200]


@pytest.mark.parametrize("already", [False, True])
def test_interrupted_recording_leaves_nothing_half(card: Card, already: bool) -> None:
    if already:
        record("pendulum", "expert", card)
    root = catalog.minari_root()
    before = snapshot(root)

    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record("pendulum", "expert", card, interrupt)
    assert snapshot(root) == before


def test_a_policy_that_does_not_exist(card: Card) -> None:
    about = dataclasses.replace(card.datasets["expert"], policy="nothing.safetensors")
    with pytest.raises(UserError, match=r"nothing\.safetensors"):
        record("pendulum", "expert", dataclasses.replace(card, datasets={"expert": about}))
    assert list(catalog.minari_root().iterdir()) == []


def test_full_disk_while_recording(card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dataset that was there stays, whole, and nothing half is beside it."""
    more = dataclasses.replace(card.datasets["random"], episodes=60)
    larger = dataclasses.replace(card, datasets={"random": more})
    with tmpfs(tmp_path / "small", "1m") as disk:
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(disk))
        few = dataclasses.replace(more, episodes=2)
        record("pendulum", "random", dataclasses.replace(card, datasets={"random": few}))
        before = snapshot(disk)
        with pytest.raises(UserError, match=f"no space left while recording iq-offline/pendulum/random-v0 in {disk}"):
            record("pendulum", "random", larger)
        assert snapshot(disk) == before
        assert minari.load_dataset("iq-offline/pendulum/random-v0").total_episodes == 2


def test_leftovers_of_a_killed_recording_are_no_dataset(card: Card) -> None:
    """Kill -9 while Minari writes leaves a hidden folder: nobody lists it, and recording works."""
    recording = record("pendulum", "expert", card)
    root = catalog.minari_root()
    left = root / ".recording-x"
    shutil.move(root / "iq-offline", left / "iq-offline")
    assert minari.list_local_datasets() == {}
    assert catalog.local_ids() == []
    assert catalog.locate(EXPERT) is None
    again = record("pendulum", "expert", card)
    assert again.content_hash == recording.content_hash
    assert list(minari.list_local_datasets()) == [EXPERT]


def test_recording_keeps_other_datasets_and_their_namespaces(card: Card) -> None:
    record("pendulum", "random", card)
    root = catalog.minari_root()
    described = [file for file in root.rglob("namespace_metadata.json") if file.parent.name == "pendulum"]
    for file in described:
        file.write_text(json.dumps({"description": "mine"}))
    kept = snapshot(root)
    record("pendulum", "expert", card)
    after = snapshot(root)
    assert {path: after[path] for path in kept} == kept
    assert hidden(root) == []
    assert sorted(minari.list_local_datasets()) == [EXPERT, "iq-offline/pendulum/random-v0"]


RECORD = """
import sys, tomllib
from iq_offline.config import from_table
from iq_offline.data.cache import cached
from iq_offline.data.catalog import Card
from iq_offline.data.stream import open_source
from iq_offline.environments.record import record
card = from_table(Card, tomllib.loads(sys.argv[1]), "test")
def wait(done, total):
    if done == total:
        print("recorded", flush=True)
        input()
recording = record("pendulum", "random", card, wait)
print(cached(open_source(recording.path)).steps["action"].double().sum().item())
"""


@pytest.mark.slow
def test_two_processes_record_the_same_dataset(card: Card) -> None:
    """As a sweep does on a new machine: both find it missing, both end up with a whole one."""
    few = dataclasses.replace(card, datasets={"random": dataclasses.replace(card.datasets["random"], episodes=2)})
    table = {name: part for name, part in to_table(few).items() if name != "training"}
    table["datasets"]["random"] = {k: v for k, v in table["datasets"]["random"].items() if v is not None}
    processes = [start_python("-c", RECORD, tomli_w.dumps(table), stdin=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "recorded\n", process.communicate()
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    dataset = minari.load_dataset("iq-offline/pendulum/random-v0")
    total = sum(float(episode.actions.astype(np.float64).sum()) for episode in dataset.iterate_episodes())
    assert [float(output) for output, _ in outputs] == [pytest.approx(total)] * 2
    assert hidden(catalog.minari_root()) == []


def test_minaris_folder_setting_is_given_back(card: Card, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "elsewhere"))
    record("pendulum", "noisy", card)
    assert os.environ["MINARI_DATASETS_PATH"] == str(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "iq-offline" / "pendulum" / "noisy-v0" / "data" / "main_data.hdf5").is_file()
