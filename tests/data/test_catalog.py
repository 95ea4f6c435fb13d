"""Names of datasets, cards, and where they are found."""

import errno
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from iq_offline.config import from_table
from iq_offline.data import catalog
from iq_offline.data.catalog import Card
from iq_offline.errors import UserError
from iq_offline.files import shipped
from tests.data_helpers import small_dataset

CARD: dict[str, Any] = {
    "environment": "Pendulum-v1",
    "references": {"expert_return": -150.0, "random_return": -1200.0, "source": "measured"},
    "datasets": {
        "expert": {"policy": "pendulum.safetensors", "episodes": 5, "seed": 0},
        "random": {"policy": "random", "episodes": 3, "seed": 100},
    },
}


@pytest.mark.parametrize("file", sorted(shipped("datasets").glob("*.toml")), ids=lambda file: file.stem)
def test_shipped_cards(file: Path) -> None:
    """Every shipped card loads to what its TOML says, and its references make sense."""
    table, card = tomllib.loads(file.read_text()), catalog.load_card(file.stem)
    assert card.environment == table["environment"]
    assert card.references.expert_return == table["references"]["expert_return"]
    assert card.references.random_return == table["references"]["random_return"] < card.references.expert_return
    assert set(card.datasets) == set(table["datasets"]) >= {"expert", "random"}
    for tier, about in card.datasets.items():
        assert (about.policy == "random") == (tier == "random")
    ranges = [range(about.seed, about.seed + about.episodes) for about in card.datasets.values()]
    seeds = [seed for each in ranges for seed in each]
    assert len(seeds) == len(set(seeds)), "two datasets share the seed of an episode"


def test_builtin_names_and_ids() -> None:
    assert "hopper" in catalog.card_names()
    assert {"hopper/expert", "hopper/random"} <= set(catalog.builtin_names())
    assert catalog.minari_id("hopper/expert") == "iq-offline/hopper/expert-v0"
    assert catalog.minari_id("mujoco/hopper/expert-v0") == "mujoco/hopper/expert-v0"
    for name in ("hopper/expert", "iq-offline/hopper/expert-v0"):
        found = catalog.builtin_of(name)
        assert found is not None
        assert found == (catalog.load_card("hopper"), "expert")
    assert catalog.builtin_of("mujoco/hopper/expert-v0") is None
    assert catalog.builtin_of("hopper/expertise") is None


def test_unknown_card() -> None:
    with pytest.raises(UserError, match="no dataset card 'hoper'; did you mean 'hopper'"):
        catalog.load_card("hoper")
    for name in ("../hopper", "policies/x", ""):
        with pytest.raises(UserError, match="no dataset card"):
            catalog.load_card(name)


def test_a_card_from_a_table() -> None:
    card = from_table(Card, CARD, "here")
    assert card.datasets["random"].episodes == 3
    assert card.datasets["expert"].action_noise == 0.0
    assert card.references.random_return == -1200.0


@pytest.mark.parametrize(
    ("place", "key", "value", "expected"),
    [
        ((), "environments", 1, r"unknown key 'environments'; did you mean 'environment'"),
        (("references",), "expert_returns", 1.0, r"'references.expert_returns'; did you mean 'expert_return'"),
        (("datasets", "expert"), "policies", "x", r"unknown key 'datasets.expert.policies'"),
        (("datasets", "expert"), "episodes", 0, r"datasets.expert.episodes = 0"),
        (("datasets", "random"), "action_noise", -0.1, r"datasets.random.action_noise = -0.1"),
    ],
)
def test_mistakes_in_a_card(place: tuple[str, ...], key: str, value: Any, expected: str) -> None:
    table: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in CARD.items()}
    table["datasets"] = {k: dict(v) for k, v in CARD["datasets"].items()}
    inner = table
    for part in place:
        inner = inner[part]
    inner[key] = value
    with pytest.raises(UserError, match=f"^here: .*{expected}"):
        from_table(Card, table, "here")


