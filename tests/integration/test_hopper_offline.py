"""The project's main command, as a user types it."""

import json
from pathlib import Path

import minari
import numpy as np
import pytest
from PIL import Image

from iq_offline import cli
from iq_offline.config import RunConfig, from_table, load_recipe, read_toml, resolved
from iq_offline.data.catalog import load_card
from iq_offline.run import require_same_run
from tests.data_helpers import PROGRESS, python

KEYS = {
    "schema",
    "recipe",
    "algorithm",
    "dataset_ids",
    "num_expert_trajectories",
    "subsample",
    "seed",
    "gradient_steps",
    "fast",
    "seconds",
    "evaluation_seconds",
    "returns",
    "return_mean",
    "return_std",
    "expert_return",
    "random_return",
    "data_return",
    "normalized_score",
    "references",
    "curve",
    "held_out",
    "health",
    "versions",
    "git_commit",
}
FILES = {
    "config.toml",
    "data.json",
    "metrics.ndjson",
    "diagnostics.ndjson",
    "episodes.parquet",
    "policy.safetensors",
    "summary.json",
    "curve.png",
    "checkpoint/latest.safetensors",
    "snapshots/step-0000100.safetensors",
    "snapshots/step-0000200.safetensors",
}


def assert_picture(file: Path) -> None:
    """A whole PNG that shows more than one colour."""
    assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(file) as picture:
        picture.verify()
    with Image.open(file) as picture:
        assert min(picture.size) >= 300
        colors = picture.convert("RGB").getcolors(1_000_000)
    assert colors is not None
    assert len(colors) > 20


