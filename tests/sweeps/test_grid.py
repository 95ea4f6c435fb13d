"""A sweep's file becomes runs: how many, in which order, under which names, and what is refused before any of them."""

import itertools
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iq_offline.config import RunConfig, Suboptimal, flat, resolved, to_table
from iq_offline.errors import UserError
from iq_offline.files import shipped
from iq_offline.sweeps.grid import FILE, LONGEST_NAME, Sweep, claim_folder, load_sweep, sweep_of

FOLDER_NAME = re.compile(r"[A-Za-z0-9._=,-]+")


def sweep(text: str, changes: dict[str, Any] | None = None) -> Sweep:
    """A sweep from the text of a file."""
    return sweep_of(tomllib.loads(text), "mine.toml", "mine", changes)


def names(chosen: Sweep) -> list[str]:
    return [run.name for run in chosen.runs()]


def refused(text: str, changes: dict[str, Any] | None = None) -> str:
    """The one line of an error."""
    with pytest.raises(UserError) as caught:
        sweep(text, changes)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(("mine.toml: ", "mine: "))
    return line


# ---------------------------------------------------------------------------------------------- which runs


def test_the_shipped_sweep() -> None:
    chosen = load_sweep("hopper_expert_count")
    runs = chosen.runs()
    assert len(runs) == 5 * 2 * 10
    assert chosen.name == "hopper_expert_count"
    assert chosen.question == "How many expert trajectories does Hopper-v5 need, with every 20th step of each?"
    assert {run.config.recipe for run in runs} == {"hopper_expert_count"}
    assert {run.config.training.snapshots for run in runs} == {5}, "what the file says goes over its recipe"
    assert {run.config.training.gradient_steps for run in runs} == {10_000}
    assert {(r.config.algorithm, r.config.data.num_expert_trajectories, r.config.seed) for r in runs} == set(
        itertools.product(("bc", "iq_learn"), (1, 3, 5, 10, 25), range(10))
    )
    assert runs[0].name == "algorithm=bc,num_expert_trajectories=1,seed=0"
    assert load_sweep(str(shipped("recipes") / "sweeps" / "hopper_expert_count.toml")) == chosen


def test_every_shipped_sweep_is_valid() -> None:
    files = list((shipped("recipes") / "sweeps").glob("*.toml"))
    assert files
    for file in files:
        assert load_sweep(file.stem).runs()
        assert load_sweep(file.stem).name == file.stem


def test_seeds_vary_slowest_and_the_rest_in_the_order_of_the_file() -> None:
    """A sweep that was stopped early has a seed everywhere rather than a corner of the grid with all seeds."""
    text = '[grid]\nseeds = 2\ndata.num_expert_trajectories = [3, 1]\nalgorithm = ["iq_learn", "bc"]'
    assert names(sweep(text)) == [
        f"seed={seed},num_expert_trajectories={count},algorithm={algorithm}"
        for seed in (0, 1)
        for count in (3, 1)
        for algorithm in ("iq_learn", "bc")
    ]


def test_seeds_is_short_for_a_list() -> None:
    assert sweep("[grid]\nseeds = 3") == sweep("[grid]\nseed = [0, 1, 2]")
    assert [run.config.seed for run in sweep("[grid]\nseed = [7, 3]").runs()] == [7, 3]


def test_runs_are_resolved() -> None:
    """What a run's folder says is what the sweep said: nothing is left to be decided."""
    (first, second) = sweep('[grid]\ndata.suboptimal = [[], ["a/b-v0:3"]]').runs()
    assert (first.config.iq_learn.value_states, second.config.iq_learn.value_states) == ("expert", "mixture")
    for run in (first, second):
        assert resolved(run.config) == run.config


def test_a_rehearsal_is_one_of_every_run() -> None:
    runs = sweep("[training]\ngradient_steps = 5000\n[grid]\nseeds = 2", {"fast": True}).runs()
    assert {(run.config.fast, run.config.training.gradient_steps) for run in runs} == {(True, 200)}


