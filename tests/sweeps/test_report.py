"""The page about a folder of runs: what it says, and that it is well-formed, alone and safe."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from iq_offline.errors import UserError
from iq_offline.sweeps import report
from iq_offline.sweeps.exhibits import missing_clips
from iq_offline.sweeps.findings import findings_in
from iq_offline.sweeps.page import Html, element, table
from iq_offline.sweeps.report import page_of, write_report
from iq_offline.sweeps.video import Films
from tests.data_helpers import python
from tests.sweeps.html_check import Page
from tests.sweeps.run_folders import config_of, sweep_table, with_anchor, write_run, write_sweep


def good(config: Any) -> float:
    """Enough from three trajectories on."""
    return (0.5 if config.data.num_expert_trajectories < 3 else 0.98) + 0.001 * config.seed


def read(folder: Path, **options: Any) -> Page:
    """The folder's page, which must be well-formed and load nothing."""
    text = write_report(folder, video=False, **options).read_text()
    page = Page(text)
    assert page.wrong == []
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    return page


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time: only tests that ask for them get them."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(report, "figures_of", lambda found: Html(""))


@pytest.fixture
def drawn() -> None:
    """Figures are drawn in this test."""


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    write_sweep(tmp_path / "sweep", sweep_table(), good)
    return tmp_path / "sweep"


def test_the_question_is_answered_for_each_learner(sweep: Path) -> None:
    page = read(sweep)
    assert page.count("title") == page.count("h1") == 1
    assert page.text.startswith("How many are enough? How many are enough? Sweep made_up: BC and IQ-Learn")
    assert "12 of 12 runs are done." in page.text
    assert "BC : expert level from 3 trajectories." in page.text
    assert "IQ-Learn : expert level from 3 trajectories." in page.text
    assert "every 95% interval of the interquartile mean" in page.text
    assert "from 3 seeds, and too narrow" in page.text
    assert page.count("p", class_="warning") == 0


def test_the_figures_say_what_they_show(sweep: Path, drawn: None) -> None:
    page = read(sweep)
    charts = [found for name, found in page.tags if name == "img"]
    assert len(charts) == page.count("figcaption") == page.count("figure", class_="chart") == 3
    for chart in charts:
        assert (chart["src"] or "").startswith("data:image/svg+xml;base64,")
        assert len(chart["alt"] or "") > 30
    narrow = [found for name, found in page.tags if name == "source"]
    assert all("max-width" in (found["media"] or "") and found["srcset"] for found in narrow)
    assert "over 3 learners that differ in their seed; the band or bar is its 95% bootstrap interval" in page.text
    assert "0 is a random policy (return 100.0), 1 the expert (300.0); mean returns that were made up." in page.text
    assert "The trajectories are complete." in page.text


def test_every_run_is_in_the_table(sweep: Path) -> None:
    page = read(sweep)
    for run in (sweep / "runs").iterdir():
        assert run.name in page.words, run.name
    assert "Every run (12)" in page.text
    assert page.count("th", scope="col") > 20
    assert page.count("th", scope="row") > 12
    headings = {found["aria-label"] for name, found in page.tags if name == "table"}
    assert {"Every setting", "Difference to BC, run by run", "Every finished run", "Packages"} <= headings
    assert page.count("td", class_="number") > 50
    assert "non-inferior" in page.text


def test_it_says_how_it_was_made(sweep: Path) -> None:
    page = read(sweep)
    for words in ("torch 2.13.0", "0123456789abcdef", "iq_learn.behavior_anchor 30.0", "seed 0, 1, 2", "1: expert"):
        assert words in page.text
    assert "iq-offline sweep sweep.toml --output runs/again" in page.text
    assert (sweep / "sweep.toml").read_text().strip() in "".join(page.words)
    assert "data.num_expert_trajectories 1, 3" in page.text


def test_unfinished_and_failed_runs_are_listed(tmp_path: Path) -> None:
    score = lambda config: None if config.algorithm == "iq_learn" and config.seed == 2 else good(config)  # noqa: E731
    plan = write_sweep(tmp_path, sweep_table(), score)
    missing = [run.name for run in plan.runs() if run.config.seed == 2 and run.config.algorithm == "iq_learn"]
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / f"{missing[0]}.log"
    log.write_text("--- now\nerror: the first\n--- later\nrunning\nerror: a disk <b>full</b>\n")
    page = read(tmp_path)
    assert "Not finished. 10 of 12 runs are done, 1 failed" in page.text
    assert "failed: a disk <b>full</b>" in page.text
    assert "the first" not in page.text
    assert f"runs/{missing[1]} not begun" in page.text