def test_locate_finds_local_datasets() -> None:
    folder = small_dataset("some-where/deep/small-v12").path
    assert catalog.locate("some-where/deep/small-v12") == folder
    assert catalog.locate("hf://some-one/some-where/deep/small-v12") == folder, "as Minari takes the remote off"
    assert catalog.locate("some-where/deep/small-v1") is None
    assert catalog.locate("hopper/expert") is None
    assert catalog.local_ids() == ["some-where/deep/small-v12"]


@pytest.mark.parametrize(
    "name",
    [
        "../x-v0",
        "a/../../x-v0",
        "/etc/x-v0",
        "..-v0",
        "a/..-v0",
        "hf://../x-v0",
        "hf:///etc/x-v0",
        "~/x-v0",
        "x",
        "",
        "x-v",
        "x v0",
        "x-v0\n",
        "x-v0/",
        "a\\b-v0",
        "$HOME/x-v0",
    ],
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UserError, match="neither a built-in dataset nor a Minari id"):
        catalog.locate(name)


def test_a_dataset_beside_the_root_is_not_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_dataset("test/small-v0")
    (tmp_path / "minari" / "inner").mkdir()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari" / "inner"))
    with pytest.raises(UserError, match="Minari id"):
        catalog.locate("../test/small-v0")


def test_nearest_names_are_suggested() -> None:
    small_dataset("mujoco/hopper/expert-v0")
    assert "did you mean" in (text := str(catalog.not_found("mujoco/hoper/expert-v0")))
    assert "'mujoco/hopper/expert-v0'" in text
    assert "'hopper/expert'" in str(catalog.not_found("hopper/exprt-v0"))
    assert f"{catalog.card_names()[0]}/" in str(catalog.not_found("qqq/zzz-v0")), "nothing near: some that there are"
    assert "--download" in text
    for error in (catalog.not_found("a-v0"), catalog.not_found("hopper")):
        assert "\n" not in str(error)


def test_hidden_and_unfinished_folders_are_no_datasets(tmp_path: Path) -> None:
    small_dataset("test/small-v0")
    root = tmp_path / "minari"
    (root / ".recording-x" / "iq-offline" / "hopper" / "expert-v0" / "data").mkdir(parents=True)
    (root / ".recording-x" / "iq-offline" / "hopper" / "expert-v0" / "data" / "metadata.json").write_text("{}")
    (root / "test" / "half-v0" / "data").mkdir(parents=True)
    assert catalog.local_ids() == ["test/small-v0"]


def test_what_may_not_be_read_is_no_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As lost+found at the root of a disk, and without the tests' own rights: nothing in it is asked for."""
    small_dataset("test/point-v0")
    hidden = tmp_path / "minari" / "lost+found"
    hidden.mkdir()
    may, is_file = os.access, Path.is_file

    def is_file_there(path: Path) -> bool:
        if path.parent == hidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(os, "access", lambda path, mode: path != hidden and may(path, mode))
    monkeypatch.setattr(Path, "is_file", is_file_there)
    assert catalog.local_ids() == ["test/point-v0"]


def test_no_root_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "nothing"))
    assert catalog.local_ids() == []
    assert catalog.locate("test/small-v0") is None
    assert not (tmp_path / "nothing").exists()


def test_the_default_root_is_minaris(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    from minari.storage.datasets_root_dir import get_dataset_path

    assert str(catalog.minari_root()) == str(get_dataset_path())


def test_datasets_behind_links_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_dataset("data/linked/small-v0")
    small_dataset("linked/small-v1")
    root = tmp_path / "other"
    root.mkdir()
    (root / "here").symlink_to(catalog.minari_root())
    (root / "here" / "linked" / "round").symlink_to(root)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    assert catalog.local_ids() == ["here/data/linked/small-v0", "here/linked/small-v1"]