def test_keys_of_one_section_from_the_file_do_not_hide_the_recipe_s_others(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("[training]\nbatch_size = 7\ngradient_steps = 11\n[data]\nsubsample = 5\n")
    file = tmp_path / "mine.toml"
    file.write_text(
        'recipe = "base.toml"\n[training]\ngradient_steps = 12\n[grid]\ndata.num_expert_trajectories = [1, 2]'
    )
    for run in load_sweep(str(file)).runs():
        training, data = run.config.training, run.config.data
        assert (training.batch_size, training.gradient_steps, data.subsample) == (7, 12, 5)


def test_a_grid_goes_over_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("seed = 9\n[data]\nnum_expert_trajectories = 4\n")
    (tmp_path / "mine.toml").write_text('recipe = "base.toml"\n[grid]\ndata.num_expert_trajectories = [1, 2]')
    runs = load_sweep(str(tmp_path / "mine.toml")).runs()
    assert [(run.config.seed, run.config.data.num_expert_trajectories) for run in runs] == [(9, 1), (9, 2)]


def test_the_algorithms_of_a_recipe_are_varied_unless_something_else_is_said(tmp_path: Path) -> None:
    assert names(sweep('recipe = "hopper_offline"\n[grid]\nseeds = 1')) == [
        "algorithm=bc,seed=0",
        "algorithm=iq_learn,seed=0",
    ]
    for text, changes in (
        ('recipe = "hopper_offline"\nalgorithm = "iq_learn"\n[grid]\nseeds = 1', None),
        ('recipe = "hopper_offline"\n[grid]\nseeds = 1', {"algorithm": "iq_learn"}),
        ('recipe = "hopper_offline"\n[grid]\nseeds = 1\nalgorithm = ["iq_learn"]', None),
    ):
        assert [run.config.algorithm for run in sweep(text, changes).runs()] == ["iq_learn"]


def test_keys_of_another_algorithm_multiply_only_its_own_runs() -> None:
    text = '[grid]\nalgorithm = ["bc", "iq_learn"]\niq_learn.temperature = [0.1, 0.2, 0.3]\n'
    assert names(sweep(text + "seeds = 2")) == [
        name
        for seed in (0, 1)
        for name in (
            f"algorithm=bc,seed={seed}",
            *(f"algorithm=iq_learn,temperature={value},seed={seed}" for value in (0.1, 0.2, 0.3)),
        )
    ]
    both = sweep(text + 'bc.loss = ["likelihood", "squared_error"]').runs()
    assert len(both) == 3 + 2
    for run in both:
        if run.config.algorithm == "bc":
            assert run.config.iq_learn == resolved(RunConfig()).iq_learn
        else:
            assert run.config.bc == RunConfig().bc


def test_values_that_mean_the_same_are_one_run() -> None:
    assert names(sweep("[grid]\nseed = [0, 1, 0, 0]")) == ["seed=0", "seed=1"]
    assert names(sweep('[grid]\niq_learn.value_states = ["auto", "expert"]')) == ["value_states=expert"]
    assert names(sweep("[grid]\niq_learn.temperature = [1, 1.0]")) == ["temperature=1.0"]


def test_lists_as_values() -> None:
    runs = sweep("[grid]\ntraining.hidden_sizes = [[], [8], [8, 8], [88]]\nseeds = 1").runs()
    assert [run.config.training.hidden_sizes for run in runs] == [(), (8,), (8, 8), (88,)]
    assert len({run.name for run in runs}) == 4
    assert runs[2].name == "hidden_sizes=8-8,seed=0"
    assert "training.hidden_sizes = 8" in refused("[grid]\ntraining.hidden_sizes = [8, 16]")


def test_mixtures_as_words_and_as_tables() -> None:
    words = '[[], ["a/b-v0:3"], ["a/b-v0", "c/d-v1:20:hidden"]]'
    tables = (
        '[[], [{dataset = "a/b-v0", episodes = 3}], '
        '[{dataset = "a/b-v0"}, {dataset = "c/d-v1", episodes = 20, hidden = true}]]'
    )
    mixtures = []
    for values in (words, tables):
        runs = sweep(f"[grid]\ndata.suboptimal = {values}\nseeds = 2").runs()
        assert len(runs) == 6
        mixtures.append([run.config.data.suboptimal for run in runs])
        assert [run.name for run in runs[:3]] == [
            *("suboptimal=,seed=0", "suboptimal=a-b-v0-3,seed=0", "suboptimal=a-b-v0-c-d-v1-20-hidden,seed=0")
        ]
    assert mixtures[0] == mixtures[1]
    assert mixtures[0][1] == (Suboptimal("a/b-v0", 3),)
    assert mixtures[0][2] == (Suboptimal("a/b-v0"), Suboptimal("c/d-v1", 20, True))


def test_changes_from_the_command_line_go_over_the_file() -> None:
    changes = {"data.subsample": 20, "training.hidden_sizes": [8], "data.suboptimal": ["a/b-v0:2"]}
    text = "[data]\nsubsample = 5\n[training]\nbatch_size = 7\n[grid]\nseeds = 2"
    for run in sweep(text, changes).runs():
        assert run.config.data.subsample == 20
        assert run.config.data.suboptimal == (Suboptimal("a/b-v0", 2),)
        assert (run.config.training.hidden_sizes, run.config.training.batch_size) == ((8,), 7)
    assert names(sweep(text, changes)) == ["seed=0", "seed=1"]


# ---------------------------------------------------------------------------------------------- names


def test_names_are_told_apart_by_whole_keys_where_last_parts_are_the_same() -> None:
    assert names(sweep("[grid]\nseed = [1]\nevaluation.seed = [2]")) == ["seed=1,evaluation.seed=2"]


def test_long_names_are_cut_and_stay_apart() -> None:
    parts = ["company/a-very-long-name-of-a-dataset-v0:3:hidden"] * 3
    text = f"[grid]\ndata.suboptimal = [{parts}, {[*parts, 'x/y-v0']}]\nseeds = 3"
    found = names(sweep(text))
    assert len(set(found)) == 6
    assert all(len(name) <= LONGEST_NAME + 9 for name in found)
    assert set(names(sweep(text.replace("seeds = 3", "seeds = 2")))) < set(found)


def test_signs_of_numbers_are_in_the_names() -> None:
    text = "[grid]\ndata.action_low = [[-1.0], [-2.0, -1.0]]"
    assert names(sweep(text)) == ["action_low=-1.0", "action_low=-2.0--1.0"]
    assert names(sweep(text.replace("= [[", "= [[1.0], [2.0, 1.0], [2.0, -1.0], ["))) == [
        *("action_low=1.0", "action_low=2.0-1.0", "action_low=2.0--1.0", "action_low=-1.0", "action_low=-2.0--1.0"),
    ]


def test_names_that_would_be_the_same_are_told_apart() -> None:
    runs = sweep('[grid]\ndata.expert = ["test/a-v0", "test-a/v0"]').runs()
    assert len({run.name for run in runs}) == 2
    assert [run.config.data.expert for run in runs] == ["test/a-v0", "test-a/v0"]


# The values of a key in a hypothetical grid. No two of one key have the same letters and digits in a row.
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "algorithm": st.sampled_from(["bc", "iq_learn"]),
    "seed": st.integers(0, 2**63 - 1),
    "data.expert": st.sampled_from(["hopper/expert", "mujoco/hopper/expert-v0", "été/ß-v0", "a b/c-v1"]),
    "data.num_expert_trajectories": st.integers(1, 10_000),
    "data.suboptimal": st.lists(
        st.sampled_from(["a/b-v0", "a/b-v0:3", "c/d-v0:12:hidden"])
        | st.builds(lambda n: {"dataset": "e/f-v0", "episodes": n, "hidden": True}, st.integers(1, 99)),
        max_size=3,
    ),
    "training.hidden_sizes": st.lists(st.integers(1, 999), max_size=3),
    "training.cosine_schedule": st.booleans(),
    "data.action_low": st.lists(st.integers(-9, 9), max_size=3),
    "iq_learn.temperature": st.floats(1e-300, 1e300),
    "iq_learn.value_states": st.sampled_from(["auto", "expert", "initial"]),
    "bc.learning_rate": st.floats(0, 1, exclude_min=True),
    "evaluation.seed": st.integers(0, 5),
}


