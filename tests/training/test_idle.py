"""Keys without an effect: named where someone set them, and nobody is told of what they did not set."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from iq_offline.cli import main
from iq_offline.config import (
    BCConfig,
    IQLearnConfig,
    OnlineConfig,
    RunConfig,
    Suboptimal,
    TrainingConfig,
    load_recipe,
    resolved,
    to_toml,
)
from iq_offline.config.iq_learn import undecided
from iq_offline.experiment import obtain, run, stages
from iq_offline.files import shipped
from iq_offline.training.idle import idle_keys, set_in_vain
from iq_offline.training.setup import choose_data, prepare
from tests.environments.worlds import as_given, environment_dataset, point_dataset
from tests.training.program import EXPERT, OTHER, QUIET, configuration, write_config, write_datasets

FINITE = "test/cart-v0"


def in_vain(config: RunConfig, folder: Path = Path("nowhere")) -> list[str]:
    parts = stages(config, folder)
    data = choose_data(parts[-1], obtain(config.data.expert), [obtain(part.dataset) for part in config.data.suboptimal])
    return set_in_vain(parts, idle_keys(parts, data))


def given(algorithm: str = "iq_learn", mixed: bool = False, finite: bool = False, **iq_learn: Any) -> RunConfig:
    """A small run with nothing decided; keywords are IQ-Learn's."""
    small = replace(configuration(), algorithm=algorithm)
    expert = FINITE if finite else EXPERT
    others = (Suboptimal(FINITE if finite else OTHER, 1),) * mixed
    data = replace(small.data, expert=expert, suboptimal=others, num_expert_trajectories=1, held_out_trajectories=0)
    training = replace(small.training, gradient_steps=10_000, snapshots=10, actors="auto")
    return replace(small, data=data, training=training, iq_learn=IQLearnConfig(**iq_learn))


def online(config: RunConfig, **changes: Any) -> RunConfig:
    """In the environment as well."""
    return replace(config, online=OnlineConfig(20_000, **changes))


@pytest.fixture(autouse=True)
def datasets(own_folders: None) -> None:
    write_datasets()


@pytest.fixture
def finite_dataset(datasets: None) -> None:
    environment_dataset(FINITE, "CartPole-v1")


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("suboptimal", [False, True])
@pytest.mark.parametrize("algorithm", ["bc", "iq_learn", "valuedice"])
def test_the_defaults_are_nobodys_wish(algorithm: str, suboptimal: bool, fast: bool):
    config = replace(configuration(algorithm, suboptimal=suboptimal), iq_learn=IQLearnConfig(), fast=fast)
    assert in_vain(config) == []
    assert in_vain(resolved(config)) == [], "as a sweep plans it"


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("finite", [False, True])
@pytest.mark.parametrize("algorithm", ["iq_learn", "valuedice", "sqil"])
def test_nor_are_they_online(algorithm: str, finite: bool, fast: bool, finite_dataset: None):
    for config in (online(given(algorithm, finite=finite)), online(given(algorithm, True, finite), start="offline")):
        config = replace(config, fast=fast)
        assert in_vain(config) == []
        assert config.online.start or in_vain(resolved(config)) == []


def test_what_was_set_in_vain_is_named():
    alone = configuration("iq_learn")
    data = replace(alone.data, suboptimal_fraction=0.3)
    config = replace(alone, data=data, iq_learn=IQLearnConfig(lasting=9), online=OnlineConfig(start_anchor=0.1))
    assert in_vain(config) == ["data.suboptimal_fraction", "iq_learn.lasting", "online.start_anchor"]
    assert in_vain(replace(configuration("bc"), iq_learn=IQLearnConfig(lasting=9))) == [], "another learner's"
    assert in_vain(replace(configuration("bc"), bc=BCConfig(outlier_error=0.1))) == ["bc.outlier_error"]
    assert in_vain(replace(configuration("bc"), bc=BCConfig("robust", outlier_error=0.1))) == []


def test_what_is_read_elsewhere_is_not_in_vain():
    mixed = configuration("iq_learn", suboptimal=True)
    data = replace(mixed.data, suboptimal_fraction=0.3)
    assert in_vain(replace(mixed, data=data, iq_learn=IQLearnConfig(lasting=9))) == []