def test_a_run_that_was_cut_off_before_its_summary_is_not_finished(sweep: Path) -> None:
    """Its rows are written first."""
    cut, *others = sorted((sweep / "runs").iterdir())
    (cut / "summary.json").unlink()
    page = read(sweep)
    assert "Not finished. 11 of 12 runs are done" in page.text
    for run in others:
        (run / "summary.json").unlink()
    with pytest.raises(UserError, match="holds no finished run yet"):
        read(sweep)


def test_a_run_without_rows_is_not_finished_in_any_folder(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"{seed}", config_of(seed=seed))
    (tmp_path / "1" / "episodes.parquet").unlink()
    found = findings_in(tmp_path)
    assert (found.progress, found.unfinished) == ("1 of 2 runs are done", {"1": "begun, not finished"})


def test_a_damaged_summary_is_named(sweep: Path) -> None:
    file = min((sweep / "runs").iterdir()) / "summary.json"
    file.write_text('{"algorithm": "b')
    with pytest.raises(UserError, match=re.escape(f"{file} is cut or damaged (Unterminated string")):
        findings_in(sweep)


def test_offline_halves_are_no_runs_of_the_sweep(tmp_path: Path) -> None:
    """They have rows, so that what was fine-tuned can be held against what it began with."""
    plan = write_sweep(tmp_path, sweep_table(counts=(1,), seeds=2), lambda config: None if config.seed else 1.0)
    for run in plan.runs():
        if not run.config.seed:
            half = replace(run.config, training=replace(run.config.training, batch_size=8))
            write_run(tmp_path / "runs" / run.name / "offline", half)
    found = findings_in(tmp_path)
    assert (found.runs.height, found.progress) == (4, "2 of 4 runs are done")


@pytest.mark.parametrize(
    ("log", "state"),
    [
        ("--- now\nTraceback (most recent call last):\n  File\nValueError: odd\n", "failed: ValueError: odd"),
        ("--- now\ninterrupted: all is saved\n", "interrupted"),
        ("--- now\ntraining bc: 1/10\n", "begun, not finished"),
        ("", "begun, not finished"),
    ],
)
def test_the_log_says_how_a_run_stands(tmp_path: Path, log: str, state: str) -> None:
    plan = write_sweep(tmp_path, sweep_table(seeds=2), lambda config: 1.0 if config.seed else None)
    (tmp_path / "logs").mkdir()
    missing = next(run.name for run in plan.runs() if not run.config.seed)
    (tmp_path / "logs" / f"{missing}.log").write_text(log)
    assert findings_in(tmp_path).unfinished[f"runs/{missing}"] == state


def test_a_run_whose_summary_is_not_written_yet_is_not_finished(sweep: Path) -> None:
    run = next((sweep / "runs").iterdir())
    (run / "summary.json").unlink()
    page = read(sweep)
    assert "11 of 12 runs are done" in page.text
    assert f"runs/{run.name} not begun" in page.text


def test_a_rehearsal_is_no_result(tmp_path: Path) -> None:
    write_sweep(tmp_path, sweep_table(fast=True), good)
    assert "A rehearsal, not a result." in read(tmp_path).text


def test_different_versions_are_said(sweep: Path) -> None:
    write_run(sweep / "runs" / "other", config_of(count=1, seed=9), git_commit="fedcba", versions={"torch": "3.0"})
    page = read(sweep)
    assert "Not all alike." in page.text
    assert "torch 2.13.0 / 3.0" in page.text


def test_any_folder_with_runs_will_do(tmp_path: Path, drawn: None) -> None:
    folder = tmp_path / "hopper_offline"
    write_run(folder / "one" / "bc", config_of("bc"))
    write_run(folder / "one" / "iq_learn", config_of("iq_learn"))
    (folder / "two" / "bc").mkdir(parents=True)
    (folder / "two" / "bc" / "config.toml").write_text("")
    page = read(folder)
    assert page.text.startswith("Runs in hopper_offline")
    assert "2 of 3 runs are done" in page.text
    assert "two/bc begun, not finished" in page.text
    assert "BC : no answer: only one seed, so there is no interval; its score with 1 trajectory is 1.000." in page.text
    assert f"iq-offline train {folder}/one/bc/config.toml --output runs/again" in page.text
    assert "A point is one learner: there is one seed." in page.text