@st.composite
def grids(draw: st.DrawFn) -> dict[str, list[Any]]:
    """At most 24 combinations of up to four keys; every key is read by some algorithm."""
    keys = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=4, unique=True))
    grid = {key: draw(st.lists(VALUES[key], min_size=1, max_size=2, unique_by=repr)) for key in keys}
    others = {key.split(".")[0] for key in keys} & {"bc", "iq_learn"}
    return grid | ({"algorithm": ["bc", "iq_learn"]} if others else {})


def grid_sweep(grid: dict[str, list[Any]]) -> Sweep:
    return sweep_of({"grid": grid}, "mine.toml", "mine")


@settings(max_examples=60, deadline=None)
@given(grids())
def test_names_are_unique_and_good_for_folders(grid: dict[str, list[Any]]) -> None:
    runs = grid_sweep(grid).runs()
    assert len({run.config for run in runs}) == len({run.name for run in runs}) == len(runs) > 0
    for run in runs:
        assert FOLDER_NAME.fullmatch(run.name), run.name
        assert len(f"{run.name}.lock".encode()) <= 255
    for name in names(grid_sweep(grid)):
        assert name in {run.name for run in runs}, "names are drawn by chance"


@settings(max_examples=60, deadline=None)
@given(grids(), st.data())
def test_names_stay_when_values_are_added(grid: dict[str, list[Any]], data: st.DataObject) -> None:
    """Wherever in the list: a finished run is found again under its name."""
    key = data.draw(st.sampled_from(sorted(grid)))
    more = data.draw(VALUES[key].filter(lambda value: repr(value) not in map(repr, grid[key])))
    place = data.draw(st.integers(0, len(grid[key])))
    grown = grid | {key: [*grid[key][:place], more, *grid[key][place:]]}
    before = {run.name: run.config for run in grid_sweep(grid).runs()}
    after = {run.name: run.config for run in grid_sweep({key: grown[key] for key in grid}).runs()}
    assert before.items() <= after.items()