def test_what_is_decided_by_itself_is_named_where_someone_decided_it():
    wished: dict[str, Any] = {"temperature": 0.5, "behavior_anchor": 0.0, "value_states": "initial"}
    names = sorted(f"iq_learn.{name}" for name in wished)
    for config in (given(mixed=True, **wished), online(given(**wished, policy="learned_reward"))):
        read = ["iq_learn.value_states"] if config.is_online else names  # The others are read there.
        assert in_vain(config) == read
        assert in_vain(resolved(config)) == read, "as a sweep plans it"
    assert in_vain(given(**wished)) == [], "all of it is read"
    assert in_vain(given("bc", True, **wished)) == [], "another learner's"
    assert in_vain(online(given(chi2_states="expert", policy="learned_reward"))) == ["iq_learn.chi2_states"]


def test_what_finitely_many_actions_do_not_read(finite_dataset: None):
    wished = {"policy": "soft_actor_critic", "behavior_anchor": 0.0, "actor_learning_rate": 5e-3}
    both = ["iq_learn.actor_learning_rate", "iq_learn.behavior_anchor"]
    assert in_vain(given(mixed=True, finite=True, **wished)) == both
    assert in_vain(given(mixed=True, **wished)) == []


def test_the_temperature_of_an_in_sample_softmax_is_read_where_it_acts(finite_dataset: None):
    """On fixed data its loss has none; online, actions are drawn at it."""
    wished = {"policy": "soft_actor_critic", "value": "expectile", "temperature": 0.5}
    assert in_vain(given(mixed=True, finite=True, **wished)) == ["iq_learn.temperature"]
    assert "iq_learn.temperature" not in in_vain(online(given(mixed=True, finite=True, **wished)))


def test_an_anchor_is_read_on_expert_data_alone_also_with_finitely_many_actions(finite_dataset: None):
    """Where a policy is regressed it has none."""
    free, anchored, usual = (given(finite=True, behavior_anchor=weight) for weight in (0.0, 5.0, "auto"))
    momenta = [resolved(config).iq_learn.adam_beta1 for config in (free, anchored, usual)]
    assert momenta == [0.5, 0.9, 0.9]
    assert in_vain(free) == []
    assert in_vain(anchored) == []
    for mixed in (False, True):
        for finite in (False, True):
            regressed = given(mixed=mixed, finite=finite, policy="advantage_weighted", behavior_anchor=0.0)
            assert in_vain(regressed) == ["iq_learn.behavior_anchor"]


@pytest.mark.parametrize("finite", [False, True])
@pytest.mark.parametrize("algorithm", ["iq_learn", "valuedice", "sqil"])
@pytest.mark.parametrize("policy", ["learned_reward", "soft_actor_critic"])
@pytest.mark.parametrize("start", ["", "some/run"])
def test_the_keys_of_fine_tuning_are_idle_where_a_training_does_not_follow_them(
    algorithm: str, policy: str, start: str, finite: bool, finite_dataset: None
):
    config = resolved(online(given(algorithm, finite=finite, policy=policy), start=start, critic_warmup=7))
    data = choose_data(config, obtain(config.data.expert), [])
    learner = prepare(config, data).learner
    idle = idle_keys([config], data)
    assert (learner.actor_held == 0) == ("online.critic_warmup" in idle)
    assert ("start" not in learner.parameters) == ("online.start_anchor" in idle)
    wished = replace(config, online=replace(config.online, start_anchor=0.1))
    assert in_vain(wished) == [key for key in ("online.critic_warmup", "online.start_anchor") if key in idle]


def test_the_budget_of_fixed_data_is_idle_online(tmp_path: Path):
    budget = {"training.gradient_steps", "training.snapshots"}
    data = choose_data(given(), obtain(EXPERT), [])
    assert budget.isdisjoint(idle_keys([resolved(given())], data))
    assert budget <= idle_keys([resolved(online(given()))], data)
    assert budget.isdisjoint(idle_keys(stages(online(given(), start="offline"), tmp_path), data)), "the first half's"