def test_another_baseline(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"valuedice{seed}", config_of("valuedice", seed=seed))
        write_run(tmp_path / f"iq_learn{seed}", config_of("iq_learn", seed=seed))
    assert "Nothing of BC is there to compare with: give --baseline iq_learn or valuedice." in read(tmp_path).text
    assert "Difference to ValueDICE, run by run" in read(tmp_path, baseline="valuedice").text
    with pytest.raises(UserError, match="has no runs of gail: give --baseline iq_learn or valuedice"):
        read(tmp_path, baseline="gail")


def test_a_single_run_will_do(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "bc", config_of("bc"), data_return=None)
    page = read(folder, output=tmp_path / "elsewhere" / "page.html")
    assert page.text.startswith("Runs in bc")
    assert "1 of 1 run is done" in page.text
    assert not (folder / "report.html").exists()


def test_without_scores_the_errors_answer(tmp_path: Path, drawn: None) -> None:
    for count in (1, 10):
        write_run(tmp_path / f"{count}", config_of(count=count), scores=None)
    page = read(tmp_path)
    assert "No answer on expert level : no run was scored." in page.text
    assert "squared error on held-out trajectories is 0.100 with 1 trajectory and 0.010 with 10" in page.text
    assert "The runs have no reference returns." in page.text
    assert "Expert level: from" not in page.text


def test_with_nothing_to_compare_there_is_still_a_page(tmp_path: Path, drawn: None) -> None:
    write_run(tmp_path / "bc", config_of(), scores=None, held_out=None)
    page = read(tmp_path)
    assert "No answer : no run was scored, and none has an error on held-out trajectories." in page.text
    assert page.count("figure") == 0
    assert "Every run (1)" in page.text


def test_runs_without_a_score_are_counted(sweep: Path) -> None:
    write_run(sweep / "runs" / "other", config_of(count=1, seed=9), scores=None)
    assert "1 of 13 runs have no score and are left out." in read(sweep).text


def test_many_settings_are_a_table(tmp_path: Path, drawn: None) -> None:
    names = ["hopper", "ant", "walker2d", "humanoid"]
    table = sweep_table(counts=(1, 3), seeds=2)
    table["grid"]["data.expert"] = [f"{name}/expert" for name in names]
    write_sweep(tmp_path, table, good)
    page = read(tmp_path)
    assert "BC : expert level from 3 trajectories in all 4 settings." in page.text
    assert "From how many trajectories on" in page.text
    assert "IQ-Learn, humanoid/expert 3" in page.text
    assert "on 4 datasets" in page.text
    assert "All datasets at a glance" in page.text


def test_kinds_of_suboptimal_data_are_set_side_by_side(tmp_path: Path, drawn: None) -> None:
    table = sweep_table(counts=(1,), seeds=2)
    table["grid"]["data.suboptimal"] = [["hopper/random", "hopper/expert:30:hidden"], ["hopper/noisy"]]
    table["grid"]["bc.imitate"] = ["expert", "everything"]
    table["grid"]["iq_learn.policy"] = ["lookahead", "survival"]
    write_sweep(tmp_path, table, lambda config: 0.5 if config.algorithm == "bc" else 0.99)
    page = read(tmp_path)
    assert "survival only : expert level from 1 trajectory in all 2 settings." in page.text
    assert "BC, everything : expert level is not reached in any of 2 settings." in page.text
    words = " ".join(page.text.split())
    assert "learner noisy random, 30 experts hidden IQ-Learn, looking ahead 0.990 (0.990 to 0.990) 0.990" in words
    assert "Every learner on every kind of suboptimal data" in words
    assert "How good each learner is." in words
    assert "lookahead" not in words.split("Configuration")[0].split("Every run")[0]


@pytest.mark.parametrize(("weight", "said"), [(10.0, True), (0.0, False)])
def test_the_anchored_learner_is_named(tmp_path: Path, weight: float, said: bool) -> None:
    for seed in range(3):
        write_run(tmp_path / f"{seed}", with_anchor(config_of("iq_learn", seed=seed), weight))
    assert ("held to the expert's actions" in read(tmp_path).text) is said