@settings(max_examples=60, deadline=None)
@given(grids())
def test_the_file_in_the_folder_gives_the_same_runs(grid: dict[str, list[Any]]) -> None:
    """Without the recipe, and the file of that file is the same file."""
    first = sweep_of({"recipe": "hopper_offline", "question": 'how "many"?', "grid": grid}, "mine.toml", "mine")
    again = sweep_of(tomllib.loads(first.to_toml()), "sweep.toml", "another")
    assert again.runs() == first.runs()
    assert (again.name, again.question, again.to_toml()) == ("mine", 'how "many"?', first.to_toml())


# ---------------------------------------------------------------------------------------------- together, published


TASKS = 'together = [{ data.expert = "a/b", data.subsample = 5 }, { data.subsample = 20, data.expert = "c/d" }]\n'


def test_keys_in_one_table_change_together() -> None:
    found = sweep(f'[grid]\nalgorithm = ["bc", "iq_learn"]\n{TASKS}seeds = 2\niq_learn.temperature = [0.1, 0.2]')
    data = {(run.config.data.expert, run.config.data.subsample) for run in found.runs()}
    assert data == {("a/b", 5), ("c/d", 20)}
    assert len(found.runs()) == 2 * 2 * (1 + 2)
    assert names(found)[:3] == [
        "algorithm=bc,seed=0,expert=a-b,subsample=5",
        "algorithm=bc,seed=0,expert=c-d,subsample=20",
        "algorithm=iq_learn,seed=0,temperature=0.1,expert=a-b,subsample=5",
    ]
    assert "data.expert" not in found.fixed
    again = sweep_of(tomllib.loads(found.to_toml()), "sweep.toml", "another")
    assert again.runs() == found.runs()


def test_tables_too_long_for_one_line_do_not_change_the_names_of_the_runs(tmp_path: Path) -> None:
    """In the file that is written they come after all other keys, wherever they stood."""
    suboptimal = [f"company/{word}-v0" for word in ("first", "second", "third", "fourth", "fifth", "sixth")]
    tables = [{"data.expert": expert, "data.suboptimal": suboptimal} for expert in ("a/b", "c/d")]
    found = sweep_of({"grid": {"together": tables, "seeds": 2}}, "mine.toml", "mine")
    assert "[[grid.together]]" in found.to_toml(), "else this tests nothing"
    again = sweep_of(tomllib.loads(found.to_toml()), "sweep.toml", "another")
    assert names(again) == names(found)
    (tmp_path / FILE).write_text(found.to_toml())
    assert claim_folder(found, tmp_path) is None


def test_learners_may_change_together_with_their_settings() -> None:
    text = (
        "[grid]\ntogether = [{ algorithm = 'bc', training.gradient_steps = 5 }, "
        "{ algorithm = 'iq_learn', training.gradient_steps = 9 }]\niq_learn.temperature = [0.1, 0.2]"
    )
    steps = [(run.config.algorithm, run.config.training.gradient_steps) for run in sweep(text).runs()]
    assert steps == [("bc", 5), ("iq_learn", 9), ("iq_learn", 9)]


ALONE = '[grid.one_at_a_time]\niq_learn.chi2_alpha = [0.17, 1.5]\ntraining.layer_norm = ["all"]\n'


def test_keys_change_one_at_a_time_and_once_not_at_all() -> None:
    found = sweep(f"iq_learn.chi2_alpha = 0.7\n[grid]\nseeds = 2\n{ALONE}")
    settings = [(run.config.iq_learn.chi2_alpha, run.config.training.layer_norm) for run in found.runs()]
    assert settings == 2 * [(0.7, "none"), (0.17, "none"), (1.5, "none"), (0.7, "all")]
    assert [run.config.seed for run in found.runs()] == [0] * 4 + [1] * 4
    again = sweep_of(tomllib.loads(found.to_toml()), "sweep.toml", "another")
    assert again.runs() == found.runs()
    assert len(sweep(ALONE).runs()) == 4, "nothing else need vary"