@pytest.mark.slow
def test_fast(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    command = ("-m", "iq_offline.recipes.hopper_offline", "--fast", "--output", str(folder))
    done = python(*command)
    assert done.returncode == 0, done.stderr

    # What the user reads.
    printed = done.stdout.splitlines()
    cells_of = [(line.split("│")[1].strip(), line.split("│")) for line in printed if line.count("│") > 3]
    assert [name for name, _ in cells_of] == 2 * ["expert", "random", "BC", "IQ-Learn"]
    rows = dict(cells_of[:4])
    assert done.stdout.count("not a result") == 2
    assert [line for line in printed if line.startswith("iq-offline/hopper/expert-v0: ")] == [
        "iq-offline/hopper/expert-v0: 1 expert trajectory, complete",
        "iq-offline/hopper/expert-v0: 1 expert trajectory, subsampled every 20 steps",
    ]
    assert "without labels: hopper/random and 30 hidden trajectories of hopper/expert" in printed
    assert str(folder) in done.stdout
    assert "Traceback" not in done.stderr
    assert not [line for line in done.stderr.splitlines() if line.startswith("error")]
    others = [line for line in done.stderr.splitlines() if not PROGRESS.match(line)]
    assert all("recorded" in line for line in others), others

    # The dataset.
    card = load_card("hopper")
    dataset = minari.load_dataset("iq-offline/hopper/expert-v0")
    assert dataset.total_episodes == card.datasets["expert"].episodes
    metadata = dataset.storage.metadata
    assert metadata["ref_max_score"] == card.references.expert_return
    assert metadata["ref_min_score"] == card.references.random_return

    # The run folders.
    runs = {"bc", "iq_learn", "comparison.png"}
    assert {path.name for path in folder.iterdir()} == {*runs, "hopper_mixture"}
    assert {path.name for path in (folder / "hopper_mixture").iterdir()} == runs
    for picture in folder.rglob("comparison.png"):
        assert_picture(picture)
    mixture = json.loads((folder / "hopper_mixture" / "iq_learn" / "summary.json").read_text())
    assert (mixture["recipe"], mixture["subsample"], mixture["fast"]) == ("hopper_mixture", 20, True)
    names = ("expert", "random", "expert")
    assert mixture["dataset_ids"] == [f"iq-offline/hopper/{name}-v0" for name in names]
    recipe = load_recipe("hopper_offline")[0]
    for algorithm, label in (("bc", "BC"), ("iq_learn", "IQ-Learn")):
        run = folder / algorithm
        assert {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()} == FILES
        assert_picture(run / "curve.png")
        config = from_table(RunConfig, read_toml(run / "config.toml"), "test")
        assert resolved(config) == config
        assert (config.algorithm, config.fast, config.recipe) == (algorithm, True, "hopper_offline")
        assert (config.data, config.training.batch_size) == (recipe.data, recipe.training.batch_size)
        require_same_run(config, run)  # Raises where the saved configuration is another one.

        summary = json.loads((run / "summary.json").read_text())
        assert set(summary) == KEYS
        assert summary["algorithm"] == algorithm
        assert summary["dataset_ids"] == ["iq-offline/hopper/expert-v0"]
        assert (summary["fast"], summary["gradient_steps"], summary["seed"]) == (True, 200, 0)
        assert len(summary["returns"]) == config.evaluation.episodes == 2
        assert summary["return_mean"] == pytest.approx(np.mean(summary["returns"]))
        assert summary["return_std"] == pytest.approx(np.std(summary["returns"]))
        expert, random = card.references.expert_return, card.references.random_return
        assert (summary["expert_return"], summary["random_return"]) == (expert, random)
        assert summary["references"] == card.references.source
        score = (np.mean(summary["returns"]) - random) / (expert - random)
        assert summary["normalized_score"] == pytest.approx(score)
        assert [point["gradient_steps"] for point in summary["curve"]] == [100, 200]
        for point in summary["curve"]:
            assert point["return_mean"] == pytest.approx(np.mean(point["returns"]))
        assert summary["curve"][-1]["returns"] == summary["returns"], "the last snapshot is the final policy"
        assert summary["seconds"] > 0
        held_out = summary["held_out"]
        assert (held_out["measure"], held_out["trajectories"]) == ("squared_error", config.data.held_out_trajectories)
        assert 0 < held_out["error"] < 12, "three dimensions, each two wide"
        assert summary["versions"]["minari"] == minari.__version__

        cells = [cell.strip() for cell in rows[label]]
        assert cells[2] == f"{summary['return_mean']:.1f}"
        assert cells[4] == f"{summary['normalized_score']:.3f}"
        metrics = [json.loads(line) for line in (run / "metrics.ndjson").read_text().splitlines()]
        assert [row["gradient_steps"] for row in metrics] == list(range(20, 201, 20))
    manifests = [json.loads((folder / name / "data.json").read_text()) for name in ("bc", "iq_learn")]
    assert manifests[0] == manifests[1], "both learners saw the same data"
    lengths = [len(episode.rewards) for episode in dataset.iterate_episodes()]
    (chosen,) = manifests[0][0]["first_trajectories"]
    assert manifests[0][0]["transitions"] == lengths[chosen]

    # Other data: the second question is left out.
    other = python(*command[:3], "--subsample", "2", "--output", str(tmp_path / "other"))
    assert other.returncode == 0, other.stderr
    assert other.stdout.count("expert trajectory") == 1
    assert {path.name for path in (tmp_path / "other").iterdir()} == runs

    # Again: nothing is trained, the same table.
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("summary.json")}
    again = python(*command)
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("summary.json")} == times


@pytest.mark.parametrize(
    ("words", "questions"),
    [
        ([], ["hopper_offline", "hopper_mixture"]),
        (["--gradient-steps", "5", "--seed", "3"], ["hopper_offline", "hopper_mixture"]),
        (["--expert", "hopper/expert"], ["hopper_offline"]),
        (["--num_expert_trajectories=1"], ["hopper_offline"]),
        (["--expert", "walker2d/expert"], ["hopper_offline"]),
        (["--online"], ["hopper_offline"]),
    ],
)
def test_the_second_question_is_for_who_names_no_data(
    words: list[str], questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the recipe are named as well: a question for a paper is then asked alone."""
    asked: list[str] = []
    monkeypatch.setattr(cli, "_train", lambda recipe, *_: asked.append(recipe))
    assert cli.run_recipe("hopper_offline", words) == 0
    assert asked == questions