@pytest.mark.parametrize(
    ("env_steps", "said"), [(0, "on fixed data alone"), (9000, "lives through in the environment")]
)
def test_whether_learners_met_the_environment_is_said(tmp_path: Path, env_steps: int, said: str) -> None:
    write_run(tmp_path / "run", config_of("iq_learn", online__env_steps=env_steps))
    text = read(tmp_path).text
    assert said in text
    assert ("on fixed data alone" in text) is (env_steps == 0)


def test_few_seeds_are_said_beside_a_cell_with_one(tmp_path: Path) -> None:
    """Which has no interval that could be too narrow."""
    for seed in range(3):
        write_run(tmp_path / f"{seed}", config_of(seed=seed))
    write_run(tmp_path / "one", config_of(count=3))
    assert "Some intervals are from 3 seeds" in read(tmp_path).text


def test_a_page_for_a_folder_is_put_into_it(sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    assert write_report(sweep, tmp_path / "pages", video=False) == tmp_path / "pages" / "report.html"


def test_subsampled_trajectories_are_said(tmp_path: Path, drawn: None) -> None:
    write_run(tmp_path / "bc", config_of(data__subsample=20))
    page = read(tmp_path)
    assert "trajectories: 1 step in 20 kept" in page.text
    assert "Of each trajectory 1 step in 20 is kept." in page.text


HOSTILE = "</style><script>alert(1)</script><img src=http://evil/x onerror=alert(2)>&lt;\"'"


def test_names_from_files_are_text(tmp_path: Path, drawn: None) -> None:
    write_sweep(tmp_path, sweep_table(question=HOSTILE), good, references=HOSTILE, git_commit=HOSTILE)
    (tmp_path / "logs").mkdir()
    config = config_of(data__expert=HOSTILE, seed=7)
    write_run(tmp_path / "runs" / "<b>&", config, versions={HOSTILE: HOSTILE}, references=HOSTILE)
    page = read(tmp_path)
    assert page.text.count(HOSTILE) > 8
    assert page.count("script") == 0
    assert not any((found.get("src") or "").startswith("http") for _, found in page.tags)


def test_elements_escape_whatever_is_not_an_element() -> None:
    assert element("p", "a < b", Html("<b>c</b>"), ["&", element("i", "d")]) == "<p>a &lt; b<b>c</b>&amp;<i>d</i></p>"
    assert element("p", "x", title='"q" <', class_="", hidden=True) == '<p title="&quot;q&quot; &lt;" hidden>x</p>'
    assert element("img", src="data:,", alt="") == '<img src="data:," alt="">'


def test_numbers_stand_on_the_right_and_long_words_may_break() -> None:
    frame = pl.DataFrame({"algorithm": ["bc"], "iqm": [0.12345], "verdict": ["word " * 20]})
    text = str(table(frame, "A title", "What it is."))
    assert '<td class="number">0.123</td>' in text
    assert '<td class="long">' in text
    assert '<th scope="row">BC</th>' in text


def test_missing_videos_are_explained_in_a_line_each() -> None:
    films = Films(refused={0: "no dataset"}, failed={1: "no OpenGL", 2: "no OpenGL"})
    first, second = missing_clips(films, ["BC", "IQ-Learn", "other"])
    assert first == "No video of BC: no dataset."
    assert second.startswith("No video of IQ-Learn; other, because it could not be drawn: no OpenGL. MuJoCo draws with")
    assert missing_clips(Films(failed={0: "x", 1: "x"}), ["a", "b"])[0].startswith("No video of any policy, because")


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished run"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        write_report(tmp_path / "nowhere")


def test_the_page_is_small_and_the_same_for_the_same_runs(sweep: Path, drawn: None) -> None:
    found = findings_in(sweep)
    first, second = page_of(found), page_of(found)
    assert first == second
    assert len(first) < 1_000_000
    assert not re.search(r"https?://", re.sub(r"data:image/[^\"]*", "", first))


def test_nothing_heavy_is_imported() -> None:
    done = python("-c", "import sys, iq_offline.sweeps.report; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert {"torch", "gymnasium", "mujoco", "minari", "scipy"}.isdisjoint(done.stdout.split())