def test_keys_change_one_at_a_time_on_each_of_several_tasks() -> None:
    found = [run.config for run in sweep(f"[grid]\n{TASKS}{ALONE}").runs()]
    settings = [
        (config.data.expert, config.data.subsample, config.iq_learn.chi2_alpha, config.training.layer_norm)
        for config in found
    ]
    changes = [(0.5, "none"), (0.17, "none"), (1.5, "none"), (0.5, "all")]
    assert settings == [(*task, *change) for task in (("a/b", 5), ("c/d", 20)) for change in changes]
    own = ALONE.replace("training.layer_norm = [", "data.subsample = [2]\ntraining.layer_norm = [")
    assert "varies data.subsample by itself and in one_at_a_time" in refused(f"[grid]\n{TASKS}{own}")


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (f"[grid]\niq_learn.chi2_alpha = [1]\n{ALONE}", "varies iq_learn.chi2_alpha by itself and in one_at_a_time"),
        ("[grid]\none_at_a_time = 3", "must be a table of lists"),
        ("[grid.one_at_a_time]\nseed = 1", "must be a list of values"),
        ("[grid.one_at_a_time]\niq_learn.chi2_alphas = [1]", "did you mean 'iq_learn.chi2_alpha'"),
        ("[grid.one_at_a_time]", "the grid is empty"),
    ],
)
def test_what_cannot_change_one_at_a_time_is_refused(grid: str, message: str) -> None:
    assert message in refused(grid)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("together = []", "must be a list of tables, such as"),
        ("together = [1]", "must be a list of tables, such as"),
        ('together = { data.expert = "a/b" }', "grid has an unknown key 'together.data.expert'"),
        ('together = [{ data.expert = "a/b" }, { data.subsample = 3 }]', "same keys, and not all have data.expert"),
        ("together = [{ data.subsamples = 3 }]", "unknown key 'data.subsamples'; did you mean 'data.subsample'"),
        (TASKS + "data.subsample = [1, 2]", "varies data.subsample by itself and in together"),
    ],
)
def test_tables_that_cannot_change_together_are_refused(grid: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        sweep(f"[grid]\n{grid}")


def test_what_changes_together_is_not_fixed() -> None:
    with pytest.raises(UserError, match=r"data\.subsample is fixed to 3 and varied by the grid"):
        sweep(f"[data]\nsubsample = 3\n[grid]\n{TASKS}")


PUBLISHED = """
[[published]]
learner = "IQ-Learn"
source = "somebody 2021"
expert = "a/b"
expert_return = -75
num_expert_trajectories = [1, 3]
returns = [-82.5, -75]
"""


def test_others_numbers_travel_with_the_sweep() -> None:
    found = sweep(f"[grid]\nseeds = 1\n{PUBLISHED}")
    (curve,) = found.published
    assert curve.scores(random_return=-500.0) == pytest.approx([1 - 7.5 / 425, 1.0])
    assert sweep_of(tomllib.loads(found.to_toml()), "sweep.toml", "another").published == found.published
    assert load_sweep("classic_control").published
    assert sweep("[grid]\nseeds = 1").published == ()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("returns = [-82.5, -75]", "returns = [-82.5]", "IQ-Learn on a/b has 1 returns for 2 numbers of trajectories"),
        ("learner", "learners", "published: learner ="),
        ("returns = [", "colour = 3\nreturns = [", "published: unknown key 'colour'"),
        ("[1, 3]", "[]", "published: num_expert_trajectories = []"),
    ],
)
def test_others_numbers_are_checked(old: str, new: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        sweep(f"[grid]\nseeds = 1\n{PUBLISHED.replace(old, new)}")


@pytest.mark.parametrize("value", ["3", '"x"', "[3]", '{ learner = "IQ-Learn" }'])
def test_others_numbers_are_a_list_of_tables(value: str) -> None:
    with pytest.raises(UserError, match=r"must be a list of tables, each headed by \[\[published\]\]"):
        sweep(f"published = {value}\n[grid]\nseeds = 1")


# ---------------------------------------------------------------------------------------------- files


def test_a_file_by_its_path_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its recipe is found beside it, wherever the command is given."""
    inner = tmp_path / "my sweeps" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "my sweeps" / "base.toml").write_text("[training]\nbatch_size = 7\n")
    (inner / "one.toml").write_text('recipe = "../base.toml"\n[grid]\nseeds = 1\n')
    (inner / "absolute.toml").write_text(f'recipe = "{tmp_path / "my sweeps" / "base.toml"}"\n[grid]\nseeds = 1\n')
    (inner / "shipped.toml").write_text('recipe = "hopper_offline"\nalgorithm = "bc"\n[grid]\nseeds = 1\n')
    for folder, prefix in (
        (tmp_path, "my sweeps/inner/"),
        (inner, ""),
        (inner.parent, "./inner/"),
        (inner, "../inner/"),
    ):
        monkeypatch.chdir(folder)
        for name in ("one", "absolute"):
            (run,) = load_sweep(f"{prefix}{name}.toml").runs()
            assert run.config.training.batch_size == 7
        assert load_sweep(f"{prefix}one.toml").name == "one"
        (run,) = load_sweep(f"{prefix}shipped.toml").runs()
        assert run.config.training.batch_size == 256
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no sweep 'one.toml'"):
        load_sweep("one.toml")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hopper_expert_cont", "no sweep 'hopper_expert_cont'; did you mean 'hopper_expert_count'"),
        ("nothing.toml", "no sweep 'nothing.toml'"),
        ("", "no sweep ''"),
        ("folder.toml", "no sweep 'folder.toml'"),
    ],
)
def test_unknown_sweeps(name: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(UserError, match=re.escape(expected)):
        load_sweep(name)


@pytest.mark.parametrize("content", [b"[grid", b"\xff\xfe", b"a = 1\na = 2"])
def test_files_that_are_not_toml(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.toml"):
        load_sweep(str(tmp_path / "x.toml"))


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the grid is empty: give [grid] at least one key"),
        ("[grid]", "the grid is empty"),
        ("[grid.training]", "the grid is empty"),
        ("[grid]\nseed = []", "the grid is empty: seed has no values"),
        ("[grid]\nseed = [1]\ndata.subsample = []", "the grid is empty: data.subsample has no values"),
        ("[grid]\nseed = 3", "grid.seed = 3: must be a list of values"),
        ('[grid]\nalgorithm = "bc"', "grid.algorithm = 'bc': must be a list of values"),
        ("grid = [1, 2]", "grid = [1, 2]: must be a table of lists"),
        ("[[grid]]\nseed = [1]", "must be a table of lists"),
        ("[grid]\nseeds = 0", "grid.seeds = 0: a number of seeds"),
        ("[grid]\nseeds = [1, 2]", "grid.seeds = [1, 2]: a number of seeds"),
        ("[grid]\nseeds = 2\nseed = [1]", "no grid.seed beside it"),
        ("[grid]\ntraining.gradient_step = [1]", "'training.gradient_step'; did you mean 'training.gradient_steps'"),
        ("[grid]\nnum_expert_trajectories = [1]", "; did you mean 'data.num_expert_trajectories'?"),
        ("[grid]\nlearning_rate = [1]", "; did you mean 'bc.learning_rate'?"),
        (
            "[grid]\ndata.temperature = [1]",
            "; did you mean 'iq_learn.temperature' or 'sqil.temperature' or 'gail.temperature'?",
        ),
        ("[grid]\ndata = [1]", "the grid has an unknown key 'data'"),
        ("[grid]\nrecipe = ['hopper_offline']", "the grid has an unknown key 'recipe'"),
        ("[grid]\nquestion = ['why']", "the grid has an unknown key 'question'"),
        ("subsample = 3\n[grid]\nseeds = 1", "unknown key 'subsample'; did you mean 'data.subsample'?"),
        ("[dataa]\nsubsample = 3\n[grid]\nseeds = 1", "unknown key 'dataa.subsample'; did you mean 'data.subsample'?"),
        ("algorithms = ['bc']\n[grid]\nseeds = 1", "unknown key 'algorithms'; did you mean 'algorithm'"),
        ("seed = 3\n[grid]\nseed = [3]", "seed is fixed to 3 and varied by the grid: leave one of them out"),
        ("seed = 3\n[grid]\nseeds = 2", "seed is fixed to 3 and varied by the grid"),
        ("[data]\nsubsample = 2\n[grid]\ndata.subsample = [1]", "data.subsample is fixed to 2 and varied by the grid"),
        ("algorithm = 'bc'\n[grid]\niq_learn.discount = [0.9]", "which bc does not read: add algorithm 'iq_learn'"),
        ("[grid]\nalgorithm = ['iq_learn']\nbc.loss = ['likelihood']", "which iq_learn does not read"),
        ("sweep = 'my sweep'\n[grid]\nseeds = 1", "sweep = 'my sweep'"),
        ("sweep = '../x'\n[grid]\nseeds = 1", "sweep = '../x'"),
        ("sweep = ''\n[grid]\nseeds = 1", "sweep = ''"),
        ("sweep = '.'\n[grid]\nseeds = 1", "sweep = '.'"),
        ("sweep = '..'\n[grid]\nseeds = 1", "sweep = '..'"),
        ("sweep = '.hidden'\n[grid]\nseeds = 1", "sweep = '.hidden'"),
        (f"sweep = '{'x' * 300}'\n[grid]\nseeds = 1", "at most 120"),
        ("[grid]\nseeds = true", "grid.seeds = True: a number of seeds"),
        ("[grid]\nseed = [0, -1]", "seed = -1: input should be greater than or equal to 0"),
        ("[grid]\nseed = ['x']", "seed = 'x'"),
        ("[grid]\nseed = [0.5]", "seed = 0.5"),
        ("[grid]\nseed = [2020-01-01]", "seed = datetime.date(2020, 1, 1)"),
        ("[grid]\nseed = [{a = 1}]", "seed = {'a': 1}"),
        ("[grid]\nalgorithm = ['bc', 'dac']", "algorithm = 'dac': input should be 'iq_learn', 'bc'"),
        ("[grid]\niq_learn.temperature = [0.1, nan]", "iq_learn.temperature = nan"),
        ("[grid]\ndata.suboptimal = ['a/b-v0']", "data.suboptimal = 'a/b-v0'"),
        ("[grid]\ndata.suboptimal = [['a/b-v0:0']]", "data.suboptimal"),
        (
            "[grid]\niq_learn.value_states = ['expert', 'mixture']",
            "the run with iq_learn.value_states = 'mixture' is not valid: iq_learn.value_states = 'mixture' needs",
        ),
        (
            "[grid]\nalgorithm = ['bc', 'iq_learn']\ndata.suboptimal = [[], ['a/b-v0']]\n"
            "iq_learn.chi2_states = ['mixture']",
            "the run with algorithm = 'iq_learn', data.suboptimal = [], iq_learn.chi2_states = 'mixture' is not valid",
        ),
        ("training.batch_size = 0\n[grid]\nseeds = 1", "training.batch_size = 0"),
    ],
)
def test_what_is_refused(text: str, expected: str) -> None:
    assert expected in refused(text)


def test_recipes_that_are_not_there() -> None:
    for recipe, expected in (
        (
            "hoper_offline",
            "no recipe 'hoper_offline'; did you mean 'hopper_offline' or 'hopper_finetune' or 'hopper_mixture'?",
        ),
        ("base.toml", "no recipe 'base.toml'"),
    ):
        with pytest.raises(UserError, match=re.escape(expected)):
            sweep(f'recipe = "{recipe}"\n[grid]\nseeds = 1')


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": 3}, "seed is fixed by the command line and varied by the grid: leave one of them out"),
        ({"data.subsampel": 3}, "unknown key 'data.subsampel'; did you mean 'data.subsample'"),
        ({"subsample": 3}, "; did you mean 'data.subsample'?"),
        ({"": 3}, "unknown key ''"),
        ({"recipe": "hopper_offline"}, "unknown key 'recipe'"),
        ({"training": 3}, "unknown key 'training'"),
        ({"training.dtype": "float16"}, "training.dtype = 'float16'"),
        ({"data.suboptimal": "a/b-v0"}, "data.suboptimal = 'a/b-v0'"),
    ],
)
def test_wrong_changes_from_the_command_line(changes: dict[str, Any], expected: str) -> None:
    assert expected in refused("[grid]\nseeds = 2", changes)


# ---------------------------------------------------------------------------------------------- a sweep's folder

BASE = '[data]\nexpert = "a/b-v0"\n[grid]\nalgorithm = ["bc"]\ndata.num_expert_trajectories = [1, 3]\nseeds = 2\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of the sweep BASE, begun."""
    path = tmp_path / "sweep"
    text = claim_folder(sweep(BASE), path)
    assert text is not None
    assert not path.exists(), "asking creates nothing"
    path.mkdir()
    (path / FILE).write_text(text)
    (path / "runs").mkdir()
    return path


def test_the_same_sweep_changes_nothing(folder: Path) -> None:
    assert claim_folder(sweep(BASE), folder) is None
    assert claim_folder(load_sweep(str(folder / FILE)), folder) is None


def test_the_same_sweep_written_otherwise(tmp_path: Path) -> None:
    """Words or tables, in the recipe or on top of it, as a number or as text: what is fixed is compared by meaning."""
    (tmp_path / "base.toml").write_text("[training]\nbatch_size = 7\n")
    texts = (
        'recipe = "base.toml"\n[data]\nsuboptimal = ["a/b-v0:3"]\n',
        'training.batch_size = 7\n[data]\nsuboptimal = [{dataset = "a/b-v0", episodes = 3}]\n',
        'training.batch_size = "7"\n[data]\nsuboptimal = [{dataset = "a/b-v0", episodes = 3, hidden = false}]\n',
    )
    found = [sweep_of(tomllib.loads(text + "[grid]\nseeds = 2"), str(tmp_path / "mine.toml"), "mine") for text in texts]
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / FILE).write_text(found[0].to_toml())
    for one in found:
        assert one.runs() == found[0].runs()
        assert claim_folder(one, folder) is None