@pytest.mark.parametrize("name", [file.stem for file in sorted(shipped("recipes").glob("*.toml"))])
def test_shipped_recipes_set_nothing_in_vain(name: str):
    """Of the budget for fixed data a recipe may say what it is, and be used online."""
    recipe, algorithms = load_recipe(name)
    for algorithm in algorithms:
        data = replace(recipe.data, expert=EXPERT, held_out_trajectories=0, subsample=1)
        others = tuple(replace(part, dataset=EXPERT if part.hidden else OTHER, episodes=1) for part in data.suboptimal)
        data = replace(data, suboptimal=others, num_expert_trajectories=1)
        config = replace(recipe, algorithm=algorithm, data=data)
        assert in_vain(config) == []
        if algorithm != "bc" and not recipe.is_online and config.iq_learn == IQLearnConfig():
            budget = replace(config.training, gradient_steps=123, snapshots=4)
            assert in_vain(online(replace(config, training=budget))) == []


def test_what_an_offline_run_brought_along_is_not_set_again(tmp_path: Path):
    offline = replace(
        given(mixed=True, lasting=9, temperature=0.3), training=TrainingConfig(300, snapshots=3), fast=True
    )
    write_config(resolved(offline), tmp_path / "config.toml")
    saved = resolved(offline)
    tuned = replace(saved, iq_learn=undecided(saved.iq_learn), online=OnlineConfig(2_000, str(tmp_path)))
    assert in_vain(tuned) == []
    wished = replace(
        tuned,
        fast=False,
        training=replace(tuned.training, gradient_steps=500),
        iq_learn=replace(tuned.iq_learn, value_states="expert", relevance=3.0),
    )
    named = ["iq_learn.relevance", "iq_learn.value_states", "training.gradient_steps"]
    assert in_vain(wished) == named
    (tmp_path / "config.toml").write_text("unreadable")
    assert in_vain(wished) == ["iq_learn.choose_every", "iq_learn.lasting", *named[:2]], "nothing is known of it"


@pytest.mark.parametrize(("normed", "expected"), [("critics", ["training.layer_norm"]), ("all", []), ("none", [])])
def test_norms_of_critics_where_there_are_none(normed: Any, expected: list[str], finite_dataset: None):
    def normalised(config: RunConfig) -> RunConfig:
        return replace(config, training=replace(config.training, layer_norm=normed))

    for finite in (False, True):
        assert in_vain(normalised(given("bc", finite=finite))) == expected
        assert in_vain(normalised(given("valuedice", finite=finite))) == []
        assert in_vain(normalised(given(mixed=True, finite=finite))) == []
    assert in_vain(normalised(given(finite=True))) == expected, "Q is what acts"
    assert in_vain(normalised(given())) == []


def test_a_command_names_what_it_was_told_in_vain(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "mine.toml"
    mixed = replace(given(mixed=True), recipe="mine", training=replace(given().training, gradient_steps=5, snapshots=0))
    file.write_text(to_toml(mixed).replace('algorithm = "iq_learn"', 'algorithms = ["bc", "iq_learn"]'))
    command = ["train", str(file), "--output", str(tmp_path / "runs")]
    wished = ["--iq-learn.temperature", "0.5", "--iq-learn.behavior-anchor", "0", "--iq-learn.value-states", "initial"]
    assert main([*command, *wished]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "no effect" in line]
    names = "behavior_anchor", "temperature", "value_states"
    assert notes == [f"note: iq_learn.{name} has no effect on what IQ-Learn learns from these data" for name in names]
    assert main([*command[:-1], str(tmp_path / "others")]) == 0
    assert "no effect" not in capsys.readouterr().err


def test_of_two_stages_what_neither_reads_is_named_once(tmp_path: Path):
    """``critics`` is the second's alone, ``training.gradient_steps`` the first's, ``lasting`` nobody's."""
    point_dataset()
    said: list[str] = []
    config = replace(as_given(start="offline"), iq_learn=IQLearnConfig(critics=3, lasting=9, gradient_penalty=0.1))
    run(config, tmp_path / "run", replace(QUIET, say=said.append))
    assert [line for line in said if "no effect" in line] == [
        "note: iq_learn.lasting has no effect on what IQ-Learn learns from these data"
    ]


def test_how_many_act_says_nothing_where_actions_are_finitely_many(finite_dataset: None):
    for finite, said in ((True, ["training.actors"]), (False, [])):
        config = given("bc", finite=finite)
        assert in_vain(replace(config, training=replace(config.training, actors=3))) == said
