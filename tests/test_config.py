"""Configurations: mistakes are named, nothing is lost between Python and TOML, and resolving decides everything."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest

from iq_offline.config import (
    BCConfig,
    DataConfig,
    EvaluationConfig,
    GAILConfig,
    IQLearnConfig,
    OnlineConfig,
    RunConfig,
    SQILConfig,
    Suboptimal,
    TrainingConfig,
    ValueDICEConfig,
    from_table,
    load_recipe,
    next_recipe,
    resolved,
    to_table,
    to_toml,
)
from iq_offline.errors import UserError, nearest
from iq_offline.files import shipped

SECTIONS = {
    "data": DataConfig,
    "training": TrainingConfig,
    "iq_learn": IQLearnConfig,
    "bc": BCConfig,
    "valuedice": ValueDICEConfig,
    "sqil": SQILConfig,
    "gail": GAILConfig,
    "online": OnlineConfig,
    "evaluation": EvaluationConfig,
}

DIFFERENT = RunConfig(
    recipe="some",
    algorithm="bc",
    seed=7,
    fast=True,
    data=DataConfig(
        "a/b-v1",
        3,
        20,
        (Suboptimal("c-v0"), Suboptimal("d-v2", 3), Suboptimal("e-v0", None, True), Suboptimal("f-v0", 4, True)),
        0.25,
        7,
        ("state", "camera.left"),
        4,
        (-0.5,),
        (0.25, 0.5),
    ),
    training=TrainingConfig(
        11,
        12,
        (13, 14, 15),
        20,
        "tanh",
        "all",
        0.25,
        0.35,
        0.5,
        False,
        False,
        16,
        17,
        18,
        19,
        "float64",
        True,
        "cuda:1",
        2,
    ),
    iq_learn=IQLearnConfig(
        *(0.9, "kl", 0.1, 0.2, "initial", "mixture", 0.7, 11.0, 0.6, 2e-3, 3e-3, 0.4, False, 0.123),
        *("lookahead", 0.8, 4e-3, 12, 13, 7.0, 14, 0.6),
        *("fixed_target", True, "bound", 9.0, 0.3, "expectile", 0.75, 2.5, 3),
    ),
    bc=BCConfig("likelihood", 1e-2, "everything", 0.7),
    valuedice=ValueDICEConfig(0.95, "initial", 0.25, 0.3, 0.2, 2e-2, 3e-2, 0.45),
    sqil=SQILConfig(0.96, 2.5e-2, 3.5e-2, 0.46, 0.124, 0.35, 0.6),
    gail=GAILConfig(0.97, 2.6e-2, 3.6e-2, 0.47, 0.125, 0.45, 9.0, 6.0, 4e-3, 3),
    online=OnlineConfig(1001, "some/run", 7, "yes", 0.5, 12, 101, 0.25, 13, 0.75, 14, 1.5),
    evaluation=EvaluationConfig(3, 4),
)
"""No field has its default."""


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def test_every_field_survives_toml() -> None:
    different, default = flat(dataclasses.asdict(DIFFERENT)), flat(dataclasses.asdict(RunConfig()))
    assert [key for key in different if different[key] == default[key]] == [], "this test leaves a field at its default"
    for config in (DIFFERENT, RunConfig()):
        again = from_table(RunConfig, tomllib.loads(to_toml(config)), "here")
        assert again == config
        assert flat(dataclasses.asdict(again)) == flat(dataclasses.asdict(config))


def test_tables_hold_plain_values_and_every_key() -> None:
    table = to_table(DIFFERENT)
    for name, kind in SECTIONS.items():
        assert list(table[name]) == [field.name for field in dataclasses.fields(kind)]
    assert table["training"]["hidden_sizes"] == [13, 14, 15]
    assert table["data"]["suboptimal"] == [
        {"dataset": "c-v0", "hidden": False},
        {"dataset": "d-v2", "episodes": 3, "hidden": False},
        {"dataset": "e-v0", "hidden": True},
        {"dataset": "f-v0", "episodes": 4, "hidden": True},
    ]
    assert table["iq_learn"]["temperature"] == 0.2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hopper/medium", Suboptimal("hopper/medium")),
        ("a/b-v0:12", Suboptimal("a/b-v0", 12)),
        ("a/b-v0:12:hidden", Suboptimal("a/b-v0", 12, True)),
        ("a/b-v0:hidden", Suboptimal("a/b-v0", None, True)),
        ("a:b", Suboptimal("a:b")),
    ],
)
def test_suboptimal_data_in_words(text: str, expected: Suboptimal) -> None:
    """In a recipe as text or as a table; equal, and so saved alike."""
    config = from_table(RunConfig, {"data": {"suboptimal": [text]}}, "here")
    assert config.data.suboptimal == (expected,)
    assert from_table(RunConfig, to_table(config), "here") == config


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"recipy": "x"}, "here: unknown key 'recipy'; did you mean 'recipe'?"),
        ({"algorithm_name": "bc"}, "here: unknown key 'algorithm_name'; did you mean 'algorithm'?"),
        ({"data": {"exprt": "x"}}, "here: unknown key 'data.exprt'; did you mean 'expert'"),
        ({"training": {"gradient_step": 5}}, "here: unknown key 'training.gradient_step'; did you mean 'gradient_ste"),
        ({"iq_learn": {"alpha": 5}}, "here: unknown key 'iq_learn.alpha'; did you mean 'chi2_alpha'"),
        ({"bc": {"qqqqq": 5}}, "here: unknown key 'bc.qqqqq'"),
        (
            {"data": {"suboptimal": ["a/b-v0", {"dataset": "c/d-v0", "episode": 3}]}},
            "here: unknown key 'data.suboptimal.1.episode'; did you mean 'episodes'?",
        ),
    ],
)
def test_unknown_keys_suggest_the_nearest(table: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        from_table(RunConfig, table, "here")
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    with pytest.raises(UserError, match=r"^here: unknown key 'bc.qqqqq'$"):
        from_table(RunConfig, {"bc": {"qqqqq": 5}}, "here")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("", "algorithm", "dac"),
        ("", "seed", -1),
        ("", "seed", "one"),
        ("", "seed", 1.5),
        ("", "fast", "perhaps"),
        ("", "data", "hopper"),
        ("data", "num_expert_trajectories", 0),
        ("data", "subsample", 0),
        ("data", "subsample", 2.5),
        ("data", "suboptimal", "hopper/medium"),
        ("data", "suboptimal_fraction", 0.0),
        ("data", "suboptimal_fraction", 1.0),
        ("data", "expert", 3),
        ("data", "held_out_trajectories", -1),
        ("data", "observation_keys", "state"),
        ("data", "frame_stack", 0),
        ("data", "action_low", -1.0),
        ("training", "gradient_steps", 0),
        ("training", "gradient_steps", "many"),
        ("training", "batch_size", -1),
        ("training", "hidden_sizes", 256),
        ("training", "average_decay", 1.0),
        ("training", "dtype", "float16"),
        ("training", "snapshots", -1),
        ("training", "torch_threads", 0),
        ("iq_learn", "discount", 1.0),
        ("iq_learn", "discount", -0.1),
        ("iq_learn", "discount", float("nan")),
        ("iq_learn", "chi2_alpha", 0.0),
        ("iq_learn", "temperature", -1.0),
        ("iq_learn", "temperature", float("nan")),
        ("iq_learn", "value_states", "all"),
        ("iq_learn", "chi2_states", "initial"),
        ("iq_learn", "expectile", 0.0),
        ("iq_learn", "expectile", 1.0),
        ("iq_learn", "advantage_temperature", 0.0),
        ("iq_learn", "expert_term", "fixed"),
        ("iq_learn", "value", "q"),
        ("iq_learn", "absorbing_value", -50.0),
        ("iq_learn", "critic_learning_rate", 0.0),
        ("iq_learn", "target_update_rate", 1.5),
        ("bc", "loss", "mse"),
        ("bc", "learning_rate", 2.0),
        ("evaluation", "episodes", 0),
        ("evaluation", "seed", -1),
    ],
)
def test_wrong_values_name_the_key(section: str, key: str, value: Any) -> None:
    table = {section: {key: value}} if section else {key: value}
    with pytest.raises(UserError) as caught:
        from_table(RunConfig, table, "some.toml")
    name = f"{section}.{key}" if section else key
    assert str(caught.value).startswith(f"some.toml: {name} = {value!r}: "), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("suboptimal", ["a-v0:0"], "data.suboptimal.0.episodes = 0: "),
        ("suboptimal", ["a-v0", {"dataset": "a-v0", "episodes": -1}], "data.suboptimal.1.episodes = -1: "),
        ("suboptimal", [{"dataset": "a-v0", "hide": True}], "unknown key 'data.suboptimal.0.hide'"),
        ("suboptimal", [{"episodes": 3}], "data.suboptimal.0.dataset = "),
        ("suboptimal", [3], "data.suboptimal.0 = 3: "),
        ("action_high", [1.0, "one"], "data.action_high.1 = 'one': "),
        ("observation_keys", ["state", 3], "data.observation_keys.1 = 3: "),
    ],
)
def test_wrong_items_of_the_data_are_named(key: str, value: list[Any], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        from_table(RunConfig, {"data": {key: value}}, "some.toml")
    assert str(caught.value).startswith(f"some.toml: {expected}")
    assert "\n" not in str(caught.value)


def test_a_wrong_item_of_a_list_names_its_place() -> None:
    with pytest.raises(UserError, match=r"here: training\.hidden_sizes\.1 = 0: "):
        from_table(RunConfig, {"training": {"hidden_sizes": [64, 0]}}, "here")


@pytest.mark.parametrize("name", [None, *SECTIONS])
def test_configurations_are_frozen(name: str | None) -> None:
    config = RunConfig() if name is None else getattr(RunConfig(), name)
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, getattr(DIFFERENT if name is None else getattr(DIFFERENT, name), field.name))
    assert hash(config) == hash(dataclasses.replace(config))


def test_auto_without_suboptimal_data() -> None:
    config = resolved(RunConfig())
    assert (config.iq_learn.value_states, config.iq_learn.chi2_states) == ("expert", "expert")
    assert config.iq_learn.policy == "soft_actor_critic"


def test_auto_with_suboptimal_data() -> None:
    config = resolved(RunConfig(data=DataConfig(suboptimal=(Suboptimal("hopper/medium"),))))
    assert (config.iq_learn.value_states, config.iq_learn.chi2_states) == ("mixture", "mixture")
    assert config.iq_learn.policy == "lookahead"


@pytest.mark.parametrize(
    ("online", "algorithm", "actors"),
    [
        *((OnlineConfig(), algorithm, 5) for algorithm in ("bc", "iq_learn", "sqil")),
        *((OnlineConfig(5_000), algorithm, 1) for algorithm in ("iq_learn", "sqil", "gail")),
        (OnlineConfig(5_000, "some/run"), "iq_learn", 5),
        *((online, "valuedice", 1) for online in (OnlineConfig(), OnlineConfig(5_000))),
    ],
)
def test_several_networks_act_but_where_one_is_as_good(online: OnlineConfig, algorithm: Any, actors: int) -> None:
    """ValueDICE is weaker with five; in the environment they are better on Ant alone, and twice as dear."""
    data = DataConfig(suboptimal=(Suboptimal("hopper/medium"),) if algorithm == "sqil" else ())
    config = RunConfig(algorithm=algorithm, data=data, online=online)
    assert resolved(config).training.actors == actors
    given = dataclasses.replace(config, training=TrainingConfig(actors=3))
    assert resolved(given).training.actors == 3


def test_the_actor_on_expert_data_alone_is_that_of_behavior_cloning() -> None:
    """But for the Q-term; not so with other data, online, or without the anchor."""
    alone = resolved(RunConfig()).iq_learn
    assert (alone.behavior_anchor, alone.actor_learning_rate, alone.adam_beta1) == (30.0, BCConfig().learning_rate, 0.9)
    free = resolved(RunConfig(iq_learn=IQLearnConfig(behavior_anchor=0.0))).iq_learn
    assert (free.behavior_anchor, free.actor_learning_rate, free.adam_beta1) == (0.0, 1e-3, 0.5)
    mixed = resolved(dataclasses.replace(MIXED, iq_learn=IQLearnConfig(policy="soft_actor_critic"))).iq_learn
    assert (mixed.behavior_anchor, mixed.actor_learning_rate, mixed.adam_beta1) == (10.0, 1e-3, 0.5)
    online = resolved(RunConfig(online=OnlineConfig(env_steps=20_000))).iq_learn
    assert (online.behavior_anchor, online.actor_learning_rate, online.adam_beta1) == (100.0, 3e-4, 0.5)


@pytest.mark.parametrize("suboptimal", [(), (Suboptimal("hopper/medium"),)])
def test_an_anchor_that_no_actor_is_held_by_decides_nothing(suboptimal: tuple[Suboptimal, ...]) -> None:
    """A regressed actor has none: on expert data alone it and its critic learn as with the anchor that is usual."""
    found = []
    for anchor in ("auto", 0.0, 5.0):
        given = IQLearnConfig(policy="advantage_weighted", behavior_anchor=anchor)  # type: ignore[arg-type]
        config = resolved(RunConfig(data=DataConfig(suboptimal=suboptimal), iq_learn=given)).iq_learn
        found.append((config.actor_learning_rate, config.adam_beta1))
    assert found == [(1e-3, 0.5) if suboptimal else (3e-4, 0.9)] * 3


@pytest.mark.parametrize("policy", ["auto", "lookahead", "survival", "weighted", "best_episodes"])
def test_what_is_chosen_is_imitated_at_the_rate_of_behavior_cloning(policy: str) -> None:
    """So that nothing but the robust loss is between the two where nothing but the labelled expert is chosen."""
    given = IQLearnConfig(policy=policy)  # type: ignore[arg-type]
    assert resolved(dataclasses.replace(MIXED, iq_learn=given)).iq_learn.actor_learning_rate == BCConfig().learning_rate


@pytest.mark.parametrize("suboptimal", [(), (Suboptimal("hopper/medium"),)])
def test_what_is_said_is_kept(suboptimal: tuple[Suboptimal, ...]) -> None:
    given = IQLearnConfig(
        temperature=0.2,
        value_states="initial",
        chi2_states="expert",
        policy="soft_actor_critic",
        absorbing_value="zero",
        critic_learning_rate=2e-3,
        actor_learning_rate=5e-4,
        adam_beta1=0.7,
        behavior_anchor=2.0,
        reward_penalty=3.0,
    )
    config = RunConfig(data=DataConfig(suboptimal=suboptimal), iq_learn=given, training=TrainingConfig(actors=2))
    assert resolved(config) == config
    assert resolved(resolved(RunConfig())) == resolved(RunConfig())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("value_states", "mixture"),
        ("value_states", "suboptimal"),
        ("chi2_states", "mixture"),
        ("policy", "lookahead"),
        ("value", "expectile"),
    ],
)
def test_what_needs_suboptimal_data(key: str, value: str) -> None:
    config = RunConfig(iq_learn=IQLearnConfig(**{key: value}))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"iq_learn.{key} = '{value}' needs suboptimal data"):
        resolved(config)
    resolved(dataclasses.replace(config, algorithm="bc"))  # Which does not read it.


MIXED = RunConfig(data=DataConfig(suboptimal=(Suboptimal("hopper/medium"),)))


@pytest.mark.parametrize(
    "terms", [{"expert_term": "fixed_target"}, {"clip_targets": True}, {"absorbing_value": "bound"}]
)
@pytest.mark.parametrize("unbounded", [{"chi2_states": "expert"}, {"divergence": "kl"}])
def test_bounded_values_need_bounded_rewards(terms: dict[str, Any], unbounded: dict[str, Any]) -> None:
    """Which chi-squared over the mixture alone has."""
    plain = {"policy": "soft_actor_critic"}
    (key,) = terms
    with pytest.raises(UserError, match=f"iq_learn.{key} = .* needs rewards with bounds: suboptimal data"):
        resolved(dataclasses.replace(MIXED, iq_learn=IQLearnConfig(**plain, **terms, **unbounded)))
    with pytest.raises(UserError, match=f"iq_learn.{key} = .* needs rewards with bounds: suboptimal data"):
        resolved(RunConfig(iq_learn=IQLearnConfig(**terms)))
    resolved(dataclasses.replace(MIXED, iq_learn=IQLearnConfig(**plain, **terms)))
    resolved(dataclasses.replace(MIXED, iq_learn=IQLearnConfig(**terms)))


@pytest.mark.parametrize("policy", ["soft_actor_critic", "advantage_weighted"])
def test_values_in_sample_take_the_own_actions_of_the_data(policy: Any) -> None:
    config = dataclasses.replace(MIXED, iq_learn=IQLearnConfig(value="expectile", policy=policy))
    assert resolved(config).iq_learn.value_states == "suboptimal"
    for states in ("mixture", "initial", "expert"):
        given = dataclasses.replace(config.iq_learn, value_states=states)
        with pytest.raises(UserError, match=f"value_states = '{states}' says nothing of Q where V is a network"):
            resolved(dataclasses.replace(config, iq_learn=given))


@pytest.mark.parametrize(
    "term",
    [
        {"divergence": "kl"},
        {"expert_term": "fixed_target"},
        {"clip_targets": True},
        {"absorbing_value": "bound"},
        {"value": "expectile"},
    ],
)
def test_terms_of_q_go_with_every_policy_that_comes_from_it(term: dict[str, Any]) -> None:
    """``auto`` follows them there; one that learns a reward by itself would not read them."""
    for policy in ("soft_actor_critic", "advantage_weighted", "auto"):
        given = IQLearnConfig(policy=policy, **term)  # type: ignore[arg-type]
        found = resolved(dataclasses.replace(MIXED, iq_learn=given)).iq_learn.policy
        assert found == ("soft_actor_critic" if policy == "auto" else policy)
    online = RunConfig(online=OnlineConfig(env_steps=20_000))
    assert resolved(dataclasses.replace(online, iq_learn=IQLearnConfig(**term))).iq_learn.policy == "soft_actor_critic"
    (key,) = term
    for config, policy in ((MIXED, "lookahead"), (MIXED, "best_episodes"), (online, "learned_reward")):
        given = IQLearnConfig(policy=policy, **term)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=rf"iq_learn\.{key} = .* needs iq_learn\.policy = 'soft_actor_critic' or"):
            resolved(dataclasses.replace(config, iq_learn=given))


def test_fast_shrinks_the_budget_and_nothing_else() -> None:
    training = dataclasses.replace(DIFFERENT.training, gradient_steps=5_000)
    offline = dataclasses.replace(DIFFERENT, online=OnlineConfig(), training=training)  # BC has no online stage.
    slow = resolved(dataclasses.replace(offline, fast=False))
    assert slow.training == training
    fast = resolved(offline)
    before, after = flat(dataclasses.asdict(offline)), flat(dataclasses.asdict(fast))
    changed = {key for key, value in after.items() if value != before[key]}
    assert changed == {
        "training.gradient_steps",
        "training.checkpoint_every",
        "training.log_every",
        "training.snapshots",
        "evaluation.episodes",
    }
    assert fast.training.gradient_steps <= 1000
    assert fast.training.checkpoint_every < fast.training.gradient_steps


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(10_000, (200, 100, 20, 2)), (200, (200, 100, 20, 2)), (60, (60, 30, 6, 2)), (3, (3, 1, 1, 2)), (1, (1, 1, 1, 2))],
)
def test_fast_never_trains_for_longer_than_asked(steps: int, expected: tuple[int, ...]) -> None:
    fast = resolved(RunConfig(fast=True, training=TrainingConfig(gradient_steps=steps)))
    training = fast.training
    found = training.gradient_steps, training.checkpoint_every, training.log_every, training.snapshots
    assert found == expected
    assert resolved(fast) == fast


@pytest.mark.parametrize(("environments", "steps"), [(1, 300), (7, 301), (8, 304), (400, 400)])
def test_fast_is_as_fast_with_several_environments(environments: int, steps: int) -> None:
    online = OnlineConfig(1000 * environments, environments=environments)
    assert resolved(RunConfig(fast=True, online=online)).online.env_steps == steps


@pytest.mark.parametrize("file", sorted(shipped("recipes").glob("*.toml")), ids=lambda file: file.stem)
def test_shipped_recipes(file: Path) -> None:
    """Each loads by its name, says its own name, and holds every value that its TOML says."""
    config, algorithms = load_recipe(file.stem)
    assert (config, algorithms) == load_recipe(str(file))
    assert config.recipe == file.stem
    table: dict[str, Any] = flat(to_table(config)) | {"algorithms": list(algorithms)}
    said = tomllib.loads(file.read_text())
    assert next_recipe(file.stem) == said.pop("then", None)
    for key, value in flat(said).items():
        own = table[key]
        if key == "data.suboptimal":  # What a part does not say has its default.
            value = [whole | part for whole, part in zip(own, value, strict=True)]
        assert value == own, key


def test_unknown_recipes() -> None:
    with pytest.raises(UserError, match="no recipe 'hoper_offline'; did you mean 'hopper_offline'"):
        load_recipe("hoper_offline")
    with pytest.raises(UserError, match=r"no recipe 'nothing/here\.toml'"):
        load_recipe("nothing/here.toml")


def test_recipes_by_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(to_toml(DIFFERENT))
    assert load_recipe(str(file)) == (DIFFERENT, ("bc",))
    file.write_text("[training]\ngradient_stops = 5\n")
    with pytest.raises(UserError, match=r"mine\.toml: unknown key 'training.gradient_stops'.*gradient_steps"):
        load_recipe(str(file))
    file.write_text("[training\n")
    with pytest.raises(UserError, match=r"mine\.toml is not valid TOML"):
        load_recipe(str(file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"cannot read .*mine\.toml"):
        load_recipe(str(file))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('algorithms = ["bc", "iq_learn"]', ("bc", "iq_learn")),
        ('algorithms = ["iq_learn"]', ("iq_learn",)),
        ('algorithm = "bc"', ("bc",)),
        ("", ("iq_learn",)),
    ],
)
def test_algorithms_of_a_recipe(line: str, expected: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f"{line}\nseed = 3\n")
    config, algorithms = load_recipe(str(file))
    assert algorithms == expected
    assert config == RunConfig(algorithm=config.algorithm, seed=3)


@pytest.mark.parametrize("value", ['["bc", "dac"]', '"dac"', "3", '[["bc"]]', "{bc = 1}"])
def test_wrong_algorithms_of_a_recipe(value: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f"algorithms = {value}\n")
    with pytest.raises(UserError, match=r"mine\.toml: algorithm"):
        load_recipe(str(file))


def test_what_comes_after_a_recipe(tmp_path: Path) -> None:
    assert next_recipe("hopper_offline") == "hopper_mixture"
    assert next_recipe("hopper_mixture") is None
    file = tmp_path / "mine.toml"
    file.write_text("then = 3\n")
    with pytest.raises(UserError, match=r"mine\.toml: then = 3: must be the name of a recipe"):
        next_recipe(str(file))


def test_nearest() -> None:
    assert nearest("exprt", ["expert", "random"]) == "; did you mean 'expert'?"
    assert nearest("qqq", ["expert", "random"]) == ""
    assert nearest("a", []) == ""
    assert nearest("hopper_x", ["hopper_a", "hopper_b"], 1).count("'") == 2


@pytest.mark.parametrize(
    ("given", "end"),
    [
        ({"policy": "soft_actor_critic"}, "raised"),
        ({"policy": "soft_actor_critic", "value_states": "initial"}, "raised"),
        ({"policy": "soft_actor_critic", "value_states": "suboptimal"}, "bound"),
        ({"value": "expectile"}, "bound"),
        ({"policy": "soft_actor_critic", "chi2_states": "expert"}, "zero"),
    ],
)
def test_rewards_are_raised_where_that_makes_none_negative(given: dict[str, Any], end: str) -> None:
    """V over the others alone has rewards down to -2 alpha over their share, which 2 alpha do not make up for."""
    config = RunConfig(iq_learn=IQLearnConfig(**given), online=OnlineConfig(5_000))
    assert resolved(config).iq_learn.absorbing_value == end


def test_raised_rewards_do_not_go_with_a_value_of_the_others_alone() -> None:
    given = IQLearnConfig(policy="soft_actor_critic", value_states="suboptimal", absorbing_value="raised")
    with pytest.raises(UserError, match="value_states = 'suboptimal': use 'bound' or 'zero'"):
        resolved(RunConfig(iq_learn=given, online=OnlineConfig(5_000)))