@pytest.mark.parametrize(
    "grown",
    [
        BASE.replace("seeds = 2", "seeds = 3"),
        BASE.replace("[1, 3]", "[1, 2, 3]"),
        BASE.replace('["bc"]', '["iq_learn", "bc"]'),
        BASE.replace("[1, 3]", "[25, 3, 1]").replace("seeds = 2", "seed = [5, 1, 0]"),
    ],
)
def test_a_grid_may_grow(grown: str, folder: Path) -> None:
    """Its file is replaced by one that says all; then the smaller sweep is refused, for its runs are not all there."""
    text = claim_folder(sweep(grown), folder)
    assert text is not None
    assert text == sweep(grown).to_toml()
    (folder / FILE).write_text(text)
    assert claim_folder(sweep(grown), folder) is None
    with pytest.raises(UserError, match="holds a sweep with runs that this one has not, such as algorithm="):
        claim_folder(sweep(BASE), folder)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (BASE.replace("a/b", "c/d"), "another sweep (data.expert is 'a/b-v0' there, 'c/d-v0' here)"),
        ("[training]\nsnapshots = 3\n" + BASE, "another sweep (training.snapshots is 10 there, 3 here)"),
        (
            BASE.replace("[1, 3]", "[1, 5]"),
            "runs that this one has not, such as algorithm=bc,num_expert_trajectories=3",
        ),
        (BASE.replace("seeds = 2", "seed = [1, 2]"), "runs that this one has not"),
        (
            BASE.replace("seeds = 2\n", "").replace("[grid]\n", "[grid]\nseeds = 2\n"),
            "in another order (algorithm, data.num_expert_trajectories, seed): keep it",
        ),
        (BASE.replace("data.num_expert_trajectories = [1, 3]\n", ""), "which varies data.num_expert_trajectories"),
        (BASE + "data.subsample = [1, 5]", "which does not vary data.subsample"),
        (BASE.replace("data.num_expert_trajectories", "data.subsample"), "which varies data.num_expert_trajectories"),
    ],
)
def test_the_folder_of_another_sweep(other: str, expected: str, folder: Path) -> None:
    before = (folder / FILE).read_bytes()
    with pytest.raises(UserError) as caught:
        claim_folder(sweep(other), folder)
    assert expected in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "choose another --output" in str(caught.value)
    assert (folder / FILE).read_bytes() == before


def test_folders_that_are_no_sweep_s(tmp_path: Path) -> None:
    file, full, empty = tmp_path / "file", tmp_path / "full", tmp_path / "empty"
    file.write_text("precious")
    full.mkdir()
    (full / "notes.txt").write_text("precious")
    for path in (file, full):
        with pytest.raises(UserError, match="is not empty and holds no sweep: choose another --output"):
            claim_folder(sweep(BASE), path)
    empty.mkdir()
    (empty / ".hidden").write_text("")
    assert claim_folder(sweep(BASE), empty) == sweep(BASE).to_toml()


def test_a_damaged_file_in_the_folder(folder: Path) -> None:
    (folder / FILE).write_text("[grid")
    with pytest.raises(UserError, match=r"sweep\.toml is not valid TOML"):
        claim_folder(sweep(BASE), folder)


def test_the_file_in_the_folder_says_everything(folder: Path) -> None:
    """Every key of the configuration, once: fixed or in the grid."""
    table = tomllib.loads((folder / FILE).read_text())
    grid = table.pop("grid")
    assert set(grid) == {"algorithm", "data.num_expert_trajectories", "seed"}
    fixed = {key for key in flat(table) if key not in ("sweep", "question")}
    assert fixed.isdisjoint(grid)
    assert fixed | set(grid) | {"recipe"} == set(flat(to_table(RunConfig())))
